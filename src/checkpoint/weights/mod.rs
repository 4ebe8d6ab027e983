//! The tensors of one part of a checkpoint: memory-mapped safetensors or GGUF. Each tensor is used
//! exactly as the file has it, or named in an error.

mod blocks;
mod change;
mod convert;
mod entry;
mod file;
mod gguf;
mod names;
mod original;
mod place;
mod problem;
mod scaled;
mod variant;

use super::part::Part;
use super::store::Store;
use crate::{Error, Result, plural};
use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
pub(crate) use change::{LowRank, Rows, RowsOf, TensorChange};
pub(crate) use entry::Encoding;
pub(crate) use file::WeightFile;
pub(crate) use names::{grouped, text_encoder_name};
pub(crate) use original::{
    TransformerKind, flux_layers, places as original_places, transformer as original_transformer, z_image_layers,
};
pub(crate) use place::TensorLocation;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
pub(crate) use variant::part_files;
#[cfg(feature = "hub")]
pub(crate) use variant::{Choice, choose_all, shards};

/// The weights of one part (text encoder, denoiser or VAE), ready to be turned into tensors.
///
/// Nothing is read before a tensor is asked for. Names are those of current diffusers whatever the
/// file's age (VAE attention of 2022 is renamed). The text encoder's may be asked for with or
/// without the leading `text_model.`. [`Weights::load`] is the usual way in.
#[derive(Debug)]
pub struct Weights {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    part: Part,
    files: Vec<Arc<WeightFile>>,
    /// Whether all of the files belong to this part, or only the tensors named here.
    whole_files: bool,
    /// Current name to its place.
    tensors: BTreeMap<String, TensorLocation>,
    /// Tensors of the files that are left out knowingly, by their names there.
    spare: Vec<String>,
    /// What is changed of them as they are read, in order.
    changes: BTreeMap<String, Vec<TensorChange>>,
    /// Whether missing tensors and wrong shapes are collected for one error, and not returned at
    /// once.
    collect: bool,
    seen: Mutex<AskedTensors>,
}

/// What was asked for so far.
#[derive(Debug, Default)]
struct AskedTensors {
    used: BTreeSet<String>,
    missing: BTreeSet<String>,
    /// First problem with a tensor that is there: file and reason.
    faults: Vec<(PathBuf, String)>,
}

/// What a part's files say about themselves; for `attnmap models`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsSummary {
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Element types, e.g. `["F16"]`.
    pub dtypes: Vec<String>,
    /// The files, relative to the checkpoint.
    pub files: Vec<PathBuf>,
}

impl Weights {
    /// Opens the weight `files` of `part`, without the tensors whose current names are `spare`.
    ///
    /// # Errors
    /// [`Error::Weights`] for files that are truncated or malformed.
    pub(crate) fn open(store: &Store, part: Part, files: &[String], spare: &dyn Fn(&str) -> bool) -> Result<Self> {
        let files =
            files.iter().map(|name| Ok(Arc::new(WeightFile::open(store, name)?))).collect::<Result<Vec<_>>>()?;
        let mut tensors = BTreeMap::new();
        let mut left = Vec::new();
        for (index, file) in files.iter().enumerate() {
            if part == Part::Transformer
                && let Some(kind) = original::transformer(file)
            {
                let (own, others) = original::places(kind, index, file);
                tensors.extend(own.into_iter().filter(|(name, _)| !spare(name)));
                left.extend(others);
                continue;
            }
            for name in file.names() {
                let current = names::current_name(part, name).filter(|current| !spare(current));
                let Some(current) = current else {
                    left.push(name.to_string());
                    continue;
                };
                if tensors.insert(current.clone(), TensorLocation::new(index, name)).is_some() {
                    return Err(file.fault(format!("tensor `{current}` is there twice")));
                }
            }
        }
        let weights = Self::new(part, files, true, tensors);
        Ok(Self { inner: Arc::new(Inner { spare: left, ..weights.into_inner()? }) })
    }

