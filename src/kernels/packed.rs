//! The right side of a product, packed once in panels as wide as two vectors: f32, or bf16 in half
//! the memory.

use super::buffer::{Aligned, SharedMut};
use super::machine::shape;
use super::threads;
use half::bf16;

/// Columns of a panel on this machine.
pub fn panel_width() -> usize {
    2 * shape().0
}

/// The number format of packed weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// As they are.
    #[default]
    F32,
    /// Rounded to the nearest bf16: half the memory. Where the processor multiplies bf16
    /// (AVX512-BF16) the left side is rounded too, and products are summed in f32. Elsewhere the
    /// weights become f32 again on the way into the cache.
    Bf16,
}

/// A matrix `[depth, columns]` in panels: panel `p` holds columns `p * panel_width()..`, padded
/// with zeros. In f32 a panel is its rows one after the other. In bf16 it is two rows at a time,
/// the two values of a column side by side, as AVX512-BF16 reads them.
#[derive(Debug, Clone)]
pub struct Packed {
    /// In bf16 each place holds the bits of two values.
    data: Aligned,
    depth: usize,
    columns: usize,
    format: Format,
}

impl Packed {
    /// Packs the matrix whose element at `(row, column)` is `get(row, column)`.
    pub fn new(depth: usize, columns: usize, get: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        Self::new_as(Format::F32, depth, columns, get)
    }

    /// [`new`](Self::new) in a format of the caller's choice. Matrices of an odd depth, or of fewer
    /// columns than a panel, stay in f32. They are small, and the last layers of a network are
    /// among them.
    pub fn new_as(format: Format, depth: usize, columns: usize, get: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let width = panel_width();
        let format = if depth.is_multiple_of(2) && columns >= width { format } else { Format::F32 };
        let panels = columns.div_ceil(width);
        let lines = match format {
            Format::F32 => depth,
            Format::Bf16 => depth / 2,
        };
        let mut data = Aligned::zeros(panels * lines * width);
        let out = SharedMut(data.as_mut_ptr());
        threads::each(panels, depth * columns, |panel| {
            // SAFETY: each panel is written by one task.
            let part = unsafe { std::slice::from_raw_parts_mut(out.get().add(panel * lines * width), lines * width) };
            let first = panel * width;
            for column in first..(first + width).min(columns) {
                for (line, value) in part.iter_mut().skip(column - first).step_by(width).enumerate() {
                    *value = match format {
                        Format::F32 => get(line, column),
                        Format::Bf16 => pair(get(2 * line, column), get(2 * line + 1, column)),
                    };
                }
            }
        });
        Self { data, depth, columns, format }
    }

    /// Packs the transpose of a row-major `[columns, depth]` matrix: the layout of a linear layer's
    /// weight.
    pub fn transposed(format: Format, weight: &[f32], columns: usize, depth: usize) -> Self {
        Self::new_as(format, depth, columns, |row, column| weight[column * depth + row])
    }

    /// Rows of the matrix.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The format that was taken.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Where row `row` of a panel begins: a line of f32, or of pairs in bf16, where `row` is even.
    pub(super) fn panel(&self, index: usize, row: usize) -> *const f32 {
        let (lines, line) = match self.format {
            Format::F32 => (self.depth, row),
            Format::Bf16 => (self.depth / 2, row / 2),
        };
        self.data[(index * lines + line) * panel_width()..].as_ptr()
    }
}

/// The bits of two values rounded to bf16, the first in the lower half.
pub(super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(bf16::from_f32(first).to_bits()) | u32::from(bf16::from_f32(second).to_bits()) << 16)
}

/// Writes `rows` rows of a bf16 panel (an even number) as f32, `width` values each.
///
/// # Safety
/// `pairs` must hold `rows / 2` lines of `width` pairs, and `out` room for `rows * width` values.
#[inline(always)]
pub(super) unsafe fn unpack(pairs: *const f32, rows: usize, width: usize, out: *mut f32) {
    for line in 0..rows / 2 {
        // SAFETY: the caller's.
        let (pairs, first, second) = unsafe {
            (
                std::slice::from_raw_parts(pairs.add(line * width).cast::<u32>(), width),
                std::slice::from_raw_parts_mut(out.add(2 * line * width), width),
                std::slice::from_raw_parts_mut(out.add((2 * line + 1) * width), width),
            )
        };
        for at in 0..width {
            first[at] = f32::from_bits(pairs[at] << 16);
            second[at] = f32::from_bits(pairs[at] & 0xffff_0000);
        }
    }
}
