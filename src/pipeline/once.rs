//! Single calls of the networks, outside of a run: what the causal tests and the accuracy measurement are made of.

use super::{Options, Pipeline, Result};
use crate::Error;
use crate::model::{Context, Posterior, Unet};
use crate::prompt::Prompt;
use crate::scheduler;
use crate::trace::{About, AttentionObserver, Grid, Plan, PromptInfo, Recorder, Step, Trace};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;

impl Pipeline {
    /// The denoiser.
    pub fn unet(&self) -> &Unet {
        &self.unet
    }

    /// Puts another UNet in place of the checkpoint's, for tests of what depends on its weights; gives back the one that was there.
    pub fn replace_unet(&mut self, unet: Unet) -> Unet {
        std::mem::replace(&mut self.unet, unet)
    }

    /// The attention of single calls of the UNet with the prompt alone, in a run with `options`, at the given `(latent as the scheduler scales it, timestep)`s:
    /// latents `[1, channels, h, w]` of one size.
    ///
    /// # Errors
    /// When there are no calls; those of the networks.
    pub fn observe(&self, prompt: &Prompt, options: &Options, calls: &[(&Tensor, f64)]) -> Result<Trace> {
        let Some((first, _)) = calls.first() else {
            return Err(Error::option("steps", "there are none to look at"));
        };
        let (.., height, width) = first.dims4()?;
        let info = PromptInfo::from(prompt);
        let context = self.unet.prepare(&self.conditioning(&[prompt], options)?)?;
        let plan = Plan { tokens: info.tokens.len(), unconditional_tokens: None, images: 1, per_step: false };
        let mut recorder = Recorder::new(&self.unet.sites(height, width), plan).with_keys(&prompt.keys(), &[]);
        for (index, (latent, timestep)) in calls.iter().enumerate() {
            let step = Step { index, count: calls.len(), timestep: *timestep, images: 1, guided: false };
            recorder.begin_step(&step)?;
            self.predict_once(latent, *timestep, &context, &mut recorder)?;
        }
        let image = Grid::new(height * self.vae_factor, width * self.vae_factor);
        let about = About { prompt: info, latent: Grid::new(height, width), image, ..About::default() };
        Trace::new(about, recorder.finish()?.swap_remove(0))
    }

    /// The UNet's output for `latent` `[batch, channels, h, w]`, as the scheduler scales it, at `timestep`: f32, of the same shape.
    ///
    /// # Errors
    /// When the batch of `latent` is not the context's, or the observer's own.
    pub fn predict_once(
        &self,
        latent: &Tensor,
        timestep: f64,
        context: &Context,
        observer: &mut dyn AttentionObserver,
    ) -> Result<Tensor> {
        Ok(self
            .unet
            .forward(&latent.to_dtype(self.options.dtype)?, timestep, context, observer)?
            .to_dtype(DType::F32)?)
    }

    /// The latent of a picture, f32 `[1, channels, h, w]`: the mean of the VAE's distribution times its scaling factor.
    ///
    /// # Errors
    /// [`Error::Option`] when a side is no multiple of the VAE's factor.
    pub fn encode_image(&self, image: &RgbImage) -> Result<Tensor> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let factor = self.vae_factor;
        if width == 0 || height == 0 || width % factor != 0 || height % factor != 0 {
            let reason = format!("{width}x{height} pixels; each side must be a multiple of {factor}");
            return Err(Error::option("image", reason));
        }
        Ok((self.posterior(image)?.mean * self.scaling_factor)?)
    }

    /// The VAE's distribution of a picture's latent, before the scaling factor.
    pub(super) fn posterior(&self, image: &RgbImage) -> Result<Posterior> {
        self.posterior_of(&self.pixels(image)?)
    }

    /// As [`posterior`](Self::posterior), of [pixels](Self::pixels).
    pub(super) fn posterior_of(&self, pixels: &Tensor) -> Result<Posterior> {
        self.vae.encode(&pixels.to_device(&self.options.device)?.to_dtype(self.options.dtype)?)
    }

    /// A picture as the VAE takes it, -1 to 1: f32 `[1, 3, height, width]` on the CPU.
    pub(super) fn pixels(&self, image: &RgbImage) -> Result<Tensor> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let pixels = image.as_raw().iter().map(|&value| 2.0 * (f32::from(value) / 255.0) - 1.0).collect();
        let pixels = Tensor::from_vec(pixels, (1, height, width, 3), &Device::Cpu)?;
        Ok(pixels.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// `latent` with `noise` of the same shape at a timestep of training: `sqrt(a) latent + sqrt(1 - a) noise` with the cumulative
    /// alpha `a` (Ho et al., 2020, formula 4).
    ///
    /// # Errors
    /// [`Error::Option`] when training had no such timestep.
    pub fn noised(&self, latent: &Tensor, noise: &Tensor, timestep: usize) -> Result<Tensor> {
        let Some(alpha) = scheduler::alpha_bar(&self.scheduler, timestep)? else {
            return Err(Error::option("timestep", format!("{timestep} is beyond the last timestep of training")));
        };
        Ok(((latent * alpha.sqrt())? + (noise * (1.0 - alpha).sqrt())?)?)
    }
}
