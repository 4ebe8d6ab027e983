//! What the experiments say together: the causes, the step, and both in a sentence.

use super::noise::{Mirroring, spread};
use super::plan::{settled_before, strongest};
use super::record::{Answer, FORMAT_VERSION, Findings, TableRow};
pub use super::thresholds::{Cause, CauseThresholds};
use super::thresholds::{FEWEST, INSIDE};
use super::time::{bracket, is_settled, next_step};
use super::words::{Moved, moved};
use crate::argument::BUDGET;
use crate::percent;

/// Why it cannot be told, where it cannot.
fn untold(findings: &Findings) -> Option<String> {
    let (scatter, drawn) = spread(&findings.seeds);
    if findings.seeds.first().is_none_or(|own| own.spot.place().is_none()) {
        return Some("its map is so flat that it may not have been drawn in this run".into());
    }
    if drawn < FEWEST || scatter.is_none() {
        return Some(format!("it seems drawn in only {drawn} of {} seeds", findings.seeds.len()));
    }
    let pixels = findings.pixels.filter(|pixels| !pixels.agree_with_map());
    pixels.map(|pixels| {
        format!(
            "the map and the picture disagree about where it lies: without the word {} of the map's region \
            changes, and {} of the image",
            percent(pixels.inside),
            percent(pixels.image)
        )
    })
}

/// After how many steps the thing stays; `None` where that was not found within the budget.
pub fn settled_at(findings: &Findings, limits: &CauseThresholds) -> Option<usize> {
    let place = findings.seeds.first()?.spot.place()?;
    let forks: Vec<(usize, bool)> =
        findings.forks.iter().map(|fork| (fork.step, is_settled(fork.stays(place, limits.near)))).collect();
    let found = bracket(&forks, settled_before(findings, limits), findings.steps);
    next_step(found, findings.steps).is_none().then_some(found.1)
}

/// The answer.
pub fn answer(findings: &Findings, limits: &CauseThresholds) -> Answer {
    let untold = untold(findings);
    let (scatter, _) = spread(&findings.seeds);
    let edit = strongest(findings).and_then(|(_, moved)| moved.shift);
    let lora = lora_shift(findings);
    let shift = lora.and_then(|moved| moved.shift);
    let cause = match (&untold, scatter) {
        (None, Some(scatter)) => limits.causes(edit, scatter, shift),
        _ => Vec::new(),
    };
    let settled = settled_at(findings, limits);
    let near_bound = is_near_bound(findings, limits);
    let by_lora = shift.is_some_and(|shift| shift >= limits.shift);
    let loras = if cause.contains(&Cause::Habit) && by_lora { findings.loras.clone() } else { Vec::new() };
    Answer {
        attnmap: env!("CARGO_PKG_VERSION").into(),
        format_version: FORMAT_VERSION,
        word: findings.word.clone(),
        sentence: sentence(findings, (&cause, near_bound), &loras, settled, untold.as_deref()),
        cause,
        near_bound,
        settled_at: settled,
        steps: findings.steps,
        place: findings.seeds.first().and_then(|own| own.spot.place()),
        loras,
        table: table(findings, limits),
        notes: notes(findings, limits),
        figures: Vec::new(),
        thresholds: *limits,
        runs: findings.runs,
        findings: findings.clone(),
    }
}

/// What taking out the LoRAs does.
fn lora_shift(findings: &Findings) -> Option<Moved> {
    (!findings.without_loras.is_empty()).then(|| moved(&findings.without_loras, &findings.seeds))
}

/// `moves it by 31 % of the image`.
fn by(moved: &Moved) -> String {
    let Some(shift) = moved.shift else { return "takes it away".into() };
    let direction =
        moved.by.map_or("", |[across, down]| match (across.abs() >= down.abs(), across > 0.0, down > 0.0) {
            (true, true, _) => " to the right",
            (true, false, _) => " to the left",
            (false, _, true) => " down",
            (false, _, false) => " up",
        });
    match shift >= 0.005 {
        true => format!("moves it by {}{direction}", percent(shift)),
        false => "does not move it".into(),
    }
}

