//! Numbers as sines and cosines, and the two linear layers that they go through: what every
//! denoiser is told its timestep by.

use crate::Result;
use crate::model::layers::{Builder, Linear};
use candle_core::Tensor;

/// Two linear layers with SiLU between them (diffusers `TimestepEmbedding`,
/// `PixArtAlphaTextProjection`).
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl Mlp {
    pub(super) fn new(input: usize, output: usize, b: &Builder) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::new(input, output, &b.pp("linear_1"))?,
            linear_2: Linear::new(output, output, &b.pp("linear_2"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&self.linear_1.forward(x)?.silu()?)
    }
}

/// `channels` waves of the timestep, from period 2 pi to about 2 pi times 10000 (diffusers
/// `get_timestep_embedding`).
///
/// Rounded to f32 where torch rounds: at timestep 1000 an error of one in the last place of a
/// frequency moves a sine by 6e-5.
pub(super) fn sinusoids(timestep: f64, channels: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Vec<f32> {
    let half = channels / 2;
    let mut sines = Vec::with_capacity(half);
    let mut cosines = Vec::with_capacity(half);
    for i in 0..half {
        let exponent = -(10000f64.ln() as f32) * i as f32 / (half as f64 - freq_shift) as f32;
        let frequency = f64::from(exponent).exp() as f32;
        let angle = f64::from(timestep as f32 * frequency);
        sines.push(angle.sin() as f32);
        cosines.push(angle.cos() as f32);
    }
    let mut waves = if flip_sin_to_cos { [cosines, sines] } else { [sines, cosines] }.concat();
    waves.resize(channels, 0.0);
    waves
}

#[cfg(test)]
mod tests {
    use super::sinusoids;

    #[test]
    fn order_and_odd_width() {
        assert_eq!(sinusoids(0.0, 5, false, 0.0), [0.0, 0.0, 1.0, 1.0, 0.0]);
        assert_eq!(sinusoids(0.0, 5, true, 0.0), [1.0, 1.0, 0.0, 0.0, 0.0]);
        let shifted = sinusoids(1.0, 4, true, 1.0);
        assert!((shifted[1] - 1e-4f32.cos()).abs() < 1e-7 && (shifted[3] - 1e-4).abs() < 1e-9);
    }
}
