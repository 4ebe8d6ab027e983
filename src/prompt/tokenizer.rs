//! The tokenizer of CLIP (Radford et al. 2021), built from `vocab.json` and `merges.txt` or from `tokenizer.json`.
//!
//! Byte-pair encoding with `</w>` at the end of words, over text in NFC, lower case and single spaces: `CLIPTokenizer` of
//! transformers 5. (Version 4's slow class also repairs text with `ftfy`; neither its fast class nor version 5 does.)

use super::words::{fit_to_tokens, segment};
use super::{Prompt, Token, Word};
use crate::checkpoint::{TokenizerConfig, TokenizerFiles};
use crate::trace::TokenKind;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer as Pipeline};

/// Words, numbers digit by digit, and runs of anything else (CLIP's `simple_tokenizer.py`).
const PIECES: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Turns text into a [`Prompt`].
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pipeline: Pipeline,
    start: u32,
    end: u32,
    pad: u32,
    /// Tokens of a prompt, start, end and padding included.
    length: usize,
}

impl Tokenizer {
    /// From the files of a checkpoint's `tokenizer/` folder; `tokenizer.json` is preferred where both forms are there.
    ///
    /// Errors: [`Error::Config`] naming the file that is malformed, lacks a special token, or is not a CLIP tokenizer.
    pub fn new(files: &TokenizerFiles) -> Result<Self> {
        let (file, mut pipeline) = match (&files.tokenizer_json, &files.vocab_json, &files.merges_txt) {
            (Some(json), _, _) => ("tokenizer.json", from_json(json, &files.folder.join("tokenizer.json"))?),
            (None, Some(vocab), Some(merges)) => ("vocab.json", from_vocabulary(vocab, merges, files)?),
            _ => {
                let reason =
                    "neither tokenizer.json nor vocab.json with merges.txt is there; fetch the checkpoint again";
                return Err(refuse(&files.folder, reason));
            }
        };
        let file = files.folder.join(file);
        let TokenizerConfig { model_max_length, bos_token, eos_token, unk_token, pad_token } = &files.config;
        if *model_max_length < 2 {
            let reason = format!("`model_max_length` is {model_max_length}; start and end alone are 2");
            return Err(refuse(&files.folder.join("tokenizer_config.json"), reason));
        }
        for token in [bos_token, eos_token, unk_token, pad_token] {
            if pipeline.token_to_id(token).is_none() {
                return Err(refuse(&file, format!("the vocabulary lacks the special token {token:?}")));
            }
        }
        // Special tokens are also found in the middle of a text: with SD 2's padding `!`, "frog!" ends in a padding token.
        let added = pipeline.get_added_tokens_decoder();
        let missing: Vec<AddedToken> = [bos_token, eos_token, unk_token, pad_token]
            .into_iter()
            .filter(|token| !added.values().any(|added| added.content == **token))
            .map(|token| AddedToken::from(token.clone(), true))
            .collect();
        pipeline.add_special_tokens(missing).map_err(|error| refuse(&file, one_line(&error)))?;
        let id = |token: &str| {
            pipeline.token_to_id(token).ok_or_else(|| refuse(&file, format!("the vocabulary lacks {token:?}")))
        };
        let (start, end, pad) = (id(bos_token)?, id(eos_token)?, id(pad_token)?);
        Ok(Self { pipeline, start, end, pad, length: *model_max_length })
    }

    /// Length that prompts are padded and cut to, start and end included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The prompt of `text`: any text, of any length, empty too. What does not fit is in [`Prompt::cut_off`].
    ///
    /// Errors: [`Error::Unsupported`] for a vocabulary that cannot express the text and has no token for that.
    pub fn encode(&self, text: &str) -> Result<Prompt> {
        let encoding = self.pipeline.encode(text, false).map_err(|error| Error::Unsupported {
            what: format!("this prompt for the checkpoint's tokenizer ({})", one_line(&error)),
            way_out: "use another wording".into(),
        })?;
        let ranges = text_ranges(text, encoding.get_offsets());
        let kept = ranges.len().min(self.length - 2);

        let special = |index, id, kind, at| Token { index, id, text: self.entry(id), kind, range: at..at };
        let mut tokens = vec![special(0, self.start, TokenKind::Start, 0)];
        for (&id, range) in encoding.get_ids().iter().zip(&ranges).take(kept) {
            let (index, range) = (tokens.len(), range.clone());
            tokens.push(Token { index, id, text: self.entry(id), kind: TokenKind::Text, range });
        }
        tokens.push(special(tokens.len(), self.end, TokenKind::End, text.len()));

        let mut ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        ids.resize(self.length, self.pad);
        let (words, cut_off) = words(text, &ranges, kept);
        Ok(Prompt { text: text.to_owned(), ids, tokens, words, cut_off })
    }

    fn entry(&self, id: u32) -> String {
        self.pipeline.id_to_token(id).unwrap_or_default()
    }
}

