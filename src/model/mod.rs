//! The networks, one file a part, fields named as the weights of a diffusers checkpoint: text encoders, UNet, VAE.
//!
//! Each is built from a config and a `VarBuilder` and checked against diffusers in `tests/it/model.rs`. They take tensors of any float
//! dtype and give f32.

#[cfg(test)]
mod fixture;
pub mod layers;
mod resnet;
mod text_encoder;
mod unet;
mod vae;

pub use text_encoder::{TextEncoder, TextEncoding};
pub use unet::{Added, Conditioning, Context, Unet};
pub use vae::{Posterior, Vae};
