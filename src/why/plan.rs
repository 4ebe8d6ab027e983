//! What to try next with the runs that are left. It is a function of what was found, so that what
//! was interrupted goes on.

use super::noise::{self, fresh_seeds, mirrorings};
use super::record::Findings;
use super::thresholds::Thresholds;
use super::time::{self, NOISES, bracket, is_settled, next_step};
use super::{habit, words};

/// The usual budget, in runs.
pub const BUDGET: usize = 40;

/// The least budget: fresh noise, the check in pixels, mirrored noise, and a little for the words
/// and the steps.
pub const LEAST: usize = 20;

/// Fewest seeds of an edit.
const FEWEST: usize = 2;

/// The next batch of an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// The prompt with the noise of these seeds.
    Fresh(Vec<u64>),
    /// The run without the word.
    Pixels,
    /// An edit, by its place in [`Findings::effects`], with these seeds.
    Edit(usize, Vec<u64>),
    /// The checkpoint without its LoRAs, with these seeds.
    WithoutLoras(Vec<u64>),
    /// The run with its noise mirrored.
    Mirrors,
    /// The run gone on after so many steps.
    Fork(usize),
}

impl Task {
    /// What it costs in runs of `steps` steps.
    pub fn cost(&self, findings: &Findings) -> f64 {
        match self {
            Self::Pixels => 1.0,
            Self::Fresh(seeds) | Self::Edit(_, seeds) | Self::WithoutLoras(seeds) => seeds.len() as f64,
            Self::Mirrors => findings.seeds.first().map_or(0, |own| mirrorings(&own.spot).len()) as f64,
            Self::Fork(step) => NOISES as f64 * (1.0 - *step as f64 / findings.steps.max(1) as f64),
        }
    }
}

/// What the words may cost, with the seeds without LoRAs among them. It is half of what the run
/// made again, fresh noise, the check in pixels and three mirrorings leave. The other half is for
/// the steps.
fn room_for_words(budget: usize) -> usize {
    budget.saturating_sub(1 + noise::SEEDS + 1 + 3) / 2
}

/// How many of `edits` a budget has room for.
pub fn edits_within(budget: usize, edits: usize, loras: bool) -> usize {
    let room = room_for_words(budget).saturating_sub(if loras { habit::SEEDS } else { 0 });
    edits.min(room / FEWEST)
}

/// What to try next; `None` where all is found, or the runs are spent.
pub fn next(findings: &Findings, limits: &Thresholds) -> Option<Task> {
    let own = findings.seeds.first()?;
    let left = findings.budget as f64 - findings.runs;
    let within = |task: Task| Some(task).filter(|task| task.cost(findings) <= left + 1e-9);
    if findings.seeds.len() == 1 {
        return within(Task::Fresh(fresh_seeds(own.seed, noise::SEEDS)));
    }
    if findings.pixels.is_none() {
        return within(Task::Pixels);
    }
    if findings.mirrors.is_empty() {
        return within(Task::Mirrors);
    }
    let seeds = |from: usize, count: usize| -> Vec<u64> {
        findings.seeds.iter().skip(from).take(count).map(|spot| spot.seed).collect()
    };
    if !findings.loras.is_empty() && findings.without_loras.is_empty() {
        return within(Task::WithoutLoras(seeds(0, habit::SEEDS)));
    }
    // Every edit with the fewest seeds first.
    if let Some(edit) = findings.effects.iter().position(|effect| effect.spots.is_empty()) {
        return within(Task::Edit(edit, seeds(0, FEWEST)));
    }
    // Then more seeds for the edit that is hardest to tell, while there is room.
    let used: usize =
        findings.effects.iter().map(|effect| effect.spots.len()).sum::<usize>() + findings.without_loras.len();
    let room = room_for_words(findings.budget).saturating_sub(used);
    let unsure = findings.effects.iter().enumerate().filter(|(_, effect)| effect.spots.len() < findings.seeds.len());
    let unsure = unsure.filter_map(|(at, effect)| {
        let moved = effect.moved(&findings.seeds);
        // How far the shift is from the bound, in standard errors; an edit without a shift so far
        // is the least sure.
        let sure = moved.shift.map_or(0.0, |shift| (shift - limits.shift).abs() / moved.error.unwrap_or(1.0).max(0.01));
        (sure < SURE).then_some((at, sure))
    });
    if let Some((at, _)) = unsure.min_by(|a, b| a.1.total_cmp(&b.1)).filter(|_| room >= FEWEST) {
        return within(Task::Edit(at, seeds(findings.effects[at].spots.len(), FEWEST)));
    }
    let place = own.spot.place()?;
    let forks: Vec<(usize, bool)> =
        findings.forks.iter().map(|fork| (fork.step, is_settled(fork.stays(place, limits.near)))).collect();
    let found = bracket(&forks, settled_before(findings, limits), findings.steps);
    within(Task::Fork(next_step(found, findings.steps)?))
}

