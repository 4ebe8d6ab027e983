//! The tokenizer whose tokens are a prompt's keys, whichever a checkpoint has.

use super::qwen::QwenTokenizer;
use super::syntax::Syntax;
use super::t5::T5Tokenizer;
use super::tokenizer::Tokenizer;
use super::tokens::Prompt;
use crate::argument::{EMPHASIS, LONG};
use crate::{Error, Result};

/// A tokenizer, and how many tokens it gives at most.
#[derive(Debug, Clone)]
pub enum Reader {
    /// CLIP's, which cuts a text into chunks.
    Clip(Tokenizer),
    /// T5's: FLUX.1.
    T5(T5Tokenizer, usize),
    /// Qwen's within its chat template: Z-Image.
    Qwen(QwenTokenizer, usize),
}

impl Reader {
    /// The prompt of `text`, read by `syntax`.
    ///
    /// # Errors
    /// As [`Tokenizer::read`]; [`Error::Argument`] for weights and chunks, which CLIP's alone has.
    pub fn read(&self, text: &str, syntax: Syntax) -> Result<Prompt> {
        match self {
            Self::Clip(tokenizer) => tokenizer.read(text, syntax),
            _ if syntax != Syntax::default() => Err(Error::input(
                format!("{EMPHASIS:#}, {LONG:#}"),
                "weights and chunks are those of programs for Stable Diffusion 1, 2 and XL; leave them out",
            )),
            Self::T5(tokenizer, length) => tokenizer.encode(text, *length),
            Self::Qwen(tokenizer, length) => tokenizer.encode(text, *length),
        }
    }

    /// Tokens of a prompt, or of a chunk of one.
    pub fn length(&self) -> usize {
        match self {
            Self::Clip(tokenizer) => tokenizer.length(),
            Self::T5(_, length) | Self::Qwen(_, length) => *length,
        }
    }
}
