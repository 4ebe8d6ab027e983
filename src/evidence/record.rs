//! `evidence.json` and `evidence.safetensors`: what the causal test of a run found.

use super::causal::Cut;
pub use super::figure::Figure;
use super::figure::JSON;
use super::redrawn::{Counterfactual, Dead, Reweighted};
use super::sanity::Sanity;
use super::shapley::Shapley;
use super::verdict::{Thresholds, WordEvidence};
use crate::files::tensors::{self, NamedTensor};
use crate::files::write_json;
use crate::heatmap::SavedAggregate;
use crate::run::{Run, quoted};
use crate::trace::{By, Grid, WordInfo};
use crate::{Error, Result, percent};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The format that this version writes, and the newest that it reads. Format 1 had one `verdict`
/// per word in place of `mattered`, `changed` and `shows`; it is read by answering anew from its
/// scores.
pub const FORMAT_VERSION: u32 = 2;

pub(super) const TENSORS: &str = "evidence.safetensors";

/// The content of `evidence.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// How the words were cut.
    pub cut: Cut,
    /// What its words are: each word of the prompt, or each tag.
    #[serde(default, skip_serializing_if = "By::is_word")]
    pub by: By,
    /// The tested steps, from 0.
    pub steps: Vec<usize>,
    /// The aggregate of the attention maps that were judged.
    #[serde(flatten)]
    pub how: SavedAggregate,
    /// The thresholds of the answers.
    pub thresholds: Thresholds,
    /// One entry per tested word, in prompt order; their maps lie in `evidence.safetensors` under
    /// `causal`, in the same order.
    pub words: Vec<WordEvidence>,
    /// What each word owes of the effect of all, where that was asked for.
    pub shapley: Option<ShapleyOfWords>,
    /// What became of the maps when cross-attention lost its weights, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sanity: Option<Sanity>,
    /// The same seed without each word, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counterfactuals: Vec<Counterfactual>,
    /// The same seed with words scaled, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reweighted: Vec<Reweighted>,
    /// Of a test by tags: those without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<Dead>,
    /// The findings beside the words' own in sentences, as the report shows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The pictures that the report shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<Figure>,
}

/// Shapley values with the words they belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShapleyOfWords {
    /// The words.
    pub words: Vec<String>,
    /// What each owes of the effect of cutting all of them, in the unit of the effect.
    #[serde(flatten)]
    pub found: Shapley,
}

impl ShapleyOfWords {
    /// The shares, one line per share.
    pub fn sentences(&self) -> Vec<String> {
        // They are shares of the prediction and sum to what cutting all words moves, not to 100 %.
        let together = percent(self.found.values.iter().sum::<f64>());
        let head = format!(
            "Cutting all these words moves {together} of the prediction. Each word's part in that ({} sets tried):",
            self.found.evaluations
        );
        let shares = self.words.iter().zip(&self.found.values).zip(&self.found.errors);
        let line = |((word, value), error): ((&String, &f64), &Option<f64>)| {
            let error = error.filter(|error| *error > 0.0).map(|error| format!(" ± {}", percent(error)));
            format!("{word} {}{}", percent(*value), error.unwrap_or_default())
        };
        std::iter::once(head).chain(shares.map(line)).collect()
    }
}

impl Evidence {
    /// Writes both files into a run folder, each whole or not at all, the JSON last: where it is,
    /// the maps are too. `causal` are the words' causal maps in their order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path, causal: &[Vec<f32>], grid: Grid) -> Result<()> {
        let maps: Vec<f32> = causal.concat();
        let words: Vec<&str> = self.words.iter().map(|word| word.word.as_str()).collect();
        let metadata = [
            ("format_version", FORMAT_VERSION.to_string()),
            ("cut", self.cut.name().to_string()),
            ("words", serde_json::to_string(&words).unwrap_or_default()),
        ];
        let tensor = NamedTensor::f32("causal", &[causal.len(), grid.height, grid.width], &maps);
        tensors::write(&folder.join(TENSORS), &metadata, &[tensor])?;
        write_json(&folder.join(JSON), self)
    }

    /// Answers both questions for every word from its scores, and from the image without it where
    /// that was drawn.
    pub fn answer(&mut self) {
        for word in &mut self.words {
            let drawn = self.counterfactuals.iter().find(|drawn| drawn.word == word.word);
            word.answer(drawn.map(|drawn| drawn.area));
        }
    }

    /// As [`read`](Self::read), of the words that `run` is read by: what was found of its words
    /// says nothing of its tags.
    ///
    /// # Errors
    /// As `read`.
    pub fn of_run(run: &Run) -> Result<Option<(Self, Vec<Vec<f32>>)>> {
        let found = Self::read(&run.folder, run.record.latent)?;
        Ok(found.filter(|(found, _)| found.by == run.record.by))
    }

    /// The causal map of `word` in what [`of_run`](Self::of_run) gave, where it was tested.
    pub fn map_of<'a>(found: Option<&'a (Self, Vec<Vec<f32>>)>, word: &WordInfo) -> Option<&'a [f32]> {
        let (evidence, maps) = found?;
        let name = word.label();
        let place = evidence.words.iter().position(|word| word.word == name)?;
        maps.get(place).map(Vec::as_slice)
    }

    /// The evidence of a run folder with each word's causal map; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Trace`] when the files are damaged or were written by a newer attnmap.
    pub fn read(folder: &Path, grid: Grid) -> Result<Option<(Self, Vec<Vec<f32>>)>> {
        let (json, path) = (folder.join(JSON), folder.join(TENSORS));
        if !json.is_file() {
            return Ok(None);
        }
        let bytes = crate::files::read(&json).map_err(Error::io(&json))?;
        let damaged = |reason: String| Error::Trace {
            file: json.clone(),
            reason: format!(
                "{reason}; `attnmap explain {} --force` makes it again",
                quoted(&folder.display().to_string())
            ),
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let version = value.get("format_version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if version > u64::from(FORMAT_VERSION) {
            return Err(damaged(format!("format {version} is newer than this attnmap reads ({FORMAT_VERSION})")));
        }
        let mut evidence: Self = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        if version < 2 {
            evidence.thresholds = Thresholds::default();
            evidence.answer();
        }
        let bytes = crate::files::read(&path).map_err(Error::io(&path))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        let causal = tensors.tensor("causal").map_err(|error| damaged(error.to_string()))?;
        let shape = [evidence.words.len(), grid.height, grid.width];
        if causal.shape() != shape || causal.dtype() != safetensors::Dtype::F32 {
            return Err(damaged(format!("`causal` is {:?}, not f32 {shape:?}", causal.shape())));
        }
        let values = causal.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let values: Vec<f32> = values.collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(damaged("`causal` holds NaN or infinity".into()));
        }
        Ok(Some((evidence, values.chunks(grid.cells().max(1)).map(<[f32]>::to_vec).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_effect_say_what_they_are_of() {
        let errors = vec![Some(0.0), Some(0.02)];
        let found = Shapley { values: vec![1.2, 0.74], errors, permutations: 0, evaluations: 4 };
        let says = ShapleyOfWords { words: vec!["apple".into(), "frog".into()], found }.sentences();
        let head = "Cutting all these words moves 194 % of the prediction. Each word's part in that (4 sets tried):";
        assert_eq!(says, [head, "apple 120 %", "frog 74 % ± 2.0 %"]);
    }
}
