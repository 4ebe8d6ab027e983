//! What a user expects of an image, and whether its maps agree: `frog right of apple, apple@left,
//! no fox`.
//!
//! [`Expectations`] is read from a text by its `FromStr`, in the grammar of `docs/EXPECTATIONS.md`.
//! Each expectation is met or not, with the figure that decides. The maps of the run decide of
//! places, a look at the finished image of presence.

mod grammar;
mod judge;
mod kind;

pub use judge::{INSIDE, Measurement, Outcome, Quantity, SEEN, Sighting};
pub use kind::{CENTRE, Expectations};
