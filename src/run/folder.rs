//! An existing run folder, opened.

use super::RunRecord;
use crate::trace::Trace;
use crate::{Error, Result};
use image::RgbImage;
use std::path::{Path, PathBuf};

/// A run folder whose `run.json` has been read.
#[derive(Debug, Clone)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Its `run.json`.
    pub record: RunRecord,
}

impl Run {
    /// Opens the run at `path`: its folder, or any file in it.
    ///
    /// # Errors
    /// [`Error::Trace`] when it is no run, is damaged, or was made by a newer attnmap.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = if path.is_file() { path.parent().unwrap_or(Path::new(".")) } else { path };
        if !folder.is_dir() {
            let reason = "no such folder; give one that `attnmap generate` made";
            return Err(Error::Trace { file: path.to_path_buf(), reason: reason.into() });
        }
        Ok(Self { folder: folder.to_path_buf(), record: RunRecord::read(folder)? })
    }

    /// Opens its `trace.safetensors`; the numbers stay in the file until they are read.
    ///
    /// # Errors
    /// As [`Trace::load`].
    pub fn trace(&self) -> Result<Trace> {
        Trace::load(&self.folder.join("trace.safetensors"))
    }

    /// Reads its `image.png`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Trace`] when it is missing or damaged.
    pub fn image(&self) -> Result<RgbImage> {
        self.picture("image.png")
    }

    /// Reads the PNG file `name` of the run.
    ///
    /// # Errors
    /// As [`image`](Self::image).
    pub fn picture(&self, name: &str) -> Result<RgbImage> {
        let path = self.folder.join(name);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let image = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png);
        Ok(image
            .map_err(|error| Error::Trace { file: path, reason: format!("not a readable PNG: {error}") })?
            .to_rgb8())
    }
}