    /// The transformer in a file of its own, safetensors or GGUF.
    ///
    /// # Errors
    /// [`Error::Weights`] for a file that is truncated or malformed.
    pub fn of_transformer(file: &Path) -> Result<Self> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = Store::Folder(file.parent().unwrap_or(Path::new("")).into());
        Self::open(&folder, Part::Transformer, &[name], &|_| false)
    }

    /// What nobody else holds yet.
    fn into_inner(self) -> Result<Inner> {
        Arc::try_unwrap(self.inner).map_err(|_| Error::bug("weights are in use"))
    }

    /// Names of tensors in the files that nothing reads, those of one place together:
    /// `vision_model.* (197 tensors)`.
    pub fn spare(&self) -> Vec<String> {
        // A layer of the text encoder is one place; the reader of images is one as a whole.
        let layers = |name: &str| name.split('.').position(|step| step == "layers").map(|step| step + 2);
        let depth = |name: &str| if name.starts_with("vision_model.") { 1 } else { layers(name).unwrap_or(1) };
        grouped(&self.inner.spare, &depth)
    }

    /// The tensors of `part` in a file that holds other parts too, by their current names.
    pub(crate) fn of_file(part: Part, file: Arc<WeightFile>, tensors: BTreeMap<String, TensorLocation>) -> Self {
        Self::new(part, vec![file], false, tensors)
    }

    fn new(
        part: Part,
        files: Vec<Arc<WeightFile>>,
        whole_files: bool,
        tensors: BTreeMap<String, TensorLocation>,
    ) -> Self {
        let seen = Mutex::default();
        let changes = BTreeMap::new();
        let spare = Vec::new();
        Self { inner: Arc::new(Inner { part, files, whole_files, tensors, spare, changes, collect: false, seen }) }
    }

    /// These weights with `changes` to the tensors that they name.
    pub(crate) fn changed(self, changes: BTreeMap<String, Vec<TensorChange>>) -> Self {
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => Self { inner: Arc::new(Inner { changes, ..inner }) },
            // Nobody holds weights that were opened just now.
            Err(inner) => Self { inner },
        }
    }

    /// Builds a network with `build`: the way to load a part. Checks that it used every tensor of
    /// the files, and that none was missing, of the wrong shape, or not finite.
    ///
    /// All missing tensors are named in one error, not only the first.
    ///
    /// # Errors
    /// [`Error::Weights`] naming file and tensors, or whatever `build` returns.
    pub fn load<T>(
        self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'static>) -> Result<T>,
    ) -> Result<T> {
        self.load_quantised(dtype, device, |weights, _| build(weights))
    }

    /// As [`load`](Self::load), with the tensors that lie in blocks of quantised numbers beside the
    /// builder, which gives those too, but made into `dtype`.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_quantised<T>(
        self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'static>, Quantised) -> Result<T>,
    ) -> Result<T> {
        let weights = match Arc::try_unwrap(self.inner) {
            Ok(inner) => Self { inner: Arc::new(Inner { collect: true, ..inner }) },
            // Someone holds a builder of these weights already; then problems come one by one.
            Err(inner) => Self { inner },
        };
        weights.inner.files.iter().for_each(|file| file.prefetch());
        let built = build(weights.var_builder(dtype, device), weights.quantised());
        // A fault that was met on the way explains whatever error `build` made of it.
        weights.problems()?;
        let built = built?;
        weights.finish()?;
        Ok(built)
    }

    /// A builder that reads tensors as `dtype` onto `device` and remembers their names; see
    /// [`finish`](Self::finish).
    ///
    /// Tensors of another float type are converted. A missing tensor or a wrong shape is an error
    /// at once.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Backend(self.inner.clone())), dtype, device.clone())
    }

    /// The tensors that lie in blocks of quantised numbers, beside a
    /// [`var_builder`](Self::var_builder).
    pub fn quantised(&self) -> Quantised {
        Quantised(self.inner.clone())
    }

    /// The weights in one file of a folder, for tests of other rooms.
    #[cfg(test)]
    pub(crate) fn of_folder(folder: &Path, part: Part, file: &str) -> Result<Self> {
        Self::open(&Store::Folder(folder.into()), part, &[file.to_string()], &|_| false)
    }

    /// The builder, and the tensors in blocks, of [`load_quantised`](Self::load_quantised).
    #[cfg(test)]
    pub(crate) fn parts(&self, dtype: DType, device: &Device) -> (VarBuilder<'static>, Quantised) {
        (self.var_builder(dtype, device), self.quantised())
    }

    /// Whether some tensor lies in blocks of quantised numbers (GGUF).
    pub fn is_quantised(&self) -> bool {
        self.inner.files.iter().any(|file| file.is_quantised())
    }

    /// Bytes of all tensors in memory: as `dtype`, or with `blocks` those that lie in blocks as
    /// they are.
    pub fn bytes_in_memory(&self, dtype: DType, blocks: bool) -> u64 {
        match blocks {
            true => self.bytes_as_quantised(dtype),
            false => self.summary().parameters * dtype.size_in_bytes() as u64,
        }
    }

    /// Bytes of all tensors where those in blocks stay as they are, and all others are kept as
    /// `dtype`. A changed tensor is of these (see [`Quantised::get`]).
    fn bytes_as_quantised(&self, dtype: DType) -> u64 {
        let of = |(name, place): (&String, &TensorLocation)| {
            let stays = place.in_order() && !self.inner.changes.contains_key(name);
            let (entry, bytes) = self.inner.files[place.file].tensor(&place.name)?;
            let elements: usize = place.shape(&entry.shape).iter().product();
            Some(match entry.encoding {
                Encoding::Blocks(_) if stays => place.bytes(bytes, &entry.shape)?.len(),
                Encoding::Blocks(_) | Encoding::Plain(_) => elements * dtype.size_in_bytes(),
            } as u64)
        };
        self.inner.tensors.iter().filter_map(of).sum()
    }

    /// Whether the files have `name` (in current diffusers naming).
    pub fn contains(&self, name: &str) -> bool {
        self.inner.place(name).is_some()
    }

    /// Names (in current diffusers naming) and shapes of all tensors.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let shape = |name: &str, place: &TensorLocation| {
            let whole = &self.inner.files[place.file].info(&place.name)?.shape;
            Some(self.inner.with_added_rows(name, place.shape(whole)))
        };
        self.inner.tensors.iter().filter_map(|(name, place)| Some((name.clone(), shape(name, place)?))).collect()
    }

    /// Checks that every tensor of the files was asked for.
    ///
    /// # Errors
    /// [`Error::Weights`] naming the tensors that nothing used.
    pub fn finish(self) -> Result<()> {
        self.problems()?;
        let seen = self.inner.seen();
        let mut unused: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for (name, place) in &self.inner.tensors {
            if !seen.used.contains(name) {
                unused.entry(place.file).or_default().push(&place.name);
            }
        }
        match unused.first_key_value() {
            None => Ok(()),
            Some((&file, _)) => {
                let names: Vec<&str> = unused.values().flatten().copied().collect();
                let reason = format!(
                    "{} that this model does not have: {}; the config does not fit the weights",
                    plural(names.len(), "tensor"),
                    enumerate(&names)
                );
                Err(self.inner.files[file].fault(reason))
            }
        }
    }

    /// The faults and missing tensors met so far, as one error.
    fn problems(&self) -> Result<()> {
        let seen = self.inner.seen();
        if let Some((file, reason)) = seen.faults.first() {
            let more = match seen.faults.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            return Err(Error::Weights { file: file.clone(), reason: format!("{reason}{more}") });
        }
        if !seen.missing.is_empty() {
            let names: Vec<&str> = seen.missing.iter().map(String::as_str).collect();
            let verb = if names.len() == 1 { "is" } else { "are" };
            return Err(Error::Weights {
                file: self.inner.whole(),
                reason: format!(
                    "{} {verb} missing: {}; the config does not fit the weights, or the file is of another model",
                    plural(names.len(), "tensor"),
                    enumerate(&names)
                ),
            });
        }
        Ok(())
    }

    /// Size, element types and number of parameters, from the headers alone.
    pub fn summary(&self) -> WeightsSummary {
        let mut summary = WeightsSummary { parameters: 0, bytes: 0, dtypes: Vec::new(), files: Vec::new() };
        let mut dtypes = BTreeSet::new();
        for file in &self.inner.files {
            summary.bytes += if self.inner.whole_files { file.len() as u64 } else { 0 };
            summary.files.push(file.name().to_path_buf());
        }
        for place in self.inner.tensors.values() {
            if let Some((info, bytes)) = self.inner.files[place.file].tensor(&place.name) {
                summary.parameters += place.shape(&info.shape).iter().product::<usize>() as u64;
                summary.bytes += if self.inner.whole_files {
                    0
                } else {
                    place.bytes(bytes, &info.shape).map_or(0, <[u8]>::len) as u64
                };
                dtypes.insert(info.encoding.name());
            }
        }
        summary.dtypes = dtypes.into_iter().collect();
        summary
    }

    /// Feeds what identifies these weights to `add`: see `Checkpoint::digest`.
    pub(crate) fn fingerprint(&self, add: &mut dyn FnMut(&[u8])) {
        // Buffers that are never read do not tell weights apart.
        let layers = self.inner.spare.iter().filter(|name| !name.ends_with("position_ids"));
        layers.for_each(|name| add(name.as_bytes()));
        for (index, file) in self.inner.files.iter().enumerate() {
            if self.inner.whole_files {
                file.fingerprint(file.names(), add);
            } else {
                let places = self.inner.tensors.values().filter(|place| place.file == index);
                let names: BTreeSet<&str> = places.map(|place| place.name.as_str()).collect();
                file.fingerprint(names.into_iter(), add);
            }
        }
    }
}

