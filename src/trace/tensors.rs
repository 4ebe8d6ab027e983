//! Safetensors files: written so that their bytes depend on their content alone, read by memory
//! map.
//!
//! The `safetensors` crate keeps the header's metadata in a hash map, so two equal runs differ in
//! bytes. This writes the same format with a fixed order. Reading goes through the crate, which
//! checks every offset.

use super::Buffer;
use crate::files::write_file;
use crate::{Error, Result};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// One tensor to be written: name, element type, shape and little-endian bytes.
#[derive(Debug, Clone)]
pub struct NamedTensor<'a> {
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
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &'a [f32]) -> Self {
        Self::new(name.into(), "F32", shape, values)
    }

    /// An f16 tensor.
    ///
    /// # Panics
    /// When `values` is not as long as `shape` says.
    pub fn f16(name: impl Into<String>, shape: &[usize], values: &'a [half::f16]) -> Self {
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
pub fn write(path: &Path, metadata: &[(&str, String)], tensors: &[NamedTensor]) -> Result<()> {
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

/// A safetensors file taken apart. Its numbers stay in the file until they are read.
pub(super) struct TensorFile {
    map: Arc<Mmap>,
    pub(super) metadata: HashMap<String, String>,
    pub(super) tensors: HashMap<String, (Dtype, Vec<usize>, Range<usize>)>,
}

impl TensorFile {
    /// Opens the file at `path` and gives what `read` makes of it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened; [`Error::Trace`] with the reason when it is no
    /// safetensors file, or of `read`.
    pub(super) fn open<T>(path: &Path, read: impl FnOnce(&Self) -> Result<T, String>) -> Result<T> {
        let file = crate::files::open(path).map_err(Error::io(path))?;
        // SAFETY: attnmap never changes a trace in place (files are replaced by renaming), and
        // plain numbers have no invalid bit patterns. That somebody else truncates the file is the
        // risk of every memory map.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(Error::io(path))?);
        let error = |reason: String| Error::Trace { file: path.to_path_buf(), reason };
        Self::new(map).and_then(|reader| read(&reader)).map_err(error)
    }

    fn new(map: Arc<Mmap>) -> Result<Self, String> {
        let damaged = |error| format!("not a safetensors file, or a damaged one ({error}); make the run again");
        let (header, contents) = SafeTensors::read_metadata(&map).map_err(damaged)?;
        let start = 8 + header;
        let tensors = contents.tensors().into_iter().map(|(name, info)| {
            let (from, to) = info.data_offsets;
            (name, (info.dtype, info.shape.clone(), start + from..start + to))
        });
        let (metadata, tensors) = (contents.metadata().clone().unwrap_or_default(), tensors.collect());
        Ok(Self { map, metadata, tensors })
    }

    /// The numbers of tensor `name`, which must have this type and shape.
    pub(super) fn tensor<T: bytemuck::AnyBitPattern>(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Buffer<T>, String> {
        let (found, found_shape, bytes) = self.tensors.get(name).ok_or_else(|| format!("tensor {name} is missing"))?;
        if (*found, found_shape.as_slice()) != (dtype, shape) {
            return Err(format!("tensor {name} is {found:?} {found_shape:?}, not {dtype:?} {shape:?}"));
        }
        Ok(Buffer::mapped(&self.map, bytes.clone()))
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, String> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| format!("metadata {key:?} is missing"))
    }

    pub(super) fn json<T: DeserializeOwned>(&self, key: &str) -> Result<T, String> {
        serde_json::from_str(self.text(key)?).map_err(|error| format!("metadata {key:?}: {error}"))
    }

    /// The file's `format_version`, at most `newest`. `what` is the kind of file, such as `trace`.
    pub(super) fn version(&self, what: &str, newest: u32) -> Result<u32, String> {
        let version = self.text("format_version").map_err(|_| format!("not an attnmap {what} (no format_version)"))?;
        let version: u32 = version.parse().map_err(|_| format!("format_version {version:?} is not a number"))?;
        if version > newest {
            let writer = self.text("writer").unwrap_or("a newer attnmap");
            return Err(format!(
                "{what} format {version}, written by {writer}, is newer than this attnmap reads ({newest}); update \
                 attnmap or make the run again"
            ));
        }
        Ok(version)
    }
}
