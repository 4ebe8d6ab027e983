//! Whether the maps of a run are as expected.

use super::grammar::ARTICLES;
use super::kind::{Expectation, ExpectationKind, Expectations, wrong};
use crate::facts::lexicon::{self, Direction};
use crate::facts::measures::{APART, WITHIN, area, common, holds, share_within};
use crate::facts::things::of_its_things;
use crate::figures::{largest, percent_beside};
use crate::heatmap::{self, Aggregate, Bounds, Heatmaps, Layout};
use crate::trace::{Grid, Half, PROBE_PREFIX, PromptInfo, Trace, WordInfo, bare, normalized, only, whole_words};
use crate::{Error, Result, in_quotes, percent};
use serde::{Deserialize, Serialize};
use std::fmt;

/// From this share of a word's region within a box on, the word lies in it.
pub const INSIDE: f32 = 0.5;

/// A thing counts as seen in the image from this gain on. ACCURACY.md says how it was chosen.
pub const SEEN: f32 = 0.22;

/// How much a caption of a thing alone helps the network to know a finished image again
/// ([`Pipeline::look_for`](crate::pipeline::Pipeline::look_for)).
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// The thing.
    pub thing: String,
    /// By how much the error of the prediction is lower with the caption, as a share of the error
    /// without it, at most 1. It is the geometric mean over the window of the image where that is
    /// most. Below 0 where the caption helps nowhere.
    pub gain: f32,
}

/// What came of an expectation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The expectation as it was written.
    pub expectation: String,
    /// Whether it is met; absent where the prompt has no such word, so that it says nothing of this
    /// image.
    pub met: Option<bool>,
    /// The figure that decides; absent where there is none, as a map is empty or a word is not
    /// there.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub figure: Option<Measurement>,
    /// What was found, in words.
    pub says: String,
}

/// The figure that decides whether an expectation is met.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured.
    pub measure: Quantity,
    /// How much it is.
    pub value: f32,
    /// From which value on the expectation is met; for an expectation of absence, from which value
    /// on it is not.
    pub bound: f32,
}

/// What was measured for an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantity {
    /// How far one centre lies from the other in the expected direction, in shares of the image's
    /// side.
    Offset,
    /// How far the centre lies beyond the border of the side, in shares of the image's side.
    Margin,
    /// The share of a region within a box, or of a box within another's, 0 to 1.
    Inside,
    /// By how much a caption of the thing lowers the prediction's error in one window of the image,
    /// in shares of the error without.
    Gain,
    /// The highest attention in one place over that of the image on average; in runs of earlier
    /// versions.
    Contrast,
}

impl fmt::Display for Outcome {
    /// `frog right of apple: met; its centre lies 42 % of the side further`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "not met",
            None => "does not apply",
        };
        write!(f, "{}: {met}; {}", self.expectation, self.says)
    }
}

/// Where a word was found.
struct FoundWord<'a> {
    layout: Layout,
    map: &'a [f32],
}

/// What an expectation is judged by.
enum Basis {
    /// Words, by their positions in the maps.
    Words(Vec<usize>),
    /// The gain of a sighting.
    Sighting(f32),
    /// Nothing: the prompt does not have a word, as this says.
    Nothing(String),
}

impl Expectations {
    /// The things of which it is expected that they were drawn or were not. The finished image is
    /// looked at for them, since the maps of a run do not tell it well.
    pub fn looked_for(&self) -> Vec<String> {
        let thing = |expectation: &Expectation| match &expectation.kind {
            ExpectationKind::Drawn(thing) | ExpectationKind::Absent(thing) => Some(plain(thing).to_owned()),
            _ => None,
        };
        self.0.iter().filter_map(thing).collect()
    }

    /// Whether each thing is one word or phrase of `prompt`, or one of `probes`, of which the maps
    /// can tell what is expected.
    ///
    /// # Errors
    /// [`Error::Argument`] on `expect`, pointing at the first that is not.
    pub fn check_words(&self, prompt: &PromptInfo, probes: &[WordInfo]) -> Result<()> {
        self.check_things(|kind, thing| match kind {
            ExpectationKind::Absent(_) => can_be_told(plain(thing)),
            kind => find(prompt, probes, kind, thing).map(drop),
        })
    }

