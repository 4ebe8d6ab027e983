//! Whether a look mattered: ablation, counterfactuals, faithfulness, accuracy against masks, and the facts of a layout.
//!
//! Everything here works on plain f32 grids and on networks in memory: no files, no terminal.

pub mod accuracy;
pub mod facts;
pub mod lexicon;
pub mod region;
pub mod scenes;
pub mod scores;
pub mod shapley;
