//! One step of a sampler: the [`Scheduler`] trait and what its implementations share.

use super::noise::{TorchGenerator, randn_tensor};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::fmt;

/// A sampler for one run: it knows the timesteps to visit and how to get from one sample to the
/// next.
///
/// `index` counts the entries of [`timesteps`](Self::timesteps) from 0. Multistep samplers remember
/// earlier outputs, so steps are taken in order and every run has its own scheduler. A run may
/// begin at a later index (image to image).
pub trait Scheduler: Send + fmt::Debug {
    /// The timesteps to call the model at, in order, in training steps; fractional for Euler with
    /// linspace spacing. There may be more than the steps asked for: PNDM makes one call more, Heun
    /// and DPM-Solver-2 make two calls per step.
    fn timesteps(&self) -> &[f64];

    /// Calls of the model for each step but the last, which may have fewer: diffusers' `order`. A
    /// run that leaves out steps at its beginning leaves out so many calls for each.
    fn calls_per_step(&self) -> usize {
        1
    }

    /// What unit noise is multiplied with to become the first sample.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// The sample as the model wants to see it at `index`: scaled to unit variance by the Euler
    /// samplers, unchanged by the others.
    fn scale_model_input(&self, sample: &Tensor, _index: usize) -> Result<Tensor> {
        Ok(sample.clone())
    }

    /// One step: from `sample` at `index` and the model's `output` there to the sample at the next
    /// index.
    ///
    /// `output` and `sample` have the same shape `[B, C, h, w]`. The arithmetic is f32; the results
    /// have `sample`'s dtype. Samplers that add noise draw it in `sample`'s dtype from `noise`: one
    /// generator for the batch, or one per row (see [`randn_tensor`]).
    ///
    /// # Errors
    /// [`Error::Tensor`] for differing shapes, an index past the end, or a wrong number of
    /// generators.
    fn step(&mut self, output: &Tensor, index: usize, sample: &Tensor, noise: &mut [TorchGenerator])
    -> Result<Stepped>;

    /// `original` (a clean latent) with `noise` added to the level of the sample at `index`; the
    /// start of image to image.
    fn add_noise(&self, original: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor>;
}

/// What a [`Scheduler::step`] gives.
#[derive(Debug, Clone)]
pub struct Stepped {
    /// The sample at the next index; after the last step, the finished latent.
    pub previous: Tensor,
    /// The model's idea of the finished latent at this step, for previews.
    pub denoised: Tensor,
}

/// `output` and `sample` in f32, once `index` and the shapes are seen to be right.
pub(super) fn in_f32(output: &Tensor, index: usize, count: usize, sample: &Tensor) -> Result<(Tensor, Tensor)> {
    if index >= count {
        return Err(Error::bug(format!("step {index} of a run of {count}")));
    }
    if output.shape() != sample.shape() {
        let message = format!("a model output of {:?} for a sample of {:?}", output.dims(), sample.dims());
        return Err(Error::bug(message));
    }
    Ok((output.to_dtype(DType::F32)?, sample.to_dtype(DType::F32)?))
}

impl Stepped {
    /// From f32 results, in the dtype of the sample that they came from.
    pub(super) fn new(previous: &Tensor, denoised: &Tensor, dtype: DType) -> Result<Self> {
        Ok(Self { previous: previous.to_dtype(dtype)?, denoised: denoised.to_dtype(dtype)? })
    }
}

/// Noise of `sample`'s shape, drawn in its dtype, in f32.
pub(super) fn draw_like(sample: &Tensor, noise: &mut [TorchGenerator]) -> Result<Tensor> {
    Ok(randn_tensor(sample.shape(), noise, sample.dtype(), sample.device())?.to_dtype(DType::F32)?)
}
