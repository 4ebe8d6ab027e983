//! What the timestep does to the streams of a transformer: scales, shifts and gates.

use crate::Result;
use crate::model::layers::{Builder, Linear};
use candle_core::Tensor;

/// `x` `[batch, tokens, width]` times `1 + scale`, plus `shift`, `[batch or 1, width]` both.
pub(super) fn modulated(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?.broadcast_add(&shift.unsqueeze(1)?)?)
}

/// `residual` plus `x` `[batch, tokens, width]` times `gate` `[batch or 1, width]`.
pub(super) fn gated(residual: &Tensor, x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    Ok((residual + x.broadcast_mul(&gate.unsqueeze(1)?)?)?)
}

/// Widens four times and back, with the tanh form of GELU between (diffusers `FeedForward`:
/// `net.0.proj`, `net.2`).
#[derive(Debug, Clone)]
pub(super) struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    pub(super) fn new(width: usize, b: &Builder) -> Result<Self> {
        let net = b.pp("net");
        Ok(Self {
            proj: Linear::new(width, 4 * width, &net.pp(0).pp("proj"))?,
            out: Linear::new(4 * width, width, &net.pp(2))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.proj.forward(x)?.gelu()?)
    }
}
