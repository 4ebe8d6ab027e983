//! The autoencoder between images and latents (diffusers `AutoencoderKL`).

use super::layers::{Attention, Builder, Conv2d, Downsample, FeatureMap, GroupNorm, MemoryOrder, Upsample};
use super::resnet::Resnet;
use crate::checkpoint::VaeConfig;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

/// Epsilon of every group norm in the VAE.
const EPS: f64 = 1e-6;

/// Image to latent and back. [`encode`](Self::encode) and [`decode`](Self::decode) speak of the
/// encoder's own latents. [`latent_of`](Self::latent_of) and [`pixels_of`](Self::pixels_of) go on
/// to what the denoiser sees, and nobody else scales or shifts.
#[derive(Debug, Clone)]
pub struct Vae {
    encoder: VaeEncoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: VaeDecoder,
    scale: f64,
    shift: f64,
    layout: MemoryOrder,
    device: Device,
    dtype: DType,
}

/// The encoder's answer: a normal distribution for every place and channel of the latent, both
/// `[batch, channels, height, width]` in f32.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// The means.
    pub mean: Tensor,
    /// Logarithms of the variances, held within -30 and 20.
    pub logvar: Tensor,
}

impl Posterior {
    /// The latents that standard normal `noise` picks: of the same shape, or with more rows where
    /// there is one picture.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        let deviation = (&self.logvar * 0.5)?.exp()?;
        let noise = noise.to_device(self.mean.device())?.to_dtype(DType::F32)?;
        Ok(noise.broadcast_mul(&deviation)?.broadcast_add(&self.mean)?)
    }
}

impl Vae {
    /// The network with the weights that `weights` holds at its root.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn new(config: &VaeConfig, weights: VarBuilder) -> Result<Self> {
        Self::build(config, &Builder::new(weights))
    }

    /// As [`new`](Self::new), from layers of the caller's choice.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn build(config: &VaeConfig, b: &Builder) -> Result<Self> {
        let latent = config.latent_channels;
        let quant = |wanted: bool, channels: usize, name| {
            wanted.then(|| Conv2d::new(channels, channels, 1, &b.pp(name))).transpose()
        };
        Ok(Self {
            encoder: VaeEncoder::new(config, &b.pp("encoder"))?,
            quant_conv: quant(config.use_quant_conv, 2 * latent, "quant_conv")?,
            post_quant_conv: quant(config.use_post_quant_conv, latent, "post_quant_conv")?,
            decoder: VaeDecoder::new(config, &b.pp("decoder"))?,
            scale: config.scaling_factor,
            shift: config.shift_factor,
            layout: b.layout(),
            device: b.device().clone(),
            dtype: b.activations(),
        })
    }

    /// The image `[batch, 3, factor * height, factor * width]` of a latent `[batch, channels,
    /// height, width]`: f32, about -1 to 1 but not clamped.
    ///
    /// # Errors
    /// When the latent's channels are not the config's.
    pub fn decode(&self, latent: &Tensor) -> Result<Tensor> {
        let mut x = self.grid(latent)?;
        if let Some(conv) = &self.post_quant_conv {
            x = conv.forward(&x)?;
        }
        Ok(self.decoder.forward(x)?.to_nchw()?.to_dtype(DType::F32)?)
    }

    /// The latents that an image `[batch, 3, height, width]` in -1 to 1 may stand for. Sides that
    /// are no multiple of the factor are rounded down at each halving.
    ///
    /// # Errors
    /// When the image has not three channels or is smaller than the factor.
    pub fn encode(&self, image: &Tensor) -> Result<Posterior> {
        let (_, _, height, width) = image.dims4()?;
        let factor = 1 << (self.encoder.down_blocks.len() - 1);
        if height.min(width) < factor {
            return Err(Error::Unsupported {
                what: format!("an image of {width}x{height} pixels"),
                way_out: format!("this VAE needs at least {factor} pixels on each side"),
            });
        }
        let mut x = self.encoder.forward(self.grid(image)?)?;
        if let Some(conv) = &self.quant_conv {
            x = conv.forward(&x)?;
        }
        let moments = x.to_nchw()?.to_dtype(DType::F32)?.chunk(2, 1)?;
        Ok(Posterior { mean: moments[0].contiguous()?, logvar: moments[1].contiguous()?.clamp(-30f32, 20f32)? })
    }

    /// What the denoiser sees of `encoded`, a mean or sample of a [`Posterior`]: `(encoded - shift)
    /// * scale`.
    ///
    /// # Errors
    /// Those of the tensors.
    pub fn latent_of(&self, encoded: &Tensor) -> Result<Tensor> {
        let shifted = if self.shift == 0.0 { encoded.clone() } else { (encoded - self.shift)? };
        Ok((shifted * self.scale)?)
    }

    /// The image of a latent as the denoiser sees it: [`decode`](Self::decode) of `latent / scale +
    /// shift`.
    ///
    /// # Errors
    /// When the latent's channels are not the config's.
    pub fn pixels_of(&self, latent: &Tensor) -> Result<Tensor> {
        let encoded = (latent / self.scale)?;
        self.decode(&if self.shift == 0.0 { encoded } else { (encoded + self.shift)? })
    }

    fn grid(&self, tensor: &Tensor) -> Result<FeatureMap> {
        FeatureMap::from_nchw(&tensor.to_device(&self.device)?.to_dtype(self.dtype)?, self.layout)
    }
}

