//! A run's folder while it is being made: beside its place, into which it is renamed when it is whole.

use crate::files::{self, Partial};
use crate::{Error, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
            files::sweep(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        }
        let partial = Partial::beside(target);
        let made = target.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::create_dir(partial.path()));
        made.map_err(Error::io(target))?;
        Ok(Self { partial, target: target.to_path_buf(), force })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// `error` with the place where a file would have been instead of the hidden one where it was being made.
    pub fn in_place(&self, error: Error) -> Error {
        self.partial.in_place(error, &self.target)
    }

    /// Puts the folder in its place. A run that it replaces is moved aside first and comes back if that fails.
    ///
    /// # Errors
    /// [`Error::Option`] when somebody else made the target meanwhile and `force` was not given; [`Error::Io`] naming the
    /// target when it cannot be put there.
    pub fn commit(self) -> Result<PathBuf> {
        check_target(&self.target, self.force)?;
        let (new, target) = (self.partial.path(), &self.target);
        let rename = || {
            if fs::symlink_metadata(target).is_err() {
                return fs::rename(new, target);
            }
            let old = Partial::beside(target);
            fs::rename(target, old.path())?;
            fs::rename(new, target).inspect_err(|_| {
                fs::rename(old.path(), target).ok();
            })
        };
        files::unless_abandoned(rename).map_err(Error::io(target))?;
        Ok(self.target.clone())
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
