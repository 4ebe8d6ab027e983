//! A run's maps and pictures again, with other choices.

use super::staging::Staging;
use super::{Pictures, Run, RunRecord, render_run};
use crate::facts::of_trace;
use crate::files::Partial;
use crate::heatmap::Aggregate;
use crate::render::Display;
use crate::trace::{Trace, WordInfo};
use crate::{Error, Result};
use image::RgbImage;
use std::fs;
use std::path::{Path, PathBuf};

/// What is made again, beside `run.json`.
const PICTURES: [&str; 3] = ["heatmaps.safetensors", "words.png", "overlays"];

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

/// Makes `heatmaps.safetensors`, `overlays/`, `words.png` and `run.json` again from what [`Run::read`] gave: in the run's folder, or,
/// with `out`, in a run folder of their own that shares the image, the trace and kept steps. Everything is made beside its place first, so
/// that an error changes nothing. Returns the folder and what its `run.json` says.
///
/// # Errors
/// As [`render_run`]; [`Error::Option`] when `out` exists and
/// `force` is not set.
pub fn remake(
    run: &Run,
    (trace, image): (&Trace, &RgbImage),
    choices: &Remake,
    out: Option<&Path>,
    force: bool,
) -> Result<(PathBuf, RunRecord)> {
    let &Remake { aggregate, display, words } = choices;
    let pictures = Pictures { trace, image, aggregate, display, words };
    let draw = |folder: &Path| -> Result<RunRecord> {
        let maps = render_run(folder, &pictures)?;
        let mut record = run.record.clone();
        let prompt = trace.half(aggregate.half).map_or(&trace.about.prompt, |(_, prompt)| prompt);
        record.describe(&maps, aggregate.to_string(), prompt, display.threshold);
        record.facts = Some(of_trace(trace, aggregate, display.threshold, None, &[], &[])?);
        record.display = display.clone();
        Ok(record)
    };
    match out {
        Some(out) => {
            let staging = Staging::new(out, force)?;
            let fill = || {
                let record = draw(staging.path())?;
                share(&run.folder, staging.path())?;
                record.write(staging.path())?;
                Ok(record)
            };
            let record = fill().map_err(|error| staging.in_place(error))?;
            Ok((staging.commit()?, record))
        }
        None => {
            let partial = Partial::beside(&run.folder.join("pictures"));
            fs::create_dir(partial.path()).map_err(Error::io(&run.folder))?;
            let record = draw(partial.path()).map_err(|error| partial.in_place(error, &run.folder))?;
            for name in PICTURES {
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

/// Gives everything of the run folder `from` that is not made again (image, trace, kept steps) a second name in `to`, or a copy
/// where the file system has no second names: traces are large. The report is left out, as it shows the old maps.
fn share(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io(from))? {
        let entry = entry.map_err(Error::io(from))?;
        let (path, name) = (entry.path(), entry.file_name());
        let made_again = |name: &str| PICTURES.contains(&name) || matches!(name, "run.json" | "report.html");
        if name.to_str().is_none_or(|name| name.starts_with('.') || made_again(name)) {
            continue;
        }
        let target = to.join(&name);
        if path.is_dir() {
            fs::create_dir(&target).map_err(Error::io(&target))?;
            share(&path, &target)?;
        } else {
            fs::hard_link(&path, &target)
                .or_else(|_| fs::copy(&path, &target).map(drop))
                .map_err(Error::io(&target))?;
        }
    }
    Ok(())
}