impl Inner {
    fn seen(&self) -> MutexGuard<'_, AskedTensors> {
        // The set stays meaningful even if a thread died while it held the lock.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tensor that `name` stands for, under its current name.
    fn place(&self, name: &str) -> Option<(&str, &TensorLocation)> {
        let current = names::current_name(self.part, name)?;
        self.tensors.get_key_value(&current).map(|(name, place)| (name.as_str(), place))
    }

    /// The shape of the tensor `name` with the rows that changes add to it.
    fn with_added_rows(&self, name: &str, mut shape: Vec<usize>) -> Vec<usize> {
        if let (Some(changes), Some(rows)) = (self.changes.get(name), shape.first_mut()) {
            *rows += changes.iter().map(TensorChange::added_rows).sum::<usize>();
        }
        shape
    }

    /// The file, or the folder of the shards.
    fn whole(&self) -> PathBuf {
        match self.files.as_slice() {
            [] => PathBuf::new(),
            [only] => only.path().to_path_buf(),
            [first, ..] => first.path().parent().unwrap_or(Path::new("")).to_path_buf(),
        }
    }

    /// Records a fault and gives it back as candle's error type.
    fn fault(&self, file: &WeightFile, reason: String) -> candle_core::Error {
        let error = candle_core::Error::Msg(format!("{}: {reason}", file.path().display()));
        self.seen().faults.push((file.path().to_path_buf(), reason));
        error
    }

