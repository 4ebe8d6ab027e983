//! The first experiment: fresh noise, and the run's own noise mirrored.

use super::bench::{Bench, Drawn, From};
use super::spot::{SeedSpot, Spot, distance, scatter};
use crate::Result;
use crate::heatmap::Bounds;
use crate::prompt::Prompt;
use crate::scheduler::TorchGenerator;
use crate::trace::Grid;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::ops::{ControlFlow, Range};

/// How many fresh seeds are drawn.
pub const SEEDS: usize = 8;

/// A mirrored place must lie this far from the thing's own, in shares of the image's sides. Else it
/// cannot be told whether the thing went there.
pub const FAR: f64 = 0.1;

/// What is done with the run's own noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mirroring {
    /// All of it, left to right.
    LeftToRight,
    /// All of it, top to bottom.
    TopToBottom,
    /// The patch under the thing changes places with the patch as far to the other side.
    PatchAcross,
    /// The same, as far to the other end.
    PatchDown,
}

/// The run with its noise mirrored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mirror {
    /// How.
    pub how: Mirroring,
    /// Where the thing lies then.
    pub spot: Spot,
    /// How far it went towards the mirrored place: 0 it stayed, 1 it is there. Absent where the two
    /// places are too near to each other.
    pub follows: Option<f64>,
    /// The share of its old and new region that changed in the picture, where the map says that it
    /// moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels: Option<f64>,
}

impl Mirroring {
    /// As shown.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::LeftToRight => "noise mirrored left to right",
            Self::TopToBottom => "noise mirrored top to bottom",
            Self::PatchAcross => "noise under it swapped with the other side's",
            Self::PatchDown => "noise under it swapped with the other end's",
        }
    }

    /// The place that a thing at `place` would follow to.
    fn mirrored(self, [x, y]: [f64; 2]) -> [f64; 2] {
        match self {
            Self::LeftToRight | Self::PatchAcross => [1.0 - x, y],
            Self::TopToBottom | Self::PatchDown => [x, 1.0 - y],
        }
    }

    /// How far a thing that lay at `before` and lies at `after` followed.
    pub fn follows(self, before: [f64; 2], after: [f64; 2]) -> Option<f64> {
        let there = self.mirrored(before);
        let whole = distance(before, there);
        let along = (0..2).map(|axis| (after[axis] - before[axis]) * (there[axis] - before[axis])).sum::<f64>();
        (whole >= FAR).then(|| along / (whole * whole))
    }

    /// `noise`, `[channels, height, width]` in rows, changed so; `bounds` is the thing's box.
    fn apply(self, noise: &[f32], grid: Grid, bounds: Bounds) -> Vec<f32> {
        let Grid { height, width } = grid;
        let source = |row: usize, column: usize| match self {
            Self::LeftToRight => (row, width - 1 - column),
            Self::TopToBottom => (height - 1 - row, column),
            Self::PatchAcross => {
                let (rows, columns) =
                    (cells(bounds.top, bounds.bottom, height), cells(bounds.left, bounds.right, width));
                (row, if rows.contains(&row) { swapped(column, columns, width) } else { column })
            }
            Self::PatchDown => {
                let (rows, columns) =
                    (cells(bounds.top, bounds.bottom, height), cells(bounds.left, bounds.right, width));
                (if columns.contains(&column) { swapped(row, rows, height) } else { row }, column)
            }
        };
        let place = |at: usize| {
            let (channel, cell) = (at / grid.cells(), at % grid.cells());
            let (row, column) = source(cell / width, cell % width);
            noise[channel * grid.cells() + row * width + column]
        };
        (0..noise.len()).map(place).collect()
    }
}

/// The cells of an axis of `count` cells that lie between two shares of it.
fn cells(from: f32, to: f32, count: usize) -> Range<usize> {
    let at = |share: f32| ((share * count as f32).round().max(0.0) as usize).min(count);
    at(from)..at(to)
}

/// The index that changes places with `index` when `range` of an axis of `count` cells is swapped
/// with its mirror place.
fn swapped(index: usize, range: Range<usize>, count: usize) -> usize {
    let other = count - range.end..count - range.start;
    if range.contains(&index) {
        other.start + index - range.start
    } else if other.contains(&index) {
        range.start + index - other.start
    } else {
        index
    }
}

/// Whether a box and its mirror place have no cell in common along an axis.
fn apart(from: f32, to: f32) -> bool {
    to <= 0.5 || from >= 0.5
}

