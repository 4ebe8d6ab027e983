//! Which files of a run's folder are attnmap's own; all others are the user's.

use super::record::FILE;
use crate::Result;
use crate::argument::RUN;
use crate::files::{Kind, has_fields, has_metadata, is_own, not_own};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// A run: a folder whose `run.json` attnmap wrote.
pub const KIND: Kind = Kind { name: "a run", is: |folder| Known::read(folder).is_some(), owns };

/// Files that every run has.
const FILES: [&str; 5] = [FILE, "image.png", "trace.safetensors", "heatmaps.safetensors", "words.png"];

/// Files that some runs have, and that others could make under these names: they carry the mark.
const MARKED: [&str; 4] = ["report.html", "why.json", "components.json", "components.png"];

/// JSON files without the mark that some runs have, with fields by which they are known.
const KNOWN: [(&str, &[&str]); 3] = [
    ("evidence.json", &["format_version", "cut", "words"]),
    ("attribution.json", &["format_version", "regions"]),
    (CELL, &["cell", "top", "map"]),
];

/// The file that makes a run a cell of a gallery, and what it has then.
const CELL: &str = "cell.json";
const OF_A_CELL: [&str; 2] = ["thumb.jpg", "maps.png"];

/// Tensors that some runs have, with a field of their metadata.
const TENSORS: [(&str, &str); 2] = [("evidence.safetensors", "cut"), (crate::trace::QUERIES, "encoders")];

/// Files that a run has which set out from a picture.
const START: [&str; 2] = ["init.png", "mask.png"];

/// Folders for pictures that carry attnmap's mark, and for the numbers beside them.
const FOLDERS: [&str; 10] = [
    "overlays",
    "causal",
    "counterfactual",
    "weights",
    "animations",
    "self-attention",
    "ties",
    "versus",
    super::regions::REGIONS,
    "why",
];

/// What `run.json` tells of the files beside it, whatever version wrote it.
#[derive(Deserialize)]
struct Known {
    #[serde(rename = "format_version")]
    _format_version: u64,
    #[serde(rename = "attnmap")]
    _attnmap: String,
    #[serde(flatten)]
    rest: Value,
}

impl Known {
    fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&crate::files::read(&folder.join(FILE)).ok()?).ok()
    }

    /// The overlays by their names from the folder.
    fn overlays(&self) -> BTreeSet<String> {
        let words = ["words", "probes"].into_iter().filter_map(|name| self.rest[name].as_array()).flatten();
        words.filter_map(|word| word["overlay"].as_str().map(str::to_owned)).collect()
    }

    /// What another program drew keeps no picture that it set out from.
    fn has_start(&self) -> bool {
        self.rest["settings"]["strength"].is_number() && self.rest["kind"] != "record"
    }
}

/// Which files of the run in `folder` are attnmap's, by their path in it.
pub(super) fn owns(folder: &Path) -> Box<dyn Fn(&Path) -> bool> {
    let Some(known) = Known::read(folder) else { return Box::new(|_| false) };
    // Pictures of before they had a mark are named there.
    let evidence = crate::files::read(&folder.join("evidence.json")).unwrap_or_default();
    let evidence = String::from_utf8(evidence).unwrap_or_default();
    let (overlays, has_start, folder) = (known.overlays(), known.has_start(), folder.to_path_buf());
    Box::new(move |path| {
        let parts: Vec<&str> = path.components().filter_map(name).collect();
        match parts.as_slice() {
            [name] if START.contains(name) => has_start,
            [name] if FILES.contains(name) => true,
            [name] if MARKED.contains(name) => is_own(&folder.join(path)),
            [name] if OF_A_CELL.contains(name) => is_known(&folder, CELL),
            [name] => is_known(&folder, name),
            ["steps", name] => {
                name.strip_suffix(".png").is_some_and(|step| step.parse::<u32>().is_ok()) && is_own(&folder.join(path))
            }
            [inside, name] if FOLDERS.contains(inside) => {
                let named = format!("{inside}/{name}");
                overlays.contains(&named) || evidence.contains(&format!("\"{named}\"")) || is_own(&folder.join(path))
            }
            _ => false,
        }
    })
}

