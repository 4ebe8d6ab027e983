//! Where an output goes: the one rule for what is there already.
//!
//! What attnmap did not write is never overwritten and never removed. A place that the user names
//! (`--out`) and that has something of attnmap's own is refused, unless `--force` is given. A place
//! that attnmap names itself counts up: `apple-0`, `apple-0-2`, `apple-0-3`.

use super::atomic::check_writable;
use super::own::{Form, is_own};
use crate::argument::{Argument, FORCE, OUT};
use crate::{Error, Result};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where an output goes, and whether what attnmap wrote there before may be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    path: PathBuf,
    generated: bool,
    force: bool,
}

/// Says of a path within a folder whether the file there is attnmap's.
pub type Owns = Box<dyn Fn(&Path) -> bool>;

/// A kind of folder that attnmap makes, such as a run.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What messages call it: `a run`.
    pub name: &'static str,
    /// Whether a folder is one.
    pub is: fn(&Path) -> bool,
    /// Of a folder that is one: which of its files are attnmap's own, by their path in it.
    pub owns: fn(&Path) -> Owns,
}

impl Target {
    /// The place that the user named; with `force` what attnmap wrote there before is replaced.
    pub fn named(path: impl Into<PathBuf>, force: bool) -> Self {
        Self { path: path.into(), generated: false, force }
    }

    /// A place that attnmap names: where something is there already, the name counts up, or, with
    /// `force`, attnmap's own is replaced.
    pub fn generated(path: impl Into<PathBuf>, force: bool) -> Self {
        Self { path: path.into(), generated: true, force }
    }

    /// `named` where it is given, else `generated`.
    pub fn of(named: Option<PathBuf>, force: bool, generated: impl FnOnce() -> PathBuf) -> Self {
        match named {
            Some(path) => Self::named(path, force),
            None => Self::generated(generated(), force),
        }
    }

    /// The place, before it counts up.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As this one, for `name` in the folder.
    pub fn within(&self, name: impl AsRef<Path>) -> Self {
        Self { path: self.path.join(name), ..self.clone() }
    }

    /// Files that belong together, the place's name with each of `endings`: where they are to be
    /// written.
    ///
    /// # Errors
    /// [`Error::Argument`] on `out` when one is there that may not be replaced.
    pub fn files<const N: usize>(&self, endings: [&str; N]) -> Result<[PathBuf; N]> {
        self.first(|count| {
            let paths = endings.map(|ending| with_suffix(&counted(&self.path, count), ending));
            paths.iter().try_for_each(|path| self.refuse_file(path)).map(|()| paths)
        })
    }

    fn refuse_file(&self, path: &Path) -> Result<()> {
        let shown = path.display();
        let refuse = |reason: String| Err(Error::argument(OUT, reason));
        match fs::symlink_metadata(path) {
            Err(error) if is_nothing(&error) => Ok(()),
            Err(error) => Err(Error::io(path)(error)),
            Ok(found) if found.is_dir() => refuse(format!("{shown} is a folder; choose another name")),
            Ok(_) if !is_own(path) => refuse(format!("{shown} is there and not attnmap's; choose another name")),
            Ok(_) if !self.force => refuse(format!("{shown} exists; {FORCE} replaces it; or choose another name")),
            Ok(_) => Ok(()),
        }
    }

    /// One file of `form` under the place's own name: where it is to be written. A file of another
    /// form stays, and so does a part of a folder of `kind`.
    ///
    /// # Errors
    /// [`Error::Argument`] on `out` when one is there that may not be replaced.
    pub fn file(&self, form: Form, kind: &Kind) -> Result<PathBuf> {
        let [path] = self.files([""])?;
        check_part(&path, kind)?;
        if fs::symlink_metadata(&path).is_ok() && !form.is_of(&path) {
            let reason = format!("{} is there and not {}; choose another name", path.display(), form.name());
            return Err(Error::argument(OUT, reason));
        }
        Ok(path)
    }

    /// Where a folder of `kind` is to be made: nothing is there, or an empty folder, or (with
    /// force) another of its kind.
    ///
    /// # Errors
    /// [`Error::Argument`] on `out` saying why not.
    pub fn folder(&self, kind: &Kind) -> Result<PathBuf> {
        self.first(|count| {
            let path = counted(&self.path, count);
            self.refuse_folder(&path, kind).map(|()| path)
        })
    }

