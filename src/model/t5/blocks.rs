//! T5's encoder over weights in blocks of quantised numbers: one weight at a time is made into f32,
//! and gone again after its product.
//!
//! candle-transformers' quantised T5 reads its weights from a GGUF file alone, by names of its own.
//! Files that people have use llama.cpp's names, and attnmap checks their headers itself. Products
//! of whole numbers, and not candle's of blocks, keep the states exact: a prompt is read once.

use crate::Result;
use crate::checkpoint::{Quantised, T5Config};
use candle_core::quantized::QTensor;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::softmax_last_dim;
use std::sync::Arc;

/// The two names of the table of token embeddings.
pub(super) const TABLES: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];

/// A weight `[out, in]`.
#[derive(Clone)]
enum Weight {
    Blocks(Arc<QTensor>),
    Whole(Tensor),
}

impl Weight {
    fn f32(&self) -> Result<Tensor> {
        Ok(match self {
            Self::Blocks(blocks) => blocks.dequantize(&blocks.device())?,
            Self::Whole(weight) => weight.to_dtype(DType::F32)?,
        })
    }

    /// `[tokens, in]` to `[tokens, out]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.f32()?.t()?)?)
    }
}

/// Where weights come from.
struct T5Weights<'a> {
    weights: VarBuilder<'a>,
    quantised: Quantised,
    epsilon: f64,
}

impl T5Weights<'_> {
    fn weight(&self, shape: [usize; 2], name: &str) -> Result<Weight> {
        let name = format!("{name}.weight");
        Ok(match self.quantised.get(&name, &shape, self.weights.device())? {
            Some(blocks) => Weight::Blocks(blocks),
            None => Weight::Whole(self.weights.get((shape[0], shape[1]), &name)?),
        })
    }

    fn norm(&self, width: usize, name: &str) -> Result<Norm> {
        let weight = self.weights.get(width, &format!("{name}.weight"))?.to_dtype(DType::F32)?;
        Ok(Norm { weight, epsilon: self.epsilon })
    }
}

/// T5's norm: by the root mean square, without a bias.
#[derive(Clone)]
struct Norm {
    weight: Tensor,
    epsilon: f64,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        Ok(x.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?.broadcast_mul(&self.weight)?)
    }
}

/// Self-attention and feed-forward, each on top of a norm (transformers `T5Block`).
#[derive(Clone)]
struct T5Block {
    attention_norm: Norm,
    q: Weight,
    k: Weight,
    v: Weight,
    o: Weight,
    forward_norm: Norm,
    /// `wi`, or `wi_0` and `wi_1` where the first gates the second.
    inner: Vec<Weight>,
    wo: Weight,
}

impl T5Block {
    fn new(store: &T5Weights, config: &T5Config, at: usize) -> Result<Self> {
        let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
        let attention = format!("encoder.block.{at}.layer.0");
        let forward = format!("encoder.block.{at}.layer.1");
        let project = |name: &str| store.weight([inner, width], &format!("{attention}.SelfAttention.{name}"));
        let dense = |shape, name: &str| store.weight(shape, &format!("{forward}.DenseReluDense.{name}"));
        let names: &[&str] = if config.gated_gelu { &["wi_0", "wi_1"] } else { &["wi"] };
        Ok(Self {
            attention_norm: store.norm(width, &format!("{attention}.layer_norm"))?,
            q: project("q")?,
            k: project("k")?,
            v: project("v")?,
            o: store.weight([width, inner], &format!("{attention}.SelfAttention.o"))?,
            forward_norm: store.norm(width, &format!("{forward}.layer_norm"))?,
            inner: names.iter().map(|name| dense([config.d_ff, width], name)).collect::<Result<_>>()?,
            wo: dense([width, config.d_ff], "wo")?,
        })
    }

    /// `[tokens, d_model]` to the same, with `bias` `[heads, tokens, tokens]` on the scores. T5
    /// does not scale them.
    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (heads, tokens, _) = bias.dims3()?;
        let normed = self.attention_norm.forward(x)?;
        let split = |weight: &Weight| -> Result<Tensor> {
            Ok(weight.forward(&normed)?.reshape((tokens, heads, ()))?.transpose(0, 1)?.contiguous()?)
        };
        let (q, k, v) = (split(&self.q)?, split(&self.k)?, split(&self.v)?);
        let probabilities = softmax_last_dim(&(q.matmul(&k.t()?)? + bias)?)?;
        let out = probabilities.matmul(&v)?.transpose(0, 1)?.contiguous()?.flatten_from(1)?;
        let x = (x + self.o.forward(&out)?)?;

        let normed = self.forward_norm.forward(&x)?;
        let inner = match self.inner.as_slice() {
            [gate, value] => (gate.forward(&normed)?.gelu()? * value.forward(&normed)?)?,
            all => all.iter().try_fold(normed, |x, wi| wi.forward(&x))?.relu()?,
        };
        Ok((x + self.wo.forward(&inner)?)?)
    }
}

