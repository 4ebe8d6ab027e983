//! Pseudo numerical methods (Liu et al. 2022): a linear multistep sampler with an optional
//! Runge-Kutta start, `scheduling_pndm.py`.
//!
//! The multistep part calls the model twice at the second timestep, so a run has one call more than
//! steps. The Runge-Kutta start (off in Stable Diffusion: `skip_prk_steps`) has four calls for each
//! of the first three steps.

use super::noise::TorchGenerator;
use super::prediction::{Prediction, mix};
use super::schedule::{ClassDefaults, DIFFUSERS, Spacing, TrainSchedule};
use super::step::{Scheduler, Stepped, in_f32};
use crate::argument::STEPS;
use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::VecDeque;

const CLASS: ClassDefaults = ClassDefaults { spacing: Spacing::Leading, ..DIFFUSERS };

/// Model outputs that the multistep formula looks back on.
const ORDER: usize = 4;

/// `PNDMScheduler`.
#[derive(Debug)]
pub(super) struct Pndm {
    schedule: TrainSchedule,
    prediction: Prediction,
    final_alpha: f32,
    /// Training timesteps between two of the run.
    stride: i64,
    timesteps: Vec<f64>,
    /// Calls that belong to the Runge-Kutta start.
    runge_kutta_calls: usize,
    /// Steps taken so far; not the index, since a run may begin late.
    counter: usize,
    /// Outputs of earlier steps, the latest last.
    outputs: VecDeque<Tensor>,
    /// The sample that a step of several calls set out from.
    origin: Option<Tensor>,
    /// Weighted sum of the outputs of a Runge-Kutta step so far.
    accumulated: Option<Tensor>,
}

impl Pndm {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, false)?;
        let visited = schedule.timesteps(steps)?;
        let stride = schedule.train_steps / steps;
        let (timesteps, runge_kutta_calls) = if config.skip_prk_steps.unwrap_or(false) {
            (multistep_timesteps(&visited), 0)
        } else {
            if steps < ORDER {
                let reason = format!(
                    "the PNDM sampler with its Runge-Kutta start (`skip_prk_steps` false) needs {ORDER} steps or more; \
                     {steps} given"
                );
                return Err(Error::argument(STEPS, reason));
            }
            let start = runge_kutta_timesteps(&visited, (stride / 2) as f64);
            let calls = start.len();
            (start.into_iter().chain(visited[ORDER - 1..].iter().copied()).collect(), calls)
        };
        schedule.check_in_training(&timesteps)?;
        let final_alpha = if config.set_alpha_to_one.unwrap_or(false) { 1.0 } else { schedule.alphas_cumprod[0] };
        Ok(Self {
            schedule,
            prediction,
            final_alpha,
            stride: stride as i64,
            timesteps,
            runge_kutta_calls,
            counter: 0,
            outputs: VecDeque::new(),
            origin: None,
            accumulated: None,
        })
    }

    /// One of the four calls of a Runge-Kutta step: from where, to which timestep, and along which
    /// direction.
    fn runge_kutta(&mut self, output: &Tensor, t: i64, sample: &Tensor) -> Result<Move> {
        let call = self.counter % 4;
        let to = if call.is_multiple_of(2) { t - self.stride / 2 } else { t };
        let from = self.timesteps[self.counter / 4 * 4] as i64;
        let weight = if call == 0 || call == 3 { 1.0 / 6.0 } else { 1.0 / 3.0 };
        let weighted = match self.accumulated.take() {
            Some(sum) => mix(&[(1.0, &sum), (weight, output)])?,
            None => mix(&[(weight, output)])?,
        };
        if call == 0 {
            self.outputs.push_back(output.clone());
            self.origin = Some(sample.clone());
        }
        let direction = if call == 3 {
            weighted
        } else {
            self.accumulated = Some(weighted);
            output.clone()
        };
        let sample = self.origin.clone().unwrap_or_else(|| sample.clone());
        Ok(Move { sample, from, to, direction })
    }

    /// A call of the linear multistep part (formula 12).
    fn multistep(&mut self, output: &Tensor, t: i64, sample: &Tensor) -> Result<Move> {
        // The second call goes over the first step again, now with the outputs of both its ends.
        let repeats = self.counter == 1;
        let (from, to) = if repeats { (t + self.stride, t) } else { (t, t - self.stride) };
        if !repeats {
            while self.outputs.len() >= ORDER {
                self.outputs.pop_front();
            }
            self.outputs.push_back(output.clone());
        }
        let e: Vec<&Tensor> = self.outputs.iter().rev().collect();
        let direction = match e[..] {
            [e0] if repeats => mix(&[(0.5, output), (0.5, e0)])?,
            [_] => output.clone(),
            [e0, e1] => mix(&[(1.5, e0), (-0.5, e1)])?,
            [e0, e1, e2] => mix(&[(23.0 / 12.0, e0), (-16.0 / 12.0, e1), (5.0 / 12.0, e2)])?,
            [e0, e1, e2, e3, ..] => {
                mix(&[(55.0 / 24.0, e0), (-59.0 / 24.0, e1), (37.0 / 24.0, e2), (-9.0 / 24.0, e3)])?
            }
            [] => output.clone(),
        };
        let sample = match self.counter {
            0 => {
                self.origin = Some(sample.clone());
                sample.clone()
            }
            1 => self.origin.take().unwrap_or_else(|| sample.clone()),
            _ => sample.clone(),
        };
        Ok(Move { sample, from, to, direction })
    }

    /// Formula (9): the transfer along `direction` from one timestep to another.
    fn transfer(&self, along: &Move) -> Result<Tensor> {
        let alpha = self.schedule.alpha(along.from).unwrap_or(1.0);
        let to_alpha = self.schedule.alpha(along.to).unwrap_or(self.final_alpha);
        let (beta, to_beta) = (1.0 - alpha, 1.0 - to_alpha);
        let epsilon = self.prediction.epsilon(&along.direction, &along.sample, alpha.sqrt(), beta.sqrt())?;
        let denominator = alpha * to_beta.sqrt() + (alpha * beta * to_alpha).sqrt();
        mix(&[((to_alpha / alpha).sqrt(), &along.sample), (-(to_alpha - alpha) / denominator, &epsilon)])
    }
}

