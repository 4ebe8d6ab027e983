//! Whether a look mattered: ablation, counterfactuals, faithfulness, sanity, and accuracy against
//! masks.
//!
//! Everything here works on plain f32 grids and on networks in memory, without a terminal. Only
//! what explains or asks a run touches files, those of the run's folder.

pub mod accuracy;
pub mod asked;
mod causal;
mod causal_pictures;
pub mod cause;
mod explain;
mod figure;
mod judged_again;
mod merge;
mod pixels;
mod record;
mod redrawn;
mod replay;
mod sanity;
mod scores;
pub mod shapley;
mod verdict;

pub use causal::{Change, Cut, Row, Trajectory, changes, context, replay, spread_steps};
pub use explain::{Ask, Cost, Explanation, Redraw};
pub use figure::Figure;
pub use judged_again::judge_again;
pub(crate) use pixels::changed_pixels;
pub use pixels::{CHANGED, changed_share};
pub use record::{Evidence, FORMAT_VERSION, ShapleyOfWords};
pub use redrawn::{CAUSAL, Counterfactual, Dead, Picture, Reweight, Reweighted, without};
pub use replay::{check_checkpoint, options_of};
pub(crate) use replay::{check_image, check_replay, remade, shown};
pub use sanity::{Level, Likeness, Sanity};
pub use scores::{Agreement, edges};
pub use verdict::{Controls, LEAST_CHANGED, Mattered, SHOWN, Shows, Thresholds, WordEvidence, judge};
