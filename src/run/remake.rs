//! A run's maps and pictures again, with other choices.

use super::atomic::{Partial, Staging};
use super::{Pictures, Run, RunRecord, render_run};
use crate::heatmap::Aggregate;
use crate::render::Display;
use crate::trace::{Trace, WordInfo};
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Other choices for the maps and pictures of a run.
#[derive(Debug, Clone)]
pub struct Remake<'a> {
    /// How the maps are made.
    pub aggregate: &'a Aggregate,
    /// How they are drawn.
    pub display: &'a Display,
    /// The words and phrases to show; all words of the prompt when `None`.
    pub words: Option<&'a [WordInfo]>,
}

/// Makes `heatmaps.safetensors`, `overlays/`, `words.png` and `run.json` again from the run's trace: in the run's folder, or,
/// with `out`, in a run folder of their own that shares the image and the trace. Everything is made beside its place first, so
/// that an error changes nothing. Returns the folder and what its `run.json` says.
///
/// # Errors
/// As [`render_run`]; [`Error::Trace`] when the run's image is missing or damaged; [`Error::Option`] when `out` exists and
/// `force` is not set.
pub fn remake(
    run: &Run,
    trace: &Trace,
    choices: &Remake,
    out: Option<&Path>,
    force: bool,
) -> Result<(PathBuf, RunRecord)> {
    let image = run.image()?;
    let &Remake { aggregate, display, words } = choices;
    let pictures = Pictures { trace, image: &image, aggregate, display, words };
    let draw = |folder: &Path| -> Result<RunRecord> {
        let maps = render_run(folder, &pictures)?;
        let mut record = run.record.clone();
        let prompt = trace.half(aggregate.half).map_or(&trace.about.prompt, |(_, prompt)| prompt);
        record.describe(&maps, aggregate.to_string(), prompt, display.threshold);
        record.display = serde_json::to_value(display).expect("plain data has a JSON form");
        Ok(record)
    };
    match out {
        Some(out) => {
            let staging = Staging::new(out, force)?;
            let record = draw(staging.path())?;
            for name in ["image.png", "trace.safetensors"] {
                let (from, to) = (run.folder.join(name), staging.path().join(name));
                // A second name for the same bytes where the file system has that: traces are large.
                fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).map_err(Error::io(out))?;
            }
            record.write(staging.path())?;
            Ok((staging.commit()?, record))
        }
        None => {
            let partial = Partial::beside(&run.folder.join("pictures"));
            fs::create_dir(partial.path()).map_err(Error::io(&run.folder))?;
            let record = draw(partial.path())?;
            for name in ["heatmaps.safetensors", "words.png", "overlays"] {
                let (new, target) = (partial.path().join(name), run.folder.join(name));
                let replace = || {
                    if target.is_dir() {
                        fs::rename(&target, partial.path().join("old"))?;
                    }
                    fs::rename(&new, &target)
                };
                replace().map_err(Error::io(&target))?;
            }
            record.write(&run.folder)?;
            Ok((run.folder.clone(), record))
        }
    }
}
