//! The tokenizer of CLIP (Radford et al. 2021), built from `vocab.json` and `merges.txt` or from
//! `tokenizer.json`.
//!
//! Byte-pair encoding with `</w>` at the end of words, over text in NFC, lower case and single
//! spaces: `CLIPTokenizer` of transformers 5. (Version 4's slow class also repairs text with
//! `ftfy`; neither its fast class nor version 5 does.)

use super::chunks::{self, Item, share_out};
use super::syntax::{self, PromptPart, Stretch, Syntax};
use super::tokens::{Prompt, Token, Word};
use super::words::{fit_to_tokens, segment};
use crate::argument::EMBEDDING;
use crate::checkpoint::{AddedWord, TokenizerConfig, TokenizerFiles};
use crate::one_line;
use crate::trace::{TokenKind, normalized};
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

/// First byte of a token in the text, and the byte after its last.
type Offsets = (usize, usize);

/// Turns text into a [`Prompt`].
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pipeline: Pipeline,
    start: u32,
    end: u32,
    pad: u32,
    /// Tokens of a chunk, start, end and padding included.
    length: usize,
    /// The ids that a word stands for which was added, by its own id in the pipeline.
    added: HashMap<u32, Vec<u32>>,
    /// How many those are, by the first of them.
    vectors: HashMap<u32, usize>,
    /// The entries of those ids.
    added_entries: HashMap<u32, String>,
}

