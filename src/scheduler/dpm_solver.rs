//! DPM-Solver and DPM-Solver++ (Lu et al. 2022, arXiv 2206.00927 and 2211.01095), multistep, of
//! order 1 to 3, with their SDE variants, `scheduling_dpmsolver_multistep.py`.

use super::lambda::{
    LambdaLevel, LambdaLevels, SHORT_RUN, refuse_other_models, spread_over_training, timesteps_before, whole_timesteps,
};
use super::noise::{TorchGenerator, randn_tensor};
use super::prediction::{Prediction, Range, divide, mix};
use super::refuse::{config_error, refuse};
use super::schedule::{ClassDefaults, DIFFUSERS, TrainSchedule, linspace};
use super::sigma_levels::final_sigma;
use super::sigmas::SigmaSpacing;
use super::step::{Scheduler, Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::{DType, Tensor};
use std::collections::VecDeque;

/// `algorithm_type` of DPM-Solver++ for the SDE.
pub(super) const SDE_ALGORITHM: &str = "sde-dpmsolver++";

const CLASS: ClassDefaults = ClassDefaults { rescales: true, ..DIFFUSERS };

/// Which integral is approximated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DpmAlgorithm {
    /// Over the denoised sample (`++`) and not over the noise.
    plus_plus: bool,
    /// Of the SDE and not of the ODE: noise is drawn in each step.
    sde: bool,
}

/// `DPMSolverMultistepScheduler`.
#[derive(Debug)]
pub(super) struct DpmSolver {
    solver: Solver,
    order: usize,
    /// Short runs end with lower orders.
    lower_order_final: bool,
    /// The last step is of first order whatever the length.
    first_order_last: bool,
    levels: LambdaLevels,
    /// Converted outputs of earlier steps, the latest first.
    outputs: VecDeque<Tensor>,
}

/// What is integrated, and from what: what the multistep and the singlestep form share.
#[derive(Debug)]
pub(super) struct Solver {
    prediction: Prediction,
    range: Range,
    algorithm: DpmAlgorithm,
    /// Heun's second-order formula in place of the midpoint one.
    pub heun: bool,
}

impl Solver {
    pub(super) fn new(config: &SchedulerConfig) -> Result<Self> {
        let prediction = Prediction::new(config, true)?;
        let range = Range::new(config, None)?;
        let algorithm = match config.algorithm_type.as_deref() {
            // A config written by the DEIS class is read as this one.
            None | Some("dpmsolver++" | "deis") => DpmAlgorithm { plus_plus: true, sde: false },
            Some("dpmsolver") => DpmAlgorithm { plus_plus: false, sde: false },
            Some("sde-dpmsolver++") => DpmAlgorithm { plus_plus: true, sde: true },
            Some("sde-dpmsolver") => DpmAlgorithm { plus_plus: false, sde: true },
            Some(other) => {
                let accepted = "dpmsolver++, sde-dpmsolver++, dpmsolver or sde-dpmsolver";
                return Err(refuse(config, "algorithm_type", other, accepted));
            }
        };
        let heun = match config.solver_type.as_deref() {
            // The last three belong to DEIS and UniPC, whose configs are read as this class with
            // its default.
            None | Some("midpoint" | "logrho" | "bh1" | "bh2") => false,
            Some("heun") => true,
            Some(other) => return Err(refuse(config, "solver_type", other, "midpoint or heun")),
        };
        Ok(Self { prediction, range, algorithm, heun })
    }

    /// The sigma that a run ends at, where the algorithm goes with it.
    pub(super) fn final_sigma(config: &SchedulerConfig, schedule: &TrainSchedule) -> Result<f32> {
        let last = final_sigma(config, schedule)?;
        let named = config.algorithm_type.as_deref().unwrap_or("dpmsolver++");
        if last == 0.0 && !named.ends_with("++") {
            let reason = format!("`final_sigmas_type` zero does not go with `algorithm_type` {named}: set sigma_min");
            return Err(config_error(config, reason));
        }
        Ok(last)
    }

    /// The denoised sample, in range, and what the algorithm integrates: that (`++`), or the noise
    /// that agrees with it.
    pub(super) fn convert(&self, output: &Tensor, sample: &Tensor, level: LambdaLevel) -> Result<(Tensor, Tensor)> {
        let LambdaLevel { alpha, sigma, .. } = level;
        let denoised = self.range.apply(self.prediction.denoised(output, sample, alpha, sigma)?)?;
        let integrand = if self.algorithm.plus_plus {
            denoised.clone()
        } else if self.range == Range::Free {
            self.prediction.epsilon(output, sample, alpha, sigma)?
        } else {
            divide(&mix(&[(1.0, sample), (-alpha, &denoised)])?, sigma)?
        };
        Ok((denoised, integrand))
    }

