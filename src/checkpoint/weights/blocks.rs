//! Blocks of quantised numbers as candle's own tensors of them, made from a file's bytes.

use super::entry::Encoding;
use super::problem::Problem;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Shape};
use std::borrow::Cow;

/// The tensor of `shape` in these blocks.
pub(super) fn blocks(bytes: &[u8], kind: GgmlDType, shape: &[usize], device: &Device) -> Result<QTensor, Problem> {
    let elements: usize = shape.iter().product();
    let whole = shape.last().is_some_and(|row| row.is_multiple_of(kind.block_size()));
    if !whole || bytes.len() != elements / kind.block_size() * kind.type_size() {
        let name = Encoding::Blocks(kind).name();
        return Err(Problem::Content(format!("has {} bytes of {name} for {elements} elements", bytes.len())));
    }
    // A file's tensors lie at multiples of 8; some rows of one need not, and candle asks for it.
    let mut words = Vec::new();
    let mut bytes = bytes;
    if !bytes.as_ptr().addr().is_multiple_of(align_of::<u64>()) {
        words.resize(bytes.len().div_ceil(size_of::<u64>()), 0u64);
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        bytes = &bytemuck::cast_slice::<u64, u8>(&words)[..bytes.len()];
    }
    let storage = QStorage::from_data(Cow::Borrowed(bytes), device, kind)?;
    Ok(QTensor::new(storage, Shape::from(shape))?)
}
