//! A prompt becomes a run folder with its page, told step by step; and what is to be said of a
//! prompt before.

mod concepts;
mod warnings;

pub use concepts::{concepts_of_run, texts_of_run};
pub use warnings::{adapter_warnings, missing_word, shortened, some_of, unread_syntax, warnings};

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use image::RgbImage;

use crate::facts::expect::Expectations;
use crate::files::Target;
use crate::heatmap::Aggregate;
use crate::pipeline::{Event, Options, Pipeline, RecordOptions, Timings, Traced};
use crate::prompt::Prompt;
use crate::render::Display;
use crate::run::{self, NewRun, Pictures, RegionFiles, RunKind, RunRecord, Threshold};
use crate::trace::{AttentionObserver, By, PromptInfo, QUERIES, WordInfo};
use crate::{Result, report};

/// What all runs of one prompt have in common.
pub struct Maker<'a> {
    /// The checkpoint.
    pub pipeline: &'a Pipeline,
    /// The prompt, as [`Pipeline::prompt`] reads it.
    pub prompt: &'a Prompt,
    /// What is recorded beside the sums over the steps.
    pub keep: RecordOptions,
    /// Keep the estimate of the image at every so many steps, from 1.
    pub keep_steps: Option<u32>,
    /// How the maps are made.
    pub aggregate: Aggregate,
    /// How they are drawn.
    pub display: Display,
    /// What the words of the prompt are.
    pub by: By,
    /// The words to show; all of the prompt's and the probes when `None`.
    pub words: Option<Vec<WordInfo>>,
    /// What is expected of each image.
    pub expect: Option<&'a Expectations>,
    /// Which files of the words' regions are written.
    pub regions: Option<(Threshold, RegionFiles)>,
    /// What the user was warned of.
    pub warnings: Vec<String>,
    /// Seconds that loading the checkpoint took, where it was loaded for these runs.
    pub loading: Option<f64>,
}

/// What is told while a run is made.
#[derive(Debug)]
pub enum RunEvent<'a> {
    /// What the pipeline tells.
    Event(Event<'a>),
    /// The estimate of the image at a step, counted from 0, where it is kept.
    Estimate(usize, &'a RgbImage),
    /// Image and trace are there. Pictures and the page are made of them next.
    Traced(&'a Traced),
}

impl Maker<'_> {
    /// Finds a choice of sites or encoder that the network does not have before the first step, and
    /// not after the last.
    ///
    /// # Errors
    /// As [`Aggregate::choose`] and [`Aggregate::silent`].
    pub fn check(&self, options: &Options) -> Result<()> {
        let sites = self.pipeline.sites(options.height, options.width);
        self.aggregate.choose(&sites, self.pipeline.latent_grid(options))?;
        self.aggregate.check_encoder(&PromptInfo::from(self.prompt))
    }

    /// Makes the run of `options`, which has one seed, at `target`. `observer` is told of attention
    /// beside the recorder, and `progress` of what is done. Returns the run's folder and what its
    /// `run.json` says.
    ///
    /// # Errors
    /// As [`Pipeline::trace`] and [`run::write_run`];
    /// [`Error::Interrupted`](crate::Error::Interrupted) when `progress` breaks.
    pub fn make(
        &self,
        options: &Options,
        target: &Target,
        command: String,
        observer: &mut dyn AttentionObserver,
        progress: &mut dyn FnMut(RunEvent) -> ControlFlow<()>,
    ) -> Result<(PathBuf, RunRecord)> {
        let mut estimates = Vec::new();
        let (traced, timings) = self.denoise(options, &mut estimates, observer, progress)?;
        if progress(RunEvent::Traced(&traced[0])).is_break() {
            return Err(crate::Error::Interrupted);
        }
        let Traced { generation, trace, queries } = &traced[0];
        let mut timings = BTreeMap::from([
            ("encode".to_owned(), timings.encode),
            ("steps".to_owned(), timings.steps),
            ("decode".to_owned(), timings.decode),
        ]);
        timings.extend(self.loading.map(|seconds| ("load".to_owned(), seconds)));
        let things = self.expect.map(Expectations::looked_for);
        let sightings = things.map(|things| self.pipeline.look_for(&generation.image, &things)).transpose()?;
        let new = NewRun {
            kind: RunKind::Generate,
            pictures: Pictures {
                trace,
                image: &generation.image,
                aggregate: &self.aggregate,
                display: &self.display,
                words: self.words.as_deref(),
            },
            by: self.by,
            settings: self.pipeline.settings(options, generation.seed),
            negative: Some(options.negative.clone()).filter(|negative| !negative.is_empty()),
            command,
            expect: self.expect.zip(sightings.as_deref()),
            cut_off: self.prompt.cut_off.clone(),
            warnings: self.warnings.clone(),
            timings,
        };
        run::write_run(target, &new, |folder, place, _| {
            run::save_steps(folder, &estimates)?;
            queries.iter().try_for_each(|queries| queries.save(&folder.join(QUERIES)))?;
            options.init.iter().try_for_each(|init| init.save(folder))?;
            run::save_regions(&new.pictures, folder, self.regions)?;
            report::write_as(folder, place).map(drop)
        })
    }

    /// Runs the steps; the image's estimates that are kept go to `estimates`.
    fn denoise(
        &self,
        options: &Options,
        estimates: &mut Vec<(usize, RgbImage)>,
        observer: &mut dyn AttentionObserver,
        progress: &mut dyn FnMut(RunEvent) -> ControlFlow<()>,
    ) -> Result<(Vec<Traced>, Timings)> {
        let mut failed = None;
        let mut tell = |event: Event| {
            let kept = match &event {
                Event::Stepped { step, denoised, .. } => {
                    let kept = self.keep_steps.is_some_and(|every| (step.index + 1).is_multiple_of(every as usize));
                    kept.then(|| self.pipeline.decode(denoised).map(|image| (step.index, image)))
                }
                _ => None,
            };
            match kept {
                Some(Err(error)) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
                Some(Ok((step, image))) => {
                    progress(RunEvent::Estimate(step, &image))?;
                    estimates.push((step, image));
                }
                None => {}
            }
            progress(RunEvent::Event(event))
        };
        let done = self.pipeline.trace_with(self.prompt, options, self.keep.clone(), observer, &mut tell);
        failed.map_or(done, Err)
    }
}
