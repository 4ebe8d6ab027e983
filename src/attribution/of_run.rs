//! A run made again, so that what it showed the denoiser can be asked about.

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::argument::{AT, BOX, WORD};
use crate::evidence::{remade, shown, spread_steps};
use crate::facts::of_its_things;
use crate::facts::region::Place;
use crate::heatmap::{self, Aggregate};
use crate::pipeline::{Options, Pipeline};
use crate::prompt::Prompt;
use crate::run::{Run, Threshold, word_regions};
use crate::trace::{Grid, Half, WordInfo};
use crate::{Error, Result};

/// What is known of a run once it was made again.
#[derive(Debug, Clone)]
pub struct RemadeRun {
    /// The run's prompt.
    pub prompt: Prompt,
    /// The run's options.
    pub options: Options,
    /// Which steps, from 0.
    pub indices: Vec<usize>,
    /// What the denoiser was shown at each of them, with the timestep.
    pub steps: Vec<(Tensor, f64)>,
}

/// Refuses a run that cannot be made again here, before any checkpoint is loaded.
///
/// # Errors
/// As [`Run::check_can_draw`].
pub fn check_run(run: &Run) -> Result<()> {
    run.check_can_draw("attribute")
}

/// Makes `run` again with the checkpoint that made it, and keeps what the denoiser was shown at
/// `count` steps, spread over the run. `progress` is told of every step.
///
/// # Errors
/// [`Error::Argument`] when `pipeline` is another checkpoint; [`Error::Trace`] when the run cannot
/// be made again exactly; [`Error::Interrupted`] when `progress` breaks.
pub fn seen(
    run: &Run,
    pipeline: &Pipeline,
    count: usize,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<RemadeRun> {
    let (prompt, options) = remade(run, pipeline)?;
    let all = shown(run, &run.image()?, pipeline, &prompt, &options, progress)?;
    let indices = spread_steps(count, all.len());
    let steps = indices.iter().map(|&step| all[step].clone()).collect();
    Ok(RemadeRun { prompt, options, indices, steps })
}

/// The region of a word in a run's image: where its map, or that of its things, reaches the run's
/// threshold.
///
/// # Errors
/// [`Error::Argument`] when the word's map is 0 everywhere; those of the maps.
pub fn word_place(run: &Run, word: &WordInfo) -> Result<Place> {
    let trace = run.trace()?;
    let how = Aggregate { half: Half::Conditional, ..run.record.how().unwrap_or_default() };
    let word = &of_its_things(&trace.about.prompt, word);
    let maps = heatmap::aggregate(&trace, &how, std::slice::from_ref(word))?;
    let threshold = Threshold::Share(run.record.display.threshold);
    let region = word_regions(&maps, trace.about.image, threshold).into_iter().next();
    let Some(region) = region.filter(|region| region.area > 0.0) else {
        let reason = format!("the map of {} is 0 everywhere; name the place with {AT} or {BOX}", word.text);
        return Err(Error::argument(WORD, reason));
    };
    let size = Grid::new(region.mask.height() as usize, region.mask.width() as usize);
    Ok(Place::Mask(region.mask.as_raw().iter().map(|&value| value > 0).collect(), size))
}
