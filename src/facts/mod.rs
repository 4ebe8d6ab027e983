//! What the maps say of a layout, in numbers: facts of a run, a region's words, a prompt's habits over many seeds.
//!
//! Nothing here runs a network. The facts of a run are part of its `run.json`.

mod compute;
pub mod lexicon;
pub mod region;
pub mod sweep;

pub use compute::{
    APART, Context, Distance, Facts, Leakage, Lies, NEAR, NEGLECT, Placed, Stated, WordFacts, bindings, facts, label,
    of_trace, overlap, spread, symmetric_kl,
};

/// Linearly interpolated percentile of sorted values (numpy's default); NaN of none.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let (below, part) = (at.floor() as usize, at.fract());
    sorted[below] + part * (sorted[(below + 1).min(last)] - sorted[below])
}
