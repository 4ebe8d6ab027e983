//! From a prompt and a checkpoint to images, while an observer watches every step.
//!
//! The order of operations is that of diffusers'
//! `pipelines/stable_diffusion/pipeline_stable_diffusion.py`, and of its siblings for SDXL and
//! latent consistency models. So the same seed gives the same image as diffusers with a CPU
//! generator.

mod choice;
mod concepts;
mod encode;
mod fork;
mod free;
mod generate;
mod generation;
mod given;
mod goca;
mod init;
mod leaving;
mod lens;
mod load;
mod look;
mod memory;
mod names;
mod once;
mod options;
mod paint;
mod probes;
mod queries;
mod qwen;
mod second;
mod settings;
mod sight;
mod start;
mod t5;
mod traced;

pub use choice::CheckpointChoice;
pub use concepts::{check_joint, concepts_asked, concepts_of};
pub use encode::States;
pub use free::free_memory;
pub use generation::{Event, Generation, Generations, TextAttentions, Timings};
pub use given::{InitFiles, LoadedInit, read_latents};
pub use init::Init;
pub use load::Pipeline;
pub use look::{LookOptions, Noised};
pub use memory::{MemoryPlan, PartMemory};
pub use names::{device_named, dtype_named};
pub use options::{Fork, LoadOptions, Options};
pub(crate) use options::{check_clip_skip, check_conditions, check_guidance, check_size, check_strength};
pub use traced::{RecordOptions, Traced};
