//! The product at the heart of linear layers, convolutions and attention: rows anywhere in memory
//! times packed weights.
//!
//! The left side is a table of row pointers, so that a convolution's taps are read in place and
//! nothing is copied. This is an indirect product (Dukhan 2019, "The Indirect Convolution
//! Algorithm"). The right side is packed once, in panels as wide as two vectors.

use super::buffer::{Aligned, SharedMut};
use super::machine::{TILE, shape};
pub use super::packed::{Format, Packed, panel_width};
pub use super::tile::{Added, Shift};
use super::tile::{LeftRows, Plain, ProductBlock, TileOutput, even};
use super::{gemm_bf16, packed, threads};
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};

/// Depth of a block of the right side: a panel of it stays in the first-level cache.
const DEPTH: usize = 256;
/// Rows of a task's block: its left side stays in the second-level cache.
const ROWS: usize = 96;
/// The widest panel.
const WIDEST: usize = 32;

/// `left * right + added`, row-major `[rows, columns]`.
///
/// # Panics
/// When the depth of the two sides differs, or `added` has another shape: callers check shapes.
pub(crate) fn product(left: &impl LeftRows, right: &Packed, added: Added) -> Vec<f32> {
    let (rows, columns) = (left.rows(), right.columns());
    // SAFETY: `product_into` writes all rows and columns.
    unsafe { super::buffer::filled(rows * columns, |out| product_into(left, right, added, out)) }
}

/// [`product`] into memory of the caller.
///
/// # Safety
/// `out` must hold `rows * columns` values that nobody else uses meanwhile.
pub(crate) unsafe fn product_into(left: &impl LeftRows, right: &Packed, added: Added, out: SharedMut) {
    // SAFETY: the caller's.
    unsafe { product_by(multiplies(right), left, right, added, out) }
}

/// How bf16 weights are multiplied; f32 weights know one way only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Products {
    /// In f32.
    F32,
    /// In bf16, on machines that can.
    Bf16,
}

/// The fastest products that this machine has for weights of this format.
pub(super) fn multiplies(right: &Packed) -> Products {
    match right.format() {
        Format::Bf16 if gemm_bf16::available() => Products::Bf16,
        _ => Products::F32,
    }
}

/// [`product_into`] in a way of the caller's choice.
///
/// # Safety
/// As `product_into`; [`Products::Bf16`] only where [`multiplies`] says so.
pub(super) unsafe fn product_by(
    products: Products,
    left: &impl LeftRows,
    right: &Packed,
    added: Added,
    out: SharedMut,
) {
    let (rows, columns) = (left.rows(), right.columns());
    let rate = if products == Products::Bf16 { 200 } else { 100 };
    assert_eq!(left.taps() * left.width(), right.depth(), "depth of the two sides of a product");
    let lines = added.shift.lines(rows);
    assert!(added.shift.values().is_none_or(|values| values.len() == lines * columns), "one added value per column");
    assert!(added.residual.is_none_or(|r| r.len() == rows * columns), "a residual of the output's shape");
    let width = panel_width();
    let panels = columns.div_ceil(width);
    let (_, tile) = shape();
    let block = ROWS.next_multiple_of(tile);
    let row_blocks = rows.div_ceil(block);
    // 2 * rows * columns * depth operations at some 200 per nanosecond, or twice that.
    let nanoseconds = rows * columns * right.depth() / rate;
    // Split columns too when the rows alone would not keep all threads busy.
    let parts = if threads::count() == 1 { 1 } else { (3 * threads::count()).div_ceil(row_blocks.max(1)).min(panels) };
    threads::each(row_blocks * parts, nanoseconds, |task| {
        let (rows_at, part) = (task / parts, task % parts);
        let op = ProductBlock {
            left,
            right,
            added,
            out,
            rows: rows_at * block..(rows_at * block + block).min(rows),
            panels: part * panels / parts..(part + 1) * panels / parts,
        };
        match products {
            Products::F32 => op.dispatch(),
            // SAFETY: the machine can, says the caller.
            Products::Bf16 => unsafe { gemm_bf16::product_block(&op) },
        }
    });
}

