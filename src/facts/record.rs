//! The facts of a run as `run.json` keeps them, and what of them is put into words.

use super::lexicon::{Direction, Role};
use super::measures::NEGLECT;
use crate::argument::EMPHASIS;
use crate::heatmap::Layout;
use serde::{Deserialize, Serialize};

/// Two maps are alike below this symmetric KL divergence, in nats.
pub const ALIKE: f32 = 0.5;

/// Everything that the maps of one run tell about its words. Lengths are shares of the image's
/// sides, `y` from the top.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The share of a map's own maximum above which a cell belongs to a word's area, box and
    /// centroid.
    pub threshold: f32,
    /// The peak of the highest filler word; absent where the prompt has none.
    pub filler_peak: Option<f32>,
    /// Whether `filler_peak` is the median over a seed sweep instead of this run's own.
    #[serde(default)]
    pub over_seeds: bool,
    /// One entry per word, in prompt order.
    pub words: Vec<WordFacts>,
    /// `[words][words]`: how much of two words' attention lies in the same places, 0 to 1. It is
    /// the sum of the smaller of the two maps, each divided by its sum.
    pub overlap: Vec<Vec<f32>>,
    /// How things lie to each other, each pair once: the left one to the right one, the upper one
    /// to the lower one. Words for the whole scene lie nowhere.
    pub relations: Vec<Relation>,
    /// The relations that the prompt states between things, and whether the maps agree.
    pub stated: Vec<Stated>,
    /// Adjectives of things, and the things that they follow.
    pub leakage: Vec<Leakage>,
}

impl Facts {
    /// What stands out, one line per finding. It is relations that the prompt states, things that
    /// were probably not drawn, and adjectives that may have gone to another thing.
    pub fn sentences(&self) -> Vec<String> {
        self.told(true)
    }

    /// As [`sentences`](Self::sentences), of a picture that was there before the run: no other seed
    /// would change it.
    pub fn sentences_of_picture(&self) -> Vec<String> {
        self.told(false)
    }

    /// The sentences, with what may help where the run drew the image.
    fn told(&self, drawn_by_run: bool) -> Vec<String> {
        let absent = |name: &str| self.words.iter().any(|word| word.word == name && word.neglected == Some(true));
        // Of what was not drawn nothing else is said.
        let drawn = self.stated.iter().filter(|stated| !absent(&stated.claim.subject) && !absent(&stated.claim.object));
        let stated = drawn.map(|stated| {
            let Relation { subject, relation, object } = &stated.claim;
            let claim = format!("{subject} {} {object}", relation.words());
            match (stated.agrees, relation.opposite()) {
                (Some(true), _) => format!("{claim}, as the prompt says"),
                (Some(false), Some(opposite)) => {
                    format!("the prompt says {claim}; the maps have {subject} {} {object}", opposite.words())
                }
                (Some(false), None) => format!("the prompt says {claim}; the maps do not"),
                (None, _) => format!("the prompt says {claim}; the maps are too close to call"),
            }
        });
        let neglected: Vec<&WordFacts> = self.words.iter().filter(|word| word.neglected == Some(true)).collect();
        let neglected: Vec<String> = match &neglected[..] {
            [] => Vec::new(),
            [word] => {
                let (name, contrast) = (&word.word, below_neglect(word.contrast.unwrap_or_default()));
                let advice = match drawn_by_run {
                    true => format!("; try other seeds, or {EMPHASIS} with ({name}:1.3)"),
                    false => String::new(),
                };
                vec![format!(
                    "{name} was probably not drawn: no place was looked at for it more than {contrast} times as \
                    much as the image on average (what is drawn reaches {NEGLECT} and more){advice}"
                )]
            }
            words => {
                let names: Vec<&str> = words.iter().map(|word| word.word.as_str()).collect();
                let advice = if drawn_by_run { "; try other seeds, or a shorter prompt" } else { "" };
                vec![format!(
                    "{} were probably not drawn: no place was looked at for them {NEGLECT} times as much as the \
                    image on average{advice}",
                    and(&names)
                )]
            }
        };
        let leakage = self
            .leakage
            .iter()
            .filter(|leak| leak.tells() && !absent(&leak.noun) && !absent(&leak.follows))
            .map(|leak| format!("{} may colour {} rather than {}", leak.adjective, leak.follows, leak.noun));
        stated.chain(neglected).chain(leakage).collect()
    }
}

