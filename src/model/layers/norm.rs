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