/// An edit whose shift lies so many standard errors from the bound is told.
const SURE: f64 = 3.0;

/// Whether the thing stays with fresh noise from the beginning.
pub fn settled_before(findings: &Findings, limits: &Thresholds) -> bool {
    let Some(place) = findings.seeds.first().and_then(|own| own.spot.place()) else { return false };
    let others: Vec<_> = findings.seeds.iter().skip(1).map(|spot| spot.spot).collect();
    is_settled(time::stays(&others, place, limits.near))
}

/// The strongest edit and what it does.
pub fn strongest(findings: &Findings) -> Option<(&words::Effect, words::Moved)> {
    let shift = |moved: &words::Moved| moved.shift.unwrap_or(0.0);
    let moved = findings.effects.iter().map(|effect| (effect, effect.moved(&findings.seeds)));
    moved.filter(|(_, moved)| moved.shift.is_some()).max_by(|a, b| shift(&a.1).total_cmp(&shift(&b.1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heatmap::Point;
    use crate::why::edits::Change;
    use crate::why::noise::{Mirror, Mirroring};
    use crate::why::record::{Pixels, SeedSpot};
    use crate::why::spot::Spot;
    use crate::why::words::Effect;

    fn spot(x: f32) -> Spot {
        Spot { centre: Some(Point { x, y: 0.5 }), bounds: None, drawn: true }
    }

    /// What every task would find where the thing lies at `place` of the seed, and moves to 0.8
    /// with the second edit.
    fn carry_out(findings: &mut Findings, task: &Task, place: impl Fn(u64) -> f32) {
        let spots = |seeds: &[u64], edit: usize| -> Vec<SeedSpot> {
            let at = |seed: u64| if edit == 1 { 0.8 } else { place(seed) };
            seeds.iter().map(|&seed| SeedSpot { seed, spot: spot(at(seed)) }).collect()
        };
        findings.runs += task.cost(findings);
        match task {
            Task::Fresh(seeds) => findings.seeds.extend(spots(seeds, 0)),
            Task::Pixels => findings.pixels = Some(Pixels { inside: 1.0, image: 0.2 }),
            Task::Edit(edit, seeds) => findings.effects[*edit].spots.extend(spots(seeds, *edit)),
            Task::WithoutLoras(seeds) => findings.without_loras = spots(seeds, 0),
            Task::Mirrors => {
                let how = Mirroring::LeftToRight;
                findings.mirrors.push(Mirror { how, spot: spot(0.2), follows: None, pixels: None });
            }
            Task::Fork(step) => {
                let x = if *step >= 3 { place(0) } else { 0.9 };
                findings.forks.push(time::Fork { step: *step, spots: vec![spot(x); NOISES] });
            }
        }
    }

    fn begun(budget: usize, edits: usize) -> Findings {
        let effect =
            Effect { of: "x".into(), change: Change::WithoutWord, becomes: None, spots: Vec::new(), pixels: None };
        Findings {
            budget,
            steps: 25,
            runs: 1.0,
            seeds: vec![SeedSpot { seed: 0, spot: spot(0.2) }],
            effects: vec![effect; edits_within(budget, edits, false)],
            ..Findings::default()
        }
    }

    #[test]
    fn the_budget_holds_and_the_step_is_found() {
        let limits = Thresholds::default();
        // Now here, now there.
        let place = |seed: u64| if seed.is_multiple_of(2) { 0.2 } else { 0.7 };
        for (budget, edits) in [(40, 0), (40, 1), (40, 5), (40, 12), (20, 5), (100, 9)] {
            let mut findings = begun(budget, edits);
            let mut tasks = 0;
            while let Some(task) = next(&findings, &limits) {
                carry_out(&mut findings, &task, place);
                tasks += 1;
                assert!(
                    tasks < 100 && findings.runs <= budget as f64 + 1e-9,
                    "{task:?} of {budget}: {}",
                    findings.runs
                );
            }
            assert_eq!(findings.seeds.len(), 9, "{budget} runs");
            assert!(findings.effects.iter().all(|effect| effect.spots.len() >= FEWEST), "{budget} runs, {edits} edits");
            let forks: Vec<_> = findings.forks.iter().map(|fork| (fork.step, fork.step >= 3)).collect();
            if budget >= 40 {
                assert_eq!(bracket(&forks, false, 25), (Some(2), 3), "{budget} runs, {edits} edits: {forks:?}");
            }
        }
    }

    #[test]
    fn what_lies_there_with_any_noise_needs_no_steps() {
        let limits = Thresholds::default();
        let mut findings = begun(40, 2);
        while let Some(task) = next(&findings, &limits) {
            carry_out(&mut findings, &task, |_| 0.2);
        }
        assert!(settled_before(&findings, &limits) && findings.forks.is_empty());
        assert!(strongest(&findings).is_some_and(|(_, moved)| moved.shift.is_some_and(|shift| shift > 0.5)));
    }
}