    fn refuse_folder(&self, path: &Path, kind: &Kind) -> Result<()> {
        let shown = path.display();
        let refuse = |reason: String| Err(Error::argument(OUT, reason));
        if path.file_name().is_none() {
            return refuse(format!("{shown} is no name for a new folder"));
        }
        match fs::symlink_metadata(path) {
            Err(error) if is_nothing(&error) => Ok(()),
            Err(error) => Err(Error::io(path)(error)),
            Ok(found) if !found.is_dir() => refuse(format!("{shown} is there and no folder; choose another")),
            // An empty folder may be somebody's place; one that attnmap names need not be taken.
            Ok(_) if !self.generated && is_empty(path) => Ok(()),
            Ok(_) if !(kind.is)(path) => refuse(format!("{shown} is a folder with other things in it; choose another")),
            Ok(_) if !self.force => {
                refuse(format!("{shown} holds {} already; {FORCE} replaces it, {OUT} DIR writes elsewhere", kind.name))
            }
            Ok(_) => Ok(()),
        }
    }

    /// The place with its name counted up to `count`; 1 is the place itself.
    pub fn counted(&self, count: usize) -> PathBuf {
        counted(&self.path, count)
    }

    /// Of the places that this one counts up to, those where something is, in order.
    pub fn taken(&self) -> Vec<PathBuf> {
        (1..).map(|count| counted(&self.path, count)).take_while(|path| fs::symlink_metadata(path).is_ok()).collect()
    }

    /// Refuses to make a folder of `kind` with the files `names` where a file of the user's has one
    /// of them and would stay.
    ///
    /// # Errors
    /// [`Error::Argument`] on `out`; those of [`folder`](Self::folder) and of [`check_place`].
    pub fn room_for(&self, kind: &Kind, names: &[&str]) -> Result<()> {
        let place = self.folder(kind)?;
        check_place(&place)?;
        if !(kind.is)(&place) {
            return Ok(());
        }
        let owns = (kind.owns)(&place);
        match names.iter().find(|name| place.join(name).exists() && !owns(Path::new(name))) {
            Some(name) => {
                let reason = "is not attnmap's and stays; move it away, or write elsewhere";
                Err(Error::argument(OUT, format!("{} {reason}", place.join(name).display())))
            }
            None => Ok(()),
        }
    }

    /// The first answer of `ask`, which is given 1 for the place itself and then, where attnmap
    /// names it, 2, 3 and so on.
    fn first<T>(&self, ask: impl Fn(usize) -> Result<T>) -> Result<T> {
        // Far more than anybody makes; a folder that cannot be read must not be asked for ever.
        const MOST: usize = 1_000_000;
        let mut count = 1;
        loop {
            match ask(count) {
                Err(Error::Argument { .. }) if self.generated && count < MOST => count += 1,
                result => return result,
            }
        }
    }
}

/// Refuses a place for a new folder or file that cannot be made there, before long work whose
/// outcome goes there.
///
/// # Errors
/// [`Error::Argument`] on `out` where a file or a link to nothing stands in the way; [`Error::Io`]
/// naming the folder that cannot be written.
pub fn check_place(path: &Path) -> Result<()> {
    let above = path.ancestors().skip(1).map(|folder| match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    });
    for folder in above {
        let refuse = |what: &str| Err(Error::argument(OUT, format!("{} {what}; choose another", folder.display())));
        match fs::metadata(folder) {
            Ok(found) if found.is_dir() => return check_writable(folder),
            Ok(_) => return refuse("is no folder"),
            Err(_) if fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink()) => {
                return refuse("is a link to a place that is not there");
            }
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(Error::io(folder)(error)),
        }
    }
    Ok(())
}

/// Refuses to write a file at `path` where one is that attnmap did not write.
///
/// # Errors
/// [`Error::Argument`] on `argument`, the name of what the path came from.
pub fn check_own(path: &Path, argument: Argument) -> Result<()> {
    if fs::symlink_metadata(path).is_err() || is_own(path) {
        return Ok(());
    }
    Err(not_own(path, argument))
}

/// The refusal to write at `path`, where a file of the user's is.
pub(crate) fn not_own(path: &Path, argument: Argument) -> Error {
    Error::argument(argument, format!("{} is not attnmap's and stays; move it away", path.display()))
}

/// Refuses to write a file at `path` where a folder of `kind` has one of its own parts: those are
/// replaced with the folder alone.
///
/// # Errors
/// [`Error::Argument`] on `out`.
pub fn check_part(path: &Path, kind: &Kind) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let is_there = fs::symlink_metadata(path).is_ok();
    if is_there && (kind.is)(folder) && (kind.owns)(folder)(Path::new(name)) {
        let reason = format!("{} is a part of {}; choose another name", path.display(), kind.name);
        return Err(Error::argument(OUT, reason));
    }
    Ok(())
}

