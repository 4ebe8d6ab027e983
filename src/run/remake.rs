//! A run's maps and pictures again, with other choices.

use super::folder::Run;
use super::own;
use super::pictures::{Pictures, render_run};
use super::record::{FILE as RECORD, FORMAT_VERSION, RunRecord};
use super::regions::{REGIONS, RegionFiles, Threshold, there, word_regions, write_regions};
use crate::argument::{HALF, RUN};
use crate::facts::expect::Expectations;
use crate::facts::of_trace;
use crate::files::{Partial, Staging, Target, check_own, link, not_own, unless_abandoned};
use crate::heatmap::{self, Aggregate};
use crate::render::Display;
use crate::trace::{Trace, WordInfo};
use crate::{Error, Result};
use image::RgbImage;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const MAPS: &str = "heatmaps.safetensors";
const OVERLAYS: &str = "overlays";
const PAGE: &str = "report.html";
const TRACE: &str = "trace.safetensors";

/// What is made again. `run.json`, which names the overlays, comes after them, and the page, which
/// is made of all, last.
const MADE_AGAIN: [&str; 5] = [MAPS, "words.png", OVERLAYS, RECORD, PAGE];

/// Other choices for the maps and pictures of a run.
#[derive(Debug, Clone)]
pub struct Remake<'a> {
    /// How the maps are made.
    pub aggregate: &'a Aggregate,
    /// How they are drawn.
    pub display: &'a Display,
    /// The words and phrases to show; all words of the prompt when `None`.
    pub words: Option<&'a [WordInfo]>,
    /// The trace is the run's own with more words asked about, and takes its place: the command
    /// that makes it so.
    pub asked: Option<&'a str>,
}

impl Remake<'_> {
    /// Writes the regions of the chosen words, or of all, into the run folder `folder`. Returns the
    /// paths of the files.
    ///
    /// # Errors
    /// As [`heatmap::aggregate`] and [`write_regions`].
    pub fn regions(
        &self,
        trace: &Trace,
        folder: &Path,
        threshold: Threshold,
        files: RegionFiles,
    ) -> Result<Vec<PathBuf>> {
        let every = trace.words(self.aggregate.half);
        let maps = heatmap::aggregate(trace, self.aggregate, self.words.unwrap_or(&every))?;
        let image = trace.about.image;
        write_regions(folder, &word_regions(&maps, image, threshold), image, files)
    }
}

/// Writes the regions of the words of `pictures` into the run folder `folder`, where some of their
/// files are `asked` for.
///
/// # Errors
/// As [`Remake::regions`].
pub fn save_regions(pictures: &Pictures, folder: &Path, asked: Option<(Threshold, RegionFiles)>) -> Result<()> {
    let Some((threshold, files)) = asked else { return Ok(()) };
    let &Pictures { trace, aggregate, display, words, .. } = pictures;
    Remake { aggregate, display, words, asked: None }.regions(trace, folder, threshold, files).map(drop)
}

/// Makes `heatmaps.safetensors`, `overlays/`, `words.png` and `run.json` again from what
/// [`Run::read`] gave. They go into the run's folder, or, with `target`, into one of their own that
/// shares the image, the trace and kept steps. Everything is made beside its place first, so that
/// an error changes nothing. `finish` is given that folder, with all files of the run, and its
/// place. It makes what is made of them, `report.html`. Returns the folder and what its `run.json`
/// says.
///
/// # Errors
/// As [`render_run`]; [`Error::Argument`] when the target may not be replaced; those of `finish`.
pub fn remake(
    run: &Run,
    (trace, image): (&Trace, &RgbImage),
    choices: &Remake,
    target: Option<&Target>,
    finish: impl Fn(&Path, &Path) -> Result<()>,
) -> Result<(PathBuf, RunRecord)> {
    let &Remake { aggregate, display, words, asked } = choices;
    let pictures = Pictures { trace, image, aggregate, display, words };
    let fill = |folder: &Path| -> Result<RunRecord> {
        let maps = render_run(folder, &pictures)?;
        let mut record = run.record.clone();
        let prompt = trace.half(aggregate.half).map_or(&trace.about.prompt, |(_, prompt)| prompt);
        record.describe(&maps, aggregate, prompt, display.threshold);
        record.facts = Some(of_trace(trace, aggregate, display.threshold, None, &[], &[])?);
        if let Some(expect) = run.record.expected() {
            let sightings = Expectations::sightings(&record.expectations);
            record.expectations = expect.check(trace, aggregate, display.threshold, &sightings)?;
        }
        record.display = display.clone();
        record.format_version = FORMAT_VERSION;
        // Masks and outlines are of the run's own maps.
        let [old, new] = [run.folder.as_path(), folder].map(|folder| crate::files::read(&folder.join(MAPS)).ok());
        let (owns, same) = (own::owns(&run.folder), old == new);
        share(&run.folder, folder, &|name: &Path| owns(name) && (same || !name.starts_with(REGIONS)), Path::new(""))?;
        if let Some(command) = asked {
            // Its second name here goes, and the run's own file stays as it is.
            let file = folder.join(TRACE);
            let own = Trace::load(&file)?.about;
            fs::remove_file(&file).map_err(Error::io(&file))?;
            // The file has the words of the prompts, whatever the run shows them by.
            let mut kept = trace.clone();
            (kept.about.prompt, kept.about.negative) = (own.prompt, own.negative);
            kept.save(&file)?;
            record.command = command.to_owned();
            // The new words have a region as the others do.
            if let Some((threshold, files)) = there(&run.folder, display.threshold) {
                choices.regions(trace, folder, threshold, files)?;
            }
        }
        record.write(folder)?;
        Ok(record)
    };
    match target {
        Some(target) => {
            let staging = Staging::new(target, &own::KIND)?;
            let record = fill(staging.path()).map_err(|error| staging.in_place(error))?;
            Ok((staging.commit(finish)?, record))
        }
        None => {
            check_own(&run.folder.join(PAGE), RUN)?;
            let partial = Partial::beside(&run.folder.join("pictures"));
            fs::create_dir(partial.path()).map_err(Error::io(&run.folder))?;
            let record = fill(partial.path()).and_then(|record| finish(partial.path(), &run.folder).map(|()| record));
            let record = record.map_err(|error| partial.in_place(error, &run.folder))?;
            // An interrupt comes before all of it, or after: pictures of other maps than `run.json`
            // tells of would stay.
            unless_abandoned(|| -> Result<()> {
                replace(OVERLAYS, &run.folder, partial.path())?;
                if run.record.how().is_ok_and(|how| how != *aggregate) {
                    remove_regions(&run.folder)?;
                }
                if asked.is_some() && partial.path().join(REGIONS).is_dir() {
                    replace(REGIONS, &run.folder, partial.path())?;
                }
                // A trace with more words than `run.json` tells of is still the run's.
                for name in asked.map(|_| TRACE).into_iter().chain(MADE_AGAIN).filter(|name| *name != OVERLAYS) {
                    let (new, target) = (partial.path().join(name), run.folder.join(name));
                    if new.exists() {
                        fs::rename(&new, &target).map_err(Error::io(&target))?;
                    }
                }
                Ok(())
            })?;
            Ok((run.folder.clone(), record))
        }
    }
}

