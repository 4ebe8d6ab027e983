//! Whether a word has a habit: a side on which its map lies more often than chance would put it.

use super::record::WordSweep;
use crate::facts::lexicon::{self, Role};
use crate::heatmap::Point;
use crate::percent;
use crate::trace::{Grid, bare};
use serde::{Deserialize, Serialize};

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

/// The mean of those of `points` that are there, and the root mean square distance from it.
pub(super) fn scatter(points: &[Option<Point>]) -> (Option<Point>, Option<f32>) {
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
}
