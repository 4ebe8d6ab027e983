//! Group and layer norms, computed in f32 whatever the dtype of the activations.

use super::builder::{Builder, MemoryOrder};
use super::fast;
use super::feature_map::FeatureMap;
use super::tracked;
use crate::kernels::conv::Map;
use crate::kernels::norm::{Affine, group_norm, layer_norm};
use crate::{Error, Result};
use candle_core::{D, DType, Tensor};

/// Normalises groups of channels over the whole grid (Wu and He 2018), then scales and shifts each
/// channel.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
    fast: bool,
}

impl GroupNorm {
    /// `groups` must divide `channels`. Stable Diffusion uses an `eps` of 1e-5 in the UNet's
    /// resnets and 1e-6 in its transformers and in the VAE.
    ///
    /// # Errors
    /// When the weights are not there in these shapes, or `groups` does not divide `channels`.
    pub fn new(channels: usize, groups: usize, eps: f64, b: &Builder) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::Unsupported {
                what: format!("a group norm of {groups} groups over {channels} channels"),
                way_out: "norm_num_groups must divide every entry of block_out_channels".into(),
            });
        }
        Ok(Self {
            weight: b.get_f32(channels, "weight")?,
            bias: b.get_f32(channels, "bias")?,
            groups,
            eps,
            fast: fast::applies(b.layout(), b.device()),
        })
    }

    /// The normalised map.
    ///
    /// # Errors
    /// When the channels of `x` are not the layer's.
    pub fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        if self.fast {
            return self.on_fast(x, false);
        }
        let nchw = x.to_nchw()?;
        let (batch, channels, height, width) = nchw.dims4()?;
        let values = nchw.to_dtype(DType::F32)?.reshape((batch, self.groups, ()))?;
        let normed = tracked::normalised(&values, self.eps)?.reshape((batch, channels, height, width))?;
        let normed = normed
            .broadcast_mul(&self.weight.reshape((1, channels, 1, 1))?)?
            .broadcast_add(&self.bias.reshape((1, channels, 1, 1))?)?;
        FeatureMap::from_nchw(&normed.to_dtype(nchw.dtype())?, x.layout())
    }

    /// The normalised map through SiLU, `y * sigmoid(y)`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_silu(&self, x: &FeatureMap) -> Result<FeatureMap> {
        if self.fast {
            return self.on_fast(x, true);
        }
        let normed = self.forward(x)?;
        FeatureMap::from_layout(normed.tensor().silu()?, normed.layout())
    }

    fn on_fast(&self, x: &FeatureMap, silu: bool) -> Result<FeatureMap> {
        let tensor = fast::ready(&x.tensor_in(MemoryOrder::Nhwc)?)?;
        let (batch, height, width, channels) = tensor.dims4()?;
        if channels != self.weight.elem_count() {
            return Err(fast::mismatch("a group norm", self.weight.elem_count(), &tensor));
        }
        let values = fast::read([&tensor, &self.weight, &self.bias], |[data, weight, bias]| {
            group_norm(
                Map { data, batch, height, width, channels },
                self.groups,
                self.eps,
                Affine { weight, bias },
                silu,
            )
        })?;
        let y = FeatureMap::from_layout(fast::tensor(values, tensor.shape())?, MemoryOrder::Nhwc)?;
        FeatureMap::from_layout(y.tensor_in(x.layout())?, x.layout())
    }
}

/// Normalises the last dimension (Ba et al. 2016), then scales and shifts each channel.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    fast: bool,
}

impl LayerNorm {
    /// Transformers of the UNet and CLIP use an `eps` of 1e-5.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn new(channels: usize, eps: f64, b: &Builder) -> Result<Self> {
        Ok(Self {
            weight: b.get_f32(channels, "weight")?,
            bias: b.get_f32(channels, "bias")?,
            eps,
            fast: fast::applies(b.layout(), b.device()),
        })
    }

    /// Without a scale and a shift of its own, as before an adaptive one.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn without_affine(channels: usize, eps: f64, b: &Builder) -> Result<Self> {
        Ok(Self {
            weight: Tensor::ones(channels, DType::F32, b.device())?,
            bias: Tensor::zeros(channels, DType::F32, b.device())?,
            eps,
            fast: fast::applies(b.layout(), b.device()),
        })
    }

    /// `[.., channels]` to the same shape.
    ///
    /// # Errors
    /// When the last dimension of `x` is not the layer's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.fast && x.dim(D::Minus1)? == self.weight.elem_count() {
            let y = fast::read([&fast::ready(x)?, &self.weight, &self.bias], |[x, weight, bias]| {
                layer_norm(x, self.eps, Affine { weight, bias })
            })?;
            return fast::tensor(y, x.shape());
        }
        let values = x.to_dtype(DType::F32)?;
        let normed = tracked::normalised(&values, self.eps)?;
        let normed = normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?;
        Ok(normed.to_dtype(x.dtype())?)
    }
}

/// Divides the last dimension by its root mean square (Zhang and Sennrich 2019), then scales each
/// channel.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Of `channels`, with a `weight`.
    ///
    /// # Errors
    /// When the weight is not there in this shape.
    pub fn new(channels: usize, eps: f64, b: &Builder) -> Result<Self> {
        Ok(Self { weight: b.get_f32(channels, "weight")?, eps })
    }

    /// `[.., channels]` to the same shape.
    ///
    /// # Errors
    /// When the last dimension of `x` is not the layer's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let values = x.to_dtype(DType::F32)?.contiguous()?;
        Ok(candle_nn::ops::rms_norm(&values, &self.weight, self.eps as f32)?.to_dtype(x.dtype())?)
    }

    /// Each head's channels on their own: `[batch, tokens, heads * channels]` to the same shape.
    ///
    /// # Errors
    /// When the last dimension of `x` is no multiple of the layer's.
    pub fn forward_heads(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let channels = self.weight.elem_count();
        let heads = x.reshape((batch, tokens, width / channels.max(1), channels))?;
        Ok(self.forward(&heads)?.reshape((batch, tokens, width))?)
    }
}
