//! The runs of a folder by their age.

use super::own::KIND;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The run folders in `folder`, the newest first: by when the attention was recorded, so that a run which was drawn again later is no
/// younger; runs that share a recording by when they were drawn. None where there is no folder.
pub fn newest_runs(folder: &Path) -> Vec<PathBuf> {
    let modified =
        |path: PathBuf| fs::metadata(path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let runs = entries.filter(|path| !hidden(path) && (KIND.is)(path));
    let mut runs: Vec<_> = runs
        .map(|path| {
            let made = modified(path.join("trace.safetensors"));
            ((made, modified(path.join(super::record::FILE))), path)
        })
        .collect();
    runs.sort();
    runs.into_iter().rev().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn runs_are_told_by_their_age_and_nothing_else_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, recorded: u64, drawn: u64| {
            let run = folder.path().join(name);
            fs::create_dir(&run).unwrap();
            for (file, content, seconds) in [
                ("trace.safetensors", "", recorded),
                ("run.json", r#"{"format_version": 1, "attnmap": "0.1.0"}"#, drawn),
            ] {
                fs::write(run.join(file), content).unwrap();
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
                fs::File::options().write(true).open(run.join(file)).unwrap().set_modified(time).unwrap();
            }
            run
        };
        let (old, new) = (make("old", 10, 99), make("new", 20, 20));
        let drawn_again = make("drawn-again", 20, 30);
        make(".hidden", 50, 50);
        fs::create_dir(folder.path().join("no-run")).unwrap();
        assert_eq!(newest_runs(folder.path()), [drawn_again, new, old]);
        assert!(newest_runs(&folder.path().join("none")).is_empty());
    }
}
