//! Which files a part's weights are in: one or several shards, of a variant where the part has it.

use crate::argument::VARIANT;
use crate::checkpoint::part::Part;
use crate::checkpoint::store::Store;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The weight files of each of `parts`, relative to the checkpoint: one, or the shards that an
/// index lists; see [`choose_all`].
///
/// # Errors
/// [`Error::Weights`] where a part has none, naming what is there instead; [`Error::Argument`] for
/// a variant that no part has.
pub(crate) fn part_files(
    store: &Store,
    parts: &[Part],
    variant: Option<&str>,
) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let mut present = BTreeMap::new();
    for part in parts {
        present.insert(part.folder(), store.list(part.folder())?);
    }
    let names = |part: Part| present.get(part.folder()).cloned().unwrap_or_default();
    let mut files = BTreeMap::new();
    for (part, choice) in choose_all(parts, variant, &names, &|part| store.path(part.folder()))? {
        let folder = part.folder();
        let list = match choice {
            Choice::Single(name) => vec![format!("{folder}/{name}")],
            Choice::Index(name) => listed(store, &format!("{folder}/{name}"), &names(part))?
                .into_iter()
                .map(|shard| format!("{folder}/{shard}"))
                .collect(),
        };
        files.insert(folder, list);
    }
    Ok(files)
}

/// The shards that the file `index` lists, all of which must be `present` beside it.
fn listed(store: &Store, index: &str, present: &[String]) -> Result<Vec<String>> {
    let refuse = |reason: String| Error::Weights { file: store.path(index), reason };
    let bytes = store.read_required(index, "the list of weight files")?;
    let shards = shards(&bytes).map_err(refuse)?;
    match shards.iter().find(|shard| !present.contains(shard)) {
        Some(shard) => Err(refuse(format!("names {shard}, which is not there; fetch it again"))),
        None => Ok(shards),
    }
}

/// Which file of a part's folder to read.
#[derive(Debug, PartialEq)]
pub(crate) enum Choice {
    /// A safetensors file.
    Single(String),
    /// An index of shards.
    Index(String),
}

/// Chooses for each of `parts` among the file names `present` in its folder. It takes those of the
/// variant where it has them, else the plain ones, as diffusers does
/// (`variant_compatible_siblings`). `path` is how errors name the folder.
///
/// # Errors
/// As [`part_files`].
pub(crate) fn choose_all(
    parts: &[Part],
    variant: Option<&str>,
    present: &dyn Fn(Part) -> Vec<String>,
    path: &dyn Fn(Part) -> PathBuf,
) -> Result<Vec<(Part, Choice)>> {
    let folders: Vec<(Part, Vec<String>)> = parts.iter().map(|&part| (part, present(part))).collect();
    if let Some(variant) = variant
        && !folders.iter().any(|(part, names)| of_variant(*part, Some(variant), names).is_some())
    {
        let others = folders.iter().flat_map(|(part, names)| variants(part.weight_stem(), names));
        let others: BTreeSet<String> = others.collect();
        let plain = folders.iter().all(|(part, names)| of_variant(*part, None, names).is_some());
        let way_out = match others.first() {
            _ if plain => format!("leave {VARIANT} out"),
            Some(other) => format!("{VARIANT} {other} is there"),
            None => format!("leave {VARIANT} out"),
        };
        let reason = format!("no part has a `{variant}` variant in safetensors; {way_out}");
        return Err(Error::argument(VARIANT, reason));
    }
    let choose = |(part, names): &(Part, Vec<String>)| {
        let choice = of_variant(*part, variant, names).or_else(|| of_variant(*part, None, names));
        let choice = choice.or_else(|| quantised(names));
        let choice = choice.ok_or_else(|| Error::Weights { file: path(*part), reason: lacking(*part, variant, names) });
        Ok((*part, choice?))
    };
    folders.iter().map(choose).collect()
}

/// The file of the variant (the plain one where that is `None`) among those `present`, if it is
/// there.
///
/// diffusers writes `diffusion_pytorch_model[.variant].safetensors` (transformers: `model...`), or
/// with shards `...safetensors.index[.variant].json`; other versions put the variant elsewhere into
/// the index's name. The index names its shards.
fn of_variant(part: Part, variant: Option<&str>, present: &[String]) -> Option<Choice> {
    let stem = part.weight_stem();
    let (single, indexes) = match variant {
        None => (format!("{stem}.safetensors"), vec![format!("{stem}.safetensors.index.json")]),
        Some(variant) => (
            format!("{stem}.{variant}.safetensors"),
            vec![
                format!("{stem}.safetensors.index.{variant}.json"),
                format!("{stem}.{variant}.safetensors.index.json"),
                format!("{stem}.safetensors.{variant}.index.json"),
            ],
        ),
    };
    if present.contains(&single) {
        return Some(Choice::Single(single));
    }
    indexes.into_iter().find(|index| present.contains(index)).map(Choice::Index)
}

