//! What was expected of a gallery's images: cells that were made before it was asked are judged
//! from their traces.

use super::cell::Cell;
use super::folder::{CELLS, is_finished};
use super::plan::{Plan, Shard};
use crate::checkpoint::Checkpoint;
use crate::facts::expect::{Expectations, Sighting};
use crate::pipeline::{CheckpointChoice, Pipeline};
use crate::run::Run;
use crate::{Result, report};
use image::RgbImage;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// How many of a gallery's images are as expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Cells that meet every expectation that applies to them.
    pub met: usize,
    /// Cells that do not.
    pub unmet: usize,
    /// Cells to which none applies, as their prompts lack the words.
    pub without: usize,
}

impl Expected {
    /// Counts a cell that is as expected or not, or to which nothing applies.
    pub(super) fn count(&mut self, met: Option<bool>) {
        *match met {
            Some(true) => &mut self.met,
            Some(false) => &mut self.unmet,
            None => &mut self.without,
        } += 1;
    }
}

impl fmt::Display for Expected {
    /// `7 as expected, 1 not`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as expected, {} not", self.met, self.unmet)?;
        match self.without {
            0 => Ok(()),
            without => write!(f, ", {without} without those words"),
        }
    }
}

/// Judges the finished cells of `shard` in `folder` by the expectations of `plan`. Those that were
/// judged by others or by none have `run.json` and page made again from the trace. A checkpoint is
/// loaded where an image must be looked at for what its prompt does not name.
///
/// # Errors
/// As [`Expectations::check`], and when a cell is damaged.
pub fn judge(
    folder: &Path,
    plan: &Plan,
    shard: Shard,
    open: &dyn Fn(&CheckpointChoice) -> Result<Checkpoint>,
) -> Result<Expected> {
    let mut counts = Expected::default();
    let Some(expect) = &plan.expect else { return Ok(counts) };
    let finished = plan.passes_of(shard).flatten().map(|&index| &plan.cells[index]);
    let mut loaded: Option<(&Cell, Pipeline)> = None;
    for cell in finished.filter(|cell| is_finished(folder, cell)) {
        // A checkpoint is loaded only where an image must be looked at.
        let mut look = |image: &RgbImage, things: &[String]| {
            if loaded.as_ref().is_none_or(|(known, _)| !known.same_checkpoint(cell)) {
                loaded = None;
                let (checkpoint, load) = plan.open(cell, open)?;
                loaded = Some((cell, Pipeline::load(&checkpoint, &load)?));
            }
            loaded.as_ref().map_or(Ok(Vec::new()), |(_, pipeline)| pipeline.look_for(image, things))
        };
        counts.count(judge_cell(&folder.join(CELLS).join(cell.name()), expect, &mut look)?);
    }
    Ok(counts)
}

/// Looks for things in an image.
pub(super) type Finder<'a> = dyn FnMut(&RgbImage, &[String]) -> Result<Vec<Sighting>> + 'a;

/// Whether the cell in `folder` meets what applies to it of `expect`; `None` where nothing does.
pub(super) fn judge_cell(folder: &Path, expect: &Expectations, look: &mut Finder) -> Result<Option<bool>> {
    let Run { folder, mut record } = Run::open(folder)?;
    if !expect.are_of(&record.expectations) {
        let run = Run { folder, record };
        let trace = run.trace()?;
        let things = expect.looked_for();
        let sightings = if things.is_empty() { Vec::new() } else { look(&run.image()?, &things)? };
        let how = run.record.how()?;
        let outcomes = expect.check(&trace, &how, run.record.display.threshold, &sightings)?;
        record = run.record;
        record.expectations = outcomes;
        record.write(&run.folder)?;
        report::write(&run.folder)?;
    }
    let told: Vec<bool> = record.expectations.iter().filter_map(|outcome| outcome.met).collect();
    Ok((!told.is_empty()).then(|| told.into_iter().all(|met| met)))
}
