//! What the user names with `--model`.

use super::address::{self, Named};
use super::hub_name::{HubFile, hub_id};
use super::pickle::{PICKLES, pickle};
use crate::argument::MODEL;
use crate::{Error, Result};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    /// The default checkpoint, compiled into the binary.
    #[default]
    Embedded,
    /// A folder in the diffusers layout.
    Folder(PathBuf),
    /// A `.safetensors` file that holds a whole checkpoint in its authors' naming, or a
    /// `.safetensors` or `.gguf` file that holds the transformer of one.
    File(PathBuf),
    /// A repository on the hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// A branch, tag or commit; `main` where `None`.
        revision: Option<String>,
        /// A file in it, as [`File`](Self::File) is one; the repository itself is a checkpoint in
        /// the diffusers layout where `None`.
        file: Option<String>,
    },
}

impl FromStr for Source {
    type Err = Error;

    /// `embedded` or `default`, a `.safetensors` or `.gguf` file, or an existing folder. What is
    /// written like a path is one: it starts with `.`, `/` or `~`, or holds a backslash. Else
    /// `owner/name` or `owner/name/file.safetensors` (or `.gguf`), either with `@revision`, or the
    /// address of its page on the hub.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is none of these, and for weight files of other formats.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: String| Err(Error::argument(MODEL, reason));
        if text.is_empty() {
            return refuse("is empty; give `embedded`, a folder, or owner/name".into());
        }
        if text == "embedded" || text == "default" {
            return Ok(Self::Embedded);
        }
        match address::parse(text) {
            Some(Ok(Named::Repository { repo, revision })) => return Ok(Self::Hub { repo, revision, file: None }),
            Some(Ok(Named::File(HubFile { repo, revision, file }))) => {
                return Ok(Self::Hub { repo, revision, file: Some(file) });
            }
            Some(Err(reason)) => return refuse(reason),
            None => {}
        }
        let path = Path::new(text);
        let like_path = text.starts_with(['.', '/', '~']) || text.contains('\\');
        if !path.is_file()
            && !like_path
            && let Some(HubFile { repo, revision, file }) = HubFile::parse(text)
        {
            return Ok(Self::Hub { repo, revision, file: Some(file) });
        }
        if let Some(kind) = path.extension().and_then(|kind| kind.to_str()).filter(|_| !path.is_dir()) {
            match kind.to_ascii_lowercase().as_str() {
                kind if PICKLES.contains(&kind) => return refuse(pickle(text)),
                "safetensors" | "gguf" => return Ok(Self::File(path.to_path_buf())),
                "onnx" => return refuse(format!("{text}: .onnx files are not supported; give a diffusers folder")),
                _ => {}
            }
        }
        if path.is_dir() || (like_path && !path.exists()) {
            return Ok(Self::Folder(path.to_path_buf()));
        }
        if path.exists() {
            return refuse(format!(
                "{text} is a file, but not a .safetensors one; give such a file, or the folder that holds \
                model_index.json"
            ));
        }
        match hub_id(text) {
            Some((repo, revision)) => {
                Ok(Self::Hub { repo: repo.into(), revision: revision.map(String::from), file: None })
            }
            None => refuse(format!(
                "{text} is neither a folder nor a hub id; give `embedded`, a folder, owner/name or owner/name@revision"
            )),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Folder(path) | Self::File(path) => path.display().fmt(f),
            Self::Hub { repo, revision, file } => {
                f.write_str(repo)?;
                file.iter().try_for_each(|file| write!(f, "/{file}"))?;
                revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn words_paths_and_hub_ids_are_told_apart() {
        assert_eq!(parse("embedded"), Source::Embedded);
        assert_eq!(parse("default"), Source::Embedded);
        assert_eq!(parse("./no/such"), Source::Folder("./no/such".into()));
        assert_eq!(parse("/no/such"), Source::Folder("/no/such".into()));
        assert_eq!(parse("src"), Source::Folder("src".into()));
        assert_eq!(parse("./model.safetensors"), Source::File("./model.safetensors".into()));
        assert_eq!(parse("model.SafeTensors"), Source::File("model.SafeTensors".into()));
        assert_eq!(
            parse("stable-diffusion-v1-5/stable-diffusion-v1-5"),
            Source::Hub { repo: "stable-diffusion-v1-5/stable-diffusion-v1-5".into(), revision: None, file: None }
        );
        assert_eq!(
            parse("owner/name.v2@refs/pr/3"),
            Source::Hub { repo: "owner/name.v2".into(), revision: Some("refs/pr/3".into()), file: None }
        );
    }

    #[test]
    fn files_on_the_hub_are_told_from_files_here() {
        let hub = |file: &str, revision: Option<&str>| Source::Hub {
            repo: "owner/name".into(),
            revision: revision.map(String::from),
            file: Some(file.into()),
        };
        assert_eq!(parse("owner/name/model.safetensors"), hub("model.safetensors", None));
        assert_eq!(parse("owner/name/a/b.SafeTensors@refs/pr/3"), hub("a/b.SafeTensors", Some("refs/pr/3")));
        assert_eq!(parse("owner/name/x-Q8_0.gguf"), hub("x-Q8_0.gguf", None));
        let here = "tests/fixtures/adapters/kohya-sd1.safetensors";
        assert_eq!(parse(here), Source::File(here.into()), "a file that is there is meant");
        for path in ["./owner/name/x.safetensors", "name/x.safetensors", "x.safetensors", "a/../b/x.safetensors"] {
            assert!(matches!(parse(path), Source::File(_)), "{path}");
        }
        assert!("owner/name/model.ckpt".parse::<Source>().unwrap_err().to_string().contains("pickle"));
    }

    #[test]
    fn an_address_is_what_it_shows() {
        let site = "https://huggingface.co/owner/name";
        assert_eq!(parse(&format!("{site}/tree/fp16")), parse("owner/name@fp16"));
        assert_eq!(parse(&format!("{site}/blob/main/a/x.safetensors")), parse("owner/name/a/x.safetensors"));
        let error = "https://civitai.com/models/1".parse::<Source>().unwrap_err();
        assert!(error.to_string().contains("download the file") && error.exit_code() == 2, "{error}");
    }

    #[test]
    fn what_is_none_of_these_is_refused_with_the_reason() {
        let refusal = |text: &str| text.parse::<Source>().unwrap_err().to_string();
        assert!(refusal("").contains("is empty"));
        assert!(refusal("nonsense").contains("neither a folder nor a hub id"));
        assert!(refusal("a/b/c").contains("neither"));
        assert!(refusal("owner/../x").contains("neither"));
        assert!(refusal("owner/name@").contains("neither"));
        assert!(refusal("v1-5-pruned.ckpt").contains("pickle"));
        assert!(refusal("./model.BIN").contains("pickle"));
        assert!(refusal("Cargo.toml").contains("is a file, but not"));
        assert_eq!("".parse::<Source>().unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_source_is_shown_as_it_was_named() {
        for text in [
            "embedded",
            "./folder",
            "./model.safetensors",
            "owner/name",
            "owner/name@main",
            "a/b/c.safetensors",
            "a/b/c/d.safetensors@v1",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
    }
}
