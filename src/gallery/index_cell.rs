//! A cell as the gallery's page needs it: its numbers by name, its words, and what stands out of
//! it.

use super::cell::Origin;
use super::cell_files::CellFacts;
use crate::facts::Facts;
use crate::run::RunRecord;
use crate::trace::{WordInfo, normalized};
use serde_json::Value;

/// A cell as the page needs it.
#[derive(Debug, Clone)]
pub struct IndexCell {
    /// Its folder's name under `cells/`.
    pub name: String,
    /// What was asked for, and its maps' scale.
    pub facts: CellFacts,
    /// Width and height of the image in pixels.
    pub size: (usize, usize),
    /// Every number of the run's `run.json` by name; those of its words are
    /// [theirs](IndexWord::numbers).
    pub numbers: Vec<(String, f64)>,
    /// What was expected of it, and whether that is so; absent where it says nothing of this image.
    pub expected: Vec<(String, Option<bool>)>,
    /// Of a cell without a word or tag: what was left out, in each way in which it came about.
    pub left_out: Vec<WithoutWord>,
    /// Its words in the order of the maps.
    pub words: Vec<IndexWord>,
    /// What stands out of it: per finding its kind, a place in `NOTES`, and a sentence.
    pub notes: Vec<(usize, String)>,
}

/// What was left out of a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct WithoutWord {
    /// How the cell's prompt came about.
    pub origin: Origin,
    /// Which share of the image changes by it, 0 to 1; unknown without the whole cell.
    pub changed: Option<f64>,
}

/// A word of a cell.
#[derive(Debug, Clone)]
pub struct IndexWord {
    /// In lower case, so that words can be compared across prompts.
    pub name: String,
    /// Every number that `run.json` has of it, by name.
    pub numbers: Vec<(String, f64)>,
}

/// Kinds of things that may be wrong with an image, as the page offers them.
pub(super) const NOTES: [&str; 3] =
    ["a relation of the prompt may not hold", "a word may not have been drawn", "a colour may lie on another thing"];

/// The number of a cell that says how much of the image changed without what was left out.
pub(super) const CHANGED: &str = "changed share";

/// What stands out of `facts`, those of `record`.
fn notes(record: &RunRecord, facts: &Facts) -> Vec<(usize, String)> {
    let without = |kind: usize| match kind {
        0 => Facts { words: Vec::new(), leakage: Vec::new(), ..facts.clone() },
        1 => Facts { stated: Vec::new(), leakage: Vec::new(), ..facts.clone() },
        _ => Facts { stated: Vec::new(), words: Vec::new(), ..facts.clone() },
    };
    let mut found = Vec::new();
    for kind in 0..NOTES.len() {
        let mut of_kind = without(kind);
        of_kind.stated.retain(|stated| stated.agrees == Some(false));
        found.extend(record.sentences(&of_kind).into_iter().map(|sentence| (kind, sentence)));
    }
    found
}

/// Numbers of `run.json` that say nothing about an image, by the name of their field.
const UNTOLD: [&str; 9] =
    ["format_version", "display", "start", "end", "occurrence", "threshold", "otsu", "row", "column"];

impl IndexCell {
    /// A cell from its run and its place in the gallery.
    pub fn new(name: String, facts: CellFacts, record: &RunRecord) -> Self {
        let json = |value: serde_json::Result<Value>| value.expect("plain data has a JSON form");
        let start = record.tokens.first().map_or(0.0, |token| token.share);
        let mut numbers = vec![
            ("start token share".to_string(), f64::from(start)),
            ("number of words".to_string(), record.words.len() as f64),
        ];
        collect(&json(serde_json::to_value(record)), "", &mut numbers);
        let words = record.words.iter().map(|word| {
            let name = WordInfo::label_of(&normalized(&word.word.text), word.word.occurrence);
            let mut numbers = Vec::new();
            collect(&json(serde_json::to_value(word)), "", &mut numbers);
            IndexWord { name, numbers }
        });
        let words = words.collect();
        let expected = record.expectations.iter();
        let expected = expected.map(|outcome| (outcome.expectation.clone(), outcome.met)).collect();
        let notes = record.facts.as_ref().map_or_else(Vec::new, |facts| notes(record, facts));
        let mut facts = facts;
        // The checkpoint's own, where none was asked for.
        facts.cell.sampling.steps = Some(record.settings.steps());
        facts.cell.sampling.guidance = Some(record.settings.guidance());
        let size = (record.image.width, record.image.height);
        let origins = facts.cell.origins().into_iter().filter(|origin| !origin.without.is_empty());
        let left_out = origins.map(|origin| WithoutWord { origin, changed: None }).collect();
        Self { name, facts, size, numbers, expected, left_out, words, notes }
    }
}

/// Adds every number of `value` that says something about an image to `numbers`, named by its
/// fields; lists are left out.
fn collect(value: &Value, name: &str, numbers: &mut Vec<(String, f64)>) {
    if let Some(number) = value.as_f64() {
        numbers.push((name.to_string(), number));
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        if UNTOLD.contains(&key.as_str()) {
            continue;
        }
        // "peak" beside "peak x", and "seed" where "settings seed" would say no more.
        let own = if matches!(key.as_str(), "settings" | "value") { String::new() } else { key.replace('_', " ") };
        collect(inner, format!("{name} {own}").trim(), numbers);
    }
}
