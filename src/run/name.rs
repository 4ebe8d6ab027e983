//! Names of folders and files made from what users type: safe whatever they type.

use crate::trace::is_variation_selector;
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Characters of a slug, at most.
const LONGEST: usize = 60;

/// Bytes of a slug, at most: file systems allow 255 for a name, and a prefix and suffix are added.
const MOST_BYTES: usize = 160;

/// What is left of `text` in a name, with `-` between. Letters and digits (of any script) are in
/// lower case, emoji and signs are told by their numbers. It is never empty and has at most 60
/// characters. It has no separators, dots, spaces, control or invisible characters.
///
/// ```
/// assert_eq!(attnmap::run::slug("A red apple, on ../the beach!"), "a-red-apple-on-the-beach");
/// assert_eq!(attnmap::run::slug("a 🐸"), "a-u1f438");
/// assert_eq!(attnmap::run::slug("?!"), "u3f-u21");
/// ```
pub fn slug(text: &str) -> String {
    whole_or_cut(text).0
}

/// As [`slug`], for files that lie beside each other under such names alone. Where the text does
/// not fit, eight digits of its hash follow, as another may begin alike.
///
/// ```
/// let [one, other] = ["hills", "houses"].map(|end| format!("{}{end}", "far ".repeat(20)));
/// assert_ne!(attnmap::run::distinct_slug(&one), attnmap::run::distinct_slug(&other));
/// assert_eq!(attnmap::run::distinct_slug("a frog"), "a-frog");
/// ```
pub fn distinct_slug(text: &str) -> String {
    let (slug, cut) = whole_or_cut(text);
    if !cut {
        return slug;
    }
    let hash = Sha256::digest(text.as_bytes());
    let digits: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{slug}-{digits}")
}

/// The slug of `text`, and whether it was cut short.
fn whole_or_cut(text: &str) -> (String, bool) {
    let found = shortened(text, is_sign);
    // Punctuation alone is better than nothing.
    let (named, cut) = if found.0.is_empty() { shortened(text, is_visible) } else { found };
    if named.is_empty() { ("untitled".into(), cut) } else { (named, cut) }
}

/// The slug of `text`, with those characters by their numbers that `numbered` says, and whether it
/// was cut short; empty where nothing is left.
fn shortened(text: &str, numbered: fn(char) -> bool) -> (String, bool) {
    let spelt = |c: char| match numbered(c) {
        true => format!("-u{:x}-", u32::from(c)),
        false => c.to_string(),
    };
    let plain = text.nfc().filter(|c| !is_variation_selector(*c)).flat_map(char::to_lowercase);
    let mut slug = String::new();
    let (mut count, mut cut) = (0, false);
    for character in plain.map(spelt).collect::<String>().chars() {
        // Marks belong to the letter before them (Devanagari vowel signs and virama, Arabic
        // vowels).
        let letter =
            character.is_alphanumeric() || (is_combining_mark(character) && !slug.ends_with('-') && !slug.is_empty());
        let character = if letter { character } else { '-' };
        if character == '-' && (slug.is_empty() || slug.ends_with('-')) {
            continue;
        }
        if count == LONGEST || slug.len() + character.len_utf8() > MOST_BYTES {
            // Better a whole word less than half a word more, unless the first word is all there
            // is.
            if let Some(end) = slug.rfind('-').filter(|_| character != '-') {
                slug.truncate(end);
            }
            cut = true;
            break;
        }
        slug.push(character);
        count += 1;
    }
    let end = slug.trim_end_matches('-').len();
    slug.truncate(end);
    (slug, cut)
}

/// Emoji, arrows and other signs, which are words of a prompt as letters are.
fn is_sign(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{27bf}' | '\u{2900}'..='\u{2bff}' | '\u{1f000}'..='\u{1fbff}')
}

/// What leaves a mark on paper.
fn is_visible(c: char) -> bool {
    let formats = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{e0000}'..='\u{e0fff}');
    !(c.is_whitespace() || c.is_control() || c.is_alphanumeric() || is_combining_mark(c) || formats)
}

/// The folder of a run: `<slug>-<seed>`. The number keeps it from being a name that Windows
/// reserves.
pub fn run_name(prompt: &str, seed: u64) -> String {
    format!("{}-{seed}", slug(prompt))
}

/// The folder of a sweep, beside those of runs of its prompt: `<slug>-sweep`.
pub fn sweep_name(prompt: &str) -> String {
    slug(prompt) + "-sweep"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_stay_readable() {
        assert_eq!(
            run_name("a red apple to the left of a green frog on the beach", 7),
            "a-red-apple-to-the-left-of-a-green-frog-on-the-beach-7"
        );
        assert_eq!(slug("../../etc/passwd"), "etc-passwd");
        assert_eq!(slug("हिन्दी में एक सेब"), "हिन्दी-में-एक-सेब");
        assert_eq!(slug("CON"), "con");
        assert_eq!(slug("<script>alert(1)</script> \"quotes\" & </style>"), "script-alert-1-script-quotes-style");
        assert_eq!(slug("🐸 on a 🏖️"), "u1f438-on-a-u1f3d6");
        assert_eq!(slug("❤️"), slug("❤"));
        assert_ne!(slug("🐸"), slug("🍎"));
        assert_eq!(slug("🐸".repeat(99).as_str()).len(), 55, "whole signs");
        assert_eq!(slug(""), "untitled");
        assert_eq!(slug("\u{202e}\u{200b}\0\n"), "untitled");
        assert_eq!(slug(&"word ".repeat(99)).len(), 59);
        assert_eq!(slug(&"x".repeat(999)).len(), 60);
        assert_eq!(distinct_slug(&"x".repeat(60)), slug(&"x".repeat(60)));
        assert_eq!(distinct_slug(&"x".repeat(61)).len(), 69);
    }

    proptest! {
           #[test]
           fn any_text_gives_a_safe_name(text in any::<String>()) {
               let slug = slug(&text);
               prop_assert!(!slug.is_empty() && slug.len() <= MOST_BYTES && slug.chars().count() <= LONGEST);
               prop_assert!(!slug.starts_with('-') && !slug.ends_with('-') && !slug.contains("--"));
               let safe =
    |character: char| character == '-' || character.is_alphanumeric() || is_combining_mark(character);
               prop_assert!(slug.chars().all(safe), "{slug:?}");
           }
       }
}
