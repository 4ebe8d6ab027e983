//! The prompt's reader: CLIP's text transformer (transformers `CLIPTextModel`,
//! `CLIPTextModelWithProjection`).

use super::layers::{Builder, LayerNorm, Linear, MemoryOrder, attend, merge_heads, quick_gelu, split_heads};
use crate::checkpoint::{Activation, TextEncoderConfig};
use crate::{Error, Result};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;

/// CLIP's text encoder, fields named as its weights.
///
/// Weights are looked for under `text_model.` (transformers up to 4), or at the root where there is
/// no such prefix (transformers 5). Those of the projection lie at the root.
#[derive(Debug, Clone)]
pub struct TextEncoder {
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<ClipLayer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    eos_token_id: u32,
    device: Device,
    dtype: DType,
}

/// What the text encoder makes of a batch of prompts; f32.
#[derive(Debug, Clone)]
pub struct TextEncoding {
    /// `[batch, tokens, hidden_size]`, after the final layer norm: the conditioning of SD 1 and 2.
    pub last_hidden_state: Tensor,
    /// The embeddings, then what each layer gave: one more than there are layers, `[batch, tokens,
    /// hidden_size]` each, before the final layer norm. The last but one conditions SDXL.
    pub hidden_states: Vec<Tensor>,
    /// `[batch, hidden_size]`: the last hidden state at the end token.
    pub pooled: Tensor,
    /// `[batch, projection_dim]`: the pooled state through the projection, in an encoder that has
    /// one (`text_embeds`).
    pub projected: Option<Tensor>,
    /// Self-attention of each layer, `[batch, heads, tokens, tokens]`, each row summing to 1 over
    /// itself and what came before; empty unless asked for ([`TextEncoder::forward_attentions`]).
    pub attentions: Vec<Tensor>,
}

impl TextEncoding {
    /// The hidden states before the last layer, which condition SDXL.
    pub fn penultimate(&self) -> &Tensor {
        &self.hidden_states[self.hidden_states.len().saturating_sub(2)]
    }
}

