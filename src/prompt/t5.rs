//! The tokenizer of T5 (Raffel et al., 2020), read from `tokenizer.json`: unigram pieces with a
//! mark before each word, and an end token.

use super::pieces::{Opened, encoded, visible, words_of};
use super::syntax::Syntax;
use super::tokens::{Prompt, Token};
use crate::Result;
use crate::checkpoint::T5TokenizerFiles;
use crate::one_line;
use crate::trace::TokenKind;
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
    /// [`crate::Error::Config`] naming the file when it cannot be read, lacks a special token, or
    /// puts more around a text than an end token behind it.
    pub fn new(files: &T5TokenizerFiles) -> Result<Self> {
        let opened = Opened::new(files)?;
        let (end, pad) = (opened.special(&files.eos_token)?, opened.special(&files.pad_token)?);
        let around = opened.pipeline.encode("", true).map_err(|error| opened.refuse(one_line(&error.to_string())))?;
        if around.get_ids() != [end] {
            return Err(opened.refuse("is not T5's: it does not end a text with its end token alone".into()));
        }
        Ok(Self { pipeline: opened.pipeline, end, pad })
    }

    /// The prompt of `text`, filled up or cut to `length` tokens with the end token. What does not
    /// fit is in [`Prompt::cut_off`].
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] for a vocabulary that cannot express the text.
    pub fn encode(&self, text: &str, length: usize) -> Result<Prompt> {
        let encoding = encoded(&self.pipeline, text, false, "T5's")?;
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

        let all: Vec<Range<usize>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        let last = tokens.iter().filter(|token| token.kind == TokenKind::Text).map(|token| token.range.end).max();
        let kept = if ranges.len() > room { last.unwrap_or(0) } else { text.len() };
        let (words, cut_off) = words_of(text, &tokens, all, kept);
        Ok(Prompt {
            text: text.to_owned(),
            syntax: Syntax::default(),
            ids,
            chunk_length: length.max(1),
            weights: Vec::new(),
            tokens,
            words,
            cut_off,
            readings: Vec::new(),
        })
    }
}
