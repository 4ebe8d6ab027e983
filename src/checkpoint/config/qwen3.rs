//! `text_encoder/config.json` of Z-Image: the shape of a `Qwen3Model`.
//!
//! Field names, defaults and meaning follow transformers' `Qwen3Config`.

use super::fields::Fields;
use super::unet::MAX_DEPTH;
use crate::Result;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// A Qwen3 language model (Alibaba, 2025), read as a text encoder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Qwen3Config {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside each feed-forward.
    pub intermediate_size: usize,
    /// Layers, of which the last is not used.
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values, each for as many heads of queries.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Base of the frequencies that places turn by.
    pub rope_theta: f64,
    /// Whether queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Places that there are.
    pub max_position_embeddings: usize,
}

impl Qwen3Config {
    /// Reads the bytes of a `config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field for anything malformed, unknown, or
    /// asking for what attnmap does not do.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        fields.only("model_type", &[json!("qwen3"), Value::Null])?;
        fields.only("hidden_act", &[json!("silu"), Value::Null])?;
        fields.only("use_sliding_window", &[json!(false), Value::Null])?;
        fields.only("rope_scaling", &[Value::Null])?;
        fields.inert(&INERT);
        // transformers 5 has the base of the frequencies in an object.
        let within = fields.take_value("rope_parameters").unwrap_or(Value::Null);
        if let Some(kind) = within["rope_type"].as_str().filter(|kind| *kind != "default") {
            return Err(fields.unsupported("rope_parameters", &json!(kind), "\"default\""));
        }
        let theta = within["rope_theta"].as_f64().unwrap_or(10000.0);
        let num_attention_heads = fields.take("num_attention_heads", 32)?;
        let config = Self {
            vocab_size: fields.take("vocab_size", 151936)?,
            hidden_size: fields.take("hidden_size", 4096)?,
            intermediate_size: fields.take("intermediate_size", 22016)?,
            num_hidden_layers: fields.take("num_hidden_layers", 32)?,
            num_attention_heads,
            num_key_value_heads: fields.take("num_key_value_heads", Some(32))?.unwrap_or(num_attention_heads),
            head_dim: fields.take("head_dim", 128)?,
            rms_norm_eps: fields.take("rms_norm_eps", 1e-6)?,
            rope_theta: fields.take("rope_theta", Some(theta))?.unwrap_or(theta),
            attention_bias: fields.take("attention_bias", false)?,
            max_position_embeddings: fields.take("max_position_embeddings", 32768)?,
        };
        config.check(&fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1, 1 << 24),
            ("hidden_size", self.hidden_size, 1, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1, 1 << 20),
            // The states before the last layer are taken.
            ("num_hidden_layers", self.num_hidden_layers, 2, MAX_DEPTH),
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 10),
            ("num_key_value_heads", self.num_key_value_heads, 1, 1 << 10),
            ("head_dim", self.head_dim, 2, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 512, 1 << 24),
        ];
        for (name, size, least, most) in sizes {
            if !(least..=most).contains(&size) {
                return Err(fields.refuse(format!("`{name}` is {size}, which is out of range ({least} to {most})")));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) || !self.head_dim.is_multiple_of(2) {
            return Err(fields.refuse(format!(
                "`num_key_value_heads` ({}) does not divide `num_attention_heads` ({}), or `head_dim` ({}) is odd",
                self.num_key_value_heads, self.num_attention_heads, self.head_dim
            )));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(fields.refuse(format!("`rope_theta` is {}, which is not positive", self.rope_theta)));
        }
        Ok(())
    }
}

/// Fields of training and of text generation, which do not change what the encoder computes.
const INERT: [&str; 13] = [
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "initializer_range",
    "layer_types",
    "max_window_layers",
    "model_type",
    "output_hidden_states",
    "pad_token_id",
    "sliding_window",
    "tie_word_embeddings",
    "use_cache",
];
