//! Checkpoints on the Hugging Face hub: which files are needed, fetching them into the cache that Python shares, and
//! what each failure means.
//!
//! The transfer is hf-hub's; the choice of files, the check that what arrived is whole, and working without a network
//! are here.

use super::config::ModelIndex;
use super::store::Store;
use super::weights::{Choice, choose, shards, weight_files};
use super::{Checkpoint, Part, Progress};
use crate::{Error, Result};
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, fs};

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

/// The folder of a snapshot in the cache that has every file which `variant` of `repo` at `revision` needs, fetching what
/// is missing.
pub(super) fn snapshot(
    repo: &str,
    revision: Option<&str>,
    variant: Option<&str>,
    options: &HubOptions,
    progress: Option<Arc<dyn Progress>>,
) -> Result<PathBuf> {
    let id = match revision {
        None => repo.to_string(),
        Some(revision) => format!("{repo}@{revision}"),
    };
    let revision = revision.unwrap_or("main");
    let cache = options.cache_folder();
    let local = Local { folder: cache.join(format!("models--{}", repo.replace('/', "--"))), revision };
    if let Some((why, way_out)) = options.offline() {
        return local.snapshot_whole(variant).map_err(|problem| Error::Hub {
            repo: id,
            reason: format!("{why} and the cache {}; {way_out}", problem.describe(&cache)),
        });
    }
    // A commit never changes: what is there needs no question to the server.
    if is_commit(revision)
        && let Ok(folder) = local.snapshot_whole(variant)
    {
        return Ok(folder);
    }
    Remote::new(repo, id, revision, options, progress)?.snapshot(variant, &local)
}

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
struct Local<'a> {
    /// `models--owner--name`.
    folder: PathBuf,
    revision: &'a str,
}

/// Why the cache alone does not do.
enum Lacking {
    /// It has nothing of this revision.
    All,
    /// Something is missing or wrong.
    Some(Error),
}

