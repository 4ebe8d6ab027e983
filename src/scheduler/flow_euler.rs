//! Euler's method along the straight paths of flow matching (Lipman et al. 2022; Esser et al.
//! 2024), `scheduling_flow_match_euler_discrete.py`.
//!
//! A sample at noise level `s`, 1 to 0, is `(1 - s) image + s noise`, and the model predicts `noise
//! - image`. Its timestep is 1000 times the level.

use super::noise::TorchGenerator;
use super::prediction::mix;
use super::refuse::{config_error, refuse};
use super::step::{Scheduler, Stepped, in_f32};
use crate::argument::STEPS;
use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};
use candle_core::Tensor;

/// What a schedule of flow matching depends on beside its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRun {
    /// Steps.
    pub steps: usize,
    /// Tokens of the image, which the shift depends on where the config says so
    /// (`use_dynamic_shifting`).
    pub image_tokens: usize,
    /// Which noise levels are shifted.
    pub levels: FlowLevels,
}

/// The noise levels of a run before they are shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowLevels {
    /// From the largest to the smallest of the scheduler's own, which are shifted once already
    /// (Stable Diffusion 3).
    OfSchedule,
    /// From 1 to one step's length (FLUX.1).
    FromOne,
}

/// `FlowMatchEulerDiscreteScheduler`.
#[derive(Debug)]
pub(super) struct FlowEuler {
    timesteps: Vec<f64>,
    /// One more than there are steps; the last is 0.
    levels: Vec<f32>,
}

impl FlowEuler {
    pub(super) fn new(config: &SchedulerConfig, run: FlowRun) -> Result<Self> {
        let FlowRun { steps, .. } = run;
        check(config)?;
        let train = config.num_train_timesteps.unwrap_or(1000);
        if steps == 0 {
            return Err(Error::argument(STEPS, "must be 1 or more; 0 given"));
        }
        if steps > train {
            let reason = format!("{steps} is more than the {train} timesteps the model was trained with");
            return Err(Error::argument(STEPS, reason));
        }
        let shift = config.shift.unwrap_or(1.0);
        let dynamic = config.use_dynamic_shifting.unwrap_or(false);
        let mu = mu(config, run.image_tokens);
        let shifted = |level: f64| match (dynamic, config.time_shift_type.as_deref()) {
            (false, _) => shift * level / (1.0 + (shift - 1.0) * level),
            (true, Some("linear")) => mu / (mu + (1.0 / level - 1.0)),
            (true, _) => mu.exp() / (mu.exp() + (1.0 / level - 1.0)),
        };
        let mut levels: Vec<f64> = match run.levels {
            FlowLevels::OfSchedule => {
                let least = (1.0 / train as f64) as f32;
                let (shift, least) = (shift as f32, if dynamic { least } else { of_f32(shift as f32, least) });
                let most = if dynamic { 1.0 } else { of_f32(shift, 1.0) };
                // numpy's linspace over timesteps, in f64.
                let (first, last) = (f64::from(most) * train as f64, f64::from(least) * train as f64);
                let step = (last - first) / (steps.max(2) - 1) as f64;
                let at = |index: usize| match index + 1 == steps && steps > 1 {
                    true => last,
                    false => first + index as f64 * step,
                };
                (0..steps).map(|index| shifted(at(index) / train as f64)).collect()
            }
            FlowLevels::FromOne => {
                let last = 1.0 / steps as f64;
                let step = (last - 1.0) / (steps.max(2) - 1) as f64;
                let at = |index: usize| if index + 1 == steps { last } else { 1.0 + index as f64 * step };
                // diffusers rounds these to f32 before it shifts them, and shifts in f32.
                (0..steps).map(|index| f64::from(shifted(f64::from(at(index) as f32)) as f32)).collect()
            }
        };
        if let Some(terminal) = config.shift_terminal.filter(|terminal| *terminal != 0.0) {
            let last = levels.last().copied().unwrap_or(0.0);
            let factor = (1.0 - last) / (1.0 - terminal);
            levels.iter_mut().for_each(|level| *level = 1.0 - (1.0 - *level) / factor);
        }
        let mut levels: Vec<f32> = levels.into_iter().map(|level| level as f32).collect();
        if levels.iter().any(|level| !level.is_finite()) {
            return Err(config_error(config, "`shift` and its kin give noise levels that are no numbers"));
        }
        let timesteps = levels.iter().map(|level| f64::from(level * train as f32)).collect();
        levels.push(0.0);
        Ok(Self { timesteps, levels })
    }
}

/// The level shifted in f32, as diffusers' constructor does.
fn of_f32(shift: f32, level: f32) -> f32 {
    shift * level / (1.0 + (shift - 1.0) * level)
}

/// The logarithm of the shift for so many tokens of the image: a straight line through two points
/// (`calculate_shift` of diffusers' pipelines).
fn mu(config: &SchedulerConfig, tokens: usize) -> f64 {
    let (least, most) = (config.base_image_seq_len.unwrap_or(256), config.max_image_seq_len.unwrap_or(4096));
    let (base, max) = (config.base_shift.unwrap_or(0.5), config.max_shift.unwrap_or(1.15));
    let slope = (max - base) / (most as f64 - least as f64);
    tokens as f64 * slope + (base - slope * least as f64)
}

/// Refuses what is not computed here.
fn check(config: &SchedulerConfig) -> Result<()> {
    let switches = [
        ("invert_sigmas", config.invert_sigmas),
        ("stochastic_sampling", config.stochastic_sampling),
        ("use_karras_sigmas", config.use_karras_sigmas),
        ("use_exponential_sigmas", config.use_exponential_sigmas),
        ("use_beta_sigmas", config.use_beta_sigmas),
    ];
    if let Some((name, _)) = switches.into_iter().find(|(_, on)| *on == Some(true)) {
        return Err(refuse(config, name, true, "attnmap computes flow matching with false alone"));
    }
    if let Some(other) = config.time_shift_type.as_deref().filter(|kind| !["exponential", "linear"].contains(kind)) {
        return Err(refuse(config, "time_shift_type", other, "exponential or linear"));
    }
    let shift = config.shift.unwrap_or(1.0);
    if !(shift.is_finite() && shift > 0.0) {
        return Err(refuse(config, "shift", shift, "it must be above 0"));
    }
    if config.base_image_seq_len.unwrap_or(256) == config.max_image_seq_len.unwrap_or(4096) {
        return Err(config_error(config, "`base_image_seq_len` and `max_image_seq_len` are the same"));
    }
    Ok(())
}

impl Scheduler for FlowEuler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _: &mut [TorchGenerator]) -> Result<Stepped> {
        let dtype = sample.dtype();
        let (output, sample) = in_f32(output, index, self.timesteps.len(), sample)?;
        let (level, next) = (self.levels[index], self.levels[index + 1]);
        let denoised = mix(&[(1.0, &sample), (-level, &output)])?;
        Stepped::new(&mix(&[(1.0, &sample), (next - level, &output)])?, &denoised, dtype)
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        let dtype = original.dtype();
        let (noise, original) = in_f32(noise, index, self.timesteps.len(), original)?;
        let level = self.levels[index];
        Ok(mix(&[(level, &noise), (1.0 - level, &original)])?.to_dtype(dtype)?)
    }
}
