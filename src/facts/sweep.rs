//! A prompt's habits over many seeds: where each word lands, how often it is neglected, how often a
//! stated relation fails.

use super::expect::Outcome;
use super::lexicon::{self, Role};
use super::measures::{contrast, filler_peak, is_neglect};
use super::things::with_tokens;
use super::{Context, Facts, Relation, facts};
use crate::files::Target;
use crate::heatmap::{Aggregate, Heatmaps, Point, SavedAggregate};
use crate::trace::{CheckpointInfo, Grid, WordInfo, bare};
use crate::{Error, Result, percent, plural};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// The file of a sweep in its folder.
pub const FILE: &str = "sweep.json";

/// Collects the maps of one prompt under many seeds.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    about: SweepInfo,
    grid: Grid,
    sums: Vec<f32>,
    runs: Vec<(u64, Facts)>,
    outcomes: Vec<Vec<Outcome>>,
}

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
    /// Share of the seeds in which its contrast stays below [`NEGLECT`](super::NEGLECT); absent for
    /// what that cannot tell of, as in [`WordFacts::neglected`](super::WordFacts::neglected), and
    /// for maps other than the default ones.
    pub neglected: Option<f64>,
    /// Whether it was probably drawn under each seed: whether its contrast is not below
    /// [`NEGLECT`](super::NEGLECT). Empty where `neglected` is absent, and in sweeps of versions
    /// that counted alone.
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

/// Fewest seeds of which a habit is told: of five, even all on one side are no rarity.
const FEWEST: usize = 7;

/// A side counts where the mean centre lies at least this far from the middle, as a share of the
/// image's side.
const OFF_CENTRE: f32 = 0.1;

/// How likely chance alone may put as many seeds on one side, on either of the two axes together.
const CHANCE: f64 = 0.05;

/// Centres that scatter less than this, as a share of the image's sides, lie in one place.
const ONE_PLACE: f32 = 0.08;

/// Where a word's map lies over the seeds: always on one side, now here and now there, or on no
/// side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Habit {
    /// On these sides more often than chance would put it there.
    Side {
        /// Each side with the number of seeds whose centre lies there: `left`, `right`, `upper
        /// half`, `lower half`.
        sides: Vec<(String, usize)>,
    },
    /// Somewhere else from seed to seed.
    Accident,
    /// Around the middle of the image in all of them.
    Middle,
    /// Too few seeds have a map of it.
    Few,
}

impl WordSweep {
    /// Whether the word has a side, by the seeds that drew it. A side is told of when a sign test
    /// over the seeds makes chance an unlikely cause (5 %, shared among the two axes). The mean
    /// centre must also lie off the middle.
    pub fn habit(&self) -> Habit {
        let centres = self.centres_where_drawn();
        let points: Vec<Point> = centres.iter().copied().flatten().collect();
        let (Some(mean), Some(scatter)) = scatter(&centres) else { return Habit::Few };
        if points.len() < FEWEST {
            return Habit::Few;
        }
        let axis = |values: Vec<f32>, mean: f32, names: [&str; 2]| {
            let beyond = usize::from(mean > 0.5);
            let there = values.iter().filter(|&&value| (value > 0.5) == (mean > 0.5)).count();
            let told = (mean - 0.5).abs() >= OFF_CENTRE && sign_test(there, values.len()) <= CHANCE / 2.0;
            told.then(|| (names[beyond].to_owned(), there))
        };
        let across = axis(points.iter().map(|point| point.x).collect(), mean.x, ["left", "right"]);
        let down = axis(points.iter().map(|point| point.y).collect(), mean.y, ["upper half", "lower half"]);
        let sides: Vec<_> = across.into_iter().chain(down).collect();
        match (sides.is_empty(), scatter < ONE_PLACE) {
            (false, _) => Habit::Side { sides },
            (true, true) => Habit::Middle,
            (true, false) => Habit::Accident,
        }
    }

    /// Whether it can have a habit: words for the whole scene and little words have no place.
    pub fn has_a_place(&self) -> bool {
        self.role == Role::Adjective || lexicon::names_a_thing(bare(&self.word))
    }

