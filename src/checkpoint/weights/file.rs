//! One safetensors file, and which files a part consists of.

use crate::checkpoint::Part;
use crate::checkpoint::store::{Bytes, Store};
use crate::{Error, Result};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, SafeTensorError, TensorInfo};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A mapped safetensors file whose header has been checked against its length.
pub(crate) struct WeightFile {
    /// Relative to the checkpoint.
    name: PathBuf,
    path: PathBuf,
    bytes: Bytes,
    metadata: Metadata,
    /// Names in the file.
    names: Vec<String>,
    /// Where the tensors' bytes begin.
    data: usize,
}

impl std::fmt::Debug for WeightFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeightFile").field("path", &self.path).field("tensors", &self.names.len()).finish()
    }
}

impl WeightFile {
    /// Maps the file `name` of `store` and reads its header.
    pub(crate) fn open(store: &Store, name: &str) -> Result<Self> {
        let path = store.path(name);
        let bytes = store.map(name)?;
        let fault = |reason: String| Error::Weights { file: path.clone(), reason };
        if bytes.starts_with(b"version https://git-lfs") {
            return Err(fault("is a git-lfs pointer, not the weights; run `git lfs pull` in the repository".into()));
        }
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| fault(explain(&error, &bytes)))?;
        let mut names: Vec<String> = metadata.tensors().into_keys().collect();
        names.sort();
        Ok(Self { name: name.into(), path, metadata, names, data: header + LENGTH_FIELD, bytes })
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

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// What the header says beside the tensors.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// Header entry and bytes of a tensor.
    pub(crate) fn tensor(&self, name: &str) -> Option<(&TensorInfo, &[u8])> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        let bytes = self.bytes.get(self.data.checked_add(start)?..self.data.checked_add(end)?)?;
        Some((info, bytes))
    }

    /// See [`Bytes::prefetch`].
    pub(crate) fn prefetch(&self) {
        self.bytes.prefetch();
    }

    /// See [`Bytes::release`]: the bytes of the tensor `name`.
    pub(crate) fn release(&self, name: &str) {
        if let Some(info) = self.metadata.info(name) {
            let (start, end) = info.data_offsets;
            self.bytes.release(self.data + start..self.data + end);
        }
    }

    pub(crate) fn fault(&self, reason: String) -> Error {
        Error::Weights { file: self.path.clone(), reason }
    }

    /// Length, header, and a few bytes from the start and middle of every tensor of `names`: cheap, yet different for any
    /// two models that were trained apart.
    pub(crate) fn fingerprint<'a>(&self, names: impl Iterator<Item = &'a str>, add: &mut dyn FnMut(&[u8])) {
        const SAMPLE: usize = 64;
        add(&(self.bytes.len() as u64).to_le_bytes());
        for name in names {
            if let Some((info, bytes)) = self.tensor(name) {
                add(name.as_bytes());
                add(format!("{:?}{:?}", info.dtype, info.shape).as_bytes());
                add(&bytes[..bytes.len().min(SAMPLE)]);
                let middle = bytes.len() / 2;
                add(&bytes[middle..bytes.len().min(middle + SAMPLE)]);
            }
        }
    }
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
        error => format!("is not a valid safetensors file ({error}); fetch it again"),
    }
}

/// The length that the header gives the whole file.
fn data_end(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(*bytes.first_chunk::<LENGTH_FIELD>()?);
    let header = bytes.get(LENGTH_FIELD..)?.get(..usize::try_from(length).ok()?)?;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).ok()?;
    let ends = header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    ends.max()?.checked_add(length)?.checked_add(LENGTH_FIELD as u64)
}

/// The weight files of `part`, relative to the checkpoint: one, or the shards that an index lists.
///
/// diffusers writes `diffusion_pytorch_model[.variant].safetensors` (transformers: `model...`), or with shards
/// `diffusion_pytorch_model.safetensors.index[.variant].json` and
/// `diffusion_pytorch_model[.variant]-00001-of-00002.safetensors`; older versions put the variant elsewhere
/// (`...-00001-of-00002.variant.safetensors`), which needs no care here because the index names its shards.
///
/// # Errors
/// [`Error::Weights`] where there is none, naming what is there instead.
pub(crate) fn weight_files(store: &Store, part: Part, variant: Option<&str>) -> Result<Vec<String>> {
    let present = store.list(part.folder())?;
    let chosen =
        choose(part, variant, &present).map_err(|reason| Error::Weights { file: store.path(part.folder()), reason })?;
    let index = match chosen {
        Choice::Single(name) => return Ok(vec![format!("{}/{name}", part.folder())]),
        Choice::Index(name) => format!("{}/{name}", part.folder()),
    };
    let refuse = |reason: String| Error::Weights { file: store.path(&index), reason };
    let bytes = store.read_required(&index, "the list of weight files")?;
    let shards = shards(&bytes).map_err(refuse)?;
    for shard in &shards {
        if !present.contains(shard) {
            return Err(refuse(format!("names {shard}, which is not there; fetch it again")));
        }
    }
    Ok(shards.into_iter().map(|shard| format!("{}/{shard}", part.folder())).collect())
}

