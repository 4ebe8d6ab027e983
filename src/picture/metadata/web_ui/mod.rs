//! The `parameters` of AUTOMATIC1111's web UI, of Forge and of what writes as they do: a PNG text
//! chunk, or EXIF's `UserComment` in JPEG and WebP files.
//!
//! The grammar is that of the web UI's `modules/infotext_utils.py`. There is the prompt, a line
//! that begins with `Negative prompt:`, and a last line of `Name: value` pairs.

mod networks;
mod pairs;
mod sampler;

pub(super) use self::networks::without_networks;

use self::networks::{leave_networks, of_civitai};
use self::pairs::pairs;
use self::sampler::sampler;
use super::container::{Texts, USER_COMMENT};
use super::found::{self, GPU_NOISE, Metadata};
use crate::prompt::Syntax;
use std::collections::{HashMap, HashSet};

/// Pairs that a line must have to be settings and no prompt, as in the web UI.
const FEWEST_PAIRS: usize = 3;

/// What a web UI wrote.
pub(super) fn read(texts: &Texts) -> Option<Result<Metadata, String>> {
    let text = texts.get("parameters").or_else(|| texts.get(USER_COMMENT))?;
    let is_json = text.trim_start().starts_with('{');
    match (is_json, texts.contains_key("parameters")) {
        (true, true) => Some(Err("its `parameters` are JSON, of a program whose metadata is not read".into())),
        // ComfyUI's graph lies there too.
        (true, false) => None,
        (false, of_chunk) => {
            let found = parameters(text);
            // A camera's comment is no prompt.
            (of_chunk || found.seed.is_some() || found.steps.is_some()).then_some(Ok(found))
        }
    }
}

fn parameters(text: &str) -> Metadata {
    let lines: Vec<&str> = text.trim().lines().map(str::trim).collect();
    let is_settings = |line: &str| pairs(line).len() >= FEWEST_PAIRS;
    // Extensions add lines behind the settings.
    let settings = lines
        .iter()
        .rposition(|line| line.starts_with("Steps: ") && is_settings(line))
        .or_else(|| lines.len().checked_sub(1).filter(|last| is_settings(lines[*last])));
    let (mut prompt, mut negative, mut in_negative) = (Vec::new(), Vec::new(), false);
    for line in &lines[..settings.unwrap_or(lines.len())] {
        let rest = line.strip_prefix("Negative prompt:");
        in_negative |= rest.is_some();
        if in_negative { negative.push(rest.unwrap_or(line).trim()) } else { prompt.push(*line) }
    }
    let mut found = Metadata {
        program: "AUTOMATIC1111".into(),
        syntax: Syntax { emphasis: true, long: true },
        ..Metadata::default()
    };
    found.prompt = without_networks(&prompt.join("\n"), &mut found.not_taken);
    found.negative = Some(without_networks(&negative.join("\n"), &mut found.not_taken));
    let settings = settings.map_or_else(Vec::new, |at| pairs(lines[at]));
    let value = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let version = value("Version").unwrap_or_default();
    let is_of = |name: &&str| version.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    // They write the same lines (ComfyUI by nodes of some packages), and draw noise on the CPU.
    let other = ["ComfyUI", "Fooocus"].into_iter().find(is_of);
    if let Some(name) = other {
        found.program = name.into();
    } else if version.starts_with('f') {
        // Forge numbers its versions f1.0, f2.0 ...
        found.program = "Forge".into();
    }
    found.seed = value("Seed").and_then(|seed| seed.parse().ok());
    found.steps = value("Steps").and_then(|steps| steps.parse().ok());
    let number = |name: &str| value(name).and_then(|scale| scale.parse::<f64>().ok());
    let (guidance, second) = found::guidance(number("CFG scale"), number("Distilled CFG Scale"), "CFG scale");
    found.guidance = guidance;
    found.not_taken.extend(second);
    let size = value("Size").and_then(|size| size.split_once('x')).or_else(|| value("width").zip(value("height")));
    found.size = size.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    leave_networks(&value, &mut found.not_taken);
    let model = value("Model").map(str::to_owned);
    found.model = of_civitai(&value, model, &mut found.not_taken).or_else(|| value("Model hash").map(str::to_owned));
    // Fooocus, and nodes of ComfyUI, say it by ComfyUI's names.
    let scheduler = value("Scheduler").map(|name| match name {
        "karras" => "Karras",
        "normal" => "Uniform",
        other => other,
    });
    let schedule = value("Schedule type").or(scheduler);
    if let Some(name) = value("Sampler") {
        found.scheduler = sampler(name, schedule);
        if found.scheduler.is_none() {
            let schedule = schedule.map_or_else(String::new, |schedule| format!(" with schedule {schedule}"));
            found.not_taken.push(format!("the sampler {name}{schedule}"));
        }
    } else {
        found.not_taken.extend(schedule.map(|schedule| format!("the schedule {schedule}")));
    }
    let skip = value("Clip skip").filter(|skip| *skip != "1");
    found.not_taken.extend(skip.map(|written| match written.parse::<u8>() {
        Ok(skip) if skip > 1 => found::clip_skip(skip.into(), (skip - 1).into()),
        _ => format!("clip skip {written}"),
    }));
    // What is there and is no number of its kind is told as it is written.
    let wrong = [
        ("Seed", found.seed.is_none()),
        ("Steps", found.steps.is_none()),
        ("Size", found.size.is_none()),
        ("CFG scale", number("CFG scale").is_none()),
        ("Distilled CFG Scale", number("Distilled CFG Scale").is_none()),
    ];
    let wrong: Vec<&str> = wrong.into_iter().filter_map(|(name, is_wrong)| is_wrong.then_some(name)).collect();
    leave_others(&settings, &wrong, &mut found.not_taken);
    // The web UI names its rule for weights where that is another than the usual one.
    match value("Emphasis") {
        None | Some("Original") => {}
        // Brackets are text.
        Some("None") => found.syntax.emphasis = false,
        Some(rule) => found.not_taken.push(format!("the rule for weights {rule} (they are applied by the usual one)")),
    }
    // A web UI's noise is that of the GPU's generator where nothing else is said.
    if found.seed.is_some() && other.is_none() && value("RNG") != Some("CPU") {
        found.not_taken.push(GPU_NOISE.into());
    }
    found
}

