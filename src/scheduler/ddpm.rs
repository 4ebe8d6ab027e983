//! Ancestral sampling of Ho et al. 2020, formula (7), `scheduling_ddpm.py`.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, Range, mix};
use super::refuse::refuse;
use super::schedule::{ClassDefaults, DIFFUSERS, Spacing, TrainSchedule};
use super::step::{Scheduler, Stepped, draw_like, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults =
    ClassDefaults { spacing: Spacing::Leading, rescales: true, more_betas: &["laplace", "sigmoid"], ..DIFFUSERS };

/// Which of the two extremes of section 3.2 the added noise has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variance {
    /// That of the posterior, optimal for a deterministic sample.
    Small,
    /// Beta, optimal for a normal sample.
    Large,
}

/// `DDPMScheduler`.
#[derive(Debug)]
pub(super) struct Ddpm {
    schedule: TrainSchedule,
    prediction: Prediction,
    range: Range,
    variance: Variance,
    timesteps: Vec<f64>,
}

impl Ddpm {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, true)?;
        let range = Range::new(config, Some(true))?;
        let variance = match config.variance_type.as_deref() {
            // The log is taken and undone again in diffusers.
            None | Some("fixed_small" | "fixed_small_log") => Variance::Small,
            Some("fixed_large") => Variance::Large,
            // The learned ones need a network that predicts its variance; `fixed_large_log` gives
            // NaN in diffusers too.
            Some(other) => {
                return Err(refuse(config, "variance_type", other, "fixed_small, fixed_small_log, fixed_large"));
            }
        };
        let timesteps = schedule.timesteps(steps)?;
        prediction.check_signal(config, timesteps.iter().filter_map(|&t| schedule.alpha(t as i64)))?;
        Ok(Self { schedule, prediction, range, variance, timesteps })
    }
}

impl Scheduler for Ddpm {
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
        let t = self.timesteps[index] as i64;
        let alpha = self.schedule.alpha(t).unwrap_or(1.0);
        let previous_alpha = self.timesteps.get(index + 1).and_then(|&t| self.schedule.alpha(t as i64)).unwrap_or(1.0);
        let (beta_bar, previous_beta_bar) = (1.0 - alpha, 1.0 - previous_alpha);
        let step_alpha = alpha / previous_alpha;
        let step_beta = 1.0 - step_alpha;

        let denoised = self.prediction.denoised(&output, &sample, alpha.sqrt(), beta_bar.sqrt())?;
        let denoised = self.range.apply(denoised)?;
        let from_denoised = previous_alpha.sqrt() * step_beta / beta_bar;
        let from_sample = step_alpha.sqrt() * previous_beta_bar / beta_bar;
        let mut previous = mix(&[(from_denoised, &denoised), (from_sample, &sample)])?;
        if t > 0 {
            let variance = match self.variance {
                Variance::Small => (previous_beta_bar / beta_bar * step_beta).max(1e-20),
                Variance::Large => step_beta,
            };
            let drawn = draw_like(given, noise)?;
            previous = mix(&[(1.0, &previous), (variance.sqrt(), &drawn)])?;
        }
        Stepped::new(&previous, &denoised, given.dtype())
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.schedule.add_noise(original, noise, &self.timesteps, index)
    }
}
