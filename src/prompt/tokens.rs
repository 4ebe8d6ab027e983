//! A prompt as the model sees it: its tokens and its words.

use super::syntax::Syntax;
use super::words;
use crate::Result;
use crate::trace::{PromptInfo, TokenInfo, TokenKind, WordInfo, normalized};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// A text as the model sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The text as the user wrote it; byte ranges refer to this.
    pub text: String,
    /// How the text was read.
    pub syntax: Syntax,
    /// What the text encoder is given: start, text, end, padding. There are as many as the
    /// tokenizer's maximum length (77). A long prompt has as many for each chunk, one chunk after
    /// the other. Cross-attention has a key for each.
    pub ids: Vec<u32>,
    /// Ids of a chunk: the tokenizer's maximum length. The text encoder reads every chunk on its
    /// own.
    pub chunk_length: usize,
    /// The weight of each of `ids`; empty where all are 1.
    pub weights: Vec<f32>,
    /// The start token, the tokens of the text and the first end token, of one chunk after the
    /// other: `T` of them. What else is in `ids` is padding. The tokens of a reading joined by
    /// [tokens](Joined::Tokens) follow.
    pub tokens: Vec<Token>,
    /// The words that have tokens here, in the order of the text, punctuation included (see
    /// [`Word::is_punctuation`]).
    pub words: Vec<Word>,
    /// The words that the model does not see, or not wholly, because the text is too long; in
    /// order.
    pub cut_off: Vec<String>,
    /// What the tokenizers of further encoders make of the same text, in the order of the encoders.
    /// At most one is joined by channels and one by tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<Reading>,
}

/// A text as the tokenizer of a further encoder cuts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// How the states of that encoder join those of the first.
    pub joined: Joined,
    /// The text as that encoder is given it.
    pub prompt: Prompt,
}

/// How the states of several text encoders make one sequence of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Joined {
    /// Position by position, with more channels: the second CLIP encoder of SDXL and Stable
    /// Diffusion 3. It pads with another token, `!`, and so cuts a text with exclamation marks in
    /// other places.
    Channels,
    /// One behind the other, with more positions: T5 in Stable Diffusion 3. Its keys follow those
    /// of [`Prompt::ids`]. [`Prompt::tokens`] and [`Prompt::words`] are of both, and a token's
    /// position here is its key there less the number of `ids`.
    Tokens,
}

/// A token of a [`Prompt`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Position in [`Prompt::tokens`]: its channel in every trace and map.
    pub index: usize,
    /// Position in [`Prompt::ids`]: its key in cross-attention. Equal to `index` in the first
    /// chunk.
    pub position: usize,
    /// Id in the vocabulary.
    pub id: u32,
    /// The vocabulary's entry, e.g. `frog</w>`; for display only.
    pub text: String,
    /// Start, text or end.
    pub kind: TokenKind,
    /// The bytes of the text that it stands for, on character boundaries; empty for start and end.
    /// The several tokens of one character (an emoji) each have the whole character.
    pub range: Range<usize>,
}

/// A word or phrase of a [`Prompt`], or one of its special tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The text it covers, as the user wrote it; `<start>` and `<end>` for the special tokens.
    pub text: String,
    /// Its bytes in the prompt's text.
    pub range: Range<usize>,
    /// Positions of its tokens in [`Prompt::tokens`], ascending; never empty.
    pub tokens: Vec<usize>,
    /// 1 for the first time that this word stands in the prompt (upper and lower case alike), 2 for
    /// the second, and so on.
    pub occurrence: usize,
}

impl Word {
    /// Whether it is punctuation alone: such words are left out unless asked for by name.
    pub fn is_punctuation(&self) -> bool {
        self.text.chars().all(|c| words::is_punctuation(c) || words::is_extension(c))
    }

    /// `apple`, or `apple#2` for the second one: the name that [`Prompt::select`] knows it by.
    pub fn label(&self) -> String {
        WordInfo::label_of(&self.text, self.occurrence)
    }
}

