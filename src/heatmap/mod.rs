//! Heat maps from a trace: which sites, heads and steps go in, resampling to the latent grid,
//! words, layout statistics.
//!
//! Pure functions on plain f32 grids: no files, no terminal. The unit of every map is DAAM's and
//! the trace's: attention probability **summed over the steps**. Divide by [`Heatmaps::steps`] for
//! the mean per step.

mod aggregate;
mod choice;
mod concepts;
mod goca;
mod layout;
mod maps;
mod places;
mod resample;
mod source;

pub use aggregate::{Shares, aggregate, shares};
pub use choice::data::SavedAggregate;
pub use choice::{
    Aggregate, DEFAULT, DEFAULT_OF_CONCEPTS, Encoder, HeadSet, LayerPattern, Measure, NAMED, NamedAggregate, OfTokens,
    QuerySource, Resolution, SiteFilter, StepWindow,
};
pub use goca::{Goca, GocaSites, GocaStep};
pub use layout::{Bounds, Layout, Peak, Point, THRESHOLD};
pub use maps::{Competition, Heatmaps};
pub use places::{ConnectedRegion, Outline, SPECK, otsu, outlines, place_masks, places, region};
pub use resample::{Filter, Resampler};
pub use source::heads_and_steps;
