//! `text_encoder_3/config.json` of Stable Diffusion 3, `text_encoder_2/config.json` of FLUX.1: the
//! shape of a `T5EncoderModel`.
//!
//! Field names, defaults and meaning follow transformers' `T5Config`.

use super::fields::Fields;
use super::unet::MAX_DEPTH;
use crate::Result;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// A T5 text encoder (Raffel et al., 2020).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct T5Config {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub d_model: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// Width inside each feed-forward.
    pub d_ff: usize,
    /// Layers.
    pub num_layers: usize,
    /// Attention heads per layer.
    pub num_heads: usize,
    /// Distances between tokens that are told apart.
    pub relative_attention_num_buckets: usize,
    /// The distance from which on all are alike.
    pub relative_attention_max_distance: usize,
    /// Epsilon of the norms.
    pub layer_norm_epsilon: f64,
    /// Whether the feed-forward is gated by a GELU (T5 1.1), else a plain ReLU.
    pub gated_gelu: bool,
}

impl T5Config {
    /// Reads the bytes of a `config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field for anything malformed, unknown, or
    /// asking for what attnmap does not do.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        fields.only("model_type", &[json!("t5"), Value::Null])?;
        fields.only("is_decoder", &[json!(false), Value::Null])?;
        fields.only("pruned_heads", &[json!({}), Value::Null])?;
        fields.only("scale_decoder_outputs", &[json!(true), json!(false), Value::Null])?;
        fields.inert(&INERT);
        let gated_gelu = match fields.take("feed_forward_proj", "relu".to_string())?.as_str() {
            "gated-gelu" => true,
            "relu" => false,
            other => return Err(fields.unsupported("feed_forward_proj", &json!(other), "\"gated-gelu\" or \"relu\"")),
        };
        let config = Self {
            vocab_size: fields.take("vocab_size", 32128)?,
            d_model: fields.take("d_model", 512)?,
            d_kv: fields.take("d_kv", 64)?,
            d_ff: fields.take("d_ff", 2048)?,
            num_layers: fields.take("num_layers", 6)?,
            num_heads: fields.take("num_heads", 8)?,
            relative_attention_num_buckets: fields.take("relative_attention_num_buckets", 32)?,
            relative_attention_max_distance: fields.take("relative_attention_max_distance", 128)?,
            layer_norm_epsilon: fields.take("layer_norm_epsilon", 1e-6)?,
            gated_gelu,
        };
        config.check(&fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("d_model", self.d_model, 1 << 16),
            ("d_kv", self.d_kv, 1 << 12),
            ("d_ff", self.d_ff, 1 << 20),
            ("num_layers", self.num_layers, MAX_DEPTH),
            ("num_heads", self.num_heads, 1 << 12),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets, 1 << 12),
            ("relative_attention_max_distance", self.relative_attention_max_distance, 1 << 16),
        ];
        for (name, size, most) in sizes {
            if !(1..=most).contains(&size) {
                return Err(fields.refuse(format!("`{name}` is {size}, which is out of range (1 to {most})")));
            }
        }
        // Half of the buckets are for each direction, and half of those for single distances.
        let (buckets, far) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if buckets % 4 != 0 || far <= buckets / 4 {
            return Err(fields.refuse(format!(
                "`relative_attention_num_buckets` is {buckets} and `relative_attention_max_distance` {far}; a multiple \
                 of 4, and more than a quarter of it, are needed"
            )));
        }
        Ok(())
    }
}

/// Fields of training, of text generation and of the decoder, which do not change what the encoder
/// computes.
const INERT: [&str; 45] = [
    "architectures",
    "bad_words_ids",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "decoder_start_token_id",
    "dense_act_fn",
    "diversity_penalty",
    "do_sample",
    "dropout_rate",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_factor",
    "is_encoder_decoder",
    "is_gated_act",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "n_positions",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_decoder_layers",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "torchscript",
    "use_bfloat16",
    "use_cache",
];
