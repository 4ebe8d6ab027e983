//! `transformer/config.json` of Stable Diffusion 3: the shape of an `SD3Transformer2DModel`.
//!
//! Field names, defaults and meaning follow diffusers' `models/transformers/transformer_sd3.py`
//! (0.42).

use super::fields::Fields;
use super::unet::MAX_DEPTH;
use crate::Result;
use crate::trace::{AttentionKind, Site, Stage};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// A multimodal diffusion transformer (Esser et al., 2024) in diffusers' terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sd3Config {
    /// Sides of the latent that it was trained at, in cells.
    pub sample_size: usize,
    /// Sides of a patch, in cells of the latent: a token of the image.
    pub patch_size: usize,
    /// Channels of the latent going in.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Channels of a head.
    pub attention_head_dim: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Channels of the text states going in.
    pub joint_attention_dim: usize,
    /// Channels of the pooled text going in.
    pub pooled_projection_dim: usize,
    /// Sides of the table of positions, in patches: no image may be larger.
    pub pos_embed_max_size: usize,
    /// Blocks whose image attends to itself a second time (`attn2`): those of 3.5 medium.
    pub dual_attention_layers: Vec<usize>,
    /// Whether queries and keys go through an RMS norm: 3.5 does so.
    pub qk_norm: bool,
}

impl Sd3Config {
    /// Reads the bytes of a `transformer/config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field for anything malformed, unknown, or
    /// asking for what attnmap does not do.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        let in_channels = fields.take("in_channels", 16)?;
        let config = Self {
            sample_size: fields.take("sample_size", 128)?,
            patch_size: fields.take("patch_size", 2)?,
            in_channels,
            out_channels: fields.take("out_channels", Some(16))?.unwrap_or(in_channels),
            num_layers: fields.take("num_layers", 18)?,
            attention_head_dim: fields.take("attention_head_dim", 64)?,
            num_attention_heads: fields.take("num_attention_heads", 18)?,
            joint_attention_dim: fields.take("joint_attention_dim", 4096)?,
            pooled_projection_dim: fields.take("pooled_projection_dim", 2048)?,
            pos_embed_max_size: fields.take("pos_embed_max_size", 96)?,
            dual_attention_layers: fields.take("dual_attention_layers", Vec::new())?,
            qk_norm: match fields.take_value("qk_norm") {
                None => false,
                Some(value) if value == json!("rms_norm") => true,
                Some(other) => return Err(fields.unsupported("qk_norm", &other, "\"rms_norm\" or null")),
            },
        };
        let caption = fields.take("caption_projection_dim", 1152usize)?;
        config.check(&fields)?;
        if caption != config.width() {
            return Err(fields.refuse(format!(
                "`caption_projection_dim` is {caption}, but the heads make {} channels, which the text needs too",
                config.width()
            )));
        }
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let sizes = [
            ("sample_size", self.sample_size, 1 << 14),
            ("patch_size", self.patch_size, 16),
            ("in_channels", self.in_channels, 1 << 10),
            ("out_channels", self.out_channels, 1 << 10),
            ("num_layers", self.num_layers, MAX_DEPTH),
            ("attention_head_dim", self.attention_head_dim, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("joint_attention_dim", self.joint_attention_dim, 1 << 16),
            ("pooled_projection_dim", self.pooled_projection_dim, 1 << 16),
            ("pos_embed_max_size", self.pos_embed_max_size, 1 << 12),
        ];
        for (name, size, most) in sizes {
            if !(1..=most).contains(&size) {
                return Err(fields.refuse(format!("`{name}` is {size}, which is out of range (1 to {most})")));
            }
        }
        if self.out_channels != self.in_channels {
            let other: Value = json!(self.out_channels);
            return Err(fields.unsupported("out_channels", &other, &format!("{}, as `in_channels`", self.in_channels)));
        }
        if let Some(layer) = self.dual_attention_layers.iter().find(|layer| **layer >= self.num_layers) {
            return Err(fields.refuse(format!("`dual_attention_layers` names layer {layer} of {}", self.num_layers)));
        }
        Ok(())
    }

    /// Channels of the hidden states.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// The grid of patches of a latent of `[height, width]` cells.
    pub fn grid(&self, latent: [usize; 2]) -> [usize; 2] {
        latent.map(|side| side / self.patch_size)
    }

    /// The joint attentions in network order, with the grid that their image queries have for a
    /// latent of `[height, width]`.
    pub fn joint_sites(&self, latent: [usize; 2]) -> Vec<Site> {
        self.sites((0..self.num_layers).map(|layer| (layer, "attn")), AttentionKind::Joint, latent)
    }

    /// The attentions of the image to itself alone (`attn2`), in network order.
    pub fn self_sites(&self, latent: [usize; 2]) -> Vec<Site> {
        let layers = (0..self.num_layers).filter(|layer| self.dual_attention_layers.contains(layer));
        self.sites(layers.map(|layer| (layer, "attn2")), AttentionKind::SelfAttention, latent)
    }

    fn sites(
        &self,
        layers: impl Iterator<Item = (usize, &'static str)>,
        kind: AttentionKind,
        latent: [usize; 2],
    ) -> Vec<Site> {
        let [height, width] = self.grid(latent);
        let site = |(index, (layer, name)): (usize, (usize, &str))| Site {
            path: format!("transformer_blocks.{layer}.{name}"),
            stage: Stage::Transformer,
            depth: 0.0,
            kind,
            index,
            heads: self.num_attention_heads,
            height,
            width,
        };
        Site::with_depths(layers.enumerate().map(site).collect())
    }
}
