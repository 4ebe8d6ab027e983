//! The runs of a folder by their age.

use super::own::KIND;
use super::{RunKind, Settings};
use crate::trace::{CheckpointInfo, Grid};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The run folders in `folder`, the newest first, by when the attention was recorded. So a run
/// which was drawn again later is no younger. Runs that share a recording are sorted by when they
/// were drawn. None where there is no folder.
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

/// A run as a list of runs shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListedRun {
    /// The name of its folder.
    pub name: String,
    /// How its image came about.
    pub kind: RunKind,
    /// The prompt, or the caption of a picture.
    pub prompt: String,
    /// The checkpoint as the user named it.
    pub checkpoint: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Steps that were asked for.
    pub steps: usize,
    /// Width of the image in pixels.
    pub width: usize,
    /// Height of the image in pixels.
    pub height: usize,
    /// When the attention was recorded, in seconds since 1970.
    pub made: u64,
    /// Whether it has a page, `report.html`.
    pub page: bool,
}

/// What a list needs of `run.json`, whatever version wrote it.
#[derive(Deserialize)]
struct RecordSummary {
    #[serde(default)]
    kind: RunKind,
    prompt: String,
    checkpoint: CheckpointInfo,
    settings: Settings,
    image: Grid,
}

/// The runs in `folder`, the newest first as [`newest_runs`] has them, at most `most`. Those whose
/// `run.json` cannot be read are left out.
pub fn list_runs(folder: &Path, most: usize) -> Vec<ListedRun> {
    let listed = |run: PathBuf| -> Option<ListedRun> {
        let known: RecordSummary = serde_json::from_slice(&crate::files::read(&run.join(super::RECORD)).ok()?).ok()?;
        let made = fs::metadata(run.join("trace.safetensors")).or_else(|_| fs::metadata(run.join(super::RECORD)));
        let made = made.and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Some(ListedRun {
            name: run.file_name()?.to_str()?.to_owned(),
            kind: known.kind,
            prompt: known.prompt,
            checkpoint: known.checkpoint.id,
            seed: known.settings.seed,
            steps: known.settings.steps(),
            width: known.image.width,
            height: known.image.height,
            made: made.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            page: run.join("report.html").is_file(),
        })
    };
    newest_runs(folder).into_iter().take(most).filter_map(listed).collect()
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
