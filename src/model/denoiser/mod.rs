//! The denoiser of a checkpoint: a closed set of networks behind the calls that a pipeline makes.
//!
//! A network takes a noisy latent, a timestep and a prompt, and predicts noise, velocity or the
//! clean sample. Each variant of [`Denoiser`] prepares a prompt in its own way
//! ([`PreparedPrompt`]). A new network is a folder beside `unet/`, a variant of both enums, and an
//! arm in each match.

mod adaptive;
mod concepts;
mod conditioning;
mod embedding;
mod flux;
mod joint;
mod sd3;
mod sequence;
mod unet;
mod z_image;

pub use conditioning::{AddedConditions, Conditioning};
pub use flux::{Flux, FluxPrompt};
pub use sd3::{Sd3, Sd3Prompt};
pub use unet::{Unet, UnetPrompt};
pub use z_image::{ZImage, ZImagePrompt};

use super::Interrupt;
use super::layers::{Builder, Draw, MemoryOrder};
use crate::checkpoint::DenoiserConfig;
use crate::trace::{AttentionObserver, Site};
use crate::{Error, Result};
use candle_core::Tensor;
use candle_nn::VarBuilder;

/// The network that denoises.
#[derive(Debug, Clone)]
pub enum Denoiser {
    /// diffusers `UNet2DConditionModel`: cross-attention to the prompt's states.
    Unet(Unet),
    /// diffusers `SD3Transformer2DModel`: image and text attend to both at once.
    Sd3(Sd3),
    /// diffusers `FluxTransformer2DModel`: blocks of two streams, then blocks of one.
    Flux(Flux),
    /// diffusers `ZImageTransformer2DModel`: text and image in one stream.
    ZImage(ZImage),
}

/// A prompt made ready for a [`Denoiser`], once per run.
#[derive(Debug, Clone)]
pub enum PreparedPrompt {
    /// Keys and values of every cross-attention.
    Unet(UnetPrompt),
    /// The text's first hidden states.
    Sd3(Sd3Prompt),
    /// The text's first hidden states.
    Flux(FluxPrompt),
    /// The text's states behind its own blocks.
    ZImage(ZImagePrompt),
}

impl PreparedPrompt {
    /// This prompt with every token's values times its weight in `weights`, f32 `[batch, tokens]`;
    /// see [`UnetPrompt::weighted`].
    ///
    /// # Errors
    /// When `weights` has another shape.
    pub fn weighted(&self, weights: &Tensor) -> Result<Self> {
        match self {
            Self::Unet(prompt) => Ok(Self::Unet(prompt.weighted(weights)?)),
            Self::Sd3(prompt) => Ok(Self::Sd3(prompt.weighted(weights)?)),
            Self::Flux(prompt) => Ok(Self::Flux(prompt.weighted(weights)?)),
            Self::ZImage(prompt) => Ok(Self::ZImage(prompt.weighted(weights)?)),
        }
    }

    /// This prompt with words to ask about that are not in it; see [`UnetPrompt::with_probes`].
    ///
    /// # Errors
    /// When a probe has no token, more than its prompt has, or more rows than the batch.
    /// [`Error::Unsupported`] for a network in which text that is read would change the image.
    pub fn with_probes(self, probes: Vec<(Self, usize)>) -> Result<Self> {
        if probes.is_empty() {
            return Ok(self);
        }
        match self {
            Self::Unet(prompt) => {
                let of_unet = |(probe, tokens)| match probe {
                    Self::Unet(probe) => Ok((probe, tokens)),
                    _ => Err(other_network()),
                };
                Ok(Self::Unet(prompt.with_probes(probes.into_iter().map(of_unet).collect::<Result<_>>()?)?))
            }
            Self::Sd3(_) | Self::Flux(_) | Self::ZImage(_) => Err(Error::Unsupported {
                what: "probes as further keys of a joint attention".into(),
                way_out: "ask with PreparedPrompt::with_concepts".into(),
            }),
        }
    }

