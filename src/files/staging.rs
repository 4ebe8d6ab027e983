//! A folder while it is being made: beside its place, into which it is put when it is whole.

use super::atomic::{Partial, unless_abandoned};
use super::leftover;
use super::target::{Kind, Target};
use crate::argument::OUT;
use crate::{Error, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder that is filled beside its place and put into it by [`commit`](Self::commit); dropped
/// before that, it is removed with everything in it.
#[derive(Debug)]
pub struct Staging<'a> {
    partial: Partial,
    target: &'a Target,
    kind: &'a Kind,
    place: PathBuf,
}

impl<'a> Staging<'a> {
    /// Makes an empty folder beside the place that `target` names for a folder of `kind`, and the
    /// folders above it. What killed processes left half made there is removed.
    ///
    /// # Errors
    /// As [`Target::folder`]; [`Error::Io`] when nothing can be written there.
    pub fn new(target: &'a Target, kind: &'a Kind) -> Result<Self> {
        let place = target.folder(kind)?;
        if let Some(folder) = place.parent() {
            leftover::sweep(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        }
        let partial = Partial::beside(&place);
        let made = place.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::create_dir(partial.path()));
        made.map_err(Error::io(&place))?;
        Ok(Self { partial, target, kind, place })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Where it will be, unless somebody else is faster.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// `error` with the place where a file would have been instead of the hidden one where it was
    /// being made.
    pub fn in_place(&self, error: Error) -> Error {
        self.partial.in_place(error, &self.place)
    }

    /// Calls `finish`, which is given the folder and its place, and puts the folder there. What it
    /// replaces goes, but files that are not attnmap's stay in the folder. Where somebody else has
    /// taken a generated name meanwhile, the next is taken, and `finish` called again.
    ///
    /// # Errors
    /// [`Error::Argument`] when somebody else made a named target meanwhile and it may not be
    /// replaced. The same when one of the user's files has the name of a new one. [`Error::Io`]
    /// naming the target when it cannot be put there. Those of `finish`.
    pub fn commit(mut self, mut finish: impl FnMut(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
        loop {
            self.place = self.target.folder(self.kind)?;
            finish(self.path(), &self.place).map_err(|error| self.in_place(error))?;
            // Somebody may have come in between.
            if self.target.folder(self.kind)? != self.place {
                continue;
            }
            unless_abandoned(|| self.put())?;
            return Ok(self.place.clone());
        }
    }

    fn put(&self) -> Result<()> {
        let (new, place) = (self.path(), &self.place);
        let there = fs::symlink_metadata(place).is_ok();
        if !there || fs::remove_dir(place).is_ok() {
            return fs::rename(new, place).map_err(Error::io(place));
        }
        self.carry(&(self.kind.owns)(place), Path::new(""))?;
        exchange(new, place).map_err(Error::io(place))
    }

    /// Gives everything below `inside` of the old folder that is not attnmap's a second name in the
    /// new one, which the old is removed for.
    fn carry(&self, owns: &dyn Fn(&Path) -> bool, inside: &Path) -> Result<()> {
        let folder = self.place.join(inside);
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let entry = entry.map_err(Error::io(&folder))?;
            let (path, name) = (entry.path(), inside.join(entry.file_name()));
            let to = self.path().join(&name);
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // A folder that cannot be read is the user's, and would be left behind.
            let is_filled = is_folder && fs::read_dir(&path).map_err(Error::io(&path))?.next().is_some();
            if is_filled {
                self.carry(owns, &name)?;
            } else if !is_folder && owns(&name) || leftover::is_leftover(&entry) {
                continue;
            } else if !is_folder && fs::symlink_metadata(&to).is_ok() {
                let reason = format!("{} is not attnmap's and stays; move it away, or write elsewhere", path.display());
                return Err(Error::argument(OUT, reason));
            } else {
                let made = to.parent().map_or(Ok(()), fs::create_dir_all);
                made.and_then(|()| if is_folder { fs::create_dir_all(&to) } else { link(&path, &to) })
                    .map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }
}

/// A second name for the file `from`, or a copy where the file system has no second names.
///
/// # Errors
/// Those of the system.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|error| match fs::symlink_metadata(from)?.is_file() {
        true => fs::copy(from, to).map(drop),
        false => Err(error),
    })
}

/// Puts the folder `new` in the place of `old`, and `old` in its: at one moment, where the system
/// can.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    if swap(new, old).is_ok() {
        return Ok(());
    }
    // The name is not one that is ever removed as half made: for a moment it is all there is.
    let name = old.file_name().unwrap_or_default().to_string_lossy();
    let aside = old.with_file_name(format!(".{name}.replaced-{}", std::process::id()));
    fs::rename(old, &aside)?;
    fs::rename(new, old).inspect_err(|_| {
        fs::rename(&aside, old).ok();
    })?;
    fs::rename(&aside, new)
}

