//! The files of a T5 tokenizer's folder: `tokenizer.json`, and its settings.

use super::fields::{Fields, brief};
use crate::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// What a T5 tokenizer is made of.
#[derive(Debug, Clone)]
pub struct T5TokenizerFiles {
    /// The folder that the files are in; named in errors about their content.
    pub folder: PathBuf,
    /// `tokenizer.json`: the whole tokenizer in the `tokenizers` crate's format.
    pub tokenizer_json: Cow<'static, [u8]>,
    /// Token that ends a prompt.
    pub eos_token: String,
    /// Token that fills a prompt up.
    pub pad_token: String,
}

impl T5TokenizerFiles {
    /// The files of `folder`: `tokenizer.json` and, where there is one, `tokenizer_config.json`.
    /// `sentencepiece` is whether the folder has a `spiece.model`.
    ///
    /// # Errors
    /// [`Error::Config`] when `tokenizer.json` is not there, or a special token is no text.
    pub(crate) fn new(
        folder: PathBuf,
        tokenizer_json: Option<Cow<'static, [u8]>>,
        config: Option<(&[u8], &Path)>,
        sentencepiece: bool,
    ) -> Result<Self> {
        let Some(tokenizer_json) = tokenizer_json else {
            let reason = match sentencepiece {
                true => {
                    "has spiece.model alone, which is not read; write tokenizer.json beside it with transformers: \
                     T5TokenizerFast.from_pretrained(FOLDER).save_pretrained(FOLDER)"
                }
                false => "has no tokenizer.json; copy it from the model's page",
            };
            return Err(Error::Config { file: folder, reason: reason.into() });
        };
        let (mut eos_token, mut pad_token) = ("</s>".to_string(), "<pad>".to_string());
        if let Some((json, file)) = config {
            let mut fields = Fields::parse(file, json)?;
            for (name, token) in [("eos_token", &mut eos_token), ("pad_token", &mut pad_token)] {
                let Some(value) = fields.take_value(name) else { continue };
                let content = match &value {
                    Value::Object(object) => object.get("content").and_then(Value::as_str),
                    value => value.as_str(),
                };
                match content {
                    Some(text) if !text.is_empty() => *token = text.to_string(),
                    _ => return Err(fields.refuse(format!("`{name}` is {}, which is not a token", brief(&value)))),
                }
            }
        }
        Ok(Self { folder, tokenizer_json, eos_token, pad_token })
    }
}
