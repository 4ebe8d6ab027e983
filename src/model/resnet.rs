//! The residual block that UNet and VAE share (diffusers `ResnetBlock2D`).

use super::layers::{Builder, Conv2d, FeatureMap, GroupNorm, Linear};
use crate::Result;
use candle_core::Tensor;

/// Two normalised convolutions beside a shortcut; in the UNet the timestep shifts the channels
/// between them.
#[derive(Debug, Clone)]
pub struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl Resnet {
    /// `input` to `output` channels; `time` is the width of the timestep embedding, `None` in the
    /// VAE.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn new(input: usize, output: usize, time: Option<usize>, groups: usize, eps: f64, b: &Builder) -> Result<Self> {
        Ok(Self {
            norm1: GroupNorm::new(input, groups, eps, &b.pp("norm1"))?,
            conv1: Conv2d::new(input, output, 3, &b.pp("conv1"))?,
            time_emb_proj: time.map(|width| Linear::new(width, output, &b.pp("time_emb_proj"))).transpose()?,
            norm2: GroupNorm::new(output, groups, eps, &b.pp("norm2"))?,
            conv2: Conv2d::new(output, output, 3, &b.pp("conv2"))?,
            conv_shortcut: match input == output {
                true => None,
                false => Some(Conv2d::new(input, output, 1, &b.pp("conv_shortcut"))?),
            },
        })
    }

    /// `time` is SiLU of the timestep embedding, `[batch, width]`.
    ///
    /// # Errors
    /// When the channels of `x` are not the block's.
    pub fn forward(&self, x: &FeatureMap, time: Option<&Tensor>) -> Result<FeatureMap> {
        let hidden = self.norm1.forward_silu(x)?;
        let hidden = match (&self.time_emb_proj, time) {
            (Some(projection), Some(time)) => self.conv1.forward_shifted(&hidden, &projection.forward(time)?)?,
            _ => self.conv1.forward(&hidden)?,
        };
        let hidden = self.norm2.forward_silu(&hidden)?;
        match &self.conv_shortcut {
            Some(shortcut) => self.conv2.forward_plus(&hidden, &shortcut.forward(x)?),
            None => self.conv2.forward_plus(&hidden, x),
        }
    }
}