/// Settings that are read each by itself.
const READ: [&str; 18] = [
    "Steps",
    "Sampler",
    "Schedule type",
    "Scheduler",
    "CFG scale",
    "Distilled CFG Scale",
    "Seed",
    "Size",
    "Model",
    "Model hash",
    "Clip skip",
    "Emphasis",
    "RNG",
    "Lora hashes",
    "Lora weights",
    "TI hashes",
    "Civitai resources",
    "Civitai metadata",
];

/// Settings that change nothing of what is drawn, or say again what others say, in lower case.
const HARMLESS: [&str; 33] = [
    "version",
    "user",
    "app",
    "backend",
    "pipeline",
    "comment",
    "created date",
    "source identifier",
    "hashes",
    "vae hash",
    "refiner hash",
    "init image hash",
    "init image size",
    "batch",
    "batch size",
    "batch pos",
    "index",
    "grid",
    "quantity",
    "width",
    "height",
    "basemodel",
    "template",
    "negative template",
    "wildcard prompt",
    "wildcard negative prompt",
    "raw prompt",
    "raw negative prompt",
    "original prompt",
    "original negative",
    "score",
    "aesthetic_score",
    "time taken",
];

/// What is said once of all settings whose names begin with a word, in lower case.
const TOLD_ONCE: [(&str, &str); 2] = [("controlnet", "ControlNet"), ("adetailer", "what ADetailer drew anew")];

/// What is said of a setting with its value, and once of all whose names begin with its first word.
const TOLD_WITH_VALUE: [(&str, &str); 4] = [
    ("Variation seed", "the variation seed"),
    ("ENSD", "the offset of the seed in the steps (ENSD)"),
    ("VAE", "the VAE"),
    ("Refiner", "the refiner"),
];

