//! What counts as a word of a prompt: each word, or each tag, as prompts made of tags between
//! commas have them.

use super::{PromptInfo, Trace, WordInfo, normalized};
use crate::argument::BY;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::str::FromStr;

/// What the words of a prompt are, for maps, facts and tests alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Each word on its own.
    #[default]
    Word,
    /// All between two commas, such as `long hair`.
    Tag,
}

impl By {
    /// All of them with their names on the command line.
    pub const NAMED: [(&str, Self); 2] = [("word", Self::Word), ("tag", Self::Tag)];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, by)| *by == self).map_or("", |(name, _)| name)
    }

    /// Whether it is what is meant where nothing is said.
    pub fn is_word(&self) -> bool {
        *self == Self::Word
    }
}

impl FromStr for By {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::NAMED.iter().find(|(name, _)| *name == text).map(|(_, by)| *by);
        found.ok_or_else(|| Error::argument(BY, format!("{} is unknown; choose word or tag", crate::in_quotes(text))))
    }
}

/// Whether `c` stands between tags: a comma of any script, or the end of a line.
fn separates(c: char) -> bool {
    matches!(c, ',' | '\u{ff0c}' | '\u{3001}' | '\u{60c}' | '\n')
}

/// The bytes of each tag of `text`: what stands between commas or `BREAK`s. White space at its ends
/// and brackets that are open or closed within it alone are left out. A comma between two digits is
/// part of a number. None is empty.
pub fn tags(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mut ends: Vec<Range<usize>> = text
        .char_indices()
        .filter(|&(at, c)| {
            let (before, after) = (text[..at].chars().next_back(), text[at + c.len_utf8()..].chars().next());
            separates(c) && !(c == ',' && digit(before) && digit(after))
        })
        .map(|(at, c)| at..at + c.len_utf8())
        .collect();
    ends.extend(text.match_indices("BREAK").map(|(at, word)| at..at + word.len()).filter(|word| alone(text, word)));
    ends.sort_by_key(|range| range.start);
    for end in ends.into_iter().chain(std::iter::once(text.len()..text.len())) {
        if start <= end.start {
            found.push(trimmed(text, start..end.start));
            start = end.end;
        }
    }
    found.retain(|range| text[range.clone()].chars().any(char::is_alphanumeric) || has_sign(&text[range.clone()]));
    found
}

/// Whether the word at `range` touches no letter.
fn alone(text: &str, range: &Range<usize>) -> bool {
    let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !letter(text[..range.start].chars().next_back()) && !letter(text[range.end..].chars().next())
}

/// Whether `text` has a sign that can be drawn, such as an emoji.
fn has_sign(text: &str) -> bool {
    text.chars().any(|c| u32::from(c) >= 0x2190 && !separates(c))
}

/// `range` without white space at its ends, and without brackets at its ends that it does not have
/// in pairs.
fn trimmed(text: &str, mut range: Range<usize>) -> Range<usize> {
    loop {
        let part = &text[range.clone()];
        let inner = part.trim();
        let start = range.start + (part.len() - part.trim_start().len());
        range = start..start + inner.len();
        let count = |bracket: char| inner.matches(bracket).count();
        let more = |own: char, other: char| count(own) > count(other);
        match (inner.chars().next(), inner.chars().next_back()) {
            (Some('('), _) if more('(', ')') => range.start += 1,
            (Some('['), _) if more('[', ']') => range.start += 1,
            (Some(')'), _) if more(')', '(') => range.start += 1,
            (Some(']'), _) if more(']', '[') => range.start += 1,
            (_, Some(')')) if more(')', '(') => range.end -= 1,
            (_, Some(']')) if more(']', '[') => range.end -= 1,
            (_, Some('(')) if more('(', ')') => range.end -= 1,
            (_, Some('[')) if more('[', ']') => range.end -= 1,
            // The weight of a bracket that began before: `(red hair, blue eyes:1.2)`.
            _ => {
                let weight = inner.rsplit_once(':').filter(|(_, weight)| weight.trim().parse::<f32>().is_ok());
                let closed = text[range.end..].starts_with(')') && !inner.contains('(');
                match weight.filter(|_| closed) {
                    Some((before, _)) => range.end = range.start + before.len(),
                    None => return range,
                }
            }
        }
    }
}

impl PromptInfo {
    /// The same prompt with its words as `by` says. With [`By::Tag`] the words between two commas
    /// are one, by the name that [`select`](Self::select) gives such a phrase.
    #[must_use]
    pub fn by(&self, by: By) -> Self {
        match by {
            By::Word => self.clone(),
            By::Tag => Self { words: self.tags(), ..self.clone() },
        }
    }

