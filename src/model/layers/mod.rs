//! The layers that every network runs through: each hides the memory layout and the way it is computed.
//!
//! The networks in this module's siblings name layers and weights; how a layer is computed, and whether a feature map lies in memory
//! as NCHW or NHWC, is decided here alone. Every layer has a plain candle form, which is the path on CUDA and Metal and the oracle
//! of anything faster.
//!
//! # Number formats
//! Weights keep the dtype that the [`VarBuilder`] was made with. Activations are f32 on a CPU (candle has no bf16 product there, and
//! f32 is the more exact) and the weights' dtype elsewhere; see [`Builder::activations`]. Norms, softmax and the timestep embedding
//! are computed in f32 everywhere.

mod attention;
mod conv;
mod fast;
mod grid;
mod linear;
mod norm;

pub use attention::{Attention, Draw, KeysValues, Tap, attend, merge_heads, split_heads};
pub use conv::{Conv2d, Downsample, Padding, Upsample};
pub use grid::Grid;
pub use linear::{GeGlu, Linear, quick_gelu};
pub use norm::{GroupNorm, LayerNorm};

use crate::Result;
use crate::kernels::gemm::Format;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;

/// How a feature map lies in memory. Only [`Grid`] and the layers look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `[batch, channels, height, width]`: what candle's convolutions take.
    Nchw,
    /// `[batch, height, width, channels]`: channels side by side, as tokens are. On a CPU the layers use [`crate::kernels`].
    Nhwc,
}

impl Layout {
    /// The layout in which the layers are fastest on `device`: on a CPU the one that [`crate::kernels`] compute in, unless the
    /// environment variable `ATTNMAP_PLAIN` is set.
    pub fn best_on(device: &Device) -> Self {
        if device.is_cpu() && !fast::plain_is_asked() { Self::Nhwc } else { Self::Nchw }
    }
}

/// A [`VarBuilder`] at some weight path, and what the layers built from it need to know beside the weights.
#[derive(Clone)]
pub struct Builder<'a> {
    weights: VarBuilder<'a>,
    layout: Layout,
}

impl<'a> Builder<'a> {
    /// Layers in the layout that suits the builder's device.
    pub fn new(weights: VarBuilder<'a>) -> Self {
        let layout = Layout::best_on(weights.device());
        Self { weights, layout }
    }

    /// Layers in a layout of the caller's choice: for tests and measurements.
    pub fn with_layout(weights: VarBuilder<'a>, layout: Layout) -> Self {
        Self { weights, layout }
    }

    /// One step down the weight path.
    pub fn pp(&self, name: impl ToString) -> Self {
        Self { weights: self.weights.pp(name), layout: self.layout }
    }

    /// The layout of the feature maps between these layers.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The device that the weights are on.
    pub fn device(&self) -> &Device {
        self.weights.device()
    }

    /// The dtype of activations: f32 on a CPU, else the weights' own.
    pub fn activations(&self) -> DType {
        if self.device().is_cpu() { DType::F32 } else { self.weights.dtype() }
    }

    /// The format that weights are packed in for the CPU kernels.
    pub(super) fn format(&self) -> Format {
        if self.weights.dtype() == DType::BF16 { Format::Bf16 } else { Format::F32 }
    }

    /// The weight `name` at this path, in the weights' dtype.
    ///
    /// # Errors
    /// When the checkpoint lacks it or has it in another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        Ok(self.weights.get(shape, name)?)
    }

    /// The weight `name` at this path in f32: for norms, which are computed in f32.
    ///
    /// # Errors
    /// When the checkpoint lacks it or has it in another shape.
    pub fn get_f32(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        Ok(self.weights.get_with_hints_dtype(shape, name, Default::default(), DType::F32)?)
    }

    /// Whether the checkpoint has a tensor `name` at this path.
    pub fn contains(&self, name: &str) -> bool {
        self.weights.contains_tensor(name)
    }
}
