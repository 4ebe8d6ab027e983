//! `transformer/config.json` of FLUX.1: the shape of a `FluxTransformer2DModel`.
//!
//! Field names, defaults and meaning follow diffusers' `models/transformers/transformer_flux.py`
//! (0.42).

use super::fields::Fields;
use super::unet::MAX_DEPTH;
use crate::Result;
use crate::trace::{AttentionKind, Site, Stage};
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// Sides of a patch in cells of the latent: the pipeline packs four cells into one token.
pub(crate) const PATCH: usize = 2;

/// FLUX.1's transformer (Black Forest Labs, 2024) in diffusers' terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FluxConfig {
    /// Numbers of a token of the image: the latent's channels times four.
    pub in_channels: usize,
    /// Blocks with a stream for the image and another for the text.
    pub num_layers: usize,
    /// Blocks behind those, of one stream.
    pub num_single_layers: usize,
    /// Channels of a head.
    pub attention_head_dim: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Channels of the text states going in.
    pub joint_attention_dim: usize,
    /// Channels of the pooled text going in.
    pub pooled_projection_dim: usize,
    /// Whether the guidance scale is an input: in FLUX.1 dev, not in schnell.
    pub guidance_embeds: bool,
    /// Channels of a head that are turned by a token's index, row and column.
    pub axes_dims_rope: Vec<usize>,
}

impl FluxConfig {
    /// Reads the bytes of a `transformer/config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field for anything malformed, unknown, or
    /// asking for what attnmap does not do.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        fields.only("patch_size", &[json!(1)])?;
        let config = Self {
            in_channels: fields.take("in_channels", 64)?,
            num_layers: fields.take("num_layers", 19)?,
            num_single_layers: fields.take("num_single_layers", 38)?,
            attention_head_dim: fields.take("attention_head_dim", 128)?,
            num_attention_heads: fields.take("num_attention_heads", 24)?,
            joint_attention_dim: fields.take("joint_attention_dim", 4096)?,
            pooled_projection_dim: fields.take("pooled_projection_dim", 768)?,
            guidance_embeds: fields.take("guidance_embeds", false)?,
            axes_dims_rope: fields.take("axes_dims_rope", vec![16, 56, 56])?,
        };
        let out_channels = fields.take::<Option<usize>>("out_channels", None)?.unwrap_or(config.in_channels);
        if out_channels != config.in_channels {
            return Err(fields.refuse(format!(
                "`in_channels` is {} and `out_channels` {out_channels}: a FLUX.1 that is shown pictures beside the \
                 noise (Fill, Canny or Depth), which is not supported; give FLUX.1 dev or schnell",
                config.in_channels
            )));
        }
        config.check(&fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let sizes = [
            ("in_channels", self.in_channels, 1 << 12),
            ("num_layers", self.num_layers, MAX_DEPTH),
            ("num_single_layers", self.num_single_layers, MAX_DEPTH),
            ("attention_head_dim", self.attention_head_dim, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("joint_attention_dim", self.joint_attention_dim, 1 << 16),
            ("pooled_projection_dim", self.pooled_projection_dim, 1 << 16),
        ];
        for (name, size, most) in sizes {
            if !(1..=most).contains(&size) {
                return Err(fields.refuse(format!("`{name}` is {size}, which is out of range (1 to {most})")));
            }
        }
        if !self.in_channels.is_multiple_of(PATCH * PATCH) {
            return Err(fields.refuse(format!("`in_channels` is {}, which is no multiple of 4", self.in_channels)));
        }
        let axes = &self.axes_dims_rope;
        let turned = axes.iter().try_fold(0usize, |sum, axis| sum.checked_add(*axis));
        if axes.len() != 3 || axes.iter().any(|axis| axis % 2 != 0) || turned != Some(self.attention_head_dim) {
            return Err(fields.refuse(format!(
                "`axes_dims_rope` is {axes:?}; three even numbers are needed that sum to `attention_head_dim` ({})",
                self.attention_head_dim
            )));
        }
        Ok(())
    }

    /// Channels of the hidden states.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of the latent.
    pub fn latent_channels(&self) -> usize {
        self.in_channels / (PATCH * PATCH)
    }

    /// The joint attentions in network order, with the grid that their image queries have for a
    /// latent of `[height, width]`.
    pub fn joint_sites(&self, latent: [usize; 2]) -> Vec<Site> {
        let blocks = [("transformer_blocks", self.num_layers), ("single_transformer_blocks", self.num_single_layers)];
        let paths =
            blocks.iter().flat_map(|(name, count)| (0..*count).map(move |index| format!("{name}.{index}.attn")));
        let [height, width] = latent.map(|side| side / PATCH);
        let site = |(index, path)| Site {
            path,
            stage: Stage::Transformer,
            depth: 0.0,
            kind: AttentionKind::Joint,
            index,
            heads: self.num_attention_heads,
            height,
            width,
        };
        Site::with_depths(paths.enumerate().map(site).collect())
    }
}