    /// This prompt with concepts (Helbling et al. 2025, ConceptAttention). They are words that read
    /// the image through the layers of the text. Nothing reads them, so that the output stays as it
    /// is. `concepts` is a prepared prompt of one row per concept, `tokens` the positions of each
    /// concept's own tokens among its keys. They are asked of the last `rows` rows of the batch.
    ///
    /// At each joint attention that they go through, the observer is told how alike they and the
    /// image's places are ([`AttentionObserver::observe_concepts`]). A concept of several tokens
    /// has the mean of their outputs.
    ///
    /// # Errors
    /// When a concept has no token; [`Error::Unsupported`] for a UNet, whose attention is not
    /// joint.
    pub fn with_concepts(self, concepts: &Self, tokens: &[Vec<usize>], rows: usize) -> Result<Self> {
        match (self, concepts) {
            (Self::Sd3(own), Self::Sd3(concepts)) => Ok(Self::Sd3(own.with_concepts(concepts, tokens, rows)?)),
            (Self::Flux(own), Self::Flux(concepts)) => Ok(Self::Flux(own.with_concepts(concepts, tokens, rows)?)),
            (Self::ZImage(own), Self::ZImage(concepts)) => Ok(Self::ZImage(own.with_concepts(concepts, tokens, rows)?)),
            (Self::Unet(_), _) => Err(Error::Unsupported {
                what: "concept attention in a UNet".into(),
                way_out: "ask with probes, which cross-attention answers".into(),
            }),
            _ => Err(other_network()),
        }
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        match self {
            Self::Unet(prompt) => prompt.batch(),
            Self::Sd3(prompt) => prompt.batch(),
            Self::Flux(prompt) => prompt.batch(),
            Self::ZImage(prompt) => prompt.batch(),
        }
    }

    /// Text tokens of each row, which attention reads as keys.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Unet(prompt) => prompt.tokens(),
            Self::Sd3(prompt) => prompt.tokens(),
            Self::Flux(prompt) => prompt.tokens(),
            Self::ZImage(prompt) => prompt.tokens(),
        }
    }
}