    /// Whether each thing that must be there can stand in one of `texts`, prompts and probes, and
    /// maps can tell of the others. Prompts that lack it are then left out.
    ///
    /// # Errors
    /// [`Error::Argument`] on `expect`, pointing at the first of which that is not so.
    pub fn check_texts(&self, texts: &[&str]) -> Result<()> {
        // Brackets of weights may stand between the words of a phrase.
        let has = |text: &&str, thing: &str| {
            let mut words = thing.split_whitespace();
            words.all(|word| !whole_words(text, word).is_empty())
        };
        self.check_things(|kind, thing| {
            let thing = plain(thing);
            if matches!(kind, ExpectationKind::Absent(_) | ExpectationKind::Drawn(_)) {
                can_be_told(thing)?;
            }
            match matches!(kind, ExpectationKind::Absent(_)) || texts.iter().any(|text| has(text, thing)) {
                true => Ok(()),
                false => Err(Unfound(format!("{} stands in no prompt", in_quotes(thing)))),
            }
        })
    }

    /// Refuses the first thing that `check` does not find, pointing at it.
    fn check_things(&self, check: impl Fn(&ExpectationKind, &str) -> Result<(), Unfound>) -> Result<()> {
        for expectation in &self.0 {
            for (thing, place) in expectation.things() {
                check(&expectation.kind, thing).map_err(|reason| wrong(place, &in_quotes(thing), &reason.0))?;
            }
        }
        Ok(())
    }

    /// Whether `outcomes` are what came of these.
    pub fn are_of(&self, outcomes: &[Outcome]) -> bool {
        let own = self.0.iter().map(|expectation| &expectation.text);
        own.eq(outcomes.iter().map(|outcome| &outcome.expectation))
    }

    /// What `outcomes` hold of sightings.
    pub fn sightings(outcomes: &[Outcome]) -> Vec<Sighting> {
        let sighting = |outcome: &Outcome| {
            let one: Self = outcome.expectation.parse().ok()?;
            let thing = one.looked_for().into_iter().next()?;
            let figure = outcome.figure.filter(|figure| figure.measure == Quantity::Gain)?;
            Some(Sighting { thing, gain: figure.value })
        };
        outcomes.iter().filter_map(sighting).collect()
    }

    /// Whether each is met in the run of `trace`, by maps that are made as `how` says, of the half
    /// that was given the prompt. `threshold` is the share of a map's maximum at which regions and
    /// centres begin. `sightings` are those of the things that are [looked for](Self::looked_for).
    ///
    /// Nothing is judged of a word that the prompt lacks, or has several times, or of which maps do
    /// not tell whether it was drawn: [`check_words`](Self::check_words) refuses those.
    ///
    /// # Errors
    /// As [`heatmap::aggregate`]. [`Error::Argument`] on `expect` for a thing without a sighting.
    pub fn check(
        &self,
        trace: &Trace,
        how: &Aggregate,
        threshold: f32,
        sightings: &[Sighting],
    ) -> Result<Vec<Outcome>> {
        let how = Aggregate { half: Half::Conditional, ..how.clone() };
        let (prompt, probes) = (&trace.about.prompt, trace.probe_words(Half::Conditional));
        let mut words: Vec<WordInfo> = Vec::new();
        let mut judged_by = Vec::with_capacity(self.0.len());
        for expectation in &self.0 {
            let found = match &expectation.kind {
                ExpectationKind::Drawn(thing) => find(prompt, &probes, &expectation.kind, thing).map(|_| Vec::new()),
                ExpectationKind::Absent(thing) => can_be_told(plain(thing)).map(|()| Vec::new()),
                _ => places(trace, expectation, &mut words),
            };
            judged_by.push(match (found, &expectation.kind) {
                (Err(Unfound(reason)), _) => Basis::Nothing(reason),
                (Ok(_), ExpectationKind::Drawn(thing) | ExpectationKind::Absent(thing)) => {
                    let known = |sighting: &&Sighting| normalized(&sighting.thing) == normalized(plain(thing));
                    let sighting = sightings.iter().find(known).ok_or_else(|| {
                        let place = expectation.places.first().copied().unwrap_or(1);
                        wrong(place, &in_quotes(thing), "the image was not looked at for it")
                    })?;
                    Basis::Sighting(sighting.gain)
                }
                (Ok(places), _) => Basis::Words(places),
            });
        }
        let maps = match words.is_empty() {
            true => Heatmaps::default(),
            false => heatmap::aggregate(trace, &how, &words)?,
        };
        let found: Vec<FoundWord> = (0..words.len()).map(|word| FoundWord::of(&maps, word, threshold)).collect();
        let judged = self.0.iter().zip(judged_by).map(|(expectation, by)| {
            let (met, figure, says) = match by {
                Basis::Words(places) => {
                    let found: Vec<&FoundWord> = places.iter().map(|&place| &found[place]).collect();
                    judge(&expectation.kind, &found, maps.grid)
                }
                Basis::Sighting(gain) => judge_sighting(&expectation.kind, gain),
                Basis::Nothing(reason) => (None, None, reason),
            };
            Outcome { expectation: expectation.text.clone(), met, figure, says }
        });
        Ok(judged.collect())
    }
}

