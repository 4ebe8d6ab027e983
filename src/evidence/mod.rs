//! Whether a look mattered: ablation, counterfactuals, faithfulness, accuracy against masks, and the facts of a layout.
//!
//! Everything here works on plain f32 grids and on networks in memory, without a terminal; only [`record`] touches files.

pub mod accuracy;
pub mod causal;
pub mod facts;
pub mod lexicon;
pub mod record;
pub mod region;
pub mod scenes;
pub mod scores;
pub mod shapley;
pub mod sweep;
pub mod verdict;
