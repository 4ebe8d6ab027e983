//! The attention of one head's queries to all keys, some keys at a time.
//!
//! The softmax is carried from block to block of keys (Milakov and Gimelshein 2018; Dao et al.
//! 2022, "FlashAttention").

use super::super::buffer::{Aligned, SharedMut};
use super::super::gemm::micro;
use super::super::gemm_bf16;
use super::super::machine::{TILE, shape};
use super::super::tile::TileOutput;
use super::packed_keys::PackedKeys;
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp, SimdUnaryOp};
use rten_vecmath::Exp;

/// The most queries of a block.
pub(super) const QUERIES: usize = 48;

/// Where the probabilities of some keys go: `[place, query, count]`, the keys `first..first +
/// count`.
#[derive(Clone, Copy)]
pub(super) struct Probabilities {
    pub(super) to: SharedMut,
    pub(super) first: usize,
    pub(super) count: usize,
}

/// Up to [`QUERIES`] queries of one row and head of the batch (a *place*).
///
/// Four scratch buffers per thread, reused from block to block. There are `r` queries, `k` keys at
/// a time, and `w` is the head's width rounded up to whole vectors:
///
/// ```text
/// scores   [r, k]          q0: s s s s s s . .     scores, then exp(score - highest) in place; dots pad to a panel
/// sums     [r, w]          q0: o o o o             sum over keys of weight * value, not yet normalised
/// state    [2, r]          highest q0 q1 ..        running maximum of each query
///                          total   q0 q1 ..        running sum of the weights
/// rounded  [r, width / 2]  q0: pair pair           bf16 only: the queries, two to an f32 place,
///          [r, k / 2]      q0: pair pair           then one block's weights
/// ```
///
/// The shape has a reason. A block of 512 keys by 48 queries is 96 KB of scores, which stays in the
/// second-level cache between its two products. Queries of a block share each key panel that is
/// loaded. When a later block of keys holds a higher score, `sums` and `total` are scaled by
/// `exp(old - new)`. So no matrix of all scores is ever formed. Probabilities need every score of a
/// row at the end: then `k` is all keys, and `r` is one register tile.
pub(super) struct ScoreBlock<'a> {
    pub(super) packed: &'a PackedKeys,
    pub(super) queries: &'a [f32],
    pub(super) count: usize,
    /// Row of the batch times heads, plus the head.
    pub(super) place: usize,
    /// The first query.
    pub(super) at: usize,
    pub(super) rows: usize,
    /// Keys at a time, whole panels.
    pub(super) keys: usize,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) probabilities: Option<Probabilities>,
    pub(super) out: SharedMut,
    pub(super) scratch: &'a mut [Aligned; 4],
}

impl SimdOp for ScoreBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let lanes = ops.len();
        let PackedKeys { heads, tokens, width, .. } = *self.packed;
        let (panel, padded, channels) = (2 * lanes, width.next_multiple_of(lanes), heads * width);
        let whole = tokens.next_multiple_of(panel);
        let (row, head) = (self.place / heads, self.place % heads);
        let (_, tile) = shape();
        let [scores, sums, state, rounded] = self.scratch;
        let stride = self.keys;
        let halved = self.packed.halved;
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
                let keys = self.packed.keys.as_ptr().add((self.place * whole + first) * width / share);
                for at in 0..panels {
                    for (index, pointers) in pointers[..tiles].iter().enumerate() {
                        let store = TileOutput {
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
                    let line = ScoreLine { scores: scores.add(r * stride), keys: here, padded: panels * panel, bias };
                    let (new, sum) = line.softmax(isa, highest[r]);
                    let keep = if highest[r] == new { 1.0 } else { (highest[r] - new).exp() };
                    total[r] = total[r] * keep + sum;
                    highest[r] = new;
                    if keep != 1.0 && first > 0 {
                        scale(isa, sums.add(r * padded), padded, keep);
                    }
                }
                let values = self.packed.values.as_ptr().add((self.place * whole + first) * padded / share);
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
                if let Some(Probabilities { to, first, count }) = self.probabilities {
                    let to = to.get().add((self.place * self.count + self.at + r) * count);
                    let from = scores.add(r * stride + first);
                    for at in (0..count).step_by(lanes) {
                        let mask = ops.first_n_mask(lanes.min(count - at));
                        let value = ops.mul(ops.load_ptr_mask(from.add(at), mask), ops.splat(inverse));
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
struct ScoreLine {
    scores: *mut f32,
    keys: usize,
    padded: usize,
    bias: Option<*const f32>,
}

impl ScoreLine {
    /// Replaces scores by `exp(score - highest)`, zeros beyond the last key; returns the highest
    /// score so far and the sum.
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
