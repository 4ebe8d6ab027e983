//! What decides: which moves make a cause.

use serde::{Deserialize, Serialize};

// `cargo run --release --example why_truth -- DATA --select --seeds 8` finds the first: the middle
// of the widest gap between what moves a thing and what does not. Its cases are in no figure of
// ACCURACY.md. The others were set by hand.

/// From this shift of the mean place on, an edit of the prompt moves the thing, as a share of the
/// image's sides.
pub const SHIFT: f64 = 0.15;

/// From this scatter over the seeds on, the noise moves the thing, likewise. It is [`NEAR`]: a
/// thing that mostly lies nearer to its mean place has stayed there.
pub const SCATTER: f64 = NEAR;

/// A thing within this distance of where it lay has stayed, likewise.
pub const NEAR: f64 = 0.1;

/// Fewest seeds, the run's own among them, in which the thing must be drawn.
pub const FEWEST: usize = 5;

/// Below these odds the map and the picture disagree about where the thing lies: those of a change
/// in the map's region without the word, over those anywhere. Set by hand: 1 is a change that lies
/// anywhere, and of the cases that `--select` asks about none has less than 12.
pub const ODDS: f64 = 2.0;

/// Below this share of the image that changes without the word, there is no picture to agree with:
/// the word did not matter, as `explain` has it.
pub use crate::evidence::LEAST_CHANGED;

/// Below this share of changed pixels in its old and new place, a move of the map is not seen in
/// the picture.
pub const INSIDE: f64 = 0.5;

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CauseThresholds {
    /// As [`SHIFT`].
    pub shift: f64,
    /// As [`SCATTER`].
    pub scatter: f64,
    /// As [`NEAR`].
    pub near: f64,
}

impl Default for CauseThresholds {
    fn default() -> Self {
        Self { shift: SHIFT, scatter: SCATTER, near: NEAR }
    }
}

/// What puts a thing where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Other words of the prompt.
    Words,
    /// The noise that the run set out from.
    Noise,
    /// The model's own habit, or a LoRA's.
    Habit,
}

impl CauseThresholds {
    /// The causes, from the shift of the strongest edit, the scatter over the seeds, and the shift
    /// without the LoRAs.
    pub fn causes(&self, edit: Option<f64>, scatter: f64, without_loras: Option<f64>) -> Vec<Cause> {
        let mut causes = Vec::new();
        causes.extend(edit.is_some_and(|shift| shift >= self.shift).then_some(Cause::Words));
        causes.extend((scatter >= self.scatter).then_some(Cause::Noise));
        let lora = without_loras.is_some_and(|shift| shift >= self.shift);
        causes.extend((lora || causes.is_empty()).then_some(Cause::Habit));
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_what_moves_the_thing_and_else_a_habit() {
        let limits = CauseThresholds { shift: 0.1, scatter: 0.1, near: 0.1 };
        assert_eq!(limits.causes(Some(0.4), 0.02, None), [Cause::Words]);
        assert_eq!(limits.causes(Some(0.4), 0.2, None), [Cause::Words, Cause::Noise]);
        assert_eq!(limits.causes(Some(0.02), 0.2, None), [Cause::Noise]);
        assert_eq!(limits.causes(None, 0.02, None), [Cause::Habit]);
        assert_eq!(limits.causes(Some(0.02), 0.2, Some(0.3)), [Cause::Noise, Cause::Habit]);
        assert_eq!(limits.causes(Some(0.02), 0.02, Some(0.0)), [Cause::Habit]);
    }
}
