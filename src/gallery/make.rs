//! Making a gallery's cells, one pass after the other, so that it can be killed at any moment and
//! continued.

use super::cell::Cell;
use super::cell_files::{place_anew, write_cell_files};
use super::check::read_pictures;
use super::folder::{CELLS, FAILURES, Failure, MAKING, TIMINGS, is_finished, is_gallery, whole};
use super::index::LiveIndex;
use super::plan::{Plan, Shard};
use crate::argument::OUT;
use crate::checkpoint::Checkpoint;
use crate::facts::expect::Expectations;
use crate::files::{self, Partial, Target};
use crate::heatmap::{self, Aggregate};
use crate::maker::concepts_of_run;
use crate::pipeline::{CheckpointChoice, Event, LoadedInit, Options, Pipeline, RecordOptions, Traced};
use crate::prompt::Prompt;
use crate::render::Display;
use crate::run::{self, NewRun, Pictures, RunKind, RunRecord};
use crate::trace::{By, PromptInfo};
use crate::{Error, Result, report};
use candle_core::Tensor;
use image::RgbImage;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;

/// What happens while a gallery is made; the callback may stop it with [`ControlFlow::Break`].
#[derive(Debug)]
pub enum GalleryEvent<'a> {
    /// How much there is to do.
    Planned {
        /// Cells of this shard.
        cells: usize,
        /// Those that an earlier try finished.
        finished: usize,
    },
    /// The checkpoint of this cell is being loaded.
    Loading(&'a Cell),
    /// It is there.
    Loaded(&'a Pipeline),
    /// The prompt of this cell, and of those that go with it, is read; the first image comes next.
    Read {
        /// The first cell of the pass.
        cell: &'a Cell,
        /// Its checkpoint.
        pipeline: &'a Pipeline,
        /// Its prompt as the text encoder takes it.
        prompt: &'a Prompt,
    },
    /// One call of the denoiser of a pass is done.
    Stepped,
    /// A cell is finished.
    Made(&'a Cell),
    /// A cell could not be made.
    Failed(&'a Cell, &'a Error),
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GalleryOutcome {
    /// Cells made now.
    pub made: usize,
    /// Cells that were there.
    pub kept: usize,
    /// Cells that could not be made.
    pub failed: usize,
}

/// Makes what is missing of `shard`'s part of `plan` in `folder`. `open` opens a checkpoint. It is
/// called once for each that has cells to make, and must give the one that finished cells of it
/// were made with. A cell that fails is recorded and the rest go on.
///
/// Every cell is made in a hidden folder of the process's own and renamed into `cells/` when it is
/// complete. The hidden folders that killed processes left are removed first. The page is there
/// from the first cell and comes up to date as others do.
///
/// # Errors
/// [`Error::Argument`] when a picture to start from cannot be read, or is not the one of its name
/// that finished cells set out from. [`Error::Io`] when the folder cannot be written at all.
/// [`Error::Interrupted`] when `progress` breaks.
pub fn make(
    folder: &Path,
    plan: &Plan,
    shard: Shard,
    (aggregate, display): (&Aggregate, &Display),
    open: &dyn Fn(&CheckpointChoice) -> Result<Checkpoint>,
    progress: &mut dyn FnMut(GalleryEvent) -> ControlFlow<()>,
) -> Result<GalleryOutcome> {
    let pictures = read_pictures(folder, plan)?;
    // Removed when this ends, and by the interrupt handler. Two processes may make the same shard.
    let making = Partial::beside(&folder.join(MAKING));
    std::fs::create_dir_all(making.path()).map_err(Error::io(folder))?;
    for name in [CELLS, TIMINGS] {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).map_err(Error::io(&path))?;
        files::sweep(&path);
    }
    files::sweep(folder);
    let mut tell = |event: GalleryEvent| match progress(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted),
    };
    let mine: Vec<&Vec<usize>> = plan.passes_of(shard).collect();
    let all = mine.iter().flat_map(|pass| pass.iter());
    let there: HashSet<usize> = all.clone().copied().filter(|&index| is_finished(folder, &plan.cells[index])).collect();
    // What is whole stays so, and is not read again; others may come from another process.
    let finished = |index: usize| there.contains(&index) || is_finished(folder, &plan.cells[index]);
    for cell in there.iter().map(|&index| &plan.cells[index]) {
        place_anew(&folder.join(CELLS).join(cell.name()), cell)?;
    }
    let kept = there.len();
    let mut outcome = GalleryOutcome { kept, ..GalleryOutcome::default() };
    tell(GalleryEvent::Planned { cells: all.count(), finished: kept })?;
    let mut index = LiveIndex::new(folder, Some(plan.cells.len()));
    if kept > 0 {
        index.refresh().ok(); // what is wrong with a page is said at the end
    }

    let mut loaded: Option<(&Cell, Result<Pipeline>)> = None;
    for pass in mine {
        let cells: Vec<&Cell> = pass.iter().map(|&index| &plan.cells[index]).collect();
        let missing: Vec<usize> = (0..cells.len()).filter(|&at| !finished(pass[at])).collect();
        if missing.is_empty() {
            continue;
        }
        let first = cells[0];
        if loaded.as_ref().is_none_or(|(cell, _)| !cell.same_checkpoint(first)) {
            drop(loaded.take()); // the old checkpoint leaves the memory before the next comes
            tell(GalleryEvent::Loading(first))?;
            let pipeline = plan.open(first, open).and_then(|(checkpoint, load)| Pipeline::load(&checkpoint, &load));
            let mut known = plan.cells.iter().enumerate().filter(|(_, cell)| cell.same_checkpoint(first));
            let known = known.find(|(index, _)| finished(*index));
            let pipeline = pipeline.and_then(|pipeline| match known {
                Some((_, known)) => check_digest(folder, known, &pipeline).map(|()| pipeline),
                None => Ok(pipeline),
            });
            if let Ok(pipeline) = &pipeline {
                tell(GalleryEvent::Loaded(pipeline))?;
            }
            loaded = Some((first, pipeline));
        }
        let Some((_, pipeline)) = &loaded else { continue };
        let given = pictures.iter().find(|(files, _)| first.init.as_ref() == Some(*files)).map(|(_, given)| given);
        let expect = plan.expect.as_ref();
        let job =
            SeedPass { folder, making: &making, aggregate, display, cells: &cells, missing: &missing, given, expect };
        let result = match pipeline {
            Ok(pipeline) => job.run(pipeline, &mut tell),
            Err(error) => Err(Error::input("checkpoint", error.to_string())),
        };
        let results: Vec<(usize, Result<()>)> = match result {
            Ok(results) => results,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // A pass that fails as a whole fails for each of its cells.
            Err(error) => {
                let failed = || Error::input("cell", error.to_string());
                missing.iter().map(|&at| (at, Err(failed()))).collect()
            }
        };
        let last = results.len();
        for (done, (at, result)) in results.into_iter().enumerate() {
            let failure = folder.join(FAILURES).join(format!("{}.json", cells[at].name()));
            match result {
                Ok(()) => {
                    outcome.made += 1;
                    std::fs::remove_file(&failure).ok(); // of an earlier try
                    tell(GalleryEvent::Made(cells[at]))?;
                }
                Err(error) => {
                    outcome.failed += 1;
                    std::fs::create_dir_all(folder.join(FAILURES)).map_err(Error::io(&failure))?;
                    let record = Failure { cell: cells[at].clone(), error: error.to_string() };
                    let json = serde_json::to_vec_pretty(&record).expect("plain data has a JSON form");
                    files::write_file(&failure, |out| out.write_all(&json))?;
                    tell(GalleryEvent::Failed(cells[at], &error))?;
                }
            }
            // Cells of one pass come together.
            if done + 1 == last {
                index.refresh().ok(); // what is wrong with a page is said at the end
            }
        }
    }
    std::fs::remove_dir(folder.join(FAILURES)).ok(); // only when it is empty
    // Cells may have been drawn again since they were made: all are read anew.
    LiveIndex::new(folder, Some(plan.cells.len())).write()?;
    Ok(outcome)
}

/// Whether the gallery in `folder` is one that `plan` goes on with. It was begun with the same
/// maps, and has no other cells than those of the plan, so that nothing mixes.
pub fn continues(folder: &Path, plan: &Plan, maps: (&Aggregate, &Display)) -> bool {
    let names: HashSet<String> = plan.cells.iter().map(Cell::name).collect();
    let cells = std::fs::read_dir(folder.join(CELLS)).into_iter().flatten().flatten();
    let cells = cells.map(|cell| cell.file_name().to_string_lossy().into_owned());
    is_gallery(folder)
        && super::batch::begun_with(folder, maps)
        && cells.filter(|name| !name.starts_with('.')).all(|name| names.contains(&name))
}

/// Refuses weights other than those of `known`, a finished cell of the same checkpoint by name:
/// files may have changed in the meantime.
pub(super) fn check_digest(folder: &Path, known: &Cell, pipeline: &Pipeline) -> Result<()> {
    let record = RunRecord::read(&folder.join(CELLS).join(known.name()))?;
    if record.checkpoint.digest == pipeline.digest() {
        return Ok(());
    }
    let reason = format!(
        "{} holds cells that were made with other weights of {} (digest {}, now {}); choose another folder",
        folder.display(),
        known.checkpoint_label(),
        record.checkpoint.digest,
        pipeline.digest()
    );
    Err(Error::argument(OUT, reason))
}

/// One pass: cells that differ in their seed alone.
struct SeedPass<'a> {
    folder: &'a Path,
    making: &'a Partial,
    aggregate: &'a Aggregate,
    display: &'a Display,
    cells: &'a [&'a Cell],
    /// Positions in `cells` of those to be written; all are computed, so that an image never
    /// depends on what was there.
    missing: &'a [usize],
    /// The picture that they set out from.
    given: Option<&'a LoadedInit>,
    /// What is expected of each image.
    expect: Option<&'a Expectations>,
}