impl<L: LeftRows> SimdOp for ProductBlock<'_, L> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let width = 2 * isa.f32().len();
        let (_, tile) = shape();
        let (piece, taps) = (self.left.width(), self.left.taps());
        // A block of the depth is some whole taps, or a part of one.
        let taps_at_once = (DEPTH / piece.max(1)).clamp(1, taps);
        let parts = if taps_at_once == 1 { piece.div_ceil(DEPTH) } else { 1 };
        let count = self.rows.len();
        let tiles = count.div_ceil(tile);
        let mut pointers = vec![[std::ptr::null::<f32>(); TILE]; tiles * taps_at_once];
        let mut of_row = vec![std::ptr::null::<f32>(); taps_at_once];
        // A panel's part of the depth in f32, where it lies in bf16.
        let halved = self.right.format() == Format::Bf16;
        let mut unpacked = Aligned::zeros(if halved { (DEPTH + 2) * width } else { 0 });
        for first_tap in (0..taps).step_by(taps_at_once) {
            let taps_here = taps_at_once.min(taps - first_tap);
            for row in 0..tiles * tile {
                // Rows beyond the last repeat it: they may be computed and are not stored.
                if row < count {
                    self.left.pieces(self.rows.start + row, first_tap, &mut of_row[..taps_here]);
                }
                for (tap, &pointer) in of_row[..taps_here].iter().enumerate() {
                    pointers[row / tile * taps_here + tap][row % tile] = pointer;
                }
            }
            for part in 0..parts {
                let (from, to) = (even(part * piece / parts, piece), even((part + 1) * piece / parts, piece));
                let is_first = first_tap == 0 && part == 0;
                let is_last = first_tap + taps_here == taps && part + 1 == parts;
                for panel in self.panels.clone() {
                    // The depth checked by the caller covers every tap and part.
                    let mut b = self.right.panel(panel, first_tap * piece + from);
                    if halved {
                        let to_f32 = unpacked.as_mut_ptr();
                        // SAFETY: whole taps or a part of one are at most `DEPTH` rows, give or
                        // take the rounding to pairs.
                        unsafe { packed::unpack(b, taps_here * (to - from), width, to_f32) };
                        b = to_f32;
                    }
                    for at in 0..tiles {
                        let store = self.store((at * tile, tile), (panel, width), is_first, is_last);
                        let a = &pointers[at * taps_here..][..taps_here];
                        // SAFETY: pointers are valid for `piece` values, the panel for all of the
                        // depth; tasks do not share output.
                        unsafe { micro(isa, a, from, to - from, b, store) };
                    }
                }
            }
        }
    }
}

/// One register tile: up to a tile of rows by two vectors of columns. It sums over `a.len()` pieces
/// of `depth` values, which begin `from` values into each row piece.
///
/// # Safety
/// Every pointer of the first `store.rows` of a tile must be valid for `from + depth` values. Those
/// rows are rounded up to a multiple of 4, or of 3 where tiles have 6 rows. `b` must hold `a.len()
/// * depth` lines of a panel, and `store.out` what it says.
#[inline(always)]
pub(super) unsafe fn micro<I: Isa>(
    isa: I,
    a: &[[*const f32; TILE]],
    from: usize,
    depth: usize,
    b: *const f32,
    store: TileOutput,
) {
    // SAFETY: the caller's.
    unsafe {
        match (isa.f32().len() == 16, store.rows) {
            (true, 9..) => micro_of::<I, 12>(isa, a, from, depth, b, store),
            (true, 5..=8) => micro_of::<I, 8>(isa, a, from, depth, b, store),
            (true, _) => micro_of::<I, 4>(isa, a, from, depth, b, store),
            (false, 4..) => micro_of::<I, 6>(isa, a, from, depth, b, store),
            (false, _) => micro_of::<I, 3>(isa, a, from, depth, b, store),
        }
    }
}

