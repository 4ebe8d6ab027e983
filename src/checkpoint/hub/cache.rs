//! What the hub's cache on disk has: whole snapshots, single files, and the list of all pipelines
//! in it.

use super::needs::{is_commit, optional, required};
use super::options::HubOptions;
use crate::checkpoint::config::{ModelIndex, parse_json};
use crate::checkpoint::store::Store;
use crate::checkpoint::weights::{WeightFile, part_files};
use crate::{Error, Result, files};
use sha1::Sha1;
use sha2::digest::Update;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
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
            // What is being written is hidden.
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
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

/// Adds the names of all files below `folder`, with `/`, each after `prefix`.
fn files_below(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files_below(&entry.path(), &format!("{name}/"), found);
        } else if entry.path().is_file() {
            found.push(name);
        }
    }
}

/// What the cache has of one repository.
pub(super) struct Local<'a> {
    /// `models--owner--name`.
    pub(super) folder: PathBuf,
    pub(super) revision: &'a str,
    /// The folder of the locks of this repository.
    locks: PathBuf,
}

/// Why the cache alone does not do.
pub(super) enum Lacking {
    /// It has nothing of this revision.
    All,
    /// Something is missing or wrong.
    Some(Error),
    /// This file is missing.
    File(String),
    /// This file is not what it should be: its name, what is wrong with it, and where its content
    /// lies.
    Damaged(String, String, PathBuf),
}

impl Lacking {
    /// What the folder `cache` lacks, as the end of a sentence that begins with "the cache".
    pub(super) fn describe(&self, cache: &Path) -> String {
        match self {
            Self::All => format!("{} does not have it", cache.display()),
            Self::File(name) => format!("{} does not have {name}", cache.display()),
            Self::Some(error) => format!("{} has an incomplete copy ({error})", cache.display()),
            Self::Damaged(name, problem, blob) => format!(
                "{} has a damaged {name}, which {problem}: delete {}, and it is fetched again",
                cache.display(),
                blob.display()
            ),
        }
    }
}

impl<'a> Local<'a> {
    /// What the folder `cache` has of `repo`.
    pub(super) fn new(cache: &Path, repo: &str, revision: &'a str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { folder: cache.join(&name), revision, locks: cache.join(".locks").join(name) }
    }

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

    /// The snapshot of the revision, if it has every file that is needed, and none is damaged.
    pub(super) fn snapshot_whole(&self, variant: Option<&str>) -> Result<PathBuf, Lacking> {
        let folder = self.snapshot().ok_or(Lacking::All)?;
        let store = Store::Folder(folder.clone());
        let sound = |name: &str| sound(&folder, name);
        sound("model_index.json")?;
        let index = store.read_required("model_index.json", "it").map_err(Lacking::Some)?;
        let index = ModelIndex::from_json(&index, &store.path("model_index.json")).map_err(Lacking::Some)?;
        for name in optional(&index) {
            sound(&name)?;
        }
        for name in required(&index) {
            sound(&name)?;
            store.read_required(&name, "it").map_err(Lacking::Some)?;
        }
        for name in part_files(&store, index.parts(), variant).map_err(Lacking::Some)?.into_values().flatten() {
            sound(&name)?;
        }
        Ok(folder)
    }

