//! The image that the text encoder's states after each of its layers give.
//!
//! This is Toker et al. (2024), "Diffusion Lens". The states after a layer go through the final
//! layer norm and condition the denoiser as the last ones do. The negative prompt stays as it is.

use std::ops::ControlFlow;

use super::generation::Event;
use super::load::Pipeline;
use super::options::{Options, check_clip_skip};
use super::traced::{RecordOptions, Traced};
use crate::argument::SEED;
use crate::model::TextEncoder;
use crate::prompt::Prompt;
use crate::{Error, Result};

impl Pipeline {
    /// Layers of each CLIP encoder, the first one's first.
    pub(super) fn clip_layers(&self) -> Vec<usize> {
        let second = self.second.iter().map(|second| &second.text_encoder);
        self.text_encoder.iter().chain(second).map(TextEncoder::layers).collect()
    }

    /// Refuses to leave out `skipped` layers of CLIP where it has not so many.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check_clip_skip(&self, skipped: usize) -> Result<()> {
        check_clip_skip(skipped, self.family, &self.clip_layers())
    }

    /// Where a run without the last `clip_skip` layers ends.
    fn last_stop(&self, clip_skip: usize) -> Vec<usize> {
        self.clip_layers().iter().map(|layers| layers.saturating_sub(clip_skip)).collect()
    }

    /// Where a lens looks: after how many layers each text encoder ends, every `every`-th of the
    /// longest encoder's and always the last, ascending. The last is where a run without its last
    /// `clip_skip` layers ends.
    ///
    /// It begins with the token embeddings, 0 layers. SDXL's denoiser is given the states before
    /// the last layer, and so begins with 1. Its shorter encoder ends after the same share of its
    /// layers.
    pub fn lens_stops(&self, every: usize, clip_skip: usize) -> Vec<Vec<usize>> {
        let all = self.last_stop(clip_skip);
        let most = all.iter().copied().max().unwrap_or(0);
        let first = usize::from(self.second.is_some()).min(most);
        let every = every.max(1);
        // Counted back from the last, which is the image itself; the first is always there.
        let mut stops: Vec<usize> = (first..=most).rev().step_by(every).collect();
        if stops.last() != Some(&first) {
            stops.push(first);
        }
        stops.reverse();
        let of = |stop: usize, layers: usize| match stop == most {
            true => layers,
            false => ((stop * layers) as f64 / most as f64).round().max(first as f64) as usize,
        };
        stops.into_iter().map(|stop| all.iter().map(|&layers| of(stop, layers)).collect()).collect()
    }

    /// A run of `prompt` with the options' one seed for each of `stops`, with its attention.
    ///
    /// # Errors
    /// [`Error::Argument`] when there is not one seed; [`Error::Interrupted`] when `progress`
    /// breaks, which is told of every step; those of [`trace`](Self::trace).
    pub fn lens(
        &self,
        prompt: &Prompt,
        options: &Options,
        stops: &[Vec<usize>],
        progress: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Traced>> {
        if self.t5.is_some() || self.qwen.is_some() {
            return Err(Error::Unsupported {
                what: "a lens on a checkpoint with T5 or Qwen3, whose states are known at its end alone".into(),
                way_out: "take one of Stable Diffusion 1, 2 or XL".into(),
            });
        }
        if options.seeds.len() != 1 {
            return Err(Error::argument(SEED, "a lens has one seed, so that its images differ in the layer alone"));
        }
        // There the pooled state is of all layers, too.
        let last = self.last_stop(options.clip_skip);
        let run = |layers: &Vec<usize>| {
            let text_layers = Some(layers.clone()).filter(|layers| *layers != last);
            let options = Options { text_layers, ..options.clone() };
            let keep = RecordOptions { per_step: false, ..RecordOptions::default() };
            let (mut traced, _) = self.trace(prompt, &options, keep, &mut |event| match event {
                Event::Stepped { .. } => progress(),
                _ => ControlFlow::Continue(()),
            })?;
            traced.pop().ok_or_else(|| Error::bug("a run without an image"))
        };
        stops.iter().map(run).collect()
    }
}
