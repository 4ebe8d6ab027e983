//! The noise schedule of training (betas, cumulative alphas, sigmas) and the timesteps that a run
//! visits.
//!
//! diffusers computes the schedule with torch in f32 and the timesteps with numpy in f64. Near the
//! clean end of the schedule `1 - alpha` has few significant bits, so both are reproduced operation
//! by operation. Source: `schedulers/scheduling_*.py` (0.42), whose constructors share this part.

use super::prediction::mix;
use super::refuse::{config_error, refuse};
use super::step::in_f32;
use crate::argument::{SPACING, STEPS};
use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};
use candle_core::Tensor;
use std::str::FromStr;

/// More training steps than this is taken for a broken config.
const MOST_TRAIN_STEPS: usize = 100_000;

/// What a class assumes where the config has no value.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClassDefaults {
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: &'static str,
    pub spacing: Spacing,
    /// Whether the class has `rescale_betas_zero_snr` at all.
    pub rescales: bool,
    /// Values of `beta_schedule` that this class knows beyond the three that all know.
    pub more_betas: &'static [&'static str],
}

/// The defaults that most classes of diffusers share.
pub(super) const DIFFUSERS: ClassDefaults = ClassDefaults {
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "linear",
    spacing: Spacing::Linspace,
    rescales: false,
    more_betas: &[],
};

/// How the timesteps of a run are spread over those of training. The source is Lin et al. 2024,
/// "Common Diffusion Noise Schedules and Sample Steps are Flawed", table 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// Even steps from the first timestep; the last of training is not reached.
    Leading,
    /// Even steps back from the last timestep: what few-step models are made for.
    Trailing,
    /// Both ends.
    Linspace,
}

impl Spacing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Leading, Self::Trailing, Self::Linspace];

    /// The name in `scheduler_config.json` (`timestep_spacing`) and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|spacing| spacing.name() == name)
    }
}

impl FromStr for Spacing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::named(text).ok_or_else(|| {
            Error::argument(
                SPACING,
                format!("there is no spacing {}; choose one of {}", crate::in_quotes(text), names()),
            )
        })
    }
}

/// The training schedule of one config as one class reads it.
#[derive(Debug, Clone)]
pub(super) struct TrainSchedule {
    /// Number of training timesteps.
    pub train_steps: usize,
    /// Cumulative product of `1 - beta` at each of them.
    pub alphas_cumprod: Vec<f32>,
    /// Whether the betas were rescaled so that the last timestep holds no signal.
    pub rescaled: bool,
    pub spacing: Spacing,
    pub steps_offset: f64,
}

impl TrainSchedule {
    /// Reads the fields that all classes share.
    pub(super) fn new(config: &SchedulerConfig, class: &ClassDefaults) -> Result<Self> {
        let train_steps = config.num_train_timesteps.unwrap_or(1000);
        if !(1..=MOST_TRAIN_STEPS).contains(&train_steps) {
            return Err(refuse(config, "num_train_timesteps", train_steps, &format!("1 to {MOST_TRAIN_STEPS}")));
        }
        let mut betas = betas(config, class, train_steps)?;
        if betas.iter().any(|beta| !(0.0..1.0).contains(beta)) {
            return Err(config_error(
                config,
                "the betas (`beta_start`, `beta_end`, `trained_betas`) must each be 0 or more and less than 1",
            ));
        }
        let rescaled = class.rescales && config.rescale_betas_zero_snr.unwrap_or(false);
        if rescaled {
            betas = rescale_to_zero_snr(&betas);
        }
        let alphas_cumprod = cumulative_alphas(&betas);
        if alphas_cumprod.iter().any(|alpha| alpha.is_nan()) {
            return Err(config_error(config, "`rescale_betas_zero_snr` needs betas that are not all 0"));
        }
        let spacing = match config.timestep_spacing.as_deref() {
            None => class.spacing,
            Some("leading") => Spacing::Leading,
            Some("trailing") => Spacing::Trailing,
            Some("linspace") => Spacing::Linspace,
            Some(other) => return Err(refuse(config, "timestep_spacing", other, "leading, trailing or linspace")),
        };
        let steps_offset = config.steps_offset.unwrap_or(0) as f64;
        Ok(Self { train_steps, alphas_cumprod, rescaled, spacing, steps_offset })
    }

    /// The cumulative alpha at training timestep `t`; `None` outside training.
    pub(super) fn alpha(&self, t: i64) -> Option<f32> {
        usize::try_from(t).ok().and_then(|t| self.alphas_cumprod.get(t)).copied()
    }

