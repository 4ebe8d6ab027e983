//! A prompt while it is typed: what the tokenizer makes of it, without a network. Places are
//! counted in UTF-16 units, as pages count them.

use crate::Result;
use crate::pipeline::Pipeline;
use crate::prompt::{self, Syntax, nearest, unread, weight_of};
use crate::trace::TokenKind;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The prompt as it is typed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Typed {
    pub prompt: String,
    pub emphasis: bool,
    pub long: bool,
}

/// What prompts are read with, apart from the checkpoint's networks.
#[derive(Debug)]
pub(super) struct PromptReader {
    tokenizer: prompt::Reader,
    /// The words that the checkpoint knows, where it says so.
    vocabulary: Option<Vec<String>>,
    near: BTreeMap<String, String>,
}

impl PromptReader {
    /// That of `pipeline`.
    ///
    /// # Errors
    /// As [`Pipeline::reader`].
    pub fn new(pipeline: &Pipeline) -> Result<Self> {
        let defaults = pipeline.defaults();
        let (vocabulary, near) = (defaults.vocabulary.clone(), defaults.near.clone());
        Ok(Self { tokenizer: pipeline.reader()?, vocabulary, near })
    }

    /// How a prompt is read: its tokens, chunks, what is cut off, weights, words that the
    /// checkpoint never saw, syntax of other programs.
    ///
    /// # Errors
    /// As [`Tokenizer::read`].
    pub fn check(&self, typed: &Typed) -> Result<Value> {
        let Typed { prompt: text, emphasis, long } = typed;
        let syntax = Syntax { emphasis: *emphasis, long: *long };
        let prompt = self.tokenizer.read(text, syntax)?;
        let places = Utf16Places::of(text);
        let own = prompt.tokens.iter().filter(|token| token.kind == TokenKind::Text);
        let tokens: Vec<[usize; 2]> = own.clone().map(|token| places.range(&token.range)).collect();
        let starts = prompt.tokens.iter().enumerate().filter(|(_, token)| token.kind == TokenKind::Start).skip(1);
        let chunks: Vec<usize> = starts
            .filter_map(|(at, _)| prompt.tokens.get(at + 1).filter(|token| token.kind == TokenKind::Text))
            .map(|token| places.at(token.range.start))
            .collect();
        let read = own.map(|token| token.range.end).max().unwrap_or(0);
        let cut = (!prompt.cut_off.is_empty()).then(|| places.at(read));
        let vocabulary = self.vocabulary.as_deref();
        let never = vocabulary.map_or_else(Vec::new, |vocabulary| prompt.unknown_words(vocabulary));
        let near = |word: &str| nearest(word, vocabulary?, &self.near);
        let never: Vec<Value> = never.iter().map(|word| json!({"word": word, "near": near(word)})).collect();
        let words = prompt.words.iter().filter(|word| !word.is_punctuation());
        let words: Vec<Value> = words
            .map(|word| {
                let strange = never.iter().any(|never| same(never["word"].as_str(), &word.text));
                let weight = weight_of(text, syntax, word.range.start);
                json!({"at": places.range(&word.range), "label": word.label(), "weight": weight, "never": strange})
            })
            .collect();
        let unread: Vec<Value> =
            unread(text, syntax).iter().map(|unread| json!({"piece": unread.piece, "advice": unread.advice})).collect();
        let of_a_chunk = self.tokenizer.length().saturating_sub(2);
        Ok(json!({
            "tokens": tokens, "room": of_a_chunk * prompt.chunks().len().max(1), "chunks": chunks, "cut": cut,
            "cutOff": prompt.cut_off, "words": words, "never": never, "unread": unread,
        }))
    }
}

fn same(a: Option<&str>, b: &str) -> bool {
    a.is_some_and(|a| crate::trace::normalized(a) == crate::trace::normalized(b))
}

/// Bytes of a text as UTF-16 units.
struct Utf16Places(Vec<usize>);

impl Utf16Places {
    fn of(text: &str) -> Self {
        let mut units = vec![0; text.len() + 1];
        let mut count = 0;
        for (at, character) in text.char_indices() {
            units[at..at + character.len_utf8()].fill(count);
            count += character.len_utf16();
        }
        units[text.len()] = count;
        Self(units)
    }

    fn at(&self, byte: usize) -> usize {
        self.0.get(byte).or(self.0.last()).copied().unwrap_or(0)
    }

    fn range(&self, bytes: &std::ops::Range<usize>) -> [usize; 2] {
        [self.at(bytes.start), self.at(bytes.end)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, OpenOptions, Source};

    fn reader() -> PromptReader {
        let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default()).unwrap();
        let tokenizer = prompt::Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap()).unwrap();
        let tokenizer = prompt::Reader::Clip(tokenizer);
        let (vocabulary, near) = (checkpoint.defaults.vocabulary.clone(), checkpoint.defaults.near.clone());
        PromptReader { tokenizer, vocabulary, near }
    }

    fn check(prompt: &str, emphasis: bool, long: bool) -> Value {
        reader().check(&Typed { prompt: prompt.into(), emphasis, long }).unwrap()
    }

    #[cfg(feature = "default-model")]
    #[test]
    fn words_are_placed_in_the_units_of_a_page() {
        // The frog's face is two units and four bytes.
        let found = check("🐸 a red zebra", false, false);
        let words = found["words"].as_array().unwrap();
        let zebra = words.last().unwrap();
        assert_eq!((&zebra["at"], &zebra["never"]), (&json!([9, 14]), &json!(true)));
        assert_eq!(found["never"][1]["word"].as_str().or(found["never"][0]["word"].as_str()), Some("zebra"));
        assert_eq!((found["room"].as_u64(), &found["cut"]), (Some(30), &Value::Null));
    }

    #[cfg(feature = "default-model")]
    #[test]
    fn what_does_not_fit_is_cut_off_or_goes_into_chunks() {
        let text = "apple ".repeat(80);
        let cut = check(&text, false, false);
        assert_eq!((cut["tokens"].as_array().unwrap().len(), cut["cut"].as_u64()), (30, Some(30 * 6 - 1)));
        let long = check(&text, false, true);
        assert_eq!((long["tokens"].as_array().unwrap().len(), long["room"].as_u64()), (80, Some(90)));
        assert_eq!((&long["cut"], long["chunks"].as_array().unwrap().len()), (&Value::Null, 2));
        assert_eq!(check("", true, true)["tokens"], json!([]));
    }

    #[cfg(feature = "default-model")]
    #[test]
    fn brackets_are_weights_where_they_are_read() {
        let text = "a (red:1.5) apple";
        let weight = |found: Value| found["words"][1]["weight"].as_f64();
        assert_eq!(weight(check(text, true, false)), Some(1.5));
        let plain = check(text, false, false);
        assert!(plain["unread"][0]["advice"].as_str().unwrap().contains("`emphasis`"));
        assert_eq!(weight(plain), Some(1.0));
    }
}
