//! What the causal test of a run left in its folder for the page: each word's causal map, and the
//! same seed without it.

use super::data::{CausalMap, ImageData, Without};
use crate::Result;
use crate::evidence::Evidence;
use crate::run::read_png;
use crate::trace::PromptInfo;
use std::path::{Component, Path};

/// The causal maps `maps` of `evidence`, on the latent grid, by the words of `prompt`.
pub(super) fn maps(evidence: &Evidence, maps: Vec<Vec<f32>>, prompt: &PromptInfo) -> Vec<CausalMap> {
    let maps = evidence.words.iter().zip(maps);
    maps.filter_map(|(entry, map)| Some(CausalMap { word: position(&entry.word, prompt)?, map })).collect()
}

/// The images of the same seed without a word that `evidence` names, where they still lie in
/// `folder`.
///
/// # Errors
/// [`Error::Trace`](crate::Error::Trace) naming one that is damaged.
pub(super) fn without(folder: &Path, evidence: &Evidence, prompt: &PromptInfo) -> Result<Vec<Without>> {
    let mut images = Vec::new();
    for entry in &evidence.counterfactuals {
        let file = Path::new(&entry.image);
        // Only what lies in the folder itself.
        let inside = file.components().all(|part| matches!(part, Component::Normal(_)));
        let path = folder.join(file);
        let (Some(word), true) = (position(&entry.word, prompt), inside && path.is_file()) else { continue };
        let image = ImageData { mime: "image/png", bytes: read_png(&path)?.1, width: 0, height: 0 };
        let middle = entry.bounds.map(|bounds| (50.0 * (bounds.left + bounds.right)).round());
        images.push(Without { word, image, area: entry.area, middle });
    }
    Ok(images)
}

/// The position of the word with this label in `prompt`.
fn position(label: &str, prompt: &PromptInfo) -> Option<usize> {
    prompt.words.iter().position(|word| word.label() == label)
}
