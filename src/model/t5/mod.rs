//! T5's encoder: candle-transformers' network, or one over weights in blocks of quantised numbers.
//! Both compute in f32, whatever their weights are kept in.

mod blocks;

use crate::checkpoint::{Quantised, T5Config};
use crate::{Error, Result};
use blocks::{BlocksT5, TABLES};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::t5::{ActivationWithOptionalGating, Config, T5EncoderModel};
use std::fmt;

/// A T5 text encoder.
#[derive(Clone)]
pub struct T5 {
    form: T5Form,
    vocab_size: usize,
    device: Device,
}

#[derive(Clone)]
enum T5Form {
    Whole(Box<T5EncoderModel>),
    Blocks(Box<BlocksT5>),
}

impl fmt::Debug for T5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("T5").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

impl T5 {
    /// The network with the weights that `weights` holds at its root.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn new(config: &T5Config, weights: VarBuilder) -> Result<Self> {
        // Some files hold the one table of embeddings under both of its names.
        if TABLES.iter().all(|name| weights.contains_tensor(name)) {
            weights.get((config.vocab_size, config.d_model), TABLES[1])?;
        }
        let activation = if config.gated_gelu { Activation::NewGelu } else { Activation::Relu };
        let candles = Config {
            vocab_size: config.vocab_size,
            d_model: config.d_model,
            d_kv: config.d_kv,
            d_ff: config.d_ff,
            num_layers: config.num_layers,
            num_heads: config.num_heads,
            relative_attention_num_buckets: config.relative_attention_num_buckets,
            relative_attention_max_distance: config.relative_attention_max_distance,
            layer_norm_epsilon: config.layer_norm_epsilon,
            feed_forward_proj: ActivationWithOptionalGating { gated: config.gated_gelu, activation },
            use_cache: false,
            ..Config::default()
        };
        let device = weights.device().clone();
        let model = match weights.contains_tensor(TABLES[0]) || weights.contains_tensor(TABLES[1]) {
            true => T5EncoderModel::load(weights, &candles)?,
            // Neither is there: let the one that transformers writes be named as missing.
            false => {
                weights.get((config.vocab_size, config.d_model), TABLES[0])?;
                T5EncoderModel::load(weights, &candles)?
            }
        };
        Ok(Self { form: T5Form::Whole(Box::new(model)), vocab_size: config.vocab_size, device })
    }

    /// As [`new`](Self::new), with the weights that lie in blocks of quantised numbers kept so.
    /// Each is made into f32 for its product alone.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_blocks(config: &T5Config, weights: VarBuilder, quantised: Quantised) -> Result<Self> {
        let device = weights.device().clone();
        let form = T5Form::Blocks(Box::new(BlocksT5::new(config, weights, quantised)?));
        Ok(Self { form, vocab_size: config.vocab_size, device })
    }

    /// The last hidden states of `ids` (u32 `[batch, tokens]`), after the final norm: f32 `[batch,
    /// tokens, d_model]`. All tokens see each other, padding too.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        if let Some(id) = rows.iter().flatten().find(|id| **id as usize >= self.vocab_size) {
            return Err(Error::Unsupported {
                what: format!("token id {id} for a T5 of {} tokens", self.vocab_size),
                way_out: "use the tokenizer that belongs to this T5".into(),
            });
        }
        let ids = ids.to_device(&self.device)?.to_dtype(DType::U32)?.contiguous()?;
        match &self.form {
            // A clone shares the weights; candle's forward pass wants to change its (empty) cache.
            T5Form::Whole(model) => {
                Ok(model.as_ref().clone().forward_dt(&ids, Some(DType::F32))?.to_dtype(DType::F32)?)
            }
            T5Form::Blocks(model) => {
                let rows = (0..rows.len()).map(|row| model.forward(&ids.get(row)?)).collect::<Result<Vec<_>>>()?;
                Ok(Tensor::stack(&rows, 0)?)
            }
        }
    }
}
