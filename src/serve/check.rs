//! A prompt while it is typed: what the tokenizer makes of it, without a network. Places are
//! counted in UTF-16 units, as pages count them.

use crate::argument::{EMPHASIS, LONG};
use crate::checkpoint::{Checkpoint, Family, T5_TOKENS};
use crate::pipeline::Pipeline;
use crate::prompt::{self, Prompt, Syntax, T5Tokenizer, nearest, unread, weight_of};
use crate::trace::TokenKind;
use crate::{Error, Result};
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
    /// T5's, which reads further than CLIP's (Stable Diffusion 3).
    behind: Option<prompt::Reader>,
    /// Whether brackets may be weights, and long prompts go into chunks.
    syntax: bool,
    /// The words that the checkpoint knows, where it says so.
    vocabulary: Option<Vec<String>>,
    near: BTreeMap<String, String>,
}

impl PromptReader {
    /// That of `pipeline`, which was loaded from `checkpoint`.
    ///
    /// # Errors
    /// As [`Pipeline::reader`] and [`T5Tokenizer::new`].
    pub fn new(pipeline: &Pipeline, checkpoint: &Checkpoint) -> Result<Self> {
        let defaults = pipeline.defaults();
        let (vocabulary, near) = (defaults.vocabulary.clone(), defaults.near.clone());
        let behind = match (&checkpoint.t5, pipeline.family()) {
            (Some(t5), Family::StableDiffusion3) => {
                Some(prompt::Reader::T5(T5Tokenizer::new(&t5.tokenizer)?, T5_TOKENS))
            }
            _ => None,
        };
        let syntax = !pipeline.family().flows();
        Ok(Self { tokenizer: pipeline.reader()?, behind, syntax, vocabulary, near })
    }

    /// How a prompt is read: its tokens, chunks, what is cut off, weights, words that the
    /// checkpoint never saw, syntax of other programs.
    ///
    /// # Errors
    /// As [`prompt::Reader::read`]; [`Error::Argument`] for weights and chunks, which not all
    /// networks have.
    pub fn check(&self, typed: &Typed) -> Result<Value> {
        let Typed { prompt: text, emphasis, long } = typed;
        let syntax = Syntax { emphasis: *emphasis, long: *long };
        if !self.syntax && syntax != Syntax::default() {
            let argument = if *emphasis { EMPHASIS } else { LONG };
            return Err(Error::argument(argument, "is for Stable Diffusion 1, 2 and XL; leave it out"));
        }
        let reader = self.behind.as_ref().unwrap_or(&self.tokenizer);
        let prompt = reader.read(text, syntax)?;
        let alone = match self.behind {
            Some(_) => self.tokenizer.read(text, syntax)?.cut_off.len().saturating_sub(prompt.cut_off.len()),
            None => 0,
        };
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
        let advised = unread(text, syntax).into_iter();
        let advised = advised.map(|unread| if self.syntax { unread } else { unread.of_plain_text() });
        let advised = advised.map(|unread| json!({"piece": unread.piece, "advice": in_fields(&unread.advice)}));
        let unread: Vec<Value> = advised.collect();
        let (used, room) = places_of(reader, &prompt)?;
        Ok(json!({
            "tokens": tokens, "used": used, "room": room, "chunks": chunks, "cut": cut, "cutOff": prompt.cut_off,
            "alone": alone, "words": words, "never": never, "unread": unread,
        }))
    }
}

/// Advice as a page gives it, which has fields for two of the arguments.
fn in_fields(advice: &str) -> String {
    let [emphasis, long] = [EMPHASIS, LONG].map(|argument| argument.to_string());
    advice.replace(&emphasis, "the field “Brackets are weights”").replace(&long, "the field “Long”")
}

/// How many places the text of `prompt` takes, and how many there are for it.
fn places_of(reader: &prompt::Reader, prompt: &Prompt) -> Result<(usize, usize)> {
    let text = prompt.tokens.iter().filter(|token| token.kind == TokenKind::Text);
    if let prompt::Reader::Clip(tokenizer) = reader {
        return Ok((text.count(), tokenizer.length().saturating_sub(2) * prompt.chunks().len().max(1)));
    }
    // Places are taken by marks of spaces too. Qwen's template begins before the text, and T5's end
    // token has a place.
    let before = reader.read("", Syntax::default())?.tokens.first().map_or(0, |end| end.position);
    let end = usize::from(matches!(reader, prompt::Reader::T5(..)));
    let room = reader.length().saturating_sub(before + end);
    let used = text.map(|token| token.position + 1).max().unwrap_or(before).saturating_sub(before);
    Ok((if prompt.cut_off.is_empty() { used } else { room }, room))
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
    use crate::checkpoint::{OpenOptions, Source};
    use crate::pipeline::LoadOptions;
    use std::path::Path;

    fn reader() -> PromptReader {
        let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default()).unwrap();
        let tokenizer = prompt::Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap()).unwrap();
        let tokenizer = prompt::Reader::Clip(tokenizer);
        let (vocabulary, near) = (checkpoint.defaults.vocabulary.clone(), checkpoint.defaults.near.clone());
        PromptReader { tokenizer, behind: None, syntax: true, vocabulary, near }
    }

    /// That of a fixture.
    fn reader_of(name: &str) -> PromptReader {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let checkpoint = Checkpoint::open(&Source::Folder(folder), &OpenOptions::default()).unwrap();
        let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
        PromptReader::new(&pipeline, &checkpoint).unwrap()
    }

    #[test]
    fn transformers_have_rooms_of_their_own_and_no_weights() {
        // Qwen's template takes as many places as its vocabulary has pieces for.
        for (name, rooms) in [("tiny-sd3", 255..=255), ("tiny-flux-dev", 511..=511), ("tiny-z-image", 490..=509)] {
            let reader = reader_of(name);
            let read = |prompt: String, emphasis| reader.check(&Typed { prompt, emphasis, long: false });
            let found = read("a (red:1.3) fox".into(), false).unwrap();
            let room = found["room"].as_u64().unwrap();
            assert!(rooms.contains(&room), "{name}: {room}");
            assert_eq!((&found["cut"], &found["alone"]), (&Value::Null, &json!(0)), "{name}");
            let advice = found["unread"][0]["advice"].as_str().unwrap();
            assert!(advice.contains("no weights"), "{name}: {advice}");
            let cut = read("fox ".repeat(600), false).unwrap();
            assert_eq!(cut["used"], cut["room"], "{name}");
            assert!(matches!(read("a (red:1.3) fox".into(), true), Err(Error::Argument { .. })), "{name}");
        }
        // T5 reads what CLIP does not see, so that nothing is cut off.
        let found = reader_of("tiny-sd3").check(&Typed { prompt: "a ".repeat(100), ..Typed::default() }).unwrap();
        assert_eq!((&found["cutOff"], &found["cut"], &found["alone"]), (&json!([]), &Value::Null, &json!(25)));
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
        assert!(plain["unread"][0]["advice"].as_str().unwrap().contains("the field “Brackets are weights”"));
        assert_eq!(weight(plain), Some(1.0));
    }
}
