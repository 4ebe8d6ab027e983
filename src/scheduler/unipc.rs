//! UniPC (Zhao et al. 2023, arXiv 2302.04867; `scheduling_unipc_multistep.py`): a multistep
//! predictor of order 1 to 3. The next call's output corrects its sample at no further cost.

use super::lambda::{LambdaLevels, refuse_other_models, visited};
use super::noise::TorchGenerator;
use super::prediction::{Prediction, Range, divide, mix};
use super::refuse::{config_error, refuse};
use super::schedule::{ClassDefaults, DIFFUSERS, TrainSchedule};
use super::sigma_levels::final_sigma;
use super::sigmas::SigmaSpacing;
use super::step::{Scheduler, Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;
use std::collections::VecDeque;

const CLASS: ClassDefaults = ClassDefaults { rescales: true, ..DIFFUSERS };

/// The function B(h) of the paper, which scales the differences of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SolverType {
    /// `h`.
    Bh1,
    /// `e^h - 1`.
    Bh2,
}

/// `UniPCMultistepScheduler`.
#[derive(Debug)]
pub(super) struct UniPc {
    prediction: Prediction,
    range: Range,
    /// Whether the integral is over the denoised sample and not over the noise.
    predict_x0: bool,
    solver_type: SolverType,
    order: usize,
    /// The last steps are of lower order, whatever the length of the run.
    lower_order_final: bool,
    /// Indices of the steps whose result is not corrected.
    uncorrected: Vec<usize>,
    levels: LambdaLevels,
    /// Converted outputs of earlier steps, the latest first.
    outputs: VecDeque<Tensor>,
    /// Where the step before set out from, and its order.
    before: Option<(Tensor, usize)>,
}

impl UniPc {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let prediction = Prediction::new(config, true)?;
        let solver_type = match config.solver_type.as_deref() {
            // The last three belong to DPM-Solver and DEIS, whose configs are read as this class
            // with its default.
            None | Some("bh2" | "midpoint" | "heun" | "logrho") => SolverType::Bh2,
            Some("bh1") => SolverType::Bh1,
            Some(other) => return Err(refuse(config, "solver_type", other, "bh1 or bh2")),
        };
        let order = config.solver_order.unwrap_or(2);
        if !(1..=3).contains(&order) {
            return Err(refuse(config, "solver_order", order, "1 to 3"));
        }
        if config.solver_p.is_some() {
            return Err(refuse(config, "solver_p", "another scheduler", "UniPC's own predictor: null"));
        }
        refuse_other_models(config)?;
        let predict_x0 = config.predict_x0.unwrap_or(true);
        // Only the denoised sample is thresholded.
        let range = if predict_x0 { Range::new(config, None)? } else { Range::Free };
        let lower_order_final = config.lower_order_final.unwrap_or(true);
        let (timesteps, sigmas) = visited(config, &schedule, steps, schedule.train_steps)?;
        let last = match (final_sigma(config, &schedule)?, SigmaSpacing::new(config)?) {
            (0.0, _) if !predict_x0 => {
                let reason = "`final_sigmas_type` zero does not go with `predict_x0` false: set sigma_min";
                return Err(config_error(config, reason));
            }
            (0.0, _) if order > 1 && !lower_order_final => {
                let reason = "`final_sigmas_type` zero does not go with `lower_order_final` false: set sigma_min";
                return Err(config_error(config, reason));
            }
            (0.0, _) => 0.0,
            (_, Some(_)) => sigmas[steps - 1] as f32,
            (smallest, None) => smallest,
        };
        Ok(Self {
            prediction,
            range,
            predict_x0,
            solver_type,
            order,
            lower_order_final,
            uncorrected: config.disable_corrector.clone().unwrap_or_default(),
            levels: LambdaLevels::new(timesteps, sigmas, last)?,
            outputs: VecDeque::new(),
            before: None,
        })
    }

    /// The sample at the index after `index`, from `sample` at `index`, whose output is the latest
    /// kept. This is the predictor, or the corrector with the output `arrived` at the predicted
    /// sample.
    fn update(&self, sample: &Tensor, index: usize, order: usize, arrived: Option<&Tensor>) -> Result<Tensor> {
        let (to, from) = (self.levels.at(index + 1), self.levels.at(index));
        let h = to.lambda - from.lambda;
        if h == 0.0 {
            // `final_sigmas_type` sigma_min, and the run is there already.
            return Ok(sample.clone());
        }
        let latest = &self.outputs[0];

        // Differences of the outputs to the latest, by their distances in lambda as shares of the
        // step.
        let (mut shares, mut differences) = (Vec::new(), Vec::new());
        for (back, output) in self.outputs.iter().enumerate().take(order).skip(1) {
            let share = (self.levels.at(index - back).lambda - from.lambda) / h;
            differences.push(divide(&mix(&[(1.0, output), (-1.0, latest)])?, share)?);
            shares.push(share);
        }
        if let Some(arrived) = arrived {
            differences.push(mix(&[(1.0, arrived), (-1.0, latest)])?);
            shares.push(1.0);
        }

        let signed = if self.predict_x0 { -h } else { h };
        let first = signed.exp_m1();
        let scale = match self.solver_type {
            SolverType::Bh1 => signed,
            SolverType::Bh2 => first,
        };
        let weights = match shares.len() {
            // One difference is weighed the simple way in both formulas.
            1 => vec![0.5],
            _ => weights(&shares, signed, scale),
        };
        let (kept, gain) = match self.predict_x0 {
            true => (to.sigma / from.sigma, to.alpha),
            false => (to.alpha / from.alpha, to.sigma),
        };
        let mut terms = vec![(kept, sample), (-(gain * first), latest)];
        terms.extend(
            weights.iter().zip(&differences).map(|(weight, difference)| (-(gain * scale * weight), difference)),
        );
        mix(&terms)
    }
}

