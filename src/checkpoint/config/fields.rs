//! Reading a JSON object field by field, so that every refusal names the file, the field and its
//! value.

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// A JSON object of which each field is taken exactly once; what is left at the end is unknown and
/// refused.
pub(crate) struct Fields {
    file: PathBuf,
    map: Map<String, Value>,
}

impl Fields {
    /// The object in `json`, which was read from `file`.
    pub(crate) fn parse(file: &Path, json: &[u8]) -> Result<Self> {
        let refuse = |reason: String| Error::Config { file: file.to_path_buf(), reason };
        match parse_json(json) {
            Ok(Value::Object(map)) => Ok(Self { file: file.to_path_buf(), map: without_defaults(map) }),
            Ok(_) => Err(refuse("not a JSON object".into())),
            Err(error) => Err(refuse(format!("not valid JSON ({error}); fetch the file again"))),
        }
    }

    /// An error about this file.
    pub(crate) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Config { file: self.file.clone(), reason: reason.into() }
    }

    /// The file that this object was read from.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The value of `name`, or `default` where the file does not have it.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T> {
        match self.map.remove(name) {
            None => Ok(default),
            Some(value) => self.convert(name, value),
        }
    }

    /// The value of `name`, which the file must have.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        match self.map.remove(name) {
            None => Err(self.refuse(format!("`{name}` is missing"))),
            Some(value) => self.convert(name, value),
        }
    }

    /// The raw value of `name`, `None` where it is absent or null.
    pub(crate) fn take_value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Takes `name`, which must be absent or equal to one of `allowed`.
    pub(crate) fn only(&mut self, name: &str, allowed: &[Value]) -> Result<()> {
        match self.map.remove(name) {
            None => Ok(()),
            Some(value) if allowed.iter().any(|allowed| same(allowed, &value)) => Ok(()),
            Some(value) => Err(self.unsupported(name, &value, &list(allowed))),
        }
    }

    /// The refusal of `name` with `value`, where `supported` says what would be accepted.
    pub(crate) fn unsupported(&self, name: &str, value: &Value, supported: &str) -> Error {
        self.refuse(format!("`{name}` is {}, which is not supported (only {supported} is)", brief(value)))
    }

    /// Takes fields that have no effect on what attnmap does.
    pub(crate) fn inert(&mut self, names: &[&str]) {
        for name in names {
            self.map.remove(*name);
        }
    }

    /// A field that has not been taken.
    pub(crate) fn rest(&self) -> Option<&str> {
        self.map.keys().next().map(String::as_str)
    }

    /// Goes on with the object that the field `name` holds, where there is one, in place of this.
    pub(crate) fn descend(&mut self, name: &str) -> Result<()> {
        match self.map.remove(name) {
            Some(Value::Object(map)) => self.map = map,
            _ => return Err(self.refuse(format!("`{name}` is missing, or no JSON object"))),
        }
        Ok(())
    }

    /// The rest must have no effect: nothing at all, a private field (a leading underscore), or
    /// what training left behind.
    pub(crate) fn finish(self) -> Result<()> {
        let harmless = |name: &str| name.starts_with('_') || HARMLESS.contains(&name);
        match self.map.iter().find(|(name, value)| !harmless(name) && !is_nothing(value)) {
            None => Ok(()),
            Some((name, value)) if name == "quantization_config" => Err(self.refuse(format!(
                "`{name}` is {}: quantised weights, which are not supported; take them in f16, bf16, float8 or GGUF",
                brief(value)
            ))),
            Some((name, value)) => {
                let value = brief(value);
                Err(self.refuse(format!(
                    "`{name}` (here {value}) is not a field that attnmap knows; if it has no effect, remove it from \
                    the file"
                )))
            }
        }
    }

    fn convert<T: DeserializeOwned>(&self, name: &str, value: Value) -> Result<T> {
        let shown = brief(&value);
        serde_json::from_value(value)
            .map_err(|error| self.refuse(format!("`{name}` is {shown}, which cannot be used ({error})")))
    }
}

/// The value in `json` as the Python programs that write configs read it: `NaN` and `Infinity`,
/// which JSON does not have, become text.
pub(crate) fn parse_json(json: &[u8]) -> serde_json::Result<Value> {
    // Some editors put a byte order mark before the text.
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    serde_json::from_slice(&quote_non_finite(json))
}

/// Fields that any part's config may have and that change no number. They are the counters of
/// diffusers' `EMAModel` (`training_utils.py` saves them among the UNet's own), how weights were
/// stored, and what saved memory in training.
const HARMLESS: [&str; 13] = [
    "decay",
    "dtype",
    "gradient_checkpointing",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "update_after_step",
    "use_ema_warmup",
    "use_memory_efficient_attention_xformers",
];

/// Whether a field has no value: null, or the pair of nulls of a part that a pipeline does without.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_null),
        value => value.is_null(),
    }
}

/// `map` without the fields that its `_use_default_values` lists: diffusers takes the class's
/// defaults for these (`extract_init_dict` in `configuration_utils.py`, 0.42).
fn without_defaults(mut map: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Array(names)) = map.get("_use_default_values").cloned() {
        names.iter().filter_map(Value::as_str).for_each(|name| drop(map.remove(name)));
    }
    map
}

/// `value` as JSON, cut to a length that fits one line.
pub(crate) fn brief(value: &Value) -> String {
    let mut text = value.to_string();
    if text.chars().count() > 80 {
        text = text.chars().take(80).collect::<String>() + "...";
    }
    text
}

/// JSON equality where 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// Python's `json` writes `NaN`, `Infinity` and `-Infinity` bare, which JSON does not have: puts
/// them in quotes.
fn quote_non_finite(json: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    if !WORDS[1..].iter().any(|word| json.windows(word.len()).any(|window| window == *word)) {
        return Cow::Borrowed(json);
    }
    let mut quoted = Vec::with_capacity(json.len() + 16);
    let (mut at, mut in_string) = (0, false);
    while at < json.len() {
        let rest = &json[at..];
        if let Some(word) = WORDS.iter().find(|word| !in_string && rest.starts_with(word)) {
            quoted.push(b'"');
            quoted.extend_from_slice(word);
            quoted.push(b'"');
            at += word.len();
            continue;
        }
        // An escaped character inside a string is copied together with its backslash, so that `\"`
        // ends nothing.
        let width = if in_string && rest[0] == b'\\' { rest.len().min(2) } else { 1 };
        in_string ^= rest[0] == b'"';
        quoted.extend_from_slice(&rest[..width]);
        at += width;
    }
    Cow::Owned(quoted)
}

fn list(allowed: &[Value]) -> String {
    allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ")
}