    fn read(&self, name: &str, shape: Option<&Shape>, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some((name, place)) = self.place(name) else {
            self.seen().missing.insert(name.to_string());
            return match shape {
                // A stand-in that takes no memory lets the network's constructor go on to name what
                // else is missing.
                Some(shape) if self.collect => Tensor::zeros((), dtype, device)?.broadcast_as(shape.clone()),
                _ => Err(candle_core::Error::Msg(format!("{}: tensor `{name}` is missing", self.whole().display()))),
            };
        };
        self.seen().used.insert(name.to_string());
        let file = &self.files[place.file];
        let Some((info, bytes)) = file.tensor(&place.name) else {
            return Err(self.fault(file, format!("tensor `{}` lies outside the file", place.name)));
        };
        let found = place.shape(&info.shape);
        let wanted = match shape {
            Some(shape) if !names::same_shape(name, shape.dims(), &self.with_added_rows(name, found.clone())) => {
                let reason = format!(
                    "tensor `{}` has shape {:?} where the config makes it {:?}",
                    place.name,
                    info.shape,
                    place.shape_in_file(shape.dims())
                );
                let error = self.fault(file, reason);
                return if self.collect {
                    Tensor::zeros((), dtype, device)?.broadcast_as(shape.clone())
                } else {
                    Err(error)
                };
            }
            Some(shape) => shape.clone(),
            None => Shape::from(self.with_added_rows(name, found.clone())),
        };
        let tensor = match self.changes.get(name) {
            None => place.read(bytes, info, wanted, dtype, device),
            Some(changes) => {
                let base = place.read(bytes, info, Shape::from(found), DType::F32, &Device::Cpu);
                base.and_then(|base| change::apply_all(base, changes, wanted, dtype, device))
            }
        };
        file.release(&place.name);
        tensor.map_err(|problem| match problem {
            problem::Problem::Content(reason) => self.fault(file, format!("tensor `{}` {reason}", place.name)),
            problem::Problem::Candle(error) => error,
        })
    }
}

/// The tensors of a part that lie in blocks, for layers that multiply with those.
#[derive(Debug, Clone)]
pub struct Quantised(Arc<Inner>);

impl Quantised {
    /// The tensor `name` in its blocks on `device`. `None` where it does not lie in blocks, where
    /// it is changed as it is read, or where it is not there in `shape`. It is then read as all
    /// other tensors are, or the error says what is wrong.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn get(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<Arc<QTensor>>> {
        let Some((name, place)) = self.0.place(name) else { return Ok(None) };
        let file = &self.0.files[place.file];
        let Some((entry, bytes)) = file.tensor(&place.name) else { return Ok(None) };
        let Encoding::Blocks(kind) = entry.encoding else { return Ok(None) };
        if self.0.changes.contains_key(name) || !place.in_order() || place.shape(&entry.shape) != shape {
            return Ok(None);
        }
        let Some(bytes) = place.bytes(bytes, &entry.shape) else { return Ok(None) };
        let Ok(tensor) = blocks::blocks(bytes, kind, shape, device) else { return Ok(None) };
        self.0.seen().used.insert(name.to_string());
        file.release(&place.name);
        Ok(Some(Arc::new(tensor)))
    }
}

