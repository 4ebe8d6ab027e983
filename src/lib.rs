//! See where a Stable Diffusion model looked for every word of a prompt.

pub mod checkpoint;
mod error;
pub mod evidence;
pub mod facts;
pub mod files;
pub mod gallery;
pub mod heatmap;
pub mod kernels;
pub mod model;
pub mod picture;
pub mod pipeline;
pub mod prompt;
pub mod render;
pub mod report;
pub mod run;
pub mod scheduler;
pub mod trace;

pub use error::{Error, Result, in_quotes, printable};
