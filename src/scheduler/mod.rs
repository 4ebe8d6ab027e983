//! Samplers as pure step functions, read from `scheduler_config.json`, and the torch-compatible
//! noise source.
//!
//! [`build`] turns a checkpoint's config into a [`Scheduler`] for one run of a given number of
//! steps. Each class is one file and follows its counterpart in diffusers 0.42
//! (`schedulers/scheduling_*.py`). It has the same coefficients (f32 where torch has f32) and the
//! same draws of noise in the same order.
//!
//! ```no_run
//! # use attnmap::scheduler::{SchedulerKind, TorchGenerator, build};
//! # fn denoise(_: &candle_core::Tensor, _: f64) -> attnmap::Result<candle_core::Tensor> { unimplemented!() }
//! # fn run(config: &attnmap::checkpoint::SchedulerConfig) -> attnmap::Result<()> {
//! let mut noise = [TorchGenerator::new(42)];
//! let mut scheduler = build(config, Some(SchedulerKind::Euler), 30)?;
//! let latents = attnmap::scheduler::randn_tensor((1, 4, 64, 64), &mut noise, candle_core::DType::F32, &candle_core::Device::Cpu)?;
//! let mut sample = (latents * scheduler.init_noise_sigma())?;
//! for (index, timestep) in scheduler.timesteps().to_vec().into_iter().enumerate() {
//!     let output = denoise(&scheduler.scale_model_input(&sample, index)?, timestep)?;
//!     sample = scheduler.step(&output, index, &sample, &mut noise)?.previous;
//! }
//! # Ok(()) }
//! ```

mod ddim;
mod ddpm;
mod deis;
mod dpm_solver;
mod euler;
mod euler_ancestral;
mod flow_euler;
mod heun;
mod kdpm2;
mod kind;
mod lambda;
mod lcm;
mod lms;
mod noise;
mod pndm;
mod prediction;
mod refuse;
mod schedule;
mod sigma_levels;
mod sigmas;
mod singlestep;
mod step;
mod tcd;
mod unipc;

pub use flow_euler::{FlowLevels, FlowRun};
pub use kind::SchedulerKind;
pub use noise::{TorchGenerator, randn_tensor};
pub use schedule::Spacing;
pub use step::{Scheduler, Stepped};

use crate::argument::SCHEDULER;
use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};

/// The scheduler for a run of `steps` steps.
///
/// Without `kind` it is the config's own class. With one, the config is read as diffusers'
/// `Class.from_config(other.config)` does. Fields that the class does not have are passed over, and
/// absent ones get that class's defaults.
///
/// # Errors
/// [`Error::Argument`] for `steps` of 0, more than training had, or otherwise impossible for this
/// sampler. [`Error::Config`] names a field whose value is not supported. [`Error::Unsupported`]
/// names an unknown class.
pub fn build(config: &SchedulerConfig, kind: Option<SchedulerKind>, steps: usize) -> Result<Box<dyn Scheduler>> {
    let kind = match kind {
        Some(kind) => kind,
        None => SchedulerKind::of_config(config)?,
    };
    kind.build(config, steps)
}

/// The `lcm` scheduler of a run that sets out from a picture, as diffusers'
/// `LatentConsistencyModelImg2ImgPipeline` has it. All of `steps` are taken. They are chosen from
/// the last `strength` (above 0, at most 1) of the timesteps of distillation.
///
/// # Errors
/// As [`build`], and [`Error::Argument`] when the share holds fewer timesteps than `steps`.
pub(crate) fn build_lcm_part(config: &SchedulerConfig, steps: usize, strength: f64) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(lcm::Lcm::new(config, steps, strength)?))
}

