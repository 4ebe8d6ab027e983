//! One task's part of a product: where its rows come from, where its register tiles go, and what is
//! added to them.

use super::buffer::SharedMut;
use super::packed::Packed;

/// Where the left side's rows lie. A row is `taps` pieces of `width` values each.
pub(crate) trait LeftRows: Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Pieces of a row.
    fn taps(&self) -> usize;
    /// Values of a piece.
    fn width(&self) -> usize;
    /// Writes where the pieces `first_tap..` of `row` begin, as many as `out` is long; `width()`
    /// values can be read at each.
    fn pieces(&self, row: usize, first_tap: usize, out: &mut [*const f32]);
}

/// Rows that follow each other at a fixed stride.
#[derive(Clone, Copy)]
pub(crate) struct Plain<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub width: usize,
    pub stride: usize,
}

impl LeftRows for Plain<'_> {
    fn rows(&self) -> usize {
        self.rows
    }
    fn taps(&self) -> usize {
        1
    }
    fn width(&self) -> usize {
        self.width
    }
    fn pieces(&self, row: usize, _first_tap: usize, out: &mut [*const f32]) {
        out[0] = self.data[row * self.stride..][..self.width].as_ptr();
    }
}

/// One value per column, added to every row of a product.
#[derive(Clone, Copy, Default)]
pub enum Shift<'a> {
    /// Nothing is added.
    #[default]
    None,
    /// The same `[columns]` for all rows: a bias.
    All(&'a [f32]),
    /// A line of its own for each group of `rows` neighbouring rows: `values` is `[groups,
    /// columns]`.
    PerGroup {
        /// The lines, one group after the other.
        values: &'a [f32],
        /// Rows per group, 1 or more.
        rows: usize,
    },
}

impl<'a> Shift<'a> {
    /// All the values.
    pub(super) fn values(self) -> Option<&'a [f32]> {
        match self {
            Self::None => None,
            Self::All(values) | Self::PerGroup { values, .. } => Some(values),
        }
    }

    /// Which line of the values is added to `row`.
    #[inline(always)]
    pub(super) fn line(self, row: usize) -> usize {
        match self {
            Self::PerGroup { rows, .. } => row / rows,
            _ => 0,
        }
    }

    /// Lines that a product of `rows` rows needs.
    pub(super) fn lines(self, rows: usize) -> usize {
        match self {
            Self::PerGroup { rows: group, .. } => rows.div_ceil(group),
            _ => 1,
        }
    }
}

/// What is added to the product before it is stored.
#[derive(Clone, Copy, Default)]
pub struct Added<'a> {
    /// Added to every row.
    pub shift: Shift<'a>,
    /// Added element by element, laid out as the output is.
    pub residual: Option<&'a [f32]>,
}

/// The part of a product that one task computes.
pub(super) struct ProductBlock<'a, L> {
    pub(super) left: &'a L,
    pub(super) right: &'a Packed,
    pub(super) added: Added<'a>,
    pub(super) out: SharedMut,
    pub(super) rows: std::ops::Range<usize>,
    pub(super) panels: std::ops::Range<usize>,
}

impl<L> ProductBlock<'_, L> {
    /// Where the register tile of `rows` rows from `at` on, counted in this block, goes in `panel`
    /// of `width` columns. The first part of the depth overwrites what is there, and with the last
    /// comes what is added.
    #[inline(always)]
    pub(super) fn store(
        &self,
        (at, rows): (usize, usize),
        (panel, width): (usize, usize),
        is_first: bool,
        is_last: bool,
    ) -> TileOutput<'_> {
        let columns = self.right.columns();
        let (row, column) = (self.rows.start + at, panel * width);
        assert!(row < self.rows.end && column < columns, "a tile of the block");
        TileOutput {
            // SAFETY: inside the output, as row and column are.
            out: unsafe { self.out.get().add(row * columns + column) },
            stride: columns,
            rows: rows.min(self.rows.end - row),
            columns: width.min(columns - column),
            accumulate: !is_first,
            added: is_last.then_some((&self.added, row, column)),
        }
    }
}

/// Where a register tile goes.
pub(super) struct TileOutput<'a> {
    pub out: *mut f32,
    pub stride: usize,
    /// Rows to store, at most a tile.
    pub rows: usize,
    /// Columns to store, at most a panel.
    pub columns: usize,
    /// Whether `out` holds a sum to add to.
    pub accumulate: bool,
    /// What else to add, and the row and column of `out` in it.
    pub added: Option<(&'a Added<'a>, usize, usize)>,
}

/// Rounds `at` down to even, unless it is `end`. A row piece is parted there, since bf16 weights
/// lie in pairs.
pub(super) fn even(at: usize, end: usize) -> usize {
    if at == end { at } else { at & !1 }
}