    /// The factors of an update between two levels, `h` apart in lambda.
    pub(super) fn weights(&self, from: LambdaLevel, to: LambdaLevel, h: f32) -> StepWeights {
        StepWeights::new(self.algorithm, from, to, h)
    }

    /// The noise of one step, where the algorithm adds some; it is f32 whatever the model's dtype.
    pub(super) fn draw(&self, sample: &Tensor, noise: &mut [TorchGenerator]) -> Result<Option<Tensor>> {
        if !self.algorithm.sde {
            return Ok(None);
        }
        Ok(Some(randn_tensor(sample.shape(), noise, DType::F32, sample.device())?))
    }
}

impl DpmSolver {
    /// The class with Karras sigmas or in the SDE's form, where the config does not ask for them
    /// itself.
    pub(super) fn of(config: &SchedulerConfig, steps: usize, karras: bool, sde: bool) -> Result<Self> {
        let mut config = config.clone();
        if karras {
            config.use_karras_sigmas = Some(true);
        }
        if sde {
            config.algorithm_type = Some(SDE_ALGORITHM.into());
        }
        Self::new(&config, steps)
    }

    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let schedule = TrainSchedule::new(config, &CLASS)?;
        let solver = Solver::new(config)?;
        let order = config.solver_order.unwrap_or(2);
        let most = if solver.algorithm.sde && !solver.algorithm.plus_plus { 2 } else { 3 };
        if !(1..=most).contains(&order) {
            return Err(refuse(config, "solver_order", order, &format!("1 to {most} for this `algorithm_type`")));
        }
        refuse_other_models(config)?;
        let last = Solver::final_sigma(config, &schedule)?;
        schedule.check_steps(steps)?;
        let (timesteps, sigmas) = visited(config, &schedule, steps)?;
        let levels = LambdaLevels::new(timesteps, sigmas, last)?;
        let lower_order_final = config.lower_order_final.unwrap_or(true) && steps < SHORT_RUN;
        let first_order_last = config.euler_at_final.unwrap_or(false) || lower_order_final || last == 0.0;
        Ok(Self { solver, order, lower_order_final, first_order_last, levels, outputs: VecDeque::new() })
    }

    /// The order of the step at `index`: as many as there are outputs, fewer towards the end.
    fn order_at(&self, index: usize) -> usize {
        let left = self.levels.timesteps.len() - index;
        let most = match left {
            1 if self.first_order_last => 1,
            2 if self.lower_order_final => 2,
            _ => self.order,
        };
        most.min(self.outputs.len())
    }

    /// The update of the given order; `noise` is there for SDE algorithms.
    fn update(&self, sample: &Tensor, index: usize, order: usize, noise: Option<&Tensor>) -> Result<Tensor> {
        let to = self.levels.at(index + 1);
        let from = self.levels.at(index);
        let h = to.lambda - from.lambda;
        if h == 0.0 {
            // `final_sigmas_type` sigma_min, and the run is there already.
            return Ok(sample.clone());
        }
        let w = self.solver.weights(from, to, h);

        // Differences of the outputs: D0, D1, D2 of the papers.
        let m: Vec<&Tensor> = self.outputs.iter().collect();
        let mut terms = vec![(w.sample, sample), (w.first, m[0])];
        let (d1, d2);
        match order {
            2 => {
                let r0 = (from.lambda - self.levels.at(index - 1).lambda) / h;
                d1 = mix(&[(1.0, m[0]), (-1.0, m[1])]).and_then(|d| divide(&d, r0))?;
                terms.push((if self.solver.heun { w.second } else { 0.5 * w.first }, &d1));
            }
            3 => {
                let before = self.levels.at(index - 1).lambda;
                let r0 = (from.lambda - before) / h;
                let r1 = (before - self.levels.at(index - 2).lambda) / h;
                let d1_0 = mix(&[(1.0, m[0]), (-1.0, m[1])]).and_then(|d| divide(&d, r0))?;
                let d1_1 = mix(&[(1.0, m[1]), (-1.0, m[2])]).and_then(|d| divide(&d, r1))?;
                let change = mix(&[(1.0, &d1_0), (-1.0, &d1_1)])?;
                d1 = mix(&[(1.0, &d1_0), (r0 / (r0 + r1), &change)])?;
                d2 = divide(&change, r0 + r1)?;
                terms.push((w.second, &d1));
                terms.push((w.third, &d2));
            }
            _ => {}
        }
        if let Some(noise) = noise {
            terms.push((w.noise, noise));
        }
        mix(&terms)
    }
}

/// Factors of the terms of an update over the step `h` in lambda.
pub(super) struct StepWeights {
    pub sample: f32,
    /// Of the latest output.
    pub first: f32,
    /// Of its first difference, in Heun's and the third-order formula.
    pub second: f32,
    /// Of its second difference.
    pub third: f32,
    pub noise: f32,
}

