//! The prompts that one line of a list becomes: words replaced, given a weight, or left out.

use crate::argument::REPLACE;
use crate::facts::lexicon::{Role, role};
use crate::prompt::{Syntax, WordWeights, word_ranges};
use crate::trace::{By, WordInfo, normalized, tags, whole_words, without_tags, without_word};
use crate::{Error, Result};
use std::ops::Range;
use std::str::FromStr;

/// A word of the prompts and what stands in its place, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The word, upper and lower case alike.
    pub word: String,
    /// Its replacements.
    pub by: Vec<String>,
}

impl FromStr for Replacement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::argument(REPLACE, format!("{} is no replacement; write apple=pear,lemon", crate::in_quotes(text)))
        };
        let (word, by) = text.split_once('=').ok_or_else(wrong)?;
        let by: Vec<String> = by.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_string).collect();
        let word = word.trim().to_string();
        if word.is_empty() || by.is_empty() { Err(wrong()) } else { Ok(Self { word, by }) }
    }
}

/// A prompt of the list with some of its words replaced, and some given a weight.
pub(super) struct Variant {
    pub(super) prompt: String,
    /// What was replaced, and by what.
    pub(super) replaced: String,
    /// Which words have which weight.
    pub(super) weighted: String,
    /// What is left out.
    pub(super) without: String,
}

/// `prompt` as it is, then with every combination of replacements of words that it has, and of
/// weights of words that are left.
pub(super) fn variants(prompt: &str, replacements: &[Replacement], weights: &[WordWeights]) -> Vec<Variant> {
    let join = |before: &str, more: &str| format!("{before} {more}").trim_start().to_owned();
    let none = String::new;
    let mut all = vec![Variant { prompt: prompt.to_owned(), replaced: none(), weighted: none(), without: none() }];
    for Replacement { word, by } in replacements {
        all = with_each(all, by, |Variant { prompt, replaced, weighted, .. }, new| {
            let made = replace_word(prompt, word, |_| new.clone())?;
            let replaced = join(replaced, &format!("{word}={new}"));
            Some(Variant { prompt: made, replaced, weighted: weighted.clone(), without: none() })
        });
    }
    for WordWeights { word, weights } in weights {
        let changing: Vec<String> = weights.iter().filter(|&&weight| weight != 1.0).map(f32::to_string).collect();
        all = with_each(all, &changing, |Variant { prompt, replaced, weighted, .. }, weight| {
            let made = replace_word(prompt, word, |found| format!("({found}:{weight})"))?;
            let weighted = join(weighted, &format!("{word} {weight}"));
            Some(Variant { prompt: made, replaced: replaced.clone(), weighted, without: none() })
        });
    }
    all
}

/// `variant` as it is, then without each of its words or tags that could be drawn, by the name of
/// what is left out. Of a prompt of one word nothing would be left.
pub(super) fn parts(variant: Variant, by: Option<By>, syntax: Syntax) -> Vec<Variant> {
    let Some(by) = by else { return vec![variant] };
    let syntax = Syntax { emphasis: syntax.emphasis || !variant.weighted.is_empty(), ..syntax };
    let prompt = &variant.prompt;
    let ranges = match by {
        By::Word => word_ranges(prompt, syntax),
        By::Tag => tags(prompt),
    };
    let told: Vec<_> = ranges.into_iter().filter(|range| role(&prompt[range.clone()]) != Role::Filler).collect();
    let mut parts = Vec::new();
    for (at, range) in told.iter().enumerate() {
        let text = prompt[range.clone()].to_owned();
        let same = |other: &&Range<usize>| normalized(&prompt[(*other).clone()]) == normalized(&text);
        let occurrence = 1 + told[..at].iter().filter(same).count();
        let without = WordInfo::label_of(&text, occurrence);
        let left = match by {
            By::Word => without_word(prompt, range.clone()),
            By::Tag => without_tags(prompt, std::slice::from_ref(range)),
        };
        if !left.trim().is_empty() {
            let (replaced, weighted) = (variant.replaced.clone(), variant.weighted.clone());
            parts.push(Variant { prompt: left, replaced, weighted, without });
        }
    }
    std::iter::once(variant).chain(parts).collect()
}

/// Each of `all`, followed by what `make` makes of it with each of `values`.
fn with_each(
    all: Vec<Variant>,
    values: &[String],
    make: impl Fn(&Variant, &String) -> Option<Variant>,
) -> Vec<Variant> {
    let mut next = Vec::new();
    for variant in all {
        let made: Vec<Variant> = values.iter().filter_map(|value| make(&variant, value)).collect();
        next.push(variant);
        next.extend(made);
    }
    next
}

/// `text` with every whole word or phrase that is `word`, in any spelling, replaced by what `by`
/// makes of it. `None` where there is none.
pub(super) fn replace_word(text: &str, word: &str, by: impl Fn(&str) -> String) -> Option<String> {
    let (mut out, mut at) = (String::new(), 0);
    for range in whole_words(text, word) {
        out.push_str(&text[at..range.start]);
        out.push_str(&by(&text[range.clone()]));
        at = range.end;
    }
    (at > 0).then(|| out + &text[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_replaced_whatever_their_case() {
        let replaced = |text: &str, word: &str, by: &str| replace_word(text, word, |_| by.to_owned());
        assert_eq!(replaced("An Apple, pineapple and apple", "apple", "pear").unwrap(), "An pear, pineapple and pear");
        assert_eq!(replaced("pineapple apples", "apple", "pear"), None);
        assert_eq!(replaced("हरा मेंढक", "हरा", "लाल").unwrap(), "लाल मेंढक");
        // Whatever the form, whole letters: an accent is no end of a word.
        assert_eq!(replaced("a cafe\u{301}, here", "caf\u{e9}", "bar").unwrap(), "a bar, here");
        assert_eq!(replaced("a CAF\u{c9}", "cafe\u{301}", "bar").unwrap(), "a bar");
        assert_eq!(replaced("a cafe\u{301}", "cafe", "bar"), None);
        assert_eq!(replaced("\u{1109}\u{1161}\u{1100}\u{116a}", "\u{c0ac}\u{acfc}", "apple").unwrap(), "apple");
        assert_eq!(replaced("\u{1109}\u{1161}\u{1100}\u{116a}\u{11ab}", "\u{c0ac}\u{acfc}", "apple"), None);
        assert_eq!(replaced("a \u{2764}\u{fe0f} b", "\u{2764}", "x").unwrap(), "a x b");
        assert_eq!(replaced("a red  apple b", "red apple", "pear").unwrap(), "a pear b");
        let all = variants("a red apple", &["red=green".parse().unwrap(), "apple=pear,car".parse().unwrap()], &[]);
        let prompts: Vec<&str> = all.iter().map(|v| v.prompt.as_str()).collect();
        assert_eq!(prompts, ["a red apple", "a red pear", "a red car", "a green apple", "a green pear", "a green car"]);
        assert_eq!(all[5].replaced, "red=green apple=car");
        let all = variants("a Red apple", &[], &["red=1,0.5,1.50".parse().unwrap()]);
        let all: Vec<_> = all.iter().map(|v| (v.prompt.as_str(), v.weighted.as_str())).collect();
        assert_eq!(all, [("a Red apple", ""), ("a (Red:0.5) apple", "red 0.5"), ("a (Red:1.5) apple", "red 1.5")]);
        assert!("apple=".parse::<Replacement>().is_err() && "=x".parse::<Replacement>().is_err());
    }
}
