//! From text to tokens and back: the CLIP tokenizer, words by byte range, phrases.
//!
//! A [`Tokenizer`] turns text into a [`Prompt`]: the ids that the text encoder is given. Each id
//! knows the bytes of the text that it stands for. A [`Syntax`] says whether brackets are weights
//! and long texts are read in chunks. Words are found in the text itself and know their tokens by
//! overlap of bytes. Token strings are never compared, so "hair" is not found in *hairclip*.

mod chunks;
mod pieces;
mod qwen;
mod reader;
mod syntax;
mod t5;
mod tokenizer;
mod tokens;
mod unread;
mod weights;
mod words;

pub use qwen::QwenTokenizer;
pub use reader::Reader;
pub use syntax::{Syntax, weight_of};
pub use t5::T5Tokenizer;
pub use tokenizer::Tokenizer;
pub use tokens::{Joined, Prompt, Reading, Token, Word, nearest};
pub use unread::{Unread, unread};
pub use weights::{WEIGHTS_OF_A_RANGE, WordWeights};
pub use words::word_ranges;
