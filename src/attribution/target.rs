//! The number that is attributed: how far the prompt moves the prediction in a region.

use candle_core::{D, DType, Tensor};

use crate::facts::region::Region;
use crate::model::{Conditioning, PreparedPrompt};
use crate::pipeline::{Options, Pipeline};
use crate::prompt::Prompt;
use crate::trace::Unobserved;
use crate::{Error, Result};

/// The squared difference between the conditional and the unconditional prediction over a region of
/// the latent grid, mean over some steps of a run:
///
/// `T = mean over the steps of sum over p of w[p] |conditional - unconditional|²[p]`
///
/// `|.|²` sums over the latent's channels. `w` is how much of each cell lies in the region, and
/// sums to 1. The unconditional prediction is that of the run's negative prompt; in a run without
/// guidance, that of the empty prompt.
#[derive(Debug)]
pub struct AttributionTarget<'a> {
    steps: &'a [(Tensor, f64)],
    /// `[1, channels, h, w]`, f32, one per step.
    unconditional: Vec<Tensor>,
    /// `[1, h, w]`; they sum to 1.
    weights: Tensor,
}

impl<'a> AttributionTarget<'a> {
    /// The target of a run of `prompt` with `options`, at `steps`: what the denoiser was shown
    /// there, `[1, channels, h, w]`, and the timestep. `region` is on the latent grid.
    ///
    /// # Errors
    /// When there are no steps, or the region is on another grid; those of the networks.
    pub fn new(
        pipeline: &Pipeline,
        prompt: &Prompt,
        options: &Options,
        steps: &'a [(Tensor, f64)],
        region: &Region,
    ) -> Result<Self> {
        let Some((first, _)) = steps.first() else { return Err(Error::bug("a target without steps")) };
        let (.., height, width) = first.dims4()?;
        if region.weights().len() != height * width {
            return Err(Error::bug(format!("a region of {} cells on {height}x{width}", region.weights().len())));
        }
        let sum: f32 = region.weights().iter().sum();
        let weights: Vec<f32> = region.weights().iter().map(|weight| weight / sum).collect();
        let weights = Tensor::from_vec(weights, (1, height, width), first.device())?;
        let context = pipeline.denoiser().prepare(&unconditional(pipeline, prompt, options)?)?;
        let predict =
            |(input, timestep): &(Tensor, f64)| pipeline.predict_once(input, *timestep, &context, &mut Unobserved);
        let unconditional = steps.iter().map(predict).collect::<Result<Vec<_>>>()?;
        let weights = weights.to_device(unconditional[0].device())?;
        Ok(Self { steps, unconditional, weights })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The target at one step for each row of `prompt`: f32 `[rows]`.
    ///
    /// # Errors
    /// Those of the network.
    pub fn at(&self, pipeline: &Pipeline, step: usize, prompt: &PreparedPrompt) -> Result<Tensor> {
        let (input, timestep) = &self.steps[step];
        let inputs = Tensor::cat(&vec![input; prompt.batch()], 0)?;
        let predicted = pipeline.predict_once(&inputs, *timestep, prompt, &mut Unobserved)?;
        let moved = predicted.broadcast_sub(&self.unconditional[step])?.sqr()?.sum(1)?;
        Ok(moved.broadcast_mul(&self.weights)?.flatten_from(1)?.sum(D::Minus1)?.to_dtype(DType::F32)?)
    }
}

/// What the unconditional half of the run is conditioned on.
fn unconditional(pipeline: &Pipeline, prompt: &Prompt, options: &Options) -> Result<Conditioning> {
    let negative = if pipeline.guided(options) { options.negative.as_str() } else { "" };
    let negative = pipeline.read(negative, prompt.syntax)?;
    let mut states = pipeline.states(&[prompt, &negative], 0)?;
    let own = |both: &Tensor| -> Result<Tensor> {
        let row = both.narrow(0, 1, 1)?;
        Ok(if pipeline.guided(options) && pipeline.zero_negative(options) { row.zeros_like()? } else { row })
    };
    states.encoders = states.encoders.iter().map(own).collect::<Result<_>>()?;
    states.pooled = states.pooled.as_ref().map(own).transpose()?;
    pipeline.conditioning_of(&states, options)
}
