//! The attentions of a block: of image and text to both, and of the image to itself alone.

use super::super::sequence::Shown;
use crate::Result;
use crate::checkpoint::Sd3Config;
use crate::model::layers::{Builder, Columns, JointAttention, JointKeys, Linear, RmsNorm};
use candle_core::Tensor;

/// Epsilon of the norms of queries and keys.
const EPS: f64 = 1e-6;

/// Queries, keys and values of one stream, `[batch, tokens, heads * width]` each.
#[derive(Debug, Clone)]
struct Projections {
    q: Linear,
    k: Linear,
    v: Linear,
    norm_q: Option<RmsNorm>,
    norm_k: Option<RmsNorm>,
}

impl Projections {
    /// Of the layers `[q, k, v]` and, where the config has them, the norms `[q, k]`.
    fn new(config: &Sd3Config, [q, k, v]: [&str; 3], [norm_q, norm_k]: [&str; 2], b: &Builder) -> Result<Self> {
        let width = config.width();
        let norm = |name| config.qk_norm.then(|| RmsNorm::new(config.attention_head_dim, EPS, &b.pp(name))).transpose();
        Ok(Self {
            q: Linear::new(width, width, &b.pp(q))?,
            k: Linear::new(width, width, &b.pp(k))?,
            v: Linear::new(width, width, &b.pp(v))?,
            norm_q: norm(norm_q)?,
            norm_k: norm(norm_k)?,
        })
    }

    fn queries(&self, x: &Tensor) -> Result<Tensor> {
        normed(self.q.forward(x)?, self.norm_q.as_ref())
    }

    fn keys(&self, x: &Tensor) -> Result<Tensor> {
        normed(self.k.forward(x)?, self.norm_k.as_ref())
    }
}

fn normed(x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward_heads(&x),
        None => Ok(x),
    }
}

/// diffusers `Attention` with the processor `JointAttnProcessor2_0`. Keys are those of the image,
/// then those of the text.
#[derive(Debug, Clone)]
pub(super) struct Joint {
    image: Projections,
    to_out: Linear,
    text: Projections,
    /// Missing in the last block, whose text goes nowhere.
    to_add_out: Option<Linear>,
    attention: JointAttention,
}

impl Joint {
    pub(super) fn new(config: &Sd3Config, last: bool, b: &Builder) -> Result<Self> {
        let width = config.width();
        let of_text = ["add_q_proj", "add_k_proj", "add_v_proj"];
        let to_add_out = (!last).then(|| Linear::new(width, width, &b.pp("to_add_out")));
        Ok(Self {
            image: Projections::new(config, ["to_q", "to_k", "to_v"], ["norm_q", "norm_k"], b)?,
            to_out: Linear::new(width, width, &b.pp("to_out").pp(0))?,
            text: Projections::new(config, of_text, ["norm_added_q", "norm_added_k"], b)?,
            to_add_out: to_add_out.transpose()?,
            attention: JointAttention::new(config.num_attention_heads, b),
        })
    }

    /// What `image` and `text` `[batch, tokens, width]` see of both. `weights` `[batch, text, 1]`
    /// are factors on the text's values; `bias` `[batch, keys]` is added to all scores; `tap` is
    /// shown what the image's queries give to the text's keys.
    pub(super) fn forward(
        &self,
        image: &Tensor,
        text: &Tensor,
        weights: Option<&Tensor>,
        bias: Option<&Tensor>,
        tap: Shown,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (cells, tokens) = (image.dim(1)?, text.dim(1)?);
        let text_values = self.text.v.forward(text)?;
        let text_values = match weights {
            Some(weights) => text_values.broadcast_mul(weights)?,
            None => text_values,
        };
        let keys = Tensor::cat(&[&self.image.keys(image)?, &self.text.keys(text)?], 1)?;
        let values = Tensor::cat(&[&self.image.v.forward(image)?, &text_values], 1)?;
        let keys: JointKeys = self.attention.keys(&keys, &values)?;
        let columns: Option<Columns> = match tap {
            Some(tap) => Some((cells..cells + tokens, tap)),
            None => None,
        };
        let seen = self.attention.attend(&self.image.queries(image)?, &keys, bias, columns)?;
        let of_text = match &self.to_add_out {
            Some(out) => Some(out.forward(&self.attention.attend(&self.text.queries(text)?, &keys, bias, None)?)?),
            None => None,
        };
        Ok((self.to_out.forward(&seen)?, of_text))
    }

    /// Its linear layers with the shapes of their weights, by name.
    pub(super) fn names(last: bool) -> Vec<&'static str> {
        let mut names = vec!["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"];
        names.extend((!last).then_some("to_add_out"));
        names
    }
}

/// diffusers `Attention` of the image to itself: the second one of blocks with dual attention.
#[derive(Debug, Clone)]
pub(super) struct OfImage {
    image: Projections,
    to_out: Linear,
    attention: JointAttention,
}

impl OfImage {
    pub(super) fn new(config: &Sd3Config, b: &Builder) -> Result<Self> {
        let width = config.width();
        Ok(Self {
            image: Projections::new(config, ["to_q", "to_k", "to_v"], ["norm_q", "norm_k"], b)?,
            to_out: Linear::new(width, width, &b.pp("to_out").pp(0))?,
            attention: JointAttention::new(config.num_attention_heads, b),
        })
    }

    /// What `x` `[batch, cells, width]` sees of itself. `tap` is shown all of its attention.
    pub(super) fn forward(&self, x: &Tensor, tap: Shown) -> Result<Tensor> {
        let cells = x.dim(1)?;
        let keys = self.attention.keys(&self.image.keys(x)?, &self.image.v.forward(x)?)?;
        let columns: Option<Columns> = match tap {
            Some(tap) => Some((0..cells, tap)),
            None => None,
        };
        self.to_out.forward(&self.attention.attend(&self.image.queries(x)?, &keys, None, columns)?)
    }
}
