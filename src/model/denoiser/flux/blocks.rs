//! The two kinds of blocks: one with a stream for the text and one for the image, one of both
//! together.

use super::super::adaptive::{FeedForward, gated, modulated};
use super::super::sequence::Watch;
use super::attention::{DoubleAttention, DoubleSeen, SingleAttention};
use super::pass::{EPS, Pass};
use crate::Result;
use crate::checkpoint::FluxConfig;
use crate::model::layers::{Builder, LayerNorm, Linear};
use candle_core::{DType, Tensor};

/// The largest number of f16, at which diffusers cuts hidden states in that type.
const MOST_F16: f64 = 65504.0;

/// Hidden states `[rows, tokens, width]` between two blocks of two streams.
pub(super) struct Streams {
    pub(super) text: Tensor,
    pub(super) image: Tensor,
    /// Words that read and are not read, where there are any.
    pub(super) concepts: Option<Tensor>,
}

/// One stream of a block of two.
#[derive(Debug, Clone)]
struct Stream {
    /// Shift, scale and gate of attention, then of feed-forward (diffusers `AdaLayerNormZero`).
    linear: Linear,
    ff: FeedForward,
    norm: LayerNorm,
}

impl Stream {
    fn new(width: usize, norm: &str, ff: &str, b: &Builder) -> Result<Self> {
        Ok(Self {
            linear: Linear::new(width, 6 * width, &b.pp(norm).pp("linear"))?,
            ff: FeedForward::new(width, &b.pp(ff))?,
            norm: LayerNorm::without_affine(width, EPS, b)?,
        })
    }

    /// `x` plus what it saw and then its feed-forward, by the six parts of [`Self::linear`].
    fn after(&self, x: &Tensor, seen: &Tensor, parts: &[Tensor]) -> Result<Tensor> {
        let x = gated(x, seen, &parts[2])?;
        let fed = self.ff.forward(&modulated(&self.norm.forward(&x)?, &parts[4], &parts[3])?)?;
        gated(&x, &fed, &parts[5])
    }
}

/// diffusers `FluxTransformerBlock`.
#[derive(Debug, Clone)]
pub(super) struct DoubleBlock {
    image: Stream,
    text: Stream,
    pub(super) attn: DoubleAttention,
}

impl DoubleBlock {
    pub(super) fn new(config: &FluxConfig, b: &Builder) -> Result<Self> {
        let width = config.width();
        Ok(Self {
            image: Stream::new(width, "norm1", "ff", b)?,
            text: Stream::new(width, "norm1_context", "ff_context", b)?,
            attn: DoubleAttention::new(config, &b.pp("attn"))?,
        })
    }

    /// The streams behind this block, which has site `index`.
    pub(super) fn forward(&self, streams: &Streams, index: usize, pass: &mut Pass) -> Result<Streams> {
        let Streams { text, image, concepts } = streams;
        let own = self.image.linear.forward(pass.time)?.chunk(6, 1)?;
        let of_text = self.text.linear.forward(pass.time)?.chunk(6, 1)?;
        let normed = modulated(&self.image.norm.forward(image)?, &own[1], &own[0])?;
        let normed_text = modulated(&self.text.norm.forward(text)?, &of_text[1], &of_text[0])?;
        let asked = match (concepts, pass.concepts) {
            (Some(states), Some((concepts, time))) => {
                let parts = self.text.linear.forward(time)?.chunk(6, 1)?;
                Some((concepts, states, modulated(&self.text.norm.forward(states)?, &parts[1], &parts[0])?, parts))
            }
            _ => None,
        };
        let DoubleSeen { text: text_seen, image: seen, concepts: concepts_seen, scores } =
            observed(pass, index, |pass, watch| {
                let concepts = asked.as_ref().map(|(concepts, _, normed, _)| (*concepts, normed));
                self.attn.forward(&normed_text, &normed, pass, watch, concepts)
            })?;
        if let Some(scores) = scores {
            pass.observer.observe_concepts(&pass.sites[index], &scores)?;
        }
        let image = self.image.after(image, &seen, &own)?;
        let text = self.text.after(text, &text_seen, &of_text)?;
        let concepts = match (asked, concepts_seen) {
            (Some((_, states, _, parts)), Some(seen)) => Some(within_f16(self.text.after(states, &seen, &parts)?)?),
            _ => None,
        };
        Ok(Streams { text: within_f16(text)?, image, concepts })
    }
}

/// diffusers `FluxSingleTransformerBlock`: attention and feed-forward side by side.
#[derive(Debug, Clone)]
pub(super) struct SingleBlock {
    /// `norm.linear`: shift, scale and gate.
    linear: Linear,
    norm: LayerNorm,
    proj_mlp: Linear,
    proj_out: Linear,
    pub(super) attn: SingleAttention,
}

impl SingleBlock {
    pub(super) fn new(config: &FluxConfig, b: &Builder) -> Result<Self> {
        let width = config.width();
        Ok(Self {
            linear: Linear::new(width, 3 * width, &b.pp("norm").pp("linear"))?,
            norm: LayerNorm::without_affine(width, EPS, b)?,
            proj_mlp: Linear::new(width, 4 * width, &b.pp("proj_mlp"))?,
            proj_out: Linear::new(5 * width, width, &b.pp("proj_out"))?,
            attn: SingleAttention::new(config, &b.pp("attn"))?,
        })
    }

    /// Text and image, one behind the other, behind this block, which has site `index`.
    pub(super) fn forward(&self, both: &Tensor, index: usize, pass: &mut Pass) -> Result<Tensor> {
        let parts = self.linear.forward(pass.time)?.chunk(3, 1)?;
        let normed = modulated(&self.norm.forward(both)?, &parts[1], &parts[0])?;
        let fed = self.proj_mlp.forward(&normed)?.gelu()?;
        let seen = observed(pass, index, |pass, watch| self.attn.forward(&normed, pass, watch))?;
        let out = self.proj_out.forward(&Tensor::cat(&[&seen, &fed], 2)?)?;
        within_f16(gated(both, &out, &parts[2])?)
    }
}

/// Runs `attend` at site `index`, shown to the observer where it wants that.
fn observed<T>(
    pass: &mut Pass,
    index: usize,
    attend: impl FnOnce(&Pass, Option<&mut Watch>) -> Result<T>,
) -> Result<T> {
    pass.interrupt.check()?;
    let sites = pass.sites;
    let site = &sites[index];
    let Some(mut watch) = Watch::of(pass.observer, site) else { return attend(pass, None) };
    let seen = attend(pass, Some(&mut watch))?;
    watch.tell(site, pass.observer)?;
    Ok(seen)
}

fn within_f16(x: Tensor) -> Result<Tensor> {
    Ok(if x.dtype() == DType::F16 { x.clamp(-MOST_F16, MOST_F16)? } else { x })
}
