//! Samplers as pure step functions, read from `scheduler_config.json`, and the torch-compatible noise source.

mod noise;

pub use noise::{TorchGenerator, randn_tensor};
