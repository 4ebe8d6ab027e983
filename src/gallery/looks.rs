//! A gallery of captioned pictures that are there already: each is looked at with its caption, and
//! a table tells which words are found.

use super::batch::begun_with;
use super::captions::Captioned;
use super::cell::{Cell, PictureLook};
use super::cell_files::{CellFacts, FILE, place_anew, write_cell_files};
use super::coverage_page;
use super::expect::{Expected, judge_cell};
use super::folder::{CELLS, FAILURES, Failure, MAKING, is_finished, is_gallery};
use super::index::write_index;
use super::make::{GalleryEvent, GalleryOutcome, check_digest, place_cell};
use crate::argument::{IMAGE, OUT};
use crate::facts::Coverage;
use crate::facts::expect::Expectations;
use crate::files::{self, Partial};
use crate::heatmap::{self, Aggregate};
use crate::picture::{METADATA_KEY, Metadata};
use crate::pipeline::{CheckpointChoice, LookOptions, Pipeline, RecordOptions};
use crate::prompt::Syntax;
use crate::render::Display;
use crate::run::{self, NewRun, Pictures, RegionFiles, Remake, Run, RunKind, RunRecord, Sampling, Threshold};
use crate::trace::{By, Grid, PromptInfo};
use crate::{Error, Result, picture, report};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The table's file in the gallery's folder.
pub const COVERAGE: &str = "coverage.json";

/// How captioned pictures are looked at.
#[derive(Debug, Clone)]
pub struct Looks<'a> {
    /// The checkpoint as it was chosen; the pipeline is of it.
    pub choice: &'a CheckpointChoice,
    /// Levels; seed, and how captions are read, of pictures that do not say it themselves.
    pub options: LookOptions,
    /// Rows and columns that all pictures are shown at; near the checkpoint's own where `None`.
    pub size: Option<Grid>,
    /// The maps.
    pub aggregate: &'a Aggregate,
    /// How they are drawn.
    pub display: &'a Display,
    /// What the words of captions are.
    pub by: By,
    /// Whether the maps of single levels are kept.
    pub per_level: bool,
    /// What is expected of every picture whose caption has the words.
    pub expect: Option<&'a Expectations>,
    /// Which files of the words' regions each picture's run gets.
    pub regions: Option<(Threshold, RegionFiles)>,
}

/// What `coverage.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoverageFile {
    /// 1.
    pub format_version: u32,
    /// What the words of captions are.
    #[serde(default, skip_serializing_if = "By::is_word")]
    pub by: By,
    /// The table; `missing` names cells.
    #[serde(flatten)]
    pub coverage: Coverage,
}