/// One sentence with the causes, the strongest figure for each, and the step.
fn sentence(
    findings: &Findings,
    (cause, near_bound): (&[Cause], bool),
    loras: &[String],
    settled: Option<usize>,
    untold: Option<&str>,
) -> String {
    let word = &findings.word;
    if let Some(reason) = untold {
        return format!("Why “{word}” lies where it does cannot be told: {reason}.");
    }
    // Of the seeds in which it seems drawn: elsewhere it has no place.
    let (scatter, seeds) = spread(&findings.seeds);
    let names: Vec<String> = cause
        .iter()
        .map(|cause| match cause {
            Cause::Words => "the words".into(),
            Cause::Noise => "the noise".into(),
            Cause::Habit if loras.is_empty() => "a habit of the model".into(),
            Cause::Habit => format!("a habit that {} gives the model", loras.join(" and ")),
        })
        .collect();
    let gone = || findings.effects.iter().find(|effect| effect.moved(&findings.seeds).vanishes > 0.0);
    let words = match strongest(findings) {
        Some((effect, moved)) => format!("{} {}", turning(effect), by(&moved)),
        None => match gone() {
            Some(effect) => format!("{} takes it away", turning(effect)),
            None if findings.effects.is_empty() && findings.untested.is_empty() => {
                "the prompt has no other word to test".into()
            }
            None => "no other word was tested within the budget".into(),
        },
    };
    let noise = format!("over {seeds} seeds it scatters by {}", percent(scatter.unwrap_or_default()));
    let taken = lora_shift(findings).filter(|_| !loras.is_empty());
    let habit = taken.map(|moved| format!("taking out {} {}", loras.join(" and "), by(&moved)));
    let figures = [Some(words), Some(noise), habit].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let when = match settled {
        None => "the step at which it was settled was not found within the budget".to_owned(),
        Some(0) => "most noises put it there, so that it was settled before the first step".to_owned(),
        Some(step) if step == findings.steps => "it was not settled before the last step".to_owned(),
        Some(step) => format!("it was settled after {step} of {} steps", findings.steps),
    };
    // Near a bound it is right often, and not surely: ACCURACY.md. So it says "may" there.
    let lies = if near_bound { "may lie" } else { "lies" };
    format!("“{word}” {lies} where it does because of {}: {figures}; {when}.", names.join(" and "))
}

fn turning(effect: &super::words::Effect) -> String {
    match &effect.becomes {
        Some(becomes) => format!("turning “{}” to “{becomes}”", effect.of),
        None => format!("taking out “{}”", effect.of),
    }
}

/// A row for each experiment.
fn table(findings: &Findings, limits: &CauseThresholds) -> Vec<TableRow> {
    let mut rows = Vec::new();
    let mut add = |experiment: String, images: usize, moves: Option<f64>, more: String| {
        rows.push(TableRow { experiment, images, moves, more });
    };
    let (scatter, drawn) = spread(&findings.seeds);
    add("fresh noise".into(), findings.seeds.len(), scatter, format!("drawn in {drawn} of {}", findings.seeds.len()));
    let own = findings.seeds.first().and_then(|own| own.spot.place());
    for mirror in &findings.mirrors {
        let moves = own.zip(mirror.spot.place()).map(|(from, to)| super::spot::distance(from, to));
        let patch = matches!(mirror.how, Mirroring::PatchAcross | Mirroring::PatchDown);
        let more = match (moves, mirror.follows) {
            (None, _) => "not drawn".to_owned(),
            (_, Some(follows)) => format!("follows {}", percent(follows)),
            (_, None) if patch => String::new(),
            (_, None) => "lies in the middle: cannot follow".to_owned(),
        };
        add(mirror.how.in_words().into(), 1, moves, more);
    }
    let vanishes = |moved: &Moved| match moved.vanishes > 0.0 {
        true => format!("gone in {}", percent(moved.vanishes)),
        false => String::new(),
    };
    for effect in &findings.effects {
        let moved = effect.moved(&findings.seeds);
        add(effect.in_words(), effect.spots.len(), moved.shift, vanishes(&moved));
    }
    if let Some(moved) = lora_shift(findings) {
        let experiment = format!("without {}", findings.loras.join(" and "));
        add(experiment, findings.without_loras.len(), moved.shift, vanishes(&moved));
    }
    let mut forks: Vec<_> = findings.forks.iter().collect();
    forks.sort_by_key(|fork| fork.step);
    for fork in forks {
        let stays = own.map_or(0.0, |place| fork.stays(place, limits.near));
        let count = (stays * fork.spots.len() as f64).round();
        let more = format!("stays in {count:.0} of {}", fork.spots.len());
        add(format!("fresh noise after step {}", fork.step), fork.spots.len(), None, more);
    }
    rows
}

