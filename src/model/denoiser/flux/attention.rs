//! FLUX.1's attention (diffusers `FluxAttention`): of one stream, and of two that see each other.

use super::super::sequence::Shown;
use super::pass::{EPS, Pass};
use crate::Result;
use crate::checkpoint::FluxConfig;
use crate::model::layers::{Builder, JointAttention, Linear, RmsNorm};
use candle_core::Tensor;

/// Queries, keys and values of one stream, `[batch, tokens, width]` each.
#[derive(Debug, Clone)]
struct Projections {
    q: Linear,
    k: Linear,
    v: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
}

impl Projections {
    fn new(config: &FluxConfig, [q, k, v]: [&str; 3], [norm_q, norm_k]: [&str; 2], b: &Builder) -> Result<Self> {
        let (width, head) = (config.width(), config.attention_head_dim);
        Ok(Self {
            q: Linear::new(width, width, &b.pp(q))?,
            k: Linear::new(width, width, &b.pp(k))?,
            v: Linear::new(width, width, &b.pp(v))?,
            norm_q: RmsNorm::new(head, EPS, &b.pp(norm_q))?,
            norm_k: RmsNorm::new(head, EPS, &b.pp(norm_k))?,
        })
    }

    /// `[queries, keys, values]` of `x`, the first two normed per head.
    fn forward(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let queries = self.norm_q.forward_heads(&self.q.forward(x)?)?;
        let keys = self.norm_k.forward_heads(&self.k.forward(x)?)?;
        Ok([queries, keys, self.v.forward(x)?])
    }
}

/// The linear layers of an attention of one stream.
pub(super) const OWN: [&str; 3] = ["to_q", "to_k", "to_v"];
/// The same of the text's stream in a block of two.
pub(super) const ADDED: [&str; 3] = ["add_q_proj", "add_k_proj", "add_v_proj"];
/// Norms of queries and keys, of either stream.
pub(super) const NORMS: [[&str; 2]; 2] = [["norm_q", "norm_k"], ["norm_added_q", "norm_added_k"]];

/// Attention in a block of two streams. Keys are those of the text, then those of the image.
#[derive(Debug, Clone)]
pub(super) struct DoubleAttention {
    image: Projections,
    to_out: Linear,
    text: Projections,
    to_add_out: Linear,
    attention: JointAttention,
}

impl DoubleAttention {
    pub(super) fn new(config: &FluxConfig, b: &Builder) -> Result<Self> {
        let width = config.width();
        Ok(Self {
            image: Projections::new(config, OWN, NORMS[0], b)?,
            to_out: Linear::new(width, width, &b.pp("to_out").pp(0))?,
            text: Projections::new(config, ADDED, NORMS[1], b)?,
            to_add_out: Linear::new(width, width, &b.pp("to_add_out"))?,
            attention: JointAttention::new(config.num_attention_heads, b),
        })
    }

    /// What `text` and `image` see of both, in this order.
    pub(super) fn forward(&self, text: &Tensor, image: &Tensor, pass: &Pass, shown: Shown) -> Result<[Tensor; 2]> {
        let tokens = text.dim(1)?;
        let (text, image) = (self.text.forward(text)?, self.image.forward(image)?);
        let both = |index: usize| Tensor::cat(&[&text[index], &image[index]], 1);
        let seen = attend(&self.attention, [both(0)?, both(1)?, both(2)?], pass, shown)?;
        let of_text = seen.narrow(1, 0, tokens)?.contiguous()?;
        let of_image = seen.narrow(1, tokens, seen.dim(1)? - tokens)?.contiguous()?;
        Ok([self.to_add_out.forward(&of_text)?, self.to_out.forward(&of_image)?])
    }
}

/// Attention in a block of one stream, which has no layer behind it.
#[derive(Debug, Clone)]
pub(super) struct SingleAttention {
    both: Projections,
    attention: JointAttention,
}

impl SingleAttention {
    pub(super) fn new(config: &FluxConfig, b: &Builder) -> Result<Self> {
        Ok(Self {
            both: Projections::new(config, OWN, NORMS[0], b)?,
            attention: JointAttention::new(config.num_attention_heads, b),
        })
    }

    /// What `both` `[batch, text and image, width]` see of themselves.
    pub(super) fn forward(&self, both: &Tensor, pass: &Pass, shown: Shown) -> Result<Tensor> {
        attend(&self.attention, self.both.forward(both)?, pass, shown)
    }
}

/// What the queries see of the keys once all are turned by their places.
fn attend(
    attention: &JointAttention,
    [queries, keys, values]: [Tensor; 3],
    pass: &Pass,
    shown: Shown,
) -> Result<Tensor> {
    let values = match pass.value_weights {
        Some(weights) => {
            let tokens = weights.dim(1)?;
            let text = values.narrow(1, 0, tokens)?.broadcast_mul(weights)?;
            Tensor::cat(&[&text, &values.narrow(1, tokens, values.dim(1)? - tokens)?], 1)?
        }
        None => values,
    };
    let keys = attention.keys(&pass.rotary.forward(&keys)?, &values)?;
    pass.sequence.attend(attention, &pass.rotary.forward(&queries)?, &keys, shown)
}
