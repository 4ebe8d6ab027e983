//! What the attentions of the transformers share: queries, keys and values of one stream, and the
//! same drawn anew.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::Result;
use crate::model::layers::{Builder, Draw, Linear, RmsNorm};

/// The linear layers of a stream: queries, keys, values.
pub(super) const OWN: [&str; 3] = ["to_q", "to_k", "to_v"];
/// The same of the text, where it has a stream of its own.
pub(super) const ADDED: [&str; 3] = ["add_q_proj", "add_k_proj", "add_v_proj"];
/// Norms of queries and keys: of a stream, and of the text's own.
pub(super) const NORMS: [[&str; 2]; 2] = [["norm_q", "norm_k"], ["norm_added_q", "norm_added_k"]];

/// What the streams of one network have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamShape {
    /// Channels that go in and come out.
    pub(super) width: usize,
    /// Channels of a head.
    pub(super) head: usize,
    /// Whether the linear layers have a bias.
    pub(super) bias: bool,
    /// Epsilon of the norms of queries and keys; `None` where there are none.
    pub(super) qk_norm: Option<f64>,
}

/// Queries, keys and values of one stream.
#[derive(Debug, Clone)]
pub(super) struct Projections {
    q: Linear,
    k: Linear,
    v: Linear,
    norm_q: Option<RmsNorm>,
    norm_k: Option<RmsNorm>,
}

impl Projections {
    /// Of the layers `[q, k, v]` and, where the shape has them, the norms `[q, k]`.
    ///
    /// # Errors
    /// When a weight is not there in its shape.
    pub(super) fn new(
        shape: &StreamShape,
        [q, k, v]: [&str; 3],
        [norm_q, norm_k]: [&str; 2],
        b: &Builder,
    ) -> Result<Self> {
        let linear = |name: &str| shape.linear(&b.pp(name));
        let norm = |name: &str| shape.qk_norm.map(|eps| RmsNorm::new(shape.head, eps, &b.pp(name))).transpose();
        Ok(Self { q: linear(q)?, k: linear(k)?, v: linear(v)?, norm_q: norm(norm_q)?, norm_k: norm(norm_k)? })
    }

    /// Of `x` `[batch, tokens, width]`, each head normed; the same shape.
    pub(super) fn queries(&self, x: &Tensor) -> Result<Tensor> {
        normed(self.q.forward(x)?, self.norm_q.as_ref())
    }

    /// As [`queries`](Self::queries).
    pub(super) fn keys(&self, x: &Tensor) -> Result<Tensor> {
        normed(self.k.forward(x)?, self.norm_k.as_ref())
    }

    /// Of `x` `[batch, tokens, width]`; the same shape.
    pub(super) fn values(&self, x: &Tensor) -> Result<Tensor> {
        self.v.forward(x)
    }

    /// `[queries, keys, values]` of `x`.
    pub(super) fn all(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        Ok([self.queries(x)?, self.keys(x)?, self.values(x)?])
    }
}

fn normed(x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward_heads(&x),
        None => Ok(x),
    }
}

impl StreamShape {
    /// A linear layer of the stream, that of its output too.
    ///
    /// # Errors
    /// When a weight is not there in its shape.
    pub(super) fn linear(&self, b: &Builder) -> Result<Linear> {
        match self.bias {
            true => Linear::new(self.width, self.width, b),
            false => Linear::without_bias(self.width, self.width, b),
        }
    }

    /// Weights for the linear `layers`, drawn anew as each network's `redraw_joint_attention` says,
    /// and ones for the norms of queries and keys.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub(super) fn drawn(
        &self,
        layers: &[&str],
        draw: Draw,
        dtype: DType,
        device: &Device,
    ) -> Result<VarBuilder<'static>> {
        let Self { width, head, bias, .. } = *self;
        let deviation = 1.0 / (3.0 * width as f32).sqrt();
        let mut weights = HashMap::new();
        for name in layers {
            let mut add = |leaf: &str, shape: &[usize]| -> Result<()> {
                let drawn = draw(shape.iter().product()).into_iter().map(|value| value * deviation);
                weights.insert(format!("{name}.{leaf}"), Tensor::from_iter(drawn, device)?.reshape(shape)?);
                Ok(())
            };
            add("weight", &[width, width])?;
            if bias {
                add("bias", &[width])?;
            }
        }
        for name in NORMS.iter().flatten() {
            weights.insert(format!("{name}.weight"), Tensor::ones(head, DType::F32, device)?);
        }
        Ok(VarBuilder::from_tensors(weights, dtype, device))
    }
}
