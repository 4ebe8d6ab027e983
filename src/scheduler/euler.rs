//! Euler's method in the sigmas of Karras et al. 2022 (algorithm 2 without churn), `scheduling_euler_discrete.py`.

use super::prediction::{Prediction, divide, mix};
use super::schedule::{ClassDefaults, Spacing, TrainSchedule, linspace, linspace_f32, refuse};
use super::sigmas::{SigmaSpacing, check_falling, timestep_of_sigma};
use super::{Scheduler, SchedulerKind, Stepped, TorchGenerator, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults {
    kind: SchedulerKind::Euler,
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "linear",
    spacing: Spacing::Linspace,
    rescales: true,
};

/// `EulerDiscreteScheduler`.
#[derive(Debug)]
pub(super) struct Euler {
    prediction: Prediction,
    levels: Levels,
}

/// The noise levels of a run of the samplers that step in sigma: both of Euler, LMS, Heun, DPM-Solver-2.
#[derive(Debug)]
pub(super) struct Levels {
    pub timesteps: Vec<f64>,
    /// One sigma a timestep and at least one more: where the run ends.
    pub sigmas: Vec<f32>,
    pub init_noise_sigma: f64,
}

impl Levels {
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

    /// As [`of_timesteps`](Self::of_timesteps), or where the config asks for another spacing of sigmas, that between the first and the last of
    /// those or the config's own bounds, with the timesteps there.
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

    fn respaced(
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
        let largest = sigmas.iter().copied().fold(0f32, f32::max);
        let init_noise_sigma = match spacing {
            Spacing::Linspace | Spacing::Trailing => largest,
            // Leading runs start below the full noise level, as if the sample had a signal.
            Spacing::Leading => (largest * largest + 1.0).sqrt(),
        };
        Ok(Self { timesteps, sigmas, init_noise_sigma: f64::from(init_noise_sigma) })
    }

    /// Scales the sample of variance `1 + sigma^2` to unit variance.
    pub(super) fn scale_model_input(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        let (_, sample32) = in_f32(sample, index, self.timesteps.len(), sample)?;
        let sigma = self.sigmas[index];
        Ok(divide(&sample32, (sigma * sigma + 1.0).sqrt())?.to_dtype(sample.dtype())?)
    }

    /// `original + sigma noise`.
    pub(super) fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        let dtype = original.dtype();
        let (noise, original) = in_f32(noise, index, self.timesteps.len(), original)?;
        Ok(mix(&[(1.0, &original), (self.sigmas[index], &noise)])?.to_dtype(dtype)?)
    }
}

/// The denoised sample where `sample = denoised + sigma epsilon`, the model having seen the scaled sample.
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

impl Euler {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = match config.prediction_type.as_deref() {
            // An old name that this class alone still knows.
            Some("original_sample") => Prediction::Denoised,
            _ => Prediction::new(config, true)?,
        };
        let spread = SigmaSpacing::new(config)?;
        let (mut timesteps, mut sigmas) = Levels::of_timesteps(&schedule, steps)?;

        match config.interpolation_type.as_deref() {
            None | Some("linear") => {}
            Some("log_linear") => {
                // One sigma more than timesteps, so that the run ends at the smallest one, whatever the final sigma.
                let log_sigmas = schedule.log_sigmas();
                let (first, last) = (log_sigmas[0], log_sigmas[log_sigmas.len() - 1]);
                sigmas = linspace_f32(last, first, steps + 1).into_iter().map(|log| f64::from(log.exp())).collect();
            }
            Some(other) => return Err(refuse(config, "interpolation_type", other, "linear or log_linear")),
        }
        if let Some(spread) = spread {
            // With log_linear there is one more sigma than steps, which counts for the bounds alone.
            (timesteps, sigmas) = Levels::respaced(spread, config, &schedule, &sigmas, steps);
        }
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(final_sigma(config, &schedule)?);

        match config.timestep_type.as_deref() {
            None | Some("discrete") => {}
            // EDM models are told the noise level itself; diffusers does so for velocity prediction only.
            Some("continuous") if prediction == Prediction::Velocity => {
                timesteps = sigmas[..timesteps.len()].iter().map(|sigma| f64::from(0.25 * sigma.ln())).collect();
            }
            Some("continuous") => {}
            Some(other) => return Err(refuse(config, "timestep_type", other, "discrete or continuous")),
        }
        // With log_linear the last but one is the end, and what follows is never reached.
        let reached = timesteps.len() + 1;
        sigmas.truncate(reached);
        Ok(Self { prediction, levels: Levels::new(schedule.spacing, timesteps, sigmas, steps)? })
    }
}

/// The sigma that a run ends at: 0, or the smallest of training.
pub(super) fn final_sigma(config: &SchedulerConfig, schedule: &TrainSchedule) -> Result<f32> {
    match config.final_sigmas_type.as_deref() {
        None | Some("zero") => Ok(0.0),
        Some("sigma_min") => Ok(schedule.sigmas()[0]),
        Some(other) => Err(refuse(config, "final_sigmas_type", other, "zero or sigma_min")),
    }
}

impl Scheduler for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.levels.init_noise_sigma
    }

    fn scale_model_input(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        self.levels.scale_model_input(sample, index)
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

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.levels.add_noise(original, noise, index)
    }
}