#[derive(Debug, Clone)]
struct VaeEncoder {
    conv_in: Conv2d,
    down_blocks: Vec<EncoderBlock>,
    mid_block: VaeMidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl VaeEncoder {
    fn new(config: &VaeConfig, b: &Builder) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = ends(channels);
        let block = |index: usize| {
            let input = channels[index.saturating_sub(1)];
            let halves = index + 1 < channels.len();
            EncoderBlock::new(config, input, channels[index], halves, &b.pp("down_blocks").pp(index))
        };
        Ok(Self {
            conv_in: Conv2d::new(config.in_channels, first, 3, &b.pp("conv_in"))?,
            down_blocks: (0..channels.len()).map(block).collect::<Result<_>>()?,
            mid_block: VaeMidBlock::new(config, last, &b.pp("mid_block"))?,
            conv_norm_out: GroupNorm::new(last, config.norm_num_groups, EPS, &b.pp("conv_norm_out"))?,
            conv_out: Conv2d::new(last, 2 * config.latent_channels, 3, &b.pp("conv_out"))?,
        })
    }

    fn forward(&self, image: FeatureMap) -> Result<FeatureMap> {
        let mut x = self.conv_in.forward(&image)?;
        for block in &self.down_blocks {
            x = block.forward(x)?;
        }
        let x = self.mid_block.forward(x)?;
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

#[derive(Debug, Clone)]
struct VaeDecoder {
    conv_in: Conv2d,
    mid_block: VaeMidBlock,
    up_blocks: Vec<DecoderBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl VaeDecoder {
    fn new(config: &VaeConfig, b: &Builder) -> Result<Self> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (last, first) = ends(&channels);
        let block = |index: usize| {
            let input = channels[index.saturating_sub(1)];
            let doubles = index + 1 < channels.len();
            DecoderBlock::new(config, input, channels[index], doubles, &b.pp("up_blocks").pp(index))
        };
        Ok(Self {
            conv_in: Conv2d::new(config.latent_channels, last, 3, &b.pp("conv_in"))?,
            mid_block: VaeMidBlock::new(config, last, &b.pp("mid_block"))?,
            up_blocks: (0..channels.len()).map(block).collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::new(first, config.norm_num_groups, EPS, &b.pp("conv_norm_out"))?,
            conv_out: Conv2d::new(first, config.out_channels, 3, &b.pp("conv_out"))?,
        })
    }

    fn forward(&self, latent: FeatureMap) -> Result<FeatureMap> {
        let mut x = self.mid_block.forward(self.conv_in.forward(&latent)?)?;
        for block in &self.up_blocks {
            x = block.forward(x)?;
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

/// First and last of a list that the config has checked to hold something.
fn ends(channels: &[usize]) -> (usize, usize) {
    (channels.first().copied().unwrap_or(0), channels.last().copied().unwrap_or(0))
}

fn resnets(config: &VaeConfig, input: usize, output: usize, count: usize, b: &Builder) -> Result<Vec<Resnet>> {
    let resnet = |index: usize| {
        let input = if index == 0 { input } else { output };
        Resnet::new(input, output, None, config.norm_num_groups, EPS, &b.pp("resnets").pp(index))
    };
    (0..count).map(resnet).collect()
}

/// diffusers `DownEncoderBlock2D`.
#[derive(Debug, Clone)]
struct EncoderBlock {
    resnets: Vec<Resnet>,
    downsampler: Option<Downsample>,
}

impl EncoderBlock {
    fn new(config: &VaeConfig, input: usize, output: usize, halves: bool, b: &Builder) -> Result<Self> {
        Ok(Self {
            resnets: resnets(config, input, output, config.layers_per_block, b)?,
            downsampler: halves.then(|| Downsample::new(output, 0, &b.pp("downsamplers").pp(0))).transpose()?,
        })
    }

    fn forward(&self, mut x: FeatureMap) -> Result<FeatureMap> {
        for resnet in &self.resnets {
            x = resnet.forward(&x, None)?;
        }
        match &self.downsampler {
            Some(downsampler) => downsampler.forward(&x),
            None => Ok(x),
        }
    }
}

/// diffusers `UpDecoderBlock2D`.
#[derive(Debug, Clone)]
struct DecoderBlock {
    resnets: Vec<Resnet>,
    upsampler: Option<Upsample>,
}

impl DecoderBlock {
    fn new(config: &VaeConfig, input: usize, output: usize, doubles: bool, b: &Builder) -> Result<Self> {
        Ok(Self {
            resnets: resnets(config, input, output, config.layers_per_block + 1, b)?,
            upsampler: doubles.then(|| Upsample::new(output, &b.pp("upsamplers").pp(0))).transpose()?,
        })
    }

    fn forward(&self, mut x: FeatureMap) -> Result<FeatureMap> {
        for resnet in &self.resnets {
            x = resnet.forward(&x, None)?;
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x, None),
            None => Ok(x),
        }
    }
}

/// diffusers `UNetMidBlock2D`: resnet, single-head self-attention over the grid, resnet.
#[derive(Debug, Clone)]
struct VaeMidBlock {
    resnets: Vec<Resnet>,
    attention: Option<(GroupNorm, Attention)>,
}

impl VaeMidBlock {
    fn new(config: &VaeConfig, channels: usize, b: &Builder) -> Result<Self> {
        let attention = || -> Result<(GroupNorm, Attention)> {
            let b = b.pp("attentions").pp(0);
            let norm = GroupNorm::new(channels, config.norm_num_groups, EPS, &b.pp("group_norm"))?;
            Ok((norm, Attention::new(channels, channels, 1, true, false, &b)?))
        };
        Ok(Self {
            resnets: resnets(config, channels, channels, 2, b)?,
            attention: config.mid_block_add_attention.then(attention).transpose()?,
        })
    }

    fn forward(&self, x: FeatureMap) -> Result<FeatureMap> {
        let x = self.attend(self.resnets[0].forward(&x, None)?)?;
        self.resnets[1].forward(&x, None)
    }

    fn attend(&self, x: FeatureMap) -> Result<FeatureMap> {
        let Some((norm, attention)) = &self.attention else { return Ok(x) };
        let residual = x.to_tokens()?;
        let tokens = attention.forward_self(&norm.forward(&x)?.to_tokens()?, None, &residual)?;
        FeatureMap::from_tokens(&tokens, x.size(), x.layout())
    }
}

#[cfg(test)]
mod tests;
