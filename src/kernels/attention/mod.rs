//! Attention to packed keys and values, in blocks (`block.rs`): scores exist for some queries and some keys at a time, never as a whole matrix.
//!
//! Heads are read in place from `[tokens, heads * width]`, so that nothing is permuted before or after.

mod block;

use super::buffer::{Aligned, SharedMut, filled};
use super::gemm::{Format, shape};
use super::packed::pair;
use super::{gemm_bf16, threads};
use block::{Block, QUERIES};
use rten_simd::SimdOp;
use std::cell::RefCell;

/// Keys of a block: their scores stay in the second-level cache.
const KEYS: usize = 512;

thread_local! {
    static SCRATCH: RefCell<[Aligned; 4]> = RefCell::default();
}

/// Keys and values of some rows and heads, packed for this machine.
#[derive(Debug, Clone)]
pub struct Context {
    /// `[batch, heads][panel of keys][width of a head][keys of the panel]`, scaled by `1 / sqrt(width)`.
    keys: Aligned,
    /// `[batch, heads][key][width, rounded up to whole vectors]`.
    values: Aligned,
    /// Both are pairs of bf16: of a head's width in `keys`, of two keys in `values`.
    halved: bool,
    batch: usize,
    heads: usize,
    tokens: usize,
    width: usize,
}

impl Context {
    /// Packs `keys` and `values`, both `[batch, tokens, heads * width]`.
    ///
    /// # Panics
    /// When the lengths are not those of `batch`, `tokens` and `heads`.
    pub fn new(keys: &[f32], values: &[f32], batch: usize, tokens: usize, heads: usize) -> Self {
        Self::new_as(Format::F32, keys, values, batch, tokens, heads)
    }

    /// [`new`](Self::new) in a format of the caller's choice. [`Format::Bf16`] rounds queries, keys, values and weights to bf16 where the
    /// processor multiplies it and a head's width is even; elsewhere it is f32: unlike weights they are made anew at every step, and
    /// their memory does not count.
    ///
    /// # Panics
    /// As `new`.
    pub fn new_as(format: Format, keys: &[f32], values: &[f32], batch: usize, tokens: usize, heads: usize) -> Self {
        let channels = keys.len() / (batch * tokens).max(1);
        assert!(keys.len() == batch * tokens * channels && values.len() == keys.len(), "keys and values of one shape");
        assert!(heads > 0 && channels.is_multiple_of(heads), "heads divide the channels");
        let width = channels / heads;
        let (lanes, _) = shape();
        let (panel, padded) = (2 * lanes, width.next_multiple_of(lanes));
        let whole = tokens.next_multiple_of(panel);
        let halved = format == Format::Bf16 && width.is_multiple_of(2) && gemm_bf16::available();
        let share = if halved { 2 } else { 1 };
        let (key_values, value_values) = (whole * width / share, whole * padded / share);
        let mut packed = Self {
            keys: Aligned::zeros(batch * heads * key_values),
            values: Aligned::zeros(batch * heads * value_values),
            halved,
            batch,
            heads,
            tokens,
            width,
        };
        let (to_keys, to_values) = (SharedMut(packed.keys.as_mut_ptr()), SharedMut(packed.values.as_mut_ptr()));
        let scale = (1.0 / (width as f64).sqrt()) as f32;
        threads::each(batch * heads, 2 * keys.len(), |task| {
            let (row, head) = (task / heads, task % heads);
            // SAFETY: each task writes its own row and head.
            let (to_keys, to_values) = unsafe {
                (
                    std::slice::from_raw_parts_mut(to_keys.get().add(task * key_values), key_values),
                    std::slice::from_raw_parts_mut(to_values.get().add(task * value_values), value_values),
                )
            };
            for token in 0..tokens {
                let at = (row * tokens + token) * channels + head * width;
                if halved {
                    let to = &mut to_keys[token / panel * panel * width / 2 + token % panel..];
                    for (to, key) in to.iter_mut().step_by(panel).zip(keys[at..][..width].chunks_exact(2)) {
                        *to = pair(key[0] * scale, key[1] * scale);
                    }
                    if token % 2 == 0 {
                        let to = &mut to_values[token / 2 * padded..][..width];
                        let next = (token + 1 < tokens).then(|| &values[at + channels..][..width]);
                        for (column, to) in to.iter_mut().enumerate() {
                            *to = pair(values[at + column], next.map_or(0.0, |next| next[column]));
                        }
                    }
                    continue;
                }
                let to = &mut to_keys[token / panel * panel * width + token % panel..];
                for (to, key) in to.iter_mut().step_by(panel).zip(&keys[at..][..width]) {
                    *to = key * scale;
                }
                to_values[token * padded..][..width].copy_from_slice(&values[at..][..width]);
            }
        });
        packed
    }

