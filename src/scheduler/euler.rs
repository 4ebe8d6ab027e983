//! Euler's method in the sigmas of Karras et al. 2022 (algorithm 2 without churn),
//! `scheduling_euler_discrete.py`.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, divide, mix};
use super::refuse::refuse;
use super::schedule::{ClassDefaults, DIFFUSERS, TrainSchedule, linspace_f32};
use super::sigma_levels::{SigmaLevels, SigmaSampler, denoised, final_sigma};
use super::sigmas::SigmaSpacing;
use super::step::{Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults { rescales: true, ..DIFFUSERS };

/// `EulerDiscreteScheduler`.
#[derive(Debug)]
pub(super) struct Euler {
    prediction: Prediction,
    levels: SigmaLevels,
}

impl Euler {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = match config.prediction_type.as_deref() {
            // An old name that this class alone still knows.
            Some("original_sample") => Prediction::Denoised,
            _ => Prediction::new(config, true)?,
        };
        let spread = SigmaSpacing::new(config)?;
        let (mut timesteps, mut sigmas) = SigmaLevels::of_timesteps(&schedule, steps)?;

        match config.interpolation_type.as_deref() {
            None | Some("linear") => {}
            Some("log_linear") => {
                // One sigma more than timesteps, so that the run ends at the smallest one, whatever
                // the final sigma.
                let log_sigmas = schedule.log_sigmas();
                let (first, last) = (log_sigmas[0], log_sigmas[log_sigmas.len() - 1]);
                sigmas = linspace_f32(last, first, steps + 1).into_iter().map(|log| f64::from(log.exp())).collect();
            }
            Some(other) => return Err(refuse(config, "interpolation_type", other, "linear or log_linear")),
        }
        if let Some(spread) = spread {
            // With log_linear there is one more sigma than steps, which counts for the bounds
            // alone.
            (timesteps, sigmas) = SigmaLevels::respaced(spread, config, &schedule, &sigmas, steps);
        }
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(final_sigma(config, &schedule)?);

        match config.timestep_type.as_deref() {
            None | Some("discrete") => {}
            // EDM models are told the noise level itself; diffusers does so for velocity prediction
            // only.
            Some("continuous") if prediction == Prediction::Velocity => {
                timesteps = sigmas[..timesteps.len()].iter().map(|sigma| f64::from(0.25 * sigma.ln())).collect();
            }
            Some("continuous") => {}
            Some(other) => return Err(refuse(config, "timestep_type", other, "discrete or continuous")),
        }
        // With log_linear the last but one is the end, and what follows is never reached.
        let reached = timesteps.len() + 1;
        sigmas.truncate(reached);
        Ok(Self { prediction, levels: SigmaLevels::new(schedule.spacing, timesteps, sigmas, steps)? })
    }
}

impl SigmaSampler for Euler {
    fn levels(&self) -> &SigmaLevels {
        &self.levels
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _: &mut [TorchGenerator]) -> Result<Stepped> {
        let dtype = sample.dtype();
        let (output, sample) = in_f32(output, index, self.levels.timesteps.len(), sample)?;
        let (sigma, next) = (self.levels.sigmas[index], self.levels.sigmas[index + 1]);
        let denoised = denoised(self.prediction, &output, &sample, sigma)?;
        let derivative = divide(&mix(&[(1.0, &sample), (-1.0, &denoised)])?, sigma)?;
        let previous = mix(&[(1.0, &sample), (next - sigma, &derivative)])?;
        Stepped::new(&previous, &denoised, dtype)
    }
}
