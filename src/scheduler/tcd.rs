//! Trajectory consistency distillation (Zheng et al. 2024, arXiv 2402.19159): strategic stochastic
//! sampling, algorithm 4, `scheduling_tcd.py`.

use super::lcm::distillation_timesteps;
use super::noise::TorchGenerator;
use super::prediction::{Prediction, mix};
use super::refuse::refuse;
use super::schedule::{ClassDefaults, DIFFUSERS, Spacing, TrainSchedule};
use super::step::{Scheduler, Stepped, draw_like, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults {
    beta_start: 0.00085,
    beta_end: 0.012,
    beta_schedule: "scaled_linear",
    spacing: Spacing::Leading,
    rescales: true,
    ..DIFFUSERS
};

/// `TCDScheduler`.
#[derive(Debug)]
pub(super) struct Tcd {
    schedule: TrainSchedule,
    prediction: Prediction,
    eta: f64,
    timesteps: Vec<f64>,
}

impl Tcd {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        // The class's config has fields of clipping, thresholding and spacing too, which its steps
        // do not look at.
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, true)?;
        let timesteps = distillation_timesteps(config, &schedule, steps, 1.0)?;
        prediction.check_signal(config, timesteps.iter().filter_map(|&t| schedule.alpha(t as i64)))?;
        let eta = config.eta.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&eta) {
            return Err(refuse(config, "eta", eta, "0 to 1"));
        }
        Ok(Self { schedule, prediction, eta, timesteps })
    }
}

impl Scheduler for Tcd {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(
        &mut self,
        output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: &mut [TorchGenerator],
    ) -> Result<Stepped> {
        let given = sample;
        let (output, sample) = in_f32(output, index, self.timesteps.len(), sample)?;
        let alpha = |t: f64| self.schedule.alpha(t as i64).unwrap_or(1.0);
        let next = self.timesteps.get(index + 1).copied();
        // Down beyond the next timestep, to a share of it, and back up with noise.
        let to = next.unwrap_or(0.0);
        let below = f64::from(((1.0 - self.eta) as f32 * to as f32).floor());

        let here = alpha(self.timesteps[index]);
        let (signal, level) = (here.sqrt(), (1.0 - here).sqrt());
        let denoised = self.prediction.denoised(&output, &sample, signal, level)?;
        let epsilon = self.prediction.epsilon(&output, &sample, signal, level)?;
        let lower = alpha(below);
        let reached = mix(&[(lower.sqrt(), &denoised), ((1.0 - lower).sqrt(), &epsilon)])?;
        let previous = match next {
            Some(next) if self.eta > 0.0 => {
                let ratio = alpha(next) / lower;
                let drawn = draw_like(given, noise)?;
                mix(&[(ratio.sqrt(), &reached), ((1.0 - ratio).sqrt(), &drawn)])?
            }
            _ => reached,
        };
        Stepped::new(&previous, &denoised, given.dtype())
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.schedule.add_noise(original, noise, &self.timesteps, index)
    }
}
