//! What the maps say of a layout, in numbers: facts of a run, a region's words, a prompt's habits
//! over many seeds.
//!
//! Nothing here runs a network. The facts of a run are part of its `run.json`.

mod compute;
mod coverage;
pub mod expect;
pub mod lexicon;
mod measures;
mod percentile;
mod record;
pub mod region;
pub mod sweep;
mod things;
pub mod versus;

pub(crate) use compute::with_marks;
pub use compute::{Context, bindings, facts, of_trace};
pub use coverage::{Coverage, Covered};
pub use measures::{APART, NEAR, NEGLECT, contrast, overlap, spread, symmetric_kl};
pub(crate) use percentile::percentile;
pub use record::{Distance, Facts, Leakage, Placed, Relation, Stated, WordFacts};
pub(crate) use things::of_its_things;
