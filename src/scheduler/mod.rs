//! Samplers as pure step functions, read from `scheduler_config.json`, and the torch-compatible noise source.
//!
//! [`build`] turns a checkpoint's config into a [`Scheduler`] for one run of a given number of steps. Each class is one file
//! and follows its counterpart in diffusers 0.42 (`schedulers/scheduling_*.py`): the same coefficients (f32 where torch has f32),
//! the same draws of noise in the same order.
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
mod heun;
mod kdpm2;
mod lambda;
mod lcm;
mod lms;
mod noise;
mod pndm;
mod prediction;
mod schedule;
mod sigmas;
mod singlestep;
mod tcd;
mod unipc;

pub use noise::{TorchGenerator, randn_tensor};
pub use schedule::Spacing;

use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A sampler for one run: it knows the timesteps to visit and how to get from one sample to the next.
///
/// `index` counts the entries of [`timesteps`](Self::timesteps) from 0. Multistep samplers remember earlier outputs, so steps are
/// taken in order, every run has its own scheduler, and a run may begin at a later index (image to image).
pub trait Scheduler: Send + fmt::Debug {
    /// The timesteps to call the model at, in order, in training steps; fractional for Euler with linspace spacing. There may be
    /// more than the steps asked for: PNDM makes one call more, Heun and DPM-Solver-2 two calls a step.
    fn timesteps(&self) -> &[f64];

    /// Calls of the model for each step but the last, which may have fewer: diffusers' `order`. A run that leaves out steps at its
    /// beginning leaves out so many calls for each.
    fn calls_per_step(&self) -> usize {
        1
    }

    /// What unit noise is multiplied with to become the first sample.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// The sample as the model wants to see it at `index`: scaled to unit variance by the Euler samplers, unchanged by the others.
    fn scale_model_input(&self, sample: &Tensor, _index: usize) -> Result<Tensor> {
        Ok(sample.clone())
    }

    /// One step: from `sample` at `index` and the model's `output` there to the sample at the next index.
    ///
    /// `output` and `sample` have the same shape `[B, C, h, w]`. The arithmetic is f32; the results have `sample`'s dtype. Samplers
    /// that add noise draw it in `sample`'s dtype from `noise`: one generator for the batch, or one a row (see [`randn_tensor`]).
    ///
    /// Errors: [`Error::Tensor`] for differing shapes, an index past the end, or a wrong number of generators.
    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, noise: &mut [TorchGenerator])
    -> Result<Stepped>;

    /// `original` (a clean latent) with `noise` added to the level of the sample at `index`; the start of image to image.
    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor>;
}

/// What a [`Scheduler::step`] gives.
#[derive(Debug, Clone)]
pub struct Stepped {
    /// The sample at the next index; after the last step, the finished latent.
    pub previous: Tensor,
    /// The model's idea of the finished latent at this step, for previews.
    pub denoised: Tensor,
}

/// `algorithm_type` of DPM-Solver++ for the SDE.
const SDE_ALGORITHM: &str = "sde-dpmsolver++";