/// Whether the file `name` of `folder` holds what attnmap writes under that name.
fn is_known(folder: &Path, name: &str) -> bool {
    let path = folder.join(name);
    let json = KNOWN.iter().find(|(known, _)| *known == name);
    let tensors = TENSORS.iter().find(|(known, _)| *known == name);
    // What is damaged beside the numbers of the same test is of that test.
    let beside = name == "evidence.safetensors" && is_known(folder, "evidence.json");
    json.is_some_and(|(_, fields)| has_fields(&path, fields))
        || tensors.is_some_and(|(_, field)| has_metadata(&path, field))
        || beside
}

/// Refuses to write the files `names` of the run folder `folder` where the user has one of them.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) naming the file.
pub fn check_names(folder: &Path, names: &[&str]) -> Result<()> {
    let owns = owns(folder);
    let mine = |name: &&&str| folder.join(name).symlink_metadata().is_ok() && !owns(Path::new(name));
    match names.iter().find(mine) {
        Some(name) => Err(not_own(&folder.join(name), RUN)),
        None => Ok(()),
    }
}

fn name(part: Component<'_>) -> Option<&str> {
    match part {
        Component::Normal(name) => Some(name.to_str().unwrap_or("?")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_run_knows_its_own_files() {
        let folder = tempfile::tempdir().unwrap();
        let is = || (KIND.is)(folder.path());
        for other in ["", "{}", r#"{"format_version": 1}"#, r#"{"attnmap": "0.1.0"}"#, "[1]"] {
            fs::write(folder.path().join(FILE), other).unwrap();
            assert!(!is(), "{other}");
        }
        let json = r#"{"format_version": 1, "attnmap": "0.1.0", "settings": {},
            "words": [{"overlay": "overlays/00-a.png"}], "probes": [{"overlay": "overlays/01-b.png"}]}"#;
        fs::write(folder.path().join(FILE), json).unwrap();
        fs::create_dir(folder.path().join("self-attention")).unwrap();
        fs::write(folder.path().join("self-attention/pixel-1-2.json"), r#"{"attnmap": "0.1.0"}"#).unwrap();
        fs::write(folder.path().join("attribution.json"), r#"{"format_version": 1, "regions": []}"#).unwrap();
        let mine = ["evidence.json", "evidence.safetensors", "components.json", "cell.json", "maps.png"];
        mine.iter().for_each(|name| fs::write(folder.path().join(name), "mine").unwrap());
        assert!(is());
        let owns = owns(folder.path());
        let own = |path: &str| owns(Path::new(path));
        for path in [
            "run.json",
            "image.png",
            "overlays/00-a.png",
            "overlays/01-b.png",
            "attribution.json",
            "self-attention/pixel-1-2.json",
        ] {
            assert!(own(path), "{path}");
        }
        for path in mine {
            assert!(!own(path), "{path}");
            let refused = check_names(folder.path(), &["image.png", path]).unwrap_err().to_string();
            assert!(refused.contains(path) && refused.contains("stays"), "{refused}");
        }
        fs::write(folder.path().join("cell.json"), r#"{"cell": {}, "top": 1, "map": {}}"#).unwrap();
        assert!(own("maps.png") && own("cell.json"), "a cell has its maps");
        for path in [
            "notes.txt",
            "mask.png",
            "overlays/02-c.png",
            "steps/x.png",
            "steps/07.png",
            "mine/image.png",
            "self-attention/pixel-1-3.json",
            "a/b/c",
        ] {
            assert!(!own(path), "{path}");
        }
        fs::write(folder.path().join(FILE), json.replace(r#""settings": {}"#, r#""settings": {"strength": 0.8}"#))
            .unwrap();
        assert!(super::owns(folder.path())(Path::new("mask.png")), "a run that set out from a picture has its mask");
        let recorded = r#""kind": "record", "settings": {"strength": 0.8}"#;
        fs::write(folder.path().join(FILE), json.replace(r#""settings": {}"#, recorded)).unwrap();
        assert!(!super::owns(folder.path())(Path::new("mask.png")), "a recorded run keeps no picture of its own");
    }
}
