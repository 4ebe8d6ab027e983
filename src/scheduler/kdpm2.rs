//! DPM-Solver-2 in sigma (k-diffusion's `sample_dpm_2` and `sample_dpm_2_ancestral`, after Karras
//! et al. 2022, algorithm 2, and Lu et al. 2022), `scheduling_k_dpm_2_discrete.py` and
//! `scheduling_k_dpm_2_ancestral_discrete.py`.
//!
//! Each step calls the model at its beginning and at its geometric middle. The last step ends at 0
//! and calls it at its beginning alone: `2 steps - 1` calls. The ancestral form steps to a lower
//! level and adds noise back up.

use super::heun::twice_but_first;
use super::noise::TorchGenerator;
use super::prediction::{Prediction, divide, mix};
use super::schedule::{ClassDefaults, DIFFUSERS, TrainSchedule};
use super::sigma_levels::{SigmaLevels, SigmaSampler, ancestral, denoised};
use super::sigmas::{SigmaSpacing, timestep_of_sigma};
use super::step::{Stepped, draw_like, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults { beta_start: 0.00085, beta_end: 0.012, ..DIFFUSERS };

/// `KDPM2DiscreteScheduler` and `KDPM2AncestralDiscreteScheduler`.
#[derive(Debug)]
pub(super) struct Kdpm2 {
    prediction: Prediction,
    /// One entry per call; the sigma of a call in the middle is that of the end of its step, which
    /// noise is added to.
    levels: SigmaLevels,
    steps: Vec<StepLevels>,
    ancestral: bool,
    /// The sample that a step set out from, once its first call is done.
    origin: Option<Tensor>,
}

/// The levels of one step; it begins at [`SigmaLevels::sigmas`].
#[derive(Debug, Clone, Copy)]
struct StepLevels {
    /// Where the second call is made; 0 for the last step, which has none.
    middle: f32,
    /// Where the step ends, before noise is added.
    down: f32,
    /// How much noise is added.
    up: f32,
}

impl Kdpm2 {
    pub(super) fn new(config: &SchedulerConfig, steps: usize, ancestral_form: bool) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, false)?;
        let (mut timesteps, sigmas) = SigmaLevels::spaced(config, &schedule, steps)?;
        if SigmaSpacing::new(config)? == Some(SigmaSpacing::Karras) {
            timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
        let single = SigmaLevels::to_zero(schedule.spacing, timesteps, &sigmas)?;
        let ends = single.sigmas.windows(2);
        let steps: Vec<StepLevels> = ends
            .map(|ends| {
                let (from, to) = (ends[0], ends[1]);
                let (down, up) = if ancestral_form { ancestral(from, to) } else { (to, 0.0) };
                // Where two levels are far apart `ancestral` loses the lower one to rounding, and
                // diffusers divides by 0.
                let down = if down > 0.0 { down } else { to * to / from };
                // torch's lerp half way between the logarithms, counted from the later one.
                let (above, below) = (from.ln(), down.ln());
                let middle = match ancestral_form {
                    true => below - (below - above) * 0.5,
                    false => above - (above - below) * 0.5,
                };
                let middle = if to == 0.0 { 0.0 } else { middle.exp() };
                StepLevels { middle, down, up }
            })
            .collect();

        let log_sigmas = schedule.log_sigmas();
        let mut timesteps = twice_but_first(&single.timesteps);
        for (step, between) in steps.iter().zip(timesteps.iter_mut().skip(1).step_by(2)) {
            *between = f64::from(timestep_of_sigma(f64::from(step.middle), &log_sigmas) as f32);
        }
        let mut sigmas = twice_but_first(&single.sigmas[..steps.len()]);
        sigmas.push(0.0);
        let levels = SigmaLevels { timesteps, sigmas, ..single };
        Ok(Self { prediction, levels, steps, ancestral: ancestral_form, origin: None })
    }
}

impl SigmaSampler for Kdpm2 {
    fn levels(&self) -> &SigmaLevels {
        &self.levels
    }

    fn calls_per_step(&self) -> usize {
        2
    }

    /// The level that the call at `index` is made at.
    fn sigma(&self, index: usize) -> f32 {
        match self.origin {
            Some(_) => self.steps[index / 2].middle,
            None => self.levels.sigmas[index],
        }
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
        let sigma = self.sigma(index);
        let denoised = denoised(self.prediction, &output, &sample, sigma)?;
        let derivative = divide(&mix(&[(1.0, &sample), (-1.0, &denoised)])?, sigma)?;
        let step = self.steps[index / 2];
        let previous = match self.origin.take() {
            None => {
                let previous = mix(&[(1.0, &sample), (step.middle - sigma, &derivative)])?;
                self.origin = Some(sample);
                previous
            }
            Some(origin) => {
                let whole = step.down - self.levels.sigmas[index.saturating_sub(1)];
                let reached = mix(&[(1.0, &origin), (whole, &derivative)])?;
                match self.ancestral {
                    true => mix(&[(1.0, &reached), (step.up, &draw_like(given, noise)?)])?,
                    false => reached,
                }
            }
        };
        Stepped::new(&previous, &denoised, given.dtype())
    }
}
