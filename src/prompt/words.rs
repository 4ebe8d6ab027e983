//! Where the words of a text are: ranges of bytes, found by the kind of each character.
//!
//! CLIP's tokenizer splits finer than a reader does: each digit, each combining mark, the `'t` of
//! *don't*. So its pieces are not the words. They only move a boundary where one token reaches over
//! it.

use super::syntax::{PromptPart, Syntax, parse};
use std::ops::Range;
use unicode_normalization::char::is_combining_mark;

/// What a character does in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharacterKind {
    Space,
    /// Letters and digits: a run of them is a word.
    Letter,
    /// Katakana: a run of it is a word.
    Katakana,
    /// Han and hiragana, which have no spaces between words: each character is a word, as UAX #29
    /// has it without a dictionary; phrases choose more.
    Ideograph,
    /// A run of these is a word of its own.
    Punctuation,
    /// Emoji and other signs: each is a word.
    Symbol,
}

fn kind(c: char) -> CharacterKind {
    if c.is_whitespace() {
        CharacterKind::Space
    } else if is_katakana(c) {
        CharacterKind::Katakana
    } else if is_ideograph(c) {
        CharacterKind::Ideograph
    } else if c.is_alphanumeric() {
        CharacterKind::Letter
    } else if is_punctuation(c) {
        CharacterKind::Punctuation
    } else {
        CharacterKind::Symbol
    }
}

/// Katakana, small and of half width too, with its marks of length and repetition.
fn is_katakana(c: char) -> bool {
    matches!(u32::from(c), 0x30a1..=0x30fa | 0x30fc..=0x30ff | 0x31f0..=0x31ff | 0xff66..=0xff9f)
}

/// Han, hiragana and their marks.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c), 0x3005..=0x3007 | 0x3041..=0x30ff | 0x31f0..=0x31ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff
        | 0xf900..=0xfaff | 0xff66..=0xff9f | 0x20000..=0x3ffff)
}

/// ASCII punctuation, control characters, and the punctuation blocks of other scripts.
pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || c.is_control()
        || matches!(u32::from(c), 0xa1..=0xbf | 0xd7 | 0xf7 if !c.is_alphanumeric())
        || matches!(u32::from(c), 0x2000..=0x206f | 0x2e00..=0x2e7f | 0x3000..=0x303f
 | 0xfe10..=0xfe1f | 0xfe30..=0xfe6f
            | 0xfeff | 0xff01..=0xff0f | 0xff1a..=0xff20 | 0xff3b..=0xff40 | 0xff5b..=0xff65)
        || matches!(
            c,
            '\u{37e}' | '\u{387}' | '\u{589}' | '\u{5be}' | '\u{60c}' | '\u{61b}' | '\u{61f}' | '\u{66a}'
                ..='\u{66d}' | '\u{6d4}' | '\u{964}' | '\u{965}' | '\u{e4f}' | '\u{e5a}' | '\u{e5b}'
        )
}

/// The words of `text`, in order, without overlap; every character that is not white space is in
/// one.
pub(super) fn segment(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut last = CharacterKind::Space;
    // Flags are pairs of regional indicators.
    let mut open_flag = false;
    let mut joined = false;
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        let end = start + c.len_utf8();
        let next = chars.peek().map(|&(_, c)| c);
        if is_extension(c) && last != CharacterKind::Space {
            joined = c == '\u{200d}';
            extend(&mut words, end);
            continue;
        }
        let mut kind = kind(c);
        if is_combining_mark(c) {
            kind = CharacterKind::Letter;
        }
        // An apostrophe between letters is part of the word: don't, l'eau.
        if matches!(c, '\'' | '\u{2019}') && last == CharacterKind::Letter && next.is_some_and(char::is_alphabetic) {
            kind = CharacterKind::Letter;
        }
        let indicator = matches!(c, '\u{1f1e6}'..='\u{1f1ff}');
        let continues = match kind {
            CharacterKind::Space | CharacterKind::Ideograph => false,
            CharacterKind::Letter | CharacterKind::Punctuation | CharacterKind::Katakana => last == kind,
            CharacterKind::Symbol => last == kind && (joined || (indicator && open_flag)),
        };
        open_flag = indicator && !(continues && open_flag);
        joined = false;
        last = kind;
        if kind == CharacterKind::Space {
            continue;
        }
        if continues { extend(&mut words, end) } else { words.push(start..end) }
    }
    words
}

