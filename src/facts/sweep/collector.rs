//! Collects what a sweep finds, seed after seed.

use super::habit::scatter;
use super::record::{ExpectedSweep, StatedSweep, StatedWhereDrawn, Sweep, SweepInfo, WordSweep};
use crate::facts::expect::Outcome;
use crate::facts::measures::{contrast, filler_peak, is_neglect};
use crate::facts::things::with_tokens;
use crate::facts::{Context, Facts, Relation, facts, lexicon};
use crate::heatmap::{Aggregate, Heatmaps};
use crate::trace::{Grid, WordInfo};

/// Collects the maps of one prompt under many seeds.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    about: SweepInfo,
    grid: Grid,
    sums: Vec<f32>,
    runs: Vec<(u64, Facts)>,
    outcomes: Vec<Vec<Outcome>>,
}

impl Collector {
    /// Of which prompt, checkpoint and maps.
    pub fn new(about: SweepInfo) -> Self {
        Self { about, ..Self::default() }
    }

    /// Adds the maps of `seed`; all runs have the same words and grid. `whole` are the maps of all
    /// the prompt's words where `maps` are of some: things are compared with fillers that need not
    /// be among them.
    pub fn add(&mut self, seed: u64, maps: &Heatmaps, whole: Option<&Heatmaps>) {
        self.grid = maps.grid;
        self.sums.resize(maps.words.len(), 0.0);
        self.sums.iter_mut().zip(maps.words_per_step()).for_each(|(sum, value)| *sum += value);
        let context = Context { text: &self.about.prompt, ..Context::default() };
        let mut own = facts(maps, &context);
        if let Some(whole) = whole {
            own.filler_peak = facts(whole, &context).filler_peak;
        }
        // As of a run: of a phrase or a tag by its things, and by the maps that the bound was
        // measured on.
        let usual = self.about.how.maps.as_ref().is_none_or(|how| *how == Aggregate::default());
        for (found, word) in own.words.iter_mut().zip(&maps.chosen).filter(|(found, _)| found.neglected.is_some()) {
            let things = whole.map_or_else(|| word.clone(), |whole| of_things(word, &whole.chosen));
            found.contrast = contrast(maps, &things);
            found.neglected = found.contrast.filter(|_| usual).map(is_neglect);
        }
        self.runs.push((seed, own));
    }

    /// Adds what came of the same expectations in the run that was added last.
    pub fn expect(&mut self, outcomes: Vec<Outcome>) {
        self.outcomes.push(outcomes);
    }

    /// How often each expectation is met.
    fn expected(&self) -> Vec<ExpectedSweep> {
        let names = self.outcomes.first().map_or(&[][..], Vec::as_slice);
        let one = |(index, outcome): (usize, &Outcome)| {
            let met: Vec<bool> = self.outcomes.iter().map(|seed| seed[index].met == Some(true)).collect();
            let share = met.iter().filter(|met| **met).count() as f64 / met.len().max(1) as f64;
            ExpectedSweep { expectation: outcome.expectation.clone(), share, met }
        };
        names.iter().enumerate().map(one).collect()
    }

    /// The mean maps, `[words, h, w]`, in mean probability per step.
    pub fn mean_maps(&self) -> Vec<f32> {
        let count = self.runs.len().max(1) as f32;
        self.sums.iter().map(|sum| sum / count).collect()
    }

    /// The latent grid.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// What was found.
    pub fn finish(&self) -> Sweep {
        let count = self.runs.len().max(1) as f64;
        let peak = |facts: &Facts, word: usize| facts.words[word].layout.peak.map_or(0.0, |peak| peak.value);
        let names = self.runs.first().map_or(&[][..], |(_, facts)| facts.words.as_slice());
        let mut filler_peaks: Vec<f32> = self.runs.iter().filter_map(|(_, facts)| facts.filler_peak).collect();
        filler_peaks.sort_by(f32::total_cmp);
        let filler_peak = filler_peak(&filler_peaks);
        let words = names.iter().enumerate().map(|(word, first)| {
            let centroids: Vec<_> = self.runs.iter().map(|(_, facts)| facts.words[word].layout.centroid).collect();
            let (mean, scatter) = scatter(&centroids);
            let drawn: Vec<bool> =
                self.runs.iter().map(|(_, facts)| facts.words[word].neglected != Some(true)).collect();
            let low = drawn.iter().filter(|drawn| !**drawn).count() as f64;
            WordSweep {
                word: first.word.clone(),
                role: first.role,
                centroids,
                mean,
                scatter,
                peak: (self.runs.iter().map(|(_, facts)| f64::from(peak(facts, word))).sum::<f64>() / count) as f32,
                neglected: first.neglected.map(|_| low / count),
                drawn: if first.neglected.is_some() { drawn } else { Vec::new() },
            }
        });
        let words = words.collect();
        let claims = self.runs.first().map_or(0, |(_, facts)| facts.stated.len());
        let stated = (0..claims).map(|claim| {
            let share = |wanted: bool| {
                let said = self.runs.iter().filter(|(_, facts)| facts.stated[claim].agrees == Some(wanted));
                said.count() as f64 / count
            };
            StatedSweep {
                claim: self.runs[0].1.stated[claim].claim.clone(),
                agrees: share(true),
                fails: share(false),
                drawn: self.where_drawn(claim),
            }
        });
        let stated = stated.collect();
        Sweep {
            about: self.about.clone(),
            seeds: self.runs.iter().map(|(seed, _)| *seed).collect(),
            filler_peak,
            filler_peaks,
            words,
            stated,
            expectations: self.expected(),
        }
    }

