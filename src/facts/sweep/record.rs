//! What a sweep found, as `sweep.json` holds it, and how its shares are told.

use crate::facts::Relation;
use crate::facts::lexicon::Role;
use crate::files::Target;
use crate::heatmap::{Point, SavedAggregate};
use crate::trace::CheckpointInfo;
use crate::{Error, Result, plural};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// The file of a sweep in its folder.
pub const FILE: &str = "sweep.json";

/// What a sweep found. Lengths are shares of the image's sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// What was swept.
    #[serde(flatten)]
    pub about: SweepInfo,
    /// The seeds, in order.
    pub seeds: Vec<u64>,
    /// The median over the seeds of the highest filler word's peak; absent when the prompt has
    /// none.
    pub filler_peak: Option<f32>,
    /// The peak of the highest filler word under each seed, ascending: what a single run's words
    /// can be compared with.
    #[serde(default)]
    pub filler_peaks: Vec<f32>,
    /// One entry per word, in prompt order.
    pub words: Vec<WordSweep>,
    /// One entry per relation that the prompt states.
    pub stated: Vec<StatedSweep>,
    /// One entry per thing that was expected; empty where nothing was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<ExpectedSweep>,
}

/// What a sweep was made of: a run of the same can be compared with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepInfo {
    /// The prompt.
    #[serde(default)]
    pub prompt: String,
    /// The checkpoint.
    #[serde(default)]
    pub checkpoint: CheckpointInfo,
    /// How the maps were made.
    #[serde(flatten)]
    pub how: SavedAggregate,
    /// The negative prompt.
    #[serde(default)]
    pub negative: String,
    /// The settings of its runs, as `run.json` holds them, whatever their seed. Absent in sweeps of
    /// versions that did not keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
}

impl SweepInfo {
    /// Whether runs of `self` and of `other` differ in their seed alone, as far as both say what
    /// they were made with.
    pub fn fits(&self, other: &Self) -> bool {
        let plain = |about: &Self| {
            let mut settings = about.settings.clone();
            settings.as_mut().and_then(Value::as_object_mut).map(|fields| fields.remove("seed"));
            settings
        };
        self.prompt == other.prompt
            && self.negative == other.negative
            && self.checkpoint.digest == other.checkpoint.digest
            && self.how.is_same(&other.how)
            && plain(self).zip(plain(other)).is_none_or(|(own, other)| own == other)
    }
}

impl Sweep {
    /// The sweep in `folder`; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Trace`] when its `sweep.json` is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(FILE);
        if !file.is_file() {
            return Ok(None);
        }
        let bytes = crate::files::read(&file).map_err(Error::io(&file))?;
        let sweep = serde_json::from_slice(&bytes);
        sweep.map(Some).map_err(|error| Error::Trace { file, reason: format!("{error}; make the sweep again") })
    }

    /// The newest sweep that fits `about`, with its folder. It stands at `place`, or at one of the
    /// names that this counts up to: `apple-sweep`, `apple-sweep-2`.
    pub fn newest(place: &Path, about: &SweepInfo) -> Option<(PathBuf, Self)> {
        let read = |folder: PathBuf| {
            let sweep = Self::read(&folder).ok().flatten()?;
            Some((folder, sweep))
        };
        let folders = Target::generated(place, false).taken().into_iter().rev();
        folders.filter_map(read).find(|(_, sweep)| sweep.about.fits(about))
    }
}

/// Where one word landed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordSweep {
    /// The word.
    pub word: String,
    /// What it does in the prompt.
    pub role: Role,
    /// Its centroid for each seed; absent for an empty map.
    pub centroids: Vec<Option<Point>>,
    /// The mean of the centroids.
    pub mean: Option<Point>,
    /// Root mean square distance of the centroids from their mean: 0 when the word always lands in
    /// one place.
    pub scatter: Option<f32>,
    /// Mean peak.
    pub peak: f32,
    /// Share of the seeds in which its contrast stays below [`NEGLECT`](crate::facts::NEGLECT).
    /// Absent for maps other than the default ones, and for what that cannot tell of, as in
    /// [`WordFacts::neglected`](crate::facts::WordFacts::neglected).
    pub neglected: Option<f64>,
    /// Whether it was probably drawn under each seed: whether its contrast is not below
    /// [`NEGLECT`](crate::facts::NEGLECT). Empty where `neglected` is absent, and in sweeps of
    /// versions that counted alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drawn: Vec<bool>,
}