impl TextEncoder {
    /// The network with the weights that `weights` holds at its root or under `text_model.`.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn new(config: &TextEncoderConfig, weights: VarBuilder) -> Result<Self> {
        Self::build(config, &Builder::new(weights))
    }

    /// As [`new`](Self::new), of plain layers, which candle can differentiate.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn plain(config: &TextEncoderConfig, weights: VarBuilder) -> Result<Self> {
        Self::build(config, &Builder::with_layout(weights, MemoryOrder::Nchw))
    }

    /// As [`new`](Self::new), from layers of the caller's choice.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn build(config: &TextEncoderConfig, b: &Builder) -> Result<Self> {
        let root = b;
        let mut b = b.clone();
        if !b.contains("embeddings.token_embedding.weight") {
            b = b.pp("text_model");
        }
        let embeddings = b.pp("embeddings");
        let width = config.hidden_size;
        let token = embeddings.pp("token_embedding").get((config.vocab_size, width), "weight")?;
        let position = embeddings.pp("position_embedding").get((config.max_position_embeddings, width), "weight")?;
        let layer = |index: usize| ClipLayer::new(config, &b.pp("encoder").pp("layers").pp(index));
        let projection = || Linear::without_bias(width, config.projection_dim, &root.pp("text_projection"));
        Ok(Self {
            token_embedding: token,
            position_embedding: position,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::new(width, config.layer_norm_eps, &b.pp("final_layer_norm"))?,
            text_projection: config.with_projection.then(projection).transpose()?,
            eos_token_id: config.eos_token_id,
            device: b.device().clone(),
            dtype: b.activations(),
        })
    }

    /// Reads `ids` (u32 `[batch, tokens]`, at most `max_position_embeddings` tokens).
    ///
    /// # Errors
    /// When there are too many tokens or an id is beyond the vocabulary.
    pub fn forward(&self, ids: &Tensor) -> Result<TextEncoding> {
        self.run(ids, &self.embed(ids)?, false)
    }

    /// As [`forward`](Self::forward), and keeps the self-attention of every layer.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_attentions(&self, ids: &Tensor) -> Result<TextEncoding> {
        self.run(ids, &self.embed(ids)?, true)
    }

    /// As [`forward`](Self::forward) with other token embeddings, `[batch, tokens, hidden_size]`,
    /// than those of `ids`, which still say where the pooled state is read.
    ///
    /// # Errors
    /// When `embedded` has another shape.
    pub fn forward_embedded(&self, ids: &Tensor, embedded: &Tensor) -> Result<TextEncoding> {
        self.run(ids, embedded, false)
    }

    /// The embedding of each of `ids`, before positions are added: `[batch, tokens, hidden_size]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let rows = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        let (vocabulary, width) = self.token_embedding.dims2()?;
        let positions = self.position_embedding.dim(0)?;
        if tokens == 0 || tokens > positions {
            return Err(Error::Unsupported {
                what: format!("a prompt of {tokens} tokens for a text encoder of {positions} positions"),
                way_out: "shorten the prompt, or use the tokenizer that belongs to this text encoder".into(),
            });
        }
        if let Some(id) = rows.iter().flatten().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Unsupported {
                what: format!("token id {id} for a text encoder of {vocabulary} tokens"),
                way_out: "use the tokenizer that belongs to this text encoder".into(),
            });
        }
        let flat = ids.to_device(&self.device)?.to_dtype(DType::U32)?.flatten_all()?;
        let embedded = self.token_embedding.index_select(&flat, 0)?.to_dtype(self.dtype)?;
        Ok(embedded.reshape((batch, tokens, width))?)
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// What the encoder would give if it ended after its first `layers`. That is the final layer
    /// norm on the states there, and the pooled state of those. `encoding` is of `ids`.
    ///
    /// # Errors
    /// When there are not so many layers.
    pub fn ended_after(&self, layers: usize, ids: &Tensor, encoding: &TextEncoding) -> Result<TextEncoding> {
        let Some(last) = encoding.hidden_states.get(layers) else {
            let count = self.layers.len();
            return Err(Error::bug(format!("a text encoder of {count} layers cannot end after {layers}")));
        };
        let hidden_states = encoding.hidden_states[..=layers].to_vec();
        let attentions = encoding.attentions.iter().take(layers).cloned().collect();
        self.ended(&ids.to_dtype(DType::U32)?.to_vec2::<u32>()?, &last.to_dtype(self.dtype)?, hidden_states, attentions)
    }

    /// `encoding`, of `ids`, without what the last `skipped` layers made of the states. The pooled
    /// state stays what all layers made (`clip_skip` in diffusers).
    ///
    /// # Errors
    /// When there are not so many layers.
    pub fn skipping(&self, skipped: usize, ids: &Tensor, encoding: TextEncoding) -> Result<TextEncoding> {
        if skipped == 0 {
            return Ok(encoding);
        }
        let ended = self.ended_after(self.layers.len().saturating_sub(skipped), ids, &encoding)?;
        Ok(TextEncoding { pooled: encoding.pooled, projected: encoding.projected, ..ended })
    }

    /// Channels of its states.
    ///
    /// # Errors
    /// Those of the tensors.
    pub fn width(&self) -> Result<usize> {
        Ok(self.token_embedding.dim(1)?)
    }

    /// The queries and the keys of each layer that `encoding` went through. Each is f32 `[batch,
    /// heads, tokens, head_dim]`, not scaled. They are computed from the states that the layer was
    /// given.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn queries_keys(&self, encoding: &TextEncoding) -> Result<Vec<[Tensor; 2]>> {
        // The states behind the last layer are given to none.
        let given = encoding.hidden_states.iter().rev().skip(1).rev();
        self.layers.iter().zip(given).map(|(layer, states)| layer.queries_keys(&states.to_dtype(self.dtype)?)).collect()
    }

    fn run(&self, ids: &Tensor, embedded: &Tensor, keep_attentions: bool) -> Result<TextEncoding> {
        let (_, tokens) = ids.dims2()?;
        let rows = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        let position = self.position_embedding.narrow(0, 0, tokens)?.to_dtype(self.dtype)?;
        let mut x = embedded.broadcast_add(&position)?;
        let mask = causal_mask(tokens, &self.device)?;
        let mut hidden_states = vec![x.to_dtype(DType::F32)?];
        let mut attentions = Vec::new();
        for layer in &self.layers {
            x = layer.forward(&x, &mask, keep_attentions.then_some(&mut attentions))?;
            hidden_states.push(x.to_dtype(DType::F32)?);
        }
        self.ended(&rows, &x, hidden_states, attentions)
    }

    /// What follows the last layer, whose states are `x`.
    fn ended(
        &self,
        rows: &[Vec<u32>],
        x: &Tensor,
        hidden_states: Vec<Tensor>,
        attentions: Vec<Tensor>,
    ) -> Result<TextEncoding> {
        let last_hidden_state = self.final_layer_norm.forward(x)?.to_dtype(DType::F32)?;
        let pooled: Vec<Tensor> = rows
            .iter()
            .enumerate()
            .map(|(row, ids)| Ok(last_hidden_state.i((row, end_position(ids, self.eos_token_id)))?))
            .collect::<Result<_>>()?;
        let pooled = Tensor::stack(&pooled, 0)?;
        let projected = match &self.text_projection {
            Some(projection) => Some(projection.forward(&pooled.to_dtype(self.dtype)?)?.to_dtype(DType::F32)?),
            None => None,
        };
        Ok(TextEncoding { pooled, projected, last_hidden_state, hidden_states, attentions })
    }
}

