//! The attentions of a block: of image and text to both, and of the image to itself alone.

use super::super::concepts::{Concepts, Seen};
use super::super::joint::{ADDED, NORMS, OWN, Projections, StreamShape};
use super::super::sequence::{Sequence, Watch};
use crate::Result;
use crate::checkpoint::Sd3Config;
use crate::model::layers::{Builder, Columns, JointAttention, Linear, Tap};
use candle_core::Tensor;

/// Epsilon of the norms of queries and keys.
const EPS: f64 = 1e-6;

/// What all streams of the network have in common.
pub(super) fn shape(config: &Sd3Config) -> StreamShape {
    let qk_norm = config.qk_norm.then_some(EPS);
    StreamShape { width: config.width(), head: config.attention_head_dim, bias: true, qk_norm }
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
        let shape = shape(config);
        Ok(Self {
            image: Projections::new(&shape, OWN, NORMS[0], b)?,
            to_out: shape.linear(&b.pp("to_out").pp(0))?,
            text: Projections::new(&shape, ADDED, NORMS[1], b)?,
            to_add_out: (!last).then(|| shape.linear(&b.pp("to_add_out"))).transpose()?,
            attention: JointAttention::new(config.num_attention_heads, b),
        })
    }

    /// What `image` and `text` `[batch, tokens, width]` see of both, and the `concepts`, whose
    /// states are beside them.
    pub(super) fn forward(
        &self,
        image: &Tensor,
        text: &Tensor,
        sequence: &Sequence,
        watch: Option<&mut Watch>,
        concepts: Option<(&Concepts, &Tensor)>,
    ) -> Result<JointSeen> {
        let attention = &self.attention;
        let (image_keys, image_values) = (self.image.keys(image)?, self.image.values(image)?);
        let keys = Tensor::cat(&[&image_keys, &self.text.keys(text)?], 1)?;
        let values = Tensor::cat(&[&image_values, &self.text.values(text)?], 1)?;
        let keys = sequence.keys(attention, &keys, &values)?;
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
            let own = self.text.all(states)?;
            let Seen { output, scores: alike } =
                concepts.attend(attention, own.each_ref(), [&image_keys, &image_values, &seen])?;
            of_concepts = self.to_add_out.as_ref().map(|out| out.forward(&output)).transpose()?;
            scores = Some(alike);
        }
        Ok(JointSeen { image: self.to_out.forward(&seen)?, text: of_text, concepts: of_concepts, scores })
    }

    /// The names of its linear layers.
    pub(super) fn names(last: bool) -> Vec<&'static str> {
        let mut names = [&OWN[..], &["to_out.0"], &ADDED].concat();
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
        let shape = shape(config);
        Ok(Self {
            image: Projections::new(&shape, OWN, NORMS[0], b)?,
            to_out: shape.linear(&b.pp("to_out").pp(0))?,
            attention: JointAttention::new(config.num_attention_heads, b),
        })
    }

    /// What `x` `[batch, cells, width]` sees of itself. `tap` is shown all of its attention.
    pub(super) fn forward(&self, x: &Tensor, tap: Option<Tap>) -> Result<Tensor> {
        let cells = x.dim(1)?;
        let keys = self.attention.keys(&self.image.keys(x)?, &self.image.values(x)?)?;
        let columns: Option<Columns> = match tap {
            Some(tap) => Some((0..cells, tap)),
            None => None,
        };
        self.to_out.forward(&self.attention.attend(&self.image.queries(x)?, &keys, None, columns)?)
    }
}
