//! How words are compared: as the tokenizer reads them, in whatever Unicode form, case and spacing
//! they were typed.

use std::ops::Range;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// `text` as CLIP's tokenizer normalises it, so that two spellings of one word are equal: NFC, each
/// character in lower case, single spaces. Variation selectors, which only choose how a character
/// is drawn, are left out as well. A sigma at the end of a word is a sigma, as capitals have one
/// form alone.
///
/// ```
/// use attnmap::trace::normalized;
/// assert_eq!(normalized(" Cafe\u{301}  au lait"), normalized("caf\u{e9} au lait"));
/// assert_eq!(normalized("\u{2764}\u{fe0f}"), "\u{2764}");
/// assert_ne!(normalized("cafe"), normalized("caf\u{e9}"));
/// ```
pub fn normalized(text: &str) -> String {
    let plain = text.chars().filter(|c| !is_variation_selector(*c));
    let lower: String = plain.nfc().flat_map(char::to_lowercase).map(|c| if c == 'ς' { 'σ' } else { c }).collect();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Characters that choose a form of the character before them.
pub fn is_variation_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Each place of `text` in bytes where whole words read `name` in some spelling, one behind the
/// other.
pub fn whole_words(text: &str, name: &str) -> Vec<Range<usize>> {
    let name = normalized(name);
    let (Some(first), Some(last)) = (name.chars().next(), name.chars().next_back()) else { return Vec::new() };
    // A mark belongs to the letter before it: "cafe" is no word of "cafe\u{301}".
    let goes_on = |c: char| is_combining_mark(c) || c.is_alphanumeric();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(c) = text[at..].chars().next() {
        let inside = goes_on(first) && text[..at].chars().next_back().is_some_and(goes_on);
        let end = if inside || c.is_whitespace() { None } else { end_of(&text[at..], &name) };
        let whole = |end: &usize| {
            let next = text[at + end..].chars().next();
            !next.is_some_and(|next| is_combining_mark(next) || (goes_on(last) && goes_on(next)))
        };
        match end.filter(whole) {
            Some(end) => {
                found.push(at..at + end);
                at += end;
            }
            None => at += c.len_utf8(),
        }
    }
    found
}

/// The longest beginning of `text`, in bytes, that is `word` (as [`normalized`] gives it) in some
/// spelling, without white space after it.
fn end_of(text: &str, word: &str) -> Option<usize> {
    let length = word.chars().count();
    let mut found = None;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        let here = normalized(&text[..end]);
        if here.chars().count() > length {
            break;
        }
        if here == word && !c.is_whitespace() {
            found = Some(end);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_word_are_equal() {
        for (one, other) in [
            ("cafe\u{301}", "CAF\u{c9}"),
            ("\u{1109}\u{1161}\u{1100}\u{116a}", "\u{c0ac}\u{acfc}"),
            ("\u{212b}", "\u{e5}"),
            ("red\u{3000}apple", "Red apple"),
            ("\u{845b}\u{e0100}", "\u{845b}"),
            ("ΟΔΟΣ", "οδος"),
        ] {
            assert_eq!(normalized(one), normalized(other), "{one} {other}");
        }
        for (one, other) in
            [("\u{938}\u{947}\u{92c}", "\u{938}\u{947}\u{935}"), ("\u{fb01}sh", "fish"), ("o", "\u{f6}")]
        {
            assert_ne!(normalized(one), normalized(other), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn forms_of_any_text_are_equal(text in any::<String>()) {
            let text: String = text.chars().filter(|c| !is_variation_selector(*c)).collect();
            let decomposed: String = text.nfd().collect();
            let composed: String = text.nfc().collect();
            prop_assert_eq!(normalized(&decomposed), normalized(&composed));
            prop_assert_eq!(normalized(&text), normalized(&composed));
        }
    }
}
