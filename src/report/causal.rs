//! What the causal test of a run left in its folder for the page: each word's causal map, and the same seed without it.

use super::data::{CausalMap, ImageData, Without};
use crate::Result;
use crate::run::read_png;
use crate::trace::{Grid, PromptInfo};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Component, Path};

/// The causal maps of `evidence`, which was read from `folder`, by the words of `prompt` on the latent grid `latent`. Those that are
/// missing or of another shape are left out.
pub(super) fn maps(folder: &Path, evidence: &Value, prompt: &PromptInfo, latent: Grid) -> Vec<CausalMap> {
    let Ok(bytes) = std::fs::read(folder.join("evidence.safetensors")) else { return Vec::new() };
    let Ok(tensors) = SafeTensors::deserialize(&bytes) else { return Vec::new() };
    let Ok(causal) = tensors.tensor("causal") else { return Vec::new() };
    let words = list(evidence, "words");
    if causal.shape() != [words.len(), latent.height, latent.width] || causal.dtype() != safetensors::Dtype::F32 {
        return Vec::new();
    }
    let values: Vec<f32> = causal.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let planes = values.chunks_exact(latent.cells().max(1));
    let maps = words.iter().zip(planes);
    maps.filter_map(|(entry, map)| Some(CausalMap { word: word_of(entry, prompt)?, map: map.to_vec() })).collect()
}

/// The images of the same seed without a word that `evidence` names, where they still lie in `folder`.
///
/// # Errors
/// [`Error::Trace`](crate::Error::Trace) naming one that is damaged.
pub(super) fn without(folder: &Path, evidence: &Value, prompt: &PromptInfo) -> Result<Vec<Without>> {
    let other = |entry: &Value| {
        let file = Path::new(entry.get("image")?.as_str()?);
        // Only what lies in the folder itself.
        let inside = file.components().all(|part| matches!(part, Component::Normal(_)));
        let path = folder.join(inside.then_some(file)?);
        Some((word_of(entry, prompt)?, path.is_file().then_some(path)?, entry.get("area")?.as_f64()?))
    };
    let images = list(evidence, "counterfactuals").iter().filter_map(other);
    let images = images.map(|(word, path, area)| {
        let image = ImageData { mime: "image/png", bytes: read_png(&path)?.1, width: 0, height: 0 };
        Ok(Without { word, image, area })
    });
    images.collect()
}

fn list<'a>(evidence: &'a Value, key: &str) -> &'a [Value] {
    evidence.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The position of an entry's word among those of `prompt`.
fn word_of(entry: &Value, prompt: &PromptInfo) -> Option<usize> {
    let name = entry.get("word")?.as_str()?;
    prompt.words.iter().position(|word| prompt.label(word) == name)
}
