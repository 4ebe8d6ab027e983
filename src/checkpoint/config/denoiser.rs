//! The config of a checkpoint's denoiser: a closed set of networks, as in `model/denoiser/`.

use super::flux::{FluxConfig, PATCH};
use super::sd3::Sd3Config;
use super::unet::UnetConfig;
use super::z_image::ZImageConfig;
use crate::trace::Site;
use serde::Serialize;

/// The shape of the network that denoises.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum DenoiserConfig {
    /// `unet/config.json`.
    Unet(UnetConfig),
    /// `transformer/config.json` of Stable Diffusion 3.
    Sd3(Sd3Config),
    /// `transformer/config.json` of FLUX.1.
    Flux(FluxConfig),
    /// `transformer/config.json` of Z-Image.
    ZImage(ZImageConfig),
}

impl DenoiserConfig {
    /// The UNet's, where it is one.
    pub fn unet(&self) -> Option<&UnetConfig> {
        match self {
            Self::Unet(unet) => Some(unet),
            Self::Sd3(_) | Self::Flux(_) | Self::ZImage(_) => None,
        }
    }

    /// Channels of what it takes.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::Unet(unet) => unet.in_channels,
            Self::Sd3(sd3) => sd3.in_channels,
            Self::Flux(flux) => flux.latent_channels(),
            Self::ZImage(z_image) => z_image.in_channels,
        }
    }

    /// Height and width of the latent that it was trained at, in cells, where the config says so.
    pub fn sample_size(&self) -> Option<[usize; 2]> {
        match self {
            Self::Unet(unet) => unet.sample_size,
            Self::Sd3(sd3) => Some([sd3.sample_size; 2]),
            // What their pipelines in diffusers draw unless told otherwise.
            Self::Flux(_) | Self::ZImage(_) => Some([128; 2]),
        }
    }

    /// Cells of the latent that each side must be a multiple of.
    pub fn patch(&self) -> usize {
        match self {
            Self::Unet(_) => 1,
            Self::Sd3(sd3) => sd3.patch_size,
            Self::Flux(_) => PATCH,
            Self::ZImage(z_image) => z_image.patch_size,
        }
    }

    /// Rows or columns of the largest latent that it takes; `None` where any will do.
    pub fn largest_side(&self) -> Option<usize> {
        match self {
            Self::Unet(_) | Self::Flux(_) => None,
            Self::ZImage(z_image) => z_image.axes_lens[1..].iter().min().map(|side| side * z_image.patch_size),
            Self::Sd3(sd3) => Some(sd3.pos_embed_max_size * sd3.patch_size),
        }
    }

    /// The sites that attend to the prompt, in network order, for a latent of `[height, width]`.
    pub fn sites(&self, latent: [usize; 2]) -> Vec<Site> {
        match self {
            Self::Unet(unet) => unet.cross_attention_sites(latent),
            Self::Sd3(sd3) => sd3.joint_sites(latent),
            Self::Flux(flux) => flux.joint_sites(latent),
            Self::ZImage(z_image) => z_image.joint_sites(latent),
        }
    }

    /// Values that a run holds for each cell of the latent while a guided image is denoised: an
    /// estimate.
    pub fn values_per_cell(&self) -> u64 {
        match self {
            Self::Unet(unet) => unet.block_out_channels[0] as u64 * MAPS_AN_IMAGE,
            // The feed-forward's four widths before and after its activation, queries, keys, values
            // and what stands around them, of two rows. Rotary tables have a sine and a cosine for
            // each pair of channels, which is one width; Z-Image has up to four.
            Self::Sd3(sd3) => (2 * 24 * sd3.width() as u64).div_ceil((sd3.patch_size * sd3.patch_size) as u64),
            Self::Flux(flux) => ((2 * 24 + 1) * flux.width() as u64).div_ceil((PATCH * PATCH) as u64),
            Self::ZImage(z_image) => {
                ((2 * 24 + 4) * z_image.dim as u64).div_ceil((z_image.patch_size * z_image.patch_size) as u64)
            }
        }
    }
}

/// Feature maps of the UNet's first width, at the latent's size, that a guided image holds while it
/// is denoised. Measured on Stable Diffusion 1.5 at 512x512: 0.22 GB, which is 42 of them; the rest
/// is for longer prompts and more steps.
const MAPS_AN_IMAGE: u64 = 64;