impl Tokenizer {
    /// From the files of a checkpoint's `tokenizer/` folder; `tokenizer.json` is preferred where
    /// both forms are there.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file that is malformed, lacks a special token, or is not a CLIP
    /// tokenizer.
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
                return Err(refuse(
                    &file,
                    format!("the vocabulary lacks the special token {}", crate::in_quotes(token)),
                ));
            }
        }
        // Special tokens are also found in the middle of a text: with SD 2's padding `!`, "frog!"
        // ends in a padding token.
        let added = pipeline.get_added_tokens_decoder();
        let missing: Vec<AddedToken> = [bos_token, eos_token, unk_token, pad_token]
            .into_iter()
            .filter(|token| !added.values().any(|added| added.content == **token))
            .map(|token| AddedToken::from(token.clone(), true))
            .collect();
        pipeline.add_special_tokens(missing).map_err(|error| refuse(&file, one_line(&error.to_string())))?;
        let id = |token: &str| {
            pipeline
                .token_to_id(token)
                .ok_or_else(|| refuse(&file, format!("the vocabulary lacks {}", crate::in_quotes(token))))
        };
        let (start, end, pad) = (id(bos_token)?, id(eos_token)?, id(pad_token)?);
        Ok(Self {
            pipeline,
            start,
            end,
            pad,
            length: *model_max_length,
            added: HashMap::new(),
            vectors: HashMap::new(),
            added_entries: HashMap::new(),
        })
    }

    /// With the words of textual-inversion embeddings, each of which stands for its own ids. A name
    /// of letters and digits counts as a whole word. A name with signs (`<cat>`) counts everywhere.
    /// Upper and lower case are alike, as in the rest of the text.
    ///
    /// # Errors
    /// [`Error::Argument`] for a word that the vocabulary has already.
    pub fn with_words(mut self, words: &[AddedWord]) -> Result<Self> {
        for AddedWord { word, ids, .. } in words {
            let refuse = |reason: String| Err(Error::argument(EMBEDDING, reason));
            let known = |token: &str| self.pipeline.token_to_id(token).is_some();
            if known(word) || known(&format!("{}</w>", normalized(word))) {
                let free = if word.starts_with('<') {
                    format!("<{}-2>", word.trim_matches(['<', '>']))
                } else {
                    format!("<{word}>")
                };
                let word = crate::in_quotes(word);
                return refuse(format!("the vocabulary has {word} already; name another: FILE.safetensors:{free}"));
            }
            let whole = word.chars().all(|c| c.is_alphanumeric() || c == '_');
            let token = AddedToken::from(word.clone(), false).single_word(whole).normalized(true);
            let added = self.pipeline.add_tokens([token]).map(|_| self.pipeline.token_to_id(word));
            let Ok(Some(id)) = added else {
                return refuse(format!("{} cannot be a word of this tokenizer", crate::in_quotes(word)));
            };
            for (place, &id) in ids.iter().enumerate() {
                self.added_entries.insert(id, if place == 0 { word.clone() } else { format!("{word}_{place}") });
            }
            self.vectors.extend(ids.first().map(|first| (*first, ids.len())));
            self.added.insert(id, ids.clone());
        }
        Ok(self)
    }

    /// Ids and offsets of the tokens of `text`.
    fn tokens(&self, text: &str) -> Result<(Vec<u32>, Vec<Offsets>)> {
        let encoding = self.pipeline.encode(text, false).map_err(|error| Error::Unsupported {
            what: format!("this prompt for the checkpoint's tokenizer ({})", one_line(&error.to_string())),
            way_out: "use another wording".into(),
        })?;
        let (mut tokens, mut offsets) = (Vec::new(), Vec::new());
        for (id, offset) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            match self.added.get(id) {
                None => tokens.push(*id),
                Some(ids) => tokens.extend(ids),
            }
            offsets.resize(tokens.len(), *offset);
        }
        Ok((tokens, offsets))
    }

    /// Length that prompts, or the chunks of long ones, are padded and cut to, start and end
    /// included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The prompt of `text`, every character of it text: any text, of any length, empty too. What
    /// does not fit is in [`Prompt::cut_off`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a vocabulary that cannot express the text and has no token for
    /// that.
    pub fn encode(&self, text: &str) -> Result<Prompt> {
        self.read(text, Syntax::default())
    }

    /// As [`encode`](Self::encode), read by `syntax`. What does not fit into 16 chunks of a long
    /// prompt is in [`Prompt::cut_off`].
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn read(&self, text: &str, syntax: Syntax) -> Result<Prompt> {
        let mut pieces = Vec::new();
        let mut found = Vec::new();
        let mut items = Vec::new();
        let comma = self.pipeline.token_to_id(",</w>");
        for part in syntax::parse(text, syntax) {
            let stretch = match part {
                PromptPart::Text(stretch) => stretch,
                PromptPart::Break => {
                    items.push(Item::Break);
                    continue;
                }
            };
            let (ids, offsets) = self.tokens(&stretch.text)?;
            let ranges = text_ranges(&stretch.text, &offsets);
            found.extend(words(&stretch, &ranges, pieces.len()));
            for (id, range) in ids.into_iter().zip(&ranges) {
                items.extend(self.vectors.get(&id).map(|count| Item::Together(*count)));
                items.push(if Some(id) == comma { Item::Comma } else { Item::Token });
                pieces.push(TokenPiece { id, range: stretch.source(range), weight: stretch.weight as f32 });
            }
        }
        let room = self.length - 2;
        let mut chunks = match syntax.long && room > 0 {
            true => share_out(items, room),
            false => vec![(0..pieces.len().min(room)).collect()],
        };
        chunks.truncate(chunks::MOST);
        let mut prompt = Prompt {
            text: text.to_owned(),
            syntax,
            ids: Vec::new(),
            chunk_length: self.length,
            weights: Vec::new(),
            tokens: Vec::new(),
            words: Vec::new(),
            cut_off: Vec::new(),
            readings: Vec::new(),
        };
        let kept: usize = chunks.iter().map(Vec::len).sum();
        let last = chunks.len() - 1;
        let mut at = 0;
        for (index, chunk) in chunks.into_iter().enumerate() {
            let chunk = &pieces[chunk.first().copied().unwrap_or(0)..][..chunk.len()];
            let start = chunk.first().filter(|_| index > 0).map_or(at, |piece| piece.range.start);
            at = chunk.last().map_or(start, |piece| piece.range.end);
            self.add_chunk(&mut prompt, chunk, start, if index == last { text.len() } else { at });
        }
        if prompt.weights.iter().all(|&weight| weight == 1.0) {
            prompt.weights.clear();
        }
        prompt.name_words(found, kept);
        Ok(prompt)
    }

    /// `prompt` with empty chunks behind its own, `chunks` in all, so that it has as many tokens as
    /// another. The web UI gives the shorter of prompt and negative prompt such chunks.
    pub fn padded(&self, prompt: &Prompt, chunks: usize) -> Prompt {
        let mut padded = prompt.clone();
        let weighted = !padded.weights.is_empty();
        while padded.chunks().len() < chunks {
            self.add_chunk(&mut padded, &[], prompt.text.len(), prompt.text.len());
        }
        if !weighted {
            padded.weights.clear();
        }
        padded
    }

    /// Adds start, `pieces`, end and padding to `prompt`; start and end stand at these bytes of its
    /// text.
    fn add_chunk(&self, prompt: &mut Prompt, pieces: &[TokenPiece], start: usize, end: usize) {
        let first = prompt.ids.len();
        let mut add = |id, kind, range, weight| {
            let (index, position) = (prompt.tokens.len(), prompt.ids.len());
            prompt.tokens.push(Token { index, position, id, text: self.entry(id), kind, range });
            prompt.ids.push(id);
            prompt.weights.push(weight);
        };
        add(self.start, TokenKind::Start, start..start, 1.0);
        for piece in pieces {
            add(piece.id, TokenKind::Text, piece.range.clone(), piece.weight);
        }
        add(self.end, TokenKind::End, end..end, 1.0);
        prompt.ids.resize(first + self.length, self.pad);
        prompt.weights.resize(first + self.length, 1.0);
    }

    fn entry(&self, id: u32) -> String {
        let added = self.added_entries.get(&id).cloned();
        added.or_else(|| self.pipeline.id_to_token(id)).unwrap_or_default()
    }
}