/// The positions in `words` of the things of an `expectation`; what is not among them yet is added.
fn places(trace: &Trace, expectation: &Expectation, words: &mut Vec<WordInfo>) -> Result<Vec<usize>, Unfound> {
    let probes = trace.probe_words(Half::Conditional);
    let mut places = Vec::new();
    for (thing, _) in expectation.things() {
        let word = find(&trace.about.prompt, &probes, &expectation.kind, thing)?;
        let at = words.iter().position(|known| *known == word).unwrap_or(words.len());
        if at == words.len() {
            words.push(word);
        }
        places.push(at);
    }
    Ok(places)
}

/// What a caption calls `thing`: without the number and the mark of a probe that it may be named
/// with.
fn plain(thing: &str) -> &str {
    bare(thing.strip_prefix(PROBE_PREFIX).unwrap_or(thing))
}

/// Why a thing is not found.
struct Unfound(String);

/// Whether maps can tell if `thing` was drawn.
fn can_be_told(thing: &str) -> Result<(), Unfound> {
    if lexicon::names_a_thing(thing) {
        return Ok(());
    }
    let reason = format!(
        "maps do not tell whether {} was drawn; that is for things, not for colours, little words and whole scenes",
        in_quotes(thing)
    );
    Err(Unfound(reason))
}

/// The words of `prompt` that are an article and `thing`: a tag may begin with one, which an
/// expectation leaves out.
fn behind_an_article(prompt: &PromptInfo, thing: &str) -> Vec<WordInfo> {
    let wanted = normalized(thing);
    let is_it = |word: &&WordInfo| {
        let text = normalized(&word.text);
        text.split_once(' ').is_some_and(|(first, rest)| ARTICLES.contains(&first) && rest == wanted)
    };
    prompt.words.iter().filter(is_it).cloned().collect()
}

/// The one word, phrase or probe that `thing` is.
fn find(prompt: &PromptInfo, probes: &[WordInfo], kind: &ExpectationKind, thing: &str) -> Result<WordInfo, Unfound> {
    let words = prompt.select_name(thing, probes).or_else(|error| match behind_an_article(prompt, thing) {
        words if words.is_empty() => Err(error),
        words => Ok(words),
    });
    let words = words.map_err(|error| match error {
        Error::Argument { reason, .. } => Unfound(reason),
        other => Unfound(other.to_string()),
    })?;
    let word = only(thing, words).map_err(Unfound)?;
    if matches!(kind, ExpectationKind::Drawn(_)) {
        can_be_told(plain(&word.text))?;
    }
    Ok(of_its_things(prompt, &word))
}

impl<'a> FoundWord<'a> {
    fn of(maps: &'a Heatmaps, word: usize, threshold: f32) -> Self {
        Self { layout: maps.layout(word, threshold), map: maps.word(word) }
    }
}

/// As [`judge`], of whether a thing was drawn, by its sighting.
fn judge_sighting(kind: &ExpectationKind, gain: f32) -> (Option<bool>, Option<Measurement>, String) {
    let figure = Measurement { measure: Quantity::Gain, value: gain, bound: SEEN };
    let seen = gain >= SEEN;
    let may = if seen { "may be there" } else { "may not be there" };
    let helps = match gain >= 0.0 {
        true => format!("lower by {}", percent_beside(gain, SEEN)),
        false => format!("nowhere lower, and higher by {}", percent(-gain)),
    };
    let says = format!(
        "it {may}: told of this thing alone, the model's error about the noised image is {helps} where that helps \
         most (from {} on it counts as there)",
        percent(SEEN)
    );
    (Some(seen != matches!(kind, ExpectationKind::Absent(_))), Some(figure), says)
}

