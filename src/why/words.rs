//! The second experiment: how far an edit of the prompt moves the thing, over the same seeds.

use super::edits::EditKind;
use super::spot::{SeedSpot, distance, mean};
use serde::{Deserialize, Serialize};

/// Where the thing lies when the prompt is edited, and how far that is from where it lay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The word or phrase.
    pub of: String,
    /// What was done with it.
    pub change: EditKind,
    /// What it became, where it was turned round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becomes: Option<String>,
    /// Each tried seed with where the thing lies then.
    pub spots: Vec<SeedSpot>,
    /// The share of its old and new region that changed in the picture of the run's own seed, where
    /// the map says that it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels: Option<f64>,
}

/// What an edit does to a thing, over the seeds that were tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// How far the mean place moves, in shares of the image's sides, with what chance adds on
    /// average taken off. It is absent where the thing is not drawn in both images of any seed.
    pub shift: Option<f64>,
    /// The mean move across (to the right) and down.
    pub by: Option<[f64; 2]>,
    /// The standard error of the move; absent for one seed.
    pub error: Option<f64>,
    /// Share of the seeds in which the thing was drawn, and is not any more.
    pub vanishes: f64,
    /// Seeds in which the thing was drawn before.
    pub seeds: usize,
}

impl Effect {
    /// What the edit does, against the spots `base` of the unchanged prompt.
    pub fn moved(&self, base: &[SeedSpot]) -> Moved {
        moved(&self.spots, base)
    }

    /// As shown.
    pub fn in_words(&self) -> String {
        self.change.in_words(&self.of, self.becomes.as_deref())
    }
}

/// How far `spots` lie from those of `base` with the same seeds.
pub fn moved(spots: &[SeedSpot], base: &[SeedSpot]) -> Moved {
    let before = |seed: u64| base.iter().find(|spot| spot.seed == seed).and_then(|spot| spot.spot.place());
    let pairs: Vec<_> = spots.iter().filter_map(|spot| Some((before(spot.seed)?, spot.spot.place()))).collect();
    let moves: Vec<[f64; 2]> =
        pairs.iter().filter_map(|(from, to)| to.map(|to| [to[0] - from[0], to[1] - from[1]])).collect();
    let by = mean(&moves);
    let count = moves.len() as f64;
    // The variance of the mean of both axes together.
    let variance = by
        .filter(|_| moves.len() > 1)
        .map(|by| moves.iter().map(|&one| distance(one, by).powi(2)).sum::<f64>() / (count - 1.0) / count);
    // A mean of moves about nothing still has a length: its square is the variance on average.
    let shift = by.map(|by| (distance(by, [0.0; 2]).powi(2) - variance.unwrap_or(0.0)).max(0.0).sqrt());
    let vanished = pairs.iter().filter(|(_, to)| to.is_none()).count();
    let vanishes = if pairs.is_empty() { 0.0 } else { vanished as f64 / pairs.len() as f64 };
    Moved { shift, by, error: variance.map(f64::sqrt), vanishes, seeds: pairs.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heatmap::Point;
    use crate::why::spot::Spot;

    fn spots(places: &[(u64, f32, bool)]) -> Vec<SeedSpot> {
        let spot = |&(seed, x, drawn): &(u64, f32, bool)| SeedSpot {
            seed,
            spot: Spot { centre: Some(Point { x, y: 0.5 }), bounds: None, drawn },
        };
        places.iter().map(spot).collect()
    }

    #[test]
    fn moves_are_told_over_the_same_seeds() {
        let base = spots(&[(1, 0.2, true), (2, 0.3, true), (3, 0.2, true), (4, 0.9, false), (5, 0.1, true)]);
        let edited = spots(&[(1, 0.7, true), (2, 0.8, true), (3, 0.4, false), (4, 0.1, true)]);
        let found = moved(&edited, &base);
        assert!((found.shift.unwrap() - 0.5).abs() < 1e-6 && found.error.unwrap() < 1e-6, "{found:?}");
        assert_eq!((found.seeds, (3.0 * found.vanishes).round()), (3, 1.0));
    }

    #[test]
    fn chance_is_taken_off_a_shift() {
        let base = spots(&[(1, 0.5, true), (2, 0.5, true)]);
        let edited = spots(&[(1, 0.6, true), (2, 0.4, true)]);
        assert_eq!(moved(&edited, &base).shift, Some(0.0));
        let none = moved(&spots(&[(1, 0.6, false)]), &base);
        assert_eq!((none.shift, none.vanishes), (None, 1.0));
    }
}
