//! Runs that set out from a picture and not from noise alone: image to image, and the start of
//! inpainting.
//!
//! The order of operations and of random draws is that of diffusers'
//! `pipeline_stable_diffusion_img2img.py` (0.42) with one CPU generator per image. The picture's
//! latent is drawn from the VAE's distribution. Noise is drawn then, and added to the level of the
//! first step that is left. The run goes on from there (Meng et al., 2022, SDEdit). SDXL's pipeline
//! does the same. The pipeline of latent consistency models takes all its steps, from a shorter
//! schedule. Those of flow matching (`pipeline_stable_diffusion_3_img2img.py`,
//! `pipeline_flux_img2img.py`) round the number of skipped steps down, and not that of the taken.

use super::init::Init;
use super::load::Pipeline;
use super::options::{Options, check_strength};
use super::paint::Paint;
use crate::argument::{INIT, LATENTS, STEPS, STRENGTH};
use crate::checkpoint::Family;
use crate::scheduler::{self, Scheduler, SchedulerKind, TorchGenerator};
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Where a run begins.
pub(super) struct Start {
    /// The first sample, f32 `[images, channels, h, w]`.
    pub latents: Tensor,
    /// The index of the first denoiser call among the scheduler's timesteps.
    pub first_call: usize,
    /// What is drawn anew, where that is a part of a picture.
    pub paint: Option<Paint>,
}

impl Pipeline {
    /// The part of [`check`](Self::check) that is about [`Options::init`].
    pub(super) fn check_init(&self, options: &Options) -> Result<()> {
        self.check_mask(options)?;
        let Some(init) = &options.init else { return Ok(()) };
        let (width, height) = (init.image.width() as usize, init.image.height() as usize);
        if (width, height) != (options.width, options.height) {
            let reason = format!(
                "the picture has {width}x{height} pixels, the run {}x{}; resize it first",
                options.width, options.height
            );
            return Err(Error::argument(INIT, reason));
        }
        check_strength(init.strength)?;
        if self.skipped(init, options) == options.steps && options.steps > 0 {
            let reason = format!("{} of {} steps is less than one; raise it, or {STEPS}", init.strength, options.steps);
            return Err(Error::argument(STRENGTH, reason));
        }
        if options.latents.is_some() {
            return Err(Error::argument(LATENTS, format!("does not go with {INIT}, whose noise is the seed's own")));
        }
        Ok(())
    }

    /// Whether the strength of a run shortens the schedule that its steps are chosen from: latent
    /// consistency models, image to image, by their own sampler.
    pub(super) fn shortens_schedule(&self, options: &Options) -> bool {
        let own = options.scheduler.map_or_else(|| SchedulerKind::of_config(&self.scheduler).ok(), Some);
        let whole = options.init.as_ref().is_some_and(|init| init.mask.is_none());
        self.family == Family::LatentConsistency && whole && own == Some(SchedulerKind::Lcm)
    }

    /// How many steps of a run are left out at the beginning.
    pub(super) fn skipped(&self, init: &Init, options: &Options) -> usize {
        if self.shortens_schedule(options) {
            return 0;
        }
        // Truncation is diffusers' own rule (`get_timesteps`).
        let steps = options.steps;
        let taken = (steps as f64 * init.strength).min(steps as f64);
        if self.family.flows() { (steps as f64 - taken) as usize } else { steps - taken as usize }
    }

    /// The first sample of a run, and the call that it is for.
    pub(super) fn start(
        &self,
        options: &Options,
        sampler: &dyn Scheduler,
        noise: &mut [TorchGenerator],
    ) -> Result<Start> {
        if let Some(fork) = &options.fork {
            return self.forked(fork, options, sampler, noise);
        }
        let Some(init) = &options.init else {
            let latents = (self.initial_noise(options, noise)? * sampler.init_noise_sigma())?;
            return Ok(Start { latents, first_call: 0, paint: None });
        };
        // As in diffusers, skipped steps are counted in calls; PNDM's extra call is therefore kept.
        let first_call = self.skipped(init, options) * sampler.calls_per_step();
        let shape = self.latent_shape(options);
        let mut draw = || scheduler::randn_tensor(&shape, noise, DType::F32, &self.options.device);
        // When inpainting, a run of all steps starts from nothing but noise, and a denoiser that is
        // shown the masked picture needs no other.
        let from_noise = init.mask.is_some() && init.strength == 1.0;
        let picture = match from_noise && self.inpaints() {
            true => None,
            false => Some(self.vae.latent_of(&self.posterior(&init.image)?.sample(&draw()?)?)?),
        };
        let noise = draw()?;
        let latents = match &picture {
            Some(picture) if !from_noise => sampler.add_noise(picture, &noise, first_call)?,
            _ => (&noise * sampler.init_noise_sigma())?,
        };
        let paint = match &init.mask {
            Some(mask) => Some(self.paint(init, mask, picture, noise, &mut draw)?),
            None => None,
        };
        Ok(Start { latents, first_call, paint })
    }
}
