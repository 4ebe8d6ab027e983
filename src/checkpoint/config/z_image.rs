//! `transformer/config.json` of Z-Image: the shape of a `ZImageTransformer2DModel`.
//!
//! Field names, defaults and meaning follow diffusers' `models/transformers/transformer_z_image.py`
//! (0.42).

use super::fields::Fields;
use super::unet::MAX_DEPTH;
use crate::Result;
use crate::trace::{AttentionKind, Site, Stage};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// Z-Image's single-stream transformer (Alibaba, 2025) in diffusers' terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZImageConfig {
    /// Sides of a patch, in cells of the latent: a token of the image.
    pub patch_size: usize,
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the hidden states.
    pub dim: usize,
    /// Blocks of text and image together.
    pub n_layers: usize,
    /// Blocks before those, as many for the image alone as for the text alone.
    pub n_refiner_layers: usize,
    /// Heads of each attention.
    pub n_heads: usize,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Whether queries and keys go through an RMS norm.
    pub qk_norm: bool,
    /// Channels of the text states going in.
    pub cap_feat_dim: usize,
    /// Base of the frequencies that places turn by.
    pub rope_theta: f64,
    /// What the time, 0 to 1, is multiplied by.
    pub t_scale: f64,
    /// Channels of a head that are turned by a token's index, row and column.
    pub axes_dims: Vec<usize>,
    /// How many indices, rows and columns there are.
    pub axes_lens: Vec<usize>,
}

impl ZImageConfig {
    /// Reads the bytes of a `transformer/config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field for anything malformed, unknown, or
    /// asking for what attnmap does not do.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        if fields.take_value("siglip_feat_dim").is_some() {
            return Err(fields.refuse(
                "`siglip_feat_dim` is given: Z-Image Omni, which is shown pictures, is not supported; give Z-Image or \
                 Z-Image-Turbo",
            ));
        }
        let patches: Vec<usize> = fields.take("all_patch_size", vec![2])?;
        let frames: Vec<usize> = fields.take("all_f_patch_size", vec![1])?;
        if patches.len() != 1 || frames != [1] {
            return Err(fields.unsupported("all_patch_size", &json!([patches, frames]), "one patch of one frame"));
        }
        let n_heads = fields.take("n_heads", 30)?;
        // diffusers makes as many keys as queries, whatever this says; no released file differs.
        fields.only("n_kv_heads", &[json!(n_heads), Value::Null])?;
        let config = Self {
            patch_size: patches[0],
            in_channels: fields.take("in_channels", 16)?,
            dim: fields.take("dim", 3840)?,
            n_layers: fields.take("n_layers", 30)?,
            n_refiner_layers: fields.take("n_refiner_layers", 2)?,
            n_heads,
            norm_eps: fields.take("norm_eps", 1e-5)?,
            qk_norm: fields.take("qk_norm", true)?,
            cap_feat_dim: fields.take("cap_feat_dim", 2560)?,
            rope_theta: fields.take("rope_theta", 256.0)?,
            t_scale: fields.take("t_scale", 1000.0)?,
            axes_dims: fields.take("axes_dims", vec![32, 48, 48])?,
            axes_lens: fields.take("axes_lens", vec![1024, 512, 512])?,
        };
        config.check(&fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let sizes = [
            ("all_patch_size", self.patch_size, 16),
            ("in_channels", self.in_channels, 1 << 10),
            ("dim", self.dim, 1 << 16),
            ("n_layers", self.n_layers, MAX_DEPTH),
            ("n_refiner_layers", self.n_refiner_layers, MAX_DEPTH),
            ("n_heads", self.n_heads, 1 << 10),
            ("cap_feat_dim", self.cap_feat_dim, 1 << 16),
        ];
        for (name, size, most) in sizes {
            if !(1..=most).contains(&size) {
                return Err(fields.refuse(format!("`{name}` is {size}, which is out of range (1 to {most})")));
            }
        }
        if !self.dim.is_multiple_of(self.n_heads) {
            return Err(fields.refuse(format!("`dim` is {}, which {} `n_heads` do not divide", self.dim, self.n_heads)));
        }
        let axes = &self.axes_dims;
        let turned = axes.iter().try_fold(0usize, |sum, axis| sum.checked_add(*axis));
        if axes.len() != 3 || axes.iter().any(|axis| axis % 2 != 0) || turned != Some(self.dim / self.n_heads) {
            return Err(fields.refuse(format!(
                "`axes_dims` is {axes:?}; three even numbers are needed that sum to a head's channels ({})",
                self.dim / self.n_heads
            )));
        }
        if self.axes_lens.len() != 3 || self.axes_lens.iter().any(|length| !(1..=1 << 20).contains(length)) {
            return Err(fields.refuse(format!("`axes_lens` is {:?}; three lengths are needed", self.axes_lens)));
        }
        for (name, value) in [("norm_eps", self.norm_eps), ("rope_theta", self.rope_theta), ("t_scale", self.t_scale)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(fields.refuse(format!("`{name}` is {value}, which is not positive")));
            }
        }
        Ok(())
    }

    /// Width of what the timestep becomes.
    pub fn time_width(&self) -> usize {
        self.dim.min(256)
    }

    /// Width inside each feed-forward, rounded as diffusers does.
    pub fn feed_forward_width(&self) -> usize {
        (self.dim as f64 / 3.0 * 8.0) as usize
    }

    /// The attentions of text and image, in network order, with the grid that their image queries
    /// have for a latent of `[height, width]`.
    pub fn joint_sites(&self, latent: [usize; 2]) -> Vec<Site> {
        let [height, width] = latent.map(|side| side / self.patch_size);
        let site = |index| Site {
            path: format!("layers.{index}.attention"),
            stage: Stage::Transformer,
            depth: 0.0,
            kind: AttentionKind::Joint,
            index,
            heads: self.n_heads,
            height,
            width,
        };
        Site::with_depths((0..self.n_layers).map(site).collect())
    }
}
