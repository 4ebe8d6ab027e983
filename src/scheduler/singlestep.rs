//! DPM-Solver and DPM-Solver++ (Lu et al. 2022, arXiv 2206.00927 and 2211.01095), singlestep, of
//! order 1 to 3, `scheduling_dpmsolver_singlestep.py`.
//!
//! A step of order n is n calls. Their orders run 1, 2 .. n, each from the sample that the first of
//! them set out from. As in diffusers `steps` counts the calls.

use super::dpm_solver::{Solver, last_visited};
use super::lambda::{LambdaLevels, refuse_other_models, visited};
use super::noise::TorchGenerator;
use super::prediction::{divide, mix};
use super::refuse::refuse;
use super::schedule::{ClassDefaults, DIFFUSERS, Spacing, TrainSchedule};
use super::step::{Scheduler, Stepped, in_f32};
use crate::Result;
use crate::checkpoint::SchedulerConfig;
use candle_core::Tensor;
use std::collections::VecDeque;

const CLASS: ClassDefaults = DIFFUSERS;

/// `DPMSolverSinglestepScheduler`.
#[derive(Debug)]
pub(super) struct Singlestep {
    solver: Solver,
    /// The order of each call's update.
    orders: Vec<usize>,
    levels: LambdaLevels,
    /// Converted outputs of earlier calls, the latest first.
    outputs: VecDeque<Tensor>,
    /// The sample that the present step set out from.
    origin: Option<Tensor>,
}

impl Singlestep {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        // The class has no `timestep_spacing`.
        let schedule = TrainSchedule { spacing: Spacing::Linspace, ..TrainSchedule::new(config, &CLASS)? };
        let solver = Solver::new(config)?;
        if config.algorithm_type.as_deref() == Some("sde-dpmsolver") {
            let accepted = "dpmsolver++, sde-dpmsolver++ or dpmsolver";
            return Err(refuse(config, "algorithm_type", "sde-dpmsolver", accepted));
        }
        let order = config.solver_order.unwrap_or(2);
        if !(1..=3).contains(&order) {
            return Err(refuse(config, "solver_order", order, "1 to 3"));
        }
        refuse_other_models(config)?;
        let last = Solver::final_sigma(config, &schedule)?;
        let (timesteps, sigmas) = visited(config, &schedule, steps, last_visited(config, &schedule)?)?;
        let levels = LambdaLevels::new(timesteps, sigmas, last)?;
        let mut orders: Vec<usize> = (0..steps).map(|call| call % order + 1).collect();
        // Calls that do not fill the last step are of lower order anyway.
        let lower = config.lower_order_final.unwrap_or(false) && steps.is_multiple_of(order);
        if (lower || last == 0.0)
            && let Some(last) = orders.last_mut()
        {
            *last = 1;
        }
        Ok(Self { solver, orders, levels, outputs: VecDeque::new(), origin: None })
    }

    /// The update of the given order, from the sample at the first of its calls; `noise` is there
    /// for the SDE.
    fn update(&self, origin: &Tensor, index: usize, order: usize, noise: Option<&Tensor>) -> Result<Tensor> {
        let (to, from) = (self.levels.at(index + 1), self.levels.at(index + 1 - order));
        let h = to.lambda - from.lambda;
        let w = self.solver.weights(from, to, h);
        // How far into the step the call `back` calls ago was.
        let share = |back: usize| (self.levels.at(index - back).lambda - from.lambda) / h;
        let m: Vec<&Tensor> = self.outputs.iter().take(order).collect();
        let first = m[order - 1];
        let difference = |back: usize| mix(&[(1.0, m[back]), (-1.0, first)]).and_then(|d| divide(&d, share(back)));
        let mut terms = vec![(w.sample, origin), (w.first, first)];
        let (d1, d2);
        match order {
            2 => {
                d1 = difference(0)?;
                terms.push((if self.solver.heun { w.second } else { 0.5 * w.first }, &d1));
            }
            3 if self.solver.heun => {
                let (late, early) = (difference(0)?, difference(1)?);
                let (r0, r1) = (share(0), share(1));
                d1 = divide(&mix(&[(r0, &early), (-r1, &late)])?, r0 - r1)?;
                d2 = divide(&mix(&[(2.0, &late), (-2.0, &early)])?, r0 - r1)?;
                terms.extend([(w.second, &d1), (w.third, &d2)]);
            }
            3 => {
                d1 = difference(0)?;
                terms.push((w.second, &d1));
            }
            _ => {}
        }
        terms.extend(noise.map(|noise| (w.noise, noise)));
        mix(&terms)
    }
}

impl Scheduler for Singlestep {
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
        self.outputs.truncate(3);
        let drawn = self.solver.draw(&sample, noise)?;
        // A run that begins in the middle of a step has no outputs for its order yet.
        let order = self.orders[index].min(self.outputs.len());
        let origin = match self.origin.take() {
            Some(origin) if order > 1 => origin,
            _ => sample,
        };
        let previous = self.update(&origin, index, order, drawn.as_ref())?;
        self.origin = Some(origin);
        Stepped::new(&previous, &denoised, dtype)
    }

    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        self.levels.add_noise(original, noise, index)
    }
}
