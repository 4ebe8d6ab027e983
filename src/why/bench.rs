//! Drawing a run again with something else: the checkpoint, the run's own options, and the thing
//! that is watched.

use super::spot::Spot;
use crate::heatmap::Aggregate;
use crate::pipeline::{Event, Fork, Options, Pipeline, RecordOptions};
use crate::prompt::Prompt;
use crate::trace::{By, PromptInfo, WordInfo};
use crate::{Error, Result};
use candle_core::Tensor;
use image::RgbImage;
use std::ops::ControlFlow;

/// What all experiments on a run have in common.
pub struct Bench<'a> {
    /// The checkpoint.
    pub pipeline: &'a Pipeline,
    /// The run's own options.
    pub options: Options,
    /// The run's prompt.
    pub prompt: Prompt,
    /// How the maps are made.
    pub aggregate: Aggregate,
    /// The word whose thing is watched, in [`prompt`](Self::prompt).
    pub thing: WordInfo,
    /// What the words of the prompt are, the thing's among them.
    pub by: By,
    /// Most images in one pass.
    pub batch: usize,
}

/// One image of an experiment.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// The image.
    pub image: RgbImage,
    /// Where the thing lies.
    pub spot: Spot,
    /// The thing's map `[height, width]` on the latent grid.
    pub map: Vec<f32>,
}

/// What an image sets out from.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// The noise of its seed.
    Seed,
    /// Given noise, `[images, channels, h, w]`.
    Noise(&'a Tensor),
    /// An estimate of the image with its seed's noise, at a call.
    Estimate(&'a Tensor, usize),
}

impl Bench<'_> {
    /// The run's own seed.
    pub fn seed(&self) -> u64 {
        self.options.seeds.first().copied().unwrap_or(0)
    }

    /// Draws `prompt` once per seed. `progress` is told of every call of the network with the
    /// number of images in it.
    ///
    /// # Errors
    /// Those of [`Pipeline::trace`]; [`Error::Interrupted`] when `progress` breaks.
    pub fn draw(
        &self,
        prompt: &Prompt,
        seeds: &[u64],
        from: From,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Drawn>> {
        let word = self.thing_in(prompt)?;
        // A choice of steps is of a whole run.
        let whole = !matches!(from, From::Estimate(..));
        let aggregate = Aggregate { steps: self.aggregate.steps.clone().filter(|_| whole), ..self.aggregate.clone() };
        let mut drawn = Vec::with_capacity(seeds.len());
        for (index, some) in seeds.chunks(self.batch.max(1)).enumerate() {
            let first = index * self.batch.max(1);
            let mut options = Options { seeds: some.to_vec(), ..self.options.clone() };
            match from {
                From::Seed => {}
                From::Noise(noise) => {
                    options.latents = Some(noise.narrow(0, first, some.len())?);
                    // The noise of the steps stays the run's own: only its first noise is another.
                    options.latents_as_drawn = true;
                }
                From::Estimate(denoised, call) => options.fork = Some(Fork { denoised: denoised.clone(), call }),
            }
            let keep = RecordOptions { per_step: aggregate.steps.is_some(), ..RecordOptions::for_maps(&aggregate) };
            let (traced, _) = self.pipeline.trace(prompt, &options, keep, &mut |event: Event| match event {
                Event::Stepped { .. } => progress(some.len()),
                _ => ControlFlow::Continue(()),
            })?;
            for traced in traced {
                let (spot, map) = Spot::of(&traced.trace, &aggregate, &word)?;
                drawn.push(Drawn { image: traced.generation.image, spot, map });
            }
        }
        Ok(drawn)
    }

    /// The thing's word in a prompt that may have been read again: a tag by its place among the
    /// tags, a word by its name.
    fn thing_in(&self, prompt: &Prompt) -> Result<WordInfo> {
        if prompt.text == self.prompt.text {
            return Ok(self.thing.clone());
        }
        let info = PromptInfo::from(prompt).by(self.by);
        if self.by == By::Tag {
            // A phrase that is turned round within the thing's own tag changes the tag's name.
            let own = PromptInfo::from(&self.prompt).by(self.by).words;
            let place = own.iter().position(|tag| (tag.start, tag.end) == (self.thing.start, self.thing.end));
            if let Some(tag) = place.and_then(|place| info.words.get(place)) {
                return Ok(tag.clone());
            }
        }
        let found = info.select(&self.thing.label())?;
        let same = found.iter().find(|word| word.occurrence == self.thing.occurrence);
        same.or(found.first())
            .cloned()
            .ok_or_else(|| Error::bug("an edited prompt has lost the word that is asked about"))
    }
}