/// Tells of every setting that is neither read nor harmless, and of those of the names `wrong`.
/// Those that begin with one word, as the settings of an extension do, are told together.
fn leave_others(settings: &[(String, String)], wrong: &[&str], left: &mut Vec<String>) {
    let is_known = |key: &str| {
        let read = READ.contains(&key) && !wrong.contains(&key);
        read || HARMLESS.contains(&key.to_lowercase().as_str())
    };
    // An extension that is off may say all its settings.
    let is_switch = |key: &str| key.to_lowercase().ends_with("enabled");
    let off: HashSet<String> = settings
        .iter()
        .filter(|(key, value)| is_switch(key) && changes_nothing(value))
        .map(|(key, _)| first_word(key))
        .collect();
    let told: Vec<(&str, &str, String)> = settings
        .iter()
        .filter(|(key, value)| !is_known(key) && !changes_nothing(value))
        .map(|(key, value)| (key.as_str(), value.as_str(), first_word(key)))
        .filter(|(_, _, word)| !off.contains(word))
        .collect();
    // The last is that of 2022.
    let hires = told.iter().any(|(key, _, word)| word == "hires" || *key == "First pass size");
    let with_value = |name: &str| told.iter().find(|(key, _, _)| *key == name).map(|(_, value, _)| *value);
    left.extend(hires.then(|| "the second pass at a higher resolution (Hires)".to_owned()));
    let strength = with_value("Denoising strength").filter(|_| !hires);
    left.extend(strength.map(|strength| format!("the picture that it was drawn from (denoising strength {strength})")));
    let mut words = HashSet::from(["hires".to_owned()]);
    for (name, what) in TOLD_WITH_VALUE {
        if let Some(value) = with_value(name) {
            left.push(format!("{what} {value}"));
            words.insert(first_word(name));
        }
    }
    for (word, what) in TOLD_ONCE {
        if told.iter().any(|(_, _, first)| first == word) {
            left.push(what.to_owned());
            words.insert(word.to_owned());
        }
    }
    let (mut groups, mut places): (Vec<String>, HashMap<&str, usize>) = (Vec::new(), HashMap::new());
    let is_told =
        |key: &str, word: &str| words.contains(word) || ["Denoising strength", "First pass size"].contains(&key);
    for (key, value, word) in told.iter().filter(|(key, _, word)| !is_told(key, word)) {
        let text = format!("{key}: {value}");
        match places.get(word.as_str()) {
            Some(&at) => groups[at] += &format!(", {text}"),
            None => {
                places.insert(word, groups.len());
                groups.push(text);
            }
        }
    }
    left.extend(groups);
}

/// The word that the names of an extension's settings begin with, in lower case.
fn first_word(key: &str) -> String {
    key.split([' ', '_', '-', '/']).next().unwrap_or(key).to_lowercase()
}

