//! Which tokens of a phrase or a tag are of its things.

use super::lexicon::names_a_thing;
use crate::trace::{PromptInfo, WordInfo};

/// Signs that may stand at a word and are no part of it: brackets, quotation marks, what ends a
/// clause.
const SIGNS: [char; 20] =
    ['(', ')', '[', ']', '{', '}', '<', '>', '"', '“', '”', '„', ':', ';', ',', '.', '!', '?', '/', '|'];

/// `word` with the tokens of its things alone: "red apple" lies where "apple" does.
///
/// Colours and little words have wide maps and do not count where there is a thing. A word without
/// a thing, and a probe, stay as they are.
pub(crate) fn of_its_things(prompt: &PromptInfo, word: &WordInfo) -> WordInfo {
    let text = prompt.text.get(word.start..word.end).filter(|_| !prompt.is_probe(word)).unwrap_or_default();
    let place = |piece: &str| {
        let start = word.start + piece.as_ptr() as usize - text.as_ptr() as usize;
        start..start + piece.len()
    };
    // A colour in brackets or quotation marks is a colour still.
    let pieces = text.split(|c: char| c.is_whitespace() || SIGNS.contains(&c));
    let things: Vec<_> = pieces.filter(|piece| names_a_thing(piece)).map(place).collect();
    let of_things: Vec<usize> = things.iter().flat_map(|thing| prompt.tokens_within(thing)).collect();
    with_tokens(word, &of_things)
}

/// `word` with those of its tokens that are among `some`; as it is where none of them is.
pub(super) fn with_tokens(word: &WordInfo, some: &[usize]) -> WordInfo {
    let tokens: Vec<usize> = word.tokens.iter().filter(|token| some.contains(token)).copied().collect();
    WordInfo { tokens: if tokens.is_empty() { word.tokens.clone() } else { tokens }, ..word.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{TokenInfo, TokenKind};

    #[test]
    fn a_phrase_lies_where_its_things_do() {
        let text = "a red apple, on the beach";
        let token = |(start, end): (usize, usize)| TokenInfo {
            id: 0,
            text: text[start..end].into(),
            kind: TokenKind::Text,
            start,
            end,
        };
        let places = [(0, 1), (2, 5), (6, 9), (9, 11), (11, 12), (13, 15), (16, 19), (20, 25)];
        let tokens = places.map(token).to_vec();
        let prompt = PromptInfo { text: text.into(), tokens, words: Vec::new() };
        let word = |start: usize, end: usize, tokens: &[usize]| WordInfo {
            text: text[start..end].into(),
            start,
            end,
            tokens: tokens.to_vec(),
            occurrence: 1,
        };
        let of = |word: WordInfo| of_its_things(&prompt, &word).tokens;
        assert_eq!(of(word(0, 11, &[0, 1, 2, 3])), [2, 3], "both tokens of the thing");
        assert_eq!(of(word(2, 5, &[1])), [1], "a colour alone");
        assert_eq!(of(word(13, 25, &[5, 6, 7])), [5, 6, 7], "a scene lies nowhere");
    }

    #[test]
    fn signs_at_a_word_make_no_thing_of_it() {
        let text = "a (red:1.3) \"shiny\" apple";
        let token = |name: &str| {
            let start = text.find(name).unwrap();
            TokenInfo { id: 0, text: name.into(), kind: TokenKind::Text, start, end: start + name.len() }
        };
        let tokens = ["a", "red", "shiny", "apple"].map(token).to_vec();
        let prompt = PromptInfo { text: text.into(), tokens, words: Vec::new() };
        let (text, tokens) = ("a red shiny apple".into(), vec![0, 1, 2, 3]);
        let tag = WordInfo { text, start: 0, end: prompt.text.len(), tokens, occurrence: 1 };
        assert_eq!(of_its_things(&prompt, &tag).tokens, [3]);
    }
}
