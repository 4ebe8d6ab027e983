//! Where weights and configs come from: embedded, a diffusers folder, a single file, or the hub.
//!
//! [`Checkpoint::open`] reads every JSON file and refuses what cannot be run before a single weight
//! is touched. [`Checkpoint::weights`] then gives one part's tensors as a candle `VarBuilder`.

mod adapter;
mod address;
mod changes;
mod config;
mod configs;
mod defaults;
mod describe;
mod embedding;
mod foreign;
mod hub;
mod hub_name;
mod lora;
mod open;
mod part;
mod pickle;
mod progress;
mod single;
mod source;
mod store;
mod weights;

pub use changes::{Changes, PREDICTIONS};
pub use config::{
    Activation, Addition, BlockType, DenoiserConfig, Family, FluxConfig, ModelIndex, Number, Qwen3Config,
    SchedulerConfig, Sd3Config, T5Config, T5TokenizerFiles, TextEncoderConfig, TokenizerConfig, TokenizerFiles,
    UnetBlock, UnetConfig, VaeConfig, ZImageConfig,
};
pub use configs::{QwenEncoder, SecondEncoderConfig, T5_TOKENS, T5Encoder, TIME_IDS};
pub use defaults::Defaults;
pub use describe::{Description, PartDescription, WordDescription};
pub use embedding::{AddedWord, Embedding};
pub use hub::{CachedPipeline, HubOptions, cached_pipelines};
pub use lora::Lora;
pub use open::{Checkpoint, OpenOptions};
pub use part::Part;
pub use progress::Progress;
pub use source::Source;
pub use weights::{Quantised, Weights, WeightsSummary};
