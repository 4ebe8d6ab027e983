//! Safetensors files, written so that their bytes depend on their content alone.
//!
//! The `safetensors` crate keeps the header's metadata in a hash map, so two equal runs differ in
//! bytes. This writes the same format with a fixed order.

use super::atomic::write_file;
use crate::Result;
use serde_json::{Map, Value, json};
use std::path::Path;

/// One tensor to be written: name, element type, shape and little-endian bytes.
#[derive(Debug, Clone)]
pub(crate) struct NamedTensor<'a> {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: std::borrow::Cow<'a, [u8]>,
}

impl<'a> NamedTensor<'a> {
    /// An f32 tensor.
    ///
    /// # Panics
    /// When `values` is not as long as `shape` says.
    pub(crate) fn f32(name: impl Into<String>, shape: &[usize], values: &'a [f32]) -> Self {
        Self::new(name.into(), "F32", shape, values)
    }

    /// An f16 tensor.
    ///
    /// # Panics
    /// When `values` is not as long as `shape` says.
    pub(crate) fn f16(name: impl Into<String>, shape: &[usize], values: &'a [half::f16]) -> Self {
        Self::new(name.into(), "F16", shape, values)
    }

    fn new<T: bytemuck::Pod>(name: String, dtype: &'static str, shape: &[usize], values: &'a [T]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}: {shape:?}");
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let bytes = if cfg!(target_endian = "big") {
            bytes
                .chunks_exact(size_of::<T>())
                .flat_map(|number| number.iter().rev().copied())
                .collect::<Vec<_>>()
                .into()
        } else {
            bytes.into()
        };
        Self { name, dtype, shape: shape.to_vec(), bytes }
    }
}

/// Writes `tensors` and `metadata` to `path` as safetensors, whole or not at all. Larger elements
/// come first, so that every tensor is aligned when the file is memory-mapped.
pub(crate) fn write(path: &Path, metadata: &[(&str, String)], tensors: &[NamedTensor]) -> Result<()> {
    let mut order: Vec<&NamedTensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.dtype != "F32");
    let mut header = Map::new();
    let metadata: Map<String, Value> = metadata.iter().map(|(key, value)| ((*key).into(), json!(value))).collect();
    header.insert("__metadata__".into(), metadata.into());
    let mut offset = 0;
    for tensor in &order {
        let end = offset + tensor.bytes.len();
        let info = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end] });
        header.insert(tensor.name.clone(), info);
        offset = end;
    }
    let mut header = Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_file(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        order.iter().try_for_each(|tensor| file.write_all(&tensor.bytes))
    })
}