impl StepWeights {
    fn new(algorithm: DpmAlgorithm, from: LambdaLevel, to: LambdaLevel, h: f32) -> Self {
        match algorithm {
            DpmAlgorithm { plus_plus: true, sde: false } => {
                let e = (-h).exp() - 1.0;
                Self {
                    sample: to.sigma / from.sigma,
                    first: -(to.alpha * e),
                    second: to.alpha * (e / h + 1.0),
                    third: -(to.alpha * ((e + h) / (h * h) - 0.5)),
                    noise: 0.0,
                }
            }
            DpmAlgorithm { plus_plus: false, sde: false } => {
                let e = h.exp() - 1.0;
                Self {
                    sample: to.alpha / from.alpha,
                    first: -(to.sigma * e),
                    second: -(to.sigma * (e / h - 1.0)),
                    third: -(to.sigma * ((e - h) / (h * h) - 0.5)),
                    noise: 0.0,
                }
            }
            DpmAlgorithm { plus_plus: true, sde: true } => {
                let e = 1.0 - (-2.0 * h).exp();
                Self {
                    sample: to.sigma / from.sigma * (-h).exp(),
                    first: to.alpha * e,
                    second: to.alpha * (e / (-2.0 * h) + 1.0),
                    third: to.alpha * ((e - 2.0 * h) / ((2.0 * h) * (2.0 * h)) - 0.5),
                    noise: to.sigma * e.max(0.0).sqrt(),
                }
            }
            DpmAlgorithm { plus_plus: false, sde: true } => {
                let e = h.exp() - 1.0;
                Self {
                    sample: to.alpha / from.alpha,
                    first: -2.0 * (to.sigma * e),
                    second: -2.0 * (to.sigma * (e / h - 1.0)),
                    third: 0.0,
                    noise: to.sigma * ((2.0 * h).exp() - 1.0).max(0.0).sqrt(),
                }
            }
        }
    }
}

/// Timesteps and sigmas of a run, without the final sigma.
fn visited(config: &SchedulerConfig, schedule: &TrainSchedule, steps: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let spread = SigmaSpacing::new(config)?;
    let lu = config.use_lu_lambdas.unwrap_or(false);
    let karras = spread == Some(SigmaSpacing::Karras);
    let spaced = match spread {
        _ if lu && !karras => {
            // Even in lambda, that is in -log sigma; the exponent 1 of the reference makes it a
            // straight line.
            let log_sigmas = schedule.log_sigmas();
            let (first, last) = (f64::from(log_sigmas[log_sigmas.len() - 1]), f64::from(log_sigmas[0]));
            let ramp = linspace(0.0, 1.0, steps);
            Some(ramp.into_iter().map(|x| (first + x * (last - first)).exp()).collect::<Vec<f64>>())
        }
        Some(spread) => Some(spread_over_training(spread, config, schedule, steps)),
        None => None,
    };
    if let Some(spaced) = spaced {
        let rounds = (karras || lu) && config.beta_schedule.as_deref() != Some("squaredcos_cap_v2");
        return Ok((whole_timesteps(&spaced, schedule, rounds), spaced));
    }
    let timesteps = timesteps_before(last_visited(config, schedule)?, schedule, steps);
    let sigmas = schedule.sigmas_at(&timesteps);
    Ok((timesteps, sigmas))
}

/// The exclusive upper bound of a run's timesteps. Those whose lambda is below `lambda_min_clipped`
/// are skipped.
pub(super) fn last_visited(config: &SchedulerConfig, schedule: &TrainSchedule) -> Result<usize> {
    let least = config.lambda_min_clipped.map_or(f64::NEG_INFINITY, |number| number.0);
    let lambda = |alpha: f32| alpha.sqrt().ln() - (1.0 - alpha).sqrt().ln();
    let alphas = schedule.positive_alphas();
    match alphas.iter().rposition(|&alpha| f64::from(lambda(alpha)) >= least) {
        Some(last) => Ok(last + 1),
        None => Err(config_error(config, "`lambda_min_clipped` leaves no timestep to visit")),
    }
}

impl Scheduler for DpmSolver {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn step(
        &mut self,
        output: &Tensor,
        index: usize,
        sample: &Tensor,
        noise: &mut [TorchGenerator],
    ) -> Result<Stepped> {
        let dtype = sample.dtype();
        let (output, sample) = in_f32(output, index, self.levels.timesteps.len(), sample)?;
        let (denoised, integrand) = self.solver.convert(&output, &sample, self.levels.at(index))?;
        self.outputs.push_front(integrand);
        self.outputs.truncate(self.order);
        let drawn = self.solver.draw(&sample, noise)?;
        let previous = self.update(&sample, index, self.order_at(index), drawn.as_ref())?;
        Stepped::new(&previous, &denoised, dtype)
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.levels.add_noise(original, noise, index)
    }
}
