//! The timestep's embedding (diffusers `TimestepEmbedder` of Z-Image).

use super::super::embedding::sinusoids;
use crate::Result;
use crate::checkpoint::ZImageConfig;
use crate::model::layers::{Builder, Linear};
use candle_core::{DType, Device, Tensor};

/// Waves of the timestep.
const WAVES: usize = 256;
/// Width between the two layers.
const BETWEEN: usize = 1024;

#[derive(Debug, Clone)]
pub(super) struct TimestepEmbedder {
    first: Linear,
    second: Linear,
    scale: f64,
    device: Device,
    dtype: DType,
}

impl TimestepEmbedder {
    pub(super) fn new(config: &ZImageConfig, b: &Builder) -> Result<Self> {
        let mlp = b.pp("mlp");
        Ok(Self {
            first: Linear::new(WAVES, BETWEEN, &mlp.pp(0))?,
            second: Linear::new(BETWEEN, config.time_width(), &mlp.pp(2))?,
            scale: config.t_scale,
            device: b.device().clone(),
            dtype: b.activations(),
        })
    }

    /// `[1, width]` of a timestep, 0 to 1000. The network counts from noise, 0, to image, 1; the
    /// steps in f32 are those of diffusers' pipeline.
    pub(super) fn forward(&self, timestep: f64) -> Result<Tensor> {
        let time = (1000.0 - timestep as f32) / 1000.0;
        let waves = sinusoids(f64::from(time * self.scale as f32), WAVES, true, 0.0);
        let waves = Tensor::from_vec(waves, (1, WAVES), &self.device)?.to_dtype(self.dtype)?;
        self.second.forward(&self.first.forward(&waves)?.silu()?)
    }
}