/// What one call asks for: to go from a sample at one timestep to another timestep along a
/// direction (a model output).
struct Move {
    sample: Tensor,
    from: i64,
    to: i64,
    direction: Tensor,
}

/// The timesteps with the second one (the next to last where there are two) doubled.
fn multistep_timesteps(visited: &[f64]) -> Vec<f64> {
    let mut timesteps = visited.to_vec();
    if let Some(&second) = visited.get(1) {
        timesteps.insert(1, second);
    }
    timesteps
}

/// The twelve calls of the Runge-Kutta start: begin, middle, middle and end of each of the first
/// three steps.
fn runge_kutta_timesteps(visited: &[f64], half: f64) -> Vec<f64> {
    // Each step ends where the next begins; the middles are counted up from the ends.
    visited[..ORDER].windows(2).flat_map(|ends| [ends[0], ends[1] + half, ends[1] + half, ends[1]]).collect()
}

impl Scheduler for Pndm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _: &mut [TorchGenerator]) -> Result<Stepped> {
        let dtype = sample.dtype();
        let (output, sample) = in_f32(output, index, self.timesteps.len(), sample)?;
        let t = self.timesteps[index] as i64;
        let alpha = self.schedule.alpha(t).unwrap_or(1.0);
        let denoised = self.prediction.denoised(&output, &sample, alpha.sqrt(), (1.0 - alpha).sqrt())?;
        let along = if self.counter < self.runge_kutta_calls {
            self.runge_kutta(&output, t, &sample)?
        } else {
            self.multistep(&output, t, &sample)?
        };
        self.counter += 1;
        Stepped::new(&self.transfer(&along)?, &denoised, dtype)
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.schedule.add_noise(original, noise, &self.timesteps, index)
    }
}
