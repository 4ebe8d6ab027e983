//! A feature map whose memory layout is its own affair.

use super::MemoryOrder;
use crate::Result;
use candle_core::{DType, Tensor};

/// A batch of feature maps: channels over a grid of rows and columns.
///
/// The networks see only its sizes and operations; where an operation needs a particular order in
/// memory it is made here. Cloning is cheap (the storage is shared).
#[derive(Debug, Clone)]
pub struct FeatureMap {
    tensor: Tensor,
    layout: MemoryOrder,
}

impl FeatureMap {
    /// A grid of `layout` from `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// When `tensor` has not four dimensions.
    pub fn from_nchw(tensor: &Tensor, layout: MemoryOrder) -> Result<Self> {
        tensor.dims4()?;
        let tensor = match layout {
            MemoryOrder::Nchw => tensor.contiguous()?,
            MemoryOrder::Nhwc => tensor.permute((0, 2, 3, 1))?.contiguous()?,
        };
        Ok(Self { tensor, layout })
    }

    /// A grid that takes `tensor` as it lies: `[batch, channels, height, width]` for
    /// [`MemoryOrder::Nchw`], `[batch, height, width, channels]` for [`MemoryOrder::Nhwc`].
    ///
    /// # Errors
    /// When `tensor` has not four dimensions.
    pub fn from_layout(tensor: Tensor, layout: MemoryOrder) -> Result<Self> {
        tensor.dims4()?;
        Ok(Self { tensor, layout })
    }

    /// A grid of `height` rows from tokens `[batch, height * width, channels]`, row by row.
    ///
    /// # Errors
    /// When the number of tokens is not `height * width`.
    pub fn from_tokens(tokens: &Tensor, (height, width): (usize, usize), layout: MemoryOrder) -> Result<Self> {
        let (batch, _, channels) = tokens.dims3()?;
        let tensor = match layout {
            MemoryOrder::Nchw => tokens.transpose(1, 2)?.contiguous()?.reshape((batch, channels, height, width))?,
            MemoryOrder::Nhwc => tokens.reshape((batch, height, width, channels))?,
        };
        Ok(Self { tensor, layout })
    }

    /// `[batch, channels, height, width]`, contiguous.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn to_nchw(&self) -> Result<Tensor> {
        Ok(match self.layout {
            MemoryOrder::Nchw => self.tensor.clone(),
            MemoryOrder::Nhwc => self.tensor.permute((0, 3, 1, 2))?.contiguous()?,
        })
    }

    /// Tokens `[batch, height * width, channels]`, row by row, contiguous.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn to_tokens(&self) -> Result<Tensor> {
        Ok(match self.layout {
            MemoryOrder::Nchw => self.tensor.flatten_from(2)?.transpose(1, 2)?.contiguous()?,
            MemoryOrder::Nhwc => self.tensor.flatten(1, 2)?,
        })
    }

    /// The tensor as it lies in memory, in [`layout`](Self::layout).
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// How the tensor lies in memory.
    pub fn layout(&self) -> MemoryOrder {
        self.layout
    }

    /// Maps in the batch.
    pub fn batch(&self) -> usize {
        self.tensor.dims()[0]
    }

    /// Channels of each map.
    pub fn channels(&self) -> usize {
        self.tensor.dims()[if self.layout == MemoryOrder::Nchw { 1 } else { 3 }]
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        let first = if self.layout == MemoryOrder::Nchw { 2 } else { 1 };
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
        let axis = if self.layout == MemoryOrder::Nchw { 1 } else { 3 };
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
            MemoryOrder::Nchw => shift.reshape((batch, channels, 1, 1))?,
            MemoryOrder::Nhwc => shift.reshape((batch, 1, 1, channels))?,
        };
        Ok(Self { tensor: self.tensor.broadcast_add(&shift)?, layout: self.layout })
    }

    /// The tensor in a layout of the caller's choice.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub(super) fn tensor_in(&self, layout: MemoryOrder) -> Result<Tensor> {
        if self.layout == layout {
            Ok(self.tensor.clone())
        } else {
            Ok(Self::from_nchw(&self.to_nchw()?, layout)?.tensor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Two maps of 3 channels, 4 rows and 5 columns, every value another.
    fn numbers(start: f32) -> Tensor {
        Tensor::arange(start, start + 120.0, &Device::Cpu).unwrap().reshape((2, 3, 4, 5)).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn both_layouts_do_the_same() {
        let shift = Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
        let every = |layout| {
            let (a, b) = (
                FeatureMap::from_nchw(&numbers(0.0), layout).unwrap(),
                FeatureMap::from_nchw(&numbers(500.0), layout).unwrap(),
            );
            assert_eq!((a.batch(), a.channels(), a.size()), (2, 3, (4, 5)));
            let tokens = a.to_tokens().unwrap();
            assert_eq!(tokens.dims(), [2, 20, 3]);
            let back = FeatureMap::from_tokens(&tokens, (4, 5), layout).unwrap();
            assert_eq!(values(&back.to_nchw().unwrap()), values(&numbers(0.0)));
            let joined = a.join_channels(&b).unwrap();
            assert_eq!((joined.channels(), joined.size()), (6, (4, 5)));
            let results = [a.add(&b).unwrap(), joined, a.add_channels(&shift).unwrap()];
            (values(&tokens), results.map(|grid| values(&grid.to_nchw().unwrap())))
        };
        let (nchw, nhwc) = (every(MemoryOrder::Nchw), every(MemoryOrder::Nhwc));
        assert_eq!(nchw, nhwc);
        let (tokens, [sum, joined, shifted]) = nchw;
        // The second place of the first row, in each channel.
        assert_eq!(tokens[3..6], [1.0, 21.0, 41.0]);
        assert_eq!(sum[7], 7.0 + 507.0);
        assert_eq!([joined[0], joined[60], joined[120]], [0.0, 500.0, 60.0]);
        assert_eq!([shifted[0], shifted[20], shifted[60]], [1.0, 22.0, 64.0]);
    }

    #[test]
    fn a_grid_of_another_layout_is_brought_over() {
        let a = FeatureMap::from_nchw(&numbers(0.0), MemoryOrder::Nchw).unwrap();
        let b = FeatureMap::from_nchw(&numbers(0.0), MemoryOrder::Nhwc).unwrap();
        let sum = a.add(&b).unwrap();
        assert_eq!(sum.layout(), MemoryOrder::Nchw);
        assert_eq!(values(&sum.to_nchw().unwrap())[11], 22.0);
    }
}
