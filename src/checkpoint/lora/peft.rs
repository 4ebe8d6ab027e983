//! What PEFT says of a LoRA beside its tensors: in the header, or in a file of settings.

use super::keys::Layer;
use crate::Result;
use crate::checkpoint::adapter::{PEFT_CONFIG, PEFT_FILE};
use crate::checkpoint::weights::WeightFile;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::Path;
use tokenizers::utils::SysRegex;

const DORA: &str = "is a DoRA, which is not supported; plain LoRA (with or without convolutions) is";

/// What PEFT scales by, which diffusers writes into the header (`lora_adapter_metadata`):
/// `{"unet.lora_alpha": 8, "unet.r": 4, ...}`.
#[derive(Debug, Default)]
pub(super) struct PeftSettings {
    fields: serde_json::Map<String, Value>,
    /// Whether they are of one model, from its header or from the file beside it.
    is_of_one_model: bool,
}

impl PeftSettings {
    pub(super) fn of(file: &WeightFile) -> Result<Self, String> {
        let Some(text) = file.metadata("lora_adapter_metadata") else { return Self::beside(file.path()) };
        let settings: serde_json::Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| format!("`lora_adapter_metadata` in its header is not valid JSON ({error})"))?;
        // `save_lora_adapter` of a network writes the settings of that alone, without its name.
        if settings.contains_key("lora_alpha") {
            return Self::of_a_model(&settings);
        }
        match settings.iter().find(|(name, value)| name.ends_with(".use_dora") && **value == Value::Bool(true)) {
            Some(_) => Err(DORA.into()),
            None => Ok(Self { fields: settings, is_of_one_model: false }),
        }
    }

    /// Those of `adapter_config.json`, which PEFT writes beside its own
    /// `adapter_model.safetensors`.
    fn beside(path: &Path) -> Result<Self, String> {
        if path.file_name().is_none_or(|name| name != PEFT_FILE) {
            return Ok(Self::default());
        }
        let json = match crate::files::read(&path.with_file_name(PEFT_CONFIG)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            read => read.map_err(|error| format!("{PEFT_CONFIG} beside it cannot be read ({error})"))?,
        };
        let config: serde_json::Map<String, Value> = serde_json::from_slice(&json)
            .map_err(|error| format!("{PEFT_CONFIG} beside it is not valid JSON ({error}); fetch that again"))?;
        Self::of_a_model(&config)
    }

    /// Those of a file that holds one model, whichever it is, as PEFT's `config` has them.
    fn of_a_model(config: &serde_json::Map<String, Value>) -> Result<Self, String> {
        let text = |name: &str| config.get(name).and_then(Value::as_str);
        if let Some(kind) = text("peft_type").filter(|kind| *kind != "LORA") {
            return Err(format!("is of PEFT's kind {kind}, which is not supported; LORA is"));
        }
        if config.get("use_dora") == Some(&Value::Bool(true)) {
            return Err(DORA.into());
        }
        let parts = ["unet", "transformer", "text_encoder", "text_encoder_2"];
        let fields =
            config.iter().flat_map(|(name, value)| parts.map(|part| (format!("{part}.{name}"), value.clone())));
        Ok(Self { fields: fields.collect(), is_of_one_model: true })
    }

    /// Whether nothing is said.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// As JSON, where they are of one model; else nothing.
    pub(super) fn of_one_model(self) -> Vec<u8> {
        if self.is_of_one_model { Value::Object(self.fields).to_string().into_bytes() } else { Vec::new() }
    }

    /// Alpha over the rank (over its root, where so trained): 1 where nothing is said. The error
    /// says what is wrong with a pattern.
    pub(super) fn scale(&self, layer: &Layer, rank: f64) -> Result<f64, String> {
        let get = |name: &str| self.fields.get(&format!("{}.{name}", layer.part));
        let mut alpha = get("lora_alpha");
        for (pattern, special) in get("alpha_pattern").and_then(Value::as_object).into_iter().flatten() {
            if is_named(&layer.path, pattern)? {
                alpha = Some(special);
                break;
            }
        }
        let Some(alpha) = alpha.and_then(Value::as_f64) else { return Ok(1.0) };
        match get("use_rslora") == Some(&Value::Bool(true)) {
            true => Ok(alpha / rank.sqrt()),
            false => Ok(alpha / rank),
        }
    }
}

/// Whether `pattern` names the layer at `path`, by the end of its path too (PEFT's
/// `get_pattern_key`). It is a regular expression. Most are a plain path, and diffusers writes `^`
/// before a whole one.
fn is_named(path: &str, pattern: &str) -> Result<bool, String> {
    let (plain, whole) = match pattern.strip_prefix('^') {
        Some(plain) => (plain, true),
        None => (pattern, false),
    };
    if plain.chars().all(|c| c.is_alphanumeric() || "._-".contains(c)) {
        return Ok(path == plain || (!whole && path.ends_with(&format!(".{plain}"))));
    }
    let regex = SysRegex::new(&format!(r"^(.*\.)?({pattern})$")).map_err(|error| {
        let (pattern, error) = (crate::in_quotes(pattern), crate::one_line(&error.to_string()));
        format!("{pattern} in its `alpha_pattern` is no regular expression ({error})")
    })?;
    Ok(regex.find_iter(path).next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peft_settings_give_the_scale() {
        let layer = |path: &str| Layer { part: "unet", path: path.into() };
        let settings = |json: Value| PeftSettings { fields: json.as_object().unwrap().clone(), is_of_one_model: false };
        let plain = settings(serde_json::json!({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}));
        let scale = |settings: &PeftSettings, path: &str| settings.scale(&layer(path), 4.0).unwrap();
        assert_eq!(scale(&plain, "mid_block.attn1.to_k"), 2.0);
        assert_eq!(scale(&plain, "mid_block.attn1.to_q"), 0.5);
        let root = settings(serde_json::json!({"unet.lora_alpha": 8, "unet.use_rslora": true}));
        assert_eq!(scale(&root, "mid_block.attn1.to_k"), 4.0);
        assert_eq!(scale(&PeftSettings::default(), "mid_block.attn1.to_k"), 1.0);
    }

    #[test]
    fn patterns_name_layers_as_in_peft() {
        for (pattern, path, named) in [
            ("to_q", "mid.attn1.to_q", true),
            ("attn1.to_q", "mid.attn1.to_q", true),
            ("o_q", "mid.attn1.to_q", false),
            ("^mid.attn1.to_q", "mid.attn1.to_q", true),
            ("^attn1.to_q", "mid.attn1.to_q", false),
            (r"mid\..*\.to_(q|k)", "mid.attn1.to_k", true),
            (r"attn\d\.to_[qk]", "mid.attn1.to_k", true),
            (r"attn\d\.to_[qk]", "mid.attn1.to_v", false),
        ] {
            assert_eq!(is_named(path, pattern), Ok(named), "{pattern} of {path}");
        }
        assert!(is_named("to_q", "to_(q").unwrap_err().contains("no regular expression"));
    }
}
