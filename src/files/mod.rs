//! Files and folders: written whole or not at all, cleared of what killed processes left, and read only where they are ordinary files.

mod atomic;
mod input;
mod leftover;

pub(crate) use atomic::{Partial, unless_abandoned};
pub use atomic::{abandon, write_file, write_new_file};
pub use input::{open, read};
pub(crate) use leftover::sweep;
