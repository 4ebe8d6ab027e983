//! Which run a command is about: the one that is named, else the newest in `outputs/`.

use std::path::{Path, PathBuf};

use attnmap::run::{folder_of, newest_runs};
use attnmap::{Error, Result};

use super::print;

/// The folder of runs that are made without `--out`.
pub const OUTPUTS: &str = "outputs";

/// What stands for the newest run in `outputs/`, unless a file has this name.
const LAST: &str = "last";

/// Whether the newest run is meant.
pub fn is_last(named: &Path) -> bool {
    named == Path::new(LAST) && !named.exists()
}

/// The folder of the run that is meant: `named`, or where the file lies that is named. It is the
/// newest where none is named, or `last` is.
pub fn run_folder(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) if !is_last(path) => Ok(folder_of(path).to_path_buf()),
        _ => newest(None),
    }
}

/// The newest run but for `other`, which is told.
fn newest(other: Option<&Path>) -> Result<PathBuf> {
    let same = |run: &PathBuf| other.is_some_and(|other| run.canonicalize().ok() == other.canonicalize().ok());
    let run = newest_runs(Path::new(OUTPUTS)).into_iter().find(|run| !same(run));
    let run = run.ok_or_else(|| {
        let what = if other.is_some() { "no other run" } else { "no run" };
        Error::input(
            "RUN",
            format!("there is {what} in {OUTPUTS}/; name a run's folder, or make one with `attnmap generate`"),
        )
    })?;
    match other {
        Some(other) => print::note(format!("the newest run beside {} is {}", other.display(), run.display())),
        None => print::note(format!("the newest run is {}", run.display())),
    }
    Ok(run)
}

/// The folders of two runs: those that are named; else the newest, and the newest before it.
pub fn two_runs(a: Option<&Path>, b: Option<&Path>) -> Result<(PathBuf, PathBuf)> {
    match (a, b) {
        (Some(a), Some(b)) => Ok((run_folder(Some(a))?, run_folder(Some(b))?)),
        (Some(a), None) => {
            let a = run_folder(Some(a))?;
            let b = newest(Some(&a))?;
            Ok((a, b))
        }
        (None, _) => {
            let b = run_folder(b)?;
            Ok((newest(Some(&b))?, b))
        }
    }
}
