//! A run made again, so that what it showed the denoiser can be asked about.

use std::ops::ControlFlow;

use candle_core::Tensor;

use super::record::{RegionAttribution, RegionMaps};
use crate::argument::{AT, BOX, WORD};
use crate::evidence::{Evidence, remade, shown, spread_steps};
use crate::facts::of_its_things;
use crate::facts::region::{Place, rank};
use crate::heatmap::{self, Aggregate};
use crate::pipeline::{Options, Pipeline};
use crate::prompt::Prompt;
use crate::run::{Run, Threshold, word_regions};
use crate::trace::{Grid, Half, Trace, WordInfo};
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

/// Puts the attention of the region and the share of the words' cuts beside what was attributed, by
/// the maps that `run` has now and its `evidence` ([`Evidence::of_run`]). A region of a word by
/// other maps says so. What an earlier version kept without its place has neither.
///
/// # Errors
/// As [`rank`].
pub fn beside(
    region: &mut RegionAttribution,
    run: &Run,
    trace: &Trace,
    evidence: Option<&(Evidence, Vec<Vec<f32>>)>,
) -> Result<()> {
    for row in &mut region.words {
        (row.attention, row.cut) = (None, None);
    }
    let of_others = |of: &RegionMaps| {
        !of.how.is_same(&run.record.saved_aggregate()) || of.threshold != run.record.display.threshold
    };
    if region.region_of.as_ref().is_some_and(of_others) {
        region.place += " by earlier maps";
    }
    let Some(place) = region.place(trace.about.image) else { return Ok(()) };
    let how = Aggregate { half: Half::Conditional, ..run.record.how().unwrap_or_default() };
    let all = &trace.about.prompt.words;
    let causal = |index: usize| Evidence::map_of(evidence, &all[index]);
    let parts = rank(trace, &how, all, &place, run.record.display.threshold, &causal)?;
    for row in &mut region.words {
        if let Some(part) = parts.iter().find(|part| part.word == row.word) {
            (row.attention, row.cut) = (Some(part.share), part.causal);
        }
    }
    Ok(())
}