    fn tags(&self) -> Vec<WordInfo> {
        let mut found: Vec<WordInfo> = Vec::new();
        for range in tags(&self.text) {
            let within = |word: &&WordInfo| word.start < range.end && range.start < word.end;
            let words: Vec<&WordInfo> = self.words.iter().filter(within).collect();
            let (Some(first), Some(last)) = (words.first(), words.last()) else { continue };
            let mut text = String::new();
            for (at, word) in words.iter().enumerate() {
                if at > 0 {
                    self.read_between(words[at - 1].end..word.start, &mut text);
                }
                text.push_str(&word.text);
            }
            let mut tokens: Vec<usize> = words.iter().flat_map(|word| word.tokens.iter().copied()).collect();
            tokens.dedup();
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let same = |other: &&WordInfo| normalized(&other.text) == normalized(&text);
            let occurrence = 1 + found.iter().filter(same).count();
            found.push(WordInfo { text, start: first.start, end: last.end, tokens, occurrence });
        }
        found
    }
}

impl Trace {
    /// The same trace with the words of its prompts as `by` says. The numbers are shared.
    #[must_use]
    pub fn by(mut self, by: By) -> Self {
        if by != By::Word {
            self.about.prompt = self.about.prompt.by(by);
            self.about.negative = self.about.negative.map(|prompt| prompt.by(by));
        }
        self
    }
}

/// `text` without the tags at `gone`, ranges of [`tags`], and without the commas that stood between
/// them and what is left. Brackets that are left with nothing in them go too.
pub fn without_tags(text: &str, gone: &[Range<usize>]) -> String {
    let mut kept = text.to_owned();
    // Up to here it is as it was: an empty bracket round one tag may reach into the one before it.
    let mut untouched = text.len();
    let mut ranges = gone.to_vec();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.start));
    for range in ranges {
        let Range { start, end } = with_brackets(&kept, range.start.min(untouched)..range.end.min(untouched));
        let (before, after) = (kept[..start].trim_end(), kept[end..].trim_start());
        let (comma_before, comma_after) = (before.chars().next_back(), after.chars().next());
        let (before, after, between) =
            match (comma_before.filter(|c| separates(*c)), comma_after.filter(|c| separates(*c))) {
                // The comma after it goes with it.
                (_, Some(comma)) => {
                    let after = after[comma.len_utf8()..].trim_start();
                    let opens = before.is_empty() || before.ends_with(['(', '[']);
                    (before, after, if opens || after.is_empty() { "" } else { " " })
                }
                (Some(comma), None) => {
                    let before = &before[..before.len() - comma.len_utf8()];
                    let closes = after.is_empty() || after.starts_with([')', ']', ':']);
                    (before, after, if closes { "" } else { " " })
                }
                (None, None) => (before, after, if before.is_empty() || after.is_empty() { "" } else { " " }),
            };
        untouched = before.len();
        kept = format!("{before}{between}{after}");
    }
    kept.trim_end_matches(|c: char| c.is_whitespace() || separates(c)).to_owned()
}

/// `range` of `text` with the brackets, and their weights, that hold nothing else.
fn with_brackets(text: &str, range: Range<usize>) -> Range<usize> {
    let Range { mut start, mut end } = range;
    loop {
        let (before, after) = (text[..start].trim_end(), text[end..].trim_start());
        let tail = text.len() - after.len();
        let weight = after.strip_prefix(':').and_then(|rest| rest.split_once(')'));
        let weight = weight.filter(|(number, _)| number.trim().parse::<f32>().is_ok());
        let pair = |open: char, close: char| before.ends_with(open) && after.starts_with(close);
        match weight {
            Some((number, _)) if before.ends_with('(') => (start, end) = (before.len() - 1, tail + number.len() + 2),
            _ if pair('(', ')') || pair('[', ']') => (start, end) = (before.len() - 1, tail + 1),
            _ => return start..end,
        }
    }
}

