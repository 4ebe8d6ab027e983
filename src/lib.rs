//! See where a Stable Diffusion model looked for every word of a prompt.
//!
//! attnmap generates an image, records every cross-attention layer while it does so, and turns the
//! records into maps, pages and evidence. The command line is a thin layer over this crate: all
//! that it does, the library does.
//!
//! # A tour
//!
//! The modules follow the data. A [`checkpoint`] is opened and loaded into a [`pipeline`], and a
//! text becomes a [`prompt`]. The run leaves a [`trace`], and [`heatmap`] makes maps of it.
//! [`facts`] and [`evidence`] judge them. [`render`], [`run`], [`report`] and [`gallery`] show and
//! keep them. [`maker`] does all of it for one prompt.
//!
//! ```
//! use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
//! use attnmap::heatmap::{Aggregate, aggregate};
//! use attnmap::pipeline::{RecordOptions, LoadOptions, Pipeline};
//! use attnmap::trace::Half;
//! use std::ops::ControlFlow;
//!
//! # fn main() -> attnmap::Result<()> {
//! // The checkpoint that is compiled in. `Source::Folder`, `Source::File` and `Source::Hub` open others.
//! let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
//! let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
//!
//! // A run with the checkpoint's own defaults, but few steps. Every cross-attention site is recorded.
//! let mut options = pipeline.default_options();
//! options.steps = 4;
//! let prompt = pipeline.prompt("a red apple to the left of a blue heart", &options)?;
//! let (mut images, _) = pipeline.trace(&prompt, &options, RecordOptions::default(), &mut |_| ControlFlow::Continue(()))?;
//! let run = images.remove(0);
//!
//! // One map per word, on the latent grid.
//! let words = run.trace.words(Half::Conditional);
//! let maps = aggregate(&run.trace, &Aggregate::default(), &words)?;
//! let heart = words.iter().position(|word| word.text == "heart").expect("the prompt has a heart");
//! assert_eq!(maps.word(heart).len(), 16 * 16);
//! # Ok(()) }
//! ```
//!
//! # Where to go on
//!
//! - Watch attention yourself: [`trace::AttentionObserver`]; `examples/custom_observer.rs`.
//! - Make maps of a saved run in another way: [`trace::Trace::load`]; `examples/reaggregate.rs`.
//! - Ask whether a word mattered: [`evidence`].
//! - Errors are one enum, [`Error`]. Its message is one line with the cause and the way out, and
//!   names [arguments](argument).
//!
//! `ARCHITECTURE.md` says why the parts are cut as they are, and `CONTRIBUTING.md` how to add one.

// One `json!` for all that a page holds.
#![recursion_limit = "256"]

pub mod argument;
pub mod attribution;
pub mod checkpoint;
pub mod components;
mod error;
pub mod evidence;
pub mod facts;
mod figures;
pub mod files;
pub mod gallery;
pub mod heatmap;
#[doc(hidden)]
pub mod kernels;
pub mod lens;
pub mod maker;
pub mod model;
pub mod picture;
pub mod pipeline;
pub mod prompt;
pub mod render;
pub mod report;
pub mod run;
pub mod scheduler;
#[cfg(feature = "serve")]
pub mod serve;
mod text;
pub mod trace;
pub mod why;

pub use error::{Error, Result};
pub use figures::percent;
pub use text::{in_quotes, one_line, plural, printable};
