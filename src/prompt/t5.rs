//! The tokenizer of T5 (Raffel et al., 2020), read from `tokenizer.json`: unigram pieces with a
//! mark before each word, and an end token.

use super::syntax::Syntax;
use super::tokens::{Prompt, Token, Word};
use super::words::{fit_to_tokens, segment};
use crate::checkpoint::T5TokenizerFiles;
use crate::trace::{TokenKind, normalized};
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use tokenizers::Tokenizer as Pipeline;

/// Turns text into a [`Prompt`] of T5's tokens.
#[derive(Debug, Clone)]
pub struct T5Tokenizer {
    pipeline: Pipeline,
    end: u32,
    pad: u32,
}

impl T5Tokenizer {
    /// From the files of a checkpoint's folder.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file when it cannot be read, lacks a special token, or puts
    /// more around a text than an end token behind it.
    pub fn new(files: &T5TokenizerFiles) -> Result<Self> {
        let file = files.folder.join("tokenizer.json");
        let refuse = |reason: String| Error::Config { file: file.clone(), reason };
        let line = |error: tokenizers::Error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let mut pipeline = Pipeline::from_bytes(&files.tokenizer_json)
            .map_err(|error| refuse(format!("cannot be read ({}); fetch the file again", line(error))))?;
        pipeline.with_truncation(None).map_err(|error| refuse(line(error)))?;
        pipeline.with_padding(None);
        let id = |token: &str| {
            let missing = || refuse(format!("the vocabulary lacks the special token {}", crate::in_quotes(token)));
            pipeline.token_to_id(token).ok_or_else(missing)
        };
        let (end, pad) = (id(&files.eos_token)?, id(&files.pad_token)?);
        let around = pipeline.encode("", true).map_err(|error| refuse(line(error)))?;
        if around.get_ids() != [end] {
            return Err(refuse("is not T5's: it does not end a text with its end token alone".into()));
        }
        Ok(Self { pipeline, end, pad })
    }

    /// The prompt of `text`, filled up or cut to `length` tokens with the end token. What does not
    /// fit is in [`Prompt::cut_off`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a vocabulary that cannot express the text.
    pub fn encode(&self, text: &str, length: usize) -> Result<Prompt> {
        let encoding = self.pipeline.encode(text, false).map_err(|error| Error::Unsupported {
            what: format!("this prompt for T5's tokenizer ({})", crate::printable(&error.to_string())),
            way_out: "use another wording".into(),
        })?;
        let room = length.saturating_sub(1);
        let mut ids: Vec<u32> = encoding.get_ids().iter().take(room).copied().collect();
        let mut tokens: Vec<Token> = Vec::new();
        let mut add = |position: usize, id: u32, kind: TokenKind, range: Range<usize>| {
            let text = self.pipeline.id_to_token(id).unwrap_or_default();
            tokens.push(Token { index: tokens.len(), position, id, text, kind, range });
        };
        let ranges: Vec<Range<usize>> = encoding.get_offsets().iter().map(|&offsets| visible(text, offsets)).collect();
        for (position, (&id, range)) in ids.iter().zip(&ranges).enumerate() {
            // The mark of a space alone stands for nothing that can be seen: it counts as padding.
            if !range.is_empty() {
                add(position, id, TokenKind::Text, range.clone());
            }
        }
        add(ids.len(), self.end, TokenKind::End, text.len()..text.len());
        ids.push(self.end);
        ids.resize(length.max(1), self.pad);

        let mut all: Vec<Range<usize>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        all.sort_by_key(|range| (range.start, range.end));
        let last = tokens.iter().filter(|token| token.kind == TokenKind::Text).map(|token| token.range.end).max();
        let kept = if ranges.len() > room { last.unwrap_or(0) } else { text.len() };
        let (mut words, mut cut_off) = (Vec::new(), Vec::new());
        let mut occurrences: HashMap<String, usize> = HashMap::new();
        for range in fit_to_tokens(segment(text), &all) {
            let word = text[range.clone()].to_owned();
            if range.end > kept {
                let shown: String = word.chars().filter(|c| !c.is_control()).collect();
                cut_off.extend(Some(shown).filter(|shown| !shown.is_empty()));
            }
            let within = |token: &&Token| {
                token.kind == TokenKind::Text && token.range.start < range.end && range.start < token.range.end
            };
            let own: Vec<usize> = tokens.iter().filter(within).map(|token| token.index).collect();
            if !own.is_empty() {
                let occurrence = occurrences.entry(normalized(&word)).or_default();
                *occurrence += 1;
                words.push(Word { text: word, range, tokens: own, occurrence: *occurrence });
            }
        }
        Ok(Prompt {
            text: text.to_owned(),
            syntax: Syntax::default(),
            ids,
            chunk_length: length.max(1),
            weights: Vec::new(),
            tokens,
            words,
            cut_off,
            second: None,
            behind: None,
        })
    }
}

/// The bytes of `text` within `offsets` on character boundaries, without white space around them.
fn visible(text: &str, (start, end): (usize, usize)) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(start);
    let mut stop = end.min(text.len()).max(start);
    while !text.is_char_boundary(stop) {
        stop += 1;
    }
    let piece = &text[start..stop];
    let (before, after) = (piece.len() - piece.trim_start().len(), piece.trim().len());
    start + before..start + before + after
}