/// The bytes of each word of `text` read as `syntax` says, before any tokenizer has a say.
/// Punctuation and the signs of the syntax are left out.
pub fn word_ranges(text: &str, syntax: Syntax) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for part in parse(text, syntax) {
        let PromptPart::Text(stretch) = part else { continue };
        let words = segment(&stretch.text).into_iter();
        let told = words.filter(|range| !stretch.text[range.clone()].chars().all(is_punctuation));
        found.extend(told.map(|range| stretch.source(&range)));
    }
    found.sort_by_key(|range| range.start);
    found
}

fn extend(words: &mut [Range<usize>], end: usize) {
    if let Some(word) = words.last_mut() {
        word.end = end;
    }
}

/// Characters that belong to the one before them: marks, joiners, variation selectors, skin tones,
/// tags.
pub(super) fn is_extension(c: char) -> bool {
    is_combining_mark(c)
        || matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' 
 | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0020}'..='\u{e007f}')
}

/// Joins words that a token reaches over, and adds what tokens cover outside of any word; drops
/// words without a token.
///
/// `tokens` are ranges in ascending order. Afterwards each lies in exactly one word.
pub(super) fn fit_to_tokens(words: Vec<Range<usize>>, tokens: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut fitted: Vec<Range<usize>> = Vec::with_capacity(words.len());
    let mut words = words.into_iter().peekable();
    for token in tokens {
        // Words before this token that no token touched.
        while words.next_if(|word| word.end <= token.start).is_some() {}
        let mut cover = token.clone();
        while let Some(word) = words.next_if(|word| word.start < cover.end) {
            cover = cover.start.min(word.start)..cover.end.max(word.end);
        }
        match fitted.last_mut() {
            Some(last) if cover.start < last.end => last.end = last.end.max(cover.end),
            _ => fitted.push(cover),
        }
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        segment(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn words_as_a_reader_sees_them() {
        assert_eq!(words("A red apple,  and 24 h2o!!"), ["A", "red", "apple", ",", "and", "24", "h2o", "!!"]);
        assert_eq!(words("don't l\u{2019}eau 'tis dogs'"), ["don't", "l\u{2019}eau", "'", "tis", "dogs", "'"]);
        assert_eq!(words("blue-eyed\thair\nclip"), ["blue", "-", "eyed", "hair", "clip"]);
        assert_eq!(words("हिन्दी में एक मेंढक।"), ["हिन्दी", "में", "एक", "मेंढक", "।"]);
        assert_eq!(words("一只green青蛙。"), ["一", "只", "green", "青", "蛙", "。"]);
        assert_eq!(words("赤いリンゴとカエルﾊﾟﾝ"), ["赤", "い", "リンゴ", "と", "カエルﾊﾟﾝ"]);
        assert_eq!(words("تفاحة حمراء، ضفدع"), ["تفاحة", "حمراء", "،", "ضفدع"]);
        assert_eq!(words("cafe\u{301} n\u{303}"), ["cafe\u{301}", "n\u{303}"]);
        assert_eq!(words("🐸🍎 👩‍🚀👍🏽 🇩🇪🇫🇷 ❤️1️⃣"), ["🐸", "🍎", "👩‍🚀", "👍🏽", "🇩🇪", "🇫🇷", "❤️", "1️⃣"]);
        assert_eq!(words("\u{301}x \0y"), ["\u{301}x", "\0", "y"]);
        assert!(words(" \n\u{3000}").is_empty());
    }

    #[test]
    fn words_of_a_prompt_are_without_its_syntax() {
        let words = |text: &str, emphasis: bool| -> Vec<String> {
            let syntax = Syntax { emphasis, long: emphasis };
            word_ranges(text, syntax).into_iter().map(|range| text[range].to_owned()).collect()
        };
        assert_eq!(words("a (red:1.4) frog, BREAK on", true), ["a", "red", "frog", "on"]);
        assert_eq!(words("a (red) frog, 24", false), ["a", "red", "frog", "24"]);
    }

    #[test]
    fn tokens_move_boundaries() {
        // A token over two words joins them; one over white space is a word; a word without a token
        // goes.
        assert_eq!(fit_to_tokens(vec![0..2, 2..3, 4..6], &[0..1, 1..3]), vec![0..3]);
        assert_eq!(fit_to_tokens(vec![0..2, 5..6], &[0..2, 3..4]), vec![0..2, 3..4]);
        assert_eq!(fit_to_tokens(vec![0..4, 5..6], &[0..2, 2..4, 2..4, 5..6]), vec![0..4, 5..6]);
    }
}