/// candle's view of the weights.
struct Backend(Arc<Inner>);

impl SimpleBackend for Backend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.0.read(name, Some(&shape), dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.0.read(name, None, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.place(name).is_some()
    }
}

/// The number that the tensor `name` of `file` holds, whatever its type and number of axes. `None`
/// where there is no such tensor, or where it is not one number.
pub(crate) fn scalar(file: &WeightFile, name: &str) -> Result<Option<f64>> {
    let Some((info, bytes)) = file.tensor(name) else { return Ok(None) };
    if info.shape.iter().product::<usize>() != 1 {
        return Ok(None);
    }
    if let Encoding::Plain(dtype) = info.encoding
        && let Some(integer) = convert::integer(bytes, dtype)
    {
        return Ok(Some(integer));
    }
    Ok(values(file, name)?.and_then(|values| values.first().copied()).map(f64::from))
}

/// The elements of the tensor `name` of `file`; `None` where there is no such tensor, or it holds
/// no floats.
pub(crate) fn values(file: &WeightFile, name: &str) -> Result<Option<Vec<f32>>> {
    let Some((info, bytes)) = file.tensor(name) else { return Ok(None) };
    let count = info.shape.iter().product::<usize>();
    let tensor = convert::to_tensor(bytes, info.encoding, &[], Shape::from(count), DType::F32, &Device::Cpu);
    Ok(tensor.ok().map(|tensor| tensor.to_vec1()).transpose()?)
}

/// The first names, so that a wholly different file still gives one readable line.
fn enumerate(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    let mut text = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(", ... ({} more)", names.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantised")
    }

    fn weights(name: &str) -> Weights {
        Weights::open(&Store::Folder(folder()), Part::Unet, &[name.to_string()], &|_| false).unwrap()
    }

    fn truth(name: &str) -> HashMap<String, Tensor> {
        candle_core::safetensors::load(folder().join(name), &Device::Cpu).unwrap()
    }

    /// The largest difference, over the largest number of `b`.
    fn off(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let most = |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        most((a - b).unwrap()) / most(b.clone())
    }

    /// Every tensor of a file is what another program makes of it (`tests/fixtures/make_gguf.py`).
    fn reads_as(file: &str, expected: &str, limit: f32) {
        let truth = truth(expected);
        let read = |vb: candle_nn::VarBuilder| {
            for (name, expected) in &truth {
                let error = off(&vb.get(expected.dims(), name)?, expected);
                assert!(error <= limit, "{name}: {error:e}");
            }
            Ok(())
        };
        // `load` checks that every tensor of the file was asked for.
        weights(file).load(DType::F32, &Device::Cpu, read).unwrap();
    }

    #[test]
    fn every_kind_of_gguf_is_what_llama_cpp_makes_of_it() {
        reads_as("kinds.gguf", "kinds.safetensors", 1e-6);
        let summary = weights("kinds.gguf").summary();
        assert!(["Q8_0", "Q5_K", "Q4_0"].iter().all(|kind| summary.dtypes.contains(&kind.to_string())), "{summary:?}");
    }

    #[test]
    fn scaled_float8_is_the_weight_times_its_factor() {
        reads_as("scaled.safetensors", "scaled-truth.safetensors", 0.0);
    }

    #[test]
    fn blocks_are_given_as_they_lie_where_the_shape_is_theirs() {
        let truth = truth("kinds.safetensors");
        let weights = weights("kinds.gguf");
        let blocks = Quantised(weights.inner.clone());
        for (name, expected) in &truth {
            let found = blocks.get(name, expected.dims(), &Device::Cpu).unwrap();
            match name.ends_with(".weight") {
                true => assert!(off(&found.unwrap().dequantize(&Device::Cpu).unwrap(), expected) <= 1e-6, "{name}"),
                false => assert!(found.is_none(), "{name}"),
            }
        }
        assert!(blocks.get("Q8_0.weight", &[256, 6], &Device::Cpu).unwrap().is_none());
        assert!(blocks.get("missing.weight", &[6, 256], &Device::Cpu).unwrap().is_none());
    }
}
