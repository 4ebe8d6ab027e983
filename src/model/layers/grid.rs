//! A feature map whose memory layout is its own affair.

use super::Layout;
use crate::Result;
use candle_core::{DType, Tensor};

/// A batch of feature maps: channels over a grid of rows and columns.
///
/// The networks see only its sizes and operations; where an operation needs a particular order in memory it is made here.
/// Cloning is cheap (the storage is shared).
#[derive(Debug, Clone)]
pub struct Grid {
    tensor: Tensor,
    layout: Layout,
}

impl Grid {
    /// A grid of `layout` from `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// When `tensor` has not four dimensions.
    pub fn from_nchw(tensor: &Tensor, layout: Layout) -> Result<Self> {
        tensor.dims4()?;
        let tensor = match layout {
            Layout::Nchw => tensor.contiguous()?,
            Layout::Nhwc => tensor.permute((0, 2, 3, 1))?.contiguous()?,
        };
        Ok(Self { tensor, layout })
    }

    /// A grid that takes `tensor` as it lies: `[batch, channels, height, width]` for [`Layout::Nchw`],
    /// `[batch, height, width, channels]` for [`Layout::Nhwc`].
    ///
    /// # Errors
    /// When `tensor` has not four dimensions.
    pub fn from_layout(tensor: Tensor, layout: Layout) -> Result<Self> {
        tensor.dims4()?;
        Ok(Self { tensor, layout })
    }

    /// A grid of `height` rows from tokens `[batch, height * width, channels]`, row by row.
    ///
    /// # Errors
    /// When the number of tokens is not `height * width`.
    pub fn from_tokens(tokens: &Tensor, (height, width): (usize, usize), layout: Layout) -> Result<Self> {
        let (batch, _, channels) = tokens.dims3()?;
        let tensor = match layout {
            Layout::Nchw => tokens.transpose(1, 2)?.contiguous()?.reshape((batch, channels, height, width))?,
            Layout::Nhwc => tokens.reshape((batch, height, width, channels))?,
        };
        Ok(Self { tensor, layout })
    }

    /// `[batch, channels, height, width]`, contiguous.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn to_nchw(&self) -> Result<Tensor> {
        Ok(match self.layout {
            Layout::Nchw => self.tensor.clone(),
            Layout::Nhwc => self.tensor.permute((0, 3, 1, 2))?.contiguous()?,
        })
    }

    /// Tokens `[batch, height * width, channels]`, row by row, contiguous.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn to_tokens(&self) -> Result<Tensor> {
        Ok(match self.layout {
            Layout::Nchw => self.tensor.flatten_from(2)?.transpose(1, 2)?.contiguous()?,
            Layout::Nhwc => self.tensor.flatten(1, 2)?,
        })
    }

    /// The tensor as it lies in memory, in [`layout`](Self::layout).
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// How the tensor lies in memory.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Maps in the batch.
    pub fn batch(&self) -> usize {
        self.tensor.dims()[0]
    }

    /// Channels of each map.
    pub fn channels(&self) -> usize {
        self.tensor.dims()[if self.layout == Layout::Nchw { 1 } else { 3 }]
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        let first = if self.layout == Layout::Nchw { 2 } else { 1 };
        (self.tensor.dims()[first], self.tensor.dims()[first + 1])
    }

    /// The maps in another number format.
    ///
    /// # Errors
    /// When the device cannot convert between the two.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self { tensor: self.tensor.to_dtype(dtype)?, layout: self.layout })
    }

    /// The channels of `self`, then those of `other`.
    ///
    /// # Errors
    /// When batch or size differ.
    pub fn join_channels(&self, other: &Self) -> Result<Self> {
        let other = other.tensor_in(self.layout)?;
        let axis = if self.layout == Layout::Nchw { 1 } else { 3 };
        Ok(Self { tensor: Tensor::cat(&[&self.tensor, &other], axis)?, layout: self.layout })
    }

    /// The sum of two maps of the same shape.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn add(&self, other: &Self) -> Result<Self> {
        Ok(Self { tensor: (&self.tensor + other.tensor_in(self.layout)?)?, layout: self.layout })
    }

    /// Adds `shift`, `[batch, channels]` or `[channels]`, at every place.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn add_channels(&self, shift: &Tensor) -> Result<Self> {
        let shift = if shift.rank() == 1 { shift.unsqueeze(0)? } else { shift.clone() };
        let (batch, channels) = shift.dims2()?;
        let shift = match self.layout {
            Layout::Nchw => shift.reshape((batch, channels, 1, 1))?,
            Layout::Nhwc => shift.reshape((batch, 1, 1, channels))?,
        };
        Ok(Self { tensor: self.tensor.broadcast_add(&shift)?, layout: self.layout })
    }

    fn tensor_in(&self, layout: Layout) -> Result<Tensor> {
        if self.layout == layout {
            Ok(self.tensor.clone())
        } else {
            Ok(Self::from_nchw(&self.to_nchw()?, layout)?.tensor)
        }
    }
}
