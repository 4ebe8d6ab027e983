//! The small files that change a checkpoint (LoRAs and embeddings): finding them here or on the
//! hub, and opening them.

use super::address::{self, Named};
use super::hub::{self, HubOptions};
use super::hub_name::{self, HubFile};
use super::pickle::{PICKLES, pickle};
use super::progress::Progress;
use super::store::Store;
use super::weights::WeightFile;
use crate::argument::{self, Argument};
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A kind of small file: the argument that names it, and the names that programs give it in a
/// folder of its own. The first choice comes first.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdapterKind {
    pub(super) argument: Argument,
    usual: &'static [&'static str],
}

/// Who is told of a download, if anybody.
pub(super) type Told = Option<Arc<dyn Progress>>;

/// PEFT's own file of one adapter, and the settings beside it.
pub(super) const PEFT_FILE: &str = "adapter_model.safetensors";
pub(super) const PEFT_CONFIG: &str = "adapter_config.json";

/// diffusers' and PEFT's names.
pub(super) const LORA: AdapterKind =
    AdapterKind { argument: argument::LORA, usual: &["pytorch_lora_weights.safetensors", PEFT_FILE] };
/// The name of diffusers' training script.
pub(super) const EMBEDDING: AdapterKind =
    AdapterKind { argument: argument::EMBEDDING, usual: &["learned_embeds.safetensors"] };

impl AdapterKind {
    /// The file that the user names by `path`: itself, or the file that the folder `path` is about.
    /// Where there is neither, it is one of a repository on the hub, fetched if need be.
    pub(super) fn find(self, path: &Path, hub: &HubOptions, progress: Told) -> Result<PathBuf> {
        if path.is_file() {
            return Ok(path.to_path_buf());
        }
        if path.is_dir() {
            let names = Store::Folder(path.to_path_buf()).list("")?;
            let form = |name: &str| path.join(name).display().to_string();
            let refuse = |reason: String| Error::argument(self.argument, format!("{}: {reason}", path.display()));
            let name = self.pick(&names, &form).map_err(refuse)?;
            return Ok(path.join(name));
        }
        let Some(text) = path.to_str() else { return Ok(path.to_path_buf()) };
        let named = match address::parse(text) {
            Some(named) => named.map_err(|reason| Error::argument(self.argument, reason))?,
            None => match (HubFile::parse(text), hub_name::hub_id(text)) {
                (Some(file), _) => Named::File(file),
                (None, Some((repo, revision))) if !is_kind_of_file(path) => {
                    Named::Repository { repo: repo.into(), revision: revision.map(String::from) }
                }
                _ => return Ok(path.to_path_buf()),
            },
        };
        if let Named::File(HubFile { file, .. }) = &named
            && kind_of_file(Path::new(file)) != "safetensors"
        {
            return Err(Error::argument(self.argument, format!("{text} is no .safetensors file; give such a file")));
        }
        let found = self.fetch(&named, hub, progress);
        found.map_err(|error| if address::parse(text).is_some() { error } else { not_here(error, text) })
    }

    fn fetch(self, named: &Named, options: &HubOptions, progress: Told) -> Result<PathBuf> {
        let (Named::File(HubFile { repo, revision, .. }) | Named::Repository { repo, revision }) = named;
        let at = hub::Repository { repo, revision: revision.as_deref() };
        let form = |name: &str| format!("{repo}/{name}{}", hub_name::at(revision.as_deref()));
        let meant = |names: &[String]| match named {
            Named::File(HubFile { file, .. }) => Ok(file.clone()),
            Named::Repository { .. } => self.pick(names, &form),
        };
        let path = match named {
            Named::File(HubFile { file, .. }) => hub::file(at, file, options, progress.clone())?,
            Named::Repository { .. } => hub::picked(at, &meant, options, progress.clone())?,
        };
        // PEFT keeps the scale in a file beside its own.
        if path.ends_with(PEFT_FILE) && !path.with_file_name(PEFT_CONFIG).is_file() {
            let beside = |names: &[String]| {
                let name = meant(names).ok()?;
                Some(format!("{}{PEFT_CONFIG}", name.strip_suffix(PEFT_FILE)?))
            };
            hub::picked_if_any(at, &beside, options, progress)?;
        }
        Ok(path)
    }