/// The samplers that attnmap has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SchedulerKind {
    /// `ddim`: `DDIMScheduler` with eta 0 (Song et al. 2021).
    #[serde(rename = "ddim")]
    Ddim,
    /// `pndm`: `PNDMScheduler` (Liu et al. 2022), what Stable Diffusion 1.5 ships.
    #[serde(rename = "pndm")]
    Pndm,
    /// `euler`: `EulerDiscreteScheduler` (Karras et al. 2022, algorithm 2 without churn).
    #[serde(rename = "euler")]
    Euler,
    /// `euler-a`: `EulerAncestralDiscreteScheduler`.
    #[serde(rename = "euler-a")]
    EulerAncestral,
    /// `dpm++2m`: `DPMSolverMultistepScheduler` (Lu et al. 2022).
    #[serde(rename = "dpm++2m")]
    DpmSolver,
    /// `dpm++2m-karras`: the same with `use_karras_sigmas`.
    #[serde(rename = "dpm++2m-karras")]
    DpmSolverKarras,
    /// `dpm++2m-sde`: the same class with `algorithm_type` sde-dpmsolver++, which draws noise in each step.
    #[serde(rename = "dpm++2m-sde")]
    DpmSolverSde,
    /// `dpm++2m-sde-karras`: that with `use_karras_sigmas`.
    #[serde(rename = "dpm++2m-sde-karras")]
    DpmSolverSdeKarras,
    /// `dpm++2s`: `DPMSolverSinglestepScheduler` (Lu et al. 2022); its steps are single calls, as in diffusers.
    #[serde(rename = "dpm++2s")]
    DpmSolverSinglestep,
    /// `deis`: `DEISMultistepScheduler` (Zhang and Chen 2023).
    #[serde(rename = "deis")]
    Deis,
    /// `unipc`: `UniPCMultistepScheduler` (Zhao et al. 2023).
    #[serde(rename = "unipc")]
    UniPc,
    /// `lms`: `LMSDiscreteScheduler` (k-diffusion's linear multistep).
    #[serde(rename = "lms")]
    Lms,
    /// `heun`: `HeunDiscreteScheduler` (Karras et al. 2022, algorithm 2 without churn); two UNet calls a step.
    #[serde(rename = "heun")]
    Heun,
    /// `dpm2`: `KDPM2DiscreteScheduler` (k-diffusion's DPM-Solver-2); two UNet calls a step.
    #[serde(rename = "dpm2")]
    Kdpm2,
    /// `dpm2-a`: `KDPM2AncestralDiscreteScheduler`; two UNet calls a step.
    #[serde(rename = "dpm2-a")]
    Kdpm2Ancestral,
    /// `ddpm`: `DDPMScheduler` (Ho et al. 2020).
    #[serde(rename = "ddpm")]
    Ddpm,
    /// `lcm`: `LCMScheduler` (Luo et al. 2023), for checkpoints distilled so.
    #[serde(rename = "lcm")]
    Lcm,
    /// `tcd`: `TCDScheduler` (Zheng et al. 2024), for checkpoints distilled so.
    #[serde(rename = "tcd")]
    Tcd,
}

impl SchedulerKind {
    /// All of them, in the order that help texts list them.
    pub const ALL: [Self; 18] = [
        Self::Ddim,
        Self::Pndm,
        Self::Euler,
        Self::EulerAncestral,
        Self::DpmSolver,
        Self::DpmSolverKarras,
        Self::DpmSolverSde,
        Self::DpmSolverSdeKarras,
        Self::DpmSolverSinglestep,
        Self::Deis,
        Self::UniPc,
        Self::Lms,
        Self::Heun,
        Self::Kdpm2,
        Self::Kdpm2Ancestral,
        Self::Ddpm,
        Self::Lcm,
        Self::Tcd,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Pndm => "pndm",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-a",
            Self::DpmSolver => "dpm++2m",
            Self::DpmSolverKarras => "dpm++2m-karras",
            Self::DpmSolverSde => "dpm++2m-sde",
            Self::DpmSolverSdeKarras => "dpm++2m-sde-karras",
            Self::DpmSolverSinglestep => "dpm++2s",
            Self::Deis => "deis",
            Self::UniPc => "unipc",
            Self::Lms => "lms",
            Self::Heun => "heun",
            Self::Kdpm2 => "dpm2",
            Self::Kdpm2Ancestral => "dpm2-a",
            Self::Ddpm => "ddpm",
            Self::Lcm => "lcm",
            Self::Tcd => "tcd",
        }
    }

    /// The class in diffusers.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Ddim => "DDIMScheduler",
            Self::Pndm => "PNDMScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::DpmSolver | Self::DpmSolverKarras | Self::DpmSolverSde | Self::DpmSolverSdeKarras => {
                "DPMSolverMultistepScheduler"
            }
            Self::DpmSolverSinglestep => "DPMSolverSinglestepScheduler",
            Self::Deis => "DEISMultistepScheduler",
            Self::UniPc => "UniPCMultistepScheduler",
            Self::Lms => "LMSDiscreteScheduler",
            Self::Heun => "HeunDiscreteScheduler",
            Self::Kdpm2 => "KDPM2DiscreteScheduler",
            Self::Kdpm2Ancestral => "KDPM2AncestralDiscreteScheduler",
            Self::Ddpm => "DDPMScheduler",
            Self::Lcm => "LCMScheduler",
            Self::Tcd => "TCDScheduler",
        }
    }

    /// Whether it draws noise in its steps too, so that the seed matters beyond the first latent.
    pub fn draws_noise(self) -> bool {
        match self {
            Self::EulerAncestral | Self::DpmSolverSde | Self::DpmSolverSdeKarras | Self::Kdpm2Ancestral => true,
            Self::Ddpm | Self::Lcm | Self::Tcd => true,
            Self::Ddim | Self::Pndm | Self::Euler | Self::DpmSolver | Self::DpmSolverKarras => false,
            Self::DpmSolverSinglestep | Self::Deis | Self::UniPc | Self::Lms | Self::Heun | Self::Kdpm2 => false,
        }
    }

    /// The kind that a config asks for by its class.
    ///
    /// Errors: [`Error::Unsupported`] naming a class that attnmap does not have and the way out (`--scheduler`).
    pub fn of_config(config: &SchedulerConfig) -> Result<Self> {
        let kind = Self::ALL.into_iter().find(|kind| kind.class_name() == config.class_name);
        match kind {
            Some(kind) => Ok(kind.with(config)),
            None => Err(Error::Unsupported {
                what: format!("the scheduler {} of {}", config.class_name, config.class_file.display()),
                way_out: format!("choose another with --scheduler: {}", names()),
            }),
        }
    }

    /// What this kind is once it has read `config`: as in diffusers' `from_config`, `dpm++2m` keeps Karras sigmas and the SDE form where
    /// the config asks for them.
    pub fn with(self, config: &SchedulerConfig) -> Self {
        let (karras, sde) = match self {
            Self::DpmSolver => (false, false),
            Self::DpmSolverKarras => (true, false),
            Self::DpmSolverSde => (false, true),
            Self::DpmSolverSdeKarras => (true, true),
            other => return other,
        };
        let karras = karras || config.use_karras_sigmas.unwrap_or(false);
        match (sde || config.algorithm_type.as_deref() == Some(SDE_ALGORITHM), karras) {
            (false, false) => Self::DpmSolver,
            (false, true) => Self::DpmSolverKarras,
            (true, false) => Self::DpmSolverSde,
            (true, true) => Self::DpmSolverSdeKarras,
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text.trim())).ok_or_else(|| {
            Error::option(
                "--scheduler",
                format!("there is no scheduler {}; choose one of {}", crate::in_quotes(text), names()),
            )
        })
    }
}

