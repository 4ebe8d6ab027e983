//! How a repository of the hub, a revision and a file of it are written.

/// One file of a repository on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubFile {
    /// `owner/name`.
    pub(super) repo: String,
    /// A branch, tag or commit; `main` where `None`.
    pub(super) revision: Option<String>,
    /// Its path in the repository, with `/`.
    pub(super) file: String,
}

impl HubFile {
    /// Reads `owner/name/path/to/file.safetensors[@revision]`, or the same of a `.gguf` file;
    /// `None` for what is not written so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
        let mut parts = path.splitn(3, '/');
        let (owner, name, file) = (parts.next()?, parts.next()?, parts.next()?);
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\\');
        let lower = file.to_ascii_lowercase();
        if ![".safetensors", ".gguf"].iter().any(|kind| lower.ends_with(kind)) || !file.split('/').all(plain) {
            return None;
        }
        let id = format!("{owner}/{name}{}", at(revision));
        let (repo, revision) = hub_id(&id)?;
        Some(Self { repo: repo.into(), revision: revision.map(String::from), file: file.into() })
    }
}

/// `@revision`, as it follows a name; "" for the usual one.
pub(super) fn at(revision: Option<&str>) -> String {
    revision.map_or_else(String::new, |revision| format!("@{revision}"))
}

/// Splits `owner/name[@revision]`; `None` where a part has characters that the hub does not allow.
pub(super) fn hub_id(text: &str) -> Option<(&str, Option<&str>)> {
    let (repo, revision) = match text.split_once('@') {
        Some((repo, revision)) => (repo, Some(revision)),
        None => (text, None),
    };
    let (owner, name) = repo.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("--")
            && !part.contains("..")
    };
    let plain_revision = |part: &str| {
        !part.is_empty()
            && part.len() <= 256
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
            && !part.starts_with(['-', '/', '.'])
            && !part.ends_with('/')
            && !part.contains("..")
            && !part.contains("//")
    };
    (plain(owner) && plain(name) && revision.is_none_or(plain_revision)).then_some((repo, revision))
}
