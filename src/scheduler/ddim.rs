//! DDIM without added noise (eta 0): formula (12) of Song et al. 2021, `scheduling_ddim.py`.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, Range, mix};
use super::schedule::{ClassDefaults, DIFFUSERS, Spacing, TrainSchedule};
use super::step::{Scheduler, Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults { spacing: Spacing::Leading, rescales: true, ..DIFFUSERS };

/// `DDIMScheduler`.
#[derive(Debug)]
pub(super) struct Ddim {
    schedule: TrainSchedule,
    prediction: Prediction,
    range: Range,
    /// The cumulative alpha before the first training timestep.
    final_alpha: f32,
    /// Training timesteps between two of the run.
    stride: i64,
    timesteps: Vec<f64>,
}

impl Ddim {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, true)?;
        let range = Range::new(config, Some(true))?;
        let timesteps = schedule.timesteps(steps)?;
        prediction.check_signal(config, timesteps.iter().filter_map(|&t| schedule.alpha(t as i64)))?;
        let final_alpha = if config.set_alpha_to_one.unwrap_or(true) { 1.0 } else { schedule.alphas_cumprod[0] };
        let stride = (schedule.train_steps / steps) as i64;
        Ok(Self { schedule, prediction, range, final_alpha, stride, timesteps })
    }
}

/// See [`super::alpha_bar`].
pub(super) fn alpha_bar(config: &SchedulerConfig, timestep: usize) -> Result<Option<f64>> {
    Ok(TrainSchedule::new(config, &CLASS)?.alpha(timestep as i64).map(f64::from))
}

impl Scheduler for Ddim {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _: &mut [TorchGenerator]) -> Result<Stepped> {
        let dtype = sample.dtype();
        let (output, sample) = in_f32(output, index, self.timesteps.len(), sample)?;
        let t = self.timesteps[index] as i64;
        let alpha = self.schedule.alpha(t).unwrap_or(1.0);
        let previous_alpha = self.schedule.alpha(t - self.stride).unwrap_or(self.final_alpha);
        let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        let denoised = self.range.apply(self.prediction.denoised(&output, &sample, signal, noise)?)?;
        // Clipping does not change the noise that is put back: diffusers'
        // `use_clipped_model_output` is off in pipelines.
        let epsilon = self.prediction.epsilon(&output, &sample, signal, noise)?;
        let previous = mix(&[(previous_alpha.sqrt(), &denoised), ((1.0 - previous_alpha).sqrt(), &epsilon)])?;
        Stepped::new(&previous, &denoised, dtype)
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.schedule.add_noise(original, noise, &self.timesteps, index)
    }
}
