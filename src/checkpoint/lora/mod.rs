//! LoRA files: small files of low-rank changes to a checkpoint's layers, merged into the weights as they are read.
//!
//! Each layer's weight becomes `W + weight * alpha / rank * up down` (Hu et al. 2021). Namings are those of kohya's scripts, diffusers and
//! PEFT, as diffusers' `loaders/lora_conversion_utils.py` (0.42) reads them.

mod keys;

use super::single::UnetNames;
use super::weights::{Change, LowRank, WeightFile};
use super::{Checkpoint, adapter_file};
use crate::Result;
use keys::{Layer, Role};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A LoRA that the user names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The safetensors file.
    pub file: PathBuf,
    /// How strongly it is applied: 1 as it was trained, 0 not at all, below 0 the other way.
    pub weight: f64,
}

impl FromStr for Lora {
    type Err = String;

    /// `FILE` or `FILE:WEIGHT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (file, weight) = match text.rsplit_once(':').map(|(file, weight)| (file, weight.parse::<f64>())) {
            Some((file, Ok(weight))) => (file, weight),
            Some((file, Err(_))) if file.ends_with(".safetensors") => {
                return Err("what follows the colon must be a number, as in style.safetensors:0.8".into());
            }
            _ => (text, 1.0),
        };
        match (file.is_empty(), weight.is_finite()) {
            (true, _) => Err("write FILE or FILE:WEIGHT, e.g. style.safetensors:0.8".into()),
            (_, false) => Err("the weight must be a finite number".into()),
            _ => Ok(Self { file: file.into(), weight }),
        }
    }
}

impl fmt::Display for Lora {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.weight)
    }
}

/// The tensors of one layer's change, by their names in the file.
#[derive(Debug, Default)]
struct Factors {
    up: Option<String>,
    down: Option<String>,
    mid: Option<String>,
    alpha: Option<String>,
}

/// Changes by the part's folder and the tensor's current name.
pub(super) type Changes = BTreeMap<&'static str, BTreeMap<String, Vec<Change>>>;

impl Lora {
    /// Adds what this LoRA changes in `checkpoint` to `changes`, and gives back its file.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) naming what is not a LoRA's, what is not whole, and layers that the checkpoint does not have.
    pub(super) fn changes(&self, checkpoint: &Checkpoint, changes: &mut Changes) -> Result<Arc<WeightFile>> {
        let file = adapter_file(&self.file, "--lora")?;
        let fault = |reason: String| file.fault(reason);
        let mut layers: BTreeMap<Layer, Factors> = BTreeMap::new();
        for name in file.names() {
            let (layer, role) = keys::parse(name).map_err(fault)?;
            let factors = layers.entry(layer).or_default();
            let place = match role {
                Role::Up => &mut factors.up,
                Role::Down => &mut factors.down,
                Role::Mid => &mut factors.mid,
                Role::Alpha => &mut factors.alpha,
            };
            if let Some(before) = place.replace(name.to_string()) {
                return Err(fault(format!("tensors `{before}` and `{name}` are the same factor of one layer")));
            }
        }
        if layers.is_empty() {
            return Err(fault("holds no tensor; fetch it again".into()));
        }
        let homes = Homes::of(checkpoint);
        let settings = Settings::of(&file).map_err(fault)?;
        let mut strange = Vec::new();
        for (layer, factors) in &layers {
            let Some((name, shape)) = homes.find(layer) else {
                strange.push(factors.any());
                continue;
            };
            let change = Change::LowRank(self.low_rank(&file, layer, factors, &settings)?);
            if let Some(misfit) = change.misfit(shape) {
                let key = factors.any();
                return Err(fault(format!("`{key}` {misfit}; the LoRA is for another kind of checkpoint")));
            }
            changes.entry(layer.part).or_default().entry(name.clone()).or_default().push(change);
        }
        match strange.first() {
            None => Ok(file),
            Some(first) => Err(fault(format!(
                "{} of {} layers, such as `{first}`, {} not in {}{}",
                strange.len(),
                layers.len(),
                if strange.len() == 1 { "is" } else { "are" },
                checkpoint.id,
                made_for(&file),
            ))),
        }
    }

    fn low_rank(
        &self,
        file: &Arc<WeightFile>,
        layer: &Layer,
        factors: &Factors,
        settings: &Settings,
    ) -> Result<LowRank> {
        let (Some(up), Some(down)) = (&factors.up, &factors.down) else {
            let other = if factors.up.is_none() { "up" } else { "down" };
            return Err(
                file.fault(format!("`{}` has no {other} factor beside it; fetch the file again", factors.any()))
            );
        };
        let rank = file.info(down).and_then(|info| info.shape.first()).copied().unwrap_or(0).max(1) as f64;
        let scale = match &factors.alpha {
            None => settings.scale(layer, rank),
            Some(name) => match super::weights::values(file, name)?.as_deref() {
                Some([alpha]) => f64::from(*alpha) / rank,
                _ => return Err(file.fault(format!("tensor `{name}` is not one number"))),
            },
        };
        let (up, down, mid) = (up.clone(), down.clone(), factors.mid.clone());
        Ok(LowRank { file: file.clone(), up, down, mid, scale: self.weight * scale })
    }
}

