//! The transformer between resnets: self-attention, attention to the prompt, and a gated MLP on
//! every place of the grid.

use super::pass::Pass;
use crate::checkpoint::UnetConfig;
use crate::model::layers::{Attention, Builder, FeatureMap, GeGlu, GroupNorm, KeysValues, LayerNorm, Linear};
use crate::trace::AttentionKind;
use crate::{Error, Result};
use candle_core::Tensor;

/// Which transformer is built: what differs from block to block.
pub(super) struct Shape {
    pub(super) channels: usize,
    pub(super) heads: usize,
    pub(super) cross_attention_dim: usize,
    pub(super) layers: usize,
}

/// Group norm, projection in, `layers` transformer blocks, projection out, residual (diffusers
/// `Transformer2DModel`).
#[derive(Debug, Clone)]
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl Transformer {
    /// `sites` counts the transformer blocks of the network so far.
    pub(super) fn new(config: &UnetConfig, shape: &Shape, sites: &mut usize, b: &Builder) -> Result<Self> {
        let channels = shape.channels;
        // A 1x1 convolution (SD 1) is a linear layer on tokens (SD 2) whose weight has two more
        // dimensions.
        let projection = |name| match config.use_linear_projection {
            true => Linear::new(channels, channels, &b.pp(name)),
            false => Linear::from_conv(channels, channels, &b.pp(name)),
        };
        let block = |index: usize| {
            let site = *sites;
            *sites += 1;
            TransformerBlock::new(config, shape, site, &b.pp("transformer_blocks").pp(index))
        };
        Ok(Self {
            norm: GroupNorm::new(channels, config.norm_num_groups, 1e-6, &b.pp("norm"))?,
            proj_in: projection("proj_in")?,
            transformer_blocks: (0..shape.layers).map(block).collect::<Result<_>>()?,
            proj_out: projection("proj_out")?,
        })
    }

    pub(super) fn forward(&self, x: &FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        let mut tokens = self.proj_in.forward(&self.norm.forward(x)?.to_tokens()?)?;
        for block in &self.transformer_blocks {
            tokens = block.forward(&tokens, pass)?;
        }
        FeatureMap::from_tokens(&self.proj_out.forward_plus(&tokens, &x.to_tokens()?)?, x.size(), x.layout())
    }

    /// The attentions to the prompt, in network order.
    pub(super) fn cross_attentions(&mut self) -> impl Iterator<Item = &mut Attention> {
        self.transformer_blocks.iter_mut().map(|block| &mut block.attn2)
    }

    /// Appends the prompt's keys and values for each block. Called in network order, since a block
    /// finds its own by its index ([`TransformerBlock::site`]).
    pub(super) fn prepare(&self, prompt: &Tensor, into: &mut Vec<KeysValues>) -> Result<()> {
        for block in &self.transformer_blocks {
            if block.site != into.len() {
                return Err(Error::bug("a transformer block is prepared out of network order"));
            }
            into.push(block.attn2.keys_values(prompt)?);
        }
        Ok(())
    }
}

/// diffusers `BasicTransformerBlock`.
#[derive(Debug, Clone)]
pub(super) struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: GeGluFeedForward,
    /// Index of the block among all of the network.
    site: usize,
}

impl TransformerBlock {
    fn new(config: &UnetConfig, shape: &Shape, site: usize, b: &Builder) -> Result<Self> {
        let channels = shape.channels;
        let attention =
            |context, name| Attention::new(channels, context, shape.heads, false, config.upcast_attention, &b.pp(name));
        Ok(Self {
            norm1: LayerNorm::new(channels, 1e-5, &b.pp("norm1"))?,
            attn1: attention(channels, "attn1")?,
            norm2: LayerNorm::new(channels, 1e-5, &b.pp("norm2"))?,
            attn2: attention(shape.cross_attention_dim, "attn2")?,
            norm3: LayerNorm::new(channels, 1e-5, &b.pp("norm3"))?,
            ff: GeGluFeedForward::new(channels, &b.pp("ff"))?,
            site,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let x =
            pass.observed(AttentionKind::SelfAttention, self.site, |tap| self.attn1.forward_self(&normed, tap, x))?;
        let normed = self.norm2.forward(&x)?;
        let (context, key_bias) = (&pass.prompt[self.site], pass.key_bias);
        let x = pass
            .observed(AttentionKind::Cross, self.site, |tap| self.attn2.forward(&normed, context, key_bias, tap, &x))?;
        pass.probed(self.site, &self.attn2, &normed)?;
        pass.queried(self.site, &self.attn2, &normed)?;
        pass.shared(self.site, &self.attn2, &normed)?;
        self.ff.forward_plus(&self.norm3.forward(&x)?, &x)
    }
}

/// GEGLU to four times the channels and back (diffusers `FeedForward`: `net.0.proj`, `net.2`).
#[derive(Debug, Clone)]
struct GeGluFeedForward {
    gate: GeGlu,
    out: Linear,
}

impl GeGluFeedForward {
    fn new(channels: usize, b: &Builder) -> Result<Self> {
        let net = b.pp("net");
        Ok(Self {
            gate: GeGlu::new(channels, 4 * channels, &net.pp(0))?,
            out: Linear::new(4 * channels, channels, &net.pp(2))?,
        })
    }

    fn forward_plus(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.out.forward_plus(&self.gate.forward(x)?, residual)
    }
}