impl Looks<'_> {
    /// The cell of a picture at place `order`, whose bytes have the digest `sha256`.
    fn cell(&self, captioned: &Captioned, caption: &str, sha256: String, order: usize) -> Cell {
        let load = &self.choice.load;
        let mut syntax = self.options.syntax;
        syntax.emphasis |= captioned.syntax.emphasis;
        syntax.long |= captioned.syntax.long;
        let sampling = Sampling {
            negative: captioned.metadata.as_ref().and_then(|metadata| metadata.negative.clone()),
            emphasis: Some(syntax.emphasis),
            long: Some(syntax.long),
            size: self.size.map(|size| [size.height, size.width]),
            clip_skip: Some(self.options.clip_skip).filter(|layers| *layers > 0).or(captioned.clip_skip),
            ..Sampling::default()
        };
        Cell {
            prompt: caption.to_owned(),
            base: caption.to_owned(),
            model: self.choice.source.to_string(),
            changes: self.choice.changes.clone(),
            dtype: load.dtype_named_unless_usual(),
            device: load.device_named_unless_usual(),
            sampling,
            look: Some(PictureLook {
                picture: captioned.picture.clone(),
                sha256,
                levels: self.options.levels.clone(),
                by: self.by,
            }),
            seed: captioned.seed.unwrap_or(self.options.seed),
            order,
            ..Cell::default()
        }
    }

    /// Looks at each of `pictures` with `pipeline`, and writes the gallery's page and its table
    /// into `folder`. What an earlier try finished is kept, and judged and given files of regions
    /// as asked now. What cannot be looked at is recorded, and the rest goes on. Beside the table
    /// it returns how many pictures are as expected.
    ///
    /// # Errors
    /// [`Error::Argument`] when cells of other weights are there, or a table of the user's;
    /// [`Error::Io`] when the folder cannot be written; [`Error::Interrupted`] when `progress`
    /// breaks.
    pub fn make(
        &self,
        folder: &Path,
        pictures: &[Captioned],
        pipeline: &Pipeline,
        progress: &mut dyn FnMut(GalleryEvent) -> ControlFlow<()>,
    ) -> Result<(GalleryOutcome, Coverage, Expected)> {
        check_coverage(folder)?;
        // Removed when this ends, and by the interrupt handler. Two processes may look at the same.
        let making = Partial::beside(&folder.join(MAKING));
        for path in [making.path(), folder.join(CELLS).as_path()] {
            std::fs::create_dir_all(path).map_err(Error::io(path))?;
        }
        files::sweep(folder);
        files::sweep(&folder.join(CELLS));
        let mut tell = |event: GalleryEvent| match progress(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        };
        tell(GalleryEvent::Planned { cells: pictures.len(), finished: 0 })?;
        let (mut outcome, mut names, mut checked) = (GalleryOutcome::default(), Vec::new(), false);
        let (mut expected, mut failed) = (Expected::default(), HashSet::new());
        for (order, captioned) in pictures.iter().enumerate() {
            let mut captioned = captioned.clone();
            // Such a family knows neither brackets nor chunks, whatever the picture's program does.
            if pipeline.family().flows() {
                captioned.syntax = Syntax::default();
            }
            let (cell, done) = match self.read(&captioned, order) {
                Ok((cell, image)) => {
                    let done = match is_finished(folder, &cell) {
                        // One tells of all: they are of one checkpoint.
                        true if !checked => check_digest(folder, &cell, pipeline).map(|()| {
                            checked = true;
                            false
                        })?,
                        true => false,
                        false => true,
                    };
                    let looked_at = (&cell, captioned.metadata.as_ref());
                    let made =
                        if done { self.look(folder, &making, looked_at, &image, pipeline, &mut tell) } else { Ok(()) };
                    let complete = made.and_then(|()| self.complete(folder, &cell, pipeline, &mut expected));
                    (cell, complete.map(|()| done))
                }
                Err((cell, reason)) => (*cell, Err(Error::argument(IMAGE, reason))),
            };
            let failure = folder.join(FAILURES).join(format!("{}.json", cell.name()));
            match done {
                Ok(made) => {
                    std::fs::remove_file(&failure).ok(); // of an earlier try
                    outcome.made += usize::from(made);
                    outcome.kept += usize::from(!made);
                    names.push(cell.name());
                    tell(GalleryEvent::Made(&cell))?;
                }
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    outcome.failed += 1;
                    std::fs::create_dir_all(folder.join(FAILURES)).map_err(Error::io(&failure))?;
                    files::write_json(&failure, &Failure { cell: cell.clone(), error: error.to_string() })?;
                    failed.insert(failure);
                    tell(GalleryEvent::Failed(&cell, &error))?;
                }
            }
        }
        forget_failures(folder, pictures, &failed);
        let coverage = write_coverage(folder, &names, self.by)?;
        write_index(folder)?;
        Ok((outcome, coverage, expected))
    }

    /// Judges the finished `cell` and gives it its place and the files of its regions, where an
    /// earlier try did not.
    fn complete(&self, folder: &Path, cell: &Cell, pipeline: &Pipeline, expected: &mut Expected) -> Result<()> {
        let place = folder.join(CELLS).join(cell.name());
        place_anew(&place, cell)?;
        if let Some(expect) = self.expect {
            let met = judge_cell(&place, expect, &mut |image, things| pipeline.look_for(image, things))?;
            expected.count(met);
        }
        if let Some((threshold, files)) = self.regions {
            let run = Run::open(&place)?;
            let trace = run.trace()?.by(self.by);
            let words = trace.about.prompt.words.clone();
            let (aggregate, display) = (self.aggregate, self.display);
            let choices = Remake { aggregate, display, words: Some(&words), asked: None };
            choices.regions(&trace, &place, threshold, files)?;
        }
        Ok(())
    }

    /// A picture and the cell that it becomes; where there is none, a cell that stands for it and
    /// why.
    fn read(
        &self,
        captioned: &Captioned,
        order: usize,
    ) -> std::result::Result<(Cell, image::RgbImage), (Box<Cell>, String)> {
        let none = |reason: String| {
            let name = captioned.picture.display().to_string();
            (Box::new(self.cell(captioned, &name, String::new(), order)), reason)
        };
        let path = &captioned.picture;
        let image = picture::read(path, IMAGE).map_err(|error| match error {
            Error::Argument { reason, .. } => none(reason),
            other => none(other.to_string()),
        })?;
        let caption = captioned.caption.as_ref().map_err(|reason| none(format!("{}: {reason}", path.display())))?;
        // What is looked at is what is told apart: equal pictures of two files are two cells.
        let digest = Sha256::digest(image.as_raw());
        let hex = crate::text::hex(&digest[..8]);
        Ok((self.cell(captioned, caption, hex, order), image))
    }

    /// Looks at one picture and puts its run into the gallery, with what the picture's own metadata
    /// says where the caption is from there.
    fn look(
        &self,
        folder: &Path,
        making: &Partial,
        (cell, metadata): (&Cell, Option<&Metadata>),
        image: &image::RgbImage,
        pipeline: &Pipeline,
        tell: &mut dyn FnMut(GalleryEvent) -> Result<()>,
    ) -> Result<()> {
        let size = match self.size {
            Some(size) => size,
            None => pipeline.fit_picture(image, IMAGE)?,
        };
        pipeline.check_size(size)?;
        let options = LookOptions {
            syntax: cell.sampling.syntax(),
            clip_skip: cell.sampling.clip_skip.unwrap_or_default(),
            seed: cell.seed,
            ..self.options.clone()
        };
        let run = pipeline.look_run(size, &options);
        let prompt = pipeline.prompt(&cell.prompt, &run)?;
        let image = picture::resize(image, size.width as u32, size.height as u32);
        let mut stopped = false;
        let keep = RecordOptions { per_step: self.per_level, ..RecordOptions::for_maps(self.aggregate) };
        let trace =
            pipeline.trace_picture(&image, &prompt, &options, &keep, &mut || match tell(GalleryEvent::Stepped) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => {
                    stopped = true;
                    ControlFlow::Break(())
                }
            });
        if stopped {
            return Err(Error::Interrupted);
        }
        let trace = trace?;
        let mut settings = pipeline.look_settings(&options, size);
        let file = cell.look.as_ref().map(|look| look.picture.display().to_string()).unwrap_or_default();
        settings.picture = Some(file.clone());
        if let Some(metadata) = metadata {
            let record = serde_json::to_value(metadata).expect("plain data has a JSON form");
            settings.more.insert(METADATA_KEY.into(), record);
        }
        let words = PromptInfo::from(&prompt).by(self.by).words;
        let new = NewRun {
            kind: RunKind::Trace,
            pictures: Pictures {
                trace: &trace,
                image: &image,
                aggregate: self.aggregate,
                display: self.display,
                words: Some(&words),
            },
            by: self.by,
            settings,
            negative: cell.sampling.negative.clone(),
            command: self.command(cell, &file, metadata),
            expect: None,
            cut_off: prompt.cut_off.clone(),
            warnings: Vec::new(),
            timings: BTreeMap::new(),
        };
        let name = cell.name();
        place_cell(folder, making, &name, &new, &|folder, record| {
            let maps = heatmap::aggregate(&trace, self.aggregate, &words)?;
            // First: the page of a run that is a cell has the way back to the gallery.
            write_cell_files(folder, cell, record, &image, &maps.words_per_step())?;
            report::write_as(folder, &Path::new(CELLS).join(&name)).map(drop)
        })
    }

    /// The command that looks at one picture alone, and records its `metadata` where the gallery
    /// does.
    fn command(&self, cell: &Cell, file: &str, metadata: Option<&Metadata>) -> String {
        let file = if file.starts_with('-') { format!("./{file}") } else { file.to_owned() };
        let mut words = vec!["attnmap trace".to_owned(), run::quoted(&file)];
        words.push(format!("--caption {}", run::quoted(&cell.prompt)));
        if cell.model != "embedded" {
            words.push(format!("--model {}", run::quoted(&cell.model)));
        }
        for (argument, value) in cell.changes.arguments() {
            words.push(format!("{} {}", argument.option(), run::quoted(&value)));
        }
        words.extend(cell.dtype.iter().map(|name| format!("--dtype {name}")));
        words.extend(cell.device.iter().map(|name| format!("--device {name}")));
        words.extend(cell.sampling.get("size").map(|size| format!("--size {size}")));
        words.extend(cell.sampling.get("clip_skip").map(|layers| format!("--clip-skip {layers}")));
        let levels: Vec<String> = self.options.levels.iter().map(ToString::to_string).collect();
        words.push(format!("--levels {}{}", levels.join(","), run::by_option(self.by)));
        words.extend(cell.sampling.syntax().switches().map(|name| format!("--{name}")));
        words.extend(metadata.is_none().then(|| "--no-metadata".to_owned()));
        words.push(format!("--seed {}", cell.seed));
        words.join(" ") + &run::map_options(self.aggregate, self.display, false)
    }
}

