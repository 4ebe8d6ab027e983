//! Noise levels of the samplers that step in sigma, the ratio of noise to signal: both of Euler,
//! LMS, Heun, DPM-Solver-2.
//!
//! Source: `scheduling_euler_discrete.py` of diffusers 0.42 and its siblings, which share these.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, divide, mix};
use super::refuse::refuse;
use super::schedule::{Spacing, TrainSchedule, linspace};
use super::sigmas::{SigmaSpacing, check_falling, timestep_of_sigma};
use super::step::{Scheduler, Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use crate::figures::largest;
use candle_core::Tensor;
use std::fmt;

/// A sampler that steps in sigma. It is a [`Scheduler`] by its levels; only its step is its own.
pub(super) trait SigmaSampler: Send + fmt::Debug {
    /// Timesteps and sigmas of the run.
    fn levels(&self) -> &SigmaLevels;

    /// See [`Scheduler::calls_per_step`].
    fn calls_per_step(&self) -> usize {
        1
    }

    /// The sigma that the model's input at `index` has.
    fn sigma(&self, index: usize) -> f32 {
        self.levels().sigmas[index]
    }

    /// See [`Scheduler::step`].
    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, noise: &mut [TorchGenerator])
    -> Result<Stepped>;
}

impl<T: SigmaSampler> Scheduler for T {
    fn timesteps(&self) -> &[f64] {
        &self.levels().timesteps
    }

    fn calls_per_step(&self) -> usize {
        SigmaSampler::calls_per_step(self)
    }

    fn init_noise_sigma(&self) -> f64 {
        self.levels().init_noise_sigma
    }

    /// Scales the sample of variance `1 + sigma^2` to unit variance.
    fn scale_model_input(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        let (_, sample32) = in_f32(sample, index, self.levels().timesteps.len(), sample)?;
        let sigma = self.sigma(index);
        Ok(divide(&sample32, (sigma * sigma + 1.0).sqrt())?.to_dtype(sample.dtype())?)
    }

    fn step(
        &mut self,
        output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: &mut [TorchGenerator],
    ) -> Result<Stepped> {
        SigmaSampler::step(self, output, index, sample, noise)
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.levels().add_noise(original, noise, index)
    }
}

/// The noise levels of a run of the samplers that step in sigma: both of Euler, LMS, Heun,
/// DPM-Solver-2.
#[derive(Debug)]
pub(super) struct SigmaLevels {
    pub timesteps: Vec<f64>,
    /// One sigma per timestep and at least one more: where the run ends.
    pub sigmas: Vec<f32>,
    pub init_noise_sigma: f64,
}

impl SigmaLevels {
    /// The timesteps of a class that interpolates between training timesteps, and the sigmas there.
    pub(super) fn of_timesteps(schedule: &TrainSchedule, steps: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        schedule.check_steps(steps)?;
        let train = schedule.train_steps as f64;
        let timesteps: Vec<f64> = match schedule.spacing {
            Spacing::Linspace => {
                // These stay fractional; f32 is what the model is given in diffusers.
                linspace(0.0, train - 1.0, steps).into_iter().rev().map(|t| f64::from(t as f32)).collect()
            }
            Spacing::Leading => {
                let ratio = (schedule.train_steps / steps) as f64;
                (0..steps).rev().map(|i| i as f64 * ratio + schedule.steps_offset).collect()
            }
            Spacing::Trailing => schedule.trailing(train, steps),
        };
        let sigmas = schedule.sigmas_at(&timesteps);
        Ok((timesteps, sigmas))
    }

    /// As [`of_timesteps`](Self::of_timesteps), respaced where the config asks for another spacing
    /// of sigmas. The bounds are the config's own, else the first and the last sigma.
    pub(super) fn spaced(
        config: &SchedulerConfig,
        schedule: &TrainSchedule,
        steps: usize,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let (timesteps, sigmas) = Self::of_timesteps(schedule, steps)?;
        Ok(match SigmaSpacing::new(config)? {
            Some(spread) => Self::respaced(spread, config, schedule, &sigmas, steps),
            None => (timesteps, sigmas),
        })
    }

    pub(super) fn respaced(
        spread: SigmaSpacing,
        config: &SchedulerConfig,
        schedule: &TrainSchedule,
        sigmas: &[f64],
        steps: usize,
    ) -> (Vec<f64>, Vec<f64>) {
        let (first, last) = (sigmas[0], sigmas[sigmas.len() - 1]);
        let (largest, smallest) = (config.sigma_max.unwrap_or(first), config.sigma_min.unwrap_or(last));
        let log_sigmas = schedule.log_sigmas();
        let sigmas = spread.spread(largest, smallest, steps);
        let timesteps = sigmas.iter().map(|&sigma| f64::from(timestep_of_sigma(sigma, &log_sigmas) as f32)).collect();
        (timesteps, sigmas)
    }

    /// From timesteps and the sigmas there, ending at 0.
    pub(super) fn to_zero(spacing: Spacing, timesteps: Vec<f64>, sigmas: &[f64]) -> Result<Self> {
        let steps = timesteps.len();
        let sigmas = sigmas.iter().map(|&sigma| sigma as f32).chain([0.0]).collect();
        Self::new(spacing, timesteps, sigmas, steps)
    }

    /// From timesteps and their sigmas, the final one included.
    pub(super) fn new(spacing: Spacing, timesteps: Vec<f64>, sigmas: Vec<f32>, steps: usize) -> Result<Self> {
        check_falling(&sigmas[..timesteps.len()], steps)?;
        let largest = largest(sigmas.iter().copied());
        let init_noise_sigma = match spacing {
            Spacing::Linspace | Spacing::Trailing => largest,
            // Leading runs start below the full noise level, as if the sample had a signal.
            Spacing::Leading => (largest * largest + 1.0).sqrt(),
        };
        Ok(Self { timesteps, sigmas, init_noise_sigma: f64::from(init_noise_sigma) })
    }

    /// `original + sigma noise`.
    pub(super) fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        let dtype = original.dtype();
        let (noise, original) = in_f32(noise, index, self.timesteps.len(), original)?;
        Ok(mix(&[(1.0, &original), (self.sigmas[index], &noise)])?.to_dtype(dtype)?)
    }
}

/// The denoised sample where `sample = denoised + sigma epsilon`, the model having seen the scaled
/// sample.
pub(super) fn denoised(prediction: Prediction, output: &Tensor, sample: &Tensor, sigma: f32) -> Result<Tensor> {
    match prediction {
        Prediction::Epsilon => mix(&[(1.0, sample), (-sigma, output)]),
        Prediction::Velocity => {
            let variance = sigma * sigma + 1.0;
            mix(&[(-sigma / variance.sqrt(), output), (1.0, &divide(sample, variance)?)])
        }
        Prediction::Denoised => Ok(output.clone()),
    }
}

/// Where an ancestral step between two levels goes down to, and how much noise brings it back up.
pub(super) fn ancestral(from: f32, to: f32) -> (f32, f32) {
    let (from2, to2) = (from * from, to * to);
    let up = (to2 * (from2 - to2) / from2).sqrt();
    ((to2 - up * up).sqrt(), up)
}

/// The sigma that a run ends at: 0, or the smallest of training.
pub(super) fn final_sigma(config: &SchedulerConfig, schedule: &TrainSchedule) -> Result<f32> {
    match config.final_sigmas_type.as_deref() {
        None | Some("zero") => Ok(0.0),
        Some("sigma_min") => Ok(schedule.sigmas()[0]),
        Some(other) => Err(refuse(config, "final_sigmas_type", other, "zero or sigma_min")),
    }
}
