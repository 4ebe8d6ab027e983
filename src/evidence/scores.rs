//! How alike two maps are, and the control maps that a likeness has to be measured against.
//!
//! All maps of one comparison are row-major and lie on the same grid.

use crate::trace::Grid;

/// The share of the cells that counts as the top of a map.
pub const TOP: f64 = 0.2;

/// Ranks from 1, equal values sharing the mean of their ranks (scipy's `rankdata`, method
/// `average`).
pub fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let equal = order[start..].iter().take_while(|&&cell| values[cell] == values[order[start]]).count().max(1);
        // The mean of start + 1 ..= start + equal.
        let rank = start as f64 + (equal as f64 + 1.0) / 2.0;
        order[start..start + equal].iter().for_each(|&cell| ranks[cell] = rank);
        start += equal;
    }
    ranks
}

/// Spearman's rank correlation, -1 to 1; `None` when one of the maps is flat, since it has no
/// order.
///
/// # Panics
/// When the maps have different lengths.
pub fn spearman(a: &[f32], b: &[f32]) -> Option<f64> {
    assert_eq!(a.len(), b.len());
    pearson(&ranks(a), &ranks(b))
}

fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

/// The cells of the highest `share` of `map` (at least one, rounded up); of equal values the first.
/// A map of zeros has none.
pub fn top(map: &[f32], share: f64) -> Vec<bool> {
    let mut chosen = vec![false; map.len()];
    if map.iter().all(|&value| value <= 0.0) {
        return chosen;
    }
    let mut order: Vec<usize> = (0..map.len()).collect();
    order.sort_by(|&a, &b| map[b].total_cmp(&map[a]).then(a.cmp(&b)));
    let count = ((share * map.len() as f64).ceil() as usize).clamp(1, map.len());
    order[..count].iter().for_each(|&cell| chosen[cell] = true);
    chosen
}

/// Intersection over union of two sets of cells, 0 to 1; 0 when both are empty.
pub fn iou(a: &[bool], b: &[bool]) -> f64 {
    let (mut both, mut either) = (0usize, 0usize);
    for (&a, &b) in a.iter().zip(b) {
        both += usize::from(a && b);
        either += usize::from(a || b);
    }
    if either == 0 { 0.0 } else { both as f64 / either as f64 }
}

/// The share of `causal` that lies in `region`, 0 to 1. The difference in prediction drops by it
/// when that region is left out. A region that covers a fifth of the image at random takes a fifth.
/// 0 when nothing changed anywhere.
pub fn drop_without(causal: &[f32], region: &[bool]) -> f64 {
    let total: f64 = causal.iter().map(|&value| f64::from(value)).sum();
    let inside: f64 =
        causal.iter().zip(region).filter(|(_, region)| **region).map(|(&value, _)| f64::from(value)).sum();
    if total > 0.0 { inside / total } else { 0.0 }
}

/// How well an attention map tells where a cut changes the prediction.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Agreement {
    /// Spearman's correlation of all cells, -1 to 1; absent when a map is flat.
    pub spearman: Option<f64>,
    /// IoU of the two maps' highest fifths, 0 to 1 (two random fifths share 0.11).
    pub iou_top: f64,
    /// Share of the change that the attended fifth holds, 0 to 1 (a random fifth holds 0.2).
    pub drop: f64,
}

impl Agreement {
    /// The scores of `attention` (or a control in its place) against `causal`.
    pub fn of(attention: &[f32], causal: &[f32]) -> Self {
        let attended = top(attention, TOP);
        Self {
            spearman: spearman(attention, causal),
            iou_top: iou(&attended, &top(causal, TOP)),
            drop: drop_without(causal, &attended),
        }
    }
}

/// A blob in the middle: exp(-r²/2) with r in quarters of the image's height and width. What a map
/// scores against it is owed to objects standing in the middle.
pub fn centre_blob(grid: Grid) -> Vec<f32> {
    let axis = |index: usize, count: usize| 2.0 * (2.0 * index as f32 + 1.0 - count as f32) / count as f32;
    let cell = |row: usize, column: usize| (axis(row, grid.height), axis(column, grid.width));
    let cells = (0..grid.height).flat_map(|row| (0..grid.width).map(move |column| cell(row, column)));
    cells.map(|(y, x)| (-(x * x + y * y) / 2.0).exp()).collect()
}

