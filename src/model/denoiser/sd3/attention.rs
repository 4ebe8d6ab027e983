//! The attentions of a block: of image and text to both, and of the image to itself alone.

use super::super::concepts::{Concepts, Seen};
use super::super::sequence::{Sequence, Watch};
use crate::Result;
use crate::checkpoint::Sd3Config;
use crate::model::layers::{Builder, Columns, JointAttention, JointKeys, Linear, RmsNorm, Tap};
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

/// What each stream saw at a joint attention.
pub(super) struct JointSeen {
    pub(super) image: Tensor,
    /// Nothing in the last block, whose text goes nowhere.
    pub(super) text: Option<Tensor>,
    /// Nothing there, too.
    pub(super) concepts: Option<Tensor>,
    /// How alike the outputs of concepts and places are.
    pub(super) scores: Option<Tensor>,
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

    /// What `image` and `text` `[batch, tokens, width]` see of both, and the `concepts`, whose
    /// states are beside them. `weights` `[batch, text, 1]` are factors on the text's values.
    pub(super) fn forward(
        &self,
        image: &Tensor,
        text: &Tensor,
        weights: Option<&Tensor>,
        sequence: &Sequence,
        watch: Option<&mut Watch>,
        concepts: Option<(&Concepts, &Tensor)>,
    ) -> Result<JointSeen> {
        let text_values = self.text.v.forward(text)?;
        let text_values = match weights {
            Some(weights) => text_values.broadcast_mul(weights)?,
            None => text_values,
        };
        let (image_keys, image_values) = (self.image.keys(image)?, self.image.v.forward(image)?);
        let keys = Tensor::cat(&[&image_keys, &self.text.keys(text)?], 1)?;
        let values = Tensor::cat(&[&image_values, &text_values], 1)?;
        let keys: JointKeys = self.attention.keys(&keys, &values)?;
        let attention = &self.attention;
        let queries = self.image.queries(image)?;
        let asked = watch.as_ref().is_some_and(|watch| watch.asks_text());
        let text_queries = if asked || self.to_add_out.is_some() { Some(self.text.queries(text)?) } else { None };
        let seen = match watch {
            Some(watch) => {
                let seen = sequence.cells_attend(attention, &queries, &keys, watch)?;
                if let Some(queries) = &text_queries {
                    sequence.text_attend(attention, queries, &keys, watch)?;
                }
                seen
            }
            None => attention.attend(&queries, &keys, sequence.bias, None)?,
        };
        let of_text = match (&self.to_add_out, &text_queries) {
            (Some(out), Some(queries)) => {
                Some(out.forward(&attention.attend(queries, &keys, sequence.bias, None)?)?)
            }
            _ => None,
        };
        let (mut of_concepts, mut scores) = (None, None);
        if let Some((concepts, states)) = concepts {
            let own = [self.text.queries(states)?, self.text.keys(states)?, self.text.v.forward(states)?];
            let Seen { output, scores: alike } =
                concepts.attend(attention, own.each_ref(), [&image_keys, &image_values, &seen])?;
            of_concepts = self.to_add_out.as_ref().map(|out| out.forward(&output)).transpose()?;
            scores = Some(alike);
        }
        Ok(JointSeen { image: self.to_out.forward(&seen)?, text: of_text, concepts: of_concepts, scores })
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
    pub(super) fn forward(&self, x: &Tensor, tap: Option<Tap>) -> Result<Tensor> {
        let cells = x.dim(1)?;
        let keys = self.attention.keys(&self.image.keys(x)?, &self.image.v.forward(x)?)?;
        let columns: Option<Columns> = match tap {
            Some(tap) => Some((0..cells, tap)),
            None => None,
        };
        self.to_out.forward(&self.attention.attend(&self.image.queries(x)?, &keys, None, columns)?)
    }
}