fn names() -> String {
    SchedulerKind::ALL.map(SchedulerKind::name).join(", ")
}

/// The scheduler for a run of `steps` steps.
///
/// Without `kind` it is the config's own class. With one, the config is read as diffusers' `Class.from_config(other.config)`
/// does: fields that the class does not have are passed over, absent ones get that class's defaults.
///
/// Errors: [`Error::Option`] for `--steps` of 0, more than training had, or otherwise impossible for this sampler;
/// [`Error::Config`] naming a field whose value is not supported; [`Error::Unsupported`] for an unknown class.
pub fn build(config: &SchedulerConfig, kind: Option<SchedulerKind>, steps: usize) -> Result<Box<dyn Scheduler>> {
    let kind = match kind {
        Some(kind) => kind,
        None => SchedulerKind::of_config(config)?,
    };
    Ok(match kind {
        SchedulerKind::Ddim => Box::new(ddim::Ddim::new(config, steps)?),
        SchedulerKind::Pndm => Box::new(pndm::Pndm::new(config, steps)?),
        SchedulerKind::Euler => Box::new(euler::Euler::new(config, steps)?),
        SchedulerKind::EulerAncestral => Box::new(euler_ancestral::EulerAncestral::new(config, steps)?),
        SchedulerKind::DpmSolver
        | SchedulerKind::DpmSolverKarras
        | SchedulerKind::DpmSolverSde
        | SchedulerKind::DpmSolverSdeKarras => {
            let mut config = config.clone();
            if matches!(kind, SchedulerKind::DpmSolverKarras | SchedulerKind::DpmSolverSdeKarras) {
                config.use_karras_sigmas = Some(true);
            }
            if matches!(kind, SchedulerKind::DpmSolverSde | SchedulerKind::DpmSolverSdeKarras) {
                config.algorithm_type = Some(SDE_ALGORITHM.into());
            }
            Box::new(dpm_solver::DpmSolver::new(&config, steps)?)
        }
        SchedulerKind::DpmSolverSinglestep => Box::new(singlestep::Singlestep::new(config, steps)?),
        SchedulerKind::Deis => Box::new(deis::Deis::new(config, steps)?),
        SchedulerKind::UniPc => Box::new(unipc::UniPc::new(config, steps)?),
        SchedulerKind::Lms => Box::new(lms::Lms::new(config, steps)?),
        SchedulerKind::Heun => Box::new(heun::Heun::new(config, steps)?),
        SchedulerKind::Kdpm2 => Box::new(kdpm2::Kdpm2::new(config, steps, false)?),
        SchedulerKind::Kdpm2Ancestral => Box::new(kdpm2::Kdpm2::new(config, steps, true)?),
        SchedulerKind::Tcd => Box::new(tcd::Tcd::new(config, steps)?),
        SchedulerKind::Ddpm => Box::new(ddpm::Ddpm::new(config, steps)?),
        SchedulerKind::Lcm => Box::new(lcm::Lcm::new(config, steps, 1.0)?),
    })
}