impl Token {
    /// Whether it is a token of the text with a byte in `range`.
    pub(super) fn is_text_of(&self, range: &Range<usize>) -> bool {
        self.kind == TokenKind::Text && self.range.start < range.end && range.start < self.range.end
    }
}

impl Prompt {
    /// The ids of each chunk: one, but for long prompts.
    pub fn chunks(&self) -> std::slice::Chunks<'_, u32> {
        self.ids.chunks(self.chunk_length.max(1))
    }

    /// The keys that [`tokens`](Self::tokens) stand at, in runs. Each chunk has a run from its
    /// start token to its first end token. The keys of a reading behind them follow. The others are
    /// padding.
    pub fn keys(&self) -> Vec<Range<usize>> {
        let mut keys: Vec<Range<usize>> = Vec::new();
        for token in &self.tokens {
            match keys.last_mut() {
                Some(run) if token.kind != TokenKind::Start && token.position == run.end => run.end += 1,
                _ => keys.push(token.position..token.position + 1),
            }
        }
        keys
    }

    /// What a further encoder that is `joined` so makes of the text, where there is one.
    pub fn reading(&self, joined: Joined) -> Option<&Self> {
        self.readings.iter().find(|reading| reading.joined == joined).map(|reading| &reading.prompt)
    }

    /// As [`reading`](Self::reading), to be changed.
    pub fn reading_mut(&mut self, joined: Joined) -> Option<&mut Self> {
        self.readings.iter_mut().find(|reading| reading.joined == joined).map(|reading| &mut reading.prompt)
    }

    /// This prompt with what the encoder beside the first makes of the same text.
    pub fn with_beside(mut self, prompt: Self) -> Self {
        self.readings.retain(|reading| reading.joined != Joined::Channels);
        self.readings.insert(0, Reading { joined: Joined::Channels, prompt });
        self
    }

    /// The tokens that stand in [`ids`](Self::ids), without those of a reading behind them.
    pub fn own_tokens(&self) -> &[Token] {
        let own = self.tokens.iter().take_while(|token| token.position < self.ids.len()).count();
        &self.tokens[..own]
    }

    /// Keys of the prompt: its ids, and those of a reading behind them.
    pub fn key_count(&self) -> usize {
        self.ids.len() + self.reading(Joined::Tokens).map_or(0, |behind| behind.ids.len())
    }

    /// This prompt with the reading of another tokenizer behind it: the tokens of both, and words
    /// that name their tokens in both. What the other one sees is not cut off.
    pub fn with_behind(self, behind: Self) -> Self {
        let mut tokens = self.tokens.clone();
        for token in &behind.tokens {
            let (index, position) = (tokens.len(), self.ids.len() + token.position);
            tokens.push(Token { index, position, ..token.clone() });
        }
        let is_text = |token: &&Token| token.kind == TokenKind::Text && !token.range.is_empty();
        let mut ranges: Vec<Range<usize>> = tokens.iter().filter(is_text).map(|token| token.range.clone()).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut occurrences: HashMap<String, usize> = HashMap::new();
        let word = |range: Range<usize>| {
            let text = self.text[range.clone()].to_owned();
            let occurrence = occurrences.entry(normalized(&text)).or_default();
            *occurrence += 1;
            let tokens = tokens.iter().filter(|token| token.is_text_of(&range)).map(|token| token.index).collect();
            Word { text, tokens, occurrence: *occurrence, range }
        };
        let words = words::fit_to_tokens(words::segment(&self.text), &ranges).into_iter().map(word).collect();
        let mut readings = self.readings;
        let cut_off = behind.cut_off.clone();
        readings.push(Reading { joined: Joined::Tokens, prompt: behind });
        Self { words, cut_off, readings, tokens, ..self }
    }

    /// The words that are mapped when nothing is chosen: all but punctuation, one by one.
    pub fn default_words(&self) -> Vec<Word> {
        self.words.iter().filter(|word| !word.is_punctuation()).cloned().collect()
    }

    /// The words that `choice` names, in its order: `red apple,frog,apple#2,<start>,<end>`.
    ///
    /// Names are separated by commas; each is a word or a phrase (words that follow one another),
    /// upper and lower case alike. A name that stands in the prompt several times gives each place
    /// on its own; `apple#2` is the second alone. `<start>` and `<end>` are the start token and the
    /// first end token of each chunk. A name is only ever found as whole words.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for `words` on a name that the prompt does not
    /// have, listing the words that it has.
    pub fn select(&self, choice: &str) -> Result<Vec<Word>> {
        let chosen = PromptInfo::from(self).select(choice)?;
        Ok(chosen.into_iter().map(Word::from).collect())
    }

    /// The words that do not occur in `vocabulary` (upper and lower case alike), each once. A model
    /// that was trained on a small vocabulary cannot know them. An entry of several words allows
    /// each of them.
    pub fn unknown_words(&self, vocabulary: &[String]) -> Vec<String> {
        let mut known: std::collections::HashSet<String> = vocabulary
            .iter()
            .flat_map(|entry| {
                words::segment(entry).into_iter().map(|range| normalized(&entry[range])).chain([normalized(entry)])
            })
            .collect();
        let unknown = |word: &&Word| !word.is_punctuation() && known.insert(normalized(&word.text));
        self.words.iter().filter(unknown).map(|word| word.text.clone()).collect()
    }
}