#[cfg(target_os = "linux")]
fn swap(a: &Path, b: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let [a, b] = [a, b].map(|path| std::ffi::CString::new(path.as_os_str().as_bytes()));
    let (a, b) = (a?, b?);
    let here = libc::AT_FDCWD;
    // SAFETY: a system call on two paths that end in a zero byte and outlive it.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, here, a.as_ptr(), here, b.as_ptr(), libc::RENAME_EXCHANGE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn swap(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        name: "a run",
        is: |folder| folder.join("run.json").is_file(),
        owns: |_| Box::new(|path| ["run.json", "overlays/own.png"].iter().any(|own| path == Path::new(own))),
    };

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn staged<'a>(target: &'a Target, content: &str) -> Staging<'a> {
        let staging = Staging::new(target, &KIND).unwrap();
        fs::write(staging.path().join("run.json"), content).unwrap();
        staging
    }

    fn commit(staging: Staging) -> Result<PathBuf> {
        staging.commit(|_, _| Ok(()))
    }

    fn named(path: &Path, force: bool) -> Target {
        Target::named(path, force)
    }

    #[test]
    fn a_run_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("runs/apple-7");
        drop(staged(&named(&place, false), "1"));
        assert!(names(&folder.path().join("runs")).is_empty());
        commit(staged(&named(&place, false), "1")).unwrap();
        assert_eq!(fs::read_to_string(place.join("run.json")).unwrap(), "1");
        let error = Staging::new(&named(&place, false), &KIND).unwrap_err();
        assert!(error.to_string().contains("`force`") && error.exit_code() == 2, "{error}");
        commit(staged(&named(&place, true), "2")).unwrap();
        assert_eq!(fs::read_to_string(place.join("run.json")).unwrap(), "2");
        assert_eq!(names(&folder.path().join("runs")), ["apple-7"]);
    }

    #[test]
    fn what_is_no_run_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("photos");
        fs::create_dir(&place).unwrap();
        commit(staged(&named(&place, false), "1")).expect("an empty folder may be filled");
        fs::remove_file(place.join("run.json")).unwrap();
        fs::write(place.join("holiday.jpg"), "").unwrap();
        let error = |path: &Path| Staging::new(&named(path, true), &KIND).unwrap_err().to_string();
        assert!(error(&place).contains("other things"));
        assert!(error(&place.join("holiday.jpg")).contains("no folder"));
        assert!(error(Path::new("/")).contains("no name") && error(Path::new("")).contains("no name"));
    }

    #[test]
    fn files_of_the_user_stay_in_a_folder_that_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("apple-7");
        let at = |name: &str| place.join(name);
        commit(staged(&named(&place, false), "1")).unwrap();
        for inside in ["overlays", "mine/deep", "empty"] {
            fs::create_dir_all(at(inside)).unwrap();
        }
        for file in ["notes.txt", "mine/deep/a.psd", "overlays/mine.png", "overlays/own.png", ".hidden"] {
            fs::write(at(file), file).unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        commit(staged(&named(&place, true), "2")).unwrap();
        for file in ["notes.txt", "mine/deep/a.psd", "overlays/mine.png", ".hidden"] {
            assert_eq!(fs::read_to_string(at(file)).unwrap(), file);
        }
        assert!(at("empty").is_dir() && !at("overlays/own.png").exists());
        #[cfg(unix)]
        assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("nowhere"));
        assert_eq!(fs::read_to_string(at("run.json")).unwrap(), "2");
        assert_eq!(names(folder.path()), ["apple-7"]);

        // One of the user's with the name of a new one keeps everything as it is.
        let target = named(&place, true);
        let staging = staged(&target, "3");
        fs::write(staging.path().join("notes.txt"), "new").unwrap();
        let error = commit(staging).unwrap_err().to_string();
        assert!(error.contains("notes.txt is not attnmap's and stays"), "{error}");
        assert_eq!(fs::read_to_string(at("run.json")).unwrap(), "2");
        assert_eq!(names(folder.path()), ["apple-7"]);
    }

    #[test]
    fn two_at_once_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("apple-7");
        let target = named(&place, false);
        let (first, second) = (staged(&target, "1"), staged(&target, "2"));
        commit(first).unwrap();
        assert!(commit(second).unwrap_err().to_string().contains("`force`"), "it was not there when the second began");
        assert_eq!(fs::read_to_string(place.join("run.json")).unwrap(), "1");
        assert_eq!(names(folder.path()), ["apple-7"]);

        let target = Target::generated(folder.path().join("frog-0"), false);
        let (first, second) = (staged(&target, "1"), staged(&target, "2"));
        assert_eq!(first.place(), second.place());
        commit(first).unwrap();
        let mut places = Vec::new();
        let made = second
            .commit(|_, place| {
                places.push(place.to_path_buf());
                Ok(())
            })
            .unwrap();
        assert_eq!((&made, places.last()), (&folder.path().join("frog-0-2"), Some(&made)));
        assert_eq!(fs::read_to_string(made.join("run.json")).unwrap(), "2");
    }

    #[test]
    fn where_nothing_can_be_swapped_the_old_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["new", "old"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("it"), name).unwrap();
        }
        exchange(&at("new"), &at("old")).unwrap();
        assert_eq!(fs::read_to_string(at("old/it")).unwrap(), "new");
        assert!(exchange(&at("none"), &at("old")).is_err());
        assert_eq!(fs::read_to_string(at("old/it")).unwrap(), "new", "it comes back");
        assert_eq!(names(folder.path()), ["new", "old"]);
    }
}
