//! Files and folders that a reader never sees half-written: everything is made beside its place and
//! renamed into it.

use super::leftover;
use super::remove::remove;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

/// Everything half-made that is on disk now; what [`abandon`] removes.
static PARTIALS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Held for reading while something is written or renamed, for writing while everything is
/// abandoned.
static GATE: RwLock<()> = RwLock::new(());

/// Runs `body`, which renames what is made, with no [`abandon`] in between.
pub(crate) fn unless_abandoned<T>(body: impl FnOnce() -> T) -> T {
    let _open = GATE.read().unwrap_or_else(PoisonError::into_inner);
    body()
}

/// Writes one file whole or not at all: `body` writes into a hidden sibling, which then takes the
/// place of `path`. The sibling is removed when anything fails.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn write_file(path: &Path, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let partial = Partial::beside(path);
    let _open = GATE.read().unwrap_or_else(PoisonError::into_inner);
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 18, File::create_new(&partial.0)?);
        body(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        fs::rename(&partial.0, path)
    };
    write().map_err(Error::io(path))
}

/// Checks that files can be made in `folder`, before long work whose outcome goes there.
///
/// # Errors
/// [`Error::Io`] naming `folder`.
pub fn check_writable(folder: &Path) -> Result<()> {
    let partial = Partial::beside(&folder.join("room"));
    let _open = GATE.read().unwrap_or_else(PoisonError::into_inner);
    File::create_new(&partial.0).map(drop).map_err(Error::io(folder))
}

/// Writes `value` as indented JSON with a line end, as [`write_file`] does.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_file(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        file.write_all(b"\n")
    })
}

/// As [`write_file`], unless there is a file at `path` already: the first of several writers wins.
/// Returns whether it was this one.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn write_new_file(path: &Path, bytes: &[u8]) -> Result<bool> {
    let partial = Partial::beside(path);
    write_file(&partial.0, |file| file.write_all(bytes))?;
    let _open = GATE.read().unwrap_or_else(PoisonError::into_inner);
    match fs::hard_link(&partial.0, path) {
        Ok(()) => Ok(true),
        Err(_) if path.exists() => Ok(false),
        // A file system without second names: whoever renames last wins, in the moment between the
        // look and the rename.
        Err(_) => fs::rename(&partial.0, path).map(|()| true).map_err(Error::io(path)),
    }
}

/// Removes everything half-made and calls `exit`, during which no file is begun or renamed. It is
/// for an interrupt handler, which runs beside the thread that writes. It waits for the file being
/// written.
pub fn abandon<T>(exit: impl FnOnce() -> T) -> T {
    let _closed = GATE.write().unwrap_or_else(PoisonError::into_inner);
    let partials = PARTIALS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for partial in partials {
        // A folder may be made in it while it is being removed; files are not.
        for _ in 0..3 {
            if remove(&partial).is_ok() {
                break;
            }
        }
    }
    exit()
}

/// A file or folder that is removed on drop, if it is still there.
#[derive(Debug)]
pub(crate) struct Partial(PathBuf);

impl Partial {
    /// A hidden name beside `path` that nobody else uses.
    pub fn beside(path: &Path) -> Self {
        let path = leftover::hidden_name(path);
        PARTIALS.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        Self(path)
    }

    /// The hidden place.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `error` about a file of this folder, as if the folder were `target`: hidden names mean
    /// nothing to the user.
    pub fn in_place(&self, error: Error, target: &Path) -> Error {
        match error {
            Error::Io { path, source } => {
                let path = path.strip_prefix(&self.0).map(|rest| target.join(rest)).unwrap_or(path);
                Error::Io { path, source }
            }
            other => other,
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing is left to do when cleaning up fails: the first error is the one to report.
        remove(&self.0).ok();
        PARTIALS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_file_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_file(&path, |file| file.write_all(b"old")).unwrap();
        let error =
            write_file(&path, |file| file.write_all(b"new").and(Err(io::Error::other("disk full")))).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: disk full", path.display()));
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"old".to_vec(), vec!["a".to_string()]));
    }
}
