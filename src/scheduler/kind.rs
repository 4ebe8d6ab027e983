//! The table of samplers: name, diffusers class and constructor of each. A new sampler is a file
//! and a line here.

use super::ddim::Ddim;
use super::ddpm::Ddpm;
use super::deis::Deis;
use super::dpm_solver::{DpmSolver, SDE_ALGORITHM};
use super::euler::Euler;
use super::euler_ancestral::EulerAncestral;
use super::flow_euler::{FlowEuler, FlowLevels, FlowRun};
use super::heun::Heun;
use super::kdpm2::Kdpm2;
use super::lcm::Lcm;
use super::lms::Lms;
use super::pndm::Pndm;
use super::singlestep::Singlestep;
use super::step::Scheduler;
use super::tcd::Tcd;
use super::unipc::UniPc;
use crate::argument::SCHEDULER;
use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Declares [`SchedulerKind`] with everything that is listed per sampler. `drawing` ones draw noise
/// in their steps.
macro_rules! samplers {
    (@drawing) => { true };
    (@fixed) => { false };
    ($(
        $(#[$doc:meta])*
        $kind:ident => $name:literal, $class:literal, $noise:ident, |$config:ident, $steps:ident| $new:expr;
    )+) => {
        /// The samplers that attnmap has.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum SchedulerKind {
            $($(#[$doc])* $kind,)+
        }

        impl SchedulerKind {
            /// All of them, in the order that help texts list them.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$kind),+];

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            /// The class in diffusers.
            pub fn class_name(self) -> &'static str {
                match self {
                    $(Self::$kind => $class,)+
                }
            }

            /// Whether it draws noise in its steps too, so that the seed matters beyond the first
            /// latent.
            pub fn draws_noise(self) -> bool {
                match self {
                    $(Self::$kind => samplers!(@$noise),)+
                }
            }

            /// The sampler for a run of `steps` steps; see [`build`](super::build).
            pub(super) fn build(self, config: &SchedulerConfig, steps: usize) -> Result<Box<dyn Scheduler>> {
                match self {
                    $(Self::$kind => { let ($config, $steps) = (config, steps); Ok(Box::new($new?)) })+
                }
            }
        }
    };
}

samplers! {
    /// `ddim`: `DDIMScheduler` with eta 0 (Song et al. 2021).
    Ddim => "ddim", "DDIMScheduler", fixed, |c, n| Ddim::new(c, n);
    /// `pndm`: `PNDMScheduler` (Liu et al. 2022), what Stable Diffusion 1.5 ships.
    Pndm => "pndm", "PNDMScheduler", fixed, |c, n| Pndm::new(c, n);
    /// `euler`: `EulerDiscreteScheduler` (Karras et al. 2022, algorithm 2 without churn).
    Euler => "euler", "EulerDiscreteScheduler", fixed, |c, n| Euler::new(c, n);
    /// `euler-a`: `EulerAncestralDiscreteScheduler`.
    EulerAncestral => "euler-a", "EulerAncestralDiscreteScheduler", drawing, |c, n| EulerAncestral::new(c, n);
    /// `dpm++2m`: `DPMSolverMultistepScheduler` (Lu et al. 2022).
    DpmSolver => "dpm++2m", "DPMSolverMultistepScheduler", fixed, |c, n| DpmSolver::of(c, n, false, false);
    /// `dpm++2m-karras`: the same with `use_karras_sigmas`.
    DpmSolverKarras => "dpm++2m-karras", "DPMSolverMultistepScheduler", fixed, |c, n| DpmSolver::of(c, n, true, false);
    /// `dpm++2m-sde`: the same class with `algorithm_type` sde-dpmsolver++, which draws noise in
    /// each step.
    DpmSolverSde => "dpm++2m-sde", "DPMSolverMultistepScheduler", drawing, |c, n| DpmSolver::of(c, n, false, true);
    /// `dpm++2m-sde-karras`: that with `use_karras_sigmas`.
    DpmSolverSdeKarras => "dpm++2m-sde-karras", "DPMSolverMultistepScheduler", drawing,
        |c, n| DpmSolver::of(c, n, true, true);
    /// `dpm++2s`: `DPMSolverSinglestepScheduler` (Lu et al. 2022); its steps are single calls, as
    /// in diffusers.
    DpmSolverSinglestep => "dpm++2s", "DPMSolverSinglestepScheduler", fixed, |c, n| Singlestep::new(c, n);
    /// `deis`: `DEISMultistepScheduler` (Zhang and Chen 2023).
    Deis => "deis", "DEISMultistepScheduler", fixed, |c, n| Deis::new(c, n);
    /// `unipc`: `UniPCMultistepScheduler` (Zhao et al. 2023).
    UniPc => "unipc", "UniPCMultistepScheduler", fixed, |c, n| UniPc::new(c, n);
    /// `lms`: `LMSDiscreteScheduler` (k-diffusion's linear multistep).
    Lms => "lms", "LMSDiscreteScheduler", fixed, |c, n| Lms::new(c, n);
    /// `heun`: `HeunDiscreteScheduler` (Karras et al. 2022, algorithm 2 without churn); two calls
    /// of the denoiser per step.
    Heun => "heun", "HeunDiscreteScheduler", fixed, |c, n| Heun::new(c, n);
    /// `dpm2`: `KDPM2DiscreteScheduler` (k-diffusion's DPM-Solver-2); two calls of the denoiser per
    /// step.
    Kdpm2 => "dpm2", "KDPM2DiscreteScheduler", fixed, |c, n| Kdpm2::new(c, n, false);
    /// `dpm2-a`: `KDPM2AncestralDiscreteScheduler`; two calls of the denoiser per step.
    Kdpm2Ancestral => "dpm2-a", "KDPM2AncestralDiscreteScheduler", drawing, |c, n| Kdpm2::new(c, n, true);
    /// `ddpm`: `DDPMScheduler` (Ho et al. 2020).
    Ddpm => "ddpm", "DDPMScheduler", drawing, |c, n| Ddpm::new(c, n);
    /// `lcm`: `LCMScheduler` (Luo et al. 2023), for checkpoints distilled so.
    Lcm => "lcm", "LCMScheduler", drawing, |c, n| Lcm::new(c, n, 1.0);
    /// `tcd`: `TCDScheduler` (Zheng et al. 2024), for checkpoints distilled so.
    Tcd => "tcd", "TCDScheduler", drawing, |c, n| Tcd::new(c, n);
    /// `flow-euler`: `FlowMatchEulerDiscreteScheduler`, for checkpoints trained by flow matching.
    /// Built so it is that of the least image; see [`build_flow`](super::build_flow).
    FlowEuler => "flow-euler", "FlowMatchEulerDiscreteScheduler", fixed,
        |c, n| FlowEuler::new(c, FlowRun {
            steps: n,
            image_tokens: c.base_image_seq_len.unwrap_or(256),
            levels: FlowLevels::OfSchedule,
        });
}

impl SchedulerKind {
    /// The kind that a config asks for by its class.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a class that attnmap does not have. Its way out is to choose a
    /// kind by the argument [`SCHEDULER`].
    pub fn of_config(config: &SchedulerConfig) -> Result<Self> {
        let kind = Self::ALL.into_iter().find(|kind| kind.class_name() == config.class_name);
        match kind {
            Some(kind) => Ok(kind.with(config)),
            None => Err(Error::Unsupported {
                what: format!("the scheduler {} of {}", config.class_name, config.class_file.display()),
                way_out: format!("choose another with {SCHEDULER}: {}", names()),
            }),
        }
    }

    /// The kind that `run.json` names by its name on the command line. Where another program made
    /// the run, it is named by its class, with the options of the checkpoint's `config`.
    ///
    /// # Errors
    /// [`Error::Argument`] for an unknown name.
    pub fn recorded(name: &str, config: &SchedulerConfig) -> Result<Self> {
        let by_class = Self::ALL.into_iter().find(|kind| kind.class_name() == name);
        by_class.map_or_else(|| name.parse(), |kind| Ok(kind.with(config)))
    }

    /// Whether it is for checkpoints that were trained by flow matching.
    pub fn flows(self) -> bool {
        self == Self::FlowEuler
    }

    /// What this kind is once it has read `config`. As in diffusers' `from_config`, `dpm++2m` keeps
    /// Karras sigmas and the SDE form where the config asks for them.
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
            Error::argument(
                SCHEDULER,
                format!("there is no scheduler {}; choose one of {}", crate::in_quotes(text), names()),
            )
        })
    }
}

fn names() -> String {
    SchedulerKind::ALL.map(SchedulerKind::name).join(", ")
}

impl TryFrom<String> for SchedulerKind {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<SchedulerKind> for &'static str {
    fn from(kind: SchedulerKind) -> Self {
        kind.name()
    }
}