/// The `lcm` scheduler of a run that sets out from a picture, as diffusers' `LatentConsistencyModelImg2ImgPipeline` has it: all of `steps`
/// are taken, chosen from the last `strength` (above 0, at most 1) of the timesteps of distillation.
///
/// Errors: as [`build`], and [`Error::Option`] when the share holds fewer timesteps than `steps`.
pub fn build_lcm_part(config: &SchedulerConfig, steps: usize, strength: f64) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(lcm::Lcm::new(config, steps, strength)?))
}

/// The share of signal in a noisy latent at a timestep of training: the cumulative product of `1 - beta` up to it, 0 to 1
/// (diffusers' `alphas_cumprod`); `None` beyond the last timestep.
///
/// Errors: [`Error::Config`] naming a field whose value is not supported.
pub fn alpha_bar(config: &SchedulerConfig, timestep: usize) -> Result<Option<f64>> {
    ddim::alpha_bar(config, timestep)
}

/// The config as diffusers' `StableDiffusionPipeline` (SD 1 and 2, not SDXL or LCM) uses it: its constructor sets `steps_offset` to 1
/// and `clip_sample` to false whatever the file says, because early checkpoints shipped without them.
///
/// A pipeline that wants diffusers' images calls this first; [`build`] itself takes a config at its word. `kind` is the sampler
/// chosen instead of the config's own: a value that was absent from the file does not carry over to another class.
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

/// As [`as_stable_diffusion`], for diffusers' `StableDiffusionInpaintPipeline`: it leaves `clip_sample` as it is, and sets
/// `skip_prk_steps` to true.
pub fn as_inpainting(config: &SchedulerConfig, kind: Option<SchedulerKind>) -> SchedulerConfig {
    let own_class = kind.is_none_or(|kind| kind.class_name() == config.class_name);
    let skips = own_class || config.skip_prk_steps.is_some();
    SchedulerConfig {
        clip_sample: config.clip_sample,
        skip_prk_steps: if skips { Some(true) } else { None },
        ..as_stable_diffusion(config, kind)
    }
}

/// `output` and `sample` in f32, once `index` and the shapes are seen to be right.
fn in_f32(output: &Tensor, index: usize, count: usize, sample: &Tensor) -> Result<(Tensor, Tensor)> {
    if index >= count {
        return Err(candle_core::Error::Msg(format!("step {index} of a run of {count}")).into());
    }
    if output.shape() != sample.shape() {
        let message = format!("a model output of {:?} for a sample of {:?}", output.dims(), sample.dims());
        return Err(candle_core::Error::Msg(message).into());
    }
    Ok((output.to_dtype(DType::F32)?, sample.to_dtype(DType::F32)?))
}

impl Stepped {
    /// From f32 results, in the dtype of the sample that they came from.
    fn new(previous: &Tensor, denoised: &Tensor, dtype: DType) -> Result<Self> {
        Ok(Self { previous: previous.to_dtype(dtype)?, denoised: denoised.to_dtype(dtype)? })
    }
}

/// Noise of `sample`'s shape, drawn in its dtype, in f32.
fn draw_like(sample: &Tensor, noise: &mut [TorchGenerator]) -> Result<Tensor> {
    Ok(randn_tensor(sample.shape(), noise, sample.dtype(), sample.device())?.to_dtype(DType::F32)?)
}
