//! A block of the transformer: attention and feed-forward of both streams, each scaled and shifted
//! by the timestep.

use super::super::adaptive::{FeedForward, gated, modulated};
use super::super::sequence::Watch;
use super::attention::{Joint, JointSeen, OfImage};
use super::pass::Pass;
use crate::checkpoint::Sd3Config;
use crate::model::layers::{Builder, LayerNorm, Linear};
use crate::{Error, Result};
use candle_core::Tensor;

/// Epsilon of every layer norm.
pub(super) const EPS: f64 = 1e-6;

/// Hidden states `[rows, tokens, width]` between two blocks.
pub(super) struct Streams {
    pub(super) image: Tensor,
    /// Nothing behind the last block.
    pub(super) text: Option<Tensor>,
    /// Words that read and are not read, where there are any.
    pub(super) concepts: Option<Tensor>,
}

/// What one stream of a block does behind its attention.
#[derive(Debug, Clone)]
struct After {
    ff: FeedForward,
    norm2: LayerNorm,
}

impl After {
    fn new(width: usize, name: &str, b: &Builder) -> Result<Self> {
        Ok(Self { ff: FeedForward::new(width, &b.pp(name))?, norm2: LayerNorm::without_affine(width, EPS, b)? })
    }

    /// `x` plus its feed-forward, by `[shift, scale, gate]`.
    fn forward(&self, x: &Tensor, [shift, scale, gate]: [&Tensor; 3]) -> Result<Tensor> {
        gated(x, &self.ff.forward(&modulated(&self.norm2.forward(x)?, scale, shift)?)?, gate)
    }
}

/// diffusers `JointTransformerBlock`.
#[derive(Debug, Clone)]
pub(super) struct Block {
    /// `norm1.linear`: shift, scale and gate of attention and of feed-forward, and with a second
    /// attention those of that.
    norm1: Linear,
    /// `norm1_context.linear`: the same of the text; in the last block scale and shift alone.
    norm1_context: Linear,
    norm: LayerNorm,
    pub(super) attn: Joint,
    attn2: Option<OfImage>,
    after: After,
    /// Missing in the last block (`context_pre_only`), whose text goes nowhere.
    after_context: Option<After>,
    index: usize,
    /// Place among the blocks with a second attention.
    dual_index: usize,
}

impl Block {
    pub(super) fn new(config: &Sd3Config, index: usize, b: &Builder) -> Result<Self> {
        let width = config.width();
        let (last, dual) = (index + 1 == config.num_layers, config.dual_attention_layers.contains(&index));
        let (own, of_text) = (if dual { 9 } else { 6 }, if last { 2 } else { 6 });
        let adaptive = |name, parts| Linear::new(width, parts * width, &b.pp(name).pp("linear"));
        Ok(Self {
            norm1: adaptive("norm1", own)?,
            norm1_context: adaptive("norm1_context", of_text)?,
            norm: LayerNorm::without_affine(width, EPS, b)?,
            attn: Joint::new(config, last, &b.pp("attn"))?,
            attn2: dual.then(|| OfImage::new(config, &b.pp("attn2"))).transpose()?,
            after: After::new(width, "ff", b)?,
            after_context: (!last).then(|| After::new(width, "ff_context", b)).transpose()?,
            index,
            dual_index: (0..index).filter(|layer| config.dual_attention_layers.contains(layer)).count(),
        })
    }

    /// The streams behind this block.
    pub(super) fn forward(&self, streams: &Streams, pass: &mut Pass) -> Result<Streams> {
        pass.interrupt.check()?;
        let Streams { image, text: Some(text), concepts } = streams else {
            return Err(Error::bug("a block behind the last one that has text"));
        };
        let own = self.norm1.forward(pass.time)?.chunk(if self.attn2.is_some() { 9 } else { 6 }, 1)?;
        let of_text = self.norm1_context.forward(pass.time)?;
        let of_text = of_text.chunk(if self.after_context.is_some() { 6 } else { 2 }, 1)?;
        let normed = self.norm.forward(image)?;
        let text_normed = |text: &Tensor, parts: &[Tensor]| -> Result<Tensor> {
            let normed = self.norm.forward(text)?;
            match self.after_context.is_some() {
                true => modulated(&normed, &parts[1], &parts[0]),
                // The continuous norm has the scale first.
                false => modulated(&normed, &parts[0], &parts[1]),
            }
        };
        let site = &pass.joint_sites[self.index];
        let mut watch = Watch::of(pass.observer, site);
        // The concepts are modulated as the rows that they belong to.
        let asked = match (concepts, &pass.prompt.concepts) {
            (Some(states), Some(concepts)) => {
                let parts = of_text.iter().map(|part| concepts.rows_of(part)).collect::<Result<Vec<_>>>()?;
                Some((concepts, states, text_normed(states, &parts)?, parts))
            }
            _ => None,
        };
        let JointSeen { image: seen, text: text_seen, concepts: concepts_seen, scores } = self.attn.forward(
            &modulated(&normed, &own[1], &own[0])?,
            &text_normed(text, &of_text)?,
            &pass.sequence,
            watch.as_mut(),
            asked.as_ref().map(|(concepts, _, normed, _)| (*concepts, normed)),
        )?;
        if let Some(watch) = watch {
            watch.tell(site, pass.observer)?;
        }
        if let Some(scores) = scores {
            pass.observer.observe_concepts(site, &scores)?;
        }
        let mut x = gated(image, &seen, &own[2])?;
        if let Some(attn2) = &self.attn2 {
            pass.interrupt.check()?;
            let site = &pass.self_sites[self.dual_index];
            let observer = &mut *pass.observer;
            let again = modulated(&normed, &own[7], &own[6])?;
            let seen = match observer.wants(site) {
                true => attn2.forward(&again, Some(&mut |all: &Tensor| observer.observe(site, all)))?,
                false => attn2.forward(&again, None)?,
            };
            x = gated(&x, &seen, &own[8])?;
        }
        let image = self.after.forward(&x, [&own[3], &own[4], &own[5]])?;
        let after_text = |text: &Tensor, seen: Option<Tensor>, parts: &[Tensor]| -> Result<Option<Tensor>> {
            let (Some(after), Some(seen)) = (&self.after_context, seen) else { return Ok(None) };
            let text = gated(text, &seen, &parts[2])?;
            Ok(Some(after.forward(&text, [&parts[3], &parts[4], &parts[5]])?))
        };
        let text = after_text(text, text_seen, &of_text)?;
        let concepts = match asked {
            Some((_, states, _, parts)) => after_text(states, concepts_seen, &parts)?,
            None => None,
        };
        Ok(Streams { image, text, concepts })
    }
}
