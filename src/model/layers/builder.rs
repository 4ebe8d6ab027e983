//! Where layers get their weights from, and in which memory order they work.

use crate::Result;
use crate::checkpoint::Quantised;
use crate::kernels::gemm::Format;
use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use std::sync::Arc;

/// Set to anything but `0`, it makes every layer take its plain candle form: to compare, or to rule
/// the kernels out.
const PLAIN: &str = "ATTNMAP_PLAIN";

/// Whether the environment asks for the plain form of every layer.
fn plain_is_asked() -> bool {
    std::env::var_os(PLAIN).is_some_and(|value| !value.is_empty() && value != "0")
}

/// How a feature map lies in memory. Only [`FeatureMap`](super::FeatureMap) and the layers look at
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryOrder {
    /// `[batch, channels, height, width]`: what candle's convolutions take.
    Nchw,
    /// `[batch, height, width, channels]`: channels side by side, as tokens are. On a CPU the
    /// layers use [`crate::kernels`].
    Nhwc,
}

impl MemoryOrder {
    /// The layout in which the layers are fastest on `device`. On a CPU that is the layout of
    /// [`crate::kernels`], unless the environment variable `ATTNMAP_PLAIN` is set.
    pub fn best_on(device: &Device) -> Self {
        if device.is_cpu() && !plain_is_asked() { Self::Nhwc } else { Self::Nchw }
    }
}

/// A [`VarBuilder`] at some weight path, and what the layers built from it need to know beside the
/// weights.
#[derive(Clone)]
pub struct Builder<'a> {
    weights: VarBuilder<'a>,
    layout: MemoryOrder,
    quantised: Option<Quantised>,
}

impl<'a> Builder<'a> {
    /// Layers in the layout that suits the builder's device.
    pub fn new(weights: VarBuilder<'a>) -> Self {
        let layout = MemoryOrder::best_on(weights.device());
        Self { weights, layout, quantised: None }
    }

    /// Layers in a layout of the caller's choice: for tests and measurements.
    pub fn with_layout(weights: VarBuilder<'a>, layout: MemoryOrder) -> Self {
        Self { weights, layout, quantised: None }
    }

    /// These layers, which multiply with the weights that lie in blocks of quantised numbers as
    /// they lie. Without this, and in plain layers on a CPU, such weights are made into the
    /// builder's dtype as they are read.
    pub fn with_quantised(self, quantised: Quantised) -> Self {
        let plain = self.layout == MemoryOrder::Nchw && self.device().is_cpu();
        Self { quantised: (!plain).then_some(quantised), ..self }
    }

    /// One step down the weight path.
    pub fn pp(&self, name: impl ToString) -> Self {
        Self { weights: self.weights.pp(name), layout: self.layout, quantised: self.quantised.clone() }
    }

    /// The layout of the feature maps between these layers.
    pub fn layout(&self) -> MemoryOrder {
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

    /// The weight `name` `[out, in]` at this path, where it lies in blocks of quantised numbers and
    /// is to stay so.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub(super) fn quantised(&self, shape: (usize, usize), name: &str) -> Result<Option<Arc<QTensor>>> {
        let Some(quantised) = &self.quantised else { return Ok(None) };
        let path = match self.weights.prefix() {
            prefix if prefix.is_empty() => name.to_string(),
            prefix => format!("{prefix}.{name}"),
        };
        quantised.get(&path, &[shape.0, shape.1], self.device())
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
