//! Addresses of the hub's site, as people copy them from a browser, and what they name.

use super::hub_name::{self, HubFile, hub_id};
use super::pickle::{PICKLES, pickle};
use std::env;

/// What an address names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// A whole repository.
    Repository {
        /// `owner/name`.
        repo: String,
        /// A branch, tag or commit; `main` where `None`.
        revision: Option<String>,
    },
    /// One file of it.
    File(HubFile),
}

/// How a repository and its files are written.
const FORMS: &str = "write owner/name, owner/name@revision or owner/name/file.safetensors";

/// What `text` names, where it is an address; `None` where it is none. The error says why it cannot
/// be taken, and the form to write.
pub(super) fn parse(text: &str) -> Option<Result<Named, String>> {
    let (host, path) = split(text)?;
    if !is_hub(host) {
        return Some(Err(format!(
            "{text} is an address of {host}, and attnmap fetches from the hub alone; download the file and give its \
            path"
        )));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let steps: Vec<String> = path.split('/').filter(|step| !step.is_empty()).map(decoded).collect();
    let steps: Vec<&str> = steps.iter().flat_map(|step| step.split('/')).collect();
    Some(named(text, &steps))
}

/// Host and path of an address, with or without its scheme.
fn split(text: &str) -> Option<(&str, &str)> {
    if let Some(path) = text.strip_prefix("hf://") {
        return Some((HOSTS[0], path));
    }
    let rest = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some(_) => return None,
        None => HOSTS.iter().any(|host| text.starts_with(&format!("{host}/"))).then_some(text)?,
    };
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

/// Whether `host` is the hub's, or that of `HF_ENDPOINT`.
fn is_hub(host: &str) -> bool {
    let endpoint = env::var("HF_ENDPOINT").unwrap_or_default();
    let own = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
    HOSTS.contains(&host) || own.split('/').next().is_some_and(|own| !own.is_empty() && own == host)
}

fn named(text: &str, steps: &[&str]) -> Result<Named, String> {
    let unclear = |what: &str| Err(format!("{text} {what}; {FORMS}"));
    let (owner, name, rest) = match steps {
        [kind @ ("datasets" | "spaces" | "collections" | "papers"), ..] => {
            return Err(format!(
                "{text} lies among the hub's {kind}, and attnmap takes models; download the file and give its path"
            ));
        }
        [owner, name, rest @ ..] => (owner, name, rest),
        _ => return unclear("names no repository"),
    };
    let (name, at) = name.split_once('@').map_or((*name, None), |(name, at)| (name, Some(at)));
    // A pull request's branch has slashes of its own.
    let (kind, revision, path) = match rest {
        [kind, "refs", group, number, path @ ..] => (*kind, Some(format!("refs/{group}/{number}")), path),
        [kind @ ("tree" | "blob" | "resolve" | "raw" | "commit"), revision, path @ ..] => {
            (*kind, Some(revision.to_string()), path)
        }
        path => ("tree", at.map(String::from), path),
    };
    let revision = revision.filter(|revision| revision != "main");
    let at = hub_name::at(revision.as_deref());
    if hub_id(&format!("{owner}/{name}{at}")).is_none() {
        return unclear("names no repository");
    }
    let repo = format!("{owner}/{name}");
    match (kind, path) {
        ("tree" | "commit", []) | ("blob", ["model_index.json"]) => Ok(Named::Repository { repo, revision }),
        ("tree" | "blob" | "resolve" | "raw", [.., last]) => match last.rsplit_once('.').map(|(_, kind)| kind) {
            Some("safetensors" | "gguf") => match HubFile::parse(&format!("{repo}/{}{at}", path.join("/"))) {
                Some(file) => Ok(Named::File(file)),
                None => unclear("names no file that can be fetched"),
            },
            Some(kind) if PICKLES.contains(&kind) => Err(pickle(last)),
            _ => unclear("names a part of a repository"),
        },
        _ => unclear("names no model"),
    }
}

/// A step of a path without its `%` escapes.
fn decoded(step: &str) -> String {
    let bytes = step.as_bytes();
    let mut text = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 3).and_then(|code| std::str::from_utf8(code).ok());
        match code.filter(|_| bytes[at] == b'%').and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                text.push(byte);
                at += 3;
            }
            None => {
                text.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(revision: Option<&str>) -> Named {
        Named::Repository { repo: "owner/name".into(), revision: revision.map(String::from) }
    }

    fn file(path: &str, revision: Option<&str>) -> Named {
        Named::File(HubFile { repo: "owner/name".into(), revision: revision.map(String::from), file: path.into() })
    }

    #[test]
    fn addresses_of_the_hub_name_what_they_show() {
        let site = "https://huggingface.co/owner/name";
        for (text, expected) in [
            (site.to_string(), repository(None)),
            (format!("{site}/"), repository(None)),
            (format!("{site}/tree/main"), repository(None)),
            (format!("{site}/tree/fp16"), repository(Some("fp16"))),
            (format!("{site}/tree/refs%2Fpr%2F3"), repository(Some("refs/pr/3"))),
            (format!("{site}/commit/0123abc"), repository(Some("0123abc"))),
            (format!("{site}/blob/main/model_index.json"), repository(None)),
            (format!("{site}/blob/main/x.safetensors"), file("x.safetensors", None)),
            (format!("{site}/resolve/main/a/x.safetensors?download=true"), file("a/x.safetensors", None)),
            (format!("{site}/blob/main/x-Q8_0.gguf"), file("x-Q8_0.gguf", None)),
            (format!("{site}/blob/v1/x%20y.safetensors#L1"), file("x y.safetensors", Some("v1"))),
            ("huggingface.co/owner/name".into(), repository(None)),
            ("http://hf.co/owner/name/blob/main/x.safetensors".into(), file("x.safetensors", None)),
            ("hf://owner/name@v1".into(), repository(Some("v1"))),
            ("hf://owner/name/x.safetensors".into(), file("x.safetensors", None)),
        ] {
            assert_eq!(parse(&text), Some(Ok(expected)), "{text}");
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_form_to_write() {
        for (text, expected) in [
            ("https://huggingface.co/owner", "names no repository; write owner/name"),
            ("https://huggingface.co/owner/name/tree/main/unet", "names a part of a repository; write owner/name"),
            ("https://huggingface.co/owner/name/discussions/3", "write owner/name"),
            ("https://huggingface.co/owner/name/blob/main/x.ckpt", "Python pickle"),
            ("https://huggingface.co/datasets/owner/name", "among the hub's datasets"),
            ("https://civitai.com/models/3036", "an address of civitai.com"),
            ("https://huggingface.co/owner/..", "names no repository"),
        ] {
            let message = parse(text).unwrap().unwrap_err();
            assert!(message.contains(expected) && message.lines().count() == 1, "{text}: {message}");
        }
        for text in ["owner/name", "./huggingface.co/x", "c:/x.safetensors", "x.safetensors", ""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
