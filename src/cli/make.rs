//! Making runs of a prompt behind a progress bar, for `generate` and for `explain` with a prompt.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use attnmap::files::Target;
use attnmap::heatmap::Aggregate;
use attnmap::pipeline::{Event, Keep, Options, Pipeline, Timings, Traced};
use attnmap::prompt::Prompt;
use attnmap::render::Display;
use attnmap::run::{self, NewRun, Pictures, RunKind, RunRecord};
use attnmap::trace::WordInfo;
use attnmap::{Result, report};
use image::RgbImage;

use super::print::Terminal;

/// What all runs of one command have in common.
pub struct Maker<'a> {
    pub pipeline: &'a Pipeline,
    pub prompt: &'a Prompt,
    pub keep: Keep,
    /// Keep the estimate of the image at every so many steps.
    pub keep_steps: Option<u32>,
    pub aggregate: Aggregate,
    pub display: Display,
    /// The words to show; all of the prompt's and the probes when `None`.
    pub words: Option<Vec<WordInfo>>,
    pub warnings: Vec<String>,
    /// Seconds that loading the checkpoint took, where it was loaded for these runs.
    pub loading: Option<f64>,
}

impl Maker<'_> {
    /// Finds a choice of sites that the network does not have now, and not after the last step.
    pub fn check(&self, options: &Options) -> Result<()> {
        let sites = self.pipeline.sites(options.height, options.width);
        self.aggregate.choose(&sites, self.pipeline.latent_grid(options)).map(drop)
    }

    /// Makes the run of `options`, which has one seed, at `target`. Returns its folder.
    pub fn make(
        &self,
        options: &Options,
        target: &Target,
        command: String,
        terminal: &Terminal,
    ) -> Result<(PathBuf, RunRecord)> {
        let mut estimates = Vec::new();
        let (traced, timings) =
            self.denoise(options, self.keep_steps.map(|every| (every, &mut estimates)), terminal)?;
        let Traced { generation, trace } = &traced[0];
        let mut timings = BTreeMap::from([
            ("encode".to_owned(), timings.encode),
            ("steps".to_owned(), timings.steps),
            ("decode".to_owned(), timings.decode),
        ]);
        timings.extend(self.loading.map(|seconds| ("load".to_owned(), seconds)));
        let new = NewRun {
            kind: RunKind::Generate,
            pictures: Pictures {
                trace,
                image: &generation.image,
                aggregate: &self.aggregate,
                display: &self.display,
                words: self.words.as_deref(),
            },
            settings: self.pipeline.settings(options, generation.seed),
            negative: Some(options.negative.clone()).filter(|negative| !negative.is_empty()),
            command,
            cut_off: self.prompt.cut_off.clone(),
            warnings: self.warnings.clone(),
            timings,
        };
        let spinner = terminal.spinner("drawing");
        let made = run::write_run(target, &new, |folder, place, _| {
            run::save_steps(folder, &estimates)?;
            options.init.iter().try_for_each(|init| init.save(folder))?;
            report::write_as(folder, place).map(drop)
        });
        spinner.finish_and_clear();
        made
    }

    /// Runs the steps behind a progress bar; `estimates` is told every how many steps the image's estimate is kept, and where.
    fn denoise(
        &self,
        options: &Options,
        mut estimates: Option<(u32, &mut Vec<(usize, RgbImage)>)>,
        terminal: &Terminal,
    ) -> Result<(Vec<Traced>, Timings)> {
        let bar = terminal.bar(0, &format!("seed {}", options.seeds[0]));
        let mut failed = None;
        let done = self.pipeline.trace(self.prompt, options, self.keep.clone(), &mut |event| {
            match event {
                Event::Encoded { calls } => bar.set_length(calls as u64),
                Event::Stepped { step, denoised, .. } => {
                    bar.inc(1);
                    let kept = estimates.as_mut().filter(|(every, _)| (step.index + 1) % *every as usize == 0);
                    if let Some((_, kept)) = kept {
                        match self.pipeline.decode(denoised) {
                            Ok(image) => kept.push((step.index, image)),
                            Err(error) => {
                                failed = Some(error);
                                return ControlFlow::Break(());
                            }
                        }
                    }
                }
                Event::Decoded { .. } => {}
            }
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        failed.map_or(done, Err)
    }
}
