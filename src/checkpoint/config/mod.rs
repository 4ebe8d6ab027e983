//! The JSON files of a diffusers checkpoint as plain structs: every field read, refused by name, or
//! known to be inert.

mod fields;
mod lists;
mod model_index;
mod scheduler;
mod text_encoder;
mod tokenizer;
mod unet;
mod vae;

pub use model_index::{Family, ModelIndex};
pub use scheduler::{Number, SchedulerConfig};
pub use text_encoder::{Activation, TextEncoderConfig};
pub use tokenizer::{TokenizerConfig, TokenizerFiles};
pub use unet::{Addition, BlockType, UnetBlock, UnetConfig};
pub use vae::VaeConfig;

pub(super) use fields::Fields;
pub(super) use tokenizer::{missing_vocabulary, refuse_added_tokens_file};
