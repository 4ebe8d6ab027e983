//! What facts are made of: numbers of one map, and of two maps beside each other.

use super::lexicon::{Direction, Role};
use super::percentile::percentile;
use crate::figures::largest;
use crate::heatmap::{Bounds, Heatmaps, Layout};
use crate::trace::{Grid, WordInfo};

/// A word counts as placed once its centroid stays this near its last position, as a share of the
/// image's sides.
pub const NEAR: f32 = 0.1;

/// Centroids must lie this far apart along an axis before one is left of or above the other, as a
/// share of the image's side.
pub const APART: f32 = 0.1;

/// How much of a box must lie in another before it is called inside.
pub const WITHIN: f32 = 0.9;

/// A thing was probably not drawn when attention to it is nowhere more than so many times its mean
/// over the image. What is drawn is looked for where it stands. ACCURACY.md says how it was chosen.
pub const NEGLECT: f32 = 5.5;

/// The highest peak of the filler words among `words`, (peak, role) each; `None` where there is
/// none, or none that was looked for.
pub(super) fn highest_filler(words: impl Iterator<Item = (f32, Role)>) -> Option<f32> {
    let fillers = words.filter(|(_, role)| *role == Role::Filler).map(|(peak, _)| peak);
    fillers.max_by(f32::total_cmp).filter(|&peak| peak > 0.0)
}

/// The median of a sweep's peaks; `None` where there are none.
pub(super) fn filler_peak(peaks: &[f32]) -> Option<f32> {
    let mut sorted: Vec<f64> = peaks.iter().map(|&peak| f64::from(peak)).collect();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| percentile(&sorted, 0.5) as f32)
}

/// The highest attention to `word` in one place over its mean over the image, before the words
/// compete, 1 and more. What is below [`NEGLECT`] was probably not drawn. `None` where nothing
/// looked for it.
pub fn contrast(maps: &Heatmaps, word: &WordInfo) -> Option<f32> {
    let attention = maps.attention(&word.tokens);
    let mean = attention.iter().sum::<f32>() / attention.len().max(1) as f32;
    (mean > 0.0).then(|| largest(attention.iter().copied()) / mean)
}

/// Whether a contrast is neglect.
pub(super) fn is_neglect(contrast: f32) -> bool {
    contrast < NEGLECT
}

/// Root mean square distance of `map`'s mass from its centre, in shares of the image's sides;
/// `None` for a map of zeros.
pub fn spread(map: &[f32], grid: Grid) -> Option<f32> {
    let point = |cell: usize| {
        let (row, column) = (cell / grid.width, cell % grid.width);
        ((column as f64 + 0.5) / grid.width as f64, (row as f64 + 0.5) / grid.height as f64)
    };
    let mean = |of: &dyn Fn(usize) -> f64| {
        let (mut sum, mut mass) = (0.0, 0.0);
        for (cell, &value) in map.iter().enumerate() {
            sum += f64::from(value) * of(cell);
            mass += f64::from(value);
        }
        (mass > 0.0).then(|| sum / mass)
    };
    let (x, y) = (mean(&|cell| point(cell).0)?, mean(&|cell| point(cell).1)?);
    let distance = |cell| (point(cell).0 - x).powi(2) + (point(cell).1 - y).powi(2);
    Some(mean(&distance)?.sqrt() as f32)
}

/// The common mass of two maps, each divided by its sum, 0 to 1; 0 when one is zero everywhere.
pub fn overlap(a: &[f32], b: &[f32]) -> f64 {
    let sum = |map: &[f32]| map.iter().map(|&value| f64::from(value)).sum::<f64>();
    let (sum_a, sum_b) = (sum(a), sum(b));
    if sum_a <= 0.0 || sum_b <= 0.0 {
        return 0.0;
    }
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) / sum_a).min(f64::from(b) / sum_b)).sum()
}

/// KL(a, b) + KL(b, a) in nats of two maps as distributions. A millionth of its mean is added to
/// every cell of a map first, so that empty cells make the divergence large and not infinite.
pub fn symmetric_kl(a: &[f32], b: &[f32]) -> f64 {
    let distribution = |map: &[f32]| -> Vec<f64> {
        let mean = map.iter().map(|&value| f64::from(value)).sum::<f64>() / map.len().max(1) as f64;
        let floor = if mean > 0.0 { 1e-6 * mean } else { 1.0 };
        let total = (mean + floor) * map.len() as f64;
        map.iter().map(|&value| (f64::from(value) + floor) / total).collect()
    };
    distribution(a).iter().zip(distribution(b)).map(|(a, b)| (a - b) * (a / b).ln()).sum()
}

/// Whether `relation` holds (absent: too close to call), and the offset along its axis.
pub(super) fn holds(relation: Direction, subject: &Layout, object: &Layout) -> (Option<bool>, Option<f32>) {
    let (Some(s), Some(o)) = (subject.centroid, object.centroid) else { return (None, None) };
    let clear = |offset: f32, wanted: f32| (offset.abs() >= APART).then_some(offset * wanted > 0.0);
    match relation {
        Direction::LeftOf => (clear(s.x - o.x, -1.0), Some(s.x - o.x)),
        Direction::RightOf => (clear(s.x - o.x, 1.0), Some(s.x - o.x)),
        Direction::Above => (clear(s.y - o.y, -1.0), Some(s.y - o.y)),
        Direction::Below => (clear(s.y - o.y, 1.0), Some(s.y - o.y)),
        Direction::Inside => {
            let (Some(s), Some(o)) = (subject.bounds, object.bounds) else { return (None, None) };
            (Some(area(s) < area(o) && share_within(s, o) >= WITHIN), None)
        }
    }
}

/// The area of a box in shares of the image; 0 where it is empty.
pub(super) fn area(of: Bounds) -> f32 {
    (of.right - of.left).max(0.0) * (of.bottom - of.top).max(0.0)
}

/// What two boxes have in common; empty where they lie apart.
pub(super) fn common(a: Bounds, b: Bounds) -> Bounds {
    Bounds {
        left: a.left.max(b.left),
        top: a.top.max(b.top),
        right: a.right.min(b.right),
        bottom: a.bottom.min(b.bottom),
    }
}

/// The share of the box `own` that lies in the box `other`, 0 to 1; 0 of an empty box.
pub(super) fn share_within(own: Bounds, other: Bounds) -> f32 {
    if area(own) > 0.0 { area(common(own, other)) / area(own) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_and_spread() {
        assert_eq!(overlap(&[1.0, 1.0, 0.0], &[0.0, 3.0, 1.0]), 0.5);
        assert_eq!(overlap(&[1.0], &[0.0]), 0.0);
        assert_eq!(spread(&[0.0, 1.0, 0.0, 0.0], Grid::new(2, 2)), Some(0.0));
        assert_eq!(spread(&[0.0; 4], Grid::new(2, 2)), None);
    }
}