/// The known word that is nearest to `word`: what `near` gives for it, or the word of `vocabulary`
/// that it most likely misspells. That word is one edit away, or two for words of six letters and
/// more. `None` where none is so near.
pub fn nearest<'a>(word: &str, vocabulary: &'a [String], near: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let word = normalized(word);
    let singular = word.strip_suffix('s').unwrap_or(&word);
    if let Some(known) = near.get(&word).or_else(|| near.get(singular)) {
        return Some(known);
    }
    let most = if word.chars().count() < 6 { 1 } else { 2 };
    if word.chars().count() < 4 {
        return None;
    }
    let words = vocabulary.iter().flat_map(|entry| entry.split_whitespace());
    let near = words.map(|known| (strsim::damerau_levenshtein(&word, &normalized(known)), known));
    // People seldom mistype how a word begins, but they do forget letters.
    let begins = |known: &str| normalized(known).chars().next() == word.chars().next();
    near.filter(|(edits, known)| *edits <= most && (*edits < 2 || begins(known)))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, known)| known)
}

/// What a trace keeps of a prompt. Punctuation is no word there, since a trace's words are those
/// mapped by default.
impl From<&Prompt> for PromptInfo {
    fn from(prompt: &Prompt) -> Self {
        let token = |token: &Token| TokenInfo {
            id: token.id,
            text: token.text.clone(),
            kind: token.kind,
            start: token.range.start,
            end: token.range.end,
        };
        let word = |word: Word| WordInfo {
            text: word.text,
            start: word.range.start,
            end: word.range.end,
            tokens: word.tokens,
            occurrence: word.occurrence,
        };
        Self {
            text: prompt.text.clone(),
            tokens: prompt.tokens.iter().map(token).collect(),
            words: prompt.default_words().into_iter().map(word).collect(),
        }
    }
}

impl From<WordInfo> for Word {
    fn from(word: WordInfo) -> Self {
        Self { text: word.text, range: word.start..word.end, tokens: word.tokens, occurrence: word.occurrence }
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;
    use std::collections::BTreeMap;

    #[test]
    fn the_nearest_known_word_is_by_meaning_or_by_spelling() {
        let known = ["cat", "umbrella", "on the beach"].map(String::from);
        let near = BTreeMap::from([("kitten".to_owned(), "cat".to_owned())]);
        let found = |word| nearest(word, &known, &near);
        assert_eq!((found("Kitten"), found("kittens")), (Some("cat"), Some("cat")));
        assert_eq!((found("umbrela"), found("beech")), (Some("umbrella"), Some("beach")));
        assert_eq!((found("zebra"), found("cut")), (None, None));
    }
}
