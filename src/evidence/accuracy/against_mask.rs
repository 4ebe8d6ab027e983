//! How well a map finds an object whose mask is known, with confidence intervals.

use crate::facts::percentile;
use crate::heatmap::{Filter, Resampler};
use crate::trace::Grid;
use rand_mt::Mt;
use serde::{Deserialize, Serialize};

/// The shares of a map's maximum at which a predicted mask is taken.
pub const THRESHOLDS: [f32; 3] = [0.3, 0.4, 0.5];

/// How well one map finds one object. All figures are 0 to 1, measured at the mask's resolution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Intersection over union of the mask and the pixels of at least 0.3 of the map's maximum.
    #[serde(rename = "iou_0.3")]
    pub iou_03: f64,
    /// At 0.4 of the maximum: the headline figure.
    #[serde(rename = "iou_0.4")]
    pub iou_04: f64,
    /// At 0.5 of the maximum.
    #[serde(rename = "iou_0.5")]
    pub iou_05: f64,
    /// At the map's mean.
    pub iou_mean: f64,
    /// Average precision of the pixels ranked by value (scikit-learn's `average_precision_score`):
    /// needs no threshold.
    pub average_precision: f64,
    /// 1 when the first maximum lies in the mask, else 0 (the pointing game of Zhang et al., 2016,
    /// without its tolerance).
    pub pointing: f64,
}

impl Accuracy {
    /// Names of the figures, in the order of [`values`](Self::values).
    pub const NAMES: [&str; 6] = ["iou_0.3", "iou_0.4", "iou_0.5", "iou_mean", "average_precision", "pointing"];

    /// The figures of `map`, non-negative, against `mask` of the same length.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn of(map: &[f32], mask: &[bool]) -> Self {
        assert_eq!(map.len(), mask.len());
        let (mut first, mut highest) = (0, f32::NEG_INFINITY);
        for (pixel, &value) in map.iter().enumerate() {
            if value > highest {
                (first, highest) = (pixel, value);
            }
        }
        let mean = map.iter().map(|&value| f64::from(value)).sum::<f64>() / map.len().max(1) as f64;
        let [iou_03, iou_04, iou_05] = THRESHOLDS.map(|threshold| iou_at(map, mask, threshold * highest));
        Self {
            iou_03,
            iou_04,
            iou_05,
            iou_mean: iou_at(map, mask, mean as f32),
            average_precision: average_precision(map, mask),
            pointing: if mask.get(first).copied().unwrap_or(false) { 1.0 } else { 0.0 },
        }
    }

    /// As [`of`](Self::of) for a map on the latent grid. It is first resized to the mask's size
    /// with torch's bicubic and clamped at 0, as overlays are drawn.
    pub fn of_latent(map: &[f32], grid: Grid, mask: &[bool], image: Grid) -> Self {
        Self::of(&to_image(map, grid, image), mask)
    }

    /// The figures, in the order of [`NAMES`](Self::NAMES).
    pub fn values(&self) -> [f64; 6] {
        [self.iou_03, self.iou_04, self.iou_05, self.iou_mean, self.average_precision, self.pointing]
    }

    fn from_values([iou_03, iou_04, iou_05, iou_mean, average_precision, pointing]: [f64; 6]) -> Self {
        Self { iou_03, iou_04, iou_05, iou_mean, average_precision, pointing }
    }

    /// The mean of several.
    pub fn mean(all: &[Self]) -> Self {
        let mut sums = [0.0; 6];
        for one in all {
            sums.iter_mut().zip(one.values()).for_each(|(sum, value)| *sum += value);
        }
        Self::from_values(sums.map(|sum| sum / all.len().max(1) as f64))
    }
}

/// `map` on the latent grid at the size of `image`, clamped at 0.
pub fn to_image(map: &[f32], grid: Grid, image: Grid) -> Vec<f32> {
    let mut pixels = Resampler::new(grid, image, Filter::Bicubic).resize(map);
    pixels.iter_mut().for_each(|value| *value = value.max(0.0));
    pixels
}

/// IoU of `mask` and the pixels of at least `level`.
pub fn iou_at(map: &[f32], mask: &[bool], level: f32) -> f64 {
    let (mut both, mut either) = (0usize, 0usize);
    for (&value, &inside) in map.iter().zip(mask) {
        let predicted = value >= level;
        both += usize::from(predicted && inside);
        either += usize::from(predicted || inside);
    }
    if either == 0 { 0.0 } else { both as f64 / either as f64 }
}