/// The weights of differences at `shares` of a step of `h`. They solve `sum_k w_k share_k^(i-1) =
/// i! phi_(i+1)(h) h / B(h)` for `i` from 1 to their number. These are the paper's R and g, with
/// its phi functions by their recurrence.
fn weights(shares: &[f32], h: f32, scale: f32) -> Vec<f32> {
    let count = shares.len();
    let mut phi = h.exp_m1() / h - 1.0;
    let mut factorial = 1.0;
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(count);
    for i in 1..=count {
        let mut row: Vec<f64> = shares.iter().map(|&share| f64::from(share.powi(i as i32 - 1))).collect();
        row.push(f64::from(phi * factorial / scale));
        rows.push(row);
        factorial *= (i + 1) as f32;
        phi = phi / h - 1.0 / factorial;
    }
    solve(rows)
}

/// The solution of a small linear system, each row with its right side last, by elimination with
/// pivots.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f32> {
    let count = rows.len();
    for column in 0..count {
        let pivot = (column..count).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let pivot = rows[column].clone();
        for (index, row) in rows.iter_mut().enumerate() {
            if index != column {
                let factor = row[column] / pivot[column];
                row.iter_mut().zip(&pivot).for_each(|(value, above)| *value -= factor * above);
            }
        }
    }
    rows.iter().enumerate().map(|(index, row)| (row[count] / row[index]) as f32).collect()
}

impl Scheduler for UniPc {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, _: &mut [TorchGenerator]) -> Result<Stepped> {
        let dtype = sample.dtype();
        let count = self.levels.timesteps.len();
        let (output, sample) = in_f32(output, index, count, sample)?;
        let level = self.levels.at(index);
        let denoised = self.range.apply(self.prediction.denoised(&output, &sample, level.alpha, level.sigma)?)?;
        let converted = match self.predict_x0 {
            true => denoised.clone(),
            false => self.prediction.epsilon(&output, &sample, level.alpha, level.sigma)?,
        };
        // The output at the predicted sample stays in use for the corrected one.
        let sample = match self.before.take() {
            Some((before, order)) if index > 0 && !self.uncorrected.contains(&(index - 1)) => {
                self.update(&before, index - 1, order, Some(&converted))?
            }
            _ => sample,
        };
        self.outputs.push_front(converted);
        self.outputs.truncate(self.order);
        let most = if self.lower_order_final { self.order.min(count - index) } else { self.order };
        let order = most.min(self.outputs.len());
        let previous = self.update(&sample, index, order, None)?;
        self.before = Some((sample, order));
        Stepped::new(&previous, &denoised, dtype)
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.levels.add_noise(original, noise, index)
    }
}
