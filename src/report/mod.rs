//! The interactive page of a run: one self-contained HTML file that needs neither a network nor a
//! server.
//!
//! [`ReportData`] is everything the page shows, as plain values; [`page`] turns it into HTML. Maps
//! travel as 8-bit planes, each with its own scale ([`pack`]), and are decoded, averaged and
//! upsampled in the page.

mod align;
mod assets;
mod causal;
mod channels;
mod compare;
mod data;
mod differences;
mod faults;
mod html;
mod links;
pub mod pack;
mod prompt;
pub mod queries;
mod runs;
mod settings;
mod source;
mod start;
mod why;

pub use align::{Match, Pair, align};
#[cfg(feature = "serve")]
pub(crate) use assets::{served_script, served_style};
pub use compare::{MOST_RUNS, compare_page, compare_runs};
pub use data::{
    CausalMap, ImageData, LayoutRow, Negative, PageToken, PageTokenKind, PageWord, PromptMatrix, ReportData, RunMaps,
    Segment, SelfAttentionData, SiteData, StartPicture, StepImage, SweepLink, Verdict, WhyAnswer, Without,
};
pub use differences::differences;
pub use faults::faults;
#[cfg(feature = "serve")]
pub(crate) use html::{data_url, served_document};
pub use html::{embed_json, page};
pub(crate) use html::{gallery_document, sweep_document};
pub use links::relative_address;
pub use runs::{RUNS_FILE, write_runs};
pub use source::{FILE as PAGE, check_room, from_run, from_run_as, write, write_as};
