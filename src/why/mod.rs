//! Why a thing lies where it does: experiments on the checkpoint that made a run, and what they say
//! together.
//!
//! A [`Question`] is asked of a run. Its experiments draw the run again with other noise
//! ([`noise`]), another prompt ([`words`], [`edits`]) or no LoRA ([`habit`]). The last has fresh
//! noise from a later step on ([`time`]). [`plan`] chooses the next one within a budget of runs,
//! [`record`] keeps what was found after each, and [`verdict`] says what all of it means.

pub mod bench;
pub mod edits;
pub mod habit;
pub mod noise;
pub mod pictures;
pub mod pixels;
pub mod plan;
mod question;
pub mod record;
pub mod spot;
pub mod thresholds;
pub mod time;
pub mod verdict;
pub mod words;

pub use question::{Question, Subject};
pub use record::Answer;
pub use thresholds::Cause;
