//! Checkpoints on the Hugging Face hub: which files are needed, fetching them into the cache that
//! Python shares, and what each failure means.
//!
//! Names of files and addresses are hf-hub's. The transfer is done here. The transfer of hf-hub
//! gives the token to the host that a redirect names. It goes on with partial files of any content.
//! It also hides the hub's error codes.

// Without a network what only a download needs has no caller.
#![cfg_attr(not(feature = "hub"), allow(dead_code, unused_imports))]

mod cache;
mod environment;
#[cfg(feature = "hub")]
mod failure;
mod needs;
mod options;
#[cfg(feature = "hub")]
mod remote;
#[cfg(feature = "hub")]
mod server;
#[cfg(feature = "hub")]
mod transfer;

pub use cache::{CachedPipeline, cached_pipelines};
pub use options::HubOptions;

use super::hub_name::at;
use super::progress::Progress;
use crate::{Error, Result};
use cache::{Lacking, Local};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

/// A repository of the hub at a revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repository<'a> {
    /// `owner/name`.
    pub(super) repo: &'a str,
    /// A branch, tag or commit; `main` where `None`.
    pub(super) revision: Option<&'a str>,
}

impl Repository<'_> {
    /// As the user names it.
    fn id(&self) -> String {
        format!("{}{}", self.repo, at(self.revision))
    }
}

/// What is wanted of a repository.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// Every file that this variant of the pipeline needs.
    Snapshot(Option<&'a str>),
    /// One file.
    File(&'a str),
    /// The file that this chooses among the names of all.
    Picked(&'a dyn Fn(&[String]) -> Result<String, String>),
}

impl Wanted<'_> {
    /// Where it lies in the cache, whole.
    fn cached(self, local: &Local) -> Result<PathBuf, Lacking> {
        match self {
            Self::Snapshot(variant) => local.snapshot_whole(variant),
            Self::File(name) => local.file(name),
            Self::Picked(pick) => local.picked(pick),
        }
    }
}

/// The folder of a snapshot in the cache that has every file which `variant` of a repository needs,
/// fetching what is missing.
pub(super) fn snapshot(
    repository: Repository,
    variant: Option<&str>,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    get(repository, Wanted::Snapshot(variant), options, progress)
}

/// The path in the cache of one file of a repository, fetched if it is missing.
pub(super) fn file(
    repository: Repository,
    name: &str,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    get(repository, Wanted::File(name), options, progress)
}

/// The path in the cache of the file of a repository that `pick` chooses among the names of all. It
/// is fetched if it is missing. The error of `pick` says why none is chosen.
pub(super) fn picked(
    repository: Repository,
    pick: &dyn Fn(&[String]) -> Result<String, String>,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    get(repository, Wanted::Picked(pick), options, progress)
}

/// As [`picked`], or `None` where `pick` names no file of the repository.
pub(super) fn picked_if_any(
    repository: Repository,
    pick: &dyn Fn(&[String]) -> Option<String>,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<Option<PathBuf>> {
    let none = Cell::new(false);
    let pick = |names: &[String]| {
        let name = pick(names).filter(|name| names.contains(name));
        none.set(name.is_none());
        name.ok_or_else(String::new)
    };
    match picked(repository, &pick, options, progress) {
        Err(_) if none.get() => Ok(None),
        found => found.map(Some),
    }
}

/// What the cache has where that is enough, else what the server has.
fn get(
    repository: Repository,
    wanted: Wanted,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    let Repository { repo, revision } = repository;
    let revision = revision.unwrap_or("main");
    let cache = options.cache_folder();
    let local = Local::new(&cache, repo, revision);
    if let Some((why, way_out)) = options.offline() {
        return wanted.cached(&local).map_err(|problem| Error::Hub {
            repo: repository.id(),
            reason: format!("{why} and the cache {}; {way_out}", problem.describe(&cache)),
        });
    }
    // A commit never changes: what is there needs no question to the server.
    if needs::is_commit(revision)
        && let Ok(path) = wanted.cached(&local)
    {
        return Ok(path);
    }
    fetch(repository, wanted, options, &local, progress)
}

#[cfg(feature = "hub")]
fn fetch(
    repository: Repository,
    wanted: Wanted,
    options: &HubOptions,
    local: &Local,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    let remote = remote::Remote::new(repository.repo, repository.id(), options, local, progress)?;
    match wanted {
        Wanted::Snapshot(variant) => remote.snapshot(variant),
        Wanted::File(name) => remote.file(name),
        Wanted::Picked(pick) => remote.picked(pick),
    }
}

/// A build without a network is always offline: see [`HubOptions`].
#[cfg(not(feature = "hub"))]
fn fetch(
    repository: Repository,
    wanted: Wanted,
    _options: &HubOptions,
    local: &Local,
    _progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    wanted.cached(local).map_err(|problem| Error::Hub {
        repo: repository.id(),
        reason: format!("the cache {}; give a folder", problem.describe(&local.folder)),
    })
}
