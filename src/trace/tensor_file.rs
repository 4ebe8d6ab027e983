//! Safetensors files, read by memory map through the `safetensors` crate, which checks every
//! offset.

use super::Buffer;
use crate::{Error, Result};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

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