    /// The one among the file `names` that is meant: of the usual name, or the only one; the error
    /// says why none is. `form` is how the user names a file of these.
    fn pick(self, names: &[String], form: &dyn Fn(&str) -> String) -> Result<String, String> {
        if let Some(usual) = self.usual.iter().find(|usual| names.iter().any(|name| name == *usual)) {
            return Ok(usual.to_string());
        }
        let ends = |name: &&String, kind: &str| name.to_ascii_lowercase().ends_with(&format!(".{kind}"));
        let top: Vec<&String> = names.iter().filter(|name| ends(name, "safetensors") && !name.contains('/')).collect();
        let all: Vec<&String> = names.iter().filter(|name| ends(name, "safetensors")).collect();
        match if top.is_empty() { all } else { top }.as_slice() {
            [only] => Ok(only.to_string()),
            [] => match names.iter().find(|name| PICKLES.iter().any(|kind| ends(name, kind))) {
                Some(name) => Err(pickle(name)),
                None => Err("holds no .safetensors file; give such a file".into()),
            },
            several => {
                const SHOWN: usize = 4;
                let shown: Vec<String> = several.iter().take(SHOWN).map(|name| form(name)).collect();
                let more =
                    if several.len() > SHOWN { format!(" or {} more", several.len() - SHOWN) } else { String::new() };
                Err(format!("holds {} .safetensors files; name one: {}{more}", several.len(), shown.join(" or ")))
            }
        }
    }
}

/// What the name of a file ends with after its last dot, in lower case; "" where there is no dot.
fn kind_of_file(path: &Path) -> String {
    path.extension().and_then(|kind| kind.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Whether the name ends as weight files do: such a path is no repository.
fn is_kind_of_file(path: &Path) -> bool {
    let kind = kind_of_file(path);
    kind == "safetensors" || PICKLES.contains(&kind.as_str())
}

/// Adds that what could not be had from the hub is not on disk either: a path may have been meant.
pub(super) fn not_here(error: Error, path: &str) -> Error {
    match error {
        Error::Hub { repo, reason } => {
            Error::Hub { repo, reason: format!("{reason} (nor is there a file {path} here)") }
        }
        other => other,
    }
}

/// Maps a small file that the user gives as `argument` to change a checkpoint.
pub(super) fn open(path: &Path, argument: Argument) -> Result<Arc<WeightFile>> {
    let kind = kind_of_file(path);
    if PICKLES.contains(&kind.as_str()) {
        return Err(Error::argument(argument, pickle(&path.display().to_string())));
    }
    if !path.is_file() {
        return Err(Error::argument(argument, format!("no file {}", path.display())));
    }
    let folder = Store::Folder(path.parent().unwrap_or(Path::new("")).into());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Arc::new(WeightFile::open(&folder, &name)?))
}

/// What tells adapters apart in a digest; `settings` are those of a file beside it, if any.
pub(super) fn fingerprint(file: &WeightFile, weight: f64, settings: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    file.fingerprint(file.names(), &mut |bytes| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    });
    hash.update(weight.to_le_bytes());
    hash.update(settings);
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_meant_is_picked() {
        let pick = |kind: AdapterKind, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            kind.pick(&names, &|name| format!("here/{name}"))
        };
        let usual = "pytorch_lora_weights.safetensors";
        assert_eq!(pick(LORA, &["a.safetensors", usual, "README.md"]), Ok(usual.into()));
        assert_eq!(pick(LORA, &["a.safetensors", PEFT_FILE]), Ok(PEFT_FILE.into()));
        assert_eq!(pick(LORA, &["README.md", "a.SafeTensors"]), Ok("a.SafeTensors".into()));
        assert_eq!(pick(LORA, &["x/a.safetensors", "b.safetensors"]), Ok("b.safetensors".into()));
        assert_eq!(pick(LORA, &["x/a.safetensors", "x.bin"]), Ok("x/a.safetensors".into()));
        assert_eq!(
            pick(EMBEDDING, &["learned_embeds.safetensors", "b.safetensors"]),
            Ok("learned_embeds.safetensors".into())
        );
        let message = pick(LORA, &["a.safetensors", "b.safetensors"]).unwrap_err();
        assert!(message.contains("2 .safetensors files") && message.contains("here/a.safetensors or"), "{message}");
        assert!(pick(LORA, &["pytorch_lora_weights.bin"]).unwrap_err().contains("Python pickle"));
        assert!(pick(LORA, &[]).unwrap_err().contains("no .safetensors file"));
    }
}