/// A T5 encoder whose weights stay in their blocks.
#[derive(Clone)]
pub(super) struct BlocksT5 {
    table: Weight,
    /// `[buckets, heads]`.
    relative_attention_bias: Weight,
    blocks: Vec<T5Block>,
    norm: Norm,
    buckets: usize,
    max_distance: usize,
}

impl BlocksT5 {
    /// The network with the tensors of `weights`; those that lie in blocks come from `quantised`.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub(super) fn new(config: &T5Config, weights: VarBuilder, quantised: Quantised) -> Result<Self> {
        let store = T5Weights { weights, quantised, epsilon: config.layer_norm_epsilon };
        // The table's other name, where the file has that one alone.
        let table = TABLES.iter().find(|name| store.weights.contains_tensor(name)).unwrap_or(&TABLES[0]);
        let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias";
        Ok(Self {
            table: store.weight([config.vocab_size, config.d_model], table.trim_end_matches(".weight"))?,
            relative_attention_bias: store.weight([config.relative_attention_num_buckets, config.num_heads], bias)?,
            blocks: (0..config.num_layers).map(|at| T5Block::new(&store, config, at)).collect::<Result<_>>()?,
            norm: store.norm(config.d_model, "encoder.final_layer_norm")?,
            buckets: config.relative_attention_num_buckets,
            max_distance: config.relative_attention_max_distance,
        })
    }

    /// The last hidden states of `ids` (u32 `[tokens]`): f32 `[tokens, d_model]`.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub(super) fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let bias = self.position_bias(ids.elem_count(), ids.device())?;
        let embedded = self.table.f32()?.index_select(ids, 0)?;
        let x = self.blocks.iter().try_fold(embedded, |x, block| block.forward(&x, &bias))?;
        self.norm.forward(&x)
    }

    /// What is added to the scores for the distance of two tokens: `[heads, tokens, tokens]`.
    fn position_bias(&self, tokens: usize, device: &Device) -> Result<Tensor> {
        let bucket = |query: usize| (0..tokens).map(move |key| bucket(query, key, self.buckets, self.max_distance));
        let buckets = Tensor::from_iter((0..tokens).flat_map(bucket), device)?;
        let rows = self.relative_attention_bias.f32()?.index_select(&buckets, 0)?;
        Ok(rows.reshape((tokens, tokens, ()))?.permute((2, 0, 1))?.contiguous()?)
    }
}

/// The bucket of the distance from `query` to `key` (transformers `_relative_position_bucket`).
/// Half of the buckets are for keys behind the query. Near distances have a bucket each, and far
/// ones share buckets by their logarithm.
fn bucket(query: usize, key: usize, buckets: usize, max_distance: usize) -> u32 {
    let half = buckets / 2;
    let exact = half / 2;
    let behind = if key > query { half } else { 0 };
    let distance = key.abs_diff(query);
    let own = match distance < exact {
        true => distance,
        false => {
            let (distance, near, far) = (distance as f32, exact as f32, max_distance as f32);
            let beyond = (distance / near).ln() / (far / near).ln() * (half - exact) as f32;
            (exact + beyond as usize).min(half.saturating_sub(1))
        }
    };
    (behind + own) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Part, Weights};
    use crate::model::T5;

    /// candle's network reads the same file with the weights made into f32. Distances beyond
    /// `max_distance` are among the 300 tokens.
    #[test]
    fn blocks_give_the_states_of_the_same_weights_whole() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
        let json = std::fs::read(format!("{folder}/tiny-flux-schnell/text_encoder_2/config.json")).unwrap();
        let config = T5Config::from_json(&json, "config.json".as_ref()).unwrap();
        let weights = || Weights::of_folder(format!("{folder}/flux").as_ref(), Part::TextEncoder3, "t5.gguf").unwrap();
        let read = weights();
        let (builder, quantised) = read.parts(DType::F32, &Device::Cpu);
        let own = BlocksT5::new(&config, builder, quantised).unwrap();
        let in_blocks = |weight: &Weight| matches!(weight, Weight::Blocks(_));
        assert!(own.blocks.iter().all(|block| in_blocks(&block.q) && in_blocks(&block.wo)));
        let candles = T5::new(&config, weights().var_builder(DType::F32, &Device::Cpu)).unwrap();
        for tokens in [1, 12, 300] {
            let ids = Tensor::from_iter((0..tokens).map(|at| 3 + at * 7 % 150u32), &Device::Cpu).unwrap();
            let whole = candles.forward(&ids.unsqueeze(0).unwrap()).unwrap();
            let off = (own.forward(&ids).unwrap() - whole.squeeze(0).unwrap()).unwrap().abs().unwrap();
            let most = off.max_all().unwrap().to_scalar::<f32>().unwrap();
            println!("{tokens} tokens: {most:.1e}");
            assert!(most < 1e-5, "{tokens} tokens: {most:e}");
        }
    }
}
