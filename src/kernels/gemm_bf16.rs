//! Products on processors that multiply pairs of bf16 (AVX512-BF16), which no library at hand does:
//! twice the rate of f32.
//!
//! The left side is rounded to bf16 a block at a time, on its way into the cache; sums are f32. The
//! plain form is [`gemm`](super::gemm) with weights of the same format.

#[cfg(not(target_arch = "x86_64"))]
pub(super) use elsewhere::{add_weighted, product_block, round, tile};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{add_weighted, product_block, round, tile};

/// Whether this machine multiplies bf16 and panels are as wide as it needs.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        super::machine::shape().0 == 16
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Never called: nothing is packed for it where it is not available.
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use crate::kernels::tile::{LeftRows, ProductBlock, TileOutput};

    pub(in crate::kernels) unsafe fn product_block<L: LeftRows>(_: &ProductBlock<L>) {
        unreachable!("asked for on a machine where it is not available")
    }

    pub(in crate::kernels) unsafe fn round(_: *const f32, _: usize, _: *mut u16) {
        unreachable!("asked for on a machine where it is not available")
    }

    pub(in crate::kernels) unsafe fn tile(_: *const u16, _: usize, _: usize, _: *const f32, _: TileOutput) {
        unreachable!("asked for on a machine where it is not available")
    }

    pub(in crate::kernels) unsafe fn add_weighted(
        _: *const u16,
        _: usize,
        _: (usize, usize),
        _: *const f32,
        _: usize,
        _: *mut f32,
    ) {
        unreachable!("asked for on a machine where it is not available")
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::kernels::tile::{LeftRows, ProductBlock, TileOutput, even};
    use std::arch::x86_64::*;
    use std::cell::RefCell;

    /// Depth of a block of the right side: a panel of it takes 32 KiB.
    const DEPTH: usize = 512;
    /// Rows of a register tile.
    const TILE: usize = 12;
    /// Columns of a panel.
    const WIDTH: usize = 32;

    thread_local! {
        static LEFT: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
    }

    /// A task's block of the product; see [`ProductBlock`].
    ///
    /// # Safety
    /// As for the plain form, on a machine where it is available; `block.right` is in bf16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(in crate::kernels) unsafe fn product_block<L: LeftRows>(block: &ProductBlock<L>) {
        let (piece, taps) = (block.left.width(), block.left.taps());
        let taps_at_once = (DEPTH / piece.max(1)).clamp(1, taps);
        let parts = if taps_at_once == 1 { piece.div_ceil(DEPTH) } else { 1 };
        let count = block.rows.len();
        let stride = (taps_at_once * piece.min(DEPTH)).next_multiple_of(32) + 32;
        // No other product begins on this thread before this one ends.
        let left = LEFT.with_borrow_mut(|left| {
            left.resize(left.len().max(count * stride), 0);
            left.as_mut_ptr()
        });
        let mut pieces = vec![std::ptr::null::<f32>(); taps_at_once];
        for first_tap in (0..taps).step_by(taps_at_once) {
            let taps_here = taps_at_once.min(taps - first_tap);
            for part in 0..parts {
                let (from, to) = (even(part * piece / parts, piece), even((part + 1) * piece / parts, piece));
                let depth = to - from;
                for row in 0..count {
                    block.left.pieces(block.rows.start + row, first_tap, &mut pieces[..taps_here]);
                    for (tap, &pointer) in pieces[..taps_here].iter().enumerate() {
                        // SAFETY: `piece` values can be read at each pointer; a row of the scratch
                        // holds all taps of a part.
                        unsafe { round(pointer.add(from), depth, left.add(row * stride + tap * depth)) };
                    }
                }
                let is_first = first_tap == 0 && part == 0;
                let is_last = first_tap + taps_here == taps && part + 1 == parts;
                for panel in block.panels.clone() {
                    let b = block.right.panel(panel, first_tap * piece + from);
                    for at in (0..count).step_by(TILE) {
                        let store = block.store((at, TILE), (panel, WIDTH), is_first, is_last);
                        // SAFETY: `taps_here * depth` values in each row of the scratch and as many
                        // lines of the panel.
                        unsafe { tile(left.add(at * stride), stride, taps_here * depth / 2, b, store) };
                    }
                }
            }
        }
    }

    /// Rounds `len` values to bf16, halves to even.
    ///
    /// # Safety
    /// Both pointers must be valid for `len` values.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(in crate::kernels) unsafe fn round(from: *const f32, len: usize, to: *mut u16) {
        let mut at = 0;
        // SAFETY: the caller's; masks stop at the last value.
        unsafe {
            while at + 32 <= len {
                let (low, high) = (_mm512_loadu_ps(from.add(at)), _mm512_loadu_ps(from.add(at + 16)));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.add(at).cast(), both);
                at += 32;
            }
            while at < len {
                let mask = first(len - at);
                let some: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from.add(at))));
                _mm256_mask_storeu_epi16(to.add(at).cast(), mask, some);
                at += 16;
            }
        }
    }

    /// A mask of the first `count` lanes of 16.
    fn first(count: usize) -> u16 {
        if count >= 16 { u16::MAX } else { (1 << count) - 1 }
    }

    /// One register tile, up to 12 rows of 32 columns, over `pairs` pairs of the depth; rows of `a`
    /// lie `stride` values apart.
    ///
    /// # Safety
    /// `a` must hold `2 * pairs` values in each of `store.rows` rows. `b` must hold as many lines
    /// of a panel's pairs, aligned to 64 bytes, and `store.out` what it says.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(in crate::kernels) unsafe fn tile(
        a: *const u16,
        stride: usize,
        pairs: usize,
        b: *const f32,
        store: TileOutput,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match store.rows {
                9.. => tile_of::<12>(a, stride, pairs, b, store),
                5..=8 => tile_of::<8>(a, stride, pairs, b, store),
                _ => tile_of::<4>(a, stride, pairs, b, store),
            }
        }
    }

    /// `sums += a * values` for `rows` rows of `pairs` pairs, `stride` values apart; `values` and
    /// `sums` are `padded` columns wide, whole vectors.
    ///
    /// # Safety
    /// The pointers must hold what these sizes say; `values` are aligned to 64 bytes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(in crate::kernels) unsafe fn add_weighted(
        a: *const u16,
        stride: usize,
        (rows, pairs): (usize, usize),
        values: *const f32,
        padded: usize,
        sums: *mut f32,
    ) {
        let vectors = padded / 16;
        // As many columns at a time as leave registers for some rows.
        let parts = vectors.div_ceil(5);
        for part in 0..parts {
            let (from, to) = (part * vectors / parts, (part + 1) * vectors / parts);
            // SAFETY: the caller's.
            unsafe {
                let (values, sums) = (values.add(16 * from), sums.add(16 * from));
                match to - from {
                    1 => weighted_of::<12, 1>(a, stride, (rows, pairs), values, padded, sums),
                    2 => weighted_of::<12, 2>(a, stride, (rows, pairs), values, padded, sums),
                    3 => weighted_of::<8, 3>(a, stride, (rows, pairs), values, padded, sums),
                    4 => weighted_of::<6, 4>(a, stride, (rows, pairs), values, padded, sums),
                    _ => weighted_of::<5, 5>(a, stride, (rows, pairs), values, padded, sums),
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn weighted_of<const MR: usize, const NV: usize>(
        a: *const u16,
        stride: usize,
        (rows, pairs): (usize, usize),
        values: *const f32,
        padded: usize,
        sums: *mut f32,
    ) {
        for row in (0..rows).step_by(MR) {
            let mut sum = [[_mm512_setzero_ps(); NV]; MR];
            // SAFETY: the caller's; rows beyond the last repeat it and are not stored.
            unsafe {
                let mut lines = [std::ptr::null::<i32>(); MR];
                for r in 0..MR {
                    lines[r] = a.add((row + r).min(rows - 1) * stride).cast();
                }
                for k in 0..pairs {
                    let mut v = [_mm512_setzero_ps(); NV];
                    for n in 0..NV {
                        v[n] = _mm512_load_ps(values.add(k * padded + 16 * n));
                    }
                    for r in 0..MR {
                        let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(lines[r].add(k).read_unaligned()));
                        for n in 0..NV {
                            sum[r][n] =
                                _mm512_dpbf16_ps(sum[r][n], pair, std::mem::transmute::<__m512, __m512bh>(v[n]));
                        }
                    }
                }
                for r in 0..MR {
                    if row + r < rows {
                        for n in 0..NV {
                            let at = sums.add((row + r) * padded + 16 * n);
                            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), sum[r][n]));
                        }
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn tile_of<const MR: usize>(a: *const u16, stride: usize, pairs: usize, b: *const f32, store: TileOutput) {
        let mut sum = [[_mm512_setzero_ps(); 2]; MR];
        // SAFETY: the caller's; rows beyond the last repeat it and are not stored.
        unsafe {
            let mut rows = [std::ptr::null::<i32>(); MR];
            for r in 0..MR {
                rows[r] = a.add(r.min(store.rows - 1) * stride).cast();
            }
            let mut b = b;
            for k in 0..pairs {
                let b0: __m512bh = std::mem::transmute(_mm512_load_ps(b));
                let b1: __m512bh = std::mem::transmute(_mm512_load_ps(b.add(16)));
                b = b.add(WIDTH);
                for r in 0..MR {
                    let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(rows[r].add(k).read_unaligned()));
                    sum[r][0] = _mm512_dpbf16_ps(sum[r][0], pair, b0);
                    sum[r][1] = _mm512_dpbf16_ps(sum[r][1], pair, b1);
                }
            }
            let masks = [first(store.columns), first(store.columns.saturating_sub(16))];
            for r in 0..MR {
                if r < store.rows {
                    for half in 0..2 {
                        let (mask, at) = (masks[half], r * store.stride + 16 * half);
                        let mut value = sum[r][half];
                        if store.accumulate {
                            value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, store.out.wrapping_add(at)));
                        }
                        if let Some((added, row, column)) = store.added {
                            if let Some(values) = added.shift.values() {
                                let line = added.shift.line(row + r) * store.stride;
                                let from = values.as_ptr().wrapping_add(line + column + 16 * half);
                                value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, from));
                            }
                            if let Some(residual) = added.residual {
                                let from =
                                    residual.as_ptr().wrapping_add((row + r) * store.stride + column + 16 * half);
                                value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, from));
                            }
                        }
                        _mm512_mask_storeu_ps(store.out.wrapping_add(at), mask, value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kernels::conv::{Algorithm, Conv, Geometry, Map};
    use crate::kernels::gemm::{Added, Format, Packed, Products, Shift, linear, multiplies, product_by};
    use crate::kernels::testing::{noise, relative};
    use crate::kernels::tile::Plain;
    use candle_core::{Device, Tensor};
    use half::bf16;
    use proptest::prelude::*;

    fn rounded(values: &[f32]) -> Vec<f32> {
        values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect()
    }

    /// `left` `[rows, depth]` times the transpose of `weight` `[columns, depth]`, by candle.
    fn reference(left: &[f32], weight: &[f32], depth: usize) -> Vec<f32> {
        let matrix = |values: &[f32]| Tensor::from_slice(values, (values.len() / depth, depth), &Device::Cpu).unwrap();
        matrix(left).matmul(&matrix(weight).t().unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// What the left side is where the product is computed: rounded on machines that multiply bf16.
    fn as_multiplied(left: &[f32], products: Products) -> Vec<f32> {
        if products == Products::Bf16 { rounded(left) } else { left.to_vec() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn products_equal_those_of_rounded_weights(rows in 1usize..120, pairs in 1usize..700, columns in 1usize..90) {
            let depth = 2 * pairs;
            let (left, weight) = (noise(rows * depth, 1), noise(columns * depth, 2));
            let right = Packed::transposed(Format::Bf16, &weight, columns, depth);
            let weight = if right.format() == Format::Bf16 { rounded(&weight) } else { weight };
            let mut ways = vec![Products::F32, multiplies(&right)];
            ways.dedup();
            for products in ways {
                let want = reference(&as_multiplied(&left, products), &weight, depth);
                let plain = Plain { data: &left, rows, width: depth, stride: depth };
                let write = |out| unsafe { product_by(products, &plain, &right, Added::default(), out) };
                // SAFETY: every value is written.
                let got = unsafe { crate::kernels::buffer::filled(rows * columns, write) };
                prop_assert!(relative(&got, &want) < 1e-5, "{products:?} {}", relative(&got, &want));
            }
            // One value per column, and a residual.
            let (shift, residual) = (noise(columns, 3), noise(rows * columns, 4));
            let want = reference(&as_multiplied(&left, multiplies(&right)), &weight, depth);
            let want: Vec<f32> =
                want.iter().zip(&residual).enumerate().map(|(i, (w, r))| w + r + shift[i % columns]).collect();
            let got = linear(&left, &right, Added { shift: Shift::All(&shift), residual: Some(&residual) });
            prop_assert!(relative(&got, &want) < 1e-5, "added: {}", relative(&got, &want));
    }

    #[test]
    fn convolutions_equal_those_of_rounded_weights(
        batch in 1usize..3, height in 1usize..12, width in 1usize..12, input in 1usize..300, output in 32usize..80,
        kernel in prop_oneof![Just(1usize), Just(3)], stride in 1usize..3,
    ) {
        let geometry = Geometry { kernel, stride, before: kernel / 2, after: kernel / 2 };
        let (data, weight) = (noise(batch * height * width * input, 1), noise(output * input * kernel * kernel, 2));
        let conv = Conv::new(Format::Bf16, &weight, output, input, geometry);
        let is_halved = input % 2 == 0;
        let weight = if is_halved { rounded(&weight) } else { weight };
        let exact = Conv::new(Format::F32, &weight, output, input, geometry);
        for algorithm in [Algorithm::Indirect, Algorithm::Winograd] {
            if algorithm == Algorithm::Winograd && (kernel, stride) != (3, 1) {
                continue;
            }
            let products = if algorithm == Algorithm::Indirect { conv.products() } else { Products::F32 };
            let multiplied = as_multiplied(&data, products);
            let [want, got] = [(&exact, &multiplied), (&conv, &data)].map(|(conv, data)| {
                let map = Map { data, batch, height, width, channels: input };
                conv.forward_as(algorithm, map, None, Added::default())
            });
            prop_assert!(relative(&got, &want) < 1e-5, "{algorithm:?} {}", relative(&got, &want));
        }
    }
    }
}
