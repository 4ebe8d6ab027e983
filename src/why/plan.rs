//! What to try next with the runs that are left. It is a function of what was found, so that what
//! was interrupted goes on.

use super::noise::{self, fresh_seeds, mirrorings};
use super::record::Findings;
use super::thresholds::CauseThresholds;
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

/// What the words may cost, with the seeds without LoRAs among them. The run made again, fresh
/// noise, the check in pixels and three mirrorings come first. Half of the rest is for the steps,
/// unless most noises put the thing there, so that no step has to be found.
fn room_for_words(findings: &Findings, limits: &CauseThresholds) -> usize {
    let rest = findings.budget.saturating_sub(1 + noise::SEEDS + 1 + 3);
    if settled_before(findings, limits) { rest } else { rest / 2 }
}

/// How many of `edits` the budget has room for.
pub fn edits_within(findings: &Findings, edits: usize, limits: &CauseThresholds) -> usize {
    let loras = if findings.loras.is_empty() { 0 } else { habit::SEEDS };
    edits.min(room_for_words(findings, limits).saturating_sub(loras) / FEWEST)
}

/// What to try next; `None` where all is found, or the runs are spent.
pub fn next(findings: &Findings, limits: &CauseThresholds) -> Option<Task> {
    let own = findings.seeds.first()?;
    let left = findings.budget as f64 - findings.runs;
    let within = |task: Task| Some(task).filter(|task| task.cost(findings) <= left + 1e-9);
    if findings.seeds.len() == 1 {
        return within(Task::Fresh(fresh_seeds(own.seed, noise::SEEDS)));
    }
    // What was not drawn lies nowhere: no experiment says why.
    let place = own.spot.place()?;
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
    // Then more seeds for the edit that is hardest to tell, while the words have room.
    let used: usize =
        findings.effects.iter().map(|effect| effect.spots.len()).sum::<usize>() + findings.without_loras.len();
    let more =
        hardest(findings, limits).map(|edit| Task::Edit(edit, seeds(findings.effects[edit].spots.len(), FEWEST)));
    if used + FEWEST <= room_for_words(findings, limits) && more.is_some() {
        return more.and_then(within);
    }
    let forks: Vec<(usize, bool)> =
        findings.forks.iter().map(|fork| (fork.step, is_settled(fork.stays(place, limits.near)))).collect();
    let found = bracket(&forks, settled_before(findings, limits), findings.steps);
    let step = next_step(found, findings.steps).map(Task::Fork);
    // What the steps leave goes to the words.
    step.and_then(within).or_else(|| more.and_then(within))
}

