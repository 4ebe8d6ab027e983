//! Linear multistep sampling (k-diffusion's `sample_lms`): an Adams-Bashforth method of order 1 to
//! 4 in sigma, `scheduling_lms_discrete.py`.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, divide, mix};
use super::schedule::{ClassDefaults, DIFFUSERS, TrainSchedule};
use super::sigma_levels::{SigmaLevels, SigmaSampler, denoised};
use super::sigmas::SigmaSpacing;
use super::step::{Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;
use std::collections::VecDeque;

const CLASS: ClassDefaults = DIFFUSERS;

/// Derivatives that a step looks back on.
const ORDER: usize = 4;

/// `LMSDiscreteScheduler`.
#[derive(Debug)]
pub(super) struct Lms {
    prediction: Prediction,
    levels: SigmaLevels,
    /// d sample / d sigma at earlier steps, the latest first.
    derivatives: VecDeque<Tensor>,
}

impl Lms {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, true)?;
        let (timesteps, sigmas) = match SigmaSpacing::new(config)? {
            // This class alone does not look for bounds in the config here.
            Some(SigmaSpacing::Karras) => {
                let unbounded = SchedulerConfig { sigma_min: None, sigma_max: None, ..config.clone() };
                SigmaLevels::spaced(&unbounded, &schedule, steps)?
            }
            _ => SigmaLevels::spaced(config, &schedule, steps)?,
        };
        let levels = SigmaLevels::to_zero(schedule.spacing, timesteps, &sigmas)?;
        Ok(Self { prediction, levels, derivatives: VecDeque::new() })
    }

    /// The integral over the step at `index` of a polynomial in sigma. It is 1 at the level `back`
    /// steps before and 0 at the other `order - 1` latest.
    fn coefficient(&self, index: usize, order: usize, back: usize) -> f32 {
        let sigma = |index: usize| f64::from(self.levels.sigmas[index]);
        let polynomial = |tau: f64| -> f64 {
            let others = (0..order).filter(|&other| other != back);
            others.map(|k| (tau - sigma(index - k)) / (sigma(index - back) - sigma(index - k))).product()
        };
        // Gauss and Legendre's two points are exact up to degree 3.
        let (from, to) = (sigma(index), sigma(index + 1));
        let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
        let offset = half / 3f64.sqrt();
        (half * (polynomial(middle - offset) + polynomial(middle + offset))) as f32
    }
}

impl SigmaSampler for Lms {
    fn levels(&self) -> &SigmaLevels {
        &self.levels
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _: &mut [TorchGenerator]) -> Result<Stepped> {
        let dtype = sample.dtype();
        let (output, sample) = in_f32(output, index, self.levels.timesteps.len(), sample)?;
        let sigma = self.levels.sigmas[index];
        let denoised = denoised(self.prediction, &output, &sample, sigma)?;
        self.derivatives.push_front(divide(&mix(&[(1.0, &sample), (-1.0, &denoised)])?, sigma)?);
        self.derivatives.truncate(ORDER);
        // As in diffusers the order goes by the index. A run that begins late has fewer derivatives
        // than coefficients, and leaves the rest out.
        let order = ORDER.min(index + 1);
        let mut terms = vec![(1.0, &sample)];
        for (back, derivative) in self.derivatives.iter().enumerate().take(order) {
            terms.push((self.coefficient(index, order, back), derivative));
        }
        Stepped::new(&mix(&terms)?, &denoised, dtype)
    }
}
