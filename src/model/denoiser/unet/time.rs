//! What shifts every resnet: the timestep and, in SDXL, the pooled prompt and the size conditions,
//! each as waves through linear layers.

use super::super::embedding::{Mlp, sinusoids};
use crate::checkpoint::{Addition, UnetConfig};
use crate::model::layers::{Builder, Linear};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// How a number becomes sines and cosines (diffusers `Timesteps`).
#[derive(Debug, Clone)]
struct Waves {
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
}

impl Waves {
    fn of(&self, number: f64) -> Vec<f32> {
        sinusoids(number, self.channels, self.flip_sin_to_cos, self.freq_shift)
    }
}

/// Sines and cosines of the timestep through an MLP (diffusers `Timesteps` and
/// `TimestepEmbedding`).
#[derive(Debug, Clone)]
pub(super) struct TimeEmbedding {
    waves: Waves,
    mlp: Mlp,
    /// Consistency-distilled models: from the guidance scale's waves to a shift of the timestep's,
    /// without a bias.
    cond_proj: Option<(usize, Linear)>,
    device: Device,
    dtype: DType,
}

impl TimeEmbedding {
    pub(super) fn new(config: &UnetConfig, b: &Builder) -> Result<Self> {
        let channels = config.block_out_channels[0];
        let cond_proj =
            |width: usize| Ok::<_, crate::Error>((width, Linear::without_bias(width, channels, &b.pp("cond_proj"))?));
        Ok(Self {
            waves: Waves { channels, flip_sin_to_cos: config.flip_sin_to_cos, freq_shift: config.freq_shift },
            mlp: Mlp::new(channels, config.time_embed_dim, b)?,
            cond_proj: config.time_cond_proj_dim.map(cond_proj).transpose()?,
            device: b.device().clone(),
            dtype: b.activations(),
        })
    }

    /// See [`super::Unet::embeds_guidance`].
    pub(super) fn embeds_guidance(&self) -> bool {
        self.cond_proj.is_some()
    }

    /// The shift `[1, channels]` that a guidance scale makes; `None` in a model that was not
    /// trained with one.
    pub(super) fn guidance(&self, scale: f64) -> Result<Option<Tensor>> {
        let Some((width, projection)) = &self.cond_proj else { return Ok(None) };
        let waves = Tensor::from_vec(guidance_waves(scale, *width), (1, *width), &self.device)?.to_dtype(self.dtype)?;
        Ok(Some(projection.forward(&waves)?))
    }

    /// The embedding `[1, time_embed_dim]` of one timestep, its waves shifted by what
    /// [`guidance`](Self::guidance) gave.
    pub(super) fn forward(&self, timestep: f64, guidance: Option<&Tensor>) -> Result<Tensor> {
        let waves = self.waves.of(timestep);
        let mut waves = Tensor::from_vec(waves, (1, self.waves.channels), &self.device)?.to_dtype(self.dtype)?;
        if let Some(shift) = guidance {
            waves = (waves + shift)?;
        }
        self.mlp.forward(&waves)
    }
}

/// SDXL's pooled prompt and size conditions as a shift of the timestep's embedding (diffusers
/// `add_time_proj`, `add_embedding`).
#[derive(Debug, Clone)]
pub(super) struct AddEmbedding {
    waves: Waves,
    mlp: Mlp,
    /// Width of the pooled prompt and all waves.
    width: usize,
    device: Device,
    dtype: DType,
}

impl AddEmbedding {
    pub(super) fn new(config: &UnetConfig, addition: &Addition, b: &Builder) -> Result<Self> {
        Ok(Self {
            waves: Waves {
                channels: addition.time_embed_dim,
                flip_sin_to_cos: config.flip_sin_to_cos,
                freq_shift: config.freq_shift,
            },
            mlp: Mlp::new(addition.input_dim, config.time_embed_dim, b)?,
            width: addition.input_dim,
            device: b.device().clone(),
            dtype: b.activations(),
        })
    }

    /// `[batch, time_embed_dim]` from the pooled prompts `[batch, width]` and their numbers.
    ///
    /// # Errors
    /// When the widths do not sum to the layer's.
    pub(super) fn forward(&self, pooled: &Tensor, time_ids: &[f64]) -> Result<Tensor> {
        let (batch, width) = pooled.dims2()?;
        let waves: Vec<f32> = time_ids.iter().flat_map(|number| self.waves.of(*number)).collect();
        if width + waves.len() != self.width {
            let message = format!("{width} channels of a pooled prompt and {} waves for {}", waves.len(), self.width);
            return Err(Error::bug(message));
        }
        let count = waves.len();
        let waves = Tensor::from_vec(waves, (1, count), &self.device)?.broadcast_as((batch, count))?;
        let pooled = pooled.to_device(&self.device)?.to_dtype(DType::F32)?;
        self.mlp.forward(&Tensor::cat(&[&pooled, &waves], 1)?.to_dtype(self.dtype)?)
    }
}

/// `channels` waves of a guidance scale: sines, then cosines, of 1000 times the scale less one
/// (Meng et al., 2023; diffusers `get_guidance_scale_embedding`). Rounded to f32 where torch
/// rounds.
fn guidance_waves(scale: f64, channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let number = (scale - 1.0) as f32 * 1000.0;
    let rate = 10000f32.ln() / (half - 1) as f32;
    let angles = (0..half).map(|i| f64::from(number * f64::from(-(i as f32 * rate)).exp() as f32));
    let mut waves: Vec<f32> = angles.clone().map(|angle| angle.sin() as f32).collect();
    waves.extend(angles.map(|angle| angle.cos() as f32));
    waves.resize(channels, 0.0);
    waves
}

#[cfg(test)]
mod tests {
    use super::guidance_waves;

    /// diffusers 0.42: `get_guidance_scale_embedding(torch.tensor([7.5 - 1]), 6)`.
    #[test]
    fn guidance_is_sines_then_cosines() {
        let truth = [-0.0448, 0.8268, 0.6052, -0.9990, -0.5625, 0.7961f32];
        for (wave, truth) in guidance_waves(7.5, 6).into_iter().zip(truth) {
            assert!((wave - truth).abs() < 1e-4, "{wave} {truth}");
        }
    }
}