/// The edit whose shift is the fewest standard errors from the bound, where it is not told yet. An
/// edit without a shift so far is the least sure.
fn hardest(findings: &Findings, limits: &CauseThresholds) -> Option<usize> {
    let open = findings.effects.iter().enumerate().filter(|(_, effect)| effect.spots.len() < findings.seeds.len());
    let unsure = open.filter_map(|(at, effect)| {
        let moved = effect.moved(&findings.seeds);
        let sure = moved.shift.map_or(0.0, |shift| (shift - limits.shift).abs() / moved.error.unwrap_or(1.0).max(0.01));
        (sure < SURE).then_some((at, sure))
    });
    unsure.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

/// An edit whose shift lies so many standard errors from the bound is told.
const SURE: f64 = 3.0;

/// Whether the thing stays with most fresh noises from the beginning.
pub fn settled_before(findings: &Findings, limits: &CauseThresholds) -> bool {
    let Some(place) = findings.seeds.first().and_then(|own| own.spot.place()) else { return false };
    let others: Vec<_> = findings.seeds.iter().skip(1).map(|spot| spot.spot).collect();
    time::stays(&others, place, limits.near) > 0.5
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
    use crate::why::edits::EditKind;
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
                findings.forks.push(time::ForkResult { step: *step, spots: vec![spot(x); NOISES] });
            }
        }
    }

    fn begun(budget: usize, edits: usize) -> Findings {
        let findings = Findings {
            budget,
            steps: 25,
            runs: 1.0,
            seeds: vec![SeedSpot { seed: 0, spot: spot(0.2) }],
            ..Findings::default()
        };
        let within = edits_within(&findings, edits, &CauseThresholds::default());
        Findings { effects: vec![effect(); within], ..findings }
    }

    fn effect() -> Effect {
        Effect { of: "x".into(), change: EditKind::WithoutWord, becomes: None, spots: Vec::new(), pixels: None }
    }

    /// Carries out all that the budget has room for, of so many edits.
    fn carry_out_all(findings: &mut Findings, edits: usize, place: impl Fn(u64) -> f32) {
        let limits = CauseThresholds::default();
        for _ in 0..200 {
            let within = edits_within(findings, edits, &limits).max(findings.effects.len());
            findings.effects.resize_with(within, effect);
            let Some(task) = next(findings, &limits) else { return };
            carry_out(findings, &task, &place);
            assert!(findings.runs <= findings.budget as f64 + 1e-9, "{task:?}: {} runs", findings.runs);
        }
        panic!("there is no end");
    }

    #[test]
    fn the_budget_holds_and_the_step_is_found() {
        // Now here, now there.
        let place = |seed: u64| if seed.is_multiple_of(2) { 0.2 } else { 0.7 };
        for (budget, edits) in [(40, 0), (40, 1), (40, 5), (40, 12), (20, 5), (100, 9)] {
            let mut findings = begun(budget, edits);
            carry_out_all(&mut findings, edits, place);
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
        let limits = CauseThresholds::default();
        let mut findings = begun(40, 2);
        carry_out_all(&mut findings, 2, |_| 0.2);
        assert!(settled_before(&findings, &limits) && findings.forks.is_empty());
        assert!(strongest(&findings).is_some_and(|(_, moved)| moved.shift.is_some_and(|shift| shift > 0.5)));
    }

    #[test]
    fn what_the_steps_do_not_need_goes_to_the_words() {
        // Any noise puts it there: room for twice as many edits.
        let mut settled = begun(40, 12);
        assert_eq!(settled.effects.len(), 6);
        carry_out_all(&mut settled, 12, |_| 0.2);
        assert_eq!(settled.effects.len(), 12, "{settled:?}");
        assert!(settled.effects.iter().all(|effect| effect.spots.len() >= FEWEST));
        // Steps are found: seeds are made of the edits that are not told yet, as far as the budget
        // goes.
        let mut found = begun(40, 1);
        let limits = CauseThresholds::default();
        carry_out_all(&mut found, 1, |seed| if seed.is_multiple_of(2) { 0.2 } else { 0.7 });
        let left = found.budget as f64 - found.runs;
        assert!(left < FEWEST as f64 || hardest(&found, &limits).is_none(), "{left} runs are left: {found:?}");
    }

    #[test]
    fn what_was_not_drawn_is_asked_about_no_further() {
        let mut findings = begun(40, 3);
        findings.seeds[0].spot = Spot { centre: None, bounds: None, drawn: false };
        carry_out_all(&mut findings, 3, |_| 0.2);
        assert_eq!(findings.runs, 1.0 + noise::SEEDS as f64);
        assert!(findings.pixels.is_none() && findings.mirrors.is_empty());
    }

    #[test]
    fn a_larger_budget_goes_on_where_a_smaller_one_ended() {
        let place = |seed: u64| if seed.is_multiple_of(2) { 0.2 } else { 0.7 };
        let mut findings = begun(20, 8);
        carry_out_all(&mut findings, 8, place);
        let before = findings.clone();
        findings.budget = 60;
        carry_out_all(&mut findings, 8, place);
        assert!(findings.effects.len() > before.effects.len() && findings.runs > before.runs);
        assert_eq!(findings.seeds, before.seeds);
        // A smaller one asks for nothing more.
        findings.budget = 20;
        assert_eq!(next(&findings, &CauseThresholds::default()), None);
    }
}
