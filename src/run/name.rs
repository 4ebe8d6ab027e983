//! Names of folders and files made from what users type: safe whatever they type.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Characters of a slug, at most.
const LONGEST: usize = 60;

/// Bytes of a slug, at most: file systems allow 255 for a name, and a prefix and suffix are added.
const MOST_BYTES: usize = 160;

/// What is left of `text` in a name: its letters and digits (of any script) in lower case, with `-` between them; never empty,
/// at most 60 characters, no separators, dots, spaces, control or invisible characters.
///
/// ```
/// assert_eq!(attnmap::run::slug("A red apple, on ../the beach!"), "a-red-apple-on-the-beach");
/// assert_eq!(attnmap::run::slug("🐸"), "untitled");
/// ```
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    let mut count = 0;
    for character in text.nfc().flat_map(char::to_lowercase) {
        // Marks belong to the letter before them (Devanagari vowel signs and virama, Arabic vowels).
        let letter =
            character.is_alphanumeric() || (is_combining_mark(character) && !slug.ends_with('-') && !slug.is_empty());
        let character = if letter { character } else { '-' };
        if character == '-' && (slug.is_empty() || slug.ends_with('-')) {
            continue;
        }
        if count == LONGEST || slug.len() + character.len_utf8() > MOST_BYTES {
            // Better a whole word less than half a word more, unless the first word is all there is.
            if let Some(end) = slug.rfind('-').filter(|_| character != '-') {
                slug.truncate(end);
            }
            break;
        }
        slug.push(character);
        count += 1;
    }
    let end = slug.trim_end_matches('-').len();
    slug.truncate(end);
    if slug.is_empty() { "untitled".into() } else { slug }
}

/// The folder of a run: `<slug>-<seed>`. The number keeps it from being a name that Windows reserves.
pub fn run_name(prompt: &str, seed: u64) -> String {
    format!("{}-{seed}", slug(prompt))
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
        assert_eq!(slug(""), "untitled");
        assert_eq!(slug("\u{202e}\u{200b}\0\n"), "untitled");
        assert_eq!(slug(&"word ".repeat(99)).len(), 59);
        assert_eq!(slug(&"x".repeat(999)).len(), 60);
    }

    proptest! {
        #[test]
        fn any_text_gives_a_safe_name(text in any::<String>()) {
            let slug = slug(&text);
            prop_assert!(!slug.is_empty() && slug.len() <= MOST_BYTES && slug.chars().count() <= LONGEST);
            prop_assert!(!slug.starts_with('-') && !slug.ends_with('-') && !slug.contains("--"));
            let safe = |character: char| character == '-' || character.is_alphanumeric() || is_combining_mark(character);
            prop_assert!(slug.chars().all(safe), "{slug:?}");
        }
    }
}