/// The scheduler of a flow matching checkpoint, whose noise levels may depend on the image's size.
///
/// # Errors
/// As [`build`], and [`Error::Argument`] for a `kind` that is no sampler of flow matching.
/// [`Error::Unsupported`] where that is the checkpoint's own.
pub fn build_flow(config: &SchedulerConfig, kind: Option<SchedulerKind>, run: FlowRun) -> Result<Box<dyn Scheduler>> {
    let own = SchedulerKind::of_config(config).ok();
    match (kind, own) {
        (Some(kind), _) if !kind.flows() => Err(Error::argument(
            SCHEDULER,
            format!("{kind} denoises, and this checkpoint was trained by flow matching; choose flow-euler"),
        )),
        // Nobody chose it: it is the checkpoint's own.
        (None, own) if own.is_none_or(|own| !own.flows()) => Err(Error::Unsupported {
            what: format!("the scheduler {} of {} for flow matching", config.class_name, config.class_file.display()),
            way_out: format!("choose {SCHEDULER} flow-euler"),
        }),
        _ => Ok(Box::new(flow_euler::FlowEuler::new(config, run)?)),
    }
}

/// How much signal and how much noise there are in a noisy latent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseLevel {
    /// Factor of the clean latent.
    pub signal: f64,
    /// Factor of standard normal noise.
    pub noise: f64,
}

impl NoiseLevel {
    /// The share of noise in the variance, 0 to 1.
    pub fn noise_share(self) -> f64 {
        let (signal, noise) = (self.signal * self.signal, self.noise * self.noise);
        noise / (signal + noise)
    }
}

/// The level of a noisy latent at a timestep of training; `None` beyond the last one. `flows` is
/// whether the checkpoint was trained by flow matching.
///
/// # Errors
/// [`Error::Config`] naming a field whose value is not supported.
pub fn level(config: &SchedulerConfig, flows: bool, timestep: usize) -> Result<Option<NoiseLevel>> {
    if flows {
        let share = timestep as f64 / config.num_train_timesteps.unwrap_or(1000) as f64;
        return Ok((share <= 1.0).then_some(NoiseLevel { signal: 1.0 - share, noise: share }));
    }
    let of = |alpha: f64| NoiseLevel { signal: alpha.sqrt(), noise: (1.0 - alpha).sqrt() };
    Ok(alpha_bar(config, timestep)?.map(of))
}

/// The share of signal in a noisy latent at a timestep of training, 0 to 1. It is the cumulative
/// product of `1 - beta` up to it (diffusers' `alphas_cumprod`). `None` beyond the last timestep.
///
/// # Errors
/// [`Error::Config`] naming a field whose value is not supported.
pub(crate) fn alpha_bar(config: &SchedulerConfig, timestep: usize) -> Result<Option<f64>> {
    ddim::alpha_bar(config, timestep)
}

/// The config as diffusers' `StableDiffusionPipeline` (SD 1 and 2, not SDXL or LCM) uses it. Its
/// constructor sets `steps_offset` to 1 and `clip_sample` to false whatever the file says, because
/// early checkpoints shipped without them.
///
/// A pipeline that wants diffusers' images calls this first; [`build`] itself takes a config at its
/// word. `kind` is the sampler chosen instead of the config's own: a value that was absent from the
/// file does not carry over to another class.
pub fn as_stable_diffusion(config: &SchedulerConfig, kind: Option<SchedulerKind>) -> SchedulerConfig {
    let mut config = config.clone();
    let own_class = kind.is_none_or(|kind| kind.class_name() == config.class_name);
    if own_class || config.steps_offset.is_some() {
        config.steps_offset = Some(1);
    }
    if own_class || config.clip_sample.is_some() {
        config.clip_sample = Some(false);
    }
    config
}

/// As [`as_stable_diffusion`], for diffusers' `StableDiffusionInpaintPipeline`: it leaves
/// `clip_sample` as it is, and sets `skip_prk_steps` to true.
pub(crate) fn as_inpainting(config: &SchedulerConfig, kind: Option<SchedulerKind>) -> SchedulerConfig {
    let own_class = kind.is_none_or(|kind| kind.class_name() == config.class_name);
    let skips = own_class || config.skip_prk_steps.is_some();
    SchedulerConfig {
        clip_sample: config.clip_sample,
        skip_prk_steps: if skips { Some(true) } else { None },
        ..as_stable_diffusion(config, kind)
    }
}
