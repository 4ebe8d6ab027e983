//! Qwen3 as Z-Image's text encoder: candle-transformers' network, whose states before the last
//! layer are taken.

use crate::checkpoint::Qwen3Config;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::z_image::text_encoder::{TextEncoderConfig, ZImageTextEncoder};
use std::fmt;

/// Places that a prompt may have: more than any pipeline gives.
const MOST_PLACES: usize = 4096;

/// A Qwen3 text encoder.
#[derive(Clone)]
pub struct Qwen3 {
    model: ZImageTextEncoder,
    vocab_size: usize,
    device: Device,
}

impl fmt::Debug for Qwen3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qwen3").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

impl Qwen3 {
    /// The network with the weights that `weights` holds below `model`.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn new(config: &Qwen3Config, weights: VarBuilder) -> Result<Self> {
        let device = weights.device().clone();
        let candles = TextEncoderConfig {
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_hidden_layers: config.num_hidden_layers,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config.rope_theta,
            attention_bias: config.attention_bias,
            hidden_act: Activation::Silu,
            // candle keeps a sine of every place.
            max_position_embeddings: config.max_position_embeddings.min(MOST_PLACES),
        };
        Ok(Self { model: ZImageTextEncoder::new(&candles, weights)?, vocab_size: config.vocab_size, device })
    }

    /// The hidden states of `ids` before the last layer: f32 `[1, tokens, hidden_size]`. A token
    /// sees those before it.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary, or there are more tokens than places.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocab_size) {
            return Err(Error::Unsupported {
                what: format!("token id {id} for a text encoder of {} tokens", self.vocab_size),
                way_out: "use the tokenizer that belongs to it".into(),
            });
        }
        let ids = Tensor::new(ids, &self.device)?.unsqueeze(0)?;
        Ok(self.model.forward(&ids)?.to_dtype(DType::F32)?)
    }
}