/// Whether an expectation of the things `found` is met, the figure that decides, and both in words.
fn judge(kind: &ExpectationKind, found: &[&FoundWord], grid: Grid) -> (Option<bool>, Option<Measurement>, String) {
    let empty = || (Some(false), None, "its map is empty".to_owned());
    match (kind, found) {
        (ExpectationKind::Relation { relation, object, .. }, [subject, other]) => {
            if *relation == Direction::Inside {
                return judge_inside(subject, other, object);
            }
            let (holds, offset) = holds(*relation, &subject.layout, &other.layout);
            let Some(offset) = offset else { return empty() };
            // Negative for left and up, whichever is expected.
            let value = if matches!(relation, Direction::LeftOf | Direction::Above) { -offset } else { offset };
            let figure = Measurement { measure: Quantity::Offset, value, bound: APART };
            let side = if matches!(relation, Direction::LeftOf | Direction::RightOf) { "width" } else { "height" };
            let says = format!(
                "its centre lies {} of the {side} {} that of {object} ({} decide)",
                percent_beside(value.abs(), APART),
                if value >= 0.0 { relation.words() } else { relation.opposite().unwrap_or(*relation).words() },
                percent(APART)
            );
            (Some(holds == Some(true)), Some(figure), says)
        }
        (ExpectationKind::At { side, .. }, [one]) => {
            let Some(at) = one.layout.centroid else { return empty() };
            let value = side.margin(at);
            let figure = Measurement { measure: Quantity::Margin, value, bound: 0.0 };
            let [across, down] = [at.x, at.y].map(|share| percent_beside(share, 0.5));
            let says = format!("its centre lies at {across} of the width and {down} of the height");
            (Some(value >= 0.0), Some(figure), says)
        }
        (ExpectationKind::Within { bounds, .. }, [one]) => {
            let Some(box_of_it) = one.layout.bounds else { return empty() };
            let value = share_inside(one.map, grid, one.layout.threshold, *bounds);
            let figure = Measurement { measure: Quantity::Inside, value, bound: INSIDE };
            let says = format!(
                "{} of its region lies in the box (half decides); the box around it and this one overlap by {} (IoU)",
                percent_beside(value, INSIDE),
                percent(intersection_over_union(box_of_it, *bounds))
            );
            (Some(value >= INSIDE), Some(figure), says)
        }
        _ => empty(),
    }
}

/// Whether the box of a thing lies in that of another, which is called `object`.
fn judge_inside(subject: &FoundWord, other: &FoundWord, object: &str) -> (Option<bool>, Option<Measurement>, String) {
    let (Some(own), Some(outer)) = (subject.layout.bounds, other.layout.bounds) else {
        return (Some(false), None, "a map is empty".to_owned());
    };
    let value = share_within(own, outer);
    let holds = holds(Direction::Inside, &subject.layout, &other.layout).0 == Some(true);
    let larger = if value >= WITHIN && !holds { ", which is no larger" } else { "" };
    let says = format!(
        "{} of its box lies in that of {object}{larger} ({} decide)",
        percent_beside(value, WITHIN),
        percent(WITHIN)
    );
    (Some(holds), Some(Measurement { measure: Quantity::Inside, value, bound: WITHIN }), says)
}

/// The share of the cells of at least `threshold` of the maximum of `map` that lies in `bounds`.
/// Cells at its edge count by the part that does.
fn share_inside(map: &[f32], grid: Grid, threshold: f32, bounds: Bounds) -> f32 {
    let covered = |index: usize, count: usize, from: f32, to: f32| {
        let (start, end) = (index as f32 / count as f32, (index + 1) as f32 / count as f32);
        ((to.min(end) - from.max(start)).max(0.0) * count as f32).min(1.0)
    };
    let level = threshold * largest(map.iter().copied());
    let (mut inside, mut all) = (0.0, 0.0);
    for (cell, _) in map.iter().enumerate().filter(|(_, value)| **value >= level) {
        let (row, column) = (cell / grid.width, cell % grid.width);
        all += 1.0;
        inside += covered(row, grid.height, bounds.top, bounds.bottom)
            * covered(column, grid.width, bounds.left, bounds.right);
    }
    if all > 0.0 { inside / all } else { 0.0 }
}

fn intersection_over_union(a: Bounds, b: Bounds) -> f32 {
    let both = area(common(a, b));
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_met_does_not_read_as_if_it_were() {
        let drawn = ExpectationKind::Drawn("frog".into());
        let (met, _, says) = judge_sighting(&drawn, 0.2196);
        assert!(met == Some(false) && says.contains("lower by 21.96 %") && says.contains("from 22 % on"), "{says}");
        assert!(judge_sighting(&drawn, SEEN).2.contains("lower by 22 % where"));
    }

    #[test]
    fn a_region_lies_in_a_box_by_its_cells() {
        let grid = Grid::new(2, 4);
        let map = [0.0, 1.0, 1.0, 0.0, 0.0, 0.5, 0.1, 0.0];
        let bounds = |left, top, right, bottom| Bounds { left, top, right, bottom };
        // Three cells are above 0.4 of the maximum.
        assert_eq!(share_inside(&map, grid, 0.4, bounds(0.0, 0.0, 0.5, 1.0)), 2.0 / 3.0);
        assert_eq!(share_inside(&map, grid, 0.4, bounds(0.5, 0.25, 1.0, 1.0)), 0.5 / 3.0);
        assert_eq!(share_inside(&map, grid, 0.4, bounds(0.0, 0.0, 1.0, 1.0)), 1.0);
        assert_eq!(intersection_over_union(bounds(0.0, 0.0, 0.5, 1.0), bounds(0.25, 0.0, 0.75, 1.0)), 1.0 / 3.0);
    }
}
