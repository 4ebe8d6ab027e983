//! Files and folders: written whole or not at all, where they may be, cleared of what killed processes left, and read only where they are
//! ordinary files.

mod atomic;
mod input;
mod leftover;
mod own;
mod remove;
mod staging;
mod target;

pub(crate) use atomic::Partial;
pub use atomic::{abandon, write_file, write_json, write_new_file};
pub use input::{open, read};
pub(crate) use leftover::sweep;
pub(crate) use own::page_mark;
pub use own::{MARK, is_own};
pub use staging::{Staging, link};
pub use target::{Kind, Target, check_own};
