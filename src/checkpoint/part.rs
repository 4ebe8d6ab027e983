//! The parts of a checkpoint that have weights, and how diffusers names their folders and files.

use serde::Serialize;

/// A part of a checkpoint that has weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// `text_encoder/`
    TextEncoder,
    /// `text_encoder_2/`, of SDXL and Stable Diffusion 3.
    TextEncoder2,
    /// `text_encoder_3/`, of Stable Diffusion 3.
    TextEncoder3,
    /// `transformer/`
    Transformer,
    /// `unet/`
    Unet,
    /// `vae/`
    Vae,
}

impl Part {
    /// All parts; a checkpoint may have fewer ([`ModelIndex::parts`](super::ModelIndex::parts)).
    pub const ALL: [Self; 6] =
        [Self::TextEncoder, Self::TextEncoder2, Self::TextEncoder3, Self::Transformer, Self::Unet, Self::Vae];

    /// The part's folder in the diffusers layout.
    pub fn folder(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::TextEncoder3 => "text_encoder_3",
            Self::Transformer => "transformer",
            Self::Unet => "unet",
            Self::Vae => "vae",
        }
    }

    /// The beginning of the part's weight file names: transformers' convention, or diffusers'.
    pub(crate) fn weight_stem(self) -> &'static str {
        match self {
            Self::TextEncoder | Self::TextEncoder2 | Self::TextEncoder3 => "model",
            Self::Transformer | Self::Unet | Self::Vae => "diffusion_pytorch_model",
        }
    }
}
