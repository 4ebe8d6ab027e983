//! Convolutions, and the down- and up-sampling built on them.

use super::builder::{Builder, MemoryOrder};
use super::fast::FastConv;
use super::feature_map::FeatureMap;
use super::tracked;
use crate::Result;
use crate::kernels::conv::Geometry;
use candle_core::Tensor;

/// Zeros laid around a map before a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// As many rows above as below and columns left as right.
    Same(usize),
    /// One row below and one column to the right: the down-samplers of VAEs (diffusers
    /// `Downsample2D` with `padding=0`).
    RightBottom,
}

/// A convolution over the grid: weight `[out, in, kernel, kernel]`, bias `[out]`.
#[derive(Debug, Clone)]
pub struct Conv2d(ConvForm);

#[derive(Debug, Clone)]
enum ConvForm {
    Plain { weight: Tensor, bias: Tensor, stride: usize, padding: Padding },
    Fast(FastConv),
}

impl Conv2d {
    /// A convolution of stride 1 that keeps the grid's size; `kernel` is odd.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn new(input: usize, output: usize, kernel: usize, b: &Builder) -> Result<Self> {
        Self::strided(input, output, kernel, 1, Padding::Same(kernel / 2), b)
    }

    /// A convolution of any stride and padding.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn strided(
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        padding: Padding,
        b: &Builder,
    ) -> Result<Self> {
        let weight = b.get((output, input, kernel, kernel), "weight")?;
        let bias = b.get(output, "bias")?;
        let (before, after) = match padding {
            Padding::Same(padding) => (padding, padding),
            Padding::RightBottom => (0, 1),
        };
        Ok(Self(match FastConv::new(&weight, &bias, Geometry { kernel, stride, before, after }, b)? {
            Some(fast) => ConvForm::Fast(fast),
            None => ConvForm::Plain { weight, bias, stride, padding },
        }))
    }

    /// The convolution of `x`.
    ///
    /// # Errors
    /// When the channels of `x` are not the layer's.
    pub fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        self.forward_enlarged(x, None)
    }

    /// The convolution of `x` brought to another size first, by nearest neighbour.
    fn forward_enlarged(&self, x: &FeatureMap, size: Option<(usize, usize)>) -> Result<FeatureMap> {
        let (weight, bias, stride, padding) = match &self.0 {
            ConvForm::Fast(fast) => return on_fast(fast, x, size, None, None),
            ConvForm::Plain { weight, bias, stride, padding } => (weight, bias, *stride, *padding),
        };
        let mut input = x.to_nchw()?;
        if let Some(size) = size {
            input = tracked::nearest(&input, size)?;
        }
        let padding = match padding {
            Padding::Same(padding) => padding,
            Padding::RightBottom => {
                input = input.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
                0
            }
        };
        let weight = weight.to_dtype(input.dtype())?;
        let output = tracked::conv2d(&input, &weight, padding, stride)?;
        let bias = bias.to_dtype(input.dtype())?;
        FeatureMap::from_nchw(&output, x.layout())?.add_channels(&bias)
    }

    /// The convolution of `x`, plus `shift` (`[batch, channels]`) at every place.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_shifted(&self, x: &FeatureMap, shift: &Tensor) -> Result<FeatureMap> {
        match &self.0 {
            ConvForm::Fast(fast) => on_fast(fast, x, None, Some(shift), None),
            ConvForm::Plain { .. } => self.forward(x)?.add_channels(shift),
        }
    }

    /// The convolution of `x`, plus `residual`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_plus(&self, x: &FeatureMap, residual: &FeatureMap) -> Result<FeatureMap> {
        match &self.0 {
            ConvForm::Fast(fast) => on_fast(fast, x, None, None, Some(residual)),
            ConvForm::Plain { .. } => self.forward(x)?.add(residual),
        }
    }
}

/// The kernels' convolution of `x`, in the layout of `x`.
fn on_fast(
    fast: &FastConv,
    x: &FeatureMap,
    size: Option<(usize, usize)>,
    shift: Option<&Tensor>,
    residual: Option<&FeatureMap>,
) -> Result<FeatureMap> {
    let residual = residual.map(|residual| residual.tensor_in(MemoryOrder::Nhwc)).transpose()?;
    let y = fast.forward(&x.tensor_in(MemoryOrder::Nhwc)?, size, shift, residual.as_ref())?;
    let y = FeatureMap::from_layout(y, MemoryOrder::Nhwc)?;
    FeatureMap::from_layout(y.tensor_in(x.layout())?, x.layout())
}

/// Halves the grid with a convolution of stride 2 (diffusers `Downsample2D`; weights under `conv`).
#[derive(Debug, Clone)]
pub struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    /// `padding` 1 is the UNet's (an odd side is rounded up), 0 the VAE's: [`Padding::RightBottom`]
    /// (rounded down).
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn new(channels: usize, padding: usize, b: &Builder) -> Result<Self> {
        let padding = if padding == 0 { Padding::RightBottom } else { Padding::Same(padding) };
        Ok(Self { conv: Conv2d::strided(channels, channels, 3, 2, padding, &b.pp("conv"))? })
    }

    /// Half the rows and columns.
    ///
    /// # Errors
    /// When the channels of `x` are not the layer's.
    pub fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        self.conv.forward(x)
    }
}

/// Doubles the grid by repeating each place, then convolves (diffusers `Upsample2D`; weights under
/// `conv`).
#[derive(Debug, Clone)]
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    /// Channels stay the same.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn new(channels: usize, b: &Builder) -> Result<Self> {
        Ok(Self { conv: Conv2d::new(channels, channels, 3, &b.pp("conv"))? })
    }

    /// The map at `size` (nearest neighbour, source index `floor(i * in / out)`); `None` doubles
    /// it.
    ///
    /// A size other than the double is what meets a skip connection of odd size.
    ///
    /// # Errors
    /// When the channels of `x` are not the layer's.
    pub fn forward(&self, x: &FeatureMap, size: Option<(usize, usize)>) -> Result<FeatureMap> {
        self.conv.forward_enlarged(x, Some(size.unwrap_or((2 * x.size().0, 2 * x.size().1))))
    }
}
