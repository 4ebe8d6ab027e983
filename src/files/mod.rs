//! Files and folders: written whole or not at all, and only where they may be. What killed
//! processes left is removed, and only ordinary files are read.

mod atomic;
mod input;
mod leftover;
mod names;
mod own;
mod remove;
mod staging;
mod target;
pub(crate) mod tensors;
mod turn;

pub(crate) use atomic::{Partial, unless_abandoned};
pub use atomic::{abandon, check_writable, write_file, write_json, write_new_file};
pub use input::{lines, open, read, text};
pub(crate) use leftover::sweep;
pub(crate) use names::{any_as_shown, as_shown};
pub(crate) use own::page_mark;
pub use own::{Form, MARK, is_own};
pub(crate) use own::{has_fields, has_metadata};
pub use staging::{Staging, link};
pub(crate) use target::not_own;
pub use target::{Kind, Target, check_own, check_part, check_place, make_folder_of};
pub(crate) use turn::Turn;
