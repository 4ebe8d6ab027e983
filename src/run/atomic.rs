//! Files and folders that a reader never sees half-written: everything is made beside its place and renamed into it.

use super::leftover;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

/// Everything half-made that is on disk now; what [`abandon`] removes.
static PARTIALS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Held for reading while something is written or renamed, for writing while everything is abandoned.
static GATE: RwLock<()> = RwLock::new(());

/// Writes one file whole or not at all: `body` writes into a hidden sibling, which then takes the place of `path`. The
/// sibling is removed when anything fails.
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

/// As [`write_file`], unless there is a file at `path` already: the first of several writers wins. Returns whether it was this one.
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
        // A file system without second names: whoever renames last wins, in the moment between the look and the rename.
        Err(_) => fs::rename(&partial.0, path).map(|()| true).map_err(Error::io(path)),
    }
}

/// A folder that is filled beside its place and renamed into it by [`commit`](Self::commit); dropped before that, it is
/// removed with everything in it.
#[derive(Debug)]
pub struct Staging {
    partial: Partial,
    target: PathBuf,
    force: bool,
}

impl Staging {
    /// Makes an empty folder beside `target` (and the folders above it); what killed processes left half made there is removed. An
    /// existing run at `target` is replaced only with
    /// `force`; anything that is there and no run is never replaced.
    ///
    /// # Errors
    /// [`Error::Option`] on `--out` when `target` may not be replaced; [`Error::Io`] when nothing can be written there.
    pub fn new(target: &Path, force: bool) -> Result<Self> {
        check_target(target, force)?;
        if let Some(folder) = target.parent() {
            leftover::sweep(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        }
        let partial = Partial::beside(target);
        let made = target.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::create_dir(&partial.0));
        made.map_err(Error::io(target))?;
        Ok(Self { partial, target: target.to_path_buf(), force })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        &self.partial.0
    }

    /// `error` with the place where a file would have been instead of the hidden one where it was being made.
    pub fn in_place(&self, error: Error) -> Error {
        self.partial.in_place(error, &self.target)
    }

    /// Where the folder will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Puts the folder in its place. A run that it replaces is moved aside first and comes back if that fails.
    ///
    /// # Errors
    /// [`Error::Option`] when somebody else made the target meanwhile and `force` was not given; [`Error::Io`] naming the
    /// target when it cannot be put there.
    pub fn commit(self) -> Result<PathBuf> {
        check_target(&self.target, self.force)?;
        let _open = GATE.read().unwrap_or_else(PoisonError::into_inner);
        let (new, target) = (&self.partial.0, &self.target);
        let rename = || {
            if fs::symlink_metadata(target).is_err() {
                return fs::rename(new, target);
            }
            let old = Partial::beside(target);
            fs::rename(target, &old.0)?;
            fs::rename(new, target).inspect_err(|_| {
                fs::rename(&old.0, target).ok();
            })
        };
        rename().map_err(Error::io(target))?;
        Ok(self.target.clone())
    }
}

/// Removes everything half-made and calls `exit`, during which no file is begun or renamed any more: for an interrupt
/// handler, which runs beside the thread that writes. It waits for the file being written.
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

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// Whether a run folder may be made at `target`: nothing is there, or an empty folder, or (with `force`) another run.
///
/// # Errors
/// [`Error::Option`] on `--out` saying why not.
pub fn check_target(target: &Path, force: bool) -> Result<()> {
    let shown = target.display();
    if target.file_name().is_none() {
        return Err(Error::option("--out", format!("{shown} is no name for a new folder")));
    }
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(target)(error)),
        Ok(found) if !found.is_dir() => {
            Err(Error::option("--out", format!("{shown} is there and no folder; choose another")))
        }
        Ok(_) if fs::read_dir(target).is_ok_and(|mut inside| inside.next().is_none()) => Ok(()),
        Ok(_) if !target.join(super::record::FILE).is_file() => {
            Err(Error::option("--out", format!("{shown} is a folder with other things in it; choose another")))
        }
        Ok(_) if !force => Err(Error::option(
            "--out",
            format!("{shown} holds a run already; --force replaces it, --out DIR writes elsewhere"),
        )),
        Ok(_) => Ok(()),
    }
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

    /// The place `path` itself, which nobody else uses; what lies there from an earlier try is removed first.
    pub fn at(path: &Path) -> io::Result<Self> {
        remove(path)?;
        PARTIALS.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf());
        Ok(Self(path.to_path_buf()))
    }

    /// The hidden place.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `error` about a file of this folder, as if the folder were `target`: hidden names mean nothing to the user.
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

    fn staged(target: &Path, force: bool, content: &str) -> Staging {
        let staging = Staging::new(target, force).unwrap();
        fs::write(staging.path().join("run.json"), content).unwrap();
        staging
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

    #[test]
    fn a_run_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("runs/apple-7");
        drop(staged(&target, false, "1"));
        assert!(names(&folder.path().join("runs")).is_empty());
        staged(&target, false, "1").commit().unwrap();
        assert_eq!(fs::read_to_string(target.join("run.json")).unwrap(), "1");
        let error = Staging::new(&target, false).unwrap_err();
        assert!(error.to_string().contains("--force") && error.exit_code() == 2, "{error}");
        staged(&target, true, "2").commit().unwrap();
        assert_eq!(fs::read_to_string(target.join("run.json")).unwrap(), "2");
        assert_eq!(names(&folder.path().join("runs")), ["apple-7"]);
    }

    #[test]
    fn what_is_no_run_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("photos");
        fs::create_dir(&target).unwrap();
        staged(&target, false, "1").commit().expect("an empty folder may be filled");
        fs::remove_file(target.join("run.json")).unwrap();
        fs::write(target.join("holiday.jpg"), "").unwrap();
        assert!(Staging::new(&target, true).unwrap_err().to_string().contains("other things"));
        assert!(Staging::new(&target.join("holiday.jpg"), true).unwrap_err().to_string().contains("no folder"));
        assert!(Staging::new(Path::new("/"), true).is_err());
        assert!(Staging::new(Path::new(""), true).is_err());
    }

    #[test]
    fn two_at_once_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("apple-7");
        let (first, second) = (staged(&target, false, "1"), staged(&target, false, "2"));
        first.commit().unwrap();
        assert!(second.commit().unwrap_err().to_string().contains("--force"), "it was not there when the second began");
        assert_eq!(fs::read_to_string(target.join("run.json")).unwrap(), "1");
        assert_eq!(names(folder.path()), ["apple-7"]);
    }
}
