//! attnmap's own text chunks (`run/write.rs` writes them into `image.png`): `Description`,
//! `Negative prompt`, `Settings` and `Checkpoint`.

use super::container::Texts;
use super::found::{Metadata, lora};
use super::json;
use crate::prompt::Syntax;
use serde_json::Value;

/// What attnmap wrote, where it is an image's.
pub(super) fn read(texts: &Texts) -> Option<Result<Metadata, String>> {
    let (prompt, settings) = (texts.get("Description")?, texts.get("Settings")?);
    let Ok(Value::Object(settings)) = json::parse(settings) else { return None };
    let field = |name: &str| settings.get(name);
    let is_on = |name: &str| settings.get(name).and_then(Value::as_bool).unwrap_or(false);
    let is_look = settings.contains_key(crate::trace::LEVELS_KEY);
    let mut found = Metadata {
        program: "attnmap".into(),
        prompt: prompt.clone(),
        negative: texts.get("Negative prompt").cloned(),
        seed: field("seed").and_then(json::whole),
        size: field("width").and_then(json::count).zip(field("height").and_then(json::count)),
        syntax: Syntax { emphasis: is_on("emphasis"), long: is_on("long") },
        clip_skip: field("clip_skip").and_then(json::count),
        model: texts.get("Checkpoint").and_then(|name| name.rsplit_once(' ')).map(|(id, _)| id.to_owned()),
        ..Metadata::default()
    };
    // Of a look at a picture they are those of the look.
    if !is_look {
        found.steps = field("steps").and_then(json::count);
        found.guidance = field("guidance_scale").and_then(json::number);
        found.scheduler = field("scheduler").and_then(json::text).and_then(|name| name.parse().ok());
    }
    for entry in field("loras").and_then(Value::as_array).into_iter().flatten() {
        let file = entry.get("file").and_then(json::text).unwrap_or_default();
        found.not_taken.push(lora(file, entry.get("weight").and_then(json::number)));
    }
    for (name, what) in
        [("init", "the picture that it set out from"), ("embeddings", "embeddings"), ("latents", "latents")]
    {
        found.not_taken.extend(field(name).filter(|value| !value.is_null()).map(|_| what.to_owned()));
    }
    Some(Ok(found))
}