    /// The same keys, and the values of every token times its weight in `weights`, `[batch, tokens]`.
    ///
    /// # Panics
    /// When `weights` has another length.
    pub fn weighted(&self, weights: &[f32]) -> Self {
        assert_eq!(weights.len(), self.batch * self.tokens, "a weight for every token of the batch");
        assert!(!self.halved, "weights are for what is read by others, which is kept in f32");
        let mut values = self.values.clone();
        let tasks = self.batch * self.heads;
        let padded = self.width.next_multiple_of(shape().0);
        let per_task = values.len() / tasks.max(1);
        for task in 0..tasks {
            let row = &weights[task / self.heads * self.tokens..][..self.tokens];
            for (token, weight) in row.iter().enumerate() {
                values[task * per_task + token * padded..][..padded].iter_mut().for_each(|value| *value *= weight);
            }
        }
        Self { keys: self.keys.clone(), values, ..*self }
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Channels of queries, keys and values: heads times the width of one.
    pub fn channels(&self) -> usize {
        self.heads * self.width
    }

    /// Tokens that can be attended to.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// `softmax(queries keys^T / sqrt(width) + bias) values` for `queries` `[batch, count, heads * width]`; the same shape.
    ///
    /// `bias`, `[batch, tokens]`, is added to the scores.
    ///
    /// # Panics
    /// When a length is not that of these shapes.
    pub fn attend(&self, queries: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        self.attend_to(queries, bias, None)
    }

    /// As [`attend`](Self::attend), with the probabilities, `[batch, heads, count, tokens]`.
    ///
    /// # Panics
    /// As `attend`.
    pub fn attend_told(&self, queries: &[f32], bias: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
        let count = queries.len() / (self.batch * self.channels()).max(1);
        let mut seen = Vec::new();
        let write = |told| seen = self.attend_to(queries, bias, Some(told));
        // SAFETY: every query of every row and head is told.
        let probabilities = unsafe { filled(self.batch * self.heads * count * self.tokens, write) };
        (seen, probabilities)
    }

    fn attend_to(&self, queries: &[f32], bias: Option<&[f32]>, told: Option<SharedMut>) -> Vec<f32> {
        let channels = self.heads * self.width;
        let count = queries.len() / (self.batch * channels).max(1);
        assert_eq!(queries.len(), self.batch * count * channels, "queries of the context's batch and channels");
        assert!(bias.is_none_or(|bias| bias.len() == self.batch * self.tokens), "a bias a key");
        // Whoever wants probabilities needs whole rows of them; fewer queries at a time keep those in the cache.
        let keys = if told.is_some() { self.tokens.next_multiple_of(2 * shape().0) } else { KEYS };
        let block = if keys > 2 * KEYS { shape().1 } else { QUERIES };
        let blocks = count.div_ceil(block);
        let nanoseconds = queries.len() * self.tokens / 60;
        let write = |out: SharedMut| {
            threads::each(self.batch * self.heads * blocks, nanoseconds, |task| {
                let (place, at) = (task / blocks, task % blocks * block);
                SCRATCH.with_borrow_mut(|scratch| {
                    Block {
                        context: self,
                        queries,
                        count,
                        place,
                        at,
                        rows: block.min(count - at),
                        keys,
                        bias,
                        told,
                        out,
                        scratch,
                    }
                    .dispatch();
                });
            });
        };
        // SAFETY: the blocks cover every query of every row and head.
        unsafe { filled(queries.len(), write) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{noise, relative};
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    struct Case<'a> {
        q: &'a [f32],
        k: &'a [f32],
        v: &'a [f32],
        bias: Option<&'a [f32]>,
        batch: usize,
        heads: usize,
        width: usize,
    }

    /// The three plain operators.
    fn reference(c: &Case) -> candle_core::Result<(Vec<f32>, Vec<f32>)> {
        let split = |x: &[f32]| -> candle_core::Result<Tensor> {
            let tokens = x.len() / (c.batch * c.heads * c.width);
            Tensor::from_slice(x, (c.batch, tokens, c.heads, c.width), &Device::Cpu)?.transpose(1, 2)?.contiguous()
        };
        let scores = (split(c.q)?.matmul(&split(c.k)?.t()?)? / (c.width as f64).sqrt())?;
        let scores = match c.bias {
            Some(bias) => {
                scores.broadcast_add(&Tensor::from_slice(bias, (c.batch, 1, 1, bias.len() / c.batch), &Device::Cpu)?)?
            }
            None => scores,
        };
        let probabilities = candle_nn::ops::softmax_last_dim(&scores)?;
        let out = probabilities.matmul(&split(c.v)?)?.transpose(1, 2)?.flatten_all()?.to_vec1()?;
        Ok((out, probabilities.flatten_all()?.to_vec1()?))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_candle(
            batch in 1usize..3, heads in 1usize..4, width in 1usize..170, count in 1usize..100,
            tokens in prop_oneof![3 => 1usize..100, 1 => 500usize..1200], hidden: bool, sharp in 0.1f32..6.0,
        ) {
            let channels = heads * width;
            let q: Vec<f32> = noise(batch * count * channels, 1).iter().map(|v| v * sharp).collect();
            let (k, v) = (noise(batch * tokens * channels, 2), noise(batch * tokens * channels, 3));
            let mut bias = noise(batch * tokens, 4);
            // All but the last key may be hidden.
            for (i, b) in bias.iter_mut().enumerate() {
                if i % tokens + 1 != tokens && i % 3 != 0 {
                    *b = f32::NEG_INFINITY;
                }
            }
            let bias = hidden.then_some(bias.as_slice());
            let case = Case { q: &q, k: &k, v: &v, bias, batch, heads, width };
            let (want, probabilities) = reference(&case).unwrap();
            let context = Context::new(&k, &v, batch, tokens, heads);
            let got = context.attend(&q, bias);
            prop_assert!(relative(&got, &want) < 2e-5, "{}", relative(&got, &want));
            let (got, told) = context.attend_told(&q, bias);
            prop_assert!(relative(&got, &want) < 2e-5, "told: {}", relative(&got, &want));
            prop_assert!(relative(&told, &probabilities) < 2e-5, "{}", relative(&told, &probabilities));
            // Rounded to bf16 on machines that multiply it: queries, keys and values are off by up to 2^-9 each, so that scores of the
            // size that `sharp` makes move weights by a few thousandths.
            let halved = Context::new_as(Format::Bf16, &k, &v, batch, tokens, heads);
            let got = halved.attend(&q, bias);
            let limit = if halved.halved { 0.03 } else { 2e-5 };
            prop_assert!(relative(&got, &want) < limit, "bf16: {}", relative(&got, &want));
        }
    }
}
