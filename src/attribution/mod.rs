//! Which words does what is drawn in a place depend on: attribution of a number to the prompt's
//! tokens.
//!
//! The number is the [`AttributionTarget`]: the squared difference between the conditional and the
//! unconditional prediction over a region. What it is attributed to are the [`Inputs`]: the text
//! encoders' states, or their token embeddings. [`attribute`](fn@attribute) does it by one of four
//! [`Method`]s; `docs/BEYOND.md` has the formulas, and `ACCURACY.md` how often each is right.

mod attribute;
mod inputs;
mod memory;
mod method;
mod of_run;
mod quadrature;
mod record;
mod target;

pub use attribute::{Attribution, AttributionQuestion, COMPLETE, MOST_POINTS, POINTS, Scored, attribute};
pub use inputs::{Inputs, Owner};
pub use memory::GradientPlan;
pub use method::{Input, Method};
pub use of_run::{RemadeRun, beside, check_run, seen, word_place};
pub use quadrature::gauss_legendre;
pub use record::{ATTRIBUTION, AttributedWord, Attributions, PlaceMask, RegionAttribution, RegionMaps, rows};
pub use target::AttributionTarget;
