//! FLUX.1's attention (diffusers `FluxAttention`): of one stream, and of two that see each other.

use super::super::concepts::{Concepts, Seen};
use super::super::joint::{ADDED, NORMS, OWN, Projections, StreamShape};
use super::super::sequence::Watch;
use super::pass::{EPS, Pass};
use crate::Result;
use crate::checkpoint::FluxConfig;
use crate::model::layers::{Builder, JointAttention, Linear};
use candle_core::Tensor;

/// What all streams of the network have in common.
pub(super) fn shape(config: &FluxConfig) -> StreamShape {
    StreamShape { width: config.width(), head: config.attention_head_dim, bias: true, qk_norm: Some(EPS) }
}

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
        let shape = shape(config);
        Ok(Self {
            image: Projections::new(&shape, OWN, NORMS[0], b)?,
            to_out: shape.linear(&b.pp("to_out").pp(0))?,
            text: Projections::new(&shape, ADDED, NORMS[1], b)?,
            to_add_out: shape.linear(&b.pp("to_add_out"))?,
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
        let (text, image) = (self.text.all(text)?, self.image.all(image)?);
        let both = |index: usize| Tensor::cat(&[&text[index], &image[index]], 1);
        let [queries, keys] = [pass.rotary.forward(&both(0)?)?, pass.rotary.forward(&both(1)?)?];
        let seen = attend(&self.attention, [&queries, &keys, &both(2)?], pass, watch)?;
        let of_text = seen.narrow(1, 0, tokens)?.contiguous()?;
        let of_image = seen.narrow(1, tokens, seen.dim(1)? - tokens)?.contiguous()?;
        let (mut of_concepts, mut scores) = (None, None);
        if let Some((concepts, states)) = concepts {
            // Concepts stand at place 0 as all text does, where nothing is turned.
            let own = self.text.all(states)?;
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
            both: Projections::new(&shape(config), OWN, NORMS[0], b)?,
            attention: JointAttention::new(config.num_attention_heads, b),
        })
    }

    /// What `both` `[batch, text and image, width]` see of themselves.
    pub(super) fn forward(&self, both: &Tensor, pass: &Pass, watch: Option<&mut Watch>) -> Result<Tensor> {
        let [queries, keys, values] = self.both.all(both)?;
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
    pass.sequence.attend(attention, queries, &pass.sequence.keys(attention, keys, values)?, watch)
}