/// The GGUF file of a part that has one, and no other weights.
fn quantised(present: &[String]) -> Option<Choice> {
    let mut files = present.iter().filter(|name| name.ends_with(".gguf"));
    match (files.next(), files.next()) {
        (Some(only), None) => Some(Choice::Single(only.clone())),
        _ => None,
    }
}

/// Why a part has no weights to read, neither of the `variant` nor plain ones, and the way out.
fn lacking(part: Part, variant: Option<&str>, present: &[String]) -> String {
    let stem = part.weight_stem();
    let plain = format!("{stem}.safetensors");
    if let Some(other) = variants(stem, present).first() {
        return match variant {
            None => format!("has only a `{other}` variant of {plain}; give {VARIANT} {other}"),
            Some(variant) => {
                format!("has neither a `{variant}` variant nor {plain}, only a `{other}` variant; fetch one of those")
            }
        };
    }
    const FOREIGN: [(&str, &str); 3] =
        [(".onnx", "ONNX Runtime"), ("openvino_model.xml", "OpenVINO"), (".msgpack", "Flax")];
    let foreign = present.iter().find_map(|name| {
        let (_, program) = FOREIGN.iter().find(|(kind, _)| name.ends_with(kind))?;
        Some((name, program))
    });
    let pickle = present
        .iter()
        .filter(|name| [".bin", ".ckpt", ".pt", ".pth"].iter().any(|kind| name.ends_with(kind)))
        .find(|name| !name.starts_with("openvino_"));
    let shard = present.iter().find(|name| name.contains("-of-") && name.ends_with(".safetensors"));
    if let Some(shard) = shard {
        format!("has shards ({shard}), but not the index that lists them; fetch {plain}.index.json")
    } else if present.iter().any(|name| name.ends_with(".gguf")) {
        "has several GGUF files; leave one of them there".into()
    } else if let Some(pickle) = pickle {
        format!(
            "has its weights only as {pickle}, a Python pickle, which can run any code when read; convert it to \
            safetensors or pick \
             a revision that has them"
        )
    } else if let Some((name, program)) = foreign {
        format!("has its weights only as {name} ({program}); take those in safetensors ({plain})")
    } else {
        format!("has no weights ({plain} is needed)")
    }
}

/// Variants that the folder has whole files or indexes of.
fn variants(stem: &str, present: &[String]) -> Vec<String> {
    let middle = |name: &str| -> Option<String> {
        let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
        let index = rest
            .strip_prefix("safetensors.index.")
            .and_then(|rest| rest.strip_suffix(".json"))
            .or_else(|| rest.strip_suffix(".safetensors.index.json"))
            .or_else(|| rest.strip_prefix("safetensors.").and_then(|rest| rest.strip_suffix(".index.json")));
        let variant = rest.strip_suffix(".safetensors").or(index);
        variant.filter(|variant| !variant.is_empty() && !variant.contains("-of-")).map(String::from)
    };
    present.iter().filter_map(|name| middle(name)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The distinct file names in an index's `weight_map`, sorted; the error says what is wrong.
pub(crate) fn shards(index: &[u8]) -> Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index =
        serde_json::from_slice(index).map_err(|error| format!("is not a valid index of weight files ({error})"))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err("lists no weight file".into());
    }
    // The names come from the file: none may lead out of the folder, and none may be a pickle.
    match shards
        .iter()
        .find(|name| name.contains(['/', '\\']) || name.starts_with('.') || !name.ends_with(".safetensors"))
    {
        Some(name) => Err(format!("names {name:?}, which is not a safetensors file of this folder")),
        None => Ok(shards.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_variant_is_read() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        for (file, whole) in [
            ("diffusion_pytorch_model.fp16.safetensors", true),
            ("diffusion_pytorch_model.safetensors.index.fp16.json", false),
            ("diffusion_pytorch_model.fp16.safetensors.index.json", false),
            ("diffusion_pytorch_model.safetensors.fp16.index.json", false),
        ] {
            let expected = if whole { Choice::Single(file.into()) } else { Choice::Index(file.into()) };
            let present = names(&["config.json", file, "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"]);
            assert_eq!(of_variant(Part::Unet, Some("fp16"), &present), Some(expected));
            assert_eq!(of_variant(Part::Unet, None, &present), None);
            assert_eq!(variants("diffusion_pytorch_model", &present), ["fp16"], "{file}");
        }
        let plain = names(&["model.safetensors.index.json", "model-00001-of-00002.safetensors"]);
        assert_eq!(of_variant(Part::TextEncoder, None, &plain), Some(Choice::Index(plain[0].clone())));
        assert!(variants("model", &plain).is_empty());
        assert!(lacking(Part::TextEncoder, None, &plain[1..]).contains("fetch model.safetensors.index.json"));
    }
}
