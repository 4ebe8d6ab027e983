//! The LoRAs, textual inversions and other networks that a prompt or its settings name.

use crate::picture::metadata::found::{embedding, lora};
use crate::picture::metadata::json;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// `text` without the networks that it names, `<lora:NAME:WEIGHT>` and its kin, which the web UI
/// takes out before the text encoder, whichever kind they are. They are told in `left`.
pub(in crate::picture::metadata) fn without_networks(text: &str, left: &mut Vec<String>) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').map(|length| at + length);
        let inner = end.and_then(|end| rest[at + 1..end].split_once(':'));
        let is_word = |kind: &str| !kind.is_empty() && kind.chars().all(|c| c.is_alphanumeric() || c == '_');
        match (end, inner) {
            (Some(end), Some((kind, arguments))) if is_word(kind) && !arguments.is_empty() => {
                kept.push_str(&rest[..at]);
                let (name, weights) = arguments.split_once(':').unwrap_or((arguments, ""));
                left.push(match kind {
                    "lora" | "lyco" => {
                        lora(name, weights.split(':').next().and_then(|weight| weight.trim().parse().ok()))
                    }
                    "hypernet" => format!("hypernetwork {name}"),
                    _ => format!("the extra network {kind} {name}"),
                });
                rest = &rest[end + 1..];
            }
            _ => {
                kept.push_str(&rest[..=at]);
                rest = &rest[at + 1..];
            }
        }
    }
    kept.push_str(rest);
    if left.is_empty() { kept } else { tidied(&kept) }
}

/// Without the empty tags that what was taken out leaves at the ends.
fn tidied(text: &str) -> String {
    text.trim_matches(|c: char| c.is_whitespace() || c == ',').to_owned()
}

/// Tells of the LoRAs and textual inversions that the settings name with their hashes; of LoRAs,
/// those that the prompt does not name.
pub(super) fn leave_networks<'a>(value: &impl Fn(&str) -> Option<&'a str>, left: &mut Vec<String>) {
    let list = |name: &str| value(name).map_or_else(Vec::new, listed);
    let names = |name: &str| list(name).into_iter().map(|(name, _)| name);
    let mut loras: Vec<&str> = names("Lora hashes").chain(names("Lora weights")).collect();
    let mut inversions: Vec<&str> = names("TI hashes").collect();
    // Civitai's hashes, as `lora:NAME`.
    let hashes = value("Hashes").and_then(|text| json::parse(text).ok());
    for (key, _) in hashes.as_ref().and_then(Value::as_object).into_iter().flatten() {
        match key.split_once(':') {
            Some(("lora" | "lyco", name)) => loras.push(name),
            Some(("embed", name)) => inversions.push(name),
            _ => {}
        }
    }
    let weights: HashMap<&str, &str> = list("Lora weights").into_iter().collect();
    let name_of = |told: &String| Some(told.strip_prefix("LoRA ")?.split_once(" (")?.0.to_owned());
    let mut told: HashSet<String> = left.iter().filter_map(name_of).collect();
    for name in loras {
        if told.insert(name.to_owned()) {
            left.push(lora(name, weights.get(name).and_then(|weight| weight.parse().ok())));
        }
    }
    left.extend(inversions.into_iter().map(embedding));
}

/// The entries of `a: 1, b: 2`.
fn listed(text: &str) -> Vec<(&str, &str)> {
    let entries = text.split(',').map(|entry| entry.rsplit_once(':').unwrap_or((entry, "")));
    entries.map(|(name, value)| (name.trim(), value.trim())).filter(|(name, _)| !name.is_empty()).collect()
}

/// The checkpoint by its name `model`, else by the one that Civitai's generator has for it. The
/// networks that this names beside it are told in `left`.
pub(super) fn of_civitai<'a>(
    value: &impl Fn(&str) -> Option<&'a str>,
    mut model: Option<String>,
    left: &mut Vec<String>,
) -> Option<String> {
    let is_named = model.is_some();
    for setting in ["Civitai resources", "Civitai metadata"] {
        let Some(text) = value(setting) else { continue };
        let parsed = json::parse(text).ok();
        let inner = parsed.as_ref().and_then(|parsed| parsed.get("resources")).or(parsed.as_ref());
        let resources = match inner {
            Some(Value::Array(resources)) => resources,
            // Numbers of Civitai's own, or nothing.
            Some(Value::Object(_)) if setting == "Civitai metadata" => continue,
            _ => {
                left.push(format!("{setting}: {text}"));
                continue;
            }
        };
        for entry in resources {
            let (kind, name, weight) = resource(entry);
            match kind.as_str() {
                "checkpoint" | "model" if is_named => {}
                "checkpoint" | "model" if model.is_none() => model = Some(name),
                "lora" | "locon" | "lycoris" | "dora" => left.push(lora(&name, weight)),
                "embed" | "embedding" | "textualinversion" => left.push(embedding(&name)),
                _ => left.push(format!("{kind} {name}")),
            }
        }
    }
    model
}

/// Kind, name and weight of an entry of `Civitai resources`. Where it has no name it has a number,
/// or an address as `urn:air:sdxl:lora:civitai:1@2`.
fn resource(entry: &Value) -> (String, String, Option<f64>) {
    let field = |name: &str| entry.get(name).and_then(json::text);
    let air = field("air");
    let kind = field("type").or_else(|| air?.split(':').nth(3)).unwrap_or("resource").to_lowercase();
    let named = [field("modelName"), field("modelVersionName").or_else(|| field("versionName"))];
    let named: Vec<&str> = named.into_iter().flatten().collect();
    let number = || Some(format!("of version {}", entry.get("modelVersionId").and_then(json::whole)?));
    let name = match named.is_empty() {
        false => named.join(" "),
        true => air.map(str::to_owned).or_else(number).unwrap_or_else(|| "without a name".to_owned()),
    };
    (kind, name, entry.get("weight").and_then(json::number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_leave_the_prompt() {
        let mut left = Vec::new();
        let kept = without_networks("a <b> frog, <lora:style:0.8>, <hypernet:h:1> < lora", &mut left);
        assert_eq!(kept, "a <b> frog, ,  < lora");
        assert_eq!(left, ["LoRA style (give it with `lora` FILE:0.8)", "hypernetwork h"]);
        assert_eq!(without_networks("a frog, <lora:x:1>", &mut left), "a frog");
        // Kinds of extensions are taken out too.
        let mut left = Vec::new();
        let kept = without_networks("a frog <wildcards:b> <lora:x:te=1> <3 <:d> <e:>", &mut left);
        assert_eq!(kept, "a frog   <3 <:d> <e:>");
        assert_eq!(left, ["the extra network wildcards b", "LoRA x (give it with `lora` FILE)"]);
    }
}
