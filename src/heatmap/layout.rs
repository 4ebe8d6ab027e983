//! Layout statistics of one map: how much, where, how large, how concentrated.

use crate::trace::Grid;
use serde::{Deserialize, Serialize};

/// The usual threshold, as a share of the map's own maximum: the one that the accuracy figures are
/// measured at.
pub const THRESHOLD: f32 = 0.4;

/// A point of the image: `x` from the left edge, `y` from the top, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// 0 at the left edge, 1 at the right.
    pub x: f32,
    /// 0 at the top edge, 1 at the bottom.
    pub y: f32,
}

/// The highest cell of a map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Mean attention probability per step there, 0 to 1.
    pub value: f32,
    /// Row of the latent grid.
    pub row: usize,
    /// Column of the latent grid.
    pub column: usize,
    /// The cell's centre, from the left edge of the image, 0 to 1.
    pub x: f32,
    /// The cell's centre, from the top edge of the image, 0 to 1.
    pub y: f32,
}

/// A box on the image, edges from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Left edge.
    pub left: f32,
    /// Top edge.
    pub top: f32,
    /// Right edge.
    pub right: f32,
    /// Bottom edge.
    pub bottom: f32,
}

/// Where a word's attention lies. What is "above" is every cell of at least `threshold` times the
/// map's own maximum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// The word's share of all attention, 0 to 1; those of all tokens and the padding sum to 1.
    pub share: f32,
    /// The highest cell. `None` when the map is zero everywhere.
    pub peak: Option<Peak>,
    /// Centre of the cells above, weighted by value. `None` when the map is zero everywhere.
    pub centroid: Option<Point>,
    /// Share of the image that is above, 0 to 1.
    pub area: f32,
    /// The box around the cells above. `None` when the map is zero everywhere.
    pub bounds: Option<Bounds>,
    /// Entropy of the whole map as a distribution over the cells, over that of a flat map: 0 one
    /// cell, 1 flat.
    pub entropy: f32,
    /// The threshold, as a share of the map's maximum.
    pub threshold: f32,
}

impl Layout {
    /// The peak's value, 0 when the map is zero everywhere.
    pub fn peak_value(&self) -> f32 {
        self.peak.map_or(0.0, |peak| peak.value)
    }

    /// Statistics of `map` `[grid.height, grid.width]` whose values are sums over `steps` steps;
    /// non-negative and finite.
    ///
    /// # Panics
    /// When the map is empty.
    pub fn of(map: &[f32], grid: Grid, steps: f32, share: f32, threshold: f32) -> Self {
        let at = |cell: usize| (cell / grid.width, cell % grid.width);
        let x = |column: f32| column / grid.width as f32;
        let y = |row: f32| row / grid.height as f32;
        let (cell, &value) = map
            .iter()
            .enumerate()
            // The first of equals, so that a flat map peaks in its first cell.
            .max_by(|(i, a), (j, b)| a.total_cmp(b).then(j.cmp(i)))
            .expect("a map has at least one cell");
        let (row, column) = at(cell);
        let peak = (value > 0.0).then(|| Peak {
            value: value / steps,
            row,
            column,
            x: x(column as f32 + 0.5),
            y: y(row as f32 + 0.5),
        });

        let level = threshold * value;
        let above = || map.iter().enumerate().filter(move |&(_, &cell)| value > 0.0 && cell >= level);
        let (mut mass, mut sum_x, mut sum_y, mut count) = (0.0f64, 0.0f64, 0.0f64, 0usize);
        let (mut rows, mut columns) = ((usize::MAX, 0), (usize::MAX, 0));
        for (cell, &value) in above() {
            let ((row, column), value) = (at(cell), f64::from(value));
            mass += value;
            sum_x += value * (column as f64 + 0.5);
            sum_y += value * (row as f64 + 0.5);
            count += 1;
            rows = (rows.0.min(row), rows.1.max(row + 1));
            columns = (columns.0.min(column), columns.1.max(column + 1));
        }
        let centroid = (mass > 0.0).then(|| Point { x: x((sum_x / mass) as f32), y: y((sum_y / mass) as f32) });
        let bounds = (count > 0).then(|| Bounds {
            left: x(columns.0 as f32),
            top: y(rows.0 as f32),
            right: x(columns.1 as f32),
            bottom: y(rows.1 as f32),
        });
        let area = count as f32 / map.len() as f32;
        Self { share, peak, centroid, area, bounds, entropy: entropy(map), threshold }
    }
}

/// Entropy of `map` as a distribution, over that of a flat one. A map of one cell or of zeros
/// counts as flat.
fn entropy(map: &[f32]) -> f32 {
    let total: f64 = map.iter().map(|&value| f64::from(value)).sum();
    if total <= 0.0 || map.len() < 2 {
        return 1.0;
    }
    let term = |&value: &f32| {
        let p = f64::from(value) / total;
        if p > 0.0 { -p * p.ln() } else { 0.0 }
    };
    (map.iter().map(term).sum::<f64>() / (map.len() as f64).ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(map: &[f32], height: usize, width: usize) -> Layout {
        Layout::of(map, Grid::new(height, width), 2.0, 0.1, THRESHOLD)
    }

    #[test]
    fn one_hot_cell_on_a_wide_grid() {
        let layout = layout(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0], 2, 4);
        let peak = Peak { value: 0.5, row: 1, column: 2, x: 0.625, y: 0.75 };
        assert_eq!(layout.peak, Some(peak));
        assert_eq!(layout.centroid, Some(Point { x: 0.625, y: 0.75 }));
        assert_eq!(layout.bounds, Some(Bounds { left: 0.5, top: 0.5, right: 0.75, bottom: 1.0 }));
        assert_eq!((layout.area, layout.entropy), (0.125, 0.0));
    }

    #[test]
    fn flat_and_zero_maps() {
        let flat = layout(&[0.5; 6], 2, 3);
        assert_eq!((flat.area, flat.centroid), (1.0, Some(Point { x: 0.5, y: 0.5 })));
        assert!((flat.entropy - 1.0).abs() < 1e-6);
        let zero = layout(&[0.0; 6], 2, 3);
        assert_eq!((zero.area, zero.peak, zero.centroid, zero.bounds, zero.entropy), (0.0, None, None, None, 1.0));
    }
}