    /// The file `name` of the revision.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf, Lacking> {
        let folder = self.snapshot().ok_or(Lacking::All)?;
        sound(&folder, name)?;
        let path = folder.join(name);
        if path.is_file() { Ok(path) } else { Err(Lacking::File(name.to_owned())) }
    }

    /// The file that `pick` chooses among those of the revision's snapshot.
    pub(super) fn picked(&self, pick: &dyn Fn(&[String]) -> Result<String, String>) -> Result<PathBuf, Lacking> {
        let folder = self.snapshot().ok_or(Lacking::All)?;
        let mut names = Vec::new();
        files_below(&folder, "", &mut names);
        names.sort();
        match pick(&names) {
            Ok(name) => sound(&folder, &name).map(|()| folder.join(name)),
            Err(_) => Err(Lacking::File("the file of it that is meant".into())),
        }
    }

    /// Lets the branch or tag point at `commit`, so that it is found without a network.
    #[cfg(feature = "hub")]
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
        files::write_file(&path, |file| file.write_all(commit.as_bytes()))
    }

    /// Where the content with this name lies.
    #[cfg(feature = "hub")]
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where the file `name` of `commit` lies.
    #[cfg(feature = "hub")]
    pub(super) fn pointer(&self, commit: &str, name: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(name)
    }

    /// The file that a program locks while it fetches the content with this name.
    #[cfg(feature = "hub")]
    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// Lets the file `name` of `commit` lead to `blob`; where links cannot be made, as in Python,
    /// the content itself goes there.
    #[cfg(feature = "hub")]
    pub(super) fn link(&self, blob: &Path, commit: &str, name: &str) -> io::Result<()> {
        let pointer = self.pointer(commit, name);
        if let Some(folder) = pointer.parent() {
            fs::create_dir_all(folder)?;
        }
        if let (Ok(old), Ok(new)) = (fs::canonicalize(&pointer), fs::canonicalize(blob))
            && old == new
        {
            return Ok(());
        }
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Relative, so that the cache can be moved: up from the file's folder, the commit's and
        // `snapshots`.
        let up = "../".repeat(name.matches('/').count() + 2);
        let content = blob.file_name().unwrap_or_default();
        match symlink(&Path::new(&up).join("blobs").join(content), &pointer) {
            Err(_) => fs::rename(blob, &pointer),
            made => made,
        }
    }
}

#[cfg(all(feature = "hub", unix))]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(all(feature = "hub", windows))]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, at)
}

/// Says where the file `name` of a snapshot is there, but damaged.
fn sound(folder: &Path, name: &str) -> Result<(), Lacking> {
    let path = folder.join(name);
    let damaged = |problem| Lacking::Damaged(name.into(), problem, fs::canonicalize(&path).unwrap_or(path.clone()));
    damage(&path, name).map_or(Ok(()), |problem| Err(damaged(problem)))
}

/// Content of up to this many bytes is checked by its digest whenever it is used.
const SMALL: u64 = 1 << 24;

/// What is wrong with the content of `path`, a file of the cache that a repository calls `name`;
/// `None` where it is not there.
///
/// The cache names content by its SHA-256, or (small files) by what git calls it. Large files are
/// checked by their header, which tells their length. The digest is taken only where that is wrong,
/// as a server may have such a file.
pub(super) fn damage(path: &Path, name: &str) -> Option<String> {
    let content = fs::canonicalize(path).ok()?;
    let length = fs::metadata(&content).ok()?.len();
    let promised = content.file_name()?.to_str()?.to_lowercase();
    let problem = match length {
        ..=SMALL => matches(&content, length, &promised)
            .map_or_else(|| unreadable(&content, name), |same| (!same).then(|| "is not what was fetched".into())),
        _ => unreadable(&content, name).filter(|_| matches(&content, length, &promised) != Some(true)),
    }?;
    Some(if length == 0 { "is empty".into() } else { problem })
}

/// Whether the digest of `content` is `promised`; `None` where that is no digest, or the content
/// cannot be read.
fn matches(content: &Path, length: u64, promised: &str) -> Option<bool> {
    if !promised.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match promised.len() {
        64 => Some(hex_of(digest(content, Sha256::new())?) == promised),
        // git's name of a file; servers other than the hub leave git's prefix out.
        40 => {
            let named = Sha1::new_with_prefix(format!("blob {length}\0"));
            Some(
                [named, Sha1::new()]
                    .into_iter()
                    .any(|start| digest(content, start).is_some_and(|digest| hex_of(digest) == promised)),
            )
        }
        _ => None,
    }
}

fn digest<D: Digest + Update>(path: &Path, mut digest: D) -> Option<D> {
    let mut file = File::open(path).ok()?;
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(digest),
            length => Update::update(&mut digest, &buffer[..length]),
        }
    }
}

