//! A prompt's habits over many seeds: where each word lands, how often it is neglected, how often a
//! stated relation fails.

mod collector;
mod habit;
mod record;

pub use collector::Collector;
pub use habit::Habit;
pub use record::{ExpectedSweep, FILE, StatedSweep, StatedWhereDrawn, Sweep, SweepInfo, WordSweep};