    /// The cumulative alphas for samplers that work in sigmas: under zero-SNR rescaling the last is
    /// small and not 0.
    pub(super) fn positive_alphas(&self) -> Vec<f32> {
        let mut alphas = self.alphas_cumprod.clone();
        if self.rescaled
            && let Some(last) = alphas.last_mut()
        {
            // diffusers: the smallest subnormal of f16.
            *last = 2f32.powi(-24);
        }
        alphas
    }

    /// `sqrt((1 - alpha) / alpha)` at each training timestep.
    pub(super) fn sigmas(&self) -> Vec<f32> {
        self.positive_alphas().iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect()
    }

    /// The natural logarithms of [`sigmas`](Self::sigmas).
    pub(super) fn log_sigmas(&self) -> Vec<f32> {
        self.sigmas().iter().map(|sigma| sigma.ln()).collect()
    }

    /// The sigmas at `timesteps`, which may lie between those of training.
    pub(super) fn sigmas_at(&self, timesteps: &[f64]) -> Vec<f64> {
        let sigmas = self.sigmas();
        timesteps.iter().map(|&t| interpolate(&sigmas, t)).collect()
    }

    /// The timesteps of a run of `steps`, largest first, whole numbers.
    ///
    /// # Errors
    /// [`Error::Argument`] for `steps` where there are none, more than training had, or a timestep
    /// beyond training.
    pub(super) fn timesteps(&self, steps: usize) -> Result<Vec<f64>> {
        self.check_steps(steps)?;
        let train = self.train_steps as f64;
        let timesteps: Vec<f64> = match self.spacing {
            Spacing::Linspace => {
                linspace(0.0, train - 1.0, steps).into_iter().rev().map(f64::round_ties_even).collect()
            }
            Spacing::Leading => {
                let ratio = (self.train_steps / steps) as f64;
                (0..steps).rev().map(|i| i as f64 * ratio + self.steps_offset).collect()
            }
            Spacing::Trailing => self.trailing(train, steps),
        };
        self.check_in_training(&timesteps)?;
        Ok(timesteps)
    }

    /// Trailing timesteps that start at `last - 1`.
    pub(super) fn trailing(&self, last: f64, steps: usize) -> Vec<f64> {
        let mut timesteps = arange(last, 0.0, -(self.train_steps as f64 / steps as f64));
        // Rounding gives numpy one entry too many for some counts (61 of 1000), which diffusers
        // then runs at timestep -1.
        timesteps.truncate(steps);
        timesteps.iter().map(|t| t.round_ties_even() - 1.0).collect()
    }

    /// Refuses 0 steps and more steps than training had.
    pub(super) fn check_steps(&self, steps: usize) -> Result<()> {
        if steps == 0 {
            return Err(Error::argument(STEPS, "must be 1 or more; 0 given"));
        }
        if steps > self.train_steps {
            let reason = format!("{steps} is more than the {} timesteps the model was trained with", self.train_steps);
            return Err(Error::argument(STEPS, reason));
        }
        Ok(())
    }

    /// `original` with `noise` at the level of `timesteps[index]`: formula (4) of Ho et al. 2020.
    pub(super) fn add_noise(
        &self,
        original: &Tensor,
        noise: &Tensor,
        timesteps: &[f64],
        index: usize,
    ) -> Result<Tensor> {
        let dtype = original.dtype();
        let (noise, original) = in_f32(noise, index, timesteps.len(), original)?;
        let alpha = self.alpha(timesteps[index] as i64).unwrap_or(1.0);
        Ok(mix(&[(alpha.sqrt(), &original), ((1.0 - alpha).sqrt(), &noise)])?.to_dtype(dtype)?)
    }

    /// Refuses timesteps that training did not have: a large `steps_offset` with many steps.
    pub(super) fn check_in_training(&self, timesteps: &[f64]) -> Result<()> {
        match timesteps.iter().find(|&&t| t < 0.0 || t >= self.train_steps as f64) {
            None => Ok(()),
            Some(t) => Err(Error::argument(
                STEPS,
                format!(
                    "with `steps_offset` {} the first timestep would be {t}, and the model was trained with 0 to {}; \
                     use fewer steps",
                    self.steps_offset,
                    self.train_steps - 1
                ),
            )),
        }
    }
}