/// `record` with the numbers of its maps made again from `trace`, where an older format has them in
/// another meaning. `None` where it has not, or they cannot be made.
pub(crate) fn renewed(record: &RunRecord, trace: &Trace) -> Option<RunRecord> {
    if record.format_version >= FORMAT_VERSION {
        return None;
    }
    remapped(record, trace, &record.how().ok()?).ok()
}

/// `record` with the numbers of its words as maps of `trace` have them that are made as `how` says.
///
/// # Errors
/// As [`heatmap::aggregate`]; [`Error::Argument`] where the half that the maps are of was not
/// recorded.
pub(crate) fn remapped(record: &RunRecord, trace: &Trace, how: &Aggregate) -> Result<RunRecord> {
    let unrecorded = || Error::argument(HALF, "this run recorded the prompt alone");
    let (_, prompt) = trace.half(how.half).ok_or_else(unrecorded)?;
    let words: Vec<WordInfo> = record.words.iter().chain(&record.probes).map(|word| word.word.clone()).collect();
    let threshold = record.threshold();
    let maps = heatmap::aggregate(trace, how, &words)?;
    let mut remapped = record.clone();
    remapped.describe(&maps, how, prompt, threshold);
    remapped.facts = of_trace(trace, how, threshold, None, &[], &[]).ok();
    // Expectations came with format 2.
    remapped.format_version = FORMAT_VERSION;
    Ok(remapped)
}

/// Gives every file of the run folder `from` that is attnmap's and not made again (image, trace,
/// kept steps) a second name in `to`. It is a copy where the file system has no second names.
/// Traces are large.
fn share(from: &Path, to: &Path, owns: &dyn Fn(&Path) -> bool, inside: &Path) -> Result<()> {
    let folder = from.join(inside);
    for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let entry = entry.map_err(Error::io(&folder))?;
        let name = inside.join(entry.file_name());
        if MADE_AGAIN.iter().any(|made| name == Path::new(made)) {
            continue;
        }
        // A link is the user's, and may lead anywhere.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            share(from, to, owns, &name)?;
        } else if owns(&name) {
            let target = to.join(&name);
            let made = target.parent().map_or(Ok(()), fs::create_dir_all);
            made.and_then(|()| link(&entry.path(), &target)).map_err(Error::io(&target))?;
        }
    }
    Ok(())
}

/// Puts the files in the folder `inner` of `new` in the place of those of `run`; what the user has
/// put among them stays.
fn replace(inner: &str, run: &Path, new: &Path) -> Result<()> {
    let owns = own::owns(run);
    let names = |folder: &Path| -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(folder.join(inner)).into_iter().flatten().flatten();
        entries.map(|entry| Path::new(inner).join(entry.file_name())).collect()
    };
    let (old, made) = (names(run), names(new));
    if let Some(other) = made.intersection(&old).find(|name| !owns(name)) {
        return Err(not_own(&run.join(other), RUN));
    }
    let folder = run.join(inner);
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    for name in &made {
        fs::rename(new.join(name), run.join(name)).map_err(Error::io(run.join(name)))?;
    }
    for stale in old.difference(&made).filter(|name| owns(name)) {
        fs::remove_file(run.join(stale)).map_err(Error::io(run.join(stale)))?;
    }
    Ok(())
}

/// Removes the masks and outlines of the run folder `run`, once its maps are made another way: they
/// would pass for those of the new maps. What the user has put among them stays.
fn remove_regions(run: &Path) -> Result<()> {
    let (owns, folder) = (own::owns(run), run.join(REGIONS));
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        if owns(&Path::new(REGIONS).join(entry.file_name())) {
            fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    // Not empty where the user has files there.
    let _ = fs::remove_dir(&folder);
    Ok(())
}
