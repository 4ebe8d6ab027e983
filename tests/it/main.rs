//! All integration tests, in one binary: one file a module.

mod heatmap;
mod model;
mod scheduler;
mod trace;
