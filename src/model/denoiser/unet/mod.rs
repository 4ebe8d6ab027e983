//! The denoiser: a UNet whose transformers attend to the prompt, with an observer passed down to
//! every attention.

mod blocks;
mod pass;
mod prompt;
mod redraw;
mod time;
mod transformer;

pub use prompt::UnetPrompt;

use super::conditioning::{AddedConditions, Conditioning};
use crate::checkpoint::UnetConfig;
use crate::model::Interrupt;
use crate::model::layers::{Builder, Conv2d, FeatureMap, GroupNorm, MemoryOrder};
use crate::trace::{AttentionObserver, Site};
use crate::{Error, Result};
use blocks::{DownBlock, MidBlock, UpBlock};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use pass::Pass;
use time::{AddEmbedding, TimeEmbedding};
use transformer::Transformer;

/// diffusers `UNet2DConditionModel`, fields named as its weights.
#[derive(Debug, Clone)]
pub struct Unet {
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    add_embedding: Option<AddEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    config: Box<UnetConfig>,
    layout: MemoryOrder,
    device: Device,
    dtype: DType,
    interrupt: Interrupt,
}

impl Unet {
    /// The network with the weights that `weights` holds at its root.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn new(config: &UnetConfig, weights: VarBuilder) -> Result<Self> {
        Self::build(config, &Builder::new(weights))
    }

    /// As [`new`](Self::new), from layers of the caller's choice.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn build(config: &UnetConfig, b: &Builder) -> Result<Self> {
        // Transformer blocks so far: the index of the next one's sites.
        let mut sites = 0;
        let channels = &config.block_out_channels;
        let mut down_blocks = Vec::with_capacity(channels.len());
        for (index, block) in config.down_blocks().iter().enumerate() {
            let b = b.pp("down_blocks").pp(index);
            down_blocks.push(DownBlock::new(config, block, &mut sites, &b)?);
        }
        let mid_block = match config.mid_block() {
            Some(block) => Some(MidBlock::new(config, &block, &mut sites, &b.pp("mid_block"))?),
            None => None,
        };
        let mut up_blocks = Vec::with_capacity(channels.len());
        for (index, block) in config.up_blocks().iter().enumerate() {
            let b = b.pp("up_blocks").pp(index);
            up_blocks.push(UpBlock::new(config, block, &mut sites, &b)?);
        }
        let add_embedding = |addition| AddEmbedding::new(config, addition, &b.pp("add_embedding"));
        Ok(Self {
            conv_in: Conv2d::new(config.in_channels, channels[0], 3, &b.pp("conv_in"))?,
            time_embedding: TimeEmbedding::new(config, &b.pp("time_embedding"))?,
            add_embedding: config.addition.as_ref().map(add_embedding).transpose()?,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(
                channels[0],
                config.norm_num_groups,
                config.norm_eps,
                &b.pp("conv_norm_out"),
            )?,
            conv_out: Conv2d::new(channels[0], config.out_channels, 3, &b.pp("conv_out"))?,
            config: Box::new(config.clone()),
            layout: b.layout(),
            device: b.device().clone(),
            dtype: b.activations(),
            interrupt: Interrupt::default(),
        })
    }

    /// What ends a pass through the network, from any thread.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Channels of the latent that it takes.
    pub fn channels(&self) -> usize {
        self.config.in_channels
    }

    /// The cross-attention sites in network order, with the grids they have for a latent of this
    /// size.
    pub fn sites(&self, latent_height: usize, latent_width: usize) -> Vec<Site> {
        self.config.cross_attention_sites([latent_height, latent_width])
    }

    /// The self-attention sites in network order, with the grids they have for a latent of this
    /// size.
    pub fn self_sites(&self, latent_height: usize, latent_width: usize) -> Vec<Site> {
        self.config.self_attention_sites([latent_height, latent_width])
    }

    /// Channels of each head of [`sites`](Self::sites), in that order.
    pub fn head_dims(&self) -> Vec<usize> {
        self.config.head_dims()
    }

    /// Whether the guidance scale is an input of the network ([`Conditioning::guidance`]): then it
    /// is not to be applied outside.
    pub fn embeds_guidance(&self) -> bool {
        self.time_embedding.embeds_guidance()
    }

    /// Keys and values of every cross-attention for a prompt.
    ///
    /// # Errors
    /// When the hidden states are not `[batch, tokens, cross_attention_dim]` or the bias is not
    /// `[batch, tokens]`. Also when the added conditions of an SDXL UNet are missing or of another
    /// width.
    pub fn prepare(&self, conditioning: &Conditioning) -> Result<UnetPrompt> {
        let (batch, tokens, width) = conditioning.hidden_states.dims3()?;
        let expected = self.config.cross_attention_dim[0];
        if width != expected {
            return Err(Error::Unsupported {
                what: format!("a text encoder of width {width} with a UNet for width {expected}"),
                way_out: "use the text encoder that belongs to this UNet".into(),
            });
        }
        let prompt = conditioning.hidden_states.to_device(&self.device)?.to_dtype(self.dtype)?;
        let key_bias = match &conditioning.key_bias {
            Some(bias) => Some(bias.to_device(&self.device)?.to_dtype(DType::F32)?.reshape((batch, 1, 1, tokens))?),
            None => None,
        };
        let added = match (&self.add_embedding, &conditioning.added) {
            (None, _) => None,
            (Some(embedding), Some(AddedConditions { pooled, time_ids })) if pooled.dim(0)? == batch => {
                Some(embedding.forward(pooled, time_ids)?)
            }
            (Some(_), Some(AddedConditions { pooled, .. })) => {
                return Err(Error::bug(format!("a pooled prompt of {:?} for {batch} rows", pooled.dims())));
            }
            (Some(_), None) => {
                return Err(Error::Unsupported {
                    what: "an SDXL UNet without a pooled prompt and size conditions".into(),
                    way_out: "give Conditioning::added".into(),
                });
            }
        };
        let guidance = match conditioning.guidance {
            Some(scale) => self.time_embedding.guidance(scale)?,
            None => None,
        };
        let mut keys_values = Vec::new();
        for transformer in self.transformers() {
            transformer.prepare(&prompt, &mut keys_values)?;
        }
        Ok(UnetPrompt { keys_values, key_bias, added, guidance, batch, tokens, probes: Vec::new() })
    }

    /// The network's output for `latent` `[batch, channels, height, width]` at `timestep`: noise or
    /// velocity, as the checkpoint was trained. It is f32 `[batch, out_channels, height, width]`.
    /// Any height and width will do that leave a grid of 1 or more at each level.
    ///
    /// At each attention `observer` is asked first, then told.
    ///
    /// # Errors
    /// When the batch of `latent` is not the context's, or the observer's own;
    /// [`Error::Interrupted`] where its [`interrupt`](Self::interrupt) asks for the end.
    pub fn forward(
        &self,
        latent: &Tensor,
        timestep: f64,
        context: &UnetPrompt,
        observer: &mut dyn AttentionObserver,
    ) -> Result<Tensor> {
        let (batch, channels, height, width) = latent.dims4()?;
        if batch != context.batch || channels != self.config.in_channels {
            return Err(Error::bug(format!(
                "a latent of shape {:?} for a UNet of {} channels and a prompt of {} rows",
                latent.dims(),
                self.config.in_channels,
                context.batch
            )));
        }
        let grids = self.config.grids([height, width]);
        if grids.as_flattened().contains(&0) {
            return Err(Error::Unsupported {
                what: format!("a latent of {width}x{height}"),
                way_out: format!("this UNet halves it {} times; choose a larger image", grids.len() - 1),
            });
        }
        let latent = latent.to_device(&self.device)?.to_dtype(self.dtype)?;
        let mut time = self.time_embedding.forward(timestep, context.guidance.as_ref())?;
        if let Some(added) = &context.added {
            time = time.broadcast_add(added)?;
        }
        let time = time.silu()?;
        let mut pass = Pass {
            time: &time,
            prompt: &context.keys_values,
            key_bias: context.key_bias.as_ref(),
            probes: &context.probes,
            cross_sites: self.sites(height, width),
            self_sites: self.self_sites(height, width),
            observer,
            interrupt: &self.interrupt,
        };
        let mut x = self.conv_in.forward(&FeatureMap::from_nchw(&latent, self.layout)?)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut skips, &mut pass)?;
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(x, &mut pass)?;
        }
        for block in &self.up_blocks {
            x = block.forward(x, &mut skips, &mut pass)?;
        }
        let x = self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)?;
        Ok(x.to_nchw()?.to_dtype(DType::F32)?)
    }

    /// The transformers in network order.
    fn transformers(&self) -> impl Iterator<Item = &Transformer> {
        let down = self.down_blocks.iter().flat_map(|block| &block.attentions);
        let mid = self.mid_block.iter().flat_map(|block| &block.attentions);
        let up = self.up_blocks.iter().flat_map(|block| &block.attentions);
        down.chain(mid).chain(up)
    }
}

#[cfg(test)]
mod tests;
