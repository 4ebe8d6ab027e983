//! `text_encoder/config.json`: the shape of a `CLIPTextModel`.
//!
//! Field names, defaults and meaning follow transformers' `CLIPTextConfig`.

use super::fields::Fields;
use super::unet::MAX_DEPTH;
use crate::Result;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// The activation between the two layers of an encoder's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: SD 1.
    QuickGelu,
    /// `x * Phi(x)` with the exact error function: SD 2, and SDXL's second encoder.
    Gelu,
}

/// A CLIP text encoder. [`Default`] gives transformers' defaults (width 512, 12 layers).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextEncoderConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside each MLP.
    pub intermediate_size: usize,
    /// Width of the projection, which only an encoder with a projection head has.
    pub projection_dim: usize,
    /// Whether a projection of the pooled state follows (`CLIPTextModelWithProjection`): SDXL's
    /// second encoder has one, and both of Stable Diffusion 3.
    pub with_projection: bool,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Rows of the position embedding: the longest prompt, in tokens.
    pub max_position_embeddings: usize,
    /// The MLP's activation.
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Id of the end token, where the pooled state is read. The value 2 in files of 2022 stands for
    /// "the highest id in the prompt" (transformers keeps this reading).
    pub eos_token_id: u32,
}

impl Default for TextEncoderConfig {
    fn default() -> Self {
        Self::from_json(b"{}", Path::new("config.json")).expect("transformers' defaults are a supported config")
    }
}

impl TextEncoderConfig {
    /// Reads the bytes of a `text_encoder/config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field for anything malformed, unknown, or
    /// asking for what attnmap does not do.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        let config = Self::read(&mut fields)?;
        fields.finish()?;
        Ok(config)
    }

    /// As [`from_json`](Self::from_json) for an encoder that is known to have a projection, whether
    /// or not the file says so.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn with_projection(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        let config = Self { with_projection: true, ..Self::read(&mut fields)? };
        config.check(&fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn read(fields: &mut Fields) -> Result<Self> {
        let architectures = fields.take_value("architectures");
        // The config of a whole CLIP holds the text encoder's; `CLIPTextConfig.from_pretrained`
        // takes that one.
        let model_type = fields.take_value("model_type");
        if model_type == Some(json!("clip")) {
            fields.descend("text_config")?;
            fields.inert(&["architectures"]);
            fields.only("model_type", &[json!("clip_text_model")])?;
        } else if let Some(other) = model_type.filter(|kind| *kind != json!("clip_text_model")) {
            return Err(fields.unsupported("model_type", &other, "\"clip_text_model\" or \"clip\""));
        }
        // Which class reads the weights is the index's to say; this only tells what the file once
        // was.
        let with_projection = architectures == Some(json!(["CLIPTextModelWithProjection"]));
        let of_clip = |name: &Value| name.as_str().is_some_and(|name| name.contains("CLIP"));
        if let Some(other) = architectures.filter(|all| !all.as_array().is_some_and(|all| all.iter().all(of_clip))) {
            let supported = "CLIPTextModel or CLIPTextModelWithProjection";
            return Err(fields.unsupported("architectures", &other, supported));
        }
        fields.only("pruned_heads", &[json!({}), Value::Null])?;
        fields.only("is_decoder", &[json!(false)])?;
        fields.only("is_encoder_decoder", &[json!(false)])?;
        fields.only("add_cross_attention", &[json!(false)])?;
        // The pipelines hide the padding from an encoder whose config asks for it.
        fields.only("use_attention_mask", &[json!(false), Value::Null])?;
        fields.inert(&INERT);
        let hidden_act = match fields.take("hidden_act", "quick_gelu".to_string())?.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            other => return Err(fields.unsupported("hidden_act", &json!(other), "quick_gelu or gelu")),
        };
        let config = Self {
            vocab_size: fields.take("vocab_size", 49408)?,
            hidden_size: fields.take("hidden_size", 512)?,
            intermediate_size: fields.take("intermediate_size", 2048)?,
            projection_dim: fields.take("projection_dim", Some(512))?.unwrap_or(0),
            with_projection,
            num_hidden_layers: fields.take("num_hidden_layers", 12)?,
            num_attention_heads: fields.take("num_attention_heads", 8)?,
            max_position_embeddings: fields.take("max_position_embeddings", 77)?,
            hidden_act,
            layer_norm_eps: fields.take("layer_norm_eps", 1e-5)?,
            eos_token_id: fields.take("eos_token_id", Some(49407))?.unwrap_or(49407),
        };
        config.check(fields)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, MAX_DEPTH),
            ("num_attention_heads", self.num_attention_heads, 1 << 16),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 16),
        ];
        for (name, size, most) in sizes {
            if !(1..=most).contains(&size) {
                return Err(fields.refuse(format!("`{name}` is {size}, which is out of range (1 to {most})")));
            }
        }
        if self.with_projection && !(1..=1 << 16).contains(&self.projection_dim) {
            return Err(fields.refuse(format!("`projection_dim` is {}", self.projection_dim)));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(fields.refuse(format!(
                "`num_attention_heads` is {}, which does not divide `hidden_size` ({})",
                self.num_attention_heads, self.hidden_size
            )));
        }
        // Start, one word and end are the least that a prompt can be.
        if self.max_position_embeddings < 3 {
            return Err(fields.refuse(format!(
                "`max_position_embeddings` is {}, too few for a prompt (3 is the least)",
                self.max_position_embeddings
            )));
        }
        Ok(())
    }
}

/// Fields of `PretrainedConfig` and of training that do not change what an encoder computes. They
/// speak of dropout and initialisation, what the Python call returns, labels of classifiers, text
/// generation, and ids that the tokenizer's own files hold.
const INERT: [&str; 62] = [
    "attention_dropout",
    "attention_probs_dropout_prob",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "length_penalty",
    "logit_scale_init_value",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
    "_attn_implementation_autoset",
    "attn_implementation",
];
