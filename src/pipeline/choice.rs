//! Which checkpoint a run is made with and how it is loaded: as a user chooses it, and as
//! `run.json` records it.

use std::sync::Arc;

use super::names::{device_name, device_named, dtype_name, dtype_named};
use super::options::LoadOptions;
use crate::Result;
use crate::checkpoint::{Changes, Checkpoint, OpenOptions, Progress, Source};
use crate::run::{RunRecord, Settings};

/// A checkpoint as a user chooses it. [`Default`] is the embedded one, as it is, in f32 on the CPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckpointChoice {
    /// Where it comes from.
    pub source: Source,
    /// What is chosen and changed of it.
    pub changes: Changes,
    /// How it is brought into memory.
    pub load: LoadOptions,
}

impl CheckpointChoice {
    /// The one that made the run of `record`.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for a setting that this version does not understand, and for a
    /// device that this build does not have.
    pub fn of_run(record: &RunRecord) -> Result<Self> {
        let source = record.checkpoint.id.parse()?;
        let changes = record.settings.changes.clone();
        Ok(Self { source, changes, load: LoadOptions::of_settings(&record.settings)? })
    }

    /// Opens the checkpoint; `progress` is told of downloads.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self, progress: Option<Arc<dyn Progress>>) -> Result<Checkpoint> {
        let options = OpenOptions { changes: self.changes.clone(), progress, ..OpenOptions::default() };
        Checkpoint::open(&self.source, &options)
    }
}

/// Whether the networks are the same; what memory is planned for does not change them.
impl PartialEq for LoadOptions {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.device.same_device(&other.device)
    }
}

impl LoadOptions {
    /// Those of the run that `settings` are of.
    ///
    /// # Errors
    /// As [`dtype_named`] and [`device_named`].
    pub fn of_settings(settings: &Settings) -> Result<Self> {
        let size = Some(settings.size());
        let (dtype, device) = (dtype_named(&settings.dtype)?, device_named(&settings.device)?);
        Ok(Self { dtype, device, size, ..Self::default() })
    }
}

impl LoadOptions {
    /// The number type's name, unless it is f32.
    pub(crate) fn dtype_named_unless_usual(&self) -> Option<String> {
        Some(dtype_name(self.dtype)).filter(|name| *name != "f32").map(str::to_owned)
    }

    /// The device's name, unless it is the CPU.
    pub(crate) fn device_named_unless_usual(&self) -> Option<String> {
        Some(device_name(&self.device)).filter(|name| *name != "cpu").map(str::to_owned)
    }
}
