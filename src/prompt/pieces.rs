//! What tokenizers that are read from `tokenizer.json` alone share: opening the file, the bytes
//! that a piece shows, and the words that pieces make.

use super::tokens::{Token, Word};
use super::words::{fit_to_tokens, segment};
use crate::checkpoint::T5TokenizerFiles;
use crate::one_line;
use crate::trace::normalized;
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tokenizers::{Encoding, Tokenizer as Pipeline};

/// A tokenizer with the file that it was read from, which refusals name.
pub(super) struct Opened {
    pub pipeline: Pipeline,
    file: PathBuf,
}

impl Opened {
    /// Reads the file, without the truncation and padding that it may ask for.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file when it cannot be read.
    pub fn new(files: &T5TokenizerFiles) -> Result<Self> {
        let file = files.folder.join("tokenizer.json");
        let mut pipeline = Pipeline::from_bytes(&files.tokenizer_json).map_err(|error| {
            refused(&file, format!("cannot be read ({}); fetch the file again", one_line(&error.to_string())))
        })?;
        pipeline.with_truncation(None).map_err(|error| refused(&file, one_line(&error.to_string())))?;
        pipeline.with_padding(None);
        Ok(Self { pipeline, file })
    }

    /// The id of a special token.
    ///
    /// # Errors
    /// [`Error::Config`] where the vocabulary lacks it.
    pub fn special(&self, token: &str) -> Result<u32> {
        let missing = || self.refuse(format!("the vocabulary lacks the special token {}", crate::in_quotes(token)));
        self.pipeline.token_to_id(token).ok_or_else(missing)
    }

    /// What is wrong with the file.
    pub fn refuse(&self, reason: String) -> Error {
        refused(&self.file, reason)
    }
}

fn refused(file: &Path, reason: String) -> Error {
    Error::Config { file: file.to_owned(), reason }
}

/// The pieces of `text`, with the special tokens around them or those in it alone.
///
/// # Errors
/// [`Error::Unsupported`] for a vocabulary, `whose`, that cannot express the text.
pub(super) fn encoded(pipeline: &Pipeline, text: &str, special: bool, whose: &str) -> Result<Encoding> {
    pipeline.encode(text, special).map_err(|error| Error::Unsupported {
        what: format!("this prompt for {whose} tokenizer ({})", crate::printable(&error.to_string())),
        way_out: "use another wording".into(),
    })
}

/// The bytes of `text` within `offsets` on character boundaries, without white space around them.
pub(super) fn visible(text: &str, (start, end): (usize, usize)) -> Range<usize> {
    let start = text.floor_char_boundary(start);
    let piece = &text[start..text.ceil_char_boundary(end).max(start)];
    let (before, after) = (piece.len() - piece.trim_start().len(), piece.trim().len());
    start + before..start + before + after
}

/// The words of `text` that have any of `tokens`, and the names of those that end behind `read`.
/// `pieces` are the ranges of all tokens of the text, in any order, of those beyond its end too.
pub(super) fn words_of(
    text: &str,
    tokens: &[Token],
    mut pieces: Vec<Range<usize>>,
    read: usize,
) -> (Vec<Word>, Vec<String>) {
    pieces.sort_by_key(|range| (range.start, range.end));
    let (mut words, mut cut_off) = (Vec::new(), Vec::new());
    let mut occurrences: HashMap<String, usize> = HashMap::new();
    for range in fit_to_tokens(segment(text), &pieces) {
        let word = text[range.clone()].to_owned();
        if range.end > read {
            // These are for messages, where control characters have no place.
            let shown: String = word.chars().filter(|c| !c.is_control()).collect();
            cut_off.extend(Some(shown).filter(|shown| !shown.is_empty()));
        }
        let own: Vec<usize> = tokens.iter().filter(|token| token.is_text_of(&range)).map(|token| token.index).collect();
        if !own.is_empty() {
            let occurrence = occurrences.entry(normalized(&word)).or_default();
            *occurrence += 1;
            words.push(Word { text: word, range, tokens: own, occurrence: *occurrence });
        }
    }
    (words, cut_off)
}