/// `text` without the word at `range`: with the tag that it is where nothing else stands between
/// its commas, and else alone. Brackets that are left with nothing in them go too.
pub fn without_word(text: &str, range: Range<usize>) -> String {
    let own = with_brackets(text, range);
    let whole = tags(text).into_iter().find(|tag| own.start <= tag.start && tag.end <= own.end);
    if let Some(tag) = whole {
        return without_tags(text, &[tag]);
    }
    let (before, after) = (text[..own.start].trim_end(), text[own.end..].trim_start());
    let opens = before.is_empty() || before.ends_with(['(', '[']);
    let closes =
        after.is_empty() || after.starts_with([')', ']', ':', '.', ';', '!', '?']) || after.starts_with(separates);
    let between = if opens || closes { "" } else { " " };
    format!("{before}{between}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{TokenInfo, TokenKind};
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<&str> {
        tags(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn tags_stand_between_commas() {
        assert_eq!(found("1girl, long  hair ,, blue eyes,\nsmile"), ["1girl", "long  hair", "blue eyes", "smile"]);
        assert_eq!(found("a frog"), ["a frog"]);
        assert_eq!(found("1,000 frogs, 3, 4"), ["1,000 frogs", "3", "4"]);
        assert_eq!(found("(red hair:1.2), ((blue eyes)), [hat]"), ["(red hair:1.2)", "((blue eyes))", "[hat]"]);
        assert_eq!(found("(red hair, blue eyes:1.2), a"), ["red hair", "blue eyes", "a"]);
        assert_eq!(found("a, b BREAK c, BREAKER"), ["a", "b", "c", "BREAKER"]);
        assert_eq!(found("青蛙，🐸、-"), ["青蛙", "🐸"]);
        assert!(found(" , ,, (:1.2)").len() <= 1 && found("").is_empty());
    }

    #[test]
    fn tags_leave_with_their_commas() {
        let without = |text: &str, gone: &[usize]| {
            let all = tags(text);
            without_tags(text, &gone.iter().map(|&at| all[at].clone()).collect::<Vec<_>>())
        };
        let text = "1girl, long hair, blue eyes, smile";
        assert_eq!(without(text, &[1]), "1girl, blue eyes, smile");
        assert_eq!(without(text, &[0]), "long hair, blue eyes, smile");
        assert_eq!(without(text, &[3]), "1girl, long hair, blue eyes");
        assert_eq!(without(text, &[0, 1, 3]), "blue eyes");
        assert_eq!(without(text, &[0, 1, 2, 3]), "");
        assert_eq!(without("a, (red hair:1.2), b", &[1]), "a, b");
        assert_eq!(without("a, (red hair, blue eyes:1.2), b", &[1]), "a, (blue eyes:1.2), b");
        assert_eq!(without("a, (red hair, blue eyes:1.2), b", &[2]), "a, (red hair:1.2), b");
        assert_eq!(without("a, (red hair, blue eyes:1.2), b", &[1, 2]), "a, b");
        assert_eq!(without("a BREAK b, c", &[1]), "a BREAK c");
    }

    #[test]
    fn a_word_leaves_alone_or_with_its_tag() {
        let without = |text: &str, word: &str| {
            let start = text.find(word).unwrap();
            without_word(text, start..start + word.len())
        };
        assert_eq!(without("a red apple, on the beach", "apple"), "a red, on the beach");
        assert_eq!(without("a red apple, on the beach", "red"), "a apple, on the beach");
        assert_eq!(without("frog, a hat", "frog"), "a hat");
        assert_eq!(without("a (red:1.4) apple", "red"), "a apple");
        assert_eq!(without("a ((red apple:1.4))", "apple"), "a ((red:1.4))");
        assert_eq!(without("a hat, (frog:1.2)", "frog"), "a hat");
        assert_eq!(without("a frog.", "frog"), "a.");
        assert_eq!(without("frog", "frog"), "");
    }

    #[test]
    fn a_prompt_by_tags_has_each_tags_tokens() {
        let text = "a red apple, frog, Red apple";
        let token = |(start, end): (usize, usize)| TokenInfo {
            id: 1,
            text: text[start..end].into(),
            kind: TokenKind::Text,
            start,
            end,
        };
        let places = [(0, 1), (2, 5), (6, 11), (11, 12), (13, 17), (17, 18), (19, 22), (23, 28)];
        let words = places.iter().enumerate().filter(|(_, place)| &text[place.0..place.1] != ",");
        let words = words.map(|(at, &(start, end))| WordInfo {
            text: text[start..end].into(),
            start,
            end,
            tokens: vec![at],
            occurrence: 1,
        });
        let prompt =
            PromptInfo { text: text.into(), tokens: places.into_iter().map(token).collect(), words: words.collect() };
        let by = prompt.by(By::Tag);
        let words: Vec<(&str, &[usize], usize)> =
            by.words.iter().map(|word| (word.text.as_str(), word.tokens.as_slice(), word.occurrence)).collect();
        assert_eq!(words, [("a red apple", &[0, 1, 2][..], 1), ("frog", &[4], 1), ("Red apple", &[6, 7], 1)]);
        assert_eq!(by.select("red apple").unwrap()[0].tokens, [6, 7], "a part of a tag is none");
        assert_eq!(prompt.by(By::Word), prompt);
    }

    proptest! {
        #[test]
        fn tags_are_whole_and_in_order(text in "[ab1 \
        ,()\\[\\]:.\\n，🐸BREAK]{0,24}", at in any::<prop::sample::Index>()) {
            let all = tags(&text);
            for pair in all.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start);
            }
            for range in &all {
                prop_assert!(range.start < range.end && text.get(range.clone()).is_some());
            }
            if !all.is_empty() {
                let range = all[at.index(all.len())].clone();
                let kept = without_tags(&text, std::slice::from_ref(&range));
                prop_assert!(kept.len() <= text.len() - range.len() + 1);
            }
            prop_assert!(!without_tags(&text, &all).contains('a'));
        }
    }
}
