//! One revision of a repository on the server: what it has, fetching it, and what each failure means.

use super::cache::Local;
use super::watcher::Watcher;
use super::{HubOptions, is_commit, optional, required};
use crate::checkpoint::config::ModelIndex;
use crate::checkpoint::store::Store;
use crate::checkpoint::weights::{Choice, choose_all, shards};
use crate::checkpoint::{Checkpoint, Part, Progress, source};
use crate::{Error, Result};
use hf_hub::progress::ProgressHandler;
use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One revision of a repository on the server.
pub(super) struct Remote<'a> {
    /// As the user named it.
    id: String,
    revision: &'a str,
    endpoint: String,
    repository: HFRepositorySync<RepoTypeModel>,
    watcher: Arc<Watcher>,
}

/// What a revision has.
struct Listing {
    commit: String,
    names: Vec<String>,
}

impl<'a> Remote<'a> {
    pub(super) fn new(
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
        let watcher = Arc::new(Watcher::new(progress));
        Ok(Self { id, revision, endpoint, repository, watcher })
    }

    /// The commit of the revision and the names of its files.
    fn listing(&self) -> Result<Result<Listing>, HFError> {
        let info = self.repository.info().revision(self.revision).send()?;
        let names = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename).collect();
        let commit = info.sha.filter(|sha| is_commit(sha)).ok_or_else(|| self.refuse("the server names no commit"));
        Ok(commit.map(|commit| Listing { commit, names }))
    }

    /// See [`file`](super::file).
    pub(super) fn file(&self, name: &str, local: &Local) -> Result<PathBuf> {
        let Listing { commit, names } = match self.listing() {
            Ok(listing) => listing?,
            Err(error) => {
                return match local.file(name) {
                    Ok(path) if is_unreachable(&error) => Ok(path),
                    _ => Err(self.explain(error, None)),
                };
            }
        };
        if !names.iter().any(|known| known == name) {
            let others = self.single_files(&names);
            let others =
                if others.is_empty() { "it has no single file".to_owned() } else { format!("it has {others}") };
            return Err(self.refuse(format!("has no {name}; {others}")));
        }
        let path = self.fetch(name, &commit)?;
        local.point_at(&commit)?;
        Ok(path)
    }

    /// See [`picked`](super::picked).
    pub(super) fn picked(&self, pick: &dyn Fn(&[String]) -> Result<String, String>, local: &Local) -> Result<PathBuf> {
        let Listing { commit, names } = match self.listing() {
            Ok(listing) => listing?,
            Err(error) => {
                return match local.picked(pick) {
                    Ok(path) if is_unreachable(&error) => Ok(path),
                    _ => Err(self.explain(error, None)),
                };
            }
        };
        let name = pick(&names).map_err(|reason| self.refuse(reason))?;
        let path = self.fetch(&name, &commit)?;
        local.point_at(&commit)?;
        Ok(path)
    }

    /// See [`snapshot`](super::snapshot).
    pub(super) fn snapshot(&self, variant: Option<&str>, local: &Local) -> Result<PathBuf> {
        let Listing { commit, names } = match self.listing() {
            Ok(listing) => listing?,
            Err(error) => {
                // Without a network, what was fetched before is as good as it was then.
                return match local.snapshot_whole(variant) {
                    Ok(folder) if is_unreachable(&error) => Ok(folder),
                    _ => Err(self.explain(error, None)),
                };
            }
        };
        self.check_kind(&names)?;

        let index = self.fetch("model_index.json", &commit)?;
        let folder = index.parent().ok_or_else(|| self.refuse("the cache has no folder"))?.to_path_buf();
        let json = fs::read(&index).map_err(Error::io(&index))?;
        let index = ModelIndex::from_json(&json, Path::new(&format!("{}/model_index.json", self.id)))?;

        // What cannot be used is refused before gigabytes are fetched: weights of a refused kind, configs.
        let present = |part: Part| {
            let prefix = format!("{}/", part.folder());
            names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(String::from).collect()
        };
        let path = |part: Part| format!("{}/{}", self.id, part.folder()).into();
        let choices = choose_all(index.parts(), variant, &present, &path)?;
        for name in &required(&index) {
            if !names.iter().any(|known| known == name) {
                return Err(self.refuse(format!("has no {name}; it is not a whole Stable Diffusion pipeline")));
            }
            self.fetch(name, &commit)?;
        }
        for name in optional(&index).iter().filter(|name| names.iter().any(|known| known == *name)) {
            self.fetch(name, &commit)?;
        }
        Checkpoint::read_configs(Store::Folder(folder.clone()), self.id.clone())?;

        for (part, choice) in choices {
            let prefix = format!("{}/", part.folder());
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
        let files = self.single_files(names);
        if !files.is_empty() {
            return Err(
                self.refuse(format!("has no model_index.json, but single files: give one with --model {files}"))
            );
        }
        let has = |kind: &str| names.iter().find(|name| name.ends_with(kind));
        let other = if let Some(name) = source::PICKLES.iter().find_map(|kind| has(&format!(".{kind}"))) {
            format!("; {name} is a Python pickle, which can run any code when read")
        } else if let Some(name) = has(".gguf").or_else(|| has(".onnx")) {
            format!("; {name} is of another program's format")
        } else {
            String::new()
        };
        Err(self.refuse(format!("has no model_index.json{other}: give a repository in the diffusers layout")))
    }

    /// The safetensors files that may each be a whole checkpoint or an adapter, as they are given on the command line.
    fn single_files(&self, names: &[String]) -> String {
        const SHOWN: usize = 4;
        // Folders of a pipeline's parts, and its shards, hold no more than a part.
        const PARTS: [&str; 8] = [
            "text_encoder",
            "text_encoder_2",
            "text_encoder_3",
            "unet",
            "transformer",
            "vae",
            "safety_checker",
            "image_encoder",
        ];
        let single = |name: &&String| {
            let (folder, stem) = name.rsplit_once('/').unwrap_or(("", name));
            stem.ends_with(".safetensors") && !PARTS.contains(&folder) && !stem.contains("-of-0")
        };
        let mut found: Vec<&String> = names.iter().filter(single).collect();
        found.sort_by_key(|name| (name.matches('/').count(), *name));
        let (repo, at) = match self.id.split_once('@') {
            Some((repo, revision)) => (repo, format!("@{revision}")),
            None => (self.id.as_str(), String::new()),
        };
        let mut text =
            found.iter().take(SHOWN).map(|name| format!("{repo}/{name}{at}")).collect::<Vec<_>>().join(" or ");
        if found.len() > SHOWN {
            text += &format!(" or {} more", found.len() - SHOWN);
        }
        text
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
        let expected = self.watcher.expected();
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
