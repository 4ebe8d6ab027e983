//! Euler's method to a lower noise level and fresh noise back up (k-diffusion's
//! `sample_euler_ancestral`), `scheduling_euler_ancestral_discrete.py`.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, divide, mix};
use super::schedule::{ClassDefaults, DIFFUSERS, TrainSchedule};
use super::sigma_levels::{SigmaLevels, SigmaSampler, ancestral, denoised};
use super::step::{Stepped, draw_like, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults { rescales: true, ..DIFFUSERS };

/// `EulerAncestralDiscreteScheduler`.
#[derive(Debug)]
pub(super) struct EulerAncestral {
    prediction: Prediction,
    levels: SigmaLevels,
}

impl EulerAncestral {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, false)?;
        let (timesteps, sigmas) = SigmaLevels::of_timesteps(&schedule, steps)?;
        Ok(Self { prediction, levels: SigmaLevels::to_zero(schedule.spacing, timesteps, &sigmas)? })
    }
}

impl SigmaSampler for EulerAncestral {
    fn levels(&self) -> &SigmaLevels {
        &self.levels
    }

    fn step(
        &mut self,
        output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: &mut [TorchGenerator],
    ) -> Result<Stepped> {
        let given = sample;
        let (output, sample) = in_f32(output, index, self.levels.timesteps.len(), sample)?;
        let (from, to) = (self.levels.sigmas[index], self.levels.sigmas[index + 1]);
        let denoised = denoised(self.prediction, &output, &sample, from)?;
        let (down, up) = ancestral(from, to);
        let derivative = divide(&mix(&[(1.0, &sample), (-1.0, &denoised)])?, from)?;
        // The last step draws too, with no weight: the generator ends where diffusers' does.
        let drawn = draw_like(given, noise)?;
        let previous = mix(&[(1.0, &sample), (down - from, &derivative), (up, &drawn)])?;
        Stepped::new(&previous, &denoised, given.dtype())
    }
}
