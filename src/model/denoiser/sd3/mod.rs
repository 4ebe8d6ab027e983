//! The denoiser of Stable Diffusion 3: a transformer in which image and text attend to both at
//! once. An observer is passed down to every joint attention.

mod attention;
mod block;
mod embed;
mod pass;
mod prompt;
mod redraw;

pub use prompt::Sd3Prompt;

use super::adaptive::modulated;
use super::concepts::Concepts;
use super::conditioning::Conditioning;
use super::sequence::Sequence;
use crate::checkpoint::Sd3Config;
use crate::model::Interrupt;
use crate::model::layers::{Builder, LayerNorm, Linear};
use crate::trace::{AttentionObserver, Site};
use crate::{Error, Result};
use block::{Block, Streams};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use embed::{PatchEmbed, TimeTextEmbed};
use pass::Pass;

/// diffusers `SD3Transformer2DModel`, fields named as its weights.
#[derive(Debug, Clone)]
pub struct Sd3 {
    pos_embed: PatchEmbed,
    time_text_embed: TimeTextEmbed,
    context_embedder: Linear,
    transformer_blocks: Vec<Block>,
    norm: LayerNorm,
    norm_out: Linear,
    proj_out: Linear,
    config: Sd3Config,
    layout: crate::model::layers::MemoryOrder,
    device: Device,
    dtype: DType,
    interrupt: Interrupt,
}

impl Sd3 {
    /// The network with the weights that `weights` holds at its root.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn new(config: &Sd3Config, weights: VarBuilder) -> Result<Self> {
        Self::build(config, &Builder::new(weights))
    }

    /// As [`new`](Self::new), from layers of the caller's choice.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn build(config: &Sd3Config, b: &Builder) -> Result<Self> {
        let width = config.width();
        let block = |index: usize| Block::new(config, index, &b.pp("transformer_blocks").pp(index));
        let patch = config.patch_size * config.patch_size;
        Ok(Self {
            pos_embed: PatchEmbed::new(config, &b.pp("pos_embed"))?,
            time_text_embed: TimeTextEmbed::new(config, &b.pp("time_text_embed"))?,
            context_embedder: Linear::new(config.joint_attention_dim, width, &b.pp("context_embedder"))?,
            transformer_blocks: (0..config.num_layers).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::without_affine(width, block::EPS, b)?,
            norm_out: Linear::new(width, 2 * width, &b.pp("norm_out").pp("linear"))?,
            proj_out: Linear::new(width, patch * config.out_channels, &b.pp("proj_out"))?,
            config: config.clone(),
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

    /// The joint attentions in network order, with the grid of image queries for a latent of this
    /// size.
    pub fn sites(&self, latent_height: usize, latent_width: usize) -> Vec<Site> {
        self.config.joint_sites([latent_height, latent_width])
    }

    /// The attentions of the image to itself alone, in network order; only 3.5 medium has any.
    pub fn self_sites(&self, latent_height: usize, latent_width: usize) -> Vec<Site> {
        self.config.self_sites([latent_height, latent_width])
    }

    /// What every step needs of a prompt.
    ///
    /// # Errors
    /// When the hidden states are not `[batch, tokens, joint_attention_dim]`, the bias is not
    /// `[batch, tokens]`, or the pooled prompt is missing or of another width.
    pub fn prepare(&self, conditioning: &Conditioning) -> Result<Sd3Prompt> {
        let (batch, tokens, width) = conditioning.hidden_states.dims3()?;
        let Some(added) = &conditioning.added else {
            return Err(Error::bug("Stable Diffusion 3 without a pooled prompt"));
        };
        let expected = (self.config.joint_attention_dim, (batch, self.config.pooled_projection_dim));
        if (width, added.pooled.dims2()?) != expected {
            let message = format!("states of width {width} and a pooled prompt of {:?}", added.pooled.dims());
            return Err(Error::bug(message));
        }
        let here = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.to_device(&self.device)?.to_dtype(self.dtype)?) };
        let key_bias = conditioning.key_bias_on(&self.device)?;
        Ok(Sd3Prompt {
            states: self.context_embedder.forward(&here(&conditioning.hidden_states)?)?,
            pooled: self.time_text_embed.text(&here(&added.pooled)?)?,
            key_bias,
            value_weights: None,
            concepts: None,
            batch,
            tokens,
        })
    }

    /// The velocity for `latent` `[batch, channels, height, width]` at `timestep` (1000 times the
    /// noise level): f32 of the same shape.
    ///
    /// At each attention `observer` is asked first, then told.
    ///
    /// # Errors
    /// When the batch of `latent` is not the prompt's, or the observer's own.
    /// [`Error::Unsupported`] for a latent that is no whole patches or larger than the table of
    /// positions. [`Error::Interrupted`] where its [`interrupt`](Self::interrupt) asks for the end.
    pub fn forward(
        &self,
        latent: &Tensor,
        timestep: f64,
        prompt: &Sd3Prompt,
        observer: &mut dyn AttentionObserver,
    ) -> Result<Tensor> {
        let (batch, channels, height, width) = latent.dims4()?;
        if batch != prompt.batch || channels != self.config.in_channels {
            return Err(Error::bug(format!(
                "a latent of shape {:?} for a transformer of {} channels and a prompt of {} rows",
                latent.dims(),
                self.config.in_channels,
                prompt.batch
            )));
        }
        let latent = latent.to_device(&self.device)?.to_dtype(self.dtype)?;
        let image = self.pos_embed.forward(&latent)?;
        let (cells, keys) = (image.dim(1)?, image.dim(1)? + prompt.tokens);
        let time = self.time_text_embed.time(timestep)?.broadcast_add(&prompt.pooled)?.silu()?;
        let key_bias = prompt.key_bias.as_ref().map(|bias| bias.pad_with_zeros(1, cells, 0)).transpose()?;
        let (joint_sites, self_sites) = (self.sites(height, width), self.self_sites(height, width));
        let mut pass = Pass {
            time: &time,
            prompt,
            sequence: Sequence {
                cells: 0..cells,
                others: cells..keys,
                text: cells..keys,
                bias: key_bias.as_ref(),
                value_weights: prompt.value_weights.as_ref(),
            },
            joint_sites: &joint_sites,
            self_sites: &self_sites,
            observer,
            interrupt: &self.interrupt,
        };
        let concepts = prompt.concepts.as_ref().map(Concepts::first).transpose()?;
        let mut streams = Streams { image, text: Some(prompt.states.clone()), concepts };
        for block in &self.transformer_blocks {
            streams = block.forward(&streams, &mut pass)?;
        }
        let image = streams.image;
        let shift = self.norm_out.forward(&time)?.chunk(2, 1)?;
        let image = modulated(&self.norm.forward(&image)?, &shift[0], &shift[1])?;
        self.pos_embed.latent_of(&self.proj_out.forward(&image)?, [height, width])
    }
}
