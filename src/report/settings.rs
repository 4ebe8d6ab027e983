//! How a run was made, in the words of its page.

use crate::picture::{METADATA_KEY, Metadata};
use crate::run::RunRecord;
use crate::trace;
use serde_json::Value;
use std::path::Path;

/// Settings as the page lists them, with the noise levels of a look in words.
pub(super) fn settings(record: &RunRecord, levels: Option<String>) -> Vec<(String, String)> {
    let s = &record.settings;
    let [height, width] = s.size();
    let calls = levels.map_or(("steps", s.steps().to_string()), |levels| ("noise levels", levels));
    let mut list = vec![
        ("checkpoint", record.checkpoint.id.clone()),
        ("digest", record.checkpoint.digest.clone()),
        ("seed", s.seed.to_string()),
        calls,
        ("guidance scale", s.guidance().to_string()),
        ("scheduler", s.scheduler.clone()),
        ("size", format!("{width}×{height}")),
        ("number type", s.dtype.clone()),
        ("device", s.device.clone()),
        ("maps", record.aggregate.clone()),
        ("threshold", record.threshold().to_string()),
        ("attnmap", record.attnmap.clone()),
    ];
    list.retain(|(_, value)| !value.is_empty());
    let named = [trace::LEVELS_KEY, trace::NOISE_KEY];
    let more = s.further();
    let more = more.iter().filter(|(key, value)| !value.is_null() && !named.contains(&key.as_str()));
    let more = more.map(|(key, value)| {
        let value = match key.as_str() {
            "loras" | "embeddings" => files(value),
            METADATA_KEY => metadata(value),
            _ => value.as_str().map_or_else(|| value.to_string(), str::to_string),
        };
        let name = match key.as_str() {
            "loras" => "LoRA".to_string(),
            "embeddings" => "embedding".to_string(),
            METADATA_KEY => "the picture's metadata".to_string(),
            _ => key.replace('_', " "),
        };
        (name, value)
    });
    let probes: Vec<&str> = record.probes.iter().map(|probe| probe.word.text.trim_start_matches("probe:")).collect();
    let beside = [("negative prompt", record.negative.clone().unwrap_or_default()), ("probes", probes.join(", "))];
    let beside =
        beside.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_string(), value));
    let warnings = record.warnings.iter().map(|warning| ("warning".to_string(), warning.clone()));
    list.into_iter().map(|(key, value)| (key.to_string(), value)).chain(beside).chain(more).chain(warnings).collect()
}

/// What a traced picture's metadata says of how it was made, in a line.
fn metadata(value: &Value) -> String {
    let Ok(found) = serde_json::from_value::<Metadata>(value.clone()) else { return value.to_string() };
    let seed = found.seed.map(|seed| format!("seed {seed}"));
    let settings: Vec<String> = seed.into_iter().chain(found.settings()).collect();
    format!("{}: {}", found.program, settings.join(", "))
}

/// LoRAs or embeddings as `run.json` records them, in words: `style.safetensors at 0.8`,
/// `cat.safetensors as <cat>`.
fn files(list: &Value) -> String {
    let file = |entry: &Value| -> Option<String> {
        let name = Path::new(entry.get("file")?.as_str()?).file_name()?.to_string_lossy().into_owned();
        let weight = entry.get("weight").and_then(Value::as_f64).map(|weight| format!(" at {weight}"));
        let word = entry.get("word").and_then(Value::as_str).map(|word| format!(" as {word}"));
        Some(name + &weight.or(word).unwrap_or_default())
    };
    let files: Option<Vec<String>> = list.as_array().and_then(|list| list.iter().map(file).collect());
    files.map_or_else(|| list.to_string(), |files| files.join(", "))
}
