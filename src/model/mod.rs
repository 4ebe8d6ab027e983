//! The networks, fields named as the weights of a diffusers checkpoint: text encoders, denoiser,
//! VAE.
//!
//! Each is built from a config and a `VarBuilder` and checked against diffusers in
//! `tests/it/model.rs`. They take tensors of any float dtype and give f32.

mod denoiser;
#[cfg(test)]
mod fixture;
mod interrupt;
#[doc(hidden)]
pub mod layers;
mod qwen3;
mod resnet;
mod t5;
mod text_encoder;
mod vae;

pub use denoiser::{
    AddedConditions, Conditioning, Denoiser, Flux, FluxPrompt, PreparedPrompt, Sd3, Sd3Prompt, Unet, UnetPrompt,
    ZImage, ZImagePrompt,
};
pub use interrupt::Interrupt;
pub use qwen3::Qwen3;
pub use t5::T5;
pub use text_encoder::{TextEncoder, TextEncoding};
pub use vae::{Posterior, Vae};