/// How often a stated relation holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatedSweep {
    /// The relation.
    #[serde(flatten)]
    pub claim: Relation,
    /// Share of the seeds whose maps agree, whether they drew both things or not.
    pub agrees: f64,
    /// Share of the seeds whose maps disagree; the rest is too close to call.
    pub fails: f64,
    /// The same of the seeds that drew both things. Absent where none is known to have left one
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn: Option<StatedWhereDrawn>,
}

/// How often a stated relation holds among the seeds that drew both of its things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedWhereDrawn {
    /// How many seeds these are.
    pub seeds: usize,
    /// In how many of them the maps agree.
    pub agrees: usize,
    /// In how many of them the maps disagree.
    pub fails: usize,
}

/// How often an expectation is met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectedSweep {
    /// The expectation as it was written.
    pub expectation: String,
    /// Share of the seeds that meet it, 0 to 1.
    pub share: f64,
    /// Whether each seed meets it, in the order of the seeds.
    pub met: Vec<bool>,
}

impl ExpectedSweep {
    /// How many seeds do not meet it.
    pub fn unmet(&self) -> usize {
        self.met.iter().filter(|met| !**met).count()
    }
}

impl fmt::Display for ExpectedSweep {
    /// `expected: frog right of apple: met in 6 of 8 seeds (75 %)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, share) = (self.met.len(), 100.0 * self.share);
        let (met, all) = (all - self.unmet(), plural(all, "seed"));
        write!(f, "expected: {}: met in {met} of {all} ({share:.0} %)", self.expectation)
    }
}

impl StatedSweep {
    /// How often it holds, in a sentence, of the seeds that drew both things. `None` where none
    /// did: of what was not drawn nothing else is said.
    pub fn sentence(&self) -> Option<String> {
        self.drawn.is_none_or(|drawn| drawn.seeds > 0).then(|| self.to_string())
    }
}

impl fmt::Display for StatedSweep {
    /// `stated: apple left of frog: holds in 75 % of the seeds, fails in 25 %`. Where some seeds
    /// did not draw both, `of the 4 seeds that drew both`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Relation { subject, relation, object } = &self.claim;
        let (holds, fails, of) = match self.drawn {
            None => (self.agrees, self.fails, "the seeds".to_owned()),
            Some(StatedWhereDrawn { seeds, agrees, fails }) => {
                let share = |count: usize| count as f64 / seeds.max(1) as f64;
                (share(agrees), share(fails), format!("the {} that drew both", plural(seeds, "seed")))
            }
        };
        let (holds, fails, relation) = (100.0 * holds, 100.0 * fails, relation.words());
        write!(f, "stated: {subject} {relation} {object}: holds in {holds:.0} % of {of}, fails in {fails:.0} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expectation_is_told_by_seeds() {
        let expected = |met: &[bool]| ExpectedSweep { expectation: "frog".into(), share: 1.0, met: met.to_vec() };
        assert_eq!(expected(&[true]).to_string(), "expected: frog: met in 1 of 1 seed (100 %)");
        assert_eq!(expected(&[true; 2]).to_string(), "expected: frog: met in 2 of 2 seeds (100 %)");
    }

    #[test]
    fn a_relation_is_told_of_the_seeds_that_drew_both_things() {
        let json = r#"{"subject": "apple", "relation": "left-of", "object": "frog", "agrees": 0.5, "fails": 0.25}"#;
        let all: StatedSweep = serde_json::from_str(json).unwrap();
        let says = "stated: apple left of frog: holds in 50 % of the seeds, fails in 25 %";
        assert_eq!(all.sentence().as_deref(), Some(says));
        let of = |seeds: usize, agrees: usize, fails: usize| {
            StatedSweep { drawn: Some(StatedWhereDrawn { seeds, agrees, fails }), ..all.clone() }.sentence()
        };
        let says = "stated: apple left of frog: holds in 60 % of the 5 seeds that drew both, fails in 20 %";
        assert_eq!(of(5, 3, 1).as_deref(), Some(says));
        assert!(of(1, 1, 0).unwrap().contains("holds in 100 % of the 1 seed that drew both"));
        assert_eq!(of(0, 0, 0), None);
    }
}