/// The words with at least one of the first `kept` tokens, and the texts of those with a token beyond.
fn words(text: &str, ranges: &[Range<usize>], kept: usize) -> (Vec<Word>, Vec<String>) {
    let mut words: Vec<Word> = Vec::new();
    let mut cut_off = Vec::new();
    let mut occurrences: HashMap<String, usize> = HashMap::new();
    let mut position = 0;
    for range in fit_to_tokens(segment(text), ranges) {
        let first = position;
        while ranges.get(position).is_some_and(|token| token.start < range.end) {
            position += 1;
        }
        let name = text[range.clone()].to_owned();
        if position > kept {
            // These are for messages, where control characters have no place.
            let shown: String = name.chars().filter(|c| !c.is_control()).collect();
            cut_off.extend(Some(shown).filter(|shown| !shown.is_empty()));
        }
        if first < kept {
            let occurrence = occurrences.entry(name.to_lowercase()).or_default();
            *occurrence += 1;
            // Position 0 of the sequence is the start token.
            let tokens = (first..position.min(kept)).map(|token| token + 1).collect();
            words.push(Word { text: name, range, tokens, occurrence: *occurrence });
        }
    }
    (words, cut_off)
}

/// The tokenizer's offsets as ranges of whole characters of `text`, ascending, none empty.
///
/// Normalisation can leave an accent that it merged into a letter without an owner (e and U+0301 become one character with the
/// place of the e); it goes to the token before.
fn text_ranges(text: &str, offsets: &[(usize, usize)]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(offsets.len());
    let mut least = 0;
    for &(start, end) in offsets {
        let mut start = start.clamp(least, text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = end.clamp(start, text.len());
        while !text.is_char_boundary(end) {
            end += 1;
        }
        if start == end {
            // A character that normalisation put in: it stands for its neighbour.
            match text[start..].chars().next() {
                Some(c) => end += c.len_utf8(),
                None => start -= text.chars().next_back().map_or(0, char::len_utf8),
            }
        }
        least = start;
        ranges.push(start..end);
    }
    let mut limit = text.len();
    let mut following = text.len();
    for range in ranges.iter_mut().rev() {
        // Several tokens of one character share its range.
        if range.end <= following {
            limit = following;
        }
        following = range.start;
        let rest = &text[range.end..limit.max(range.end)];
        range.end += rest.find(char::is_whitespace).unwrap_or(rest.len());
    }
    ranges
}

/// The pipeline that transformers builds around a vocabulary and merges.
fn from_vocabulary(vocab: &[u8], merges: &[u8], files: &TokenizerFiles) -> Result<Pipeline> {
    let (vocab_file, merges_file) = (files.folder.join("vocab.json"), files.folder.join("merges.txt"));
    let vocab: HashMap<String, u32> = serde_json::from_slice(vocab)
        .map_err(|error| refuse(&vocab_file, format!("not a vocabulary ({error}); fetch the file again")))?;
    let merges =
        std::str::from_utf8(merges).map_err(|_| refuse(&merges_file, "not UTF-8 text; fetch the file again"))?;
    let merges = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
        .map(|line| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(refuse(&merges_file, format!("{line:?} is not a merge of two tokens"))),
        })
        .collect::<Result<Vec<_>>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .unk_token(files.config.unk_token.clone())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".into())
        .build()
        .map_err(|error| refuse(&merges_file, format!("does not fit vocab.json ({})", one_line(&error))))?;

    let built_in = |error| refuse(&merges_file, one_line(&error));
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(built_in)?;
    let pieces =
        Split::new(SplitPattern::Regex(PIECES.into()), SplitDelimiterBehavior::Removed, true).map_err(built_in)?;
    let mut pipeline = Pipeline::new(model);
    pipeline
        .with_normalizer(Some(Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()])))
        .map_err(built_in)?;
    pipeline.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        pieces.into(),
        ByteLevel::default().add_prefix_space(false).into(),
    ])));
    Ok(pipeline)
}

/// The pipeline of a `tokenizer.json`, which must be byte-pair encoding with `</w>`.
fn from_json(json: &[u8], file: &Path) -> Result<Pipeline> {
    let value: Value = serde_json::from_slice(json)
        .map_err(|error| refuse(file, format!("not valid JSON ({error}); fetch the file again")))?;
    let model = &value["model"];
    // Old files do not name the model's type.
    if model["type"].as_str().is_some_and(|name| name != "BPE") || model["end_of_word_suffix"] != "</w>" {
        return Err(refuse(file, "not a CLIP tokenizer (`model` is not BPE with `end_of_word_suffix` </w>)"));
    }
    if !model["dropout"].is_null() {
        return Err(refuse(file, "`model.dropout` would make tokens random; set it to null"));
    }
    let mut pipeline =
        Pipeline::from_bytes(json).map_err(|error| refuse(file, format!("cannot be read ({})", one_line(&error))))?;
    pipeline.with_truncation(None).map_err(|error| refuse(file, one_line(&error)))?;
    pipeline.with_padding(None);
    Ok(pipeline)
}

fn refuse(file: &Path, reason: impl Into<String>) -> Error {
    Error::Config { file: file.to_path_buf(), reason: reason.into() }
}

/// A foreign error's message on one line.
fn one_line(error: &impl ToString) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