/// Makes the folder that the file at `path` goes into, where it is not there.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn make_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(Error::io(folder))
}

/// Whether nothing is there. A file above it holds nothing either, as [`check_place`] tells.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut inside| inside.next().is_none())
}

/// `path`, with `-COUNT` after its name from 2 on.
fn counted(path: &Path, count: usize) -> PathBuf {
    if count < 2 { path.to_path_buf() } else { with_suffix(path, &format!("-{count}")) }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut whole = OsString::from(path);
    whole.push(suffix);
    PathBuf::from(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_files_ask_and_generated_ones_count_up() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let own = r#"{"attnmap": "0.1.0"}"#;
        let both = [".png", ".json"];
        let stem = Target::generated(at("a"), false);
        assert_eq!(stem.files(both).unwrap(), [at("a.png"), at("a.json")]);
        fs::write(at("a.json"), own).unwrap();
        assert_eq!(stem.files(both).unwrap(), [at("a-2.png"), at("a-2.json")], "both or neither");
        fs::write(at("a-2.png"), "mine").unwrap();
        assert_eq!(stem.files(both).unwrap()[0], at("a-3.png"));
        assert_eq!(Target::generated(at("a"), true).files(both).unwrap()[1], at("a.json"), "force replaces its own");

        let error = Target::named(at("a"), false).files(both).unwrap_err();
        assert!(error.to_string().contains("a.json exists; `force`"), "{error}");
        assert_eq!(Target::named(at("a"), true).files(both).unwrap()[1], at("a.json"));
        let error = Target::named(at("a-2.png"), true).files([""]).unwrap_err();
        assert!(error.to_string().contains("not attnmap's") && error.exit_code() == 2, "{error}");
        assert!(check_own(&at("a-2.png"), OUT).is_err() && check_own(&at("a.json"), OUT).is_ok());
    }

    #[test]
    fn one_file_is_replaced_by_its_like_and_a_part_of_a_folder_never() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        const KIND: Kind = Kind {
            name: "a thing",
            is: |folder| folder.join("it").is_file(),
            owns: |_| Box::new(|path: &Path| path == Path::new("part.html")),
        };
        let page = "<!doctype html>\n<meta name=\"generator\" content=\"attnmap 0.1.0\">\n";
        fs::create_dir(at("thing")).unwrap();
        for name in ["page.html", "thing/part.html", "thing/other.html"] {
            fs::write(at(name), page).unwrap();
        }
        fs::write(at("thing/it"), "").unwrap();
        fs::write(at("numbers.json"), r#"{"attnmap": "0.1.0"}"#).unwrap();
        let ask = |name: &str, form: Form| Target::named(at(name), true).file(form, &KIND);
        for name in ["page.html", "new.html", "thing/other.html", "thing/new.html"] {
            assert_eq!(ask(name, Form::Page).unwrap(), at(name));
        }
        for (name, form, reason) in [
            ("thing/part.html", Form::Page, "is a part of a thing"),
            ("page.html", Form::Picture, "is there and not a picture"),
            ("numbers.json", Form::Page, "is there and not a page"),
        ] {
            let error = ask(name, form).unwrap_err();
            assert!(error.to_string().contains(reason) && error.exit_code() == 2, "{error}");
        }
    }

    #[test]
    fn generated_folders_count_up_past_whatever_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        const KIND: Kind =
            Kind { name: "a thing", is: |folder| folder.join("it").is_file(), owns: |_| Box::new(|_| true) };
        let (named, generated) = (Target::named(at("x-0"), false), Target::generated(at("x-0"), false));
        assert_eq!(generated.folder(&KIND).unwrap(), at("x-0"));
        fs::create_dir(at("x-0")).unwrap();
        assert_eq!(named.folder(&KIND).unwrap(), at("x-0"), "an empty folder may be filled");
        assert_eq!(generated.folder(&KIND).unwrap(), at("x-0-2"));
        fs::write(at("x-0/it"), "").unwrap();
        fs::write(at("x-0-2"), "a file").unwrap();
        assert_eq!(generated.folder(&KIND).unwrap(), at("x-0-3"));
        assert!(named.folder(&KIND).unwrap_err().to_string().contains("holds a thing already; `force`"));
        assert_eq!(Target::generated(at("x-0"), true).folder(&KIND).unwrap(), at("x-0"));
        assert!(Target::named(at("x-0-2"), true).folder(&KIND).is_err());
    }
}
