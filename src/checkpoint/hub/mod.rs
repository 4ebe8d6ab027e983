//! Checkpoints on the Hugging Face hub: which files are needed, fetching them into the cache that Python shares, and
//! what each failure means.
//!
//! The transfer is hf-hub's; the choice of files, the check that what arrived is whole, and working without a network
//! are here.

mod cache;
mod remote;
mod watcher;

pub use cache::{CachedPipeline, cached_pipelines};

use super::config::ModelIndex;
use super::{Part, Progress};
use crate::{Error, Result};
use cache::Local;
use remote::Remote;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;

/// How to reach the hub. What is `None` comes from the environment, as in Python's huggingface_hub.
#[derive(Debug, Clone, Default)]
pub struct HubOptions {
    /// The server; else `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// The access token; else `HF_TOKEN`, else the file that `hf auth login` wrote.
    pub token: Option<String>,
    /// The cache; else `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: Option<PathBuf>,
    /// Whether to use only what the cache has; else `HF_HUB_OFFLINE` says.
    pub offline: Option<bool>,
}

impl HubOptions {
    /// The folder of the cache.
    pub fn cache_folder(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(hf_hub::resolve_cache_dir)
    }

    /// Why the network is not to be used, if so, and the way out.
    fn offline(&self) -> Option<(&'static str, &'static str)> {
        // As huggingface_hub's `constants.py` reads its switches.
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let is_true = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        match self.offline {
            Some(true) => Some(("no network is used here", "`attnmap generate --model` fetches it")),
            Some(false) => None,
            None if set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE")).is_some_and(is_true) => {
                Some(("HF_HUB_OFFLINE is set", "unset it once to download, or give a folder"))
            }
            None => None,
        }
    }
}

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
        match self.revision {
            None => self.repo.to_string(),
            Some(revision) => format!("{}@{revision}", self.repo),
        }
    }
}

/// The folder of a snapshot in the cache that has every file which `variant` of a repository needs, fetching what is missing.
pub(super) fn snapshot(
    repository: Repository,
    variant: Option<&str>,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    let whole = |local: &Local| local.snapshot_whole(variant);
    get(repository, options, progress, &whole, &|remote, local| remote.snapshot(variant, local))
}

/// The path in the cache of one file of a repository, fetched if it is missing.
pub(super) fn file(
    repository: Repository,
    name: &str,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    get(repository, options, progress, &|local| local.file(name), &|remote, local| remote.file(name, local))
}

/// The path in the cache of the file of a repository that `pick` chooses among the names of all,
/// fetched if it is missing; the error of `pick` says why none is.
pub(super) fn picked(
    repository: Repository,
    pick: &dyn Fn(&[String]) -> Result<String, String>,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    get(repository, options, progress, &|local| local.picked(pick), &|remote, local| remote.picked(pick, local))
}

/// What `cached` finds in the cache where that is enough, else what `fetched` gets from the server.
fn get(
    repository: Repository,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
    cached: &dyn Fn(&Local) -> Result<PathBuf, cache::Lacking>,
    fetched: &dyn Fn(&Remote, &Local) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let Repository { repo, revision } = repository;
    let revision = revision.unwrap_or("main");
    let cache = options.cache_folder();
    let local = Local { folder: cache.join(format!("models--{}", repo.replace('/', "--"))), revision };
    if let Some((why, way_out)) = options.offline() {
        return cached(&local).map_err(|problem| Error::Hub {
            repo: repository.id(),
            reason: format!("{why} and the cache {}; {way_out}", problem.describe(&cache)),
        });
    }
    // A commit never changes: what is there needs no question to the server.
    if is_commit(revision)
        && let Ok(path) = cached(&local)
    {
        return Ok(path);
    }
    fetched(&Remote::new(repo, repository.id(), revision, options, progress)?, &local)
}

/// Files without which nothing can be done, weights aside.
fn required(index: &ModelIndex) -> Vec<String> {
    let mut names = vec!["scheduler/scheduler_config.json".to_string()];
    names.extend(tokenizers(index).map(|folder| format!("{folder}/tokenizer_config.json")));
    names.extend(index.parts().iter().map(|part| format!("{}/config.json", part.folder())));
    names
}

/// Files that are fetched where the repository has them.
fn optional(index: &ModelIndex) -> Vec<String> {
    const TOKENIZER: [&str; 5] =
        ["added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "vocab.json"];
    let mut names = vec!["attnmap.json".to_string()];
    names.extend(tokenizers(index).flat_map(|folder| TOKENIZER.map(|name| format!("{folder}/{name}"))));
    names
}

/// The folders of the tokenizers: one for each text encoder.
fn tokenizers(index: &ModelIndex) -> impl Iterator<Item = &'static str> {
    index.parts().iter().filter_map(|part| match part {
        Part::TextEncoder => Some("tokenizer"),
        Part::TextEncoder2 => Some("tokenizer_2"),
        Part::Unet | Part::Vae => None,
    })
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
