//! All integration tests, in one binary: one file a module.

mod heatmap;
mod model;
mod model_shapes;
mod scheduler;
mod trace;
