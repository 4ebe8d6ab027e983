//! `vae/config.json`: the shape of an `AutoencoderKL`.
//!
//! Field names, defaults and meaning follow diffusers' `models/autoencoders/autoencoder_kl.py`
//! (0.42).

use super::fields::Fields;
use super::unet::MAX_DEPTH;
use crate::Result;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// A variational autoencoder in diffusers' terms. [`Default`] gives diffusers' defaults (one block
/// of 64 channels).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VaeConfig {
    /// Channels of the image going in.
    pub in_channels: usize,
    /// Channels of the image coming out.
    pub out_channels: usize,
    /// Output channels of each encoder block, finest first; the decoder mirrors them.
    pub block_out_channels: Vec<usize>,
    /// Resnets in each encoder block; a decoder block has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of every group norm (their epsilon is 1e-6).
    pub norm_num_groups: usize,
    /// Image side that the model was trained at, in pixels; nothing depends on it.
    pub sample_size: Option<[usize; 2]>,
    /// The denoiser sees `(latent - shift_factor) * scaling_factor`.
    pub scaling_factor: f64,
    /// 0 for the VAEs of Stable Diffusion 1, 2 and XL, whose pipelines in diffusers know no shift.
    pub shift_factor: f64,
    /// Whether the model overflows in f16 and is to be run in f32 (read by SDXL's pipeline only).
    pub force_upcast: bool,
    /// Whether a 1x1 convolution follows the encoder (`quant_conv`).
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder (`post_quant_conv`).
    pub use_post_quant_conv: bool,
    /// Whether the mid blocks have a (single-head) attention.
    pub mid_block_add_attention: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self::from_json(b"{}", Path::new("config.json")).expect("diffusers' defaults are a supported config")
    }
}

impl VaeConfig {
    /// Reads the bytes of a `vae/config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field for anything malformed, unknown, or
    /// asking for what attnmap does not do.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        let config = Self::read(&mut fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn read(fields: &mut Fields) -> Result<Self> {
        fields.only("act_fn", &[json!("silu"), json!("swish")])?;
        fields.only("double_z", &[json!(true), Value::Null])?;
        for name in ["latents_mean", "latents_std"] {
            fields.only(name, &[Value::Null])?;
        }
        let block_out_channels: Vec<usize> = fields.take("block_out_channels", vec![64])?;
        for (name, kind) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            let types: Vec<String> = fields.take(name, vec![kind.to_string()])?;
            if let Some(other) = types.iter().find(|block| *block != kind) {
                return Err(fields.unsupported(name, &json!(other), kind));
            }
            if types.len() != block_out_channels.len() {
                return Err(fields.refuse(format!(
                    "`{name}` has {} entries for {} `block_out_channels`",
                    types.len(),
                    block_out_channels.len()
                )));
            }
        }
        let config = Self {
            in_channels: fields.take("in_channels", 3)?,
            out_channels: fields.take("out_channels", 3)?,
            block_out_channels,
            layers_per_block: fields.take("layers_per_block", 1)?,
            latent_channels: fields.take("latent_channels", 4)?,
            norm_num_groups: fields.take("norm_num_groups", 32)?,
            sample_size: super::lists::pair(fields, "sample_size")?,
            scaling_factor: fields.take("scaling_factor", 0.18215)?,
            shift_factor: fields.take::<Option<f64>>("shift_factor", None)?.unwrap_or(0.0),
            force_upcast: fields.take("force_upcast", true)?,
            use_quant_conv: fields.take("use_quant_conv", true)?,
            use_post_quant_conv: fields.take("use_post_quant_conv", true)?,
            mid_block_add_attention: fields.take("mid_block_add_attention", true)?,
        };
        config.check(fields)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        for (name, channels) in [("in_channels", self.in_channels), ("out_channels", self.out_channels)] {
            if channels != 3 {
                return Err(fields.unsupported(name, &json!(channels), "3 (colour images)"));
            }
        }
        if ![4, 16].contains(&self.latent_channels) {
            return Err(fields.unsupported("latent_channels", &json!(self.latent_channels), "4 or 16"));
        }
        if self.norm_num_groups == 0 {
            return Err(fields.refuse("`norm_num_groups` is 0"));
        }
        // More than 8 halvings would make the latent smaller than any image has pixels.
        if self.block_out_channels.is_empty() || self.block_out_channels.len() > 9 {
            return Err(fields.refuse(format!("`block_out_channels` has {} entries", self.block_out_channels.len())));
        }
        for &channels in &self.block_out_channels {
            if channels == 0 || channels > 1 << 16 || channels % self.norm_num_groups != 0 {
                return Err(fields.refuse(format!(
                    "`block_out_channels` has {channels}, which is not a multiple of `norm_num_groups` ({})",
                    self.norm_num_groups
                )));
            }
        }
        if !(1..=MAX_DEPTH).contains(&self.layers_per_block) {
            return Err(fields.refuse(format!("`layers_per_block` is {}", self.layers_per_block)));
        }
        if !self.shift_factor.is_finite() {
            return Err(fields.refuse(format!("`shift_factor` is {}, which is no number", self.shift_factor)));
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            return Err(fields.refuse(format!("`scaling_factor` is {}, which is not positive", self.scaling_factor)));
        }
        Ok(())
    }

    /// Image pixels per latent pixel and side: 8 for four blocks.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}
