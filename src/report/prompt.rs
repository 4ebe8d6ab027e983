//! The prompt as the page shows it: its words and tokens, and what lies between.

use super::data::{PageToken, PageTokenKind, PageWord, Segment};
use crate::prompt::{Syntax, weight_of};
use crate::trace;

/// Cuts `text` into the words and what lies between them. What follows the last word is kept where
/// all of it was read, `to_the_end`, and it is short. Words beyond the model's length are listed
/// apart.
pub(super) fn segments(text: &str, words: &[trace::WordInfo], to_the_end: bool) -> Vec<Segment> {
    let mut out = Vec::new();
    let mut at = 0;
    for (index, word) in words.iter().enumerate() {
        let (Some(between), Some(own)) = (text.get(at..word.start), text.get(word.start..word.end)) else { continue };
        if !between.is_empty() {
            out.push(Segment { text: between.into(), word: None });
        }
        out.push(Segment { text: own.into(), word: Some(index) });
        at = word.end;
    }
    if let Some(rest) = text.get(at..).filter(|rest| to_the_end && !rest.is_empty() && rest.len() < 200) {
        out.push(Segment { text: rest.into(), word: None });
    }
    out
}

/// Whether no letters stand behind the last word, which would be words beyond the model's length.
/// A run's record lists those of its prompt alone.
pub(super) fn all_read(prompt: &trace::PromptInfo) -> bool {
    let end = prompt.words.last().map_or(0, |word| word.end);
    prompt.text.get(end..).is_none_or(|rest| !rest.contains(char::is_alphabetic))
}

/// A token of `text`.
pub(super) fn token_info(token: &trace::TokenInfo, text: &str) -> PageToken {
    let kind = match token.kind {
        trace::TokenKind::Start => PageTokenKind::Start,
        trace::TokenKind::Text => PageTokenKind::Text,
        trace::TokenKind::End | trace::TokenKind::Padding => PageTokenKind::End,
    };
    // The user's own letters where the token covers whole ones, else the vocabulary's.
    let own = text.get(token.start..token.end).filter(|own| !own.trim().is_empty());
    PageToken { text: own.map_or_else(|| token.text.replace("</w>", ""), |own| own.trim().to_string()), kind }
}

/// A word of `prompt`, read as `syntax` says.
pub(super) fn word_info(word: &trace::WordInfo, prompt: &trace::PromptInfo, syntax: Syntax) -> PageWord {
    let before = prompt.tokens.iter().take(word.tokens.first().map_or(0, |&first| first + 1));
    let starts = before.filter(|token| token.kind == trace::TokenKind::Start).count();
    PageWord {
        text: word.text.clone(),
        occurrence: word.occurrence,
        tokens: word.tokens.clone(),
        weight: weight_of(&prompt.text, syntax, word.start),
        chunk: starts.saturating_sub(1),
    }
}

/// A probe, without the prefix of its name.
/// A word that the run was asked about beside its prompt.
pub(super) fn probe_info(probe: &trace::WordInfo) -> PageWord {
    let text = probe.text.strip_prefix(trace::PROBE_PREFIX).unwrap_or(&probe.text);
    PageWord { text: text.into(), occurrence: probe.occurrence, tokens: probe.tokens.clone(), weight: 1.0, chunk: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str, start: usize) -> trace::WordInfo {
        trace::WordInfo { text: text.into(), start, end: start + text.len(), tokens: vec![], occurrence: 1 }
    }

    #[test]
    fn segments_put_together_are_the_prompt() {
        let text = "  सेब, \"red\" apple!\n";
        let place = |of: &str| text.find(of).unwrap();
        let words = [word("सेब", 2), word("red", place("red")), word("apple", place("apple"))];
        let cut = segments(text, &words, true);
        assert_eq!(cut.iter().map(|s| s.text.as_str()).collect::<String>(), text);
        assert_eq!(cut.iter().filter_map(|s| s.word).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(segments(text, &words, false).last().map(|s| s.text.as_str()), Some("apple"));
    }

    #[test]
    fn letters_behind_the_last_word_were_not_read() {
        let prompt = |text: &str| trace::PromptInfo {
            text: text.into(),
            words: vec![word("red", 0)],
            ..trace::PromptInfo::default()
        };
        assert!(["red", "red!\n", "red:1.2)"].iter().all(|text| all_read(&prompt(text))));
        assert!(["red frog", "red सेब"].iter().all(|text| !all_read(&prompt(text))));
    }

    #[test]
    fn ranges_that_do_not_fit_the_text_are_left_out() {
        assert_eq!(segments("é", &[word("x", 1)], true).len(), 1);
        assert!(segments("", &[], true).is_empty());
    }
}