/// Area under the steps of precision over recall, equal values taken together; 0 for an empty mask.
pub fn average_precision(map: &[f32], mask: &[bool]) -> f64 {
    let positives = mask.iter().filter(|&&inside| inside).count();
    if positives == 0 {
        return 0.0;
    }
    let mut order: Vec<usize> = (0..map.len()).collect();
    order.sort_unstable_by(|&a, &b| map[b].total_cmp(&map[a]));
    let (mut found, mut area, mut start) = (0usize, 0.0, 0);
    while start < order.len() {
        let equal = order[start..].iter().take_while(|&&pixel| map[pixel] == map[order[start]]).count().max(1);
        let hits = order[start..start + equal].iter().filter(|&&pixel| mask[pixel]).count();
        found += hits;
        start += equal;
        area += hits as f64 / positives as f64 * (found as f64 / start as f64);
    }
    area
}

/// A mean with its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean of all values.
    pub mean: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
}

/// How often [`bootstrap`] draws.
pub const DRAWS: usize = 1000;

/// The mean of all values in `groups` with a 95 % percentile bootstrap interval (Efron, 1979).
/// Whole groups are drawn with replacement, [`DRAWS`] times, as the words of one scene are no
/// independent witnesses. MT19937 seeded with `seed` draws; a draw from n is the high word of its
/// 32 bits times n. The ends are linearly interpolated percentiles (numpy's default).
pub fn bootstrap(groups: &[Vec<f64>], seed: u32) -> Interval {
    let sums: Vec<(f64, f64)> = groups.iter().map(|group| (group.iter().sum(), group.len() as f64)).collect();
    let mean = |total: (f64, f64)| if total.1 > 0.0 { total.0 / total.1 } else { f64::NAN };
    let add = |a: (f64, f64), b: (f64, f64)| (a.0 + b.0, a.1 + b.1);
    let whole = mean(sums.iter().copied().fold((0.0, 0.0), add));
    if groups.is_empty() {
        return Interval { mean: whole, low: whole, high: whole };
    }
    let mut generator = Mt::new(seed);
    let mut draw = || sums[((u64::from(generator.next_u32()) * sums.len() as u64) >> 32) as usize];
    let mut means: Vec<f64> = (0..DRAWS).map(|_| mean((0..sums.len()).map(|_| draw()).fold((0.0, 0.0), add))).collect();
    means.retain(|mean| mean.is_finite());
    means.sort_by(f64::total_cmp);
    Interval { mean: whole, low: percentile(&means, 0.025), high: percentile(&means, 0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_map_and_its_opposite() {
        let mask = [false, true, true, false];
        let perfect = Accuracy::of(&[0.0, 1.0, 1.0, 0.0], &mask);
        assert_eq!(perfect.values(), [1.0; 6]);
        let opposite = Accuracy::of(&[1.0, 0.0, 0.0, 1.0], &mask);
        assert_eq!((opposite.iou_04, opposite.pointing), (0.0, 0.0));
        // Nothing is found before the last two of four: recall comes all at once, at precision one
        // half.
        assert_eq!(opposite.average_precision, 0.5);
    }

    #[test]
    fn a_flat_map_predicts_everything() {
        let flat = Accuracy::of(&[0.5; 4], &[true, false, false, false]);
        assert_eq!((flat.iou_04, flat.iou_mean, flat.average_precision), (0.25, 0.25, 0.25));
    }

    #[test]
    fn the_interval_holds_the_mean_and_is_the_same_every_time() {
        let groups: Vec<Vec<f64>> = (0..40).map(|i| vec![f64::from(i % 5) / 5.0; 1 + i as usize % 2]).collect();
        let interval = bootstrap(&groups, 7);
        assert!(interval.low < interval.mean && interval.mean < interval.high);
        assert_eq!(interval, bootstrap(&groups, 7));
        assert_ne!(interval, bootstrap(&groups, 8));
        let same = bootstrap(&vec![vec![0.25]; 9], 1);
        assert_eq!((same.low, same.mean, same.high), (0.25, 0.25, 0.25));
    }
}