/// What can be done with the noise of a run whose thing lies at `spot`. Both mirrorings can, and
/// the patch where it and its mirror place are apart.
pub fn mirrorings(spot: &Spot) -> Vec<Mirroring> {
    let mut all = vec![Mirroring::LeftToRight, Mirroring::TopToBottom];
    if let Some(bounds) = spot.bounds {
        if apart(bounds.left, bounds.right) {
            all.push(Mirroring::PatchAcross);
        } else if apart(bounds.top, bounds.bottom) {
            all.push(Mirroring::PatchDown);
        }
    }
    all
}

/// The run with its own noise changed in each of these ways.
///
/// # Errors
/// As [`Bench::draw`].
pub fn mirrored(
    bench: &Bench,
    spot: &Spot,
    hows: &[Mirroring],
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Drawn>> {
    let seed = bench.seed();
    let grid = bench.pipeline.latent_grid(&bench.options);
    let channels = bench.pipeline.latent_channels();
    let noise = TorchGenerator::new(seed).randn(&[1, channels, grid.height, grid.width]);
    let whole = Bounds { left: 0.0, top: 0.0, right: 1.0, bottom: 1.0 };
    let all: Vec<f32> = hows.iter().flat_map(|how| how.apply(&noise, grid, spot.bounds.unwrap_or(whole))).collect();
    let all = Tensor::from_vec(all, (hows.len(), channels, grid.height, grid.width), &Device::Cpu)?;
    let all = all.to_dtype(DType::F32)?;
    bench.draw(&bench.prompt, &vec![seed; hows.len()], From::Noise(&all), progress)
}

/// The run's prompt with the noise of other seeds.
///
/// # Errors
/// As [`Bench::draw`].
pub fn fresh(
    bench: &Bench,
    prompt: &Prompt,
    seeds: &[u64],
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Drawn>> {
    bench.draw(prompt, seeds, From::Seed, progress)
}

/// The seeds of fresh noise for a run with `seed`: those that follow it. Only the low 32 bits of a
/// seed count.
pub fn fresh_seeds(seed: u64, count: usize) -> Vec<u64> {
    (1..=count as u64).map(|next| u64::from((seed as u32).wrapping_add(next as u32))).collect()
}

/// How far the thing scatters over seeds, as a share of the image's sides, and in how many of them
/// it is drawn.
pub fn spread(spots: &[SeedSpot]) -> (Option<f64>, usize) {
    let places: Vec<[f64; 2]> = spots.iter().filter_map(|spot| spot.spot.place()).collect();
    (scatter(&places), places.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_mirrored_and_patches_change_places() {
        let grid = Grid::new(2, 4);
        let noise: Vec<f32> = (0..8).map(|value| value as f32).collect();
        let bounds = Bounds { left: 0.0, top: 0.0, right: 0.5, bottom: 0.5 };
        let of = |how: Mirroring| how.apply(&noise, grid, bounds);
        assert_eq!(of(Mirroring::LeftToRight), [3.0, 2.0, 1.0, 0.0, 7.0, 6.0, 5.0, 4.0]);
        assert_eq!(of(Mirroring::TopToBottom), [4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(of(Mirroring::PatchAcross), [2.0, 3.0, 0.0, 1.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(of(Mirroring::PatchDown), [4.0, 5.0, 2.0, 3.0, 0.0, 1.0, 6.0, 7.0]);
    }

    #[test]
    fn following_is_the_share_of_the_way() {
        let how = Mirroring::LeftToRight;
        let follows = |before, after| how.follows(before, after).map(|share| (100.0 * share).round() / 100.0);
        assert_eq!(follows([0.2, 0.5], [0.8, 0.5]), Some(1.0));
        assert_eq!(follows([0.2, 0.5], [0.2, 0.9]), Some(0.0));
        assert_eq!(follows([0.2, 0.5], [0.5, 0.5]), Some(0.5));
        assert_eq!(follows([0.48, 0.5], [0.5, 0.5]), None);
    }

    #[test]
    fn patches_that_meet_their_mirror_place_stay() {
        let spot = |left: f32, right: f32, top: f32, bottom: f32| Spot {
            centre: None,
            bounds: Some(Bounds { left, top, right, bottom }),
            drawn: true,
        };
        assert_eq!(mirrorings(&spot(0.0, 0.4, 0.2, 0.8)).last(), Some(&Mirroring::PatchAcross));
        assert_eq!(mirrorings(&spot(0.2, 0.8, 0.6, 1.0)).last(), Some(&Mirroring::PatchDown));
        assert_eq!(mirrorings(&spot(0.2, 0.8, 0.2, 0.8)).len(), 2);
    }

    #[test]
    fn fresh_seeds_are_others() {
        assert_eq!(fresh_seeds(3, 3), [4, 5, 6]);
        assert_eq!(fresh_seeds(u64::from(u32::MAX), 2), [0, 1]);
    }
}
