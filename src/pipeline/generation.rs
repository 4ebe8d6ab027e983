//! What a run tells while it goes on, and what it leaves.

use crate::trace::{Step, TextAttention};
use candle_core::Tensor;
use image::RgbImage;

/// What happens while [`Pipeline::generate`](super::Pipeline::generate) runs; the callback may end
/// the run with [`ControlFlow::Break`](std::ops::ControlFlow::Break).
#[derive(Debug)]
pub enum Event<'a> {
    /// The prompts, and a picture to set out from, are encoded; the steps begin.
    Encoded {
        /// Number of denoiser calls to come.
        calls: usize,
    },
    /// One denoiser call and scheduler step are done.
    Stepped {
        /// Which one.
        step: Step,
        /// The present estimate of the final latents (`pred_original_sample`), f32 `[images,
        /// channels, h, w]`.
        denoised: &'a Tensor,
        /// What the denoiser was shown at this step: the latents as the scheduler scales them, f32
        /// `[images, channels, h, w]`. Where the checkpoint [inpaints](super::Pipeline::inpaints),
        /// mask and masked picture are among 9 channels.
        input: &'a Tensor,
    },
    /// One image is decoded.
    Decoded {
        /// Its place in [`Options::seeds`](super::Options::seeds).
        image: usize,
    },
}

/// One finished image.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The seed of its noise.
    pub seed: u64,
    /// The decoded image.
    pub image: RgbImage,
    /// The final latent as the denoiser sees it, f32 `[1, channels, h, w]`.
    pub latent: Tensor,
}

/// All that [`Pipeline::generate`](super::Pipeline::generate) returns beside what the observer
/// kept.
#[derive(Debug, Clone)]
pub struct Generations {
    /// One for each of [`Options::seeds`](super::Options::seeds), in order.
    pub images: Vec<Generation>,
    /// The timestep of each denoiser call.
    pub timesteps: Vec<f64>,
    /// The text encoders' own self-attention on the prompt.
    pub text: TextAttentions,
    /// Time spent on the prompts, the steps and the decoding.
    pub timings: Timings,
}

/// Where the time of a run went.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Timings {
    /// Seconds in the text encoder, and in the VAE for a picture to set out from.
    pub encode: f64,
    /// Seconds in the denoiser and the scheduler.
    pub steps: f64,
    /// Seconds in the VAE.
    pub decode: f64,
}

/// The text encoders' own self-attention among a prompt's tokens, per layer.
#[derive(Debug, Clone, Default)]
pub struct TextAttentions {
    /// Of the first, or only, text encoder.
    pub first: Vec<TextAttention>,
    /// Of SDXL's second.
    pub second: Vec<TextAttention>,
}
