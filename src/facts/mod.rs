//! What the maps say of a layout, in numbers: facts of a run, a region's words, a prompt's habits
//! over many seeds.
//!
//! Nothing here runs a network. The facts of a run are part of its `run.json`.

mod compute;
mod coverage;
pub mod expect;
pub mod lexicon;
mod percentile;
pub mod region;
pub mod sweep;
mod things;
pub mod versus;

pub use compute::{
    APART, Context, Distance, Facts, Leakage, NEAR, NEGLECT, Placed, Relation, Stated, WordFacts, bindings, contrast,
    facts, of_trace, overlap, spread, symmetric_kl,
};
pub use coverage::{Coverage, Covered};
pub(crate) use percentile::percentile;
pub(crate) use things::of_its_things;
