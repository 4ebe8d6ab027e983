//! The files of the `tokenizer/` folder: `vocab.json` with `merges.txt`, or `tokenizer.json`, and
//! their settings.

use super::fields::{Fields, brief};
use crate::argument::EMBEDDING;
use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// What a tokenizer is made of. At least `tokenizer_json`, or `vocab_json` and `merges_txt`
/// together, are present.
#[derive(Debug, Clone)]
pub struct TokenizerFiles {
    /// The folder that the files are in; named in errors about their content.
    pub folder: PathBuf,
    /// `vocab.json`: token to id.
    pub vocab_json: Option<Cow<'static, [u8]>>,
    /// `merges.txt`: byte-pair merges, best first.
    pub merges_txt: Option<Cow<'static, [u8]>>,
    /// `tokenizer.json`: the whole tokenizer in the `tokenizers` crate's format.
    pub tokenizer_json: Option<Cow<'static, [u8]>>,
    /// Settings beside them.
    pub config: TokenizerConfig,
}

/// `tokenizer_config.json` joined with `special_tokens_map.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenizerConfig {
    /// Length that prompts are padded and cut to, start and end included: 77.
    pub model_max_length: usize,
    /// Token that starts a prompt.
    pub bos_token: String,
    /// Token that ends a prompt.
    pub eos_token: String,
    /// Token for what the vocabulary lacks.
    pub unk_token: String,
    /// Token that fills a prompt up: the end token in SD 1, `!` in SD 2.
    pub pad_token: String,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        let end = "<|endoftext|>".to_string();
        Self {
            model_max_length: 77,
            bos_token: "<|startoftext|>".into(),
            eos_token: end.clone(),
            unk_token: end.clone(),
            pad_token: end,
        }
    }
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json` and, where there is one, `special_tokens_map.json`; each with
    /// the path that errors name. `longest` is the text encoder's `max_position_embeddings`, which
    /// stands in for an absent or endless `model_max_length`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field for anything malformed, unknown, or asking for what
    /// attnmap does not do.
    pub fn from_json(config: (&[u8], &Path), special: Option<(&[u8], &Path)>, longest: usize) -> Result<Self> {
        let mut fields = Fields::parse(config.1, config.0)?;
        let mut special = special.map(|(json, file)| Fields::parse(file, json)).transpose()?;
        let defaults = Self::default();
        // tokenizer_config.json wins, as in transformers; SD 2 names its pad token in either file.
        let mut token = |name: &str, default: &str| -> Result<String> {
            let from_map = match &mut special {
                Some(map) => special_token(map, name)?,
                None => None,
            };
            Ok(special_token(&mut fields, name)?.or(from_map).unwrap_or_else(|| default.to_string()))
        };
        let (bos_token, eos_token) =
            (token("bos_token", &defaults.bos_token)?, token("eos_token", &defaults.eos_token)?);
        let (unk_token, pad_token) =
            (token("unk_token", &defaults.unk_token)?, token("pad_token", &defaults.pad_token)?);
        let known = [&bos_token, &eos_token, &unk_token, &pad_token];
        if let Some(mut special) = special {
            refuse_added_tokens(&mut special, &known)?;
            special.finish()?;
        }
        refuse_added_tokens(&mut fields, &known)?;
        let model_max_length = max_length(&mut fields, longest)?;
        read_rest(&mut fields)?;
        fields.finish()?;
        Ok(Self { model_max_length, bos_token, eos_token, unk_token, pad_token })
    }
}

/// `model_max_length` as a length that the text encoder has positions for.
fn max_length(fields: &mut Fields, longest: usize) -> Result<usize> {
    let Some(value) = fields.take_value("model_max_length") else { return Ok(longest) };
    match value.as_f64() {
        // transformers writes 1e30 for "no limit".
        Some(length) if length >= 1e29 => Ok(longest),
        Some(length) if length >= 3.0 && length <= longest as f64 && length.fract() == 0.0 => Ok(length as usize),
        _ => Err(fields.refuse(format!(
            "`model_max_length` is {value}, which does not fit the text encoder (`max_position_embeddings` {longest})"
        ))),
    }
}

/// Settings other than tokens: the value that attnmap implements, or no effect on tokens.
fn read_rest(fields: &mut Fields) -> Result<()> {
    fields.only("add_prefix_space", &[json!(false), Value::Null])?;
    fields.only("split_special_tokens", &[json!(false), Value::Null])?;
    // CLIP's tokenizer puts start and end round every prompt.
    fields.only("add_bos_token", &[json!(true), Value::Null])?;
    fields.only("add_eos_token", &[json!(true), Value::Null])?;
    fields.only("do_lower_case", &[json!(true)])?;
    fields.only("padding_side", &[json!("right")])?;
    fields.only("truncation_side", &[json!("right")])?;
    fields.only("errors", &[json!("replace")])?;
    // `model_index.json` says which class reads the files. How a call pads and truncates is the
    // pipeline's to say.
    fields.inert(&[
        "auto_map",
        "backend",
        "bos_token_id",
        "chat_template",
        "clean_up_tokenization_spaces",
        "eos_token_id",
        "from_slow",
        "init_inputs",
        "is_fast",
        "is_local",
        "legacy",
        "local_files_only",
        "max_length",
        "model_input_names",
        "model_type",
        "name_or_path",
        "pad_to_multiple_of",
        "pad_token_id",
        "pad_token_type_id",
        "padding",
        "processor_class",
        "return_tensors",
        "special_tokens_map_file",
        "stride",
        "tokenizer_class",
        "tokenizer_file",
        "tokenizer_type",
        "trim_offsets",
        "truncation",
        "truncation_strategy",
        "unk_token_id",
        "use_fast",
        "verbose",
        "vocab_size",
    ]);
    Ok(())
}

/// A token given as text or as an `AddedToken` object.
fn special_token(fields: &mut Fields, name: &str) -> Result<Option<String>> {
    let Some(value) = fields.take_value(name) else { return Ok(None) };
    let content = match &value {
        Value::Object(object) => object.get("content").and_then(Value::as_str),
        value => value.as_str(),
    };
    match content {
        Some(text) if !text.is_empty() => Ok(Some(text.to_string())),
        _ => Err(fields.refuse(format!("`{name}` is {}, which is not a token", brief(&value)))),
    }
}

/// Tokens beyond the special ones (textual inversion) would need rows of their own in the text
/// encoder.
fn refuse_added_tokens(fields: &mut Fields, known: &[&String]) -> Result<()> {
    for name in ["added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"] {
        let Some(value) = fields.take_value(name) else { continue };
        let tokens: Vec<&Value> = match &value {
            Value::Object(object) => object.values().collect(),
            Value::Array(items) => items.iter().collect(),
            value => vec![value],
        };
        for token in tokens {
            let content = match token {
                Value::Object(object) => object.get("content").and_then(Value::as_str),
                token => token.as_str(),
            };
            if !content.is_some_and(|content| known.iter().any(|known| *known == content)) {
                return Err(fields.refuse(format!(
                    "`{name}` adds the token {}, and added tokens are read from tokenizer.json alone; save it with \
                    transformers 5, or give the word with {EMBEDDING}",
                    brief(token)
                )));
            }
        }
    }
    Ok(())
}

/// `added_tokens.json` may repeat the special tokens; any other is refused. `{"token": id}`.
pub(crate) fn refuse_added_tokens_file(json: &[u8], file: &Path) -> Result<()> {
    let mut fields = Fields::parse(file, json)?;
    fields.inert(&["<|startoftext|>", "<|endoftext|>", "!"]);
    match fields.rest() {
        None => Ok(()),
        Some(token) => Err(fields.refuse(format!(
            "adds the token {token:?}, and added tokens are read from tokenizer.json alone; save it with transformers \
            5, or give the word with {EMBEDDING}"
        ))),
    }
}

/// The refusal of a tokenizer folder that lacks its vocabulary.
pub(crate) fn missing_vocabulary(folder: PathBuf) -> Error {
    Error::Config {
        file: folder,
        reason: "has neither tokenizer.json nor vocab.json with merges.txt; copy them from the model's page".into(),
    }
}
