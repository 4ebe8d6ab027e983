//! InvokeAI's metadata: the PNG text chunk `invokeai_metadata` of version 3 and later
//! (`invokeai/app/invocations/metadata.py`, `CoreMetadataInvocation`), and `sd-metadata` of version
//! 2.

use super::container::Texts;
use super::found::{self, GPU_NOISE, Metadata, clip_skip, lora};
use super::json;
use crate::scheduler::SchedulerKind;
use serde_json::{Map, Value};

/// What InvokeAI wrote.
pub(super) fn read(texts: &Texts) -> Option<Result<Metadata, String>> {
    let (text, version_2) = match texts.get("invokeai_metadata") {
        Some(text) => (text, false),
        None => (texts.get("sd-metadata").or_else(|| texts.get("Sd-metadata"))?, true),
    };
    let object = match json::parse(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Some(Err("the metadata of InvokeAI is no JSON object".into())),
        Err(error) => return Some(Err(format!("the metadata of InvokeAI is no JSON ({error})"))),
    };
    Some(if version_2 { second(&object) } else { third(&object) })
}

fn third(object: &Map<String, Value>) -> Result<Metadata, String> {
    let field = |name: &str| object.get(name).filter(|value| !value.is_null());
    let text = |name: &str| field(name).and_then(json::text).map(str::to_owned);
    let prompt = text("positive_prompt").ok_or("the metadata of InvokeAI has no positive_prompt")?;
    let number = |name: &str| field(name).and_then(json::number);
    let (guidance, second) = found::guidance(number("cfg_scale"), number("guidance"), "cfg_scale");
    let mut found = Metadata {
        program: "InvokeAI".into(),
        negative: text("negative_prompt"),
        seed: field("seed").and_then(json::whole),
        steps: field("steps").and_then(json::count),
        guidance,
        size: field("width").and_then(json::count).zip(field("height").and_then(json::count)),
        model: field("model").and_then(model_name),
        ..Metadata::default()
    };
    found.not_taken.extend(second);
    take_sampler(&mut found, field("scheduler"));
    for (name, of) in [("positive_style_prompt", &Some(prompt.clone())), ("negative_style_prompt", &found.negative)] {
        let style = text(name).filter(|style| Some(style) != of.as_ref());
        found.not_taken.extend(style.map(|style| format!("the second encoder's prompt {}", crate::in_quotes(style))));
    }
    for entry in field("loras").and_then(Value::as_array).into_iter().flatten() {
        let name = entry.get("model").or_else(|| entry.get("lora")).and_then(model_name).unwrap_or_default();
        found.not_taken.push(lora(&name, entry.get("weight").and_then(json::number)));
    }
    for (name, what) in [("controlnets", "ControlNet"), ("ipAdapters", "IP-Adapter"), ("t2iAdapters", "T2I-Adapter")] {
        let some = field(name).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        found.not_taken.extend(some.then(|| what.to_owned()));
    }
    let drawn_from = text("init_image").or_else(|| text("generation_mode").filter(|mode| !mode.ends_with("txt2img")));
    found.not_taken.extend(drawn_from.map(|_| "the picture that it was drawn from".to_owned()));
    let skip = field("clip_skip").and_then(json::number).filter(|skip| *skip > 0.0);
    found.not_taken.extend(skip.map(|skip| clip_skip(skip, skip)));
    found.not_taken.extend(field("refiner_model").map(|_| "the refiner".to_owned()));
    let on_gpu = found.seed.is_some() && text("rand_device").is_some_and(|device| device != "cpu");
    found.not_taken.extend(on_gpu.then(|| GPU_NOISE.to_owned()));
    found
        .not_taken
        .extend(field("hrf_enabled").filter(|on| **on == Value::Bool(true)).map(|_| "high resolution fix".into()));
    leave_others(object, &READ, &mut found);
    Ok(Metadata { prompt, ..found })
}

/// Fields that are read each by itself, or say nothing of what was drawn.
const READ: [&str; 18] = [
    "positive_prompt",
    "negative_prompt",
    "positive_style_prompt",
    "negative_style_prompt",
    "cfg_scale",
    "guidance",
    "model",
    "scheduler",
    "loras",
    "controlnets",
    "ipAdapters",
    "t2iAdapters",
    "init_image",
    "strength",
    "generation_mode",
    "clip_skip",
    "rand_device",
    "app_version",
];

/// As [`READ`], of version 2.
const READ_OF_2: [&str; 6] = ["prompt", "cfg_scale", "sampler", "init_image_path", "strength", "type"];