/// The digits of a digest.
pub(super) fn hex_of(digest: impl Digest) -> String {
    crate::text::hex(&digest.finalize())
}

/// Why `content` cannot be what `name` says, as far as a look at it tells.
fn unreadable(content: &Path, name: &str) -> Option<String> {
    const AGAIN: &str = "; fetch it again";
    let quantised = name.ends_with(".gguf");
    if quantised || name.ends_with(".safetensors") {
        let store = Store::Folder(content.parent()?.to_path_buf());
        return match WeightFile::open(&store, content.file_name()?.to_str()?) {
            // A kind of GGUF that is not read is whole all the same.
            Err(Error::Weights { reason, .. }) if !quantised || reason.ends_with(AGAIN) => {
                Some(reason.trim_end_matches(AGAIN).into())
            }
            _ => None,
        };
    }
    if name.ends_with(".json") {
        let text = fs::read(content).ok()?;
        return parse_json(&text).err().map(|error| format!("is not JSON ({error})"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large files are not read through at every run.
    #[test]
    fn a_large_file_is_checked_by_its_header_and_by_its_digest_only_where_that_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let header = format!("{{\"a\":{{\"dtype\":\"U8\",\"shape\":[{0}],\"data_offsets\":[0,{0}]}}}}", SMALL);
        let mut content = (header.len() as u64).to_le_bytes().to_vec();
        content.extend(header.as_bytes());
        content.resize(content.len() + SMALL as usize, 1);
        let store = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let name = "0".repeat(64);
        // The name is no digest of the content, and nobody looks: the header is right.
        assert_eq!(damage(&store(&name, &content), "x.safetensors"), None);
        content.pop();
        let problem = damage(&store(&name, &content), "x.safetensors").unwrap();
        assert!(problem.contains("truncated") && !problem.contains("fetch"), "{problem}");
        let mut quantised = [&b"GGUF"[..], &3u32.to_le_bytes(), &1u64.to_le_bytes(), &0u64.to_le_bytes()].concat();
        quantised.resize(SMALL as usize + 1, 0xff);
        let problem = damage(&store(&name, &quantised), "x.gguf").unwrap();
        assert!(problem.contains("truncated") && !problem.contains("fetch"), "{problem}");
        // What the server itself has so is not fetched for ever.
        let digest = hex_of(Sha256::new_with_prefix(&content));
        assert_eq!(damage(&store(&digest, &content), "x.safetensors"), None);
    }

    #[test]
    fn small_files_are_checked_by_the_name_that_git_gives_them() {
        let folder = tempfile::tempdir().unwrap();
        // git hash-object of "hello\n", and sha1sum of it.
        for name in ["ce013625030ba8dba906f756967f9e9ca394464a", "f572d396fae9206628714fb2ce00f72e94f2258f"] {
            let path = folder.path().join(name);
            fs::write(&path, "hello\n").unwrap();
            assert_eq!(damage(&path, "merges.txt"), None);
            fs::write(&path, "hello").unwrap();
            assert_eq!(damage(&path, "merges.txt").as_deref(), Some("is not what was fetched"));
            fs::write(&path, "").unwrap();
            assert_eq!(damage(&path, "merges.txt").as_deref(), Some("is empty"));
        }
        // Where files lie without links, their names are no digests.
        let path = folder.path().join("config.json");
        fs::write(&path, "{}").unwrap();
        assert_eq!(damage(&path, "config.json"), None);
        // As Python writes a number without bounds, and editors begin a text.
        fs::write(&path, "\u{feff}{\"lambda_min_clipped\": -Infinity}").unwrap();
        assert_eq!(damage(&path, "config.json"), None);
        fs::write(&path, "{").unwrap();
        assert!(damage(&path, "config.json").unwrap().contains("not JSON"));
        assert_eq!(damage(&folder.path().join("absent"), "absent"), None);
    }
}