/// The betas of training, f32.
fn betas(config: &SchedulerConfig, class: &ClassDefaults, count: usize) -> Result<Vec<f32>> {
    if let Some(betas) = &config.trained_betas {
        if betas.len() != count {
            let reason = format!("`trained_betas` has {} values and `num_train_timesteps` is {count}", betas.len());
            return Err(config_error(config, reason));
        }
        return Ok(betas.iter().map(|&beta| beta as f32).collect());
    }
    let start = config.beta_start.unwrap_or(class.beta_start);
    let end = config.beta_end.unwrap_or(class.beta_end);
    let schedule = config.beta_schedule.as_deref().unwrap_or(class.beta_schedule);
    let is_more = class.more_betas.contains(&schedule);
    match schedule {
        "linear" => Ok(linspace_f32(start as f32, end as f32, count)),
        "scaled_linear" => {
            let roots = linspace_f32(start.sqrt() as f32, end.sqrt() as f32, count);
            Ok(roots.into_iter().map(|root| root * root).collect())
        }
        "squaredcos_cap_v2" => {
            Ok(betas_of_alpha_bar(count, |t| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2)))
        }
        "laplace" if is_more => Ok(betas_of_alpha_bar(count, |t| {
            let lambda = -0.5 * 1f64.copysign(0.5 - t) * (1.0 - 2.0 * (0.5 - t).abs() + 1e-6).ln();
            let snr = lambda.exp();
            (snr / (1.0 + snr)).sqrt()
        })),
        "exp" if is_more => Ok(betas_of_alpha_bar(count, |t| (-12.0 * t).exp())),
        "sigmoid" if is_more => Ok(linspace_f32(-6.0, 6.0, count)
            .into_iter()
            .map(|x| 1.0 / (1.0 + (-x).exp()) * (end - start) as f32 + start as f32)
            .collect()),
        other => {
            let known = [&["linear", "scaled_linear", "squaredcos_cap_v2"], class.more_betas].concat();
            Err(refuse(config, "beta_schedule", other, &known.join(", ")))
        }
    }
}

/// Betas that make the cumulative alpha follow `alpha_bar` over time 0 to 1, at most 0.999 (Nichol
/// and Dhariwal 2021).
fn betas_of_alpha_bar(count: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f32> {
    let time = |i: usize| i as f64 / count as f64;
    (0..count).map(|i| (1.0 - alpha_bar(time(i + 1)) / alpha_bar(time(i))).min(0.999) as f32).collect()
}

/// Shifts and scales the square roots of the cumulative alphas: the last becomes 0 and the first
/// stays (Lin et al. 2024, algorithm 1).
fn rescale_to_zero_snr(betas: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = cumulative_alphas(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    for root in &mut roots {
        *root = (*root - last) * (first / (first - last));
    }
    let bars: Vec<f32> = roots.iter().map(|root| root * root).collect();
    let mut previous = 1.0;
    bars.iter()
        .map(|&bar| {
            let beta = 1.0 - bar / previous;
            previous = bar;
            beta
        })
        .collect()
}

/// `torch.cumprod(1 - betas)`: an f64 product, rounded at each entry.
fn cumulative_alphas(betas: &[f32]) -> Vec<f32> {
    let mut product = 1f64;
    betas
        .iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

/// `numpy.linspace(start, end, count)`.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    if count < 2 {
        return vec![start; count];
    }
    let step = (end - start) / (count - 1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    values[count - 1] = end;
    values
}

/// `torch.linspace(start, end, count)` in f32: from both ends to the middle, with fused
/// multiply-adds.
pub(super) fn linspace_f32(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count < 2 {
        return vec![start; count];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(
            |i| {
                if i < count / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((count - 1 - i) as f32, end) }
            },
        )
        .collect()
}

/// `numpy.arange(start, stop, step)` in f64, with numpy's own rounding of the step.
fn arange(start: f64, stop: f64, step: f64) -> Vec<f64> {
    let count = ((stop - start) / step).ceil().max(0.0) as usize;
    let delta = (start + step) - start;
    (0..count).map(|i| start + i as f64 * delta).collect()
}

/// `numpy.interp` over the indices of `values`: linear between entries, the end values outside.
fn interpolate(values: &[f32], position: f64) -> f64 {
    let last = values.len() - 1;
    if position <= 0.0 {
        return f64::from(values[0]);
    }
    let low = position.floor() as usize;
    if low >= last {
        return f64::from(values[last]);
    }
    let (a, b) = (f64::from(values[low]), f64::from(values[low + 1]));
    (b - a) * (position - low as f64) + a
}
