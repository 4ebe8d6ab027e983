//! A block of the transformer: attention and feed-forward of both streams, each scaled and shifted
//! by the timestep.

use super::super::adaptive::{FeedForward, gated, modulated};
use super::attention::{Joint, OfImage};
use super::pass::Pass;
use crate::Result;
use crate::checkpoint::Sd3Config;
use crate::model::layers::{Builder, LayerNorm, Linear};
use candle_core::Tensor;

/// Epsilon of every layer norm.
pub(super) const EPS: f64 = 1e-6;

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

    /// Image and text `[batch, tokens, width]` behind this block; no text behind the last.
    pub(super) fn forward(&self, image: &Tensor, text: &Tensor, pass: &mut Pass) -> Result<(Tensor, Option<Tensor>)> {
        pass.interrupt.check()?;
        let own = self.norm1.forward(pass.time)?.chunk(if self.attn2.is_some() { 9 } else { 6 }, 1)?;
        let of_text = self.norm1_context.forward(pass.time)?;
        let of_text = of_text.chunk(if self.after_context.is_some() { 6 } else { 2 }, 1)?;
        let normed = self.norm.forward(image)?;
        let normed_text = self.norm.forward(text)?;
        let normed_text = match self.after_context.is_some() {
            true => modulated(&normed_text, &of_text[1], &of_text[0])?,
            // The continuous norm has the scale first.
            false => modulated(&normed_text, &of_text[0], &of_text[1])?,
        };
        let (seen, text_seen) = {
            let site = &pass.joint_sites[self.index];
            let observer = &mut *pass.observer;
            let image = modulated(&normed, &own[1], &own[0])?;
            let (weights, bias) = (pass.prompt.value_weights.as_ref(), pass.key_bias);
            match observer.wants(site) {
                true => {
                    let mut tap = |probabilities: &Tensor| observer.observe(site, probabilities);
                    self.attn.forward(&image, &normed_text, weights, bias, Some(&mut tap))?
                }
                false => self.attn.forward(&image, &normed_text, weights, bias, None)?,
            }
        };
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
        let x = self.after.forward(&x, [&own[3], &own[4], &own[5]])?;
        let text = match (&self.after_context, text_seen) {
            (Some(after), Some(seen)) => {
                let text = gated(text, &seen, &of_text[2])?;
                Some(after.forward(&text, [&of_text[3], &of_text[4], &of_text[5]])?)
            }
            _ => None,
        };
        Ok((x, text))
    }
}
