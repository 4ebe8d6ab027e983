//! FLUX.1's attention (diffusers `FluxAttention`): of one stream, and of two that see each other.

use super::super::concepts::{Concepts, Seen};
use super::super::sequence::Watch;
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

/// What each stream saw in a block of two.
pub(super) struct DoubleSeen {
    pub(super) text: Tensor,
    pub(super) image: Tensor,
    pub(super) concepts: Option<Tensor>,
    /// How alike the outputs of concepts and places are.
    pub(super) scores: Option<Tensor>,
}

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

    /// What `text` and `image` see of both, and the `concepts`, whose states are beside them.
    pub(super) fn forward(
        &self,
        text: &Tensor,
        image: &Tensor,
        pass: &Pass,
        watch: Option<&mut Watch>,
        concepts: Option<(&Concepts, &Tensor)>,
    ) -> Result<DoubleSeen> {
        let tokens = text.dim(1)?;
        let (text, image) = (self.text.forward(text)?, self.image.forward(image)?);
        let both = |index: usize| Tensor::cat(&[&text[index], &image[index]], 1);
        let [queries, keys] = [pass.rotary.forward(&both(0)?)?, pass.rotary.forward(&both(1)?)?];
        let seen = attend(&self.attention, [&queries, &keys, &both(2)?], pass, watch)?;
        let of_text = seen.narrow(1, 0, tokens)?.contiguous()?;
        let of_image = seen.narrow(1, tokens, seen.dim(1)? - tokens)?.contiguous()?;
        let (mut of_concepts, mut scores) = (None, None);
        if let Some((concepts, states)) = concepts {
            // Concepts stand at place 0 as all text does, where nothing is turned.
            let own = self.text.forward(states)?;
            let image_keys = keys.narrow(1, tokens, keys.dim(1)? - tokens)?;
            let Seen { output, scores: alike } =
                concepts.attend(&self.attention, own.each_ref(), [&image_keys, &image[2], &of_image])?;
            (of_concepts, scores) = (Some(self.to_add_out.forward(&output)?), Some(alike));
        }
        let (text, image) = (self.to_add_out.forward(&of_text)?, self.to_out.forward(&of_image)?);
        Ok(DoubleSeen { text, image, concepts: of_concepts, scores })
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
    pub(super) fn forward(&self, both: &Tensor, pass: &Pass, watch: Option<&mut Watch>) -> Result<Tensor> {
        let [queries, keys, values] = self.both.forward(both)?;
        let [queries, keys] = [pass.rotary.forward(&queries)?, pass.rotary.forward(&keys)?];
        attend(&self.attention, [&queries, &keys, &values], pass, watch)
    }
}

/// What the queries see of the keys, both turned by their places.
fn attend(
    attention: &JointAttention,
    [queries, keys, values]: [&Tensor; 3],
    pass: &Pass,
    watch: Option<&mut Watch>,
) -> Result<Tensor> {
    let weighted;
    let values = match pass.value_weights {
        Some(weights) => {
            let tokens = weights.dim(1)?;
            let text = values.narrow(1, 0, tokens)?.broadcast_mul(weights)?;
            weighted = Tensor::cat(&[&text, &values.narrow(1, tokens, values.dim(1)? - tokens)?], 1)?;
            &weighted
        }
        None => values,
    };
    pass.sequence.attend(attention, queries, &attention.keys(keys, values)?, watch)
}