/// Whether a setting of this value is off, or the usual one.
fn changes_nothing(value: &str) -> bool {
    ["", "false", "none", "off", "disabled", "txt2img"].contains(&value.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::SchedulerKind;

    #[test]
    fn lines_are_prompt_negative_prompt_and_settings() {
        let found =
            parameters("a frog,\nNegative: no\nNegative prompt: a\nb\nSteps: 4, Seed: 1, Size: 8x8\nTemplate: {a|b}");
        assert_eq!((found.prompt.as_str(), found.negative.as_deref()), ("a frog,\nNegative: no", Some("a\nb")));
        assert_eq!((found.seed, found.size), (Some(1), Some((8, 8))));
        // Without settings all is prompt, also what looks a little like some.
        let found = parameters("Photo: a frog, style: old");
        assert_eq!((found.prompt.as_str(), found.seed), ("Photo: a frog, style: old", None));
    }

    fn left(settings: &str) -> Vec<String> {
        parameters(&format!("a frog\nSteps: 4, CFG scale: 7, Size: 8x8, {settings}")).not_taken
    }

    #[test]
    fn every_setting_is_taken_or_told() {
        assert_eq!(
            left("TI hashes: \"easy: c74b, other: 12\", Face restoration: CodeFormer, Tiling: True"),
            [
                "textual inversion easy (give it with `embedding` FILE)",
                "textual inversion other (give it with `embedding` FILE)",
                "Face restoration: CodeFormer",
                "Tiling: True",
            ]
        );
        // The settings of one extension are told together.
        assert_eq!(
            left("AddNet Enabled: True, AddNet Model 1: style(12ab), Eta: 0.5, AddNet Weight A 1: 0.8"),
            ["AddNet Enabled: True, AddNet Model 1: style(12ab), AddNet Weight A 1: 0.8", "Eta: 0.5"]
        );
        assert_eq!(left("freeu_enabled: True, freeu_b1: 1.3"), ["freeu_enabled: True, freeu_b1: 1.3"]);
        assert_eq!(left("Refiner: xl, Refiner switch at: 0.8, VAE: a, VAE hash: 1"), ["the VAE a", "the refiner xl"]);
        assert_eq!(left("Variation seed: 5, Variation seed strength: 0.1"), ["the variation seed 5"]);
        let hires = "the second pass at a higher resolution (Hires)";
        assert_eq!(left("Hires steps: 4, Hires prompt: x, Denoising strength: 0.4"), [hires]);
        assert_eq!(left("ControlNet 0: \"Module: canny, Model: x\", ControlNet-1: y"), ["ControlNet"]);
        // What is off, and what is no part of the drawing.
        let harmless = "Style Selector Enabled: False, Style Selector Style: base, Tiling: False, Refiner: None, \
            Operations: txt2img, Version: v1.10.1, Model hash: 12, User: me, Batch size: 2, Clip skip: 1, RNG: CPU";
        assert_eq!(left(harmless), Vec::<String>::new());
        // What is no number is told as it is written.
        assert_eq!(left("Seed: -1, Distilled CFG Scale: much"), ["Seed: -1", "Distilled CFG Scale: much"]);
    }

    #[test]
    fn loras_are_told_once_wherever_they_are_named() {
        let text = "a frog <lora:ink:0.5>\nSteps: 4, CFG scale: 7, Lora hashes: \"ink: 1, oil: 2\", \
            Lora weights: \"oil: 0.25\", Hashes: {\"model\": \"1\", \"lora:oil\": \"2\", \"embed:easy\": \"3\"}";
        assert_eq!(
            parameters(text).not_taken,
            [
                "LoRA ink (give it with `lora` FILE:0.5)",
                "LoRA oil (give it with `lora` FILE:0.25)",
                "textual inversion easy (give it with `embedding` FILE)",
            ]
        );
    }

    #[test]
    fn resources_of_civitai_are_told_and_name_the_checkpoint() {
        let of = |more: &str| {
            let resources = r#"Civitai resources: [{"type":"lora","weight":0.8,"modelVersionId":7,"modelName":"Ink, old",
                "modelVersionName":"v2"},{"type":"embed","modelVersionId":9},{"type":"checkpoint","modelName":"Dream",
                "modelVersionName":"8"},{"air":"urn:air:sdxl:lora:civitai:1@2"}], Civitai metadata: {"remixOfId":3}"#;
            let resources = resources.replace("\n                ", "");
            let found = parameters(&format!("a frog\nSteps: 4, CFG scale: 7, Size: 8x8{more}, {resources}"));
            (found.model, found.not_taken)
        };
        let told = [
            "LoRA Ink, old v2 (give it with `lora` FILE:0.8)",
            "textual inversion of version 9 (give it with `embedding` FILE)",
            "LoRA urn:air:sdxl:lora:civitai:1@2 (give it with `lora` FILE)",
        ];
        let told = told.map(str::to_owned).to_vec();
        assert_eq!(of(", Created Date: 2024-08-20T12:00:00Z"), (Some("Dream 8".to_owned()), told.clone()));
        assert_eq!(of(", Model: other"), (Some("other".to_owned()), told));
        assert_eq!(left("Civitai resources: [{\"type\""), ["Civitai resources: [{\"type\""]);
    }

    #[test]
    fn a_schedule_is_read_by_either_of_its_names() {
        let of = |more: &str| {
            let found = parameters(&format!("a frog\nSteps: 4, CFG scale: 7, {more}"));
            (found.scheduler, found.not_taken)
        };
        let karras = (Some(SchedulerKind::DpmSolverKarras), Vec::new());
        assert_eq!(of("Sampler: DPM++ 2M Karras, Scheduler: karras"), karras);
        assert_eq!(of("Sampler: DPM++ 2M, Schedule type: Karras"), karras);
        assert_eq!(of("Sampler: Euler, Scheduler: normal"), (Some(SchedulerKind::Euler), Vec::new()));
        let told = vec!["the sampler Euler with schedule beta".to_owned()];
        assert_eq!(of("Sampler: Euler, Scheduler: beta"), (None, told));
    }
}
