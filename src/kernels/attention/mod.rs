//! Attention to packed keys and values, in blocks (`block.rs`): scores exist for some queries and
//! some keys at a time, never as a whole matrix.
//!
//! Heads are read in place from `[tokens, heads * width]`, so that nothing is permuted before or
//! after.

mod block;
mod packed_keys;

pub use packed_keys::PackedKeys;

use super::buffer::{Aligned, SharedMut, filled};
use super::machine::shape;
use super::threads;
use block::{Probabilities, QUERIES, ScoreBlock};
use rten_simd::SimdOp;
use std::cell::RefCell;
use std::ops::Range;

/// Keys of a block: their scores stay in the second-level cache.
const KEYS: usize = 512;

thread_local! {
    static SCRATCH: RefCell<[Aligned; 4]> = RefCell::default();
}

impl PackedKeys {
    /// `softmax(queries keys^T / sqrt(width) + bias) values` for `queries` `[batch, count, heads *
    /// width]`; the same shape.
    ///
    /// `bias`, `[batch, tokens]`, is added to the scores.
    ///
    /// # Panics
    /// When a length is not that of these shapes.
    pub fn attend(&self, queries: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        self.attend_to(queries, bias, None)
    }

    /// As [`attend`](Self::attend), with the probabilities of the tokens in `keys`: `[batch, heads,
    /// count, keys]`. They are normalised over all tokens, so joint attention can keep its text
    /// columns alone.
    ///
    /// # Panics
    /// As `attend`, or when `keys` reaches beyond the tokens.
    pub fn attend_with_probabilities(
        &self,
        queries: &[f32],
        bias: Option<&[f32]>,
        keys: Range<usize>,
    ) -> (Vec<f32>, Vec<f32>) {
        assert!(keys.start <= keys.end && keys.end <= self.tokens, "keys among the tokens");
        let count = queries.len() / (self.batch * self.channels()).max(1);
        let len = self.batch * self.heads * count * keys.len();
        let mut attended = Vec::new();
        let write = |to| {
            attended = self.attend_to(queries, bias, Some(Probabilities { to, first: keys.start, count: keys.len() }))
        };
        // SAFETY: the probabilities of every query of every row and head are written.
        let probabilities = unsafe { filled(len, write) };
        (attended, probabilities)
    }

    fn attend_to(&self, queries: &[f32], bias: Option<&[f32]>, probabilities: Option<Probabilities>) -> Vec<f32> {
        let channels = self.heads * self.width;
        let count = queries.len() / (self.batch * channels).max(1);
        assert_eq!(queries.len(), self.batch * count * channels, "queries of the context's batch and channels");
        assert!(bias.is_none_or(|bias| bias.len() == self.batch * self.tokens), "a bias a key");
        // Probabilities need whole rows of scores; fewer queries at a time keep those in the cache.
        let keys = if probabilities.is_some() { self.tokens.next_multiple_of(2 * shape().0) } else { KEYS };
        let block = if keys > 2 * KEYS { shape().1 } else { QUERIES };
        let blocks = count.div_ceil(block);
        let nanoseconds = queries.len() * self.tokens / 60;
        let write = |out: SharedMut| {
            threads::each(self.batch * self.heads * blocks, nanoseconds, |task| {
                let (place, at) = (task / blocks, task % blocks * block);
                SCRATCH.with_borrow_mut(|scratch| {
                    ScoreBlock {
                        packed: self,
                        queries,
                        count,
                        place,
                        at,
                        rows: block.min(count - at),
                        keys,
                        bias,
                        probabilities,
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
    use crate::kernels::packed::Format;
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
            let packed = PackedKeys::new(&k, &v, batch, tokens, heads);
            let by_head = (0..batch * heads * tokens).flat_map(|at| {
                let (row, head, token) = (at / tokens / heads, at / tokens % heads, at % tokens);
                k[(row * tokens + token) * channels + head * width..][..width].to_vec()
            });
            prop_assert!(relative(&packed.keys(), &by_head.collect::<Vec<f32>>()) < 1e-6);
            let got = packed.attend(&q, bias);
            prop_assert!(relative(&got, &want) < 2e-5, "{}", relative(&got, &want));
            let (got, of_all) = packed.attend_with_probabilities(&q, bias, 0..tokens);
            prop_assert!(relative(&got, &want) < 2e-5, "with probabilities: {}", relative(&got, &want));
            prop_assert!(relative(&of_all, &probabilities) < 2e-5, "{}", relative(&of_all, &probabilities));
            // Some keys alone: the same columns to the bit, normalised over all.
            let some = tokens / 3..tokens - tokens / 4;
            let (_, of_some) = packed.attend_with_probabilities(&q, bias, some.clone());
            let columns: Vec<f32> = of_all.chunks(tokens).flat_map(|row| row[some.clone()].to_vec()).collect();
            prop_assert_eq!(of_some, columns);
            // Rounded to bf16 on machines that multiply it: queries, keys and values are off by up
            // to 2^-9 each. Scores as large as `sharp` makes them then move weights by a few
            // thousandths.
            let halved = PackedKeys::new_as(Format::Bf16, &k, &v, batch, tokens, heads);
            let got = halved.attend(&q, bias);
            let limit = if halved.halved { 0.03 } else { 2e-5 };
            prop_assert!(relative(&got, &want) < limit, "bf16: {}", relative(&got, &want));
        }
    }
}
