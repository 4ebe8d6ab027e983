//! The tokenizer of Qwen (`tokenizer.json`) and its chat template, in which Z-Image's text encoder
//! reads a prompt.

use super::syntax::Syntax;
use super::tokens::{Prompt, Token, Word};
use super::words::{fit_to_tokens, segment};
use crate::checkpoint::T5TokenizerFiles;
use crate::trace::{TokenKind, normalized};
use crate::{Error, Result};
use std::collections::HashMap;
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
    /// [`Error::Config`] naming the file when it cannot be read, or lacks a token of the template.
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
        let [_, end] = [id(MARKS[0])?, id(MARKS[1])?];
        Ok(Self { pipeline, end })
    }

    /// The prompt of `text` within the chat template, cut to `length` tokens. [`Prompt::tokens`]
    /// has those of the text and the mark behind it; the template's others count as padding.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a vocabulary that cannot express the text.
    pub fn encode(&self, text: &str, length: usize) -> Result<Prompt> {
        let whole = format!("{BEFORE}{text}{BEHIND}");
        let encoding = self.pipeline.encode(whole.as_str(), true).map_err(|error| Error::Unsupported {
            what: format!("this prompt for Qwen's tokenizer ({})", crate::printable(&error.to_string())),
            way_out: "use another wording".into(),
        })?;
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
        all.sort_by_key(|range| (range.start, range.end));
        let (mut words, mut cut_off) = (Vec::new(), Vec::new());
        let mut occurrences: HashMap<String, usize> = HashMap::new();
        for range in fit_to_tokens(segment(text), &all) {
            let word = text[range.clone()].to_owned();
            if range.end > read {
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
            chunk_length: ids.len().max(1),
            ids,
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
    let (start, end) = (text.floor_char_boundary(start), text.ceil_char_boundary(end));
    let piece = &text[start..end];
    let (before, after) = (piece.len() - piece.trim_start().len(), piece.trim().len());
    start + before..start + before + after
}
