//! Attention in blocks: scores exist for some queries and some keys at a time, never as a whole matrix.
//!
//! The softmax is carried from block to block of keys (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention"). Heads are
//! read in place from `[tokens, heads * width]`, so that nothing is permuted before or after.

use super::buffer::{Aligned, SharedMut, filled};
use super::gemm::{Format, Store, TILE, micro, shape};
use super::packed::pair;
use super::{gemm_bf16, threads};
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp, SimdUnaryOp};
use rten_vecmath::Exp;
use std::cell::RefCell;

/// Queries of a block.
const QUERIES: usize = 48;
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

struct Block<'a> {
    context: &'a Context,
    queries: &'a [f32],
    count: usize,
    /// Row of the batch and head.
    place: usize,
    at: usize,
    rows: usize,
    /// Keys at a time, whole panels.
    keys: usize,
    bias: Option<&'a [f32]>,
    told: Option<SharedMut>,
    out: SharedMut,
    scratch: &'a mut [Aligned; 4],
}

impl SimdOp for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let lanes = ops.len();
        let Context { heads, tokens, width, .. } = *self.context;
        let (panel, padded, channels) = (2 * lanes, width.next_multiple_of(lanes), heads * width);
        let whole = tokens.next_multiple_of(panel);
        let (row, head) = (self.place / heads, self.place % heads);
        let (_, tile) = shape();
        let [scores, sums, state, rounded] = self.scratch;
        let stride = self.keys;
        let halved = self.context.halved;
        // Queries and the weights of a block of keys in bf16, two to a place.
        let (query_stride, weight_stride) = (width / 2 + 16, stride / 2 + 16);
        let rounded = rounded.at_least(if halved { self.rows * (query_stride + weight_stride) } else { 0 });
        let (queries, weights) = (rounded.as_mut_ptr(), rounded.as_mut_ptr().wrapping_add(self.rows * query_stride));
        let scores = scores.at_least(self.rows * stride).as_mut_ptr();
        let sums = sums.at_least(self.rows * padded);
        sums.fill(0.0);
        let sums = sums.as_mut_ptr();
        let (highest, total) = state.at_least(2 * self.rows).split_at_mut(self.rows);
        highest.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        let mut pointers = [[std::ptr::null::<f32>(); TILE]; QUERIES / 6 + 1];
        let tiles = self.rows.div_ceil(tile);
        for (at, pointers) in pointers[..tiles].iter_mut().enumerate() {
            for (r, pointer) in pointers.iter_mut().enumerate() {
                let query = self.at + (at * tile + r).min(self.rows - 1);
                *pointer = self.queries[(row * self.count + query) * channels + head * width..][..width].as_ptr();
            }
        }
        if halved {
            for r in 0..self.rows {
                let query = (row * self.count + self.at + r) * channels + head * width;
                // SAFETY: `width` values, into a line that holds as many.
                unsafe {
                    gemm_bf16::round(
                        self.queries[query..][..width].as_ptr(),
                        width,
                        queries.add(r * query_stride).cast(),
                    )
                };
            }
        }
        let share = if halved { 2 } else { 1 };
        for first in (0..tokens).step_by(self.keys) {
            let here = self.keys.min(tokens - first);
            let panels = here.div_ceil(panel);
            // SAFETY: all within the packed context and the scratch space laid out above.
            unsafe {
                let keys = self.context.keys.as_ptr().add((self.place * whole + first) * width / share);
                for at in 0..panels {
                    for (index, pointers) in pointers[..tiles].iter().enumerate() {
                        let store = Store {
                            out: scores.add(index * tile * stride + at * panel),
                            stride,
                            rows: tile.min(self.rows - index * tile),
                            columns: panel,
                            accumulate: false,
                            added: None,
                        };
                        let keys = keys.add(at * panel * width / share);
                        if halved {
                            let a = queries.add(index * tile * query_stride).cast();
                            gemm_bf16::tile(a, 2 * query_stride, width / 2, keys, store);
                        } else {
                            micro(isa, std::slice::from_ref(pointers), 0, width, keys, store);
                        }
                    }
                }
                let bias = self.bias.map(|bias| bias.as_ptr().add(row * tokens + first));
                for r in 0..self.rows {
                    let line = Line { scores: scores.add(r * stride), keys: here, padded: panels * panel, bias };
                    let (new, sum) = line.softmax(isa, highest[r]);
                    let keep = if highest[r] == new { 1.0 } else { (highest[r] - new).exp() };
                    total[r] = total[r] * keep + sum;
                    highest[r] = new;
                    if keep != 1.0 && first > 0 {
                        scale(isa, sums.add(r * padded), padded, keep);
                    }
                }
                let values = self.context.values.as_ptr().add((self.place * whole + first) * padded / share);
                if halved {
                    for r in 0..self.rows {
                        gemm_bf16::round(scores.add(r * stride), panels * panel, weights.add(r * weight_stride).cast());
                    }
                    let (a, pairs) = (weights.cast_const().cast(), here.div_ceil(2));
                    gemm_bf16::add_weighted(a, 2 * weight_stride, (self.rows, pairs), values, padded, sums);
                } else {
                    let product = Weighted { scores, stride, rows: self.rows, keys: here, values, padded, sums };
                    product.run(isa);
                }
            }
        }
        for r in 0..self.rows {
            let inverse = 1.0 / total[r];
            // SAFETY: the output of this task's queries and head alone, and its probabilities.
            unsafe {
                let out = self.out.get().add((row * self.count + self.at + r) * channels + head * width);
                for at in (0..width).step_by(lanes) {
                    let mask = ops.first_n_mask(lanes.min(width - at));
                    let value = ops.mul(ops.load_ptr(sums.add(r * padded + at)), ops.splat(inverse));
                    ops.store_ptr_mask(value, out.add(at), mask);
                }
                if let Some(told) = self.told {
                    let to = told.get().add((self.place * self.count + self.at + r) * tokens);
                    let from = scores.add(r * stride);
                    for at in (0..tokens).step_by(lanes) {
                        let mask = ops.first_n_mask(lanes.min(tokens - at));
                        let value = ops.mul(ops.load_ptr(from.add(at)), ops.splat(inverse));
                        ops.store_ptr_mask(value, to.add(at), mask);
                    }
                }
            }
        }
    }
}

