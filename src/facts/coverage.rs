//! Which words of many captions are looked for at a place of their pictures: where, and how often.

use super::lexicon::Role;
use super::record::{Facts, WordFacts};
use crate::heatmap::Point;
use crate::trace::{bare, normalized};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The words of many captions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// How many pictures were looked at.
    pub pictures: usize,
    /// One entry per word, those of most captions first.
    pub words: Vec<Covered>,
}

/// One word of many captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Covered {
    /// The word, as it is first written.
    pub word: String,
    /// What it does in a caption.
    pub role: Role,
    /// How many captions have it.
    pub captions: usize,
    /// In how many of them it is judged: of things, not of adjectives and of words for the whole
    /// scene.
    pub judged: usize,
    /// In how many it has a place: one is looked at for it [`NEGLECT`](super::NEGLECT) times as
    /// much as the picture on average. Most things that are not there have one too (ACCURACY.md).
    pub found: usize,
    /// The mean centre of its map where it has a place, or where it is not judged; shares of the
    /// picture's sides.
    pub centre: Option<Point>,
    /// Root mean square distance of the centres from `centre`; absent for less than two.
    pub scatter: Option<f32>,
    /// The mean share of the picture above the threshold, over the same pictures.
    pub area: Option<f32>,
    /// Each of these centres.
    pub centres: Vec<Point>,
    /// The pictures where it is judged and has no place, by the names given.
    pub missing: Vec<String>,
}

impl Coverage {
    /// Of the facts of each picture, by its name.
    pub fn of<'a>(pictures: impl IntoIterator<Item = (&'a str, &'a Facts)>) -> Self {
        let mut words: BTreeMap<String, Gathered> = BTreeMap::new();
        let mut count = 0;
        for (name, facts) in pictures {
            count += 1;
            // A word that a caption has twice counts once.
            let mut here: BTreeMap<String, Vec<&WordFacts>> = BTreeMap::new();
            for word in facts.words.iter().filter(|word| !matches!(word.role, Role::Filler | Role::Probe)) {
                here.entry(normalized(bare(&word.word))).or_default().push(word);
            }
            for (key, entries) in here {
                words.entry(key).or_default().add(name, &entries);
            }
        }
        let mut words: Vec<Covered> = words.into_values().filter_map(Gathered::covered).collect();
        words.sort_by(|a, b| b.captions.cmp(&a.captions).then_with(|| a.word.cmp(&b.word)));
        Self { pictures: count, words }
    }
}

#[derive(Default)]
struct Gathered {
    first: Option<(String, Role)>,
    captions: usize,
    judged: usize,
    found: usize,
    centres: Vec<Point>,
    areas: Vec<f32>,
    missing: Vec<String>,
}

impl Gathered {
    fn add(&mut self, picture: &str, entries: &[&WordFacts]) {
        // The best supported of several.
        let contrast = |word: &&&WordFacts| word.contrast.unwrap_or(0.0);
        let Some(best) = entries.iter().max_by(|a, b| contrast(a).total_cmp(&contrast(b))) else { return };
        self.first.get_or_insert_with(|| (entries[0].word.clone(), best.role));
        self.captions += 1;
        self.judged += usize::from(best.neglected.is_some());
        match best.neglected {
            Some(true) => self.missing.push(picture.to_owned()),
            found => {
                self.found += usize::from(found.is_some());
                self.centres.extend(best.layout.centroid);
                self.areas.push(best.layout.area);
            }
        }
    }

    fn covered(self) -> Option<Covered> {
        let (word, role) = self.first?;
        let count = self.centres.len() as f32;
        let mean = |of: fn(&Point) -> f32| self.centres.iter().map(of).sum::<f32>() / count;
        let centre = (count > 0.0).then(|| Point { x: mean(|at| at.x), y: mean(|at| at.y) });
        let squares =
            |centre: Point| self.centres.iter().map(move |at| (at.x - centre.x).powi(2) + (at.y - centre.y).powi(2));
        let scatter = centre.filter(|_| count > 1.0).map(|centre| (squares(centre).sum::<f32>() / count).sqrt());
        let area = (!self.areas.is_empty()).then(|| self.areas.iter().sum::<f32>() / self.areas.len() as f32);
        let Self { captions, judged, found, centres, missing, .. } = self;
        Some(Covered { word, role, captions, judged, found, centre, scatter, area, centres, missing })
    }
}
