//! Files and folders that are written whole or not at all, and what killed processes left of them.

mod atomic;
mod leftover;

pub(crate) use atomic::{Partial, unless_abandoned};
pub use atomic::{abandon, write_file, write_new_file};
pub(crate) use leftover::sweep;