    /// What the seeds that drew both things of a claim say of it; `None` where all did.
    fn where_drawn(&self, claim: usize) -> Option<StatedWhereDrawn> {
        let drawn = |facts: &Facts| {
            let Relation { subject, object, .. } = &facts.stated[claim].claim;
            let mut neglected = facts.words.iter().filter(|word| word.neglected == Some(true));
            !neglected.any(|word| word.word == *subject || word.word == *object)
        };
        let said: Vec<Option<bool>> =
            self.runs.iter().filter(|(_, facts)| drawn(facts)).map(|(_, facts)| facts.stated[claim].agrees).collect();
        let count = |wanted: bool| said.iter().filter(|agrees| **agrees == Some(wanted)).count();
        let found = StatedWhereDrawn { seeds: said.len(), agrees: count(true), fails: count(false) };
        (found.seeds < self.runs.len()).then_some(found)
    }
}

/// `word` with the tokens of its things alone, among the prompt's single `words`; the word as it is
/// where none of them is one.
fn of_things(word: &WordInfo, words: &[WordInfo]) -> WordInfo {
    let within = |single: &&WordInfo| word.start <= single.start && single.end <= word.end;
    let things = words.iter().filter(within).filter(|single| lexicon::names_a_thing(&single.text));
    let of_things: Vec<usize> = things.flat_map(|thing| thing.tokens.iter().copied()).collect();
    with_tokens(word, &of_things)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_drawn_is_told_as_of_a_run() {
        let word = |text: &str, start: usize, tokens: &[usize]| WordInfo {
            text: text.into(),
            start,
            end: start + text.len(),
            tokens: tokens.to_vec(),
            occurrence: 1,
        };
        // The colour is looked for everywhere, the apple in one place.
        let attention = |token: usize, at: usize| if token == 1 || (token == 2 && at == 3) { 1e3 } else { 1.0 };
        let maps = |chosen: &[WordInfo]| Heatmaps {
            grid: Grid::new(1, 8),
            steps: 1,
            tokens: (0..4).flat_map(|token| (0..8).map(move |at| attention(token, at))).collect(),
            words: vec![1.0; 8 * chosen.len()],
            chosen: chosen.to_vec(),
            shares: vec![0.1; 5],
            sites: vec![0],
            ..Heatmaps::default()
        };
        let whole = maps(&[word("red", 0, &[1]), word("apple", 4, &[2])]);
        let told = |how: &Aggregate| {
            let mut collector = Collector::new(SweepInfo { how: how.into(), ..SweepInfo::default() });
            collector.add(0, &maps(&[word("red apple", 0, &[1, 2])]), Some(&whole));
            collector.finish().words[0].neglected
        };
        assert_eq!(told(&Aggregate::default()), Some(0.0), "a phrase by its thing");
        assert_eq!(told(&Aggregate::named("daam").unwrap()), None, "the bound is of other maps");
    }

    #[test]
    fn words_scatter_and_relations_fail_by_share() {
        let grid = Grid::new(1, 8);
        let maps = |cat: usize, dog: usize| {
            let word = |text: &str, token| WordInfo {
                text: text.into(),
                start: 0,
                end: 0,
                tokens: vec![token],
                occurrence: 1,
            };
            let one = |cell: usize, value: f32| (0..8).map(move |at| if at == cell { value } else { 0.0 });
            Heatmaps {
                grid,
                steps: 1,
                // The attention to `dog` is the same everywhere.
                tokens: (0..6)
                    .flat_map(|token| (0..8).map(move |at| if at == 3 && token != 4 { 1e3 } else { 1.0 }))
                    .collect(),
                words: one(cat, 0.5).chain(one(0, 0.2)).chain(one(0, 0.2)).chain(one(dog, 0.09)).collect(),
                chosen: vec![word("cat", 1), word("left", 2), word("of", 3), word("dog", 4)],
                shares: vec![0.1; 7],
                sites: vec![0],
                ..Heatmaps::default()
            }
        };
        let mut collector = Collector::default();
        [(0, 6), (0, 6), (6, 0), (0, 6)].iter().enumerate().for_each(|(seed, &(cat, dog))| {
            collector.add(seed as u64, &maps(cat, dog), None);
        });
        let sweep = collector.finish();
        assert_eq!((sweep.seeds.as_slice(), sweep.filler_peak), (&[0, 1, 2, 3][..], Some(0.2)));
        assert_eq!((sweep.stated[0].agrees, sweep.stated[0].fails), (0.75, 0.25));
        // No seed drew the dog, so that nothing is said of where it lies.
        assert_eq!(sweep.stated[0].drawn, Some(StatedWhereDrawn { seeds: 0, agrees: 0, fails: 0 }));
        assert_eq!((sweep.stated[0].sentence(), sweep.words[3].sentence()), (None, None));
        assert_eq!((&sweep.words[0].drawn[..], &sweep.words[3].drawn[..]), (&[true; 4][..], &[false; 4][..]));
        assert!(sweep.words[0].sentence().is_some() && sweep.words[1].drawn.is_empty());
        assert_eq!(
            (sweep.words[0].neglected, sweep.words[1].neglected, sweep.words[3].neglected),
            (Some(0.0), None, Some(1.0))
        );
        assert!((sweep.words[0].scatter.unwrap() - 0.75 * 0.1875f32.sqrt()).abs() < 1e-6);
        assert_eq!(collector.mean_maps()[0], 0.375);
        // The cat's centres are the middle of the first cell, three times, and of the seventh.
        let image = Grid::new(64, 128);
        assert_eq!(sweep.words[0].cells(image), ["cat", "50 %", "32,32", "32 %", "in 0 of 4"]);
        assert_eq!(sweep.words[3].cells(image)[4], "in 4 of 4");
        assert_eq!(sweep.words[1].cells(image)[4], "-", "never said of words that are no things");
    }
}
