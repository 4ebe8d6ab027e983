//! What a user chooses of a checkpoint on opening it. It is recorded with a run, so that the run
//! can be made again.

use super::embedding::Embedding;
use super::lora::Lora;
use crate::argument::{Argument, CONFIG, EMBEDDING, LORA, PREDICTION, VARIANT};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a UNet may predict, by diffusers' names: the noise, the velocity, or the denoised sample
/// itself.
pub const PREDICTIONS: [&str; 3] = ["epsilon", "v_prediction", "sample"];

/// Choices and changes; [`Default`] takes a checkpoint as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Which of several weight files: `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// For a single file: a folder in the diffusers layout. Its configs and tokenizer are read,
    /// part by part, in place of those that the file implies. It needs no weights.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::files::any_as_shown")]
    pub config: Option<PathBuf>,
    /// What the UNet predicts, in place of what the checkpoint says: one of [`PREDICTIONS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// LoRAs, merged into the weights in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<Lora>,
    /// Words that the text encoder is taught.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<Embedding>,
}

impl Changes {
    /// Whether the checkpoint is taken as it is.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// As a run's settings record them: one entry per change.
    pub fn record(&self) -> BTreeMap<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields.into_iter().collect(),
            _ => BTreeMap::new(),
        }
    }

    /// As arguments, each with its value.
    pub fn arguments(&self) -> Vec<(Argument, String)> {
        let Self { variant, config, prediction, loras, embeddings } = self;
        let mut all = Vec::new();
        all.extend(variant.iter().map(|name| (VARIANT, name.clone())));
        all.extend(config.iter().map(|folder| (CONFIG, folder.display().to_string())));
        all.extend(prediction.iter().map(|kind| (PREDICTION, kind.clone())));
        all.extend(loras.iter().map(|lora| (LORA, lora.to_string())));
        all.extend(embeddings.iter().map(|embedding| (EMBEDDING, embedding.to_string())));
        all
    }

    /// Refuses values that no checkpoint takes.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(variant) = &self.variant {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if variant.is_empty() || !variant.chars().all(plain) {
                return Err(Error::argument(
                    VARIANT,
                    format!("{} is not a variant; fp16 is a usual one", crate::in_quotes(variant)),
                ));
            }
        }
        if let Some(other) = self.prediction.as_deref().filter(|kind| !PREDICTIONS.contains(kind)) {
            let reason = format!("{} is unknown; choose {}", crate::in_quotes(other), PREDICTIONS.join(" or "));
            return Err(Error::argument(PREDICTION, reason));
        }
        match self.config.as_deref().filter(|folder| !folder.is_dir()) {
            Some(folder) => Err(Error::argument(CONFIG, format!("no folder {}", folder.display()))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_again() {
        let changes = Changes {
            variant: Some("fp16".into()),
            config: Some("folder".into()),
            prediction: Some("epsilon".into()),
            loras: vec![Lora { file: "style.safetensors".into(), weight: 0.5 }],
            embeddings: vec![
                Embedding { file: "cat.safetensors".into(), word: None },
                Embedding { file: "cat.safetensors".into(), word: Some("<cat>".into()) },
            ],
        };
        let mut record: serde_json::Map<String, Value> = changes.record().into_iter().collect();
        record.insert("other".into(), 1.into());
        assert_eq!(serde_json::from_value::<Changes>(Value::Object(record)).unwrap(), changes);
        assert!(Changes::default().record().is_empty());
    }
}
