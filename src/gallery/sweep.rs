//! A prompt swept over many seeds: the runs, what their maps have in common, and the folder that
//! shows it.

use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use serde_json::Value;

use super::sweep_page::{self, Around, MEAN, seed_file};
use crate::facts::expect::Expectations;
use crate::facts::sweep::{Collector, FILE, Sweep, SweepInfo};
use crate::figures::largest;
use crate::files::{Kind, Staging, Target, has_fields, is_own, write_file, write_json};
use crate::heatmap::{self, Aggregate, Measure, QuerySource, THRESHOLD};
use crate::pipeline::{Event, Options, Pipeline, RecordOptions};
use crate::prompt::Prompt;
use crate::render::{Base, Display, Sheet, Tile, Typesetter, contact_sheet, overlay, write_png};
use crate::run::{RunRecord, by_option, map_options, mask_option, run_name, sweep_name};
use crate::trace::{By, CheckpointInfo, PromptInfo, WordInfo, probe_words};
use crate::{Error, Result, plural};

/// A sweep's folder: one whose `sweep.json` reads as one.
pub const SWEEP: Kind = Kind {
    name: "a sweep",
    is: |folder| has_fields(&folder.join(FILE), &["prompt", "seeds", "words"]),
    owns: |folder| {
        let seeds = Sweep::read(folder).ok().flatten().map(|sweep| sweep.seeds).unwrap_or_default();
        let folder = folder.to_path_buf();
        Box::new(move |path| {
            let marked = [PICTURE, PAGE, MEAN].iter().any(|own| path == Path::new(own)) && is_own(&folder.join(path));
            path == Path::new(FILE) || marked || seeds.iter().any(|&seed| path == Path::new(&seed_file(seed)))
        })
    },
};

const PICTURE: &str = "sweep.png";
const PAGE: &str = "index.html";

/// A prompt over many seeds.
#[derive(Debug, Clone)]
pub struct Swept {
    /// What was found.
    pub found: Sweep,
    /// The mean of all images.
    pub mean: RgbImage,
    /// The image of each seed, as PNG.
    images: Vec<Vec<u8>>,
    /// The command line that makes the run of the first seed.
    command: String,
    collector: Collector,
    /// Each word with its share of attention in the last run.
    words: Vec<(String, f32)>,
}

/// What is asked of every seed's image.
#[derive(Debug, Clone, Copy, Default)]
pub struct SweepRequest<'a> {
    /// The words to look at; all of the prompt's where `None`.
    pub words: Option<&'a [WordInfo]>,
    /// What is expected.
    pub expect: Option<&'a Expectations>,
    /// The file of the mask of [`Options::init`], for the command line of a seed.
    pub mask: Option<&'a Path>,
    /// What the words are, for that command line.
    pub by: By,
}

