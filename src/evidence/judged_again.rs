//! Causal maps that a run has, judged against maps that were made of it since.

use super::causal_pictures;
use super::explain::next_drawn;
use super::record::{Evidence, FORMAT_VERSION};
use super::redrawn;
use super::verdict::{Thresholds, WordEvidence, judge};
use crate::Result;
use crate::files::Turn;
use crate::heatmap;
use crate::run::{RECORD, Run};
use crate::trace::{Half, WordInfo};
use std::path::Path;

/// Judges the causal maps that the run in `folder` has against its present maps, where `view` has
/// made other ones since. Draws them as its present pictures are drawn; no network is run. Returns
/// whether there was anything to judge anew.
///
/// # Errors
/// As [`Evidence::read`] and [`heatmap::aggregate`]; [`Error::Io`](crate::Error::Io).
pub fn judge_again(folder: &Path) -> Result<bool> {
    let run = Run::open(folder)?;
    // Of several processes none takes away what another has found.
    let _turn = Turn::wait(&folder.join(RECORD));
    let Some((mut evidence, causal)) = Evidence::read(folder, run.record.latent)? else { return Ok(false) };
    if evidence.by != run.record.by {
        return Ok(false);
    }
    let (trace, image) = run.read()?;
    let order: Vec<String> = trace.about.prompt.words.iter().map(WordInfo::label).collect();
    let (display, grid) = (&run.record.display, run.record.latent);
    let pictures = causal_pictures::draw(&mut evidence, &causal, grid, &image, display, &order)?;
    let how = run.record.how()?;
    if how.half == Half::Unconditional || evidence.how.is_same(&run.record.saved_aggregate()) {
        evidence.write(folder, &causal, grid)?;
        return redrawn::write(folder, &pictures).map(|()| false);
    }
    let maps = heatmap::aggregate(&trace, &how, &trace.about.prompt.words)?;
    let place = |name: &str| maps.chosen.iter().position(|word| word.label() == name);
    let judged = evidence.words.iter().zip(&causal).filter_map(|(word, causal)| {
        let tested = place(&word.word)?;
        let judged = judge(&maps, tested, next_drawn(&maps, tested), causal, word.effect, &image);
        Some(WordEvidence { picture: word.picture.clone(), ..judged })
    });
    let judged: Vec<_> = judged.collect();
    if judged.len() != evidence.words.len() {
        return Ok(false);
    }
    evidence.words = judged;
    evidence.how = run.record.saved_aggregate();
    evidence.thresholds = Thresholds::default();
    evidence.format_version = FORMAT_VERSION;
    evidence.answer();
    evidence.write(folder, &causal, maps.grid)?;
    redrawn::write(folder, &pictures).map(|()| true)
}