/// Which file of a part's folder to read.
#[derive(Debug, PartialEq)]
pub(crate) enum Choice {
    /// A safetensors file.
    Single(String),
    /// An index of shards.
    Index(String),
}

/// Chooses among the file names `present` in a part's folder; the error says what is wrong and the way out.
pub(crate) fn choose(part: Part, variant: Option<&str>, present: &[String]) -> Result<Choice, String> {
    let stem = part.weight_stem();
    let has = |name: &str| present.iter().any(|present| present == name);
    let single = match variant {
        None => format!("{stem}.safetensors"),
        Some(variant) => format!("{stem}.{variant}.safetensors"),
    };
    let index = match variant {
        None => format!("{stem}.safetensors.index.json"),
        Some(variant) => format!("{stem}.safetensors.index.{variant}.json"),
    };
    if has(&single) {
        return Ok(Choice::Single(single));
    }
    if has(&index) {
        return Ok(Choice::Index(index));
    }
    let variants = variants(stem, present);
    const FOREIGN: [(&str, &str); 4] = [
        (".onnx", "ONNX Runtime"),
        ("openvino_model.xml", "OpenVINO"),
        (".msgpack", "Flax"),
        (".gguf", "GGUF, quantised"),
    ];
    let foreign = present.iter().find_map(|name| {
        let (_, program) = FOREIGN.iter().find(|(kind, _)| name.ends_with(kind))?;
        Some((name, program))
    });
    let pickles: Vec<&str> = present
        .iter()
        .filter(|name| [".bin", ".ckpt", ".pt", ".pth"].iter().any(|kind| name.ends_with(kind)))
        .filter(|name| !name.starts_with("openvino_"))
        .map(String::as_str)
        .collect();
    Err(match (variant, variants.as_slice(), pickles.first()) {
        (Some(variant), _, _) if has(&format!("{stem}.safetensors")) => {
            format!("has no `{variant}` variant ({single}); leave --variant out")
        }
        (Some(variant), [other, ..], _) => format!("has no `{variant}` variant ({single}); --variant {other} is there"),
        (None, [other, ..], _) => format!("has only a `{other}` variant of {single}; give --variant {other}"),
        (_, [], Some(pickle)) => format!(
            "has its weights only as {pickle}, a Python pickle, which can run any code when read; convert it to \
             safetensors or pick a revision that has them"
        ),
        (_, [], None) => match foreign {
            Some((name, program)) => {
                format!("has its weights only as {name} ({program}); take those in safetensors ({single})")
            }
            None => format!("has no weights ({single} is needed)"),
        },
    })
}

/// Variants that the folder has whole files or indexes of.
fn variants(stem: &str, present: &[String]) -> Vec<String> {
    let middle = |name: &str| -> Option<String> {
        let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
        let single = rest.strip_suffix(".safetensors");
        let index = rest.strip_prefix("safetensors.index.").and_then(|rest| rest.strip_suffix(".json"));
        single.or(index).filter(|variant| !variant.is_empty() && !variant.contains("-of-")).map(String::from)
    };
    present.iter().filter_map(|name| middle(name)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The distinct file names in an index's `weight_map`, sorted; the error says what is wrong.
pub(crate) fn shards(index: &[u8]) -> Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index =
        serde_json::from_slice(index).map_err(|error| format!("is not a valid index of weight files ({error})"))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err("lists no weight file".into());
    }
    // The names come from the file: none may lead out of the folder, and none may be a pickle.
    match shards
        .iter()
        .find(|name| name.contains(['/', '\\']) || name.starts_with('.') || !name.ends_with(".safetensors"))
    {
        Some(name) => Err(format!("names {name:?}, which is not a safetensors file of this folder")),
        None => Ok(shards.into_iter().collect()),
    }
}