impl Denoiser {
    /// The network with the weights that `weights` holds at its root.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn new(config: &DenoiserConfig, weights: VarBuilder) -> Result<Self> {
        Self::build(config, &Builder::new(weights))
    }

    /// The network of the layers that `b` makes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn build(config: &DenoiserConfig, b: &Builder) -> Result<Self> {
        match config {
            DenoiserConfig::Unet(config) => Ok(Self::Unet(Unet::build(config, b)?)),
            DenoiserConfig::Sd3(config) => Ok(Self::Sd3(Sd3::build(config, b)?)),
            DenoiserConfig::Flux(config) => Ok(Self::Flux(Flux::build(config, b)?)),
            DenoiserConfig::ZImage(config) => Ok(Self::ZImage(ZImage::build(config, b)?)),
        }
    }

    /// As [`new`](Self::new), of plain layers, which candle can differentiate.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn plain(config: &DenoiserConfig, weights: VarBuilder) -> Result<Self> {
        Self::build(config, &Builder::with_layout(weights, MemoryOrder::Nchw))
    }

    /// Channels of the latent that it takes.
    pub fn channels(&self) -> usize {
        match self {
            Self::Unet(unet) => unet.channels(),
            Self::Sd3(sd3) => sd3.channels(),
            Self::Flux(flux) => flux.channels(),
            Self::ZImage(z_image) => z_image.channels(),
        }
    }

    /// Whether the guidance scale is an input of the network ([`Conditioning::guidance`]). Then it
    /// is not applied outside.
    pub fn embeds_guidance(&self) -> bool {
        match self {
            Self::Unet(unet) => unet.embeds_guidance(),
            Self::Flux(flux) => flux.embeds_guidance(),
            Self::Sd3(_) | Self::ZImage(_) => false,
        }
    }

    /// The sites that attend to the prompt, in network order, for a latent of this size.
    pub fn sites(&self, latent_height: usize, latent_width: usize) -> Vec<Site> {
        match self {
            Self::Unet(unet) => unet.sites(latent_height, latent_width),
            Self::Sd3(sd3) => sd3.sites(latent_height, latent_width),
            Self::Flux(flux) => flux.sites(latent_height, latent_width),
            Self::ZImage(z_image) => z_image.sites(latent_height, latent_width),
        }
    }

    /// The sites where the image attends to itself, in network order, for a latent of this size.
    pub fn self_sites(&self, latent_height: usize, latent_width: usize) -> Vec<Site> {
        match self {
            Self::Unet(unet) => unet.self_sites(latent_height, latent_width),
            Self::Sd3(sd3) => sd3.self_sites(latent_height, latent_width),
            // Their image attends to itself and the text in one softmax alone.
            Self::Flux(_) | Self::ZImage(_) => Vec::new(),
        }
    }

    /// Channels of each head of [`sites`](Self::sites), in that order, where the prompt's keys are
    /// the same at every step. `None` in joint attention, whose text changes with the image.
    pub fn head_dims(&self) -> Option<Vec<usize>> {
        match self {
            Self::Unet(unet) => Some(unet.head_dims()),
            Self::Sd3(_) | Self::Flux(_) | Self::ZImage(_) => None,
        }
    }

    /// What ends a pass through the network, from any thread; a clone of the network has the same.
    pub fn interrupt(&self) -> &Interrupt {
        match self {
            Self::Unet(unet) => unet.interrupt(),
            Self::Sd3(sd3) => sd3.interrupt(),
            Self::Flux(flux) => flux.interrupt(),
            Self::ZImage(z_image) => z_image.interrupt(),
        }
    }

    /// Makes a prompt ready for every step of a run.
    ///
    /// # Errors
    /// When the shapes of `conditioning` are not those that the network takes, or a part that it
    /// needs is missing.
    pub fn prepare(&self, conditioning: &Conditioning) -> Result<PreparedPrompt> {
        match self {
            Self::Unet(unet) => Ok(PreparedPrompt::Unet(unet.prepare(conditioning)?)),
            Self::Sd3(sd3) => Ok(PreparedPrompt::Sd3(sd3.prepare(conditioning)?)),
            Self::Flux(flux) => Ok(PreparedPrompt::Flux(flux.prepare(conditioning)?)),
            Self::ZImage(z_image) => Ok(PreparedPrompt::ZImage(z_image.prepare(conditioning)?)),
        }
    }

    /// The output for `latent` `[batch, channels, height, width]` at `timestep`: f32. `observer` is
    /// asked about each attention first, then told of it.
    ///
    /// # Errors
    /// When the batch of `latent` is not the prompt's, or the observer's own.
    pub fn forward(
        &self,
        latent: &Tensor,
        timestep: f64,
        prompt: &PreparedPrompt,
        observer: &mut dyn AttentionObserver,
    ) -> Result<Tensor> {
        match (self, prompt) {
            (Self::Unet(unet), PreparedPrompt::Unet(prompt)) => unet.forward(latent, timestep, prompt, observer),
            (Self::Sd3(sd3), PreparedPrompt::Sd3(prompt)) => sd3.forward(latent, timestep, prompt, observer),
            (Self::Flux(flux), PreparedPrompt::Flux(prompt)) => flux.forward(latent, timestep, prompt, observer),
            (Self::ZImage(z_image), PreparedPrompt::ZImage(prompt)) => {
                z_image.forward(latent, timestep, prompt, observer)
            }
            _ => Err(other_network()),
        }
    }

    /// Draws the weights of every attention to the prompt in `block` anew; see
    /// [`Unet::redraw_cross_attention`].
    ///
    /// # Errors
    /// Those of the layers.
    pub fn redraw_cross_attention(&mut self, block: &str, draw: Draw) -> Result<usize> {
        match self {
            Self::Unet(unet) => unet.redraw_cross_attention(block, draw),
            Self::Sd3(sd3) => sd3.redraw_joint_attention(block, draw),
            Self::Flux(flux) => flux.redraw_joint_attention(block, draw),
            Self::ZImage(z_image) => z_image.redraw_joint_attention(block, draw),
        }
    }
}

fn other_network() -> Error {
    Error::bug("a prompt was made ready for another network")
}

#[cfg(test)]
mod tests;
