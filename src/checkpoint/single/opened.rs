//! A single file once its kind is known: where its configs and the tensors of its parts are.

use super::tensors::VAE;
use crate::argument::VARIANT;
use crate::checkpoint::part::Part;
use crate::checkpoint::store::Store;
use crate::checkpoint::weights::{self, TensorLocation, WeightFile, Weights};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A single file opened: its configs as files of a folder, and where each tensor of each part is.
#[derive(Debug)]
pub(crate) struct Single {
    /// The configs.
    pub(crate) store: Store,
    /// What is in the file and has no effect, in words.
    pub(crate) ignored: Vec<String>,
    pub(super) file: Arc<WeightFile>,
    /// By the part's folder.
    pub(super) places: Places,
    /// The folder that has the parts which the file has not, and their weight files.
    pub(crate) folder: Option<(Store, BTreeMap<&'static str, Vec<String>>)>,
}

impl Single {
    /// The weights of `part`; of a part that a folder has, without the tensors that are `spare`.
    pub(crate) fn weights(&self, part: Part, spare: &dyn Fn(&str) -> bool) -> Result<Weights> {
        if let Some((store, files)) = &self.folder
            && let Some(files) = files.get(part.folder())
        {
            return Weights::open(store, part, files, spare);
        }
        let places = self.places.get(part.folder()).cloned().unwrap_or_default();
        Ok(Weights::of_file(part, self.file.clone(), places))
    }
}

/// Refuses a `variant` where the file has all parts, so that no other weights are read.
pub(super) fn refuse_variant(variant: Option<&str>) -> Result<()> {
    match variant {
        None => Ok(()),
        Some(_) => Err(Error::argument(VARIANT, format!("a single file has one set of weights; leave {VARIANT} out"))),
    }
}

/// Tensors of each part by their current names.
pub(super) type Places = BTreeMap<&'static str, BTreeMap<String, TensorLocation>>;

/// Names of tensors, those of one place together: `model_ema.* (688 tensors)`.
pub(super) fn summarised(names: &[String]) -> Vec<String> {
    let depth = |name: &str| match name {
        name if name.starts_with("cond") => 5,
        name if name.starts_with(VAE) => 2,
        _ => 1,
    };
    weights::grouped(names, &depth)
}
