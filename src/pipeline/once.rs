//! Single calls of the networks, outside of a run: what the causal tests and the accuracy
//! measurement are made of.

use super::load::Pipeline;
use super::options::Options;
use crate::model::{Denoiser, Posterior, PreparedPrompt};
use crate::prompt::Prompt;
use crate::scheduler::{self, NoiseLevel};
use crate::trace::{About, AttentionObserver, Grid, PromptInfo, Recorder, RecordingPlan, Step, Trace};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use image::RgbImage;

impl Pipeline {
    /// The denoiser.
    pub(crate) fn denoiser(&self) -> &Denoiser {
        &self.denoiser
    }

    /// Puts another denoiser in place of the checkpoint's, for tests of what depends on its
    /// weights. Returns the one that was there.
    pub(crate) fn replace_denoiser(&mut self, denoiser: Denoiser) -> Denoiser {
        std::mem::replace(&mut self.denoiser, denoiser)
    }

    /// Records attention for single calls of the denoiser with the prompt alone: no guidance, no
    /// sampling loop. `calls` holds `(scaled latent, timestep)`, the latents `[1, channels, h, w]`
    /// of one size.
    ///
    /// # Errors
    /// When there are no calls; those of the networks.
    pub fn observe(&self, prompt: &Prompt, options: &Options, calls: &[(&Tensor, f64)]) -> Result<Trace> {
        let Some((first, _)) = calls.first() else {
            return Err(Error::input("steps", "there are none to look at"));
        };
        let (.., height, width) = first.dims4()?;
        let info = PromptInfo::from(prompt);
        let context = self.denoiser.prepare(&self.conditioning(&[prompt], options)?)?;
        let plan = RecordingPlan { tokens: info.tokens.len(), unconditional_tokens: None, images: 1, per_step: false };
        let mut recorder = Recorder::new(&self.denoiser.sites(height, width), plan).with_keys(&prompt.keys(), &[]);
        for (index, (latent, timestep)) in calls.iter().enumerate() {
            let step = Step { index, count: calls.len(), timestep: *timestep, images: 1, guided: false };
            recorder.begin_step(&step)?;
            self.predict_once(latent, *timestep, &context, &mut recorder)?;
        }
        let image = Grid::new(height * self.vae_factor, width * self.vae_factor);
        let about = About { prompt: info, latent: Grid::new(height, width), image, ..About::default() };
        Trace::new(about, recorder.finish()?.swap_remove(0))
    }

    /// The denoiser's output for `latent` `[batch, channels, h, w]`, as the scheduler scales it, at
    /// `timestep`: f32, of the same shape.
    ///
    /// # Errors
    /// When the batch of `latent` is not the context's, or the observer's own.
    pub fn predict_once(
        &self,
        latent: &Tensor,
        timestep: f64,
        context: &PreparedPrompt,
        observer: &mut dyn AttentionObserver,
    ) -> Result<Tensor> {
        self.denoiser.forward(latent, timestep, context, observer)
    }

    /// The latent of a picture, f32 `[1, channels, h, w]`: the mean of the VAE's distribution times
    /// its scaling factor.
    ///
    /// # Errors
    /// [`Error::Argument`] when a side is no multiple of the VAE's factor.
    pub fn encode_image(&self, image: &RgbImage) -> Result<Tensor> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let factor = self.size_factor;
        if width == 0 || height == 0 || width % factor != 0 || height % factor != 0 {
            let reason = format!("{width}x{height} pixels; each side must be a multiple of {factor}");
            return Err(Error::input("image", reason));
        }
        self.vae.latent_of(&self.posterior(image)?.mean)
    }

    /// The VAE's distribution of a picture's latent, before the scaling factor.
    pub(super) fn posterior(&self, image: &RgbImage) -> Result<Posterior> {
        self.posterior_of(&self.pixels(image)?)
    }

    /// As [`posterior`](Self::posterior), of [pixels](Self::pixels).
    pub(super) fn posterior_of(&self, pixels: &Tensor) -> Result<Posterior> {
        self.vae.encode(pixels)
    }

    /// A picture as the VAE takes it, -1 to 1: f32 `[1, 3, height, width]` on the CPU.
    pub(super) fn pixels(&self, image: &RgbImage) -> Result<Tensor> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let pixels = image.as_raw().iter().map(|&value| 2.0 * (f32::from(value) / 255.0) - 1.0).collect();
        let pixels = Tensor::from_vec(pixels, (1, height, width, 3), &Device::Cpu)?;
        Ok(pixels.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// `latent` with `noise` of the same shape at a timestep of training: `sqrt(a) latent +
    /// sqrt(1 - a) noise`. `a` is the cumulative alpha (Ho et al., 2020, formula 4). In flow
    /// matching it is
    /// `(1 - s) latent + s noise`, where `s` is the timestep's share of all.
    ///
    /// # Errors
    /// [`Error::Argument`] when training had no such timestep.
    pub fn noised(&self, latent: &Tensor, noise: &Tensor, timestep: usize) -> Result<Tensor> {
        let Some(NoiseLevel { signal, noise: amount }) =
            scheduler::level(&self.scheduler, self.family.flows(), timestep)?
        else {
            return Err(Error::input("timestep", format!("{timestep} is beyond the last timestep of training")));
        };
        Ok(((latent * signal)? + (noise * amount)?)?)
    }
}
