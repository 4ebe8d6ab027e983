//! What a gallery's folder holds, and whether a folder is one.

use super::batch::is_settled;
use super::cell::Cell;
use super::cell_files::{CellFacts, FILE};
use crate::argument::OUT;
use crate::files;
use crate::run::RunRecord;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

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

/// Whether the gallery in `folder` has `cell`, whole.
pub(super) fn is_finished(folder: &Path, cell: &Cell) -> bool {
    whole(&folder.join(CELLS).join(cell.name())).is_some()
}

/// What is known of the cell in the folder `place`, where it is whole: its files can be read, and
/// its picture ends as pictures do.
pub(super) fn whole(place: &Path) -> Option<(CellFacts, RunRecord)> {
    let facts = serde_json::from_slice(&files::read(&place.join(FILE)).ok()?).ok()?;
    let record = RunRecord::read(place).ok()?;
    ends(&place.join("image.png")).then_some((facts, record))
}

/// Whether the PNG file at `path` has its end.
fn ends(path: &Path) -> bool {
    const END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-(END.len() as i64)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(tail)
    };
    tail().is_ok_and(|tail| tail == END)
}

/// The folders of cells in the gallery in `folder` that are damaged. The page leaves them out, and
/// they are made again with the gallery.
pub fn damaged_cells(folder: &Path) -> Vec<PathBuf> {
    let cells = std::fs::read_dir(folder.join(CELLS)).into_iter().flatten().flatten().map(|entry| entry.path());
    let shown = |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    let mut damaged: Vec<PathBuf> =
        cells.filter(shown).filter(|path| path.join(FILE).is_file() && whole(path).is_none()).collect();
    damaged.sort();
    damaged
}