/// Runs `prompt` once per seed of `options` and collects what is `asked` of its words' maps, those
/// of the probes of `options` too. `progress` is told of every finished seed.
///
/// # Errors
/// [`Error::Argument`] for what [`Pipeline::check`] refuses; [`Error::Interrupted`] when `progress`
/// breaks.
pub fn sweep(
    pipeline: &Pipeline,
    prompt: &Prompt,
    options: &Options,
    aggregate: &Aggregate,
    SweepRequest { words, expect, mask, by }: SweepRequest,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Swept> {
    pipeline.check(options)?;
    aggregate.choose(&pipeline.sites(options.height, options.width), pipeline.latent_grid(options))?;
    let info = PromptInfo::from(prompt);
    aggregate.check_encoder(&info)?;
    let mut every = info.words.clone();
    if aggregate.measure == Measure::Concepts {
        // Words that are no concept have no map.
        let concepts = pipeline.concepts(prompt, options)?;
        let places = concepts.iter().filter_map(|concept| info.select(&concept.text).ok()).flatten();
        let mapped: Vec<usize> = places.flat_map(|word| word.tokens).collect();
        every.retain(|word| word.tokens.iter().any(|token| mapped.contains(token)));
    }
    every.extend(probe_words(&info, &pipeline.probe_infos(&options.probes)?));
    let (chosen, words) = (words.is_some(), words.unwrap_or(&every));
    let mut collector = Collector::new(SweepInfo {
        prompt: info.text.clone(),
        checkpoint: CheckpointInfo { id: pipeline.id().to_owned(), digest: pipeline.digest().to_owned() },
        how: aggregate.into(),
        negative: options.negative.clone(),
        settings: settings(pipeline, options),
    });
    let (mut shares, mut sums, mut images) = (Vec::new(), Vec::<f32>::new(), Vec::new());
    for &seed in &options.seeds {
        let one = Options { seeds: vec![seed], ..options.clone() };
        let (per_step, text_queries) = (aggregate.steps.is_some(), aggregate.queries == QuerySource::Text);
        let keep = RecordOptions { per_step, text_queries, ..RecordOptions::for_maps(aggregate) };
        let (mut traced, _) = pipeline.trace(prompt, &one, keep, &mut |_: Event| ControlFlow::Continue(()))?;
        let traced = traced.swap_remove(0);
        let maps = heatmap::aggregate(&traced.trace, aggregate, words)?;
        let whole = match chosen {
            true => Some(heatmap::aggregate(&traced.trace, aggregate, &info.words)?),
            false => None,
        };
        collector.add(seed, &maps, whole.as_ref());
        if let Some(expect) = expect {
            let sightings = pipeline.look_for(&traced.generation.image, &expect.looked_for())?;
            collector.expect(expect.check(&traced.trace.by(by), aggregate, THRESHOLD, &sightings)?);
        }
        let pixels = traced.generation.image.as_raw();
        sums.resize(pixels.len(), 0.0);
        sums.iter_mut().zip(pixels).for_each(|(sum, &value)| *sum += f32::from(value));
        let mut png = Cursor::new(Vec::new());
        let encoded = traced.generation.image.write_to(&mut png, ImageFormat::Png);
        encoded.map_err(|error| Error::input("image", error.to_string()))?;
        images.push(png.into_inner());
        shares = maps.chosen.iter().map(|word| (word.label(), maps.share(word))).collect();
        if progress(seed).is_break() {
            return Err(Error::Interrupted);
        }
    }
    let count = options.seeds.len() as f32;
    let mean = sums.iter().map(|sum| (sum / count).round() as u8).collect();
    let mean = RgbImage::from_raw(options.width as u32, options.height as u32, mean).expect("three bytes a pixel");
    let first = Options { seeds: options.seeds.iter().copied().take(1).collect(), ..options.clone() };
    let text_queries = if aggregate.queries == QuerySource::Text { " --text-queries" } else { "" };
    let maps = map_options(aggregate, &Display::default(), !options.concepts.is_empty());
    let command = pipeline.command(&prompt.text, &first) + &mask_option(mask) + &by_option(by) + text_queries + &maps;
    Ok(Swept { found: collector.finish(), mean, images, command, collector, words: shares })
}

/// What all runs were made with, as `run.json` says it; the seed is each run's own.
fn settings(pipeline: &Pipeline, options: &Options) -> Option<Value> {
    serde_json::to_value(pipeline.settings(options, 0)).ok()
}

impl Swept {
    /// Writes the folder `target` with `sweep.json`, `sweep.png`, `mean.png`, the images of the
    /// seeds and `index.html`, whole or not at all, and returns its place.
    ///
    /// # Errors
    /// [`Error::Argument`] when the target may not be replaced; [`Error::Io`].
    pub fn write(&self, target: &Target) -> Result<PathBuf> {
        let staging = Staging::new(target, &SWEEP)?;
        self.fill(staging.path(), staging.place()).map_err(|error| staging.in_place(error))?;
        staging.commit(|_, _| Ok(()))
    }

    /// Fills `folder`, which is to stand at `place`.
    fn fill(&self, folder: &Path, place: &Path) -> Result<()> {
        let title = self.found.about.prompt.as_str();
        write_png(&folder.join(PICTURE), &self.picture()?, &[("Description", title)], true)?;
        write_png(&folder.join(MEAN), &self.mean, &[("Description", title)], false)?;
        let seeds = &self.found.seeds;
        fs::create_dir_all(folder.join("seeds")).map_err(Error::io(folder))?;
        for (seed, image) in seeds.iter().zip(&self.images) {
            write_file(&folder.join(seed_file(*seed)), |file| file.write_all(image))?;
        }
        // The sweep's folder is not there yet. A slug has no letter that means something in an
        // address.
        let page_of = |&seed: &u64| {
            let (run, _) = self.runs_beside(place, seed).into_iter().next()?;
            Some(format!("../{}/report.html", run.file_name()?.to_string_lossy()))
        };
        let runs: Vec<Option<String>> = seeds.iter().map(page_of).collect();
        let around = Around { size: self.mean.dimensions(), command: &self.command, runs: &runs };
        let page = sweep_page::page(&self.found, &around);
        write_file(&folder.join(PAGE), |file| file.write_all(page.as_bytes()))?;
        write_json(&folder.join(FILE), &self.found)
    }

    /// The folders of the runs that lie beside the sweep in `folder` and whose pages link to it.
    /// They have the same prompt, settings and maps. There are none where it has not a name that
    /// pages look for.
    pub fn runs(&self, folder: &Path) -> Vec<PathBuf> {
        let about = &self.found.about;
        let named = beside(folder, &sweep_name(&about.prompt));
        if !named.iter().any(|sweep| sweep.file_name() == folder.file_name()) {
            return Vec::new();
        }
        let runs = self.found.seeds.iter().flat_map(|&seed| self.runs_beside(folder, seed));
        let linked = runs.filter(|(_, record)| about.fits(&record.about(record.saved_aggregate())));
        linked.map(|(run, _)| run).collect()
    }

    /// The runs of `seed` that lie beside `folder` and have a page, of the same prompt and
    /// settings.
    fn runs_beside(&self, folder: &Path, seed: u64) -> Vec<(PathBuf, RunRecord)> {
        let about = &self.found.about;
        let read = |run: PathBuf| {
            let record = RunRecord::read(&run).ok()?;
            let same = record.settings.seed == seed && record.about(about.how.clone()).fits(about);
            (same && run.join("report.html").is_file()).then_some((run, record))
        };
        beside(folder, &run_name(&about.prompt, seed)).into_iter().filter_map(read).collect()
    }

    /// The mean image and, over it, each word's mean map.
    fn picture(&self) -> Result<RgbImage> {
        let display = Display::default();
        let base = Base::new(&self.mean, display.overlay_size)?;
        let (maps, grid) = (self.collector.mean_maps(), self.collector.grid());
        let highest = |map: &[f32]| largest(map.iter().copied());
        let top = highest(&maps);
        let maps: Vec<&[f32]> = maps.chunks_exact(grid.cells()).collect();
        let overlays: Vec<RgbImage> = maps.iter().map(|map| overlay(&base, map, grid, top, &display)).collect();
        let tiles = self.words.iter().zip(&overlays).zip(&maps);
        let tiles: Vec<Tile> = tiles
            .map(|(((label, share), overlay), map)| Tile { label, overlay, top, peak: highest(map), share: *share })
            .collect();
        let subtitle =
            format!("mean over {}  ·  {}", plural(self.found.seeds.len(), "seed"), self.found.about.how.aggregate);
        let note = "Image and maps are means over all seeds; one colour scale for all words. Attention shows where \
        the model looked, not why.";
        let sheet = Sheet { title: &self.found.about.prompt, subtitle: &subtitle, note };
        Ok(contact_sheet(&base, &tiles, &sheet, &display, &mut Typesetter::new()))
    }
}

/// What lies beside `folder` under `name`, and under the names that it counts up to.
fn beside(folder: &Path, name: &str) -> Vec<PathBuf> {
    let parent = folder.file_name().and(folder.parent());
    parent.map_or_else(Vec::new, |parent| Target::generated(parent.join(name), false).taken())
}
