//! Whether a thing can be seen in a picture: the network is shown the picture with a caption of the
//! thing alone.

use std::ops::ControlFlow;

use image::RgbImage;

use super::load::Pipeline;
use super::look::LookOptions;
use crate::Result;
use crate::facts::contrast;
use crate::facts::expect::Sighting;
use crate::facts::lexicon::names_a_thing;
use crate::heatmap::{Aggregate, aggregate};
use crate::trace::{Grid, WordInfo};

impl Pipeline {
    /// How plainly each of `things` is looked for in one place of `image`, with the caption `a
    /// THING` and default maps. The levels are those that [`trace_noised`](Self::trace_noised) has
    /// by default. The image's sides are multiples of the VAE's factor.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a checkpoint that inpaints; those of
    /// the networks.
    pub fn look_for(&self, image: &RgbImage, things: &[String]) -> Result<Vec<Sighting>> {
        if things.is_empty() {
            return Ok(Vec::new());
        }
        let look = LookOptions::default();
        let run = self.look_run(Grid::new(image.height() as usize, image.width() as usize), &look);
        let noised = self.noise_picture(image, &look)?;
        let see = |thing: &String| {
            let article = if thing.to_lowercase().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
            let prompt = self.prompt(&format!("{article} {thing}"), &run)?;
            let trace = self.trace_noised(&prompt, &noised, &run, false, &mut || ControlFlow::Continue(()))?;
            // The article is no part of the thing, and colours have wide maps.
            let own = trace.about.prompt.words.iter().filter(|word| names_a_thing(&word.text));
            let tokens: Vec<usize> = own.flat_map(|word| word.tokens.iter().copied()).collect();
            let word = WordInfo { text: thing.clone(), start: 0, end: 0, tokens, occurrence: 1 };
            let maps = aggregate(&trace, &Aggregate::default(), std::slice::from_ref(&word))?;
            Ok(Sighting { thing: thing.clone(), contrast: contrast(&maps, &word).unwrap_or(0.0) })
        };
        things.iter().map(see).collect()
    }
}
