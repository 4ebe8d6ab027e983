//! The prompt with something changed: another word taken out, a phrase of place taken out or turned
//! round.

use crate::Result;
use crate::evidence::{Cut, Row};
use crate::facts::lexicon::{Role, names_a_thing, placements, role, turned};
use crate::facts::with_marks;
use crate::pipeline::{Options, Pipeline};
use crate::prompt::Prompt;
use crate::trace::{By, PromptInfo, WordInfo};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EditKind {
    /// A phrase of place says the opposite.
    Turned,
    /// A phrase of place is taken out.
    WithoutPhrase,
    /// Another word, or tag, is taken out.
    WithoutWord,
}

/// A prompt with one thing changed.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The word or phrase, as the prompt has it.
    pub of: String,
    /// What is done with it.
    pub change: EditKind,
    /// What it becomes, where it is turned round.
    pub becomes: Option<String>,
    /// The prompt as the text encoders are given it.
    pub prompt: Prompt,
}

impl EditKind {
    /// `without “heart”`, or `“left of” turned to “right of”`.
    pub fn in_words(self, of: &str, becomes: Option<&str>) -> String {
        match (self, becomes) {
            (Self::Turned, Some(becomes)) => format!("“{of}” turned to “{becomes}”"),
            _ => format!("without “{of}”"),
        }
    }
}

/// Every edit of a prompt that might move the thing of `thing`, the likeliest first. The order is
/// phrases of place turned round, then taken out, other things, words for the scene, adjectives.
/// Words are taken out by substitution ([`Cut::Substitute`]), which keeps all positions; a phrase
/// that is turned round is text, read again. By tags each other tag is taken out whole; phrases of
/// place are found within tags too. By words the thing itself is never edited: in "top hat" no side
/// is turned round.
///
/// # Errors
/// Those of the tokenizer.
pub fn edits(pipeline: &Pipeline, prompt: &Prompt, options: &Options, thing: &WordInfo, by: By) -> Result<Vec<Edit>> {
    let info = PromptInfo::from(prompt);
    let words = &info.words;
    let (texts, places) = with_marks(&prompt.text, &words.iter().collect::<Vec<_>>());
    let own = |word: &WordInfo| word.start < thing.end && thing.start < word.end;
    let placements = placements(&texts).into_iter();
    let placements: Vec<(&[WordInfo], &[WordInfo])> = placements
        .map(|(core, whole)| {
            let of = |[first, end]: [usize; 2]| &words[places[first]..=places[end - 1]];
            (of(core), of(whole))
        })
        .filter(|(_, whole)| by == By::Tag || !whole.iter().any(own))
        .collect();
    let mut all = Vec::new();
    for (core, _) in &placements {
        let range = extent(core);
        let of = prompt.text.get(range.clone()).unwrap_or_default().to_owned();
        // Brackets between the words of a phrase would be lost with it.
        let Some(becomes) = turned(&of) else { continue };
        let text = format!("{}{becomes}{}", &prompt.text[..range.start], &prompt.text[range.end..]);
        let prompt = pipeline.prompt(&text, options)?;
        all.push(Edit { of, change: EditKind::Turned, becomes: Some(becomes.to_owned()), prompt });
    }
    let without = |cut: &[&WordInfo], of: String, change: EditKind| -> Result<Edit> {
        let row = Row::cut(pipeline, prompt, cut, Cut::Substitute)?;
        Ok(Edit { of, change, becomes: None, prompt: row.prompt().clone() })
    };
    for (_, whole) in &placements {
        let of = prompt.text.get(extent(whole)).unwrap_or_default().to_owned();
        all.push(without(&whole.iter().collect::<Vec<_>>(), of, EditKind::WithoutPhrase)?);
    }
    let places: Vec<Range<usize>> = placements.iter().map(|(_, whole)| extent(whole)).collect();
    let inside = |word: &WordInfo| places.iter().any(|place| place.start <= word.start && word.end <= place.end);
    let rank = |word: &WordInfo| match role(&word.text) {
        Role::Content if names_a_thing(&word.text) => Some(0),
        Role::Content => Some(1),
        Role::Adjective => Some(2),
        Role::Filler | Role::Probe => None,
    };
    let all_words = info.by(by).words;
    let others = all_words.iter().filter(|word| !own(word) && !inside(word));
    let mut others: Vec<(u8, &WordInfo)> = others.filter_map(|word| Some((rank(word)?, word))).collect();
    others.sort_by_key(|(rank, _)| *rank);
    for (_, word) in others {
        all.push(without(&[word], word.label(), EditKind::WithoutWord)?);
    }
    Ok(all)
}

/// The bytes of the prompt from the first of `words` to the last.
fn extent(words: &[WordInfo]) -> Range<usize> {
    words.first().map_or(0, |first| first.start)..words.last().map_or(0, |last| last.end)
}
