//! Runs that set out from a picture and not from noise alone: image to image, and the start of
//! inpainting.
//!
//! The order of operations and of random draws is that of diffusers'
//! `pipeline_stable_diffusion_img2img.py` (0.42) with one CPU generator per image. The picture's
//! latent is drawn from the VAE's distribution. Noise is drawn then, and added to the level of the
//! first step that is left. The run goes on from there (Meng et al., 2022, SDEdit). SDXL's pipeline
//! does the same. The pipeline of latent consistency models takes all its steps, from a shorter
//! schedule.

use super::paint::Paint;
use super::{Options, Pipeline};
use crate::checkpoint::Family;
use crate::picture;
use crate::render::write_png;
use crate::run::{Run, Settings};
use crate::scheduler::{self, Scheduler, SchedulerKind, TorchGenerator};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use image::{DynamicImage, GrayImage, RgbImage};
use serde_json::{Value, json};
use std::path::Path;

/// The picture's file in the folder of a run that set out from it.
pub(super) const INIT_FILE: &str = "init.png";

/// The mask's file there.
pub(super) const MASK_FILE: &str = "mask.png";

/// The keys under which [`Settings::more`] holds what a run set out from.
const NAME_KEY: &str = "init";
const STRENGTH_KEY: &str = "strength";
const MASK_KEY: &str = "masked";

/// The picture that a run sets out from.
#[derive(Debug, Clone, PartialEq)]
pub struct Init {
    /// The picture, of exactly the run's size ([`resize`](crate::picture::resize) makes it so as
    /// diffusers does).
    pub image: RgbImage,
    /// What records call it, e.g. its file's name.
    pub name: String,
    /// Share of the steps that are taken, above 0 and at most 1: how far the picture may change. At
    /// 1 all steps run; the first timestep's noise still leaves a trace of the picture. Latent
    /// consistency models take all steps, from this share of their schedule.
    pub strength: f64,
    /// Only where this is white (128 and above) the picture is drawn anew (inpainting), of the
    /// run's size; [`mask`](crate::picture::mask()) makes it as diffusers does. Needed for
    /// checkpoints that [inpaint](Pipeline::inpaints).
    pub mask: Option<GrayImage>,
}

impl Init {
    /// What [`Options::init`] was in the run that `run` holds; `None` for a run that set out from
    /// noise.
    ///
    /// # Errors
    /// [`Error::Trace`] or [`Error::Io`] when the picture that the folder keeps is missing or
    /// damaged.
    pub fn of_run(run: &Run) -> Result<Option<Self>> {
        let more = &run.record.settings.more;
        let Some(strength) = more.get(STRENGTH_KEY).and_then(Value::as_f64) else { return Ok(None) };
        let name = more.get(NAME_KEY).and_then(Value::as_str).unwrap_or_default().to_owned();
        let masked = more.get(MASK_KEY).and_then(Value::as_bool).unwrap_or(false);
        let image = run.picture(INIT_FILE)?;
        let mask = match masked {
            true => Some(picture::mask(&run.picture(MASK_FILE)?, image.width(), image.height())),
            false => None,
        };
        Ok(Some(Self { image, name, strength, mask }))
    }

    /// Keeps the picture, and its mask, in a run's folder, where [`of_run`](Self::of_run) finds it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        if let Some(mask) = &self.mask {
            let mask = DynamicImage::from(mask.clone()).to_rgb8();
            write_png(&folder.join(MASK_FILE), &mask, &[], true)?;
        }
        write_png(&folder.join(INIT_FILE), &self.image, &[("Title", &self.name)], false)
    }

    /// Adds what records say of it.
    pub(super) fn describe(&self, settings: &mut Settings) {
        settings.more.insert(NAME_KEY.into(), json!(self.name));
        settings.more.insert(STRENGTH_KEY.into(), json!(self.strength));
        if self.mask.is_some() {
            settings.more.insert(MASK_KEY.into(), json!(true));
        }
    }
}

/// Where a run begins.
pub(super) struct Start {
    /// The first sample, f32 `[images, channels, h, w]`.
    pub latents: Tensor,
    /// The index of the first UNet call among the scheduler's timesteps.
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
            return Err(Error::option("--init", reason));
        }
        if !(init.strength > 0.0 && init.strength <= 1.0) {
            return Err(Error::option("--strength", format!("must be above 0 and at most 1; {} given", init.strength)));
        }
        if self.skipped(init, options) == options.steps && options.steps > 0 {
            let reason = format!("{} of {} steps is less than one; raise it, or --steps", init.strength, options.steps);
            return Err(Error::option("--strength", reason));
        }
        if options.latents.is_some() {
            return Err(Error::option("--latents", "does not go with --init, whose noise is the seed's own"));
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
        steps - ((steps as f64 * init.strength) as usize).min(steps)
    }

    /// The first sample of a run, and the call that it is for.
    pub(super) fn start(
        &self,
        options: &Options,
        sampler: &dyn Scheduler,
        noise: &mut [TorchGenerator],
    ) -> Result<Start> {
        let Some(init) = &options.init else {
            let latents = (self.initial_noise(options, noise)? * sampler.init_noise_sigma())?;
            return Ok(Start { latents, first_call: 0, paint: None });
        };
        // As in diffusers, skipped steps are counted in calls; PNDM's extra call is therefore kept.
        let first_call = self.skipped(init, options) * sampler.calls_per_step();
        let shape = self.latent_shape(options);
        let mut draw = || scheduler::randn_tensor(&shape, noise, DType::F32, &self.options.device);
        // When inpainting, a run of all steps starts from nothing but noise, and a UNet that is
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
