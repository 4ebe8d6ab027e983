//! DEIS (Zhang and Chen 2023, arXiv 2204.13902): the log-rho multistep form, of order 1 to 3,
//! `scheduling_deis_multistep.py`.
//!
//! In `rho = sigma / alpha` the probability flow is `d(x / alpha) / d rho = epsilon`. The noise is
//! replaced by the polynomial in log rho through the latest outputs, whose integral has a closed
//! form.

use super::lambda::{LambdaLevels, SHORT_RUN, refuse_other_models, visited};
use super::noise::TorchGenerator;
use super::prediction::{Prediction, Range, divide, mix};
use super::refuse::refuse;
use super::schedule::{ClassDefaults, DIFFUSERS, TrainSchedule};
use super::sigmas::SigmaSpacing;
use super::step::{Scheduler, Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;
use std::collections::VecDeque;

const CLASS: ClassDefaults = DIFFUSERS;

/// `DEISMultistepScheduler`.
#[derive(Debug)]
pub(super) struct Deis {
    prediction: Prediction,
    range: Range,
    order: usize,
    /// A short run ends with lower orders.
    lower_order_final: bool,
    levels: LambdaLevels,
    /// The noise in the samples of earlier steps, the latest first.
    outputs: VecDeque<Tensor>,
}

impl Deis {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, true)?;
        let range = Range::new(config, None)?;
        match config.algorithm_type.as_deref() {
            // A config written by the DPM-Solver class is read as this one.
            None | Some("deis" | "dpmsolver" | "dpmsolver++") => {}
            Some(other) => return Err(refuse(config, "algorithm_type", other, "deis")),
        }
        match config.solver_type.as_deref() {
            None | Some("logrho" | "midpoint" | "heun" | "bh1" | "bh2") => {}
            Some(other) => return Err(refuse(config, "solver_type", other, "logrho")),
        }
        let order = config.solver_order.unwrap_or(2);
        if !(1..=3).contains(&order) {
            return Err(refuse(config, "solver_order", order, "1 to 3"));
        }
        refuse_other_models(config)?;
        let (timesteps, sigmas) = visited(config, &schedule, steps, schedule.train_steps)?;
        // The class has no `final_sigmas_type`: a run ends at the smallest level of training, or
        // where its last step stands.
        let last = match SigmaSpacing::new(config)? {
            Some(_) => sigmas[steps - 1] as f32,
            None => schedule.sigmas()[0],
        };
        let levels = LambdaLevels::new(timesteps, sigmas, last)?;
        let lower_order_final = config.lower_order_final.unwrap_or(true) && steps < SHORT_RUN;
        Ok(Self { prediction, range, order, lower_order_final, levels, outputs: VecDeque::new() })
    }

    /// The order of the step at `index`: as many as there are outputs, fewer at the end of a short
    /// run.
    fn order_at(&self, index: usize) -> usize {
        let left = self.levels.timesteps.len() - index;
        let most = if self.lower_order_final { left } else { self.order };
        most.min(self.order).min(self.outputs.len())
    }

    /// The sample at the next index.
    fn update(&self, sample: &Tensor, index: usize) -> Result<Tensor> {
        let (to, from) = (self.levels.at(index + 1), self.levels.at(index));
        let rho = |index: usize| {
            let level = self.levels.at(index);
            level.sigma / level.alpha
        };
        let between = |integral: &dyn Fn(f32) -> f32| integral(rho(index + 1)) - integral(rho(index));
        let signal = to.alpha / from.alpha;
        let m: Vec<&Tensor> = self.outputs.iter().collect();
        match self.order_at(index) {
            3 => {
                let [r0, r1, r2] = [rho(index), rho(index - 1), rho(index - 2)];
                let weights = [
                    between(&|t| quadratic(t, r0, r1, r2)),
                    between(&|t| quadratic(t, r1, r2, r0)),
                    between(&|t| quadratic(t, r2, r0, r1)),
                ];
                let [w0, w1, w2] = weights.map(|weight| to.alpha * weight);
                mix(&[(signal, sample), (w0, m[0]), (w1, m[1]), (w2, m[2])])
            }
            2 => {
                let [r0, r1] = [rho(index), rho(index - 1)];
                let weights = [between(&|t| linear(t, r0, r1)), between(&|t| linear(t, r1, r0))];
                let [w0, w1] = weights.map(|weight| to.alpha * weight);
                mix(&[(signal, sample), (w0, m[0]), (w1, m[1])])
            }
            _ => {
                let h = to.lambda - from.lambda;
                mix(&[(signal, sample), (-(to.sigma * (h.exp() - 1.0)), m[0])])
            }
        }
    }
}

/// An antiderivative in `t` of `(ln t - ln c) / (ln b - ln c)`. That is Lagrange's polynomial in
/// log rho that is 1 at `b` and 0 at `c`.
fn linear(t: f32, b: f32, c: f32) -> f32 {
    t * (-c.ln() + t.ln() - 1.0) / (b.ln() - c.ln())
}

/// An antiderivative in `t` of the polynomial in log rho that is 1 at `b` and 0 at `c` and `d`.
fn quadratic(t: f32, b: f32, c: f32, d: f32) -> f32 {
    let [t_log, b, c, d] = [t, b, c, d].map(f32::ln);
    let numerator = t * (c * (d - t_log + 1.0) - d * t_log + d + t_log * t_log - 2.0 * t_log + 2.0);
    numerator / ((b - c) * (b - d))
}

impl Scheduler for Deis {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _: &mut [TorchGenerator]) -> Result<Stepped> {
        let dtype = sample.dtype();
        let (output, sample) = in_f32(output, index, self.levels.timesteps.len(), sample)?;
        let level = self.levels.at(index);
        let denoised = self.prediction.denoised(&output, &sample, level.alpha, level.sigma)?;
        let denoised = self.range.apply(denoised)?;
        self.outputs.push_front(divide(&mix(&[(1.0, &sample), (-level.alpha, &denoised)])?, level.sigma)?);
        self.outputs.truncate(self.order);
        Stepped::new(&self.update(&sample, index)?, &denoised, dtype)
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.levels.add_noise(original, noise, index)
    }
}