/// A token of the text, before it has a place in a chunk.
#[derive(Debug, Clone)]
struct TokenPiece {
    id: u32,
    /// Bytes of the text as typed.
    range: Range<usize>,
    weight: f32,
}

/// A word of the text with all of its tokens, numbered through the text without start, end and
/// padding.
struct TextWord {
    word: String,
    range: Range<usize>,
    tokens: Range<usize>,
}

/// The words of `stretch`, whose tokens cover `ranges` of it and are numbered from `first`.
fn words(stretch: &Stretch, ranges: &[Range<usize>], first: usize) -> Vec<TextWord> {
    let mut position = 0;
    let word = |range: Range<usize>| {
        let start = position;
        while ranges.get(position).is_some_and(|token| token.start < range.end) {
            position += 1;
        }
        let word = stretch.text[range.clone()].to_owned();
        TextWord { word, range: stretch.source(&range), tokens: first + start..first + position }
    };
    fit_to_tokens(segment(&stretch.text), ranges).into_iter().map(word).collect()
}

impl Prompt {
    /// Puts in the words with at least one of the first `kept` tokens of the text, and the names of
    /// those with a token beyond.
    fn name_words(&mut self, found: Vec<TextWord>, kept: usize) {
        let own = self.tokens.iter().filter(|token| token.kind == TokenKind::Text);
        let places: Vec<usize> = own.map(|token| token.index).collect();
        let mut occurrences: HashMap<String, usize> = HashMap::new();
        for TextWord { word, range, tokens } in found {
            if tokens.end > kept {
                // These are for messages, where control characters have no place.
                let shown: String = word.chars().filter(|c| !c.is_control()).collect();
                self.cut_off.extend(Some(shown).filter(|shown| !shown.is_empty()));
            }
            if tokens.start < kept {
                let occurrence = occurrences.entry(normalized(&word)).or_default();
                *occurrence += 1;
                let tokens = places[tokens.start..tokens.end.min(kept)].to_vec();
                self.words.push(Word { text: word, range, tokens, occurrence: *occurrence });
            }
        }
    }
}

/// The tokenizer's offsets as ranges of whole characters of `text`, ascending, none empty.
///
/// Normalisation can leave an accent without an owner where it merged it into a letter. So e and
/// U+0301 become one character with the place of the e. The accent goes to the token before.
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
            _ => Err(refuse(&merges_file, format!("{} is not a merge of two tokens", crate::in_quotes(line)))),
        })
        .collect::<Result<Vec<_>>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .unk_token(files.config.unk_token.clone())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".into())
        .build()
        .map_err(|error| refuse(&merges_file, format!("does not fit vocab.json ({})", one_line(&error.to_string()))))?;

    let built_in = |error: tokenizers::Error| refuse(&merges_file, one_line(&error.to_string()));
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
    let mut pipeline = Pipeline::from_bytes(json)
        .map_err(|error| refuse(file, format!("cannot be read ({})", one_line(&error.to_string()))))?;
    pipeline.with_truncation(None).map_err(|error| refuse(file, one_line(&error.to_string())))?;
    pipeline.with_padding(None);
    Ok(pipeline)
}

fn refuse(file: &Path, reason: impl Into<String>) -> Error {
    Error::Config { file: file.to_path_buf(), reason: reason.into() }
}
