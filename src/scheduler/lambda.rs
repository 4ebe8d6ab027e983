//! Noise levels of the samplers that step in lambda, half the log signal-to-noise ratio:
//! DPM-Solver, DEIS and UniPC.
//!
//! Source: `scheduling_dpmsolver_multistep.py` of diffusers 0.42 and its siblings, which share
//! these.

use super::prediction::mix;
use super::refuse::refuse;
use super::schedule::{Spacing, TrainSchedule, linspace};
use super::sigmas::{SigmaSpacing, check_falling, timestep_of_sigma};
use super::step::in_f32;
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

/// Runs shorter than this end with steps of lower order in DPM-Solver and DEIS
/// (`lower_order_final`).
pub(super) const SHORT_RUN: usize = 15;

/// Signal and noise of a variance-preserving sample, and half its log signal-to-noise ratio.
#[derive(Debug, Clone, Copy)]
pub(super) struct LambdaLevel {
    pub alpha: f32,
    pub sigma: f32,
    pub lambda: f32,
}

impl LambdaLevel {
    /// Of the ratio of noise to signal.
    fn of_sigma(sigma: f32) -> Self {
        let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
        let sigma = sigma * alpha;
        Self { alpha, sigma, lambda: alpha.ln() - sigma.ln() }
    }
}

/// The noise levels of a run.
#[derive(Debug)]
pub(super) struct LambdaLevels {
    pub timesteps: Vec<f64>,
    /// The ratio of noise to signal at each timestep, and where the run ends.
    sigmas: Vec<f32>,
}

impl LambdaLevels {
    /// From timesteps, the sigmas there and the final one.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for `steps` where two sigmas would be the same.
    pub(super) fn new(timesteps: Vec<f64>, sigmas: Vec<f64>, last: f32) -> Result<Self> {
        let steps = timesteps.len();
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).chain([last]).collect();
        check_falling(&sigmas[..steps], steps)?;
        Ok(Self { timesteps, sigmas })
    }

    /// The level at `index`, up to the number of timesteps: where the run ends.
    pub(super) fn at(&self, index: usize) -> LambdaLevel {
        LambdaLevel::of_sigma(self.sigmas[index])
    }

    /// `alpha original + sigma noise`.
    pub(super) fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        let dtype = original.dtype();
        let (noise, original) = in_f32(noise, index, self.timesteps.len(), original)?;
        let level = self.at(index);
        Ok(mix(&[(level.alpha, &original), (level.sigma, &noise)])?.to_dtype(dtype)?)
    }
}

/// Timesteps and sigmas of a run of DEIS, UniPC or singlestep DPM-Solver, without the final sigma;
/// timesteps lie below `last`.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) for an impossible number of steps,
/// [`Error::Config`](crate::Error::Config) for contradictory spacings.
pub(super) fn visited(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    last: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    schedule.check_steps(steps)?;
    if let Some(spread) = SigmaSpacing::new(config)? {
        let sigmas = spread_over_training(spread, config, schedule, steps);
        return Ok((whole_timesteps(&sigmas, schedule, spread == SigmaSpacing::Karras), sigmas));
    }
    let timesteps = timesteps_before(last, schedule, steps);
    let sigmas = schedule.sigmas_at(&timesteps);
    Ok((timesteps, sigmas))
}

/// Sigmas over all of training, or between the config's own bounds.
pub(super) fn spread_over_training(
    spread: SigmaSpacing,
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
) -> Vec<f64> {
    let sigmas = schedule.sigmas();
    // Not in most of these classes' own configs, but diffusers finds them there when Euler's was
    // converted.
    let largest = config.sigma_max.unwrap_or(f64::from(sigmas[sigmas.len() - 1]));
    let smallest = config.sigma_min.unwrap_or(f64::from(sigmas[0]));
    spread.spread(largest, smallest, steps)
}

/// The timesteps of `sigmas` as whole numbers, rounded or cut off.
pub(super) fn whole_timesteps(sigmas: &[f64], schedule: &TrainSchedule, rounds: bool) -> Vec<f64> {
    let log_sigmas = schedule.log_sigmas();
    let timesteps = sigmas.iter().map(|&sigma| timestep_of_sigma(sigma, &log_sigmas));
    timesteps.map(|t| if rounds { t.round_ties_even() } else { t.trunc() }).collect()
}

/// Timesteps below `last` by `timestep_spacing`; these classes leave room for one more below the
/// last of the run.
pub(super) fn timesteps_before(last: usize, schedule: &TrainSchedule, steps: usize) -> Vec<f64> {
    match schedule.spacing {
        Spacing::Linspace => {
            let points = linspace(0.0, last as f64 - 1.0, steps + 1);
            points.into_iter().skip(1).rev().map(f64::round_ties_even).collect()
        }
        Spacing::Leading => {
            let ratio = (last / (steps + 1)) as f64;
            (1..=steps).rev().map(|i| i as f64 * ratio + schedule.steps_offset).collect()
        }
        Spacing::Trailing => schedule.trailing(last as f64, steps),
    }
}

/// Refuses settings for models that are not diffusion models of Stable Diffusion's kind.
pub(super) fn refuse_other_models(config: &SchedulerConfig) -> Result<()> {
    if let Some(variance) = config.variance_type.as_deref().filter(|kind| kind.starts_with("learned")) {
        return Err(refuse(config, "variance_type", variance, "models that predict their variance are not run here"));
    }
    if config.use_flow_sigmas.unwrap_or(false) {
        return Err(refuse(config, "use_flow_sigmas", true, "flow matching models are not run here"));
    }
    if config.use_dynamic_shifting.unwrap_or(false) {
        return Err(refuse(config, "use_dynamic_shifting", true, "flow matching models are not run here"));
    }
    Ok(())
}
