//! The JSON files of a diffusers checkpoint as plain structs: every field read, refused by name, or
//! known to be inert.

mod denoiser;
mod fields;
mod flux;
mod lists;
mod model_index;
mod qwen3;
mod scheduler;
mod sd3;
mod t5;
mod t5_tokenizer;
mod text_encoder;
mod tokenizer;
mod unet;
mod unet_sites;
mod vae;
mod z_image;

pub use denoiser::DenoiserConfig;
pub use flux::FluxConfig;
pub use model_index::{Family, ModelIndex};
pub use qwen3::Qwen3Config;
pub use scheduler::{Number, SchedulerConfig};
pub use sd3::Sd3Config;
pub use t5::T5Config;
pub use t5_tokenizer::T5TokenizerFiles;
pub use text_encoder::{Activation, TextEncoderConfig};
pub use tokenizer::{TokenizerConfig, TokenizerFiles};
pub use unet::{Addition, BlockType, UnetBlock, UnetConfig};
pub use vae::VaeConfig;
pub use z_image::ZImageConfig;

pub(super) use fields::{Fields, parse_json};
pub(super) use tokenizer::{missing_vocabulary, refuse_added_tokens_file};