    /// The centres under the seeds that drew it, as far as that is known.
    fn centres_where_drawn(&self) -> Vec<Option<Point>> {
        // Sweeps of older versions tell of none but where they tell of all.
        if self.neglected.is_some_and(|share| share >= 1.0) {
            return Vec::new();
        }
        let drawn = |seed: usize| self.drawn.get(seed).copied().unwrap_or(true);
        self.centroids.iter().enumerate().filter(|(seed, _)| drawn(*seed)).map(|(_, centre)| *centre).collect()
    }

    /// The habit in a sentence, and of how many seeds it is where some did not draw the word.
    /// `None` where none did: of what was not drawn nothing else is said.
    pub fn sentence(&self) -> Option<String> {
        let centres = self.centres_where_drawn();
        if centres.is_empty() {
            return None;
        }
        let (seeds, word) = (centres.iter().flatten().count(), &self.word);
        let these = if centres.len() == self.centroids.len() { "" } else { " that drew it" };
        let told = match self.habit() {
            Habit::Side { sides } => {
                let told: Vec<String> =
                    sides.iter().map(|(side, there)| format!("{side} in {there} of {seeds}")).collect();
                format!("“{word}” has a habit: {} seeds{these}.", told.join(", "))
            }
            Habit::Accident => format!("Where “{word}” lands is an accident of the seed: now here, now there."),
            Habit::Middle => {
                format!("“{word}” has no side: its map lies around the middle in all {seeds} seeds{these}.")
            }
            Habit::Few => {
                let have = if seeds == 1 { "has" } else { "have" };
                format!(
                    "“{word}”: {FEWEST} seeds or more tell a habit from an accident; here {seeds}{these} {have} a map."
                )
            }
        };
        Some(match self.absent() {
            Some(absent) => format!("{told} It was probably not drawn {absent} seeds."),
            None => told,
        })
    }

    /// In how many of the seeds it was probably not drawn, where it was not in some: `in 3 of 8`.
    pub(crate) fn absent(&self) -> Option<String> {
        self.neglected.filter(|share| *share > 0.0).map(|share| self.in_seeds(share))
    }

    fn in_seeds(&self, share: f64) -> String {
        let seeds = self.centroids.len();
        format!("in {:.0} of {seeds}", share * seeds as f64)
    }