/// Removes what earlier tries could not look at, but for the files `failed` of this one. Without a
/// caption a picture has another name, and one that is gone is not asked for any more.
fn forget_failures(folder: &Path, pictures: &[Captioned], failed: &HashSet<PathBuf>) {
    let asked: HashSet<&Path> = pictures.iter().map(|captioned| captioned.picture.as_path()).collect();
    let over = |file: &PathBuf| -> Option<bool> {
        let failure: Failure = serde_json::from_slice(&files::read(file).ok()?).ok()?;
        let picture = failure.cell.look?.picture;
        Some(asked.contains(picture.as_path()) || !picture.exists())
    };
    let there = std::fs::read_dir(folder.join(FAILURES)).into_iter().flatten().flatten().map(|entry| entry.path());
    for file in there.filter(|file| !failed.contains(file) && over(file) == Some(true)) {
        std::fs::remove_file(file).ok();
    }
    std::fs::remove_dir(folder.join(FAILURES)).ok(); // only when it is empty
}

/// Whether the gallery in `folder` is one that a look at `pictures` goes on with: its maps are made
/// in the same way, and it has one of them, or none yet.
pub fn goes_on(folder: &Path, pictures: &[Captioned], maps: (&Aggregate, &Display)) -> bool {
    let asked: HashSet<&Path> = pictures.iter().map(|captioned| captioned.picture.as_path()).collect();
    let cells = std::fs::read_dir(folder.join(CELLS)).into_iter().flatten().flatten();
    let cells = cells.filter_map(|entry| {
        let facts: CellFacts = serde_json::from_slice(&files::read(&entry.path().join(FILE)).ok()?).ok()?;
        Some(facts.cell.look.is_some_and(|look| asked.contains(look.picture.as_path())))
    });
    let mut cells = cells.peekable();
    is_gallery(folder) && begun_with(folder, maps) && (cells.peek().is_none() || cells.any(|own| own))
}

