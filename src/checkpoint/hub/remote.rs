//! One revision of a repository on the server: what it has, fetching it, and what each failure
//! means.

use super::cache::{Lacking, Local, damage};
use super::environment;
use super::failure::RequestFailure;
use super::needs::{is_commit, optional, required};
use super::options::HubOptions;
use super::server::HubServer;
use super::transfer;
use crate::argument::MODEL;
use crate::checkpoint::config::ModelIndex;
use crate::checkpoint::configs::Configs;
use crate::checkpoint::part::Part;
use crate::checkpoint::pickle::PICKLES;
use crate::checkpoint::progress::Progress;
use crate::checkpoint::store::Store;
use crate::checkpoint::weights::{Choice, choose_all, shards};
use crate::one_line;
use crate::{Error, Result};
use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// What a name in an address is written with besides letters and digits.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// A list of files is never longer.
const LISTING: u64 = 1 << 26;

/// One revision of a repository on the server.
pub(super) struct Remote<'a> {
    /// As the user named it.
    id: String,
    repo: String,
    local: &'a Local<'a>,
    server: HubServer,
    progress: Option<Arc<dyn Progress>>,
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
        options: &HubOptions,
        local: &'a Local<'a>,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<Self> {
        let refuse = |reason: String| Error::Hub { repo: id.clone(), reason };
        let endpoint = environment::endpoint(options.endpoint.as_deref()).map_err(refuse)?;
        let token = environment::token(options.token.as_deref()).map_err(refuse)?;
        Ok(Self { id, repo: repo.to_owned(), local, server: HubServer::new(endpoint, token), progress })
    }

    /// The addresses of `revision` as hf-hub makes them.
    fn addresses(&self, revision: &str) -> Repo {
        let revision = utf8_percent_encode(revision, PLAIN).to_string();
        Repo::with_revision(self.repo.clone(), RepoType::Model, revision)
    }

    /// The commit of the revision and the names of its files.
    fn listing(&self) -> Result<Listing, RequestFailure> {
        let url = format!("{}/api/{}", self.server.endpoint(), self.addresses(self.local.revision).api_url());
        let json = self.server.read(&url, LISTING)?;
        let info: RepoInfo = serde_json::from_slice(&json).map_err(|error| {
            RequestFailure::Nonsense(format!("a list of files that cannot be read ({})", one_line(&error.to_string())))
        })?;
        if !is_commit(&info.sha) {
            return Err(RequestFailure::Nonsense("a list of files without a commit".into()));
        }
        // A name leads to a place in the cache: never out of it.
        let inside = |name: &String| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let names = info.siblings.into_iter().map(|file| file.rfilename).filter(inside).collect();
        Ok(Listing { commit: info.sha, names })
    }

    /// What the cache has, where the server does not answer: that is as good as it was. Else the
    /// failure.
    fn without_server(&self, failure: RequestFailure, cached: Result<PathBuf, Lacking>) -> Result<PathBuf> {
        match cached {
            Ok(path) if failure.is_unreachable() => Ok(path),
            Err(problem @ Lacking::Damaged(..)) if failure.is_unreachable() => {
                let problem = problem.describe(&self.local.folder);
                Err(self.refuse(format!("{} (the cache {problem})", self.explain(failure, None))))
            }
            _ => Err(self.refuse(self.explain(failure, None))),
        }
    }

    /// See [`file`](super::file).
    pub(super) fn file(&self, name: &str) -> Result<PathBuf> {
        let Listing { commit, names } = match self.listing() {
            Ok(listing) => listing,
            Err(failure) => return self.without_server(failure, self.local.file(name)),
        };
        if !names.iter().any(|known| known == name) {
            let others = self.single_files(&names);
            let others =
                if others.is_empty() { "it has no single file".to_owned() } else { format!("it has {others}") };
            return Err(self.refuse(format!("has no {name}; {others}")));
        }
        let path = self.fetch(name, &commit)?;
        self.local.point_at(&commit)?;
        Ok(path)
    }

    /// See [`picked`](super::picked).
    pub(super) fn picked(&self, pick: &dyn Fn(&[String]) -> Result<String, String>) -> Result<PathBuf> {
        let Listing { commit, names } = match self.listing() {
            Ok(listing) => listing,
            Err(failure) => return self.without_server(failure, self.local.picked(pick)),
        };
        let name = pick(&names).map_err(|reason| self.refuse(reason))?;
        let path = self.fetch(&name, &commit)?;
        self.local.point_at(&commit)?;
        Ok(path)
    }

    /// See [`snapshot`](super::snapshot).
    pub(super) fn snapshot(&self, variant: Option<&str>) -> Result<PathBuf> {
        let Listing { commit, names } = match self.listing() {
            Ok(listing) => listing,
            Err(failure) => return self.without_server(failure, self.local.snapshot_whole(variant)),
        };
        self.check_kind(&names)?;

        let index = self.fetch("model_index.json", &commit)?;
        let folder = index.parent().ok_or_else(|| self.refuse("the cache has no folder"))?.to_path_buf();
        let json = fs::read(&index).map_err(Error::io(&index))?;
        let index = ModelIndex::from_json(&json, Path::new(&format!("{}/model_index.json", self.id)))?;

        // What cannot be used is refused before gigabytes are fetched: weights of a refused kind,
        // configs.
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
        Configs::read(&Store::Folder(folder.clone()))?;

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
        self.local.point_at(&commit)?;
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
                self.refuse(format!("has no model_index.json, but single files: give one with {MODEL} {files}"))
            );
        }
        let has = |kind: &str| names.iter().find(|name| name.ends_with(kind));
        let other = if let Some(name) = PICKLES.iter().find_map(|kind| has(&format!(".{kind}"))) {
            format!("; {name} is a Python pickle, which can run any code when read")
        } else if let Some(name) = has(".onnx") {
            format!("; {name} is of another program's format")
        } else {
            String::new()
        };
        Err(self.refuse(format!("has no model_index.json{other}: give a repository in the diffusers layout")))
    }

    /// The files that may each be a whole checkpoint, a transformer or an adapter, as they are
    /// given on the command line.
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
            [".safetensors", ".gguf"].iter().any(|kind| stem.ends_with(kind))
                && !PARTS.contains(&folder)
                && !stem.contains("-of-0")
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

    /// The path of `name` in the cache, fetched if it is not there or damaged.
    fn fetch(&self, name: &str, commit: &str) -> Result<PathBuf> {
        let pointer = self.local.pointer(commit, name);
        if pointer.is_file() && damage(&pointer, name).is_none() {
            return Ok(pointer);
        }
        let told = |done: u64, total: u64| {
            if let Some(progress) = &self.progress {
                progress.download(name, done, total);
            }
        };
        let steps: Vec<String> = name.split('/').map(|step| utf8_percent_encode(step, PLAIN).to_string()).collect();
        let addresses = self.addresses(commit);
        let url = format!(
            "{}/{}/resolve/{}/{}",
            self.server.endpoint(),
            addresses.url(),
            addresses.url_revision(),
            steps.join("/")
        );
        transfer::fetch(&self.server, &url, (self.local, commit, name), &told)
            .map_err(|failure| self.refuse(self.explain(failure, Some(name))))
    }

    fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Hub { repo: self.id.clone(), reason: reason.into() }
    }

    /// What a failure means for the user; `file` is what was being fetched.
    fn explain(&self, failure: RequestFailure, file: Option<&str>) -> String {
        self.server.without_secrets(&self.meaning(failure, file))
    }

    fn meaning(&self, failure: RequestFailure, file: Option<&str>) -> String {
        let endpoint = self.server.endpoint();
        let page = format!("{endpoint}/{}", self.repo);
        let revision = self.local.revision;
        let missing = format!(
            "no such repository on {endpoint}, or it is private; check the spelling, or set HF_TOKEN to a token \
            that may read it"
        );
        let gated = format!(
            "the repository is gated; accept its licence on {page} and set HF_TOKEN to a token of that account"
        );
        match failure {
            RequestFailure::Unreachable(cause) => {
                format!("{endpoint} cannot be reached ({cause}); check the network and HF_ENDPOINT, or give a folder")
            }
            RequestFailure::Interrupted(cause) => match file {
                Some(file) => format!("the download of {file} was interrupted ({cause}); run the command again"),
                None => format!("the answer of {endpoint} was cut off ({cause}); run the command again"),
            },
            RequestFailure::Damaged(problem) => {
                format!("{} arrived damaged ({problem}); run the command again", file.unwrap_or("the list of files"))
            }
            RequestFailure::Nonsense(what) => {
                format!("{endpoint} answers with {what}; check HF_ENDPOINT, or give a folder")
            }
            RequestFailure::Cache(path, error) => format!(
                "writing to the cache failed ({}: {error}); free space there, or set HF_HOME to another folder",
                path.display()
            ),
            RequestFailure::Locked(path) => format!(
                "another program has been fetching the same file; if none is running, delete {}",
                path.display()
            ),
            RequestFailure::Status(answer) => match (answer.status.as_u16(), answer.code.as_str()) {
                (401 | 403, "GatedRepo") | (403, "") => gated,
                (401, "RepoNotFound" | "") | (403, "RepoNotFound") => missing,
                (status @ (401 | 403), _) => format!(
                    "{endpoint} refused access ({status}{}); set HF_TOKEN to a token that may read it",
                    answer.message.map(|text| format!(": {}", one_line(&text))).unwrap_or_default()
                ),
                (404, "RevisionNotFound") => format!("has no revision `{revision}`; see the branches on {page}"),
                (404, "EntryNotFound") => match file {
                    Some(file) => format!("{file} is listed but not there; try another revision"),
                    None => missing,
                },
                (404, "") if revision != "main" => {
                    format!("no such repository or revision on {endpoint}; check the spelling")
                }
                (404, _) => missing,
                (429, _) => match answer.wait {
                    Some(wait) => format!("{endpoint} asks to wait {} s; run the command again then", wait.as_secs()),
                    None => format!("{endpoint} asks to wait; run the command again later"),
                },
                (status, _) => format!("{endpoint} answers with status {status}; try later"),
            },
        }
    }
}
