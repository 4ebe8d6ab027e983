//! Multistep sampling of latent consistency models: Luo et al. 2023, algorithm 3,
//! `scheduling_lcm.py`.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, Range, mix};
use super::refuse::refuse;
use super::schedule::{ClassDefaults, DIFFUSERS, Spacing, TrainSchedule, linspace};
use super::step::{Scheduler, Stepped, draw_like, in_f32};
use crate::argument::{STEPS, STRENGTH};
use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};
use candle_core::Tensor;

const CLASS: ClassDefaults = ClassDefaults {
    beta_start: 0.00085,
    beta_end: 0.012,
    beta_schedule: "scaled_linear",
    spacing: Spacing::Leading,
    rescales: true,
    ..DIFFUSERS
};

/// Standard deviation of the data in the boundary condition (Song et al. 2023).
const SIGMA_DATA: f64 = 0.5;

/// `LCMScheduler`.
#[derive(Debug)]
pub(super) struct Lcm {
    schedule: TrainSchedule,
    prediction: Prediction,
    range: Range,
    timestep_scaling: f64,
    timesteps: Vec<f64>,
}

impl Lcm {
    /// `strength`: the share of the timesteps of distillation, from the last one back, that the run
    /// chooses its steps from.
    pub(super) fn new(config: &SchedulerConfig, steps: usize, strength: f64) -> Result<Self> {
        // `timestep_spacing` and `steps_offset` are in the class's config but its timesteps come
        // from distillation alone.
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, true)?;
        let range = Range::new(config, Some(false))?;
        let timesteps = distillation_timesteps(config, &schedule, steps, strength)?;
        prediction.check_signal(config, timesteps.iter().filter_map(|&t| schedule.alpha(t as i64)))?;
        let timestep_scaling = config.timestep_scaling.unwrap_or(10.0);
        Ok(Self { schedule, prediction, range, timestep_scaling, timesteps })
    }
}

/// The timesteps of a run of LCM or TCD: `steps` of those of distillation, which are the last
/// `strength` of `original_inference_steps`.
pub(super) fn distillation_timesteps(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    strength: f64,
) -> Result<Vec<f64>> {
    schedule.check_steps(steps)?;
    let original_steps = config.original_inference_steps.unwrap_or(50);
    if !(1..=schedule.train_steps).contains(&original_steps) {
        let accepted = format!("1 to `num_train_timesteps`, {}", schedule.train_steps);
        return Err(refuse(config, "original_inference_steps", original_steps, &accepted));
    }
    let stride = schedule.train_steps / original_steps;
    // Truncation is diffusers' own rule.
    let chosen_from = (original_steps as f64 * strength) as usize;
    if steps > chosen_from {
        let share = match strength < 1.0 {
            true => format!(" at {STRENGTH} {strength}; raise {STRENGTH} or take fewer steps"),
            false => "; take fewer".to_owned(),
        };
        let reason = format!(
            "{steps} is more than the {chosen_from} steps that this sampler chooses from \
             (`original_inference_steps`){share}"
        );
        return Err(Error::argument(STEPS, reason));
    }
    // A run visits some of them, evenly by position.
    let ends = linspace(0.0, chosen_from as f64, steps + 1);
    Ok(ends[..steps].iter().map(|position| ((chosen_from - position.floor() as usize) * stride - 1) as f64).collect())
}

impl Scheduler for Lcm {
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
        let t = self.timesteps[index];
        let alpha = self.schedule.alpha(t as i64).unwrap_or(1.0);
        let denoised = self.prediction.denoised(&output, &sample, alpha.sqrt(), (1.0 - alpha).sqrt())?;
        let denoised = self.range.apply(denoised)?;

        // The boundary condition: at timestep 0 the sample is returned unchanged.
        let scaled = t * self.timestep_scaling;
        let length = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let (skip, out) = (SIGMA_DATA * SIGMA_DATA / length, scaled / length.sqrt());
        let denoised = mix(&[(out as f32, &denoised), (skip as f32, &sample)])?;

        let previous = match self.timesteps.get(index + 1) {
            Some(&next) => {
                let alpha = self.schedule.alpha(next as i64).unwrap_or(1.0);
                let drawn = draw_like(given, noise)?;
                mix(&[(alpha.sqrt(), &denoised), ((1.0 - alpha).sqrt(), &drawn)])?
            }
            None => denoised.clone(),
        };
        Stepped::new(&previous, &denoised, given.dtype())
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.schedule.add_noise(original, noise, &self.timesteps, index)
    }
}
