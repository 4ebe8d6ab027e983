//! The `parameters` of AUTOMATIC1111's web UI, of Forge and of what writes as they do: a PNG text
//! chunk, or EXIF's `UserComment` in JPEG and WebP files.
//!
//! The grammar is that of the web UI's `modules/infotext_utils.py`. There is the prompt, a line
//! that begins with `Negative prompt:`, and a last line of `Name: value` pairs.

use super::container::{Texts, USER_COMMENT};
use super::found::{self, GPU_NOISE, Metadata, lora};
use crate::prompt::Syntax;
use crate::scheduler::SchedulerKind;

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
    found.size = value("Size").and_then(|size| {
        let (width, height) = size.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    });
    found.model = value("Model").or_else(|| value("Model hash")).map(str::to_owned);
    if let Some(name) = value("Sampler") {
        let schedule = value("Schedule type");
        found.scheduler = sampler(name, schedule);
        if found.scheduler.is_none() {
            let schedule = schedule.map_or_else(String::new, |schedule| format!(" with schedule {schedule}"));
            found.not_taken.push(format!("the sampler {name}{schedule}"));
        }
    }
    let skip = value("Clip skip").filter(|skip| *skip != "1");
    found.not_taken.extend(skip.map(|skip| format!("clip skip {skip}")));
    // The last is that of 2022.
    let second_pass = |key: &str| key == "Hires upscale" || key.starts_with("Hires resize") || key == "First pass size";
    let hires = settings.iter().any(|(key, _)| second_pass(key));
    found.not_taken.extend(hires.then(|| "the second pass at a higher resolution (Hires)".to_owned()));
    let strength = value("Denoising strength").filter(|_| !hires);
    found
        .not_taken
        .extend(strength.map(|strength| format!("the picture that it was drawn from (denoising strength {strength})")));
    for (key, what) in [
        ("Variation seed", "the variation seed"),
        ("ENSD", "the offset of the seed in the steps (ENSD)"),
        ("VAE", "the VAE"),
        ("Refiner", "the refiner"),
    ] {
        found.not_taken.extend(value(key).map(|name| format!("{what} {name}")));
    }
    for (key, what) in [("ControlNet", "ControlNet"), ("ADetailer model", "what ADetailer drew anew")] {
        let there = settings.iter().any(|(name, _)| name.starts_with(key));
        found.not_taken.extend(there.then(|| what.to_owned()));
    }
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

/// The pairs of a line of settings: `Name: value`, with commas between them. A value with commas or
/// colons is in quotation marks, as JSON writes it.
fn pairs(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | ' ' | '-' | '/');
        let end = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
        let name = rest[..end].trim();
        let Some(after) = rest[end..].strip_prefix(':').filter(|_| name.chars().count() > 1) else {
            // No name: on with what follows the comma.
            rest = rest.split_once(',').map_or("", |(_, after)| after);
            continue;
        };
        let after = after.trim_start();
        let quoted = after.starts_with('"').then(|| closing(after)).flatten();
        let (value, left) = match quoted {
            Some(end) => {
                let text = &after[..=end];
                (serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()), &after[end + 1..])
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.push((name.to_owned(), value));
        rest = left.split_once(',').map_or("", |(_, after)| after);
    }
    found
}

/// The byte of the quotation mark that closes the one which `text` begins with.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at)
    })
}

/// `text` without the networks that it names, `<lora:NAME:WEIGHT>` and its kin, which the web UI
/// takes out before the text encoder, whichever kind they are. They are told in `left`.
pub(super) fn without_networks(text: &str, left: &mut Vec<String>) -> String {
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

/// The sampler by the web UI's name (`modules/sd_samplers_kdiffusion.py`,
/// `sd_samplers_timesteps.py`) and schedule, where there is the same here. Before version 1.9 the
/// schedule was the end of the name; since then `Automatic` is each sampler's own.
fn sampler(name: &str, schedule: Option<&str>) -> Option<SchedulerKind> {
    let (name, schedule) = match (name.strip_suffix(" Karras"), schedule) {
        (Some(name), None | Some("Automatic")) => (name, "Karras"),
        (_, Some("Automatic")) => match name {
            "DPM++ 2M" | "DPM2" | "DPM2 a" => (name, "Karras"),
            "DPM++ 2M SDE" => (name, "Exponential"),
            _ => (name, "Uniform"),
        },
        (_, schedule) => (name, schedule.unwrap_or("Uniform")),
    };
    Some(match (name, schedule) {
        ("DPM++ 2M", "Karras") => SchedulerKind::DpmSolverKarras,
        ("DPM++ 2M SDE", "Karras") => SchedulerKind::DpmSolverSdeKarras,
        (_, schedule) if schedule != "Uniform" => return None,
        ("DPM++ 2M", _) => SchedulerKind::DpmSolver,
        ("DPM++ 2M SDE", _) => SchedulerKind::DpmSolverSde,
        ("Euler a", _) => SchedulerKind::EulerAncestral,
        ("Euler", _) => SchedulerKind::Euler,
        ("LMS", _) => SchedulerKind::Lms,
        ("Heun", _) => SchedulerKind::Heun,
        ("DPM2", _) => SchedulerKind::Kdpm2,
        ("DPM2 a", _) => SchedulerKind::Kdpm2Ancestral,
        ("DDIM", _) => SchedulerKind::Ddim,
        ("PLMS", _) => SchedulerKind::Pndm,
        ("UniPC", _) => SchedulerKind::UniPc,
        ("LCM", _) => SchedulerKind::Lcm,
        ("DDPM", _) => SchedulerKind::Ddpm,
        ("DEIS", _) => SchedulerKind::Deis,
        ("TCD", _) => SchedulerKind::Tcd,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_as_the_web_ui_finds_them() {
        let line =
            r#"Steps: 20, Sampler: Euler a, Lora hashes: "a: 1, b: 2", Size: 512x768, Model: x, TI: "say \"no\", so""#;
        let expected = [
            ("Steps", "20"),
            ("Sampler", "Euler a"),
            ("Lora hashes", "a: 1, b: 2"),
            ("Size", "512x768"),
            ("Model", "x"),
            ("TI", "say \"no\", so"),
        ];
        assert_eq!(pairs(line), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        for none in ["", "a cat, a dog", "x:", "\"", ",,,", ": a, : b"] {
            assert!(pairs(none).is_empty(), "{none}: {:?}", pairs(none));
        }
        assert_eq!(pairs("ab: \"open, cd: 1").len(), 2);
    }

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