/// Tells of the fields of `object` that are neither among `read` nor in `found`.
fn leave_others(object: &Map<String, Value>, read: &[&str], found: &mut Metadata) {
    let is_taken = |name: &str| match name {
        "seed" => found.seed.is_some(),
        "steps" => found.steps.is_some(),
        "width" | "height" => found.size.is_some(),
        // They are those of what is told.
        _ => read.contains(&name) || name.starts_with("refiner_") || name.starts_with("hrf_"),
    };
    let others = object.iter().filter(|(name, value)| !is_taken(name) && !is_empty(value));
    let told: Vec<String> = others
        .map(|(name, value)| {
            let number = (value.is_number() || value.is_boolean()).then(|| value.to_string());
            let value = model_name(value).or(number);
            value.map_or_else(|| name.clone(), |value| format!("{name}: {value}"))
        })
        .collect();
    found.not_taken.extend(told);
}

/// Whether `value` is nothing, zero or off, with all that lies in it.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.iter().all(is_empty),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

/// `sd-metadata`: the image's fields lie in `image`, and the negative prompt in square brackets.
fn second(object: &Map<String, Value>) -> Result<Metadata, String> {
    let image = match object.get("image") {
        Some(Value::Object(image)) => image,
        Some(Value::Array(images)) => images.first().and_then(Value::as_object).ok_or("its `image` is empty")?,
        _ => return Err("the metadata of InvokeAI has no image".into()),
    };
    let field = |name: &str| image.get(name).filter(|value| !value.is_null());
    let parts: Vec<&str> = match field("prompt") {
        Some(Value::String(prompt)) => vec![prompt],
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part.get("prompt").and_then(Value::as_str)).collect()
        }
        _ => Vec::new(),
    };
    let (prompt, negative) = without_brackets(&parts.join(" "));
    let mut found = Metadata {
        program: "InvokeAI".into(),
        prompt,
        negative: Some(negative),
        seed: field("seed").and_then(json::whole),
        steps: field("steps").and_then(json::count),
        guidance: field("cfg_scale").and_then(json::number),
        size: field("width").and_then(json::count).zip(field("height").and_then(json::count)),
        model: object.get("model_weights").and_then(json::text).map(str::to_owned),
        ..Metadata::default()
    };
    take_sampler(&mut found, field("sampler"));
    found.not_taken.extend((parts.len() > 1).then(|| "the weights of the prompt's parts".to_owned()));
    found.not_taken.extend(field("init_image_path").map(|_| "the picture that it was drawn from".to_owned()));
    leave_others(image, &READ_OF_2, &mut found);
    Ok(found)
}

/// What stands outside of square brackets, and what stands in them.
fn without_brackets(text: &str) -> (String, String) {
    let (mut outside, mut inside, mut rest) = (String::new(), Vec::new(), text);
    while let Some((before, (within, after))) =
        rest.split_once('[').and_then(|(before, after)| Some((before, after.split_once(']')?)))
    {
        outside.push_str(before);
        inside.push(within.trim());
        rest = after;
    }
    outside.push_str(rest);
    (outside.split_whitespace().collect::<Vec<_>>().join(" "), inside.join(" "))
}

/// A checkpoint's or LoRA's name: a text, or an object that has one.
fn model_name(value: &Value) -> Option<String> {
    let named = |name: &&str| value.get(name).and_then(json::text);
    json::text(value).or_else(|| ["name", "model_name", "key"].iter().find_map(named)).map(str::to_owned)
}

fn take_sampler(found: &mut Metadata, value: Option<&Value>) {
    let Some(name) = value.and_then(json::text) else { return };
    match sampler(name) {
        Some(kind) => found.scheduler = Some(kind),
        None => found.not_taken.push(format!("the sampler {name}")),
    }
}

/// InvokeAI's names (`SCHEDULER_NAME_VALUES`, and those of version 2) of samplers that are equal to
/// one here.
fn sampler(name: &str) -> Option<SchedulerKind> {
    Some(match name {
        "ddim" => SchedulerKind::Ddim,
        "ddpm" => SchedulerKind::Ddpm,
        "deis" => SchedulerKind::Deis,
        "lms" | "k_lms" => SchedulerKind::Lms,
        "pndm" | "plms" => SchedulerKind::Pndm,
        "heun" | "k_heun" => SchedulerKind::Heun,
        "euler" | "k_euler" => SchedulerKind::Euler,
        "euler_a" | "k_euler_a" => SchedulerKind::EulerAncestral,
        "kdpm_2" | "k_dpm_2" => SchedulerKind::Kdpm2,
        "kdpm_2_a" | "k_dpm_2_a" => SchedulerKind::Kdpm2Ancestral,
        "dpmpp_2s" => SchedulerKind::DpmSolverSinglestep,
        "dpmpp_2m" | "k_dpmpp_2" => SchedulerKind::DpmSolver,
        "dpmpp_2m_k" => SchedulerKind::DpmSolverKarras,
        "dpmpp_2m_sde" => SchedulerKind::DpmSolverSde,
        "dpmpp_2m_sde_k" => SchedulerKind::DpmSolverSdeKarras,
        "unipc" => SchedulerKind::UniPc,
        "lcm" => SchedulerKind::Lcm,
        "tcd" => SchedulerKind::Tcd,
        _ => return None,
    })
}