/// A contrast below [`NEGLECT`] with as many digits as show that it is.
fn below_neglect(contrast: f32) -> String {
    let digits = (1..4).find(|&digits| format!("{contrast:.digits$}") != format!("{NEGLECT:.digits$}"));
    format!("{contrast:.0$}", digits.unwrap_or(4))
}

/// `a, b and c`.
fn and(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} and {last}", names.join(", ")),
    }
}

/// What one word's map tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordFacts {
    /// The word, `apple#2` where the prompt repeats it.
    pub word: String,
    /// What it does in the prompt, by a small word list.
    pub role: Role,
    /// Positions of its tokens.
    pub tokens: Vec<usize>,
    /// Share, peak, centroid, box, area, entropy.
    #[serde(flatten)]
    pub layout: Layout,
    /// 1 minus the entropy: 0 a flat map, 1 a single cell.
    pub concentration: f32,
    /// Root mean square distance of the word's attention from its centre, 0 a single point; 0.41
    /// for a flat map of a square image.
    pub spread: Option<f32>,
    /// Since when it is where it ended up; absent without per-step maps.
    pub placed: Option<Placed>,
    /// Whether its contrast stays below [`NEGLECT`]. Absent for what this cannot tell of: fillers,
    /// adjectives, words that [set the scene](super::lexicon::sets_the_scene), words that nothing
    /// looked for, and all words of joint attention.
    pub neglected: Option<bool>,
    /// The highest attention to it in one place over that of the image on average; 1 where it is
    /// the same everywhere. Of the default maps before the words compete. Absent for joint
    /// attention.
    #[serde(default)]
    pub contrast: Option<f32>,
    /// Its peak as a share of [`Facts::filler_peak`]; absent for fillers and where there is none.
    #[serde(default)]
    pub of_filler_peak: Option<f32>,
}

/// When a word found its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The first step, from 1, from which the centroid stays within [`NEAR`](super::NEAR) of the
    /// last one.
    pub step: usize,
    /// Number of steps.
    pub steps: usize,
}

/// One thing lies to another like this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// The one.
    pub subject: String,
    /// How.
    pub relation: Direction,
    /// The other.
    pub object: String,
}

/// A relation that the prompt states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stated {
    /// Subject, relation, object as the prompt has them.
    #[serde(flatten)]
    pub claim: Relation,
    /// Whether the maps agree; absent when they are too close to call or a map is empty.
    pub agrees: Option<bool>,
    /// The subject's centroid minus the object's along the relation's axis, negative for left and
    /// up; absent for `inside`.
    pub offset: Option<f32>,
}

/// Where an adjective's attention went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leakage {
    /// The adjective.
    pub adjective: String,
    /// The noun that it belongs to.
    pub noun: String,
    /// Symmetric KL divergence of its map from its own noun's, in nats; 0 the same map.
    pub own: f32,
    /// The same from each other noun.
    pub others: Vec<Distance>,
    /// The noun whose map is nearest.
    pub follows: String,
}

impl Leakage {
    /// Whether another thing is nearer than the adjective's own noun.
    pub fn leaks(&self) -> bool {
        self.follows != self.noun
    }

    /// Whether it is worth saying that it may have gone to another thing. Its map must be like that
    /// thing's (`ALIKE`), and less like its own noun's by as much again.
    pub fn tells(&self) -> bool {
        let nearest = self.others.iter().map(|other| other.divergence).fold(f32::INFINITY, f32::min);
        self.leaks() && nearest < ALIKE && self.own > 2.0 * nearest
    }
}

/// How far an adjective's map is from a noun's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// The noun.
    pub noun: String,
    /// Symmetric KL divergence in nats.
    pub divergence: f32,
}