impl Lacking {
    fn describe(&self, cache: &Path) -> String {
        match self {
            Self::All => format!("{} does not have it", cache.display()),
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
    fn snapshot_whole(&self, variant: Option<&str>) -> Result<PathBuf, Lacking> {
        let folder = self.snapshot().ok_or(Lacking::All)?;
        let store = Store::Folder(folder.clone());
        let index = store.read_required("model_index.json", "it").map_err(Lacking::Some)?;
        let index = ModelIndex::from_json(&index, &store.path("model_index.json")).map_err(Lacking::Some)?;
        for name in required(&index) {
            store.read_required(&name, "it").map_err(Lacking::Some)?;
        }
        for &part in index.parts() {
            weight_files(&store, part, variant).map_err(Lacking::Some)?;
        }
        Ok(folder)
    }

    /// Lets the branch or tag point at `commit`, so that it is found without a network.
    fn point_at(&self, commit: &str) -> Result<()> {
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

/// One revision of a repository on the server.
struct Remote<'a> {
    /// As the user named it.
    id: String,
    revision: &'a str,
    endpoint: String,
    repository: HFRepositorySync<RepoTypeModel>,
    watcher: Arc<Watcher>,
}

impl<'a> Remote<'a> {
    fn new(
        repo: &str,
        id: String,
        revision: &'a str,
        options: &HubOptions,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<Self> {
        let mut builder = HFClient::builder()
            .cache_dir(options.cache_folder())
            .retry_max_attempts(3)
            .user_agent(concat!("attnmap/", env!("CARGO_PKG_VERSION")));
        if let Some(endpoint) = &options.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &options.token {
            builder = builder.token(token);
        }
        let refuse = |error: HFError| match error {
            HFError::Url(error) => Error::Hub {
                repo: id.clone(),
                reason: format!(
                    "HF_ENDPOINT is not a URL ({error}); unset it, or set it to e.g. https://huggingface.co"
                ),
            },
            error => Error::Hub { repo: id.clone(), reason: format!("the hub client could not start ({error})") },
        };
        let client = builder.build().map_err(refuse)?;
        let endpoint = client.endpoint().to_string();
        let (owner, name) = hf_hub::split_id(repo);
        let repository = HFClientSync::from_inner(client).map_err(refuse)?.model(owner, name);
        let watcher = Arc::new(Watcher { progress, file: Mutex::default(), expected: AtomicU64::new(0) });
        Ok(Self { id, revision, endpoint, repository, watcher })
    }

    /// See [`snapshot`].
    fn snapshot(&self, variant: Option<&str>, local: &Local) -> Result<PathBuf> {
        let info = match self.repository.info().revision(self.revision).send() {
            Ok(info) => info,
            Err(error) => {
                // Without a network, what was fetched before is as good as it was then.
                return match local.snapshot_whole(variant) {
                    Ok(folder) if is_unreachable(&error) => Ok(folder),
                    _ => Err(self.explain(error, None)),
                };
            }
        };
        let commit = info.sha.filter(|sha| is_commit(sha)).ok_or_else(|| self.refuse("the server names no commit"))?;
        let names: Vec<String> = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename).collect();
        self.check_kind(&names)?;

        let index = self.fetch("model_index.json", &commit)?;
        let folder = index.parent().ok_or_else(|| self.refuse("the cache has no folder"))?.to_path_buf();
        let json = fs::read(&index).map_err(Error::io(&index))?;
        let index = ModelIndex::from_json(&json, Path::new(&format!("{}/model_index.json", self.id)))?;

        // What cannot be used is refused before gigabytes are fetched: weights of a refused kind, configs.
        let mut choices = Vec::new();
        for &part in index.parts() {
            let prefix = format!("{}/", part.folder());
            let present: Vec<String> =
                names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(String::from).collect();
            let choice = choose(part, variant, &present)
                .map_err(|reason| Error::Weights { file: format!("{}/{}", self.id, part.folder()).into(), reason })?;
            choices.push((prefix, choice));
        }
        for name in &required(&index) {
            if !names.iter().any(|known| known == name) {
                return Err(self.refuse(format!("has no {name}; it is not a whole Stable Diffusion pipeline")));
            }
            self.fetch(name, &commit)?;
        }
        for name in optional(&index).iter().filter(|name| names.iter().any(|known| known == *name)) {
            self.fetch(name, &commit)?;
        }
        Checkpoint::read_configs(Store::Folder(folder.clone()), self.id.clone(), variant.map(String::from))?;

        for (prefix, choice) in choices {
            match choice {
                Choice::Single(name) => drop(self.fetch(&format!("{prefix}{name}"), &commit)?),
                Choice::Index(name) => {
                    let path = self.fetch(&format!("{prefix}{name}"), &commit)?;
                    let bytes = fs::read(&path).map_err(Error::io(&path))?;
                    let listed = shards(&bytes).map_err(|reason| Error::Weights { file: path, reason })?;
                    for shard in listed {
                        self.fetch(&format!("{prefix}{shard}"), &commit)?;
                    }
                }
            }
        }
        // Only now: a branch never points at a snapshot that lacks something.
        local.point_at(&commit)?;
        Ok(folder)
    }

    /// Refuses a repository that is no diffusers pipeline, saying what it seems to be.
    fn check_kind(&self, names: &[String]) -> Result<()> {
        if names.iter().any(|name| name == "model_index.json") {
            return Ok(());
        }
        let has = |kind: &str| names.iter().find(|name| !name.contains('/') && name.ends_with(kind));
        let what = if let Some(name) = has(".safetensors") {
            format!("; {name} may be a single-file checkpoint, which is not supported yet")
        } else if let Some(name) = has(".ckpt").or_else(|| has(".bin")) {
            format!("; {name} is a Python pickle, which can run any code when read")
        } else {
            String::new()
        };
        Err(self.refuse(format!("has no model_index.json{what}: give a repository in the diffusers layout")))
    }

    /// The path of `name` in the cache, fetched if need be and checked to be whole.
    fn fetch(&self, name: &str, commit: &str) -> Result<PathBuf> {
        self.watcher.begin(name);
        let handler: Arc<dyn ProgressHandler> = self.watcher.clone();
        let path = self
            .repository
            .download_file()
            .filename(name)
            .revision(commit)
            .progress(handler)
            .send()
            .map_err(|error| self.explain(error, Some(name)))?;
        let length = fs::metadata(&path).map_err(Error::io(&path))?.len();
        let expected = self.watcher.expected.load(Ordering::Relaxed);
        if expected != 0 && length != expected {
            // Neither the content nor the name that leads to it may stay, or the next run would take it for whole.
            if let Ok(blob) = fs::canonicalize(&path) {
                let _ = fs::remove_file(blob);
            }
            let _ = fs::remove_file(&path);
            return Err(self.refuse(format!(
                "the download of {name} was interrupted ({length} of {expected} bytes); run the command again"
            )));
        }
        self.watcher.end(length);
        Ok(path)
    }

    fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Hub { repo: self.id.clone(), reason: reason.into() }
    }

    /// What an error of hf-hub means for the user; `file` is what was being fetched.
    fn explain(&self, error: HFError, file: Option<&str>) -> Error {
        let code = |code: &Option<String>| code.clone().unwrap_or_default();
        let page = format!("{}/{}", self.endpoint, self.repository.repo_path());
        let missing = format!(
            "no such repository on {}, or it is private; check the spelling, or set HF_TOKEN to a token that may read it",
            self.endpoint
        );
        let gated = format!(
            "the repository is gated; accept its licence on {page} and set HF_TOKEN to a token of that account"
        );
        let interrupted = |cause: String| match file {
            Some(file) => format!("the download of {file} was interrupted ({cause}); run the command again"),
            None => format!("the answer of {} was cut off ({cause}); run the command again", self.endpoint),
        };
        self.refuse(match &error {
            HFError::AuthRequired { context } | HFError::Forbidden { context } => {
                match (code(&context.error_code).as_str(), context.status.as_u16()) {
                    ("GatedRepo", _) | ("", 403) => gated,
                    ("RepoNotFound", _) | ("", _) => missing,
                    (_, status) => format!(
                        "{} refused access ({status}{}); set HF_TOKEN to a token that may read it",
                        self.endpoint,
                        context
                            .server_message
                            .as_deref()
                            .map(|text| format!(": {}", one_line(text)))
                            .unwrap_or_default()
                    ),
                }
            }
            HFError::RepoNotFound { .. } => missing,
            HFError::RevisionNotFound { context, .. } => {
                let known = context.as_ref().map(|context| code(&context.error_code)).unwrap_or_default();
                match (known.as_str(), self.revision) {
                    ("RevisionNotFound", _) => {
                        format!("has no revision `{}`; see the branches on {page}", self.revision)
                    }
                    ("", revision) if revision != "main" => {
                        format!("no such repository or revision on {}; check the spelling", self.endpoint)
                    }
                    _ => missing,
                }
            }
            HFError::EntryNotFound { path, .. } => format!("{path} is listed but not there; try another revision"),
            HFError::RateLimited { retry_after, .. } => match retry_after {
                Some(wait) => {
                    format!("{} asks to wait {} s; run the command again then", self.endpoint, wait.as_secs())
                }
                None => format!("{} asks to wait; run the command again later", self.endpoint),
            },
            HFError::Request { source, .. } if source.is_connect() || source.is_timeout() => format!(
                "{} cannot be reached ({}); check the network and HF_ENDPOINT, or give a folder",
                self.endpoint,
                root_cause(source)
            ),
            HFError::Request { source, .. } => interrupted(root_cause(source)),
            HFError::Xet { source, .. } => interrupted(root_cause(source.as_ref())),
            HFError::Http { context } => format!("{} answers with status {}; try later", self.endpoint, context.status),
            HFError::Io(error) => {
                format!("writing to the cache failed ({error}); free space, or set HF_HOME elsewhere")
            }
            HFError::CacheLockTimeout { path } => {
                format!(
                    "another program has been fetching the same file; if none is running, delete {}",
                    path.display()
                )
            }
            error => one_line(&error.to_string()),
        })
    }
}

/// Whether the server could not be reached at all, or is out of order.
fn is_unreachable(error: &HFError) -> bool {
    match error {
        HFError::Request { source, .. } => source.is_connect() || source.is_timeout(),
        HFError::Http { context } => context.status.is_server_error(),
        _ => false,
    }
}

/// The innermost cause, which says most in fewest words.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    one_line(&cause.to_string())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Passes hf-hub's events on, and keeps the length that the server gave the file.
struct Watcher {
    progress: Option<Arc<dyn Progress>>,
    file: Mutex<String>,
    expected: AtomicU64,
}

impl Watcher {
    fn begin(&self, file: &str) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file.to_string();
        self.expected.store(0, Ordering::Relaxed);
    }

    fn end(&self, length: u64) {
        // A file that was in the cache already had no start, and is not worth a progress bar.
        if self.expected.load(Ordering::Relaxed) != 0 {
            self.tell(length, length);
        }
    }

    fn tell(&self, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).clone();
            progress.download(&file, done, total);
        }
    }
}

impl ProgressHandler for Watcher {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => {
                self.expected.store(*total_bytes, Ordering::Relaxed);
                self.tell(0, *total_bytes);
            }
            // The end is told by `end`, once the file has been checked.
            DownloadEvent::Progress { files } => {
                for file in files.iter().filter(|file| file.bytes_completed < file.total_bytes) {
                    self.tell(file.bytes_completed, file.total_bytes);
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, total_bytes, .. } if bytes_completed < total_bytes => {
                self.tell(*bytes_completed, *total_bytes);
            }
            DownloadEvent::AggregateProgress { .. } | DownloadEvent::Complete => {}
        }
    }
}
