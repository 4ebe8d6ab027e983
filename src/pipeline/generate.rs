//! The run itself: from noise to images, in diffusers' order of operations.

use super::generation::{Event, Generation, Generations, Timings};
use super::load::Pipeline;
use super::options::{Options, check_conditions, check_guidance};
use super::start::Start;
use crate::argument::{IMAGES, LATENTS, PREDICTION, SCHEDULER, SPACING};
use crate::checkpoint::{Family, SchedulerConfig};
use crate::model::PreparedPrompt;
use crate::prompt::Prompt;
use crate::scheduler::{self, FlowLevels, FlowRun, Scheduler, SchedulerKind, TorchGenerator};
use crate::trace::{AttentionObserver, Grid, Step};
use crate::{Error, Result};
use candle_core::{DType, Device, IndexOp, Tensor};
use image::RgbImage;
use std::ops::ControlFlow;
use std::time::Instant;

/// The most that a value of given latents may be: standard normal noise hardly goes beyond 6.
const MOST_LATENT: f32 = 1e4;

impl Pipeline {
    /// The sampler of a run with `options`: the chosen one, or the checkpoint's own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a class of the checkpoint that attnmap does not have.
    pub fn sampler_kind(&self, options: &Options) -> Result<SchedulerKind> {
        match options.scheduler {
            Some(kind) => Ok(kind.with(&self.scheduler)),
            None => SchedulerKind::of_config(&self.scheduler),
        }
    }