/// Whether a figure that decides lies within a quarter of its bound.
fn is_near_bound(findings: &Findings, limits: &CauseThresholds) -> bool {
    const QUARTER: f64 = 0.25;
    let near = |value: Option<f64>, bound: f64| value.is_some_and(|value| (value / bound - 1.0).abs() < QUARTER);
    let edit = strongest(findings).and_then(|(_, moved)| moved.shift);
    let lora = lora_shift(findings).and_then(|moved| moved.shift);
    near(spread(&findings.seeds).0, limits.scatter) || near(edit, limits.shift) || near(lora, limits.shift)
}

/// What is to be said beside the answer.
fn notes(findings: &Findings, limits: &CauseThresholds) -> Vec<String> {
    let mut notes = Vec::new();
    match findings.pixels {
        Some(pixels) if !pixels.agree_with_map() => notes.push(format!(
            "The map and the picture disagree: without “{}” {} of the region of its map changes, and {} of the image.",
            findings.word,
            percent(pixels.inside),
            percent(pixels.image)
        )),
        Some(pixels) => notes.push(format!(
            "Checked in pixels: without “{}” {} of the region of its map changes, and {} of the image.",
            findings.word,
            percent(pixels.inside),
            percent(pixels.image)
        )),
        None => {}
    }
    let moved = findings.effects.iter().filter_map(|effect| Some((effect.in_words(), effect.pixels?)));
    let mirrored =
        findings.mirrors.iter().filter_map(|mirror| Some((mirror.how.in_words().to_owned(), mirror.pixels?)));
    for (what, pixels) in moved.chain(mirrored).filter(|(_, pixels)| *pixels < INSIDE) {
        notes.push(format!(
            "By the map it moved ({what}), but only {} of the pixels of its old and new place changed: the two \
            disagree.",
            percent(pixels)
        ));
    }
    if !findings.untested.is_empty() {
        notes.push(format!(
            "Not tested for want of runs: {}; a larger {BUDGET} tests them.",
            findings.untested.join(", ")
        ));
    }
    if is_near_bound(findings, limits) {
        notes.push("A figure lies within a quarter of its bound: another choice of seeds might say otherwise.".into());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heatmap::Point;
    use crate::why::edits::EditKind;
    use crate::why::record::SeedSpot;
    use crate::why::spot::Spot;
    use crate::why::words::Effect;

    fn spot(seed: u64, drawn: bool) -> SeedSpot {
        SeedSpot { seed, spot: Spot { centre: Some(Point { x: 0.2, y: 0.5 }), bounds: None, drawn } }
    }

    #[test]
    fn a_sentence_counts_the_seeds_that_scatter_and_says_what_was_tested() {
        let seeds: Vec<SeedSpot> = (0..9).map(|seed| spot(seed, seed < 7)).collect();
        let none = Findings { word: "frog".into(), budget: 40, steps: 25, seeds, ..Findings::default() };
        let says = |findings: &Findings| answer(findings, &CauseThresholds::default()).sentence;
        let only = says(&none);
        assert!(only.contains("the prompt has no other word to test, over 7 seeds it scatters by "), "{only}");
        let untested = says(&Findings { untested: vec!["without “hat”".into()], ..none.clone() });
        assert!(untested.contains("no other word was tested within the budget"), "{untested}");
        let spots = vec![spot(0, false), spot(1, false)];
        let change = EditKind::WithoutWord;
        let effect = Effect { of: "hat".into(), change, becomes: None, spots, pixels: None };
        let gone = says(&Findings { effects: vec![effect], ..none.clone() });
        assert!(gone.contains("taking out “hat” takes it away"), "{gone}");
    }
}
