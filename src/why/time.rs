//! The fourth experiment: from which step on the thing stays, whatever the rest of the noise is.

use super::spot::{Spot, distance};
use serde::{Deserialize, Serialize};

/// Fresh noises per step.
pub const NOISES: usize = 4;

/// Share of [`NOISES`] in which the thing must stay. That share rises over the steps. It is
/// steepest at one half, so that few noises tell the step best there.
const STAYS: f64 = 0.5;

/// The run gone on from its estimate before a step, with fresh noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForkResult {
    /// How many steps the run had made.
    pub step: usize,
    /// Where the thing lies in the end, for each noise.
    pub spots: Vec<Spot>,
}

impl ForkResult {
    /// The share of the noises in which the thing lies within `near` of `place`.
    pub fn stays(&self, place: [f64; 2], near: f64) -> f64 {
        stays(&self.spots, place, near)
    }
}

/// The share of `spots` that lie within `near` of `place`.
pub fn stays(spots: &[Spot], place: [f64; 2], near: f64) -> f64 {
    let there = |spot: &&Spot| spot.place().is_some_and(|other| distance(place, other) <= near);
    spots.iter().filter(there).count() as f64 / spots.len().max(1) as f64
}

/// Whether a share of noises counts as staying.
pub fn is_settled(share: f64) -> bool {
    share >= STAYS
}

/// The steps between which the thing is settled: after so many it does not stay yet, after so many
/// it does. The end of the run settles everything; `before` says whether the thing stays with fresh
/// noise from the beginning.
pub fn bracket(forks: &[(usize, bool)], before: bool, steps: usize) -> (Option<usize>, usize) {
    if before {
        return (None, 0);
    }
    let first = forks.iter().filter(|(_, stays)| *stays).map(|(step, _)| *step).min().unwrap_or(steps);
    let not = forks.iter().filter(|(step, stays)| !stays && *step < first).map(|(step, _)| *step).max();
    (Some(not.unwrap_or(0)), first)
}

/// The step to try next; `None` where it is found, as closely as a 25th of the run. The first is
/// early, as things are settled early and a late step costs little; then the middle of what is
/// left.
pub fn next_step((not, stays): (Option<usize>, usize), steps: usize) -> Option<usize> {
    let not = not?;
    let left = stays - not;
    let first = if left == steps { (steps / 3).max(1) } else { left / 2 };
    (left > (steps / 25).max(1)).then_some(not + first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_found_with_few_runs() {
        for settles in 1..=25 {
            let mut forks = Vec::new();
            while let Some(step) = next_step(bracket(&forks, false, 25), 25) {
                forks.push((step, step >= settles));
                assert!(forks.len() <= 6);
            }
            assert_eq!(bracket(&forks, false, 25).1, settles);
            let runs: f64 = forks.iter().map(|(step, _)| 1.0 - *step as f64 / 25.0).sum();
            assert!(runs <= 3.5, "settled at {settles}: {runs}");
        }
        assert_eq!(bracket(&[], true, 25), (None, 0));
        assert_eq!(next_step((None, 0), 25), None);
        assert_eq!(next_step(bracket(&[], false, 1), 1), None);
        assert_eq!(next_step((Some(4), 6), 50), None);
    }
}
