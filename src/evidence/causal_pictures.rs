//! Causal maps as pictures: each tested word's over the run's image.

use super::record::Evidence;
use super::redrawn::{CAUSAL, Picture};
use crate::Result;
use crate::figures::largest;
use crate::render::{Base, Display, Scale, overlay};
use crate::run::slug;
use crate::trace::Grid;
use image::RgbImage;

/// The file of the word `name` at `place` of the prompt, from the run folder.
pub(super) fn file(place: usize, name: &str) -> String {
    format!("{CAUSAL}/{place:02}-{}.png", slug(name))
}

/// Draws the causal map of every word of `evidence` over `image` and names its file there. `causal`
/// are the maps in the order of the words, on `grid`; `order` has the prompt's words, whose places
/// begin the names. With the shared scale, all tested words have one.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) when the image has no pixels.
pub fn draw(
    evidence: &mut Evidence,
    causal: &[Vec<f32>],
    grid: Grid,
    image: &RgbImage,
    display: &Display,
    order: &[String],
) -> Result<Vec<Picture>> {
    let base = Base::new(image, display.overlay_size)?;
    let highest = |map: &[f32]| largest(map.iter().copied());
    let shared = largest(causal.iter().map(|map| highest(map)));
    let mut pictures = Vec::with_capacity(causal.len());
    for (word, map) in evidence.words.iter_mut().zip(causal) {
        let place = order.iter().position(|name| *name == word.word).unwrap_or(0);
        let file = file(place, &word.word);
        let top = if display.scale == Scale::Shared { shared } else { highest(map) };
        let name = crate::in_quotes(&word.word);
        let about = format!("How much the prediction of each place changed when {name} was cut");
        pictures.push(Picture { file: file.clone(), about, image: overlay(&base, map, grid, top, display) });
        word.picture = Some(file);
    }
    Ok(pictures)
}