    /// The timesteps of the calls of a run with `options`, without those that a picture to start
    /// from leaves out.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn timesteps(&self, options: &Options) -> Result<Vec<f64>> {
        let sampler = self.sampler(options)?;
        // Else more calls might be left out than there are.
        self.check_init(options)?;
        self.check_fork(options, &*sampler)?;
        let skipped = options.init.as_ref().map_or(0, |init| self.skipped(init, options));
        let first = options.fork.as_ref().map_or(skipped * sampler.calls_per_step(), |fork| fork.call);
        Ok(sampler.timesteps()[first..].to_vec())
    }

    /// Calls of the network for each step of a run with `options`, but the last.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn calls_per_step(&self, options: &Options) -> Result<usize> {
        Ok(self.sampler(options)?.calls_per_step().max(1))
    }

    /// Refuses what cannot be run, before any work is done.
    ///
    /// # Errors
    /// [`Error::Argument`] that names the argument and the reason.
    pub fn check(&self, options: &Options) -> Result<()> {
        self.check_size(Grid::new(options.height, options.width))?;
        if options.seeds.is_empty() {
            return Err(Error::argument(IMAGES, "must be 1 or more"));
        }
        check_guidance(options.guidance_scale)?;
        self.check_joint(!options.concepts.is_empty(), false)?;
        options.probes.iter().try_for_each(|probe| self.probe(probe).map(drop))?;
        let sized = self.family == Family::StableDiffusionXl;
        check_conditions(options.original_size.is_some(), options.crop != [0, 0], sized)?;
        self.check_clip_skip(options.clip_skip)?;
        if let Some(latents) = &options.latents {
            let expected = self.latent_shape(options);
            if latents.dims() != expected {
                return Err(Error::argument(
                    LATENTS,
                    format!("the tensor has shape {:?}; this run needs {expected:?}", latents.dims()),
                ));
            }
            let largest = latents.to_dtype(DType::F32)?.abs()?.flatten_all()?.to_vec1::<f32>()?;
            // A comparison with NaN is false.
            if let Some(value) = largest.into_iter().find(|&value| !(0.0..=MOST_LATENT).contains(&value)) {
                let reason = format!("the tensor holds {value}; standard normal noise is asked for");
                return Err(Error::argument(LATENTS, reason));
            }
        }
        self.check_init(options)?;
        let sampler = self.sampler(options)?;
        self.check_fork(options, &*sampler)
    }

    /// The scheduler of a run, its config as the family's pipeline in diffusers takes it.
    pub(super) fn sampler(&self, options: &Options) -> Result<Box<dyn Scheduler>> {
        let mut config = match self.family {
            Family::StableDiffusion if options.init.as_ref().is_some_and(|init| init.mask.is_some()) => {
                scheduler::as_inpainting(&self.scheduler, options.scheduler)
            }
            Family::StableDiffusion => scheduler::as_stable_diffusion(&self.scheduler, options.scheduler),
            Family::LatentConsistency
            | Family::StableDiffusionXl
            | Family::StableDiffusion3
            | Family::Flux
            | Family::ZImage => self.scheduler.clone(),
        };
        if self.family.flows() {
            return self.flow_sampler(options);
        }
        if options.scheduler.is_some_and(SchedulerKind::flows) {
            let reason = "flow-euler is for checkpoints trained by flow matching \
                          (Stable Diffusion 3, FLUX.1, Z-Image); choose another";
            return Err(Error::argument(SCHEDULER, reason));
        }
        if let Some(spacing) = options.spacing {
            config.timestep_spacing = Some(spacing.name().into());
        }
        let build = |config: &SchedulerConfig| match &options.init {
            Some(init) if self.shortens_schedule(options) => {
                scheduler::build_lcm_part(config, options.steps, init.strength)
            }
            _ => scheduler::build(config, options.scheduler, options.steps),
        };
        let built = build(&config);
        let (Err(error @ Error::Config { .. }), Some(prediction)) = (&built, &self.changes.prediction) else {
            return built;
        };
        // The file says nothing of what the user said: blame it only where it would be refused
        // without that too.
        config.prediction_type = None;
        if build(&config).is_err() {
            return built;
        }
        let with = options.scheduler.map_or(config.class_name, |kind| format!("{SCHEDULER} {kind}"));
        let reason = format!("{prediction} does not go with {with}; choose another of either ({error})");
        Err(Error::argument(PREDICTION, reason))
    }

    /// What the difference of both halves is multiplied by. Z-Image's pipeline in diffusers adds it
    /// to the conditional half, all others to the unconditional one.
    fn applied_guidance(&self, options: &Options) -> f64 {
        options.guidance_scale + (1.0 - self.no_guidance())
    }

    /// The scheduler of a run with a flow matching checkpoint.
    fn flow_sampler(&self, options: &Options) -> Result<Box<dyn Scheduler>> {
        if options.spacing.is_some() {
            return Err(Error::argument(SPACING, "flow matching has one spacing of noise levels; leave it out"));
        }
        let patch = self.size_factor;
        let image_tokens = (options.height / patch) * (options.width / patch);
        let levels = match self.family {
            Family::Flux | Family::ZImage => FlowLevels::FromOne,
            _ => FlowLevels::OfSchedule,
        };
        let run = FlowRun { steps: options.steps, image_tokens, levels };
        scheduler::build_flow(&self.scheduler, options.scheduler, run)
    }

    /// Generates one image per seed from a [`prompt`](Self::prompt) of `options`. `observer` is
    /// told of every attention site it wants; `progress` of every [`Event`].
    ///
    /// # Errors
    /// [`Error::Argument`] for what [`check`](Self::check) refuses, [`Error::Interrupted`] when
    /// `progress` breaks.
    pub fn generate(
        &self,
        prompt: &Prompt,
        options: &Options,
        observer: &mut dyn AttentionObserver,
        progress: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generations> {
        self.check(options)?;
        let mut tell = |event: Event| match progress(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        };
        let mut timings = Timings::default();
        let images = options.seeds.len();
        let guided = self.guided(options);

        let start = Instant::now();
        let (context, text) = self.context(prompt, options)?;
        let mut sampler = self.sampler(options)?;
        let mut noise: Vec<_> = options.seeds.iter().map(|&seed| TorchGenerator::new(seed)).collect();
        let Start { mut latents, first_call, paint } = self.start(options, &*sampler, &mut noise)?;
        timings.encode = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let timesteps = sampler.timesteps()[first_call..].to_vec();
        tell(Event::Encoded { calls: timesteps.len() })?;
        for (index, &timestep) in timesteps.iter().enumerate() {
            let step = Step { index, count: timesteps.len(), timestep, images, guided };
            observer.begin_step(&step)?;
            let call = first_call + index;
            let mut input = sampler.scale_model_input(&latents, call)?;
            if let Some(paint) = &paint {
                input = paint.shown(input)?;
            }
            let output = self.predict(&input, &step, &context, self.applied_guidance(options), observer)?;
            let stepped = sampler.step(&output, call, &latents, &mut noise)?;
            latents = match &paint {
                Some(paint) => {
                    let next = (index + 1 < timesteps.len()).then_some(call + 1);
                    paint.keep(stepped.previous, &*sampler, next)?
                }
                None => stepped.previous,
            };
            tell(Event::Stepped { step, denoised: &stepped.denoised, input: &input })?;
        }
        timings.steps = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut done = Vec::with_capacity(images);
        for (image, &seed) in options.seeds.iter().enumerate() {
            let latent = latents.i(image..image + 1)?;
            done.push(Generation { seed, image: self.decode(&latent)?, latent });
            tell(Event::Decoded { image })?;
        }
        timings.decode = start.elapsed().as_secs_f64();
        Ok(Generations { images: done, timesteps, text, timings })
    }

    /// Decodes a latent `[1, channels, h, w]` (as the denoiser sees it) into an image of
    /// `h * factor` x `w * factor` pixels.
    pub fn decode(&self, latent: &Tensor) -> Result<RgbImage> {
        let pixels = self.vae.pixels_of(latent)?.to_device(&Device::Cpu)?;
        rgb_from_tensor(&pixels.i(0)?)
    }

    /// Standard normal noise, `[images, channels, h, w]`, drawn for each image from its own
    /// generator as diffusers does with a list.
    pub(super) fn initial_noise(&self, options: &Options, noise: &mut [TorchGenerator]) -> Result<Tensor> {
        let device = &self.options.device;
        let mut drawn = || scheduler::randn_tensor(&self.latent_shape(options), noise, DType::F32, device);
        let Some(given) = &options.latents else { return drawn() };
        if options.latents_as_drawn {
            drawn()?;
        }
        Ok(given.to_dtype(DType::F32)?.to_device(device)?)
    }

    pub(super) fn latent_shape(&self, options: &Options) -> [usize; 4] {
        let factor = self.vae_factor;
        [options.seeds.len(), self.latent_channels, options.height / factor, options.width / factor]
    }

    /// The guided prediction for `input` `[images, channels, h, w]`, f32.
    fn predict(
        &self,
        input: &Tensor,
        step: &Step,
        context: &PreparedPrompt,
        guidance_scale: f64,
        observer: &mut dyn AttentionObserver,
    ) -> Result<Tensor> {
        let batch = if step.guided { Tensor::cat(&[input, input], 0)? } else { input.clone() };
        let output = self.denoiser.forward(&batch, step.timestep, context, observer)?;
        let conditional = output.i(step.conditional_rows())?;
        if !step.guided {
            return Ok(conditional);
        }
        let unconditional = output.i(..step.images)?;
        Ok((&unconditional + ((conditional - &unconditional)? * guidance_scale)?)?)
    }
}

/// `[3, H, W]` in -1..1 to 8 bits, rounding halves to even as diffusers' `VaeImageProcessor`
/// (numpy) does.
fn rgb_from_tensor(pixels: &Tensor) -> Result<RgbImage> {
    let (_, height, width) = pixels.dims3()?;
    let values = pixels.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
    let bytes = values.iter().map(|v| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect();
    Ok(RgbImage::from_raw(width as u32, height as u32, bytes).expect("three bytes a pixel"))
}
