//! What a gallery's folder holds, and whether a folder is one.

use super::batch::is_settled;
use super::cell::Cell;
use super::cell_files::FILE;
use crate::argument::OUT;
use crate::files;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The page.
pub(super) const INDEX: &str = "index.html";
/// The folder of finished cells.
pub(super) const CELLS: &str = "cells";
/// The folder of cells that could not be made.
pub(super) const FAILURES: &str = "failures";
/// The folder of how long each cell took; nothing else in a gallery depends on the clock.
pub(super) const TIMINGS: &str = "timings";
/// What the hidden folder is named after in which a process makes its cells.
pub(super) const MAKING: &str = "making";

/// A cell that could not be made, as `failures/NAME.json` records it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What was asked for.
    pub cell: Cell,
    /// Why it could not be made.
    pub error: String,
}

/// Whether `folder` may become a gallery or is one: nothing is there, or nothing but hidden files,
/// or what a gallery keeps.
///
/// # Errors
/// [`Error::Argument`] on `out` when it is something else, or has a page that attnmap did not
/// write.
pub fn check_folder(folder: &Path) -> Result<()> {
    let refuse = |what: &str| Err(Error::argument(OUT, format!("{} {what}; choose another", folder.display())));
    if folder.exists() && !folder.is_dir() {
        return refuse("is there and no folder");
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if is_gallery(folder) || names.iter().all(|name| name.starts_with('.')) {
        files::check_own(&folder.join(INDEX), OUT)
    } else {
        refuse("is a folder with other things in it")
    }
}

/// Whether `folder` is a gallery: it was begun as one, or has a cell.
pub(super) fn is_gallery(folder: &Path) -> bool {
    let cells = std::fs::read_dir(folder.join(CELLS)).into_iter().flatten().flatten();
    is_settled(folder) || cells.map(|cell| cell.path()).any(|cell| cell.join(FILE).is_file())
}

/// Whether the gallery in `folder` has `cell`.
pub(super) fn is_finished(folder: &Path, cell: &Cell) -> bool {
    folder.join(CELLS).join(cell.name()).join(FILE).is_file()
}
