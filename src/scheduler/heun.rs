//! Heun's method in the sigmas of Karras et al. 2022 (algorithm 2 without churn),
//! `scheduling_heun_discrete.py`.
//!
//! Each step calls the model at both of its ends, the last, which ends at 0, at its beginning
//! alone: `2 steps - 1` calls.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, Range, divide, mix};
use super::schedule::{ClassDefaults, DIFFUSERS, TrainSchedule};
use super::sigma_levels::{SigmaLevels, SigmaSampler, denoised};
use super::step::{Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults { beta_start: 0.00085, beta_end: 0.012, more_betas: &["exp"], ..DIFFUSERS };

/// `HeunDiscreteScheduler`.
#[derive(Debug)]
pub(super) struct Heun {
    prediction: Prediction,
    range: Range,
    /// One entry per call.
    levels: SigmaLevels,
    /// What the first call of a step leaves for the second.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    sample: Tensor,
    /// d sample / d sigma there.
    derivative: Tensor,
    /// The step in sigma.
    step: f32,
}

impl Heun {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, true)?;
        let range = Range::clipped(config, false)?;
        let (timesteps, sigmas) = SigmaLevels::spaced(config, &schedule, steps)?;
        let single = SigmaLevels::to_zero(schedule.spacing, timesteps, &sigmas)?;
        let timesteps = twice_but_first(&single.timesteps);
        // The call at the end of a step stands at the level that the next one begins at.
        let mut sigmas = twice_but_first(&single.sigmas[..steps]);
        sigmas.push(0.0);
        Ok(Self { prediction, range, levels: SigmaLevels { timesteps, sigmas, ..single }, begun: None })
    }
}

/// Every entry but the first one doubled.
pub(super) fn twice_but_first<T: Copy>(values: &[T]) -> Vec<T> {
    values.iter().flat_map(|&value| [value, value]).skip(1).collect()
}

impl SigmaSampler for Heun {
    fn levels(&self) -> &SigmaLevels {
        &self.levels
    }

    fn calls_per_step(&self) -> usize {
        2
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _: &mut [TorchGenerator]) -> Result<Stepped> {
        let dtype = sample.dtype();
        let (output, sample) = in_f32(output, index, self.levels.timesteps.len(), sample)?;
        let sigma = self.levels.sigmas[index];
        let denoised = self.range.apply(denoised(self.prediction, &output, &sample, sigma)?)?;
        let derivative = divide(&mix(&[(1.0, &sample), (-1.0, &denoised)])?, sigma)?;
        let previous = match self.begun.take() {
            None => {
                let step = self.levels.sigmas[index + 1] - sigma;
                let previous = mix(&[(1.0, &sample), (step, &derivative)])?;
                self.begun = Some(Begun { sample, derivative, step });
                previous
            }
            Some(Begun { sample, derivative: first, step }) => {
                let both = mix(&[(1.0, &first), (1.0, &derivative)])?;
                mix(&[(1.0, &sample), (0.5 * step, &both)])?
            }
        };
        Stepped::new(&previous, &denoised, dtype)
    }
}
