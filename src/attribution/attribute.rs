//! The four methods.

use std::ops::ControlFlow;

use candle_core::{D, Tensor, Var};

use super::inputs::Inputs;
use super::method::Method;
use super::quadrature::gauss_legendre;
use super::target::AttributionTarget;
use crate::evidence::shapley::{Coalition, shapley};
use crate::pipeline::{Options, Pipeline};
use crate::{Error, Result};

/// Points of the integral where none are asked for.
pub const POINTS: usize = 32;

/// The most points that are tried where the integral is not complete with fewer.
pub const MOST_POINTS: usize = 256;

/// The largest gap of an attribution that counts as complete.
pub const COMPLETE: f64 = 0.02;

/// What is asked of the networks.
#[derive(Debug)]
pub struct AttributionQuestion<'a> {
    /// The options of the run.
    pub options: &'a Options,
    /// The number that is attributed.
    pub target: &'a AttributionTarget<'a>,
    /// What it is attributed to.
    pub inputs: &'a Inputs,
    /// How.
    pub method: Method,
    /// Points of the integral; [`POINTS`], and twice as many as often as the gap is above
    /// [`COMPLETE`], where `None`.
    pub points: Option<usize>,
    /// Most rows of a batch, 1 or more.
    pub batch: usize,
    /// For [`Method::Shapley`]: the owners that join one by one, by position in
    /// [`Inputs::owners`]; all others join together, as one.
    pub players: &'a [usize],
    /// Most sets of owners that [`Method::Shapley`] may try.
    pub budget: usize,
}

/// Values of the tokens themselves, before they are summed for words.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// A value for each token of each part of the input: of each text encoder, then SDXL's pooled
    /// prompt.
    pub tokens: Vec<Vec<f64>>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribution {
    /// The value of each of [`Inputs::owners`], signed, in the target's unit.
    pub values: Vec<f64>,
    /// The standard error of each, where values are sampled and that is known.
    pub errors: Vec<Option<f64>>,
    /// The owners without a value of their own, by position in [`Inputs::owners`]. With
    /// [`Method::Shapley`] all that is no player joins as one, and `<other>` has their value.
    pub joined: Vec<usize>,
    /// The values of the tokens, where the method has such.
    pub scored: Option<Scored>,
    /// The target of the prompt.
    pub whole: f64,
    /// The target of the empty prompt's input.
    pub empty: f64,
    /// How far the sum of the values is from `whole - empty`, as a share of that: the completeness
    /// gap. `None` where the two targets are equal.
    pub gap: Option<f64>,
    /// Points of the integral, or sets that were tried.
    pub evaluations: usize,
}

/// Attributes the target to the owners of the input.
///
/// `progress` is told of every call of the denoiser with its number of rows.
///
/// # Errors
/// [`Error::Interrupted`] when `progress` breaks; those of the networks. For a method that
/// [differentiates](Method::differentiates) on a CPU, [`Error::Bug`] when the layers of `pipeline`
/// are not plain ([`crate::pipeline::LoadOptions::plain`]).
pub fn attribute(
    pipeline: &Pipeline,
    question: &AttributionQuestion,
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Attribution> {
    let mut run = Calls { pipeline, question, progress };
    let count = question.inputs.owners().len();
    let ends = run.targets(&[vec![1.0; count], vec![0.0; count]])?;
    let (whole, empty) = (ends[0], ends[1]);
    let gap = |values: &[f64]| {
        let added = whole - empty;
        (added != 0.0).then(|| (values.iter().sum::<f64>() - added).abs() / added.abs())
    };
    let mut found = match question.method {
        Method::Gradient => {
            let gradients = run.gradients(&[(1.0, 1.0)])?;
            of_tokens(question.inputs, question.inputs.times(&gradients, false)?, 1)
        }
        Method::Integrated => {
            let mut points = question.points.unwrap_or(POINTS);
            loop {
                let gradients = run.gradients(&gauss_legendre(points))?;
                let found = of_tokens(question.inputs, question.inputs.times(&gradients, true)?, points);
                let wide = gap(&found.values).is_some_and(|gap| gap > COMPLETE);
                if !wide || question.points.is_some() || points >= MOST_POINTS {
                    break found;
                }
                points *= 2;
            }
        }
        Method::Occlusion => run.occlusion(whole)?,
        Method::Shapley => run.shapley()?,
    };
    (found.whole, found.empty, found.gap) = (whole, empty, gap(&found.values));
    Ok(found)
}

fn of_tokens(inputs: &Inputs, tokens: Vec<Vec<f64>>, evaluations: usize) -> Attribution {
    let values = inputs.by_owner(&tokens);
    let (errors, scored) = (vec![None; values.len()], Some(Scored { tokens }));
    let (joined, gap) = (Vec::new(), None);
    Attribution { values, errors, joined, scored, whole: 0.0, empty: 0.0, gap, evaluations }
}

/// Calls of the networks for one question.
struct Calls<'a> {
    pipeline: &'a Pipeline,
    question: &'a AttributionQuestion<'a>,
    progress: &'a mut dyn FnMut(usize) -> ControlFlow<()>,
}