impl SeedPass<'_> {
    fn run(
        &self,
        pipeline: &Pipeline,
        tell: &mut dyn FnMut(GalleryEvent) -> Result<()>,
    ) -> Result<Vec<(usize, Result<()>)>> {
        let cell = self.cells[0];
        let mut options = self.options(pipeline)?;
        pipeline.check(&options)?;
        let prompt = pipeline.prompt(&cell.prompt, &options)?;
        options.concepts = concepts_of_run(pipeline, &prompt, cell.concepts.as_deref(), &cell.probes)?;
        tell(GalleryEvent::Read { cell, pipeline, prompt: &prompt })?;
        let info = PromptInfo::from(&prompt);
        self.aggregate.check_encoder(&info)?;
        let (unconditional, text_queries) = (cell.trace_negative, cell.text_queries);
        let keep = RecordOptions { unconditional, text_queries, ..RecordOptions::for_maps(self.aggregate) };
        let (mut stopped, mut estimates) = (None, vec![Vec::new(); self.cells.len()]);
        let traced = pipeline.trace(&prompt, &options, keep, &mut |event| {
            let Event::Stepped { step, denoised, .. } = event else { return ControlFlow::Continue(()) };
            let kept = cell.keep_steps.is_some_and(|every| (step.index + 1).is_multiple_of(every as usize));
            let told = tell(GalleryEvent::Stepped).and_then(|()| match kept {
                true => self.estimate(pipeline, step.index, denoised, &mut estimates),
                false => Ok(()),
            });
            match told {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    stopped = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(error) = stopped {
            return Err(error);
        }
        let (traced, timings) = traced?;
        let write = |&at: &usize| {
            let made = (&traced[at], estimates[at].as_slice());
            let written = self.write(pipeline, &options, self.cells[at], made, (&prompt.cut_off, &info));
            let took =
                BTreeMap::from([("encode", timings.encode), ("steps", timings.steps), ("decode", timings.decode)]);
            let written = written.and_then(|()| {
                let file = self.folder.join(TIMINGS).join(format!("{}.json", self.cells[at].name()));
                let json = serde_json::json!({"cells_in_the_pass": self.cells.len(), "seconds": took}).to_string();
                files::write_file(&file, |out| out.write_all(json.as_bytes()))
            });
            (at, written)
        };
        Ok(self.missing.iter().map(write).collect())
    }

    /// What is expected, for the command of a cell.
    fn expected(&self) -> String {
        self.expect.map_or_else(String::new, |expect| format!(" --expect {}", run::quoted(&expect.to_string())))
    }

    /// Adds the estimate of each missing cell's image at `step`, from the latents of the pass.
    fn estimate(
        &self,
        pipeline: &Pipeline,
        step: usize,
        denoised: &Tensor,
        estimates: &mut [Vec<(usize, RgbImage)>],
    ) -> Result<()> {
        for &at in self.missing {
            estimates[at].push((step, pipeline.decode(&denoised.narrow(0, at, 1)?)?));
        }
        Ok(())
    }

    fn options(&self, pipeline: &Pipeline) -> Result<Options> {
        let cell = self.cells[0];
        let seeds = self.cells.iter().map(|cell| cell.seed).collect();
        let mut options = Options { seeds, probes: cell.probes.clone(), ..cell.sampling.resolve(pipeline) };
        if let Some(given) = self.given {
            given.put_into(&mut options, cell.sampling.size.is_some(), pipeline)?;
        }
        Ok(options)
    }

    fn write(
        &self,
        pipeline: &Pipeline,
        options: &Options,
        cell: &Cell,
        (traced, estimates): (&Traced, &[(usize, RgbImage)]),
        (cut_off, prompt): (&[String], &PromptInfo),
    ) -> Result<()> {
        let (name, image) = (cell.name(), &traced.generation.image);
        let things = self.expect.map(Expectations::looked_for);
        let sightings = things.map(|things| pipeline.look_for(image, &things)).transpose()?;
        let new = NewRun {
            kind: RunKind::Generate,
            pictures: Pictures {
                trace: &traced.trace,
                image,
                aggregate: self.aggregate,
                display: self.display,
                words: None,
            },
            by: By::Word,
            settings: pipeline.settings(options, cell.seed),
            negative: cell.sampling.negative.clone().filter(|negative| !negative.is_empty()),
            command: command(pipeline, cell, options)
                + &self.expected()
                + &run::map_options(self.aggregate, self.display, !options.concepts.is_empty()),
            expect: self.expect.zip(sightings.as_deref()),
            cut_off: cut_off.to_vec(),
            warnings: Vec::new(),
            timings: BTreeMap::new(),
        };
        place_cell(self.folder, self.making, &name, &new, &|folder, record| {
            run::save_steps(folder, estimates)?;
            options.init.iter().try_for_each(|init| init.save(folder))?;
            let maps = heatmap::aggregate(&traced.trace, self.aggregate, &prompt.words)?;
            // First: the page of a run that is a cell has the way back to the gallery.
            write_cell_files(folder, cell, record, image, &maps.words_per_step())?;
            report::write_as(folder, &Path::new(CELLS).join(&name)).map(drop)
        })
    }
}

/// Writes the run `new` of the cell `name` into the hidden folder `making`, with what `finish`
/// adds, and moves it into the gallery in `folder`.
pub(super) fn place_cell(
    folder: &Path,
    making: &Partial,
    name: &str,
    new: &NewRun,
    finish: &dyn Fn(&Path, &RunRecord) -> Result<()>,
) -> Result<()> {
    let made = making.path().join(name);
    run::write_run(&Target::named(&made, true), new, |folder, _, record| finish(folder, record))
        .map_err(|error| making.in_place(error, &folder.join(CELLS)))?;
    let place = folder.join(CELLS).join(name);
    // An interrupt removes what is made: half a cell would pass for a whole one.
    let put = || std::fs::rename(&made, &place);
    match files::unless_abandoned(put) {
        // Another process of the same shard was faster; its cell is the same.
        Err(_) if whole(&place).is_some() => Ok(()),
        // What is damaged is set aside, as the user may have files in it.
        Err(_) if place.is_dir() => {
            let aside = place.with_file_name(format!(".{name}.damaged-{}", std::process::id()));
            files::unless_abandoned(|| std::fs::rename(&place, &aside).and_then(|()| put())).map_err(Error::io(&place))
        }
        result => result.map_err(Error::io(&place)),
    }
}

/// The command that makes a cell's run alone.
fn command(pipeline: &Pipeline, cell: &Cell, options: &Options) -> String {
    let one = Options { seeds: vec![cell.seed], ..options.clone() };
    let mask = run::mask_option(cell.init.as_ref().and_then(|files| files.mask.as_deref()));
    let kept = cell.keep_steps.map_or_else(String::new, |every| format!(" --keep-steps {every}"));
    let negative = if cell.trace_negative { " --trace-negative" } else { "" };
    let text = if cell.text_queries { " --text-queries" } else { "" };
    pipeline.command(&cell.prompt, &one) + &mask + negative + text + &kept
}