    /// As a row of a table, of an `image` of so many pixels: word, peak, and the pixel where it
    /// lands. Then how far from there on average, in per cent of the image's sides, and in how many
    /// seeds it was probably not drawn. `-` stands where there is none.
    pub fn cells(&self, image: Grid) -> [String; 5] {
        let none = || "-".to_owned();
        let centre = |at: Point| {
            let [across, down] = image.pixel(at.x, at.y);
            format!("{across:.0},{down:.0}")
        };
        [
            self.word.clone(),
            percent(self.peak),
            self.mean.map_or_else(none, centre),
            self.scatter.map_or_else(none, percent),
            self.neglected.map_or_else(none, |share| self.in_seeds(share)),
        ]
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

/// How likely it is that of `count` fair coins as many as `there`, or more, fall on one side,
/// whichever.
fn sign_test(there: usize, count: usize) -> f64 {
    let mut term = 0.5f64.powi(count as i32); // C(count, k) / 2^count, from k = 0
    let mut tail = 0.0;
    for k in 0..=count {
        if k >= there {
            tail += term;
        }
        term *= (count - k) as f64 / (k + 1) as f64;
    }
    (2.0 * tail).min(1.0)
}

fn scatter(points: &[Option<Point>]) -> (Option<Point>, Option<f32>) {
    let points: Vec<Point> = points.iter().copied().flatten().collect();
    if points.is_empty() {
        return (None, None);
    }
    let mean = |of: &dyn Fn(&Point) -> f32| points.iter().map(of).sum::<f32>() / points.len() as f32;
    let centre = Point { x: mean(&|point| point.x), y: mean(&|point| point.y) };
    let squares = mean(&|point| (point.x - centre.x).powi(2) + (point.y - centre.y).powi(2));
    (Some(centre), Some(squares.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landed(points: &[(f32, f32)]) -> WordSweep {
        let centroids: Vec<Option<Point>> = points.iter().map(|&(x, y)| Some(Point { x, y })).collect();
        let (mean, scatter) = scatter(&centroids);
        let (word, role, neglected, drawn) = ("frog".into(), Role::Content, None, Vec::new());
        WordSweep { word, role, centroids, mean, scatter, peak: 0.3, neglected, drawn }
    }

    #[test]
    fn a_habit_is_more_than_chance() {
        // scipy.stats.binomtest(10, 12).pvalue and (9, 12).
        assert!((sign_test(10, 12) - 0.03857421875).abs() < 1e-12);
        assert!((sign_test(9, 12) - 0.14599609375).abs() < 1e-12);
        assert_eq!(sign_test(6, 12), 1.0);
        let right: Vec<(f32, f32)> = (0..12).map(|i| (0.7 + 0.01 * i as f32, 0.5)).collect();
        let says = landed(&right).sentence();
        assert_eq!(says.as_deref(), Some("“frog” has a habit: right in 12 of 12 seeds."));
        let turns: Vec<(f32, f32)> = (0..12).map(|i| (if i % 2 == 0 { 0.2 } else { 0.8 }, 0.5)).collect();
        assert_eq!(landed(&turns).habit(), Habit::Accident);
        // Everything a little to the right of the middle is no side.
        assert_eq!(landed(&[(0.53, 0.5); 12]).habit(), Habit::Middle);
        assert_eq!(landed(&right[..6]).habit(), Habit::Few);
        assert!(landed(&right[..1]).sentence().unwrap().ends_with("here 1 has a map."));
        let expected = |met: &[bool]| ExpectedSweep { expectation: "frog".into(), share: 1.0, met: met.to_vec() };
        assert_eq!(expected(&[true]).to_string(), "expected: frog: met in 1 of 1 seed (100 %)");
        assert_eq!(expected(&[true; 2]).to_string(), "expected: frog: met in 2 of 2 seeds (100 %)");
    }

    #[test]
    fn only_seeds_that_drew_a_word_tell_of_its_place() {
        // Nine on the right, and three far on the left that did not draw it.
        let points: Vec<(f32, f32)> = (0..12).map(|seed| (if seed < 9 { 0.75 } else { 0.05 }, 0.5)).collect();
        let drawn: Vec<bool> = (0..12).map(|seed| seed < 9).collect();
        let some = WordSweep { neglected: Some(0.25), drawn, ..landed(&points) };
        let says =
            "“frog” has a habit: right in 9 of 9 seeds that drew it. It was probably not drawn in 3 of 12 seeds.";
        assert_eq!(some.sentence().as_deref(), Some(says));
        assert_eq!(WordSweep { drawn: vec![true; 12], ..some.clone() }.habit(), Habit::Accident);
        let few = WordSweep { drawn: (0..12).map(|seed| seed < 2).collect(), ..some.clone() };
        assert!(few.sentence().unwrap().contains("here 2 that drew it have a map."), "{:?}", few.sentence());
        // Where none did, nothing is said, also where a version before this one counted them.
        let none = WordSweep { neglected: Some(1.0), drawn: vec![false; 12], ..some };
        assert_eq!((none.sentence(), none.habit()), (None, Habit::Few));
        let json = serde_json::to_value(WordSweep { drawn: Vec::new(), ..none }).unwrap();
        assert!(json.get("drawn").is_none());
        assert_eq!(serde_json::from_value::<WordSweep>(json).unwrap().sentence(), None);
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

    #[test]
    fn chance_has_a_habit_in_at_most_one_of_twenty() {
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        for seeds in [7, 12, 32] {
            let mut side = || if random() < 0.5 { 0.2 } else { 0.8 };
            let told = (0..4000).filter(|_| {
                let points: Vec<(f32, f32)> = (0..seeds).map(|_| (side(), side())).collect();
                matches!(landed(&points).habit(), Habit::Side { .. })
            });
            let share = told.count() as f64 / 4000.0;
            assert!(share <= 0.05 + 0.01, "{seeds} seeds: {share}");
        }
    }

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
