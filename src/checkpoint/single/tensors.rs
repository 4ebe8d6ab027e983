//! The tensors of one part of a single file, as those below one prefix.

use crate::checkpoint::weights::WeightFile;

pub(super) const UNET: &str = "model.diffusion_model.";
pub(super) const VAE: &str = "first_stage_model.";

/// The tensors below one prefix of the file.
pub(super) struct Tensors<'a> {
    file: &'a WeightFile,
    prefix: &'a str,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(file: &'a WeightFile, prefix: &'a str) -> Self {
        Self { file, prefix }
    }

    /// The shape of `name`, where it is there.
    pub(super) fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.file.info(&format!("{}{name}", self.prefix)).map(|info| info.shape.as_slice())
    }

    /// The size of axis `axis` of `name`.
    pub(super) fn dim(&self, name: &str, axis: usize) -> Result<usize, String> {
        let shape = self.shape(name).ok_or_else(|| format!("tensor `{}{name}` is missing", self.prefix))?;
        let size = shape.get(axis).copied();
        size.ok_or_else(|| format!("tensor `{}{name}` has shape {shape:?}", self.prefix))
    }

    /// Names below the prefix, without it.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.file.names().filter_map(|name| name.strip_prefix(self.prefix))
    }
}
