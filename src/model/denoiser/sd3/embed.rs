//! What goes into the transformer: patches of the latent with their places, and timestep and pooled
//! prompt as one embedding.

use super::super::embedding::{Mlp, sinusoids};
use crate::checkpoint::Sd3Config;
use crate::model::layers::{Builder, Linear};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Waves of the timestep.
const WAVES: usize = 256;

/// diffusers `PatchEmbed`: patches through a linear layer, plus the embedding of their places.
#[derive(Debug, Clone)]
pub(super) struct PatchEmbed {
    proj: Linear,
    /// The table of places, `[rows, columns, width]`, of which an image takes the middle.
    pos_embed: Tensor,
    patch: usize,
    channels: usize,
}

impl PatchEmbed {
    pub(super) fn new(config: &Sd3Config, b: &Builder) -> Result<Self> {
        let (side, width) = (config.pos_embed_max_size, config.width());
        Ok(Self {
            proj: Linear::from_patches(config.in_channels, width, config.patch_size, &b.pp("proj"))?,
            pos_embed: b.get((1, side * side, width), "pos_embed")?.reshape((side, side, width))?,
            patch: config.patch_size,
            channels: config.out_channels,
        })
    }

    /// `[batch, channels, height, width]` to tokens `[batch, patches, width]`, row by row.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a latent that is no whole patches, or larger than the table.
    pub(super) fn forward(&self, latent: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = latent.dims4()?;
        let (patch, side) = (self.patch, self.pos_embed.dim(0)?);
        let (rows, columns) = (height / patch, width / patch);
        if rows * patch != height || columns * patch != width || rows.min(columns) == 0 || rows.max(columns) > side {
            return Err(Error::Unsupported {
                what: format!("a latent of {width}x{height} cells"),
                way_out: format!("sides must be multiples of {patch}, and at most {}", side * patch),
            });
        }
        let patches = latent
            .reshape(&[batch, channels, rows, patch, columns, patch])?
            .permute([0, 2, 4, 1, 3, 5])?
            .contiguous()?
            .reshape((batch, rows * columns, channels * patch * patch))?;
        let places = self.pos_embed.narrow(0, (side - rows) / 2, rows)?.narrow(1, (side - columns) / 2, columns)?;
        let places = places.to_dtype(latent.dtype())?.contiguous()?.reshape((1, rows * columns, ()))?;
        Ok(self.proj.forward(&patches)?.broadcast_add(&places)?)
    }

    /// Tokens of the patches' values `[batch, patches, patch * patch * channels]` as a latent of
    /// these sides: f32.
    pub(super) fn latent_of(&self, tokens: &Tensor, [height, width]: [usize; 2]) -> Result<Tensor> {
        let (batch, patch, channels) = (tokens.dim(0)?, self.patch, self.channels);
        let latent = tokens
            .reshape(&[batch, height / patch, width / patch, patch, patch, channels])?
            .permute([0, 5, 1, 3, 2, 4])?
            .contiguous()?
            .reshape((batch, channels, height, width))?;
        Ok(latent.to_dtype(DType::F32)?)
    }
}

/// diffusers `CombinedTimestepTextProjEmbeddings`.
#[derive(Debug, Clone)]
pub(super) struct TimeTextEmbed {
    timestep_embedder: Mlp,
    text_embedder: Mlp,
    device: Device,
    dtype: DType,
}

impl TimeTextEmbed {
    pub(super) fn new(config: &Sd3Config, b: &Builder) -> Result<Self> {
        let width = config.width();
        Ok(Self {
            timestep_embedder: Mlp::new(WAVES, width, &b.pp("timestep_embedder"))?,
            text_embedder: Mlp::new(config.pooled_projection_dim, width, &b.pp("text_embedder"))?,
            device: b.device().clone(),
            dtype: b.activations(),
        })
    }

    /// `[1, width]`
    pub(super) fn time(&self, timestep: f64) -> Result<Tensor> {
        let waves = sinusoids(timestep, WAVES, true, 0.0);
        self.timestep_embedder.forward(&Tensor::from_vec(waves, (1, WAVES), &self.device)?.to_dtype(self.dtype)?)
    }

    /// `[batch, pooled]` to `[batch, width]`
    pub(super) fn text(&self, pooled: &Tensor) -> Result<Tensor> {
        self.text_embedder.forward(pooled)
    }
}