#[inline(always)]
unsafe fn micro_of<I: Isa, const MR: usize>(
    isa: I,
    a: &[[*const f32; TILE]],
    from: usize,
    depth: usize,
    mut b: *const f32,
    store: TileOutput,
) {
    // Plain loops throughout: a closure would be compiled without the instruction set of its
    // caller.
    let ops = isa.f32();
    let lanes = ops.len();
    let mut sum = [[ops.zero(); 2]; MR];
    unsafe {
        for piece in a {
            let mut rows = [std::ptr::null::<f32>(); MR];
            for r in 0..MR {
                rows[r] = piece[r].add(from);
            }
            for k in 0..depth {
                let b0 = ops.load_ptr(b);
                let b1 = ops.load_ptr(b.add(lanes));
                b = b.add(2 * lanes);
                for r in 0..MR {
                    let value = ops.splat(*rows[r].add(k));
                    sum[r][0] = ops.mul_add(value, b0, sum[r][0]);
                    sum[r][1] = ops.mul_add(value, b1, sum[r][1]);
                }
            }
        }
        // Constant bounds and small bodies: these loops must unroll for the sums to stay in
        // registers.
        if store.columns == 2 * lanes {
            for r in 0..MR {
                if r < store.rows {
                    let out = store.out.add(r * store.stride);
                    if store.accumulate {
                        sum[r][0] = ops.add(sum[r][0], ops.load_ptr(out));
                        sum[r][1] = ops.add(sum[r][1], ops.load_ptr(out.add(lanes)));
                    }
                    ops.store_ptr(sum[r][0], out);
                    ops.store_ptr(sum[r][1], out.add(lanes));
                }
            }
        } else {
            let mut spilled = [[0f32; WIDEST]; MR];
            for r in 0..MR {
                ops.store_ptr(sum[r][0], spilled[r].as_mut_ptr());
                ops.store_ptr(sum[r][1], spilled[r].as_mut_ptr().add(lanes));
            }
            for (r, spilled) in spilled.iter().enumerate().take(store.rows) {
                let out = std::slice::from_raw_parts_mut(store.out.add(r * store.stride), store.columns);
                for (out, value) in out.iter_mut().zip(spilled) {
                    *out = if store.accumulate { *out + value } else { *value };
                }
            }
        }
        if let Some((added, row, column)) = store.added {
            add(isa, added, row, column, &store);
        }
    }
}

/// Adds what belongs to a tile that was just stored.
#[inline(always)]
unsafe fn add<I: Isa>(isa: I, added: &Added, row: usize, column: usize, store: &TileOutput) {
    let ops = isa.f32();
    let lanes = ops.len();
    let shift = added.shift.values();
    if shift.is_none() && added.residual.is_none() {
        return;
    }
    for r in 0..store.rows {
        let line = added.shift.line(row + r) * store.stride + column;
        let place = (row + r) * store.stride + column;
        for at in (0..store.columns).step_by(lanes) {
            let mask = ops.first_n_mask(lanes.min(store.columns - at));
            // SAFETY: the mask stops at the last column; both have the shapes that `product_into`
            // checked.
            unsafe {
                let out = store.out.add(r * store.stride + at);
                let mut value = ops.load_ptr_mask(out, mask);
                if let Some(values) = shift {
                    value = ops.add(value, ops.load_ptr_mask(values.as_ptr().add(line + at), mask));
                }
                if let Some(values) = added.residual {
                    value = ops.add(value, ops.load_ptr_mask(values.as_ptr().add(place + at), mask));
                }
                ops.store_ptr_mask(value, out, mask);
            }
        }
    }
}

/// Rows of `left` (`[rows, depth]`) times `right`, plus `added`: a linear layer.
///
/// # Panics
/// When `left` does not hold whole rows of the depth of `right`, or `added` has another shape.
pub fn linear(left: &[f32], right: &Packed, added: Added) -> Vec<f32> {
    let width = right.depth();
    assert!(left.len().is_multiple_of(width), "whole rows");
    product(&Plain { data: left, rows: left.len() / width, width, stride: width }, right, added)
}