/// Where the pooled state is read: at the first end token. Where the config has the `eos_token_id`
/// of 2 of files from 2022, it is the first token with the highest id (transformers
/// `CLIPTextTransformer`). The start where there is no end.
fn end_position(ids: &[u32], eos_token_id: u32) -> usize {
    let end = if eos_token_id == 2 { ids.iter().copied().max().unwrap_or(0) } else { eos_token_id };
    ids.iter().position(|id| *id == end).unwrap_or(0)
}

/// `[1, 1, tokens, tokens]`: minus infinity where a token would look ahead.
fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor> {
    let cell = |index: usize| if index % tokens > index / tokens { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..tokens * tokens).map(cell).collect();
    Ok(Tensor::from_vec(mask, (1, 1, tokens, tokens), device)?)
}

/// transformers `CLIPEncoderLayer`.
#[derive(Debug, Clone)]
struct ClipLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
    layer_norm2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
}

impl ClipLayer {
    fn new(config: &TextEncoderConfig, b: &Builder) -> Result<Self> {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = b.pp("self_attn");
        let mlp = b.pp("mlp");
        Ok(Self {
            layer_norm1: LayerNorm::new(width, eps, &b.pp("layer_norm1"))?,
            q_proj: Linear::new(width, width, &attention.pp("q_proj"))?,
            k_proj: Linear::new(width, width, &attention.pp("k_proj"))?,
            v_proj: Linear::new(width, width, &attention.pp("v_proj"))?,
            out_proj: Linear::new(width, width, &attention.pp("out_proj"))?,
            heads: config.num_attention_heads,
            layer_norm2: LayerNorm::new(width, eps, &b.pp("layer_norm2"))?,
            fc1: Linear::new(width, inner, &mlp.pp("fc1"))?,
            activation: config.hidden_act,
            fc2: Linear::new(inner, width, &mlp.pp("fc2"))?,
        })
    }

    fn queries_keys(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        let normed = self.layer_norm1.forward(x)?;
        let of_heads = |projection: &Linear| -> Result<Tensor> {
            Ok(split_heads(&projection.forward(&normed)?, self.heads)?.to_dtype(DType::F32)?)
        };
        Ok([of_heads(&self.q_proj)?, of_heads(&self.k_proj)?])
    }

    fn forward(&self, x: &Tensor, mask: &Tensor, attentions: Option<&mut Vec<Tensor>>) -> Result<Tensor> {
        let normed = self.layer_norm1.forward(x)?;
        let queries = split_heads(&self.q_proj.forward(&normed)?, self.heads)?;
        let keys = split_heads(&self.k_proj.forward(&normed)?, self.heads)?;
        let values = split_heads(&self.v_proj.forward(&normed)?, self.heads)?;
        let seen = match attentions {
            Some(kept) => {
                let mut keep = |probabilities: &Tensor| {
                    kept.push(probabilities.clone());
                    Ok(())
                };
                attend(&queries, &keys, &values, Some(mask), false, Some(&mut keep))?
            }
            None => attend(&queries, &keys, &values, Some(mask), false, None)?,
        };
        let x = self.out_proj.forward_plus(&merge_heads(&seen)?, x)?;
        let inner = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        let inner = match self.activation {
            Activation::QuickGelu => quick_gelu(&inner)?,
            Activation::Gelu => inner.gelu_erf()?,
        };
        self.fc2.forward_plus(&inner, &x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_the_first_end_token_or_the_highest_id() {
        assert_eq!(end_position(&[7, 3, 9, 9, 9], 9), 2);
        assert_eq!(end_position(&[7, 3, 9, 0, 0], 9), 2);
        assert_eq!(end_position(&[7, 3, 9, 0, 0], 2), 2);
        assert_eq!(end_position(&[7, 12, 9, 0, 0], 2), 1);
        assert_eq!(end_position(&[7, 3], 9), 0);
    }

    #[test]
    fn mask_hides_what_comes_later() -> Result<()> {
        let mask = causal_mask(3, &Device::Cpu)?.flatten_to(2)?.to_vec2::<f32>()?;
        let hidden = f32::NEG_INFINITY;
        assert_eq!(mask, [[0.0, hidden, hidden], [0.0, 0.0, hidden], [0.0, 0.0, 0.0]]);
        Ok(())
    }
}