impl Calls<'_> {
    fn tell(&mut self, rows: usize) -> Result<()> {
        match (self.progress)(rows) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }

    /// The target, mean over the steps, of inputs as [`Inputs::mixed`] makes them of `shares`.
    fn targets(&mut self, shares: &[Vec<f32>]) -> Result<Vec<f64>> {
        let &AttributionQuestion { options, target, inputs, batch, .. } = self.question;
        let mut found = Vec::with_capacity(shares.len());
        for some in shares.chunks(batch.max(1)) {
            let conditioning = inputs.conditioning(self.pipeline, options, &inputs.mixed(some)?)?;
            let context = self.pipeline.denoiser().prepare(&conditioning)?;
            let mut sums = vec![0.0; some.len()];
            for step in 0..target.steps() {
                let values = target.at(self.pipeline, step, &context)?.to_vec1::<f32>()?;
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
                self.tell(some.len())?;
            }
            found.extend(sums.into_iter().map(|sum| sum / target.steps() as f64));
        }
        Ok(found)
    }

    /// The weighted mean gradient of the target at `points` of the way from the empty prompt's
    /// input to the prompt's. It is `[tokens, channels]` for each part of the input. The graph of
    /// one step of one batch is held at a time.
    fn gradients(&mut self, points: &[(f64, f64)]) -> Result<Vec<Tensor>> {
        let &AttributionQuestion { options, target, inputs, batch, .. } = self.question;
        let count = inputs.owners().len();
        let mut sums: Option<Vec<Tensor>> = None;
        for some in points.chunks(batch.max(1)) {
            let shares: Vec<Vec<f32>> = some.iter().map(|(point, _)| vec![*point as f32; count]).collect();
            let weights: Vec<f32> = some.iter().map(|(_, weight)| *weight as f32 / target.steps() as f32).collect();
            let mixed = inputs.mixed(&shares)?;
            for step in 0..target.steps() {
                let vars = mixed.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
                let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
                let conditioning = inputs.conditioning(self.pipeline, options, &tensors)?;
                let context = self.pipeline.denoiser().prepare(&conditioning)?;
                let values = target.at(self.pipeline, step, &context)?;
                if !values.track_op() {
                    return Err(Error::bug("a gradient was asked of layers that have none; load them plain"));
                }
                // Rows do not see each other, so that the gradient of the sum holds that of each.
                let weights = Tensor::new(weights.as_slice(), values.device())?;
                let gradients = (values * weights)?.sum(D::Minus1)?.backward()?;
                let of_part = |var: &Var| match gradients.get(var) {
                    Some(gradient) => gradient.sum(0),
                    None => var.as_tensor().detach().zeros_like()?.sum(0),
                };
                let of_step = vars.iter().map(of_part).collect::<candle_core::Result<Vec<_>>>()?;
                sums = Some(match sums {
                    None => of_step,
                    Some(sums) => sums.iter().zip(&of_step).map(|(a, b)| a + b).collect::<candle_core::Result<_>>()?,
                });
                self.tell(some.len())?;
            }
        }
        sums.ok_or_else(|| Error::bug("a gradient at no point"))
    }

    /// What the target loses without each owner.
    fn occlusion(&mut self, whole: f64) -> Result<Attribution> {
        let inputs = self.question.inputs;
        let count = inputs.owners().len();
        let there: Vec<usize> = (0..count).filter(|&owner| inputs.has(owner)).collect();
        let without = |&owner: &usize| (0..count).map(|other| if other == owner { 0.0 } else { 1.0 }).collect();
        let targets = self.targets(&there.iter().map(without).collect::<Vec<Vec<f32>>>())?;
        let mut values = vec![0.0; count];
        there.iter().zip(targets).for_each(|(&owner, target)| values[owner] = whole - target);
        let (errors, joined, evaluations) = (vec![None; count], Vec::new(), there.len());
        Ok(Attribution { values, errors, joined, scored: None, whole, empty: 0.0, gap: None, evaluations })
    }

    /// Shapley values of the players; the value of all others together goes to `<other>`.
    fn shapley(&mut self) -> Result<Attribution> {
        let &AttributionQuestion { inputs, players, budget, .. } = self.question;
        let count = inputs.owners().len();
        // The last player is all that is none.
        let shares = |set: &Coalition| -> Vec<f32> {
            let player = |owner: usize| players.iter().position(|&player| player == owner).unwrap_or(players.len());
            (0..count).map(|owner| if set >> player(owner) & 1 == 1 { 1.0 } else { 0.0 }).collect()
        };
        let found = shapley(players.len() + 1, budget, 0, &mut |sets| {
            self.targets(&sets.iter().map(shares).collect::<Vec<_>>())
        })?;
        let (mut values, mut errors) = (vec![0.0; count], vec![None; count]);
        let others = inputs.owners().iter().position(|owner| owner.name == "<other>").unwrap_or(count - 1);
        for (place, owner) in players.iter().copied().chain([others]).enumerate() {
            (values[owner], errors[owner]) = (found.values[place], found.errors[place]);
        }
        let joined = (0..count).filter(|owner| *owner != others && !players.contains(owner)).collect();
        Ok(Attribution {
            values,
            errors,
            joined,
            scored: None,
            whole: 0.0,
            empty: 0.0,
            gap: None,
            evaluations: found.evaluations,
        })
    }
}
