//! Euler's method to a lower noise level and fresh noise back up (k-diffusion's `sample_euler_ancestral`),
//! `scheduling_euler_ancestral_discrete.py`.

use super::euler::{Levels, ancestral, denoised};
use super::prediction::{Prediction, divide, mix};
use super::schedule::{ClassDefaults, Spacing, TrainSchedule};
use super::{Scheduler, SchedulerKind, Stepped, TorchGenerator, draw_like, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults {
    kind: SchedulerKind::EulerAncestral,
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "linear",
    spacing: Spacing::Linspace,
    rescales: true,
};

/// `EulerAncestralDiscreteScheduler`.
#[derive(Debug)]
pub(super) struct EulerAncestral {
    prediction: Prediction,
    levels: Levels,
}

impl EulerAncestral {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, false)?;
        let (timesteps, sigmas) = Levels::of_timesteps(&schedule, steps)?;
        Ok(Self { prediction, levels: Levels::to_zero(schedule.spacing, timesteps, &sigmas)? })
    }
}

impl Scheduler for EulerAncestral {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.levels.init_noise_sigma
    }

    fn scale_model_input(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        self.levels.scale_model_input(sample, index)
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

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.levels.add_noise(original, noise, index)
    }
}