impl Factors {
    /// One of the names, for messages.
    fn any(&self) -> &str {
        [&self.down, &self.up, &self.mid, &self.alpha].into_iter().flatten().next().map_or("", String::as_str)
    }
}

/// The layers that can be changed, by every name that a LoRA may call them.
struct Homes {
    /// By part and name: the tensor's name and shape.
    layers: HashMap<(&'static str, String), (String, Vec<usize>)>,
}

impl Homes {
    fn of(checkpoint: &Checkpoint) -> Self {
        let mut layers = HashMap::new();
        let names = UnetNames::new(&checkpoint.unet);
        for &part in checkpoint.index.parts() {
            // What cannot be read is named when it is loaded.
            let Ok(weights) = checkpoint.weights(part) else { continue };
            let folder = part.folder();
            for (name, shape) in weights.shapes() {
                let Some(layer) = name.strip_suffix(".weight") else { continue };
                let original = (folder == "unet").then(|| names.original(layer)).flatten();
                for known in [Some(layer.to_string()), original].into_iter().flatten() {
                    layers.insert((folder, known.replace('.', "_")), (name.clone(), shape.clone()));
                    layers.insert((folder, known), (name.clone(), shape.clone()));
                }
            }
        }
        Self { layers }
    }

    fn find(&self, layer: &Layer) -> Option<&(String, Vec<usize>)> {
        self.layers.get(&(layer.part, layer.path.clone()))
    }
}

/// Whose LoRA it may be, where the layers' names show it.
fn made_for(file: &WeightFile) -> &'static str {
    let any = |parts: &[&str]| file.names().any(|name| parts.iter().any(|part| name.contains(part)));
    if any(&["double_blocks", "single_blocks", "single_transformer_blocks"]) {
        "; it is for Flux"
    } else if any(&["joint_blocks"]) {
        "; it is for Stable Diffusion 3"
    } else if any(&["lora_te2_", "lora_te1_", "text_encoder_2."]) {
        "; it is for SDXL"
    } else {
        "; it is for another kind of checkpoint"
    }
}

/// What PEFT scales by, which diffusers writes into the header (`lora_adapter_metadata`): `{"unet.lora_alpha": 8, "unet.r": 4, ...}`.
#[derive(Debug, Default)]
struct Settings(serde_json::Map<String, Value>);

impl Settings {
    fn of(file: &WeightFile) -> Result<Self, String> {
        let Some(text) = file.metadata("lora_adapter_metadata") else { return Ok(Self::default()) };
        let settings: serde_json::Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| format!("`lora_adapter_metadata` in its header is not valid JSON ({error})"))?;
        match settings.iter().find(|(name, value)| name.ends_with(".use_dora") && **value == Value::Bool(true)) {
            Some(_) => Err("is a DoRA, which is not supported; plain LoRA (with or without convolutions) is".into()),
            None => Ok(Self(settings)),
        }
    }

    /// Alpha over the rank (over its root, where so trained): 1 where nothing is said.
    fn scale(&self, layer: &Layer, rank: f64) -> f64 {
        let get = |name: &str| self.0.get(&format!("{}.{name}", layer.part));
        // A pattern names layers by the end of their path (PEFT's `get_pattern_key`).
        let special = get("alpha_pattern").and_then(Value::as_object).and_then(|patterns| {
            let ends = |pattern: &str| layer.path == pattern || layer.path.ends_with(&format!(".{pattern}"));
            patterns.iter().find(|(pattern, _)| ends(pattern)).map(|(_, alpha)| alpha)
        });
        let Some(alpha) = special.or(get("lora_alpha")).and_then(Value::as_f64) else { return 1.0 };
        match get("use_rslora") == Some(&Value::Bool(true)) {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_may_follow_the_file() {
        let parse = |text: &str| text.parse::<Lora>();
        let lora = |file: &str, weight| Ok(Lora { file: file.into(), weight });
        assert_eq!(parse("a.safetensors"), lora("a.safetensors", 1.0));
        assert_eq!(parse("a.safetensors:-0.5"), lora("a.safetensors", -0.5));
        assert_eq!(parse("c:/a.safetensors"), lora("c:/a.safetensors", 1.0));
        assert!(parse("").is_err() && parse(":1").is_err() && parse("a:inf").is_err());
        assert!(parse("style.safetensors:strong").unwrap_err().contains("must be a number"));
    }

    #[test]
    fn peft_settings_give_the_scale() {
        let layer = |path: &str| Layer { part: "unet", path: path.into() };
        let settings = |json: Value| Settings(json.as_object().unwrap().clone());
        let plain = settings(serde_json::json!({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}));
        assert_eq!(plain.scale(&layer("mid_block.attn1.to_k"), 4.0), 2.0);
        assert_eq!(plain.scale(&layer("mid_block.attn1.to_q"), 4.0), 0.5);
        let root = settings(serde_json::json!({"unet.lora_alpha": 8, "unet.use_rslora": true}));
        assert_eq!(root.scale(&layer("mid_block.attn1.to_k"), 4.0), 4.0);
        assert_eq!(Settings::default().scale(&layer("mid_block.attn1.to_k"), 4.0), 1.0);
    }
}
