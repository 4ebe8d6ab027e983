//! The tokenizer of Qwen (`tokenizer.json`) and its chat template, in which Z-Image's text encoder
//! reads a prompt.

use super::pieces::{Opened, encoded, visible, words_of};
use super::syntax::Syntax;
use super::tokens::{Prompt, Token};
use crate::Result;
use crate::checkpoint::T5TokenizerFiles;
use crate::trace::TokenKind;
use std::ops::Range;
use tokenizers::Tokenizer as Pipeline;

/// What stands before a prompt, and behind it: one turn of a user, and the beginning of an answer
/// (`apply_chat_template` with `enable_thinking`).
const BEFORE: &str = "<|im_start|>user\n";
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";
/// The tokens of the template that must be one token each.
const MARKS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// Turns text into a [`Prompt`] of Qwen's tokens.
#[derive(Debug, Clone)]
pub struct QwenTokenizer {
    pipeline: Pipeline,
    end: u32,
}

impl QwenTokenizer {
    /// From the files of a checkpoint's folder.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the file when it cannot be read, or lacks a token of the
    /// template.
    pub fn new(files: &T5TokenizerFiles) -> Result<Self> {
        let opened = Opened::new(files)?;
        let [_, end] = [opened.special(MARKS[0])?, opened.special(MARKS[1])?];
        Ok(Self { pipeline: opened.pipeline, end })
    }

    /// The prompt of `text` within the chat template, cut to `length` tokens. [`Prompt::tokens`]
    /// has those of the text and the mark behind it; the template's others count as padding.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] for a vocabulary that cannot express the text.
    pub fn encode(&self, text: &str, length: usize) -> Result<Prompt> {
        let whole = format!("{BEFORE}{text}{BEHIND}");
        let encoding = encoded(&self.pipeline, &whole, true, "Qwen's")?;
        let own = BEFORE.len()..BEFORE.len() + text.len();
        let mut tokens: Vec<Token> = Vec::new();
        let mut all: Vec<Range<usize>> = Vec::new();
        let (mut ended, mut read) = (false, 0);
        for (position, (&id, &offsets)) in encoding.get_ids().iter().zip(encoding.get_offsets()).enumerate() {
            let (start, end) = (offsets.0.max(own.start), offsets.1.min(own.end));
            let range = match start < end {
                true => visible(text, (start - own.start, end - own.start)),
                false => 0..0,
            };
            let (kind, range) = match (range.is_empty(), offsets.0 >= own.end && id == self.end && !ended) {
                (false, _) => (TokenKind::Text, range),
                (true, true) => (TokenKind::End, text.len()..text.len()),
                _ => continue,
            };
            ended |= kind == TokenKind::End;
            if kind == TokenKind::Text {
                all.push(range.clone());
            }
            if position < length {
                read = if kind == TokenKind::Text { read.max(range.end) } else { text.len() };
                let text = self.pipeline.id_to_token(id).unwrap_or_default();
                tokens.push(Token { index: tokens.len(), position, id, text, kind, range });
            }
        }
        let ids: Vec<u32> = encoding.get_ids().iter().take(length).copied().collect();
        let (words, cut_off) = words_of(text, &tokens, all, read);
        Ok(Prompt {
            text: text.to_owned(),
            syntax: Syntax::default(),
            chunk_length: ids.len().max(1),
            ids,
            weights: Vec::new(),
            tokens,
            words,
            cut_off,
            readings: Vec::new(),
        })
    }
}