/// Refuses a folder where a table of the user's has the name of this one's.
fn check_coverage(folder: &Path) -> Result<()> {
    let file = folder.join(COVERAGE);
    if file.symlink_metadata().is_ok() && !files::has_fields(&file, &["format_version", "pictures", "words"]) {
        let reason = format!("{} is not attnmap's and stays; move it away, or write elsewhere", file.display());
        return Err(Error::argument(OUT, reason));
    }
    files::check_own(&folder.join(coverage_page::PAGE), OUT)
}

/// Writes `coverage.json` and the page of the table from the cells `names` of the gallery in
/// `folder`.
fn write_coverage(folder: &Path, names: &[String], by: By) -> Result<Coverage> {
    let mut facts = Vec::new();
    let mut pictures = BTreeMap::new();
    for name in names {
        let place = folder.join(CELLS).join(name);
        let record = RunRecord::read(&place)?;
        let damaged = |reason: String| Error::Trace { file: place.join(FILE), reason };
        let bytes = files::read(&place.join(FILE)).map_err(Error::io(place.join(FILE)))?;
        let cell: CellFacts = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        pictures.insert(name.clone(), cell.cell);
        facts.extend(record.facts.map(|facts| (name.as_str(), facts)));
    }
    let coverage = Coverage::of(facts.iter().map(|(name, facts)| (*name, facts)));
    let file = CoverageFile { format_version: 1, by, coverage: coverage.clone() };
    files::write_json(&folder.join(COVERAGE), &file)?;
    coverage_page::write(folder, &coverage, &pictures)?;
    Ok(coverage)
}
