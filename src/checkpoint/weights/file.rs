//! One weight file, safetensors or GGUF: mapped, its header checked.

use super::entry::{Encoding, Entry};
use super::{gguf, scaled};
use crate::Error;
use crate::checkpoint::store::{Bytes, Store};
use safetensors::SafeTensors;
use safetensors::tensor::SafeTensorError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A mapped weight file whose header has been checked against its length.
pub(crate) struct WeightFile {
    /// Relative to the checkpoint.
    name: PathBuf,
    path: PathBuf,
    bytes: Bytes,
    entries: BTreeMap<String, Entry>,
    /// What the header says beside the tensors.
    notes: BTreeMap<String, String>,
}

impl std::fmt::Debug for WeightFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeightFile").field("path", &self.path).field("tensors", &self.entries.len()).finish()
    }
}

impl WeightFile {
    /// Maps the file `name` of `store` and reads its header.
    pub(crate) fn open(store: &Store, name: &str) -> crate::Result<Self> {
        let path = store.path(name);
        let bytes = store.map(name)?;
        let fault = |reason: String| Error::Weights { file: path.clone(), reason };
        if bytes.starts_with(b"version https://git-lfs") {
            return Err(fault("is a git-lfs pointer, not the weights; run `git lfs pull` in the repository".into()));
        }
        if bytes.starts_with(gguf::MAGIC) {
            let gguf::Header { entries, notes } = gguf::read(&bytes).map_err(fault)?;
            return Ok(Self { name: name.into(), path, entries, notes, bytes });
        }
        let (mut entries, notes) = safetensors_header(&bytes).map_err(fault)?;
        scaled::attach(&mut entries, &bytes).map_err(fault)?;
        Ok(Self { name: name.into(), path, entries, notes, bytes })
    }

    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Names in the file, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// What the header says beside the tensors.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.notes.get(key).map(String::as_str)
    }

    pub(crate) fn info(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Header entry and bytes of a tensor.
    pub(crate) fn tensor(&self, name: &str) -> Option<(&Entry, &[u8])> {
        let entry = self.entries.get(name)?;
        Some((entry, self.bytes.get(entry.range.clone())?))
    }

    /// Whether a tensor lies in blocks of quantised numbers.
    pub(crate) fn is_quantised(&self) -> bool {
        self.entries.values().any(|entry| matches!(entry.encoding, Encoding::Blocks(_)))
    }

    /// See [`Bytes::prefetch`].
    pub(crate) fn prefetch(&self) {
        self.bytes.prefetch();
    }

    /// See [`Bytes::release`]: the bytes of the tensor `name`.
    pub(crate) fn release(&self, name: &str) {
        if let Some(entry) = self.entries.get(name) {
            self.bytes.release(entry.range.clone());
        }
    }

    pub(crate) fn fault(&self, reason: String) -> Error {
        Error::Weights { file: self.path.clone(), reason }
    }

    /// Length, header, and a few bytes from the start and middle of every tensor of `names`. That
    /// is cheap, yet different for any two models that were trained apart.
    pub(crate) fn fingerprint<'a>(&self, names: impl Iterator<Item = &'a str>, add: &mut dyn FnMut(&[u8])) {
        const SAMPLE: usize = 64;
        add(&(self.bytes.len() as u64).to_le_bytes());
        for name in names {
            if let Some((info, bytes)) = self.tensor(name) {
                add(name.as_bytes());
                add(format!("{}{:?}", info.encoding.name(), info.shape).as_bytes());
                info.scale.iter().take(SAMPLE).for_each(|scale| add(&scale.to_le_bytes()));
                add(&bytes[..bytes.len().min(SAMPLE)]);
                let middle = bytes.len() / 2;
                add(&bytes[middle..bytes.len().min(middle + SAMPLE)]);
            }
        }
    }
}

/// The tensors of a safetensors file by name, and the notes in its header.
type SafetensorsHeader = (BTreeMap<String, Entry>, BTreeMap<String, String>);

/// The tensors of a safetensors file and the notes in its header.
fn safetensors_header(bytes: &[u8]) -> Result<SafetensorsHeader, String> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| explain(&error, bytes))?;
    let data = header + LENGTH_FIELD;
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let range = data.saturating_add(start)..data.saturating_add(end);
        let encoding = Encoding::Plain(info.dtype);
        entries.insert(name, Entry { encoding, shape: info.shape.clone(), range, scale: Vec::new() });
    }
    let notes = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok((entries, notes))
}

/// The length of the header's length.
const LENGTH_FIELD: usize = 8;

/// What a header that cannot be read means for the person who has the file.
fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    let declared = bytes.first_chunk::<LENGTH_FIELD>().map(|length| u64::from_le_bytes(*length));
    let truncated = || format!("is truncated ({} bytes); fetch it again", bytes.len());
    match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => match declared {
            // A length beyond any header is no length: the file is something else.
            Some(length) if length > 100_000_000 => "is not a safetensors file".into(),
            _ => truncated(),
        },
        SafeTensorError::MetadataIncompleteBuffer => match data_end(bytes) {
            Some(expected) if expected < bytes.len() as u64 => {
                format!("has {} bytes after its last tensor; fetch it again", bytes.len() as u64 - expected)
            }
            Some(expected) => {
                format!("is truncated ({} of {expected} bytes are there); fetch it again", bytes.len())
            }
            None => truncated(),
        },
        SafeTensorError::HeaderTooLarge => "is not a safetensors file".into(),
        error => match strange_note(bytes) {
            Some((key, value)) => format!(
                "`__metadata__` in its header has {} for `{}`, and the format allows text alone there; \
                 save it again with that as text",
                short(&value),
                short(&key)
            ),
            None => format!("is not a valid safetensors file ({error}); fetch it again"),
        },
    }
}

/// The beginning of a text from a file, without what would break a line.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// The length of the header, and the header as JSON.
fn header(bytes: &[u8]) -> Option<(u64, serde_json::Map<String, Value>)> {
    let length = u64::from_le_bytes(*bytes.first_chunk::<LENGTH_FIELD>()?);
    let header = bytes.get(LENGTH_FIELD..)?.get(..usize::try_from(length).ok()?)?;
    Some((length, serde_json::from_slice(header).ok()?))
}

/// An entry of `__metadata__` that is no text, with its value as JSON.
fn strange_note(bytes: &[u8]) -> Option<(String, String)> {
    let (_, header) = header(bytes)?;
    match header.get("__metadata__")? {
        Value::Object(notes) => {
            let (key, value) = notes.iter().find(|(_, value)| !value.is_string())?;
            Some((key.clone(), value.to_string()))
        }
        _ => None,
    }
}

/// The length that the header gives the whole file.
fn data_end(bytes: &[u8]) -> Option<u64> {
    let (length, header) = header(bytes)?;
    let ends = header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    ends.max()?.checked_add(length)?.checked_add(LENGTH_FIELD as u64)
}