/// How much edge the picture has in each cell of `grid`. It is the mean length of the Sobel
/// gradient of `luminance` over the pixels of the cell. `luminance` is 0 to 1 in `image` rows and
/// columns; borders are repeated. What a map scores against it is owed to contrast alone.
///
/// # Panics
/// When `luminance` has not `image.cells()` values or the picture is smaller than the grid.
pub fn edges(luminance: &[f32], image: Grid, grid: Grid) -> Vec<f32> {
    assert_eq!(luminance.len(), image.cells());
    assert!(image.height >= grid.height && image.width >= grid.width);
    let at = |row: isize, column: isize| {
        let row = row.clamp(0, image.height as isize - 1) as usize;
        let column = column.clamp(0, image.width as isize - 1) as usize;
        luminance[row * image.width + column]
    };
    let (mut sums, mut counts) = (vec![0.0f32; grid.cells()], vec![0u32; grid.cells()]);
    for row in 0..image.height {
        for column in 0..image.width {
            let (r, c) = (row as isize, column as isize);
            let x = at(r - 1, c + 1) + 2.0 * at(r, c + 1) + at(r + 1, c + 1)
                - (at(r - 1, c - 1) + 2.0 * at(r, c - 1) + at(r + 1, c - 1));
            let y = at(r + 1, c - 1) + 2.0 * at(r + 1, c) + at(r + 1, c + 1)
                - (at(r - 1, c - 1) + 2.0 * at(r - 1, c) + at(r - 1, c + 1));
            let cell = row * grid.height / image.height * grid.width + column * grid.width / image.width;
            sums[cell] += x.hypot(y);
            counts[cell] += 1;
        }
    }
    sums.iter().zip(&counts).map(|(sum, &count)| sum / count.max(1) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::largest;

    #[test]
    fn ties_share_their_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(ranks(&[5.0; 3]), [2.0; 3]);
    }

    #[test]
    fn spearman_of_same_reverse_and_flat() {
        let map = [0.1, 0.4, 0.2, 0.9];
        let squares = map.map(|value| value * value);
        let reverse = map.map(|value| -value);
        assert!((spearman(&map, &squares).unwrap() - 1.0).abs() < 1e-12);
        assert!((spearman(&map, &reverse).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(spearman(&map, &[0.5; 4]), None);
    }

    #[test]
    fn the_top_is_counted_and_zero_has_none() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 0.0, 2.0], 0.2), [false, true, false, false, false]);
        assert_eq!(top(&[0.0; 5], 0.2), [false; 5]);
        assert_eq!(top(&[1.0; 11], 0.2).iter().filter(|&&chosen| chosen).count(), 3);
    }

    #[test]
    fn nothing_changed_supports_nothing() {
        let agreement = Agreement::of(&[0.1, 0.2, 0.9, 0.3, 0.1], &[0.0; 5]);
        assert_eq!(agreement, Agreement { spearman: None, iou_top: 0.0, drop: 0.0 });
    }

    #[test]
    fn edges_find_the_edge_of_a_wide_picture() {
        // Dark left half, bright right half of 4 rows x 8 columns: the middle cells of a 2 x 4
        // grid.
        let luminance: Vec<f32> = (0..32).map(|pixel| if pixel % 8 < 4 { 0.0 } else { 1.0 }).collect();
        let found = edges(&luminance, Grid::new(4, 8), Grid::new(2, 4));
        assert_eq!(found, [0.0, 2.0, 2.0, 0.0, 0.0, 2.0, 2.0, 0.0]);
    }

    #[test]
    fn the_blob_is_in_the_middle_of_any_shape() {
        let blob = centre_blob(Grid::new(3, 5));
        assert_eq!(largest(blob.iter().copied()), blob[7]);
        assert_eq!(blob[0], blob[14]);
    }
}
