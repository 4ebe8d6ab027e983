//! The networks, fields named as the weights of a diffusers checkpoint: text encoders, denoiser,
//! VAE.
//!
//! Each is built from a config and a `VarBuilder` and checked against diffusers in
//! `tests/it/model.rs`. They take tensors of any float dtype and give f32.

mod denoiser;
#[cfg(test)]
mod fixture;
mod interrupt;
pub mod layers;
mod resnet;
mod text_encoder;
mod vae;

pub use denoiser::{AddedConditions, Conditioning, Denoiser, PreparedPrompt, Unet, UnetPrompt};
pub use interrupt::Interrupt;
pub use text_encoder::{TextEncoder, TextEncoding};
pub use vae::{Posterior, Vae};
