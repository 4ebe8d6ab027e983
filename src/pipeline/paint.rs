//! Inpainting: only a masked part of a picture is drawn anew.
//!
//! As diffusers' `pipeline_stable_diffusion_inpaint.py` and
//! `pipeline_stable_diffusion_xl_inpaint.py` (0.42). A UNet of nine channels is shown the mask and
//! the masked picture's latent beside the noisy latent. Any other is shown the noisy latent alone.
//! Then what lies outside of the mask is put back after every step, with noise to that step's
//! level. The pipelines of flow matching do the latter too.

use super::init::Init;
use super::load::Pipeline;
use super::options::Options;
use crate::argument::{INIT, MASK};
use crate::checkpoint::Family;
use crate::scheduler::Scheduler;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use image::GrayImage;

/// From this value on a pixel of a mask is drawn anew.
const WHITE: u8 = 128;

/// What a run needs at every step to draw in a part of a picture.
pub(super) struct Paint {
    /// 1 where the picture is drawn anew, else 0: f32 `[1, 1, h, w]`.
    mask: Tensor,
    inpainting: Inpainting,
}

/// How the network is made to leave the rest of the picture as it is.
enum Inpainting {
    /// The masked picture's latents, f32 `[images, channels, h, w]`, shown to the denoiser.
    Conditioned(Tensor),
    /// The picture's latents and the noise that is added to them, f32 `[images, channels, h, w]`.
    Blended { picture: Tensor, noise: Tensor },
}

impl Pipeline {
    /// Whether the denoiser is made for inpainting: whether it takes a mask and a masked picture
    /// beside the latent.
    pub fn inpaints(&self) -> bool {
        self.denoiser.channels() == 2 * self.latent_channels + 1
    }

    /// The part of [`check`](Self::check) that is about [`Init::mask`].
    pub(super) fn check_mask(&self, options: &Options) -> Result<()> {
        let Some(mask) = options.init.as_ref().and_then(|init| init.mask.as_ref()) else {
            if self.inpaints() {
                let reason = format!(
                    "this checkpoint inpaints (its UNet has 9 channels): give the picture with {INIT} and, \
                with {MASK}, one \
                              that is white where it is to be drawn anew"
                );
                return Err(Error::argument(MASK, reason));
            }
            return Ok(());
        };
        if self.family == Family::LatentConsistency {
            return Err(Error::Unsupported {
                what: "painting in a part of a picture with a latent consistency model".into(),
                way_out: format!("leave {MASK} out, or take the checkpoint that it was made from"),
            });
        }
        let (width, height) = (mask.width() as usize, mask.height() as usize);
        if (width, height) != (options.width, options.height) {
            let reason = format!("the mask has {width}x{height} pixels, the run {}x{}", options.width, options.height);
            return Err(Error::argument(MASK, reason));
        }
        if !self.painted(mask).contains(&1.0) {
            return Err(Error::argument(MASK, "no latent cell is white, so that nothing would be drawn anew"));
        }
        Ok(())
    }

    /// The mask's value at the first pixel of each latent cell (torch's nearest resizing), 1 or 0.
    fn painted(&self, mask: &GrayImage) -> Vec<f32> {
        let factor = self.vae_factor as u32;
        let (height, width) = (mask.height() / factor, mask.width() / factor);
        let cell = |y, x| if mask.get_pixel(x * factor, y * factor).0[0] >= WHITE { 1.0 } else { 0.0 };
        (0..height).flat_map(|y| (0..width).map(move |x| cell(y, x))).collect()
    }

    /// What is needed to draw in the masked part of `init`. `picture` are the whole picture's
    /// latents, where they were needed, and `noise` what was added to them; `draw` draws noise of
    /// their shape, once.
    pub(super) fn paint(
        &self,
        init: &Init,
        mask: &GrayImage,
        picture: Option<Tensor>,
        noise: Tensor,
        draw: &mut dyn FnMut() -> Result<Tensor>,
    ) -> Result<Paint> {
        let kept: Vec<f32> = mask.as_raw().iter().map(|&value| if value >= WHITE { 0.0 } else { 1.0 }).collect();
        let kept = Tensor::from_vec(kept, (1, 1, mask.height() as usize, mask.width() as usize), &Device::Cpu)?;
        let masked = self.pixels(&init.image)?.broadcast_mul(&kept)?;
        // diffusers draws for the masked picture whether or not the denoiser is shown it.
        let drawn = draw()?;
        let inpainting = match picture {
            Some(picture) if !self.inpaints() => Inpainting::Blended { picture, noise },
            _ => Inpainting::Conditioned(self.vae.latent_of(&self.posterior_of(&masked)?.sample(&drawn)?)?),
        };
        let (height, width) = (mask.height() as usize / self.vae_factor, mask.width() as usize / self.vae_factor);
        let mask = Tensor::from_vec(self.painted(mask), (1, 1, height, width), &Device::Cpu)?;
        Ok(Paint { mask: mask.to_device(&self.options.device)?, inpainting })
    }
}

impl Paint {
    /// `input` `[images, channels, h, w]` as the denoiser is shown it.
    pub(super) fn shown(&self, input: Tensor) -> Result<Tensor> {
        let Inpainting::Conditioned(masked) = &self.inpainting else { return Ok(input) };
        let (images, _, height, width) = input.dims4()?;
        let mask = self.mask.to_dtype(input.dtype())?.broadcast_as((images, 1, height, width))?;
        Ok(Tensor::cat(&[&input, &mask, &masked.to_dtype(input.dtype())?], 1)?)
    }

    /// `latents` after a step, with the picture put back outside of the mask. It has noise to the
    /// level of the call at `next`, or none where the run has ended.
    pub(super) fn keep(&self, latents: Tensor, sampler: &dyn Scheduler, next: Option<usize>) -> Result<Tensor> {
        let Inpainting::Blended { picture, noise } = &self.inpainting else { return Ok(latents) };
        let picture = match next {
            Some(call) => sampler.add_noise(picture, noise, call)?,
            None => picture.clone(),
        };
        let mask = self.mask.to_dtype(DType::F32)?;
        let outside = picture.broadcast_mul(&(1.0 - &mask)?)?;
        Ok((outside + latents.broadcast_mul(&mask)?)?)
    }
}
