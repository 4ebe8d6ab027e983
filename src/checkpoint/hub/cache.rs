//! What the hub's cache on disk has: whole snapshots, single files, and the list of all pipelines in it.

use super::{HubOptions, is_commit, required};
use crate::checkpoint::config::ModelIndex;
use crate::checkpoint::store::Store;
use crate::checkpoint::weights::part_files;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The diffusers pipelines in the hub cache, by name and commit; none where there is no cache.
pub fn cached_pipelines(options: &HubOptions) -> Vec<CachedPipeline> {
    let folder = options.cache_folder();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(repo) = name.strip_prefix("models--").and_then(|name| name.split_once("--")) else { continue };
        let repo = format!("{}/{}", repo.0, repo.1);
        let references = references(&entry.path().join("refs"));
        for snapshot in fs::read_dir(entry.path().join("snapshots")).into_iter().flatten().flatten() {
            let commit = snapshot.file_name().to_string_lossy().into_owned();
            if !snapshot.path().join("model_index.json").is_file() {
                continue;
            }
            let named = references.iter().filter(|(_, target)| *target == commit).map(|(name, _)| name.clone());
            found.push(CachedPipeline {
                repo: repo.clone(),
                references: named.collect(),
                commit,
                folder: snapshot.path(),
            });
        }
    }
    found.sort_by(|a, b| (&a.repo, &a.commit).cmp(&(&b.repo, &b.commit)));
    found
}

/// A diffusers pipeline in the hub cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedPipeline {
    /// `owner/name`.
    pub repo: String,
    /// The commit of this snapshot.
    pub commit: String,
    /// Branches and tags that point at the commit.
    pub references: Vec<String>,
    /// The snapshot's folder.
    pub folder: PathBuf,
}

impl CachedPipeline {
    /// What to give to `--model` for this snapshot.
    pub fn id(&self) -> String {
        match self.references.as_slice() {
            names if names.iter().any(|name| name == "main") => self.repo.clone(),
            [name, ..] => format!("{}@{name}", self.repo),
            [] => format!("{}@{}", self.repo, self.commit),
        }
    }
}

/// Branch and tag names (which may hold `/`) with their commits.
fn references(folder: &Path) -> Vec<(String, String)> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else if let Ok(commit) = fs::read_to_string(entry.path()) {
                found.push((name, commit.trim().to_string()));
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}

/// What the cache has of one repository.
pub(super) struct Local<'a> {
    /// `models--owner--name`.
    pub(super) folder: PathBuf,
    pub(super) revision: &'a str,
}

/// Why the cache alone does not do.
pub(super) enum Lacking {
    /// It has nothing of this revision.
    All,
    /// Something is missing or wrong.
    Some(Error),
    /// This file is missing.
    File(String),
}

impl Lacking {
    pub(super) fn describe(&self, cache: &Path) -> String {
        match self {
            Self::All => format!("{} does not have it", cache.display()),
            Self::File(name) => format!("{} does not have {name}", cache.display()),
            Self::Some(error) => format!("{} has an incomplete copy ({error})", cache.display()),
        }
    }
}

impl Local<'_> {
    fn reference(&self) -> PathBuf {
        self.folder.join("refs").join(self.revision)
    }

    /// The snapshot of the revision, whatever it holds.
    fn snapshot(&self) -> Option<PathBuf> {
        let commit = if is_commit(self.revision) {
            self.revision.to_string()
        } else {
            fs::read_to_string(self.reference()).ok()?.trim().to_string()
        };
        // The commit comes from a file: it must not lead elsewhere.
        let folder = is_commit(&commit).then(|| self.folder.join("snapshots").join(commit))?;
        folder.is_dir().then_some(folder)
    }

    /// The snapshot of the revision, if it has every file that is needed.
    pub(super) fn snapshot_whole(&self, variant: Option<&str>) -> Result<PathBuf, Lacking> {
        let folder = self.snapshot().ok_or(Lacking::All)?;
        let store = Store::Folder(folder.clone());
        let index = store.read_required("model_index.json", "it").map_err(Lacking::Some)?;
        let index = ModelIndex::from_json(&index, &store.path("model_index.json")).map_err(Lacking::Some)?;
        for name in required(&index) {
            store.read_required(&name, "it").map_err(Lacking::Some)?;
        }
        part_files(&store, index.parts(), variant).map_err(Lacking::Some)?;
        Ok(folder)
    }

    /// The file `name` of the revision.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf, Lacking> {
        let path = self.snapshot().ok_or(Lacking::All)?.join(name);
        if path.is_file() { Ok(path) } else { Err(Lacking::File(name.to_owned())) }
    }

    /// The file that `pick` chooses among those at the top of the revision's snapshot.
    pub(super) fn picked(&self, pick: &dyn Fn(&[String]) -> Result<String, String>) -> Result<PathBuf, Lacking> {
        let folder = self.snapshot().ok_or(Lacking::All)?;
        let names = Store::Folder(folder.clone()).list("").map_err(Lacking::Some)?;
        match pick(&names) {
            Ok(name) => Ok(folder.join(name)),
            Err(_) => Err(Lacking::File("the file of it that is meant".into())),
        }
    }

    /// Lets the branch or tag point at `commit`, so that it is found without a network.
    pub(super) fn point_at(&self, commit: &str) -> Result<()> {
        if is_commit(self.revision) {
            return Ok(());
        }
        let path = self.reference();
        if fs::read_to_string(&path).is_ok_and(|known| known.trim() == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let temporary = tempfile::NamedTempFile::new_in(&self.folder).map_err(Error::io(&self.folder))?;
        fs::write(temporary.path(), commit).map_err(Error::io(temporary.path()))?;
        temporary.persist(&path).map_err(|error| Error::io(&path)(error.error))?;
        Ok(())
    }
}