/// Multiplies `len` values, whole vectors of them.
#[inline(always)]
unsafe fn scale<I: Isa>(isa: I, values: *mut f32, len: usize, factor: f32) {
    let ops = isa.f32();
    let factor = ops.splat(factor);
    for at in (0..len).step_by(ops.len()) {
        unsafe { ops.store_ptr(ops.mul(ops.load_ptr(values.add(at)), factor), values.add(at)) };
    }
}

/// The scores of one query with a block of keys.
struct Line {
    scores: *mut f32,
    keys: usize,
    padded: usize,
    bias: Option<*const f32>,
}

impl Line {
    /// Replaces scores by `exp(score - highest)`, zeros beyond the last key; returns the highest score so far and the sum.
    #[inline(always)]
    unsafe fn softmax<I: Isa>(&self, isa: I, before: f32) -> (f32, f32) {
        let ops = isa.f32();
        let lanes = ops.len();
        let lowest = ops.splat(f32::NEG_INFINITY);
        // SAFETY: scores hold whole vectors up to `padded`; the bias is read under a mask.
        unsafe {
            let mut highest = ops.splat(before);
            for at in (0..self.padded).step_by(lanes) {
                let mut score = ops.load_ptr(self.scores.add(at));
                if at + lanes > self.keys || self.bias.is_some() {
                    let mask = ops.first_n_mask(lanes.min(self.keys.saturating_sub(at)));
                    if let Some(bias) = self.bias {
                        score = ops.add(score, ops.load_ptr_mask(bias.add(at), mask));
                    }
                    score = ops.select(score, lowest, mask);
                    ops.store_ptr(score, self.scores.add(at));
                }
                highest = ops.max(highest, score);
            }
            let mut top = f32::NEG_INFINITY;
            for value in highest.to_array().as_ref() {
                top = top.max(*value);
            }
            // Every key hidden so far: nothing to weigh yet, and no difference of infinities.
            let base = if top == f32::NEG_INFINITY { 0.0 } else { top };
            let (base, mut sum) = (ops.splat(base), ops.zero());
            for at in (0..self.padded).step_by(lanes) {
                let weight = Exp {}.eval(isa, ops.sub(ops.load_ptr(self.scores.add(at)), base));
                sum = ops.add(sum, weight);
                ops.store_ptr(weight, self.scores.add(at));
            }
            (top, ops.sum(sum))
        }
    }
}

/// `sums += scores * values` for a block.
struct Weighted {
    scores: *const f32,
    stride: usize,
    rows: usize,
    keys: usize,
    values: *const f32,
    padded: usize,
    sums: *mut f32,
}

impl Weighted {
    #[inline(always)]
    unsafe fn run<I: Isa>(&self, isa: I) {
        let lanes = isa.f32().len();
        let vectors = self.padded / lanes;
        // As many columns at a time as leave registers for some rows.
        let most = if lanes == 16 { 5 } else { 3 };
        let parts = vectors.div_ceil(most);
        for part in 0..parts {
            let (from, to) = (part * vectors / parts, (part + 1) * vectors / parts);
            unsafe {
                match (lanes == 16, to - from) {
                    (true, 1) => self.columns::<I, 12, 1>(isa, from * lanes),
                    (true, 2) => self.columns::<I, 12, 2>(isa, from * lanes),
                    (true, 3) => self.columns::<I, 8, 3>(isa, from * lanes),
                    (true, 4) => self.columns::<I, 6, 4>(isa, from * lanes),
                    (true, _) => self.columns::<I, 5, 5>(isa, from * lanes),
                    (false, 1) => self.columns::<I, 6, 1>(isa, from * lanes),
                    (false, 2) => self.columns::<I, 6, 2>(isa, from * lanes),
                    (false, _) => self.columns::<I, 4, 3>(isa, from * lanes),
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn columns<I: Isa, const MR: usize, const NV: usize>(&self, isa: I, column: usize) {
        let ops = isa.f32();
        let lanes = ops.len();
        for row in (0..self.rows).step_by(MR) {
            unsafe {
                let mut rows = [std::ptr::null::<f32>(); MR];
                for r in 0..MR {
                    rows[r] = self.scores.add((row + r).min(self.rows - 1) * self.stride);
                }
                let mut sum = [[ops.zero(); NV]; MR];
                let mut values = self.values.add(column);
                for key in 0..self.keys {
                    let mut v = [ops.zero(); NV];
                    for n in 0..NV {
                        v[n] = ops.load_ptr(values.add(n * lanes));
                    }
                    values = values.add(self.padded);
                    for r in 0..MR {
                        let weight = ops.splat(*rows[r].add(key));
                        for n in 0..NV {
                            sum[r][n] = ops.mul_add(weight, v[n], sum[r][n]);
                        }
                    }
                }
                for r in 0..MR {
                    if row + r < self.rows {
                        let out = self.sums.add((row + r) * self.padded + column);
                        for n in 0..NV {
                            let at = out.add(n * lanes);
                            ops.store_ptr(ops.add(ops.load_ptr(at), sum[r][n]), at);
                        }
                    }
                }
            }
        }
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
