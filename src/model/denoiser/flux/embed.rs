//! Timestep, guidance and pooled prompt as one embedding (diffusers
//! `CombinedTimestepGuidanceTextProjEmbeddings`).

use super::super::embedding::{Mlp, sinusoids};
use crate::checkpoint::FluxConfig;
use crate::model::layers::Builder;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Waves of a number.
const WAVES: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct TimeTextEmbed {
    timestep_embedder: Mlp,
    guidance_embedder: Option<Mlp>,
    text_embedder: Mlp,
    device: Device,
    dtype: DType,
}

impl TimeTextEmbed {
    pub(super) fn new(config: &FluxConfig, b: &Builder) -> Result<Self> {
        let width = config.width();
        let guidance = config.guidance_embeds.then(|| Mlp::new(WAVES, width, &b.pp("guidance_embedder")));
        Ok(Self {
            timestep_embedder: Mlp::new(WAVES, width, &b.pp("timestep_embedder"))?,
            guidance_embedder: guidance.transpose()?,
            text_embedder: Mlp::new(config.pooled_projection_dim, width, &b.pp("text_embedder"))?,
            device: b.device().clone(),
            dtype: b.activations(),
        })
    }

    /// `[1, width]` of a timestep, 0 to 1000. diffusers divides it by 1000 and multiplies again.
    pub(super) fn time(&self, timestep: f64) -> Result<Tensor> {
        self.timestep_embedder.forward(&self.waves(f64::from(timestep as f32 / 1000.0 * 1000.0))?)
    }

    /// What is the same at every step, `[batch, width]`: the pooled prompt's, and the guidance
    /// scale's where the network takes one.
    pub(super) fn told(&self, pooled: &Tensor, guidance: Option<f64>) -> Result<Tensor> {
        let pooled = pooled.to_device(&self.device)?.to_dtype(self.dtype)?;
        let told = self.text_embedder.forward(&pooled)?;
        match (&self.guidance_embedder, guidance) {
            (None, _) => Ok(told),
            (Some(embedder), Some(scale)) => {
                Ok(told.broadcast_add(&embedder.forward(&self.waves(f64::from(scale as f32 * 1000.0))?)?)?)
            }
            (Some(_), None) => Err(Error::Unsupported {
                what: "a FLUX.1 that takes the guidance scale as an input, without one".into(),
                way_out: "give Conditioning::guidance".into(),
            }),
        }
    }

    fn waves(&self, number: f64) -> Result<Tensor> {
        Ok(Tensor::from_vec(sinusoids(number, WAVES, true, 0.0), (1, WAVES), &self.device)?.to_dtype(self.dtype)?)
    }
}
