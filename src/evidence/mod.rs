//! Whether a look mattered: ablation, counterfactuals, faithfulness, sanity, and accuracy against
//! masks.
//!
//! Everything here works on plain f32 grids and on networks in memory, without a terminal. Only
//! [`explain`], [`record`] and [`redrawn`] touch files, those of a run's folder.

pub mod accuracy;
pub mod asked;
pub mod causal;
pub mod causal_pictures;
pub mod cause;
mod classes;
pub mod data_set;
pub mod explain;
mod figure;
pub mod record;
pub mod redrawn;
pub mod sanity;
pub mod scene;
pub mod scene_folder;
pub mod scenes;
pub mod scores;
pub mod shapley;
pub mod verdict;
