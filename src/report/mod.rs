//! The interactive page of a run: one self-contained HTML file that needs neither a network nor a server.
//!
//! [`ReportData`] is everything the page shows, as plain values; [`page`] turns it into HTML. Maps travel as 8-bit
//! planes, each with its own scale ([`pack`]), and are decoded, averaged and upsampled in the page.

mod assets;
mod channels;
mod compare;
mod data;
mod differences;
mod html;
pub mod pack;
mod source;
mod start;

pub use compare::{Match, Pair, align, compare_page};
pub use data::{
    ImageData, LayoutRow, Negative, Official, PromptMatrix, ReportData, Segment, SiteData, Start, StepImage, TiesData,
    TokenInfo, TokenKind, Verdict, WordInfo,
};
pub use differences::differences;
pub(crate) use html::gallery_document;
pub use html::{embed_json, page};
pub use source::{Parts, from_run, gather, write, write_as};
