//! A block (diffusers `ZImageTransformerBlock`): attention and feed-forward, each between two
//! norms, scaled and gated by the timestep where there is one.

use super::super::concepts::{Concepts, Seen};
use super::super::joint::{NORMS, OWN, Projections, StreamShape};
use super::super::sequence::{Sequence, Watch};
use crate::Result;
use crate::checkpoint::ZImageConfig;
use crate::model::layers::{Builder, JointAttention, Linear, RmsNorm, Rotary};
use candle_core::Tensor;

/// Epsilon of the norms of queries and keys.
const QK_EPS: f64 = 1e-5;

/// diffusers `Attention` with the processor `ZSingleStreamAttnProcessor`.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    both: Projections,
    to_out: Linear,
    attention: JointAttention,
}

/// Concepts that go beside the sequence, turned by their own places.
pub(super) struct PlacedConcepts<'a> {
    pub(super) concepts: &'a Concepts,
    pub(super) rotary: &'a Rotary,
}

/// What the one stream of every block is.
pub(super) fn shape(config: &ZImageConfig) -> StreamShape {
    let (width, head) = (config.dim, config.dim / config.n_heads);
    StreamShape { width, head, bias: false, qk_norm: config.qk_norm.then_some(QK_EPS) }
}

impl Attention {
    pub(super) fn new(config: &ZImageConfig, b: &Builder) -> Result<Self> {
        let shape = shape(config);
        Ok(Self {
            both: Projections::new(&shape, OWN, NORMS[0], b)?,
            to_out: shape.linear(&b.pp("to_out").pp(0))?,
            attention: JointAttention::new(config.n_heads, b),
        })
    }

    /// What `x` sees of itself, and what concepts see of it, behind the output's layer.
    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        sequence: &Sequence,
        watch: Option<&mut Watch>,
        asked: Option<(&PlacedConcepts, &Tensor)>,
    ) -> Result<(Tensor, Option<Seen>)> {
        let turned = |x: &Tensor, rotary: &Rotary| -> Result<[Tensor; 3]> {
            let [queries, keys, values] = self.both.all(x)?;
            Ok([rotary.forward(&queries)?, rotary.forward(&keys)?, values])
        };
        let [queries, keys, values] = turned(x, rotary)?;
        let packed = sequence.keys(&self.attention, &keys, &values)?;
        let seen = sequence.attend(&self.attention, &queries, &packed, watch)?;
        let of_concepts = match asked {
            Some((asked, states)) => {
                let image = |x: &Tensor| x.narrow(1, sequence.cells.start, sequence.cells.len());
                let own = turned(states, asked.rotary)?;
                let image = [&image(&keys)?, &image(&values)?, &image(&seen)?];
                let Seen { output, scores } = asked.concepts.attend(&self.attention, own.each_ref(), image)?;
                Some(Seen { output: self.to_out.forward(&output)?, scores })
            }
            None => None,
        };
        Ok((self.to_out.forward(&seen)?, of_concepts))
    }
}

/// `w2(silu(w1 x) * w3 x)`.
#[derive(Debug, Clone)]
struct SwiGluFeedForward {
    w1: Linear,
    w2: Linear,
    w3: Linear,
}

impl SwiGluFeedForward {
    fn new(dim: usize, inner: usize, b: &Builder) -> Result<Self> {
        Ok(Self {
            w1: Linear::without_bias(dim, inner, &b.pp("w1"))?,
            w2: Linear::without_bias(inner, dim, &b.pp("w2"))?,
            w3: Linear::without_bias(dim, inner, &b.pp("w3"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.w2.forward(&(self.w1.forward(x)?.silu()? * self.w3.forward(x)?)?)
    }
}

/// What a block is given beside the states.
#[derive(Clone, Copy)]
pub(super) struct Beside<'a> {
    /// The timestep's embedding `[1, width]`, for blocks that it modulates.
    pub(super) time: Option<&'a Tensor>,
    /// Where the tokens stand.
    pub(super) rotary: &'a Rotary,
    /// Which of the tokens are text.
    pub(super) sequence: &'a Sequence<'a>,
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) attention: Attention,
    feed_forward: SwiGluFeedForward,
    attention_norm1: RmsNorm,
    attention_norm2: RmsNorm,
    ffn_norm1: RmsNorm,
    ffn_norm2: RmsNorm,
    /// `adaLN_modulation.0`: scale and gate of attention, then of feed-forward.
    modulation: Option<Linear>,
}

impl Block {
    pub(super) fn new(config: &ZImageConfig, modulated: bool, b: &Builder) -> Result<Self> {
        let dim = config.dim;
        let norm = |name| RmsNorm::new(dim, config.norm_eps, &b.pp(name));
        let modulation = modulated.then(|| Linear::new(config.time_width(), 4 * dim, &b.pp("adaLN_modulation").pp(0)));
        Ok(Self {
            attention: Attention::new(config, &b.pp("attention"))?,
            feed_forward: SwiGluFeedForward::new(dim, config.feed_forward_width(), &b.pp("feed_forward"))?,
            attention_norm1: norm("attention_norm1")?,
            attention_norm2: norm("attention_norm2")?,
            ffn_norm1: norm("ffn_norm1")?,
            ffn_norm2: norm("ffn_norm2")?,
            modulation: modulation.transpose()?,
        })
    }

    /// `x` `[batch, tokens, dim]` behind this block. Concepts that are `asked` go beside it: their
    /// states behind this block, and how alike they and the places are.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        beside: &Beside,
        watch: Option<&mut Watch>,
        asked: Option<(&PlacedConcepts, &Tensor)>,
    ) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
        let &Beside { time, rotary, sequence } = beside;
        let parts = match (&self.modulation, time) {
            (Some(modulation), Some(time)) => Some(modulation.forward(time)?.unsqueeze(1)?.chunk(4, 2)?),
            _ => None,
        };
        let scaled = |x: Tensor, index: usize| -> Result<Tensor> {
            Ok(match &parts {
                Some(parts) => x.broadcast_mul(&(&parts[index] + 1.0)?)?,
                None => x,
            })
        };
        let gated = |x: Tensor, index: usize| -> Result<Tensor> {
            Ok(match &parts {
                Some(parts) => x.broadcast_mul(&parts[index].tanh()?)?,
                None => x,
            })
        };
        let normed = |x: &Tensor| scaled(self.attention_norm1.forward(x)?, 0);
        let after = |x: &Tensor, seen: &Tensor| -> Result<Tensor> {
            let x = (x + gated(self.attention_norm2.forward(seen)?, 1)?)?;
            let fed = self.feed_forward.forward(&scaled(self.ffn_norm1.forward(&x)?, 2)?)?;
            Ok((&x + gated(self.ffn_norm2.forward(&fed)?, 3)?)?)
        };
        let own = asked.map(|(asked, states)| Ok::<_, crate::Error>((asked, states, normed(states)?))).transpose()?;
        let given = own.as_ref().map(|(asked, _, normed)| (*asked, normed));
        let (seen, of_concepts) = self.attention.forward(&normed(x)?, rotary, sequence, watch, given)?;
        let concepts = match (&own, of_concepts) {
            (Some((_, states, _)), Some(Seen { output, scores })) => Some((after(states, &output)?, scores)),
            _ => None,
        };
        Ok((after(x, &seen)?, concepts))
    }
}
