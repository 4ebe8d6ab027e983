//! Textual-inversion embeddings (Gal et al. 2022): small files that teach the text encoder a word
//! of one or more vectors.
//!
//! The vectors become rows below the encoder's token embedding, and the tokenizer reads the word as
//! their ids, as diffusers' `loaders/textual_inversion.py` (0.42) does.

use super::weights::{Rows, TensorChange, WeightFile};
use super::{adapter, lora};
use crate::argument::EMBEDDING;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// An embedding that the user names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// The safetensors file, a folder that holds one, or one on the hub (see
    /// [`Source`](super::Source)).
    pub file: PathBuf,
    /// The word that stands for it in prompts; else the one that the file names, else the file's
    /// own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word: Option<String>,
}

impl FromStr for Embedding {
    type Err = String;

    /// `FILE.safetensors` or `FILE.safetensors:WORD`, where the file may also be a folder or a
    /// repository that holds one.
    fn from_str(text: &str) -> Result<Self, String> {
        const END: &str = ".safetensors";
        let word = match text.rfind(END).map(|at| at + END.len()) {
            // A file on the hub may have a revision after its name, and its address a question.
            Some(end) if text[end..].starts_with([':', '@', '?']) => text[end..].find(':').map(|at| end + at),
            Some(_) => None,
            // The colon after a drive's letter, or of an address, is none before a word.
            None => {
                text.rfind(':').filter(|&at| at > 1 && !text[at..].starts_with(":/") && !text[at..].starts_with(":\\"))
            }
        };
        let (file, word) = match word {
            Some(at) => (&text[..at], Some(text[at + 1..].to_string())),
            None => (text, None),
        };
        match word.as_deref().unwrap_or("word").trim().is_empty() || file.is_empty() {
            true => Err("write FILE.safetensors or FILE.safetensors:WORD".into()),
            false => Ok(Self { file: file.into(), word }),
        }
    }
}

impl fmt::Display for Embedding {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.word {
            Some(word) => write!(f, "{}:{word}", self.file.display()),
            None => self.file.display().fmt(f),
        }
    }
}

/// A word that an embedding adds to the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedWord {
    /// As it is written in prompts, upper and lower case alike.
    pub word: String,
    /// Its rows in the text encoder's token embedding, one after the other.
    pub ids: Vec<u32>,
    /// The file that teaches it, as the user named it.
    pub file: PathBuf,
}

/// A text encoder that takes embeddings.
pub(super) struct EmbeddingTarget<'a> {
    /// Its folder in the diffusers layout.
    pub(super) folder: &'static str,
    /// Width of its token embedding.
    pub(super) width: usize,
    /// Rows of its token embedding.
    pub(super) vocab_size: &'a mut usize,
}

/// Vectors of one word: more would leave no room in the 77 tokens of a prompt.
const MOST: usize = 75;

impl Embedding {
    /// Adds the vectors to `changes` and to the vocabulary of `targets`; gives back the word and
    /// the file.
    ///
    /// # Errors
    /// [`Error::Weights`] naming what is no embedding, or is one for another text encoder.
    pub(super) fn changes(
        &self,
        targets: &mut [EmbeddingTarget],
        changes: &mut lora::WeightDeltas,
    ) -> Result<(AddedWord, Arc<WeightFile>)> {
        let file = adapter::open(&self.file, adapter::EMBEDDING.argument)?;
        let fault = |reason: String| Err(file.fault(reason));
        let names: Vec<&str> = file.names().collect();
        // By encoder: SDXL's have a tensor for each of its two.
        let (tensors, named): (Vec<&str>, Option<&str>) = match names.as_slice() {
            ["clip_g", "clip_l"] => (vec!["clip_l", "clip_g"], None),
            // diffusers' training script for SDXL.
            ["text_encoders_0", "text_encoders_1"] => (names.clone(), None),
            [only @ ("emb_params" | "clip_l" | "clip_g")] => (vec![only], None),
            // The web UI calls every embedding `*`.
            [only] => (vec![only], Some(*only).filter(|name| *name != "*")),
            _ => return fault("is no embedding (one tensor of vectors, or clip_l and clip_g, is)".into()),
        };
        if tensors.len() != targets.len() {
            let (kind, other) =
                ("it is for Stable Diffusion 1 or 2", "it is for SDXL, whose two text encoders it teaches");
            return fault(format!(
                "has vectors for {} text encoder{}, where the checkpoint has {}; {}",
                tensors.len(),
                if tensors.len() == 1 { "" } else { "s" },
                targets.len(),
                if tensors.len() == 1 { kind } else { other },
            ));
        }
        let mut counts = Vec::new();
        for (name, target) in tensors.iter().zip(targets.iter()) {
            let shape = file.info(name).map_or(&[][..], |info| &info.shape);
            let (count, width) = match shape {
                [width] => (1, *width),
                [count, width] => (*count, *width),
                _ => return fault(format!("tensor `{name}` has shape {shape:?}, which is no list of vectors")),
            };
            if width != target.width {
                return fault(format!(
                    "its vectors have {width} numbers, and {} takes {}; it is for another kind of checkpoint",
                    target.folder, target.width
                ));
            }
            counts.push(count);
        }
        let count = counts[0];
        if count == 0 || count > MOST || counts.iter().any(|other| *other != count) {
            return fault(format!("has {counts:?} vectors; 1 to {MOST} are, and equally many for each text encoder"));
        }
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        let word = self.word.clone().unwrap_or_else(|| named.map_or_else(|| stem.into_owned(), String::from));
        if word.trim().is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Error::argument(
                EMBEDDING,
                format!("{} is no word; write FILE.safetensors:WORD", crate::in_quotes(word)),
            ));
        }
        let first = *targets[0].vocab_size;
        for (name, target) in tensors.iter().zip(targets.iter_mut()) {
            if *target.vocab_size != first {
                return fault("the checkpoint's text encoders have vocabularies of different sizes".into());
            }
            let rows = TensorChange::Rows(Rows { file: file.clone(), name: name.to_string(), count });
            changes.entry(target.folder).or_default().entry(TABLE.into()).or_default().push(rows);
            *target.vocab_size += count;
        }
        let ids = (first..first + count).map(|id| id as u32).collect();
        Ok((AddedWord { word, ids, file: self.file.clone() }, file))
    }
}

/// The token embedding's name.
const TABLE: &str = "text_model.embeddings.token_embedding.weight";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_may_follow_the_file() {
        let parse = |text: &str| text.parse::<Embedding>();
        let embedding =
            |file: &str, word: Option<&str>| Ok(Embedding { file: file.into(), word: word.map(String::from) });
        assert_eq!(parse("a.safetensors"), embedding("a.safetensors", None));
        assert_eq!(parse("c:/a.safetensors:<cat:1>"), embedding("c:/a.safetensors", Some("<cat:1>")));
        assert!(parse("").is_err() && parse("a.safetensors:").is_err());
        assert_eq!(parse("folder:<cat>"), embedding("folder", Some("<cat>")));
        assert_eq!(parse("owner/name@v1:<cat>"), embedding("owner/name@v1", Some("<cat>")));
        assert_eq!(parse("c:/folder"), embedding("c:/folder", None));
        assert_eq!(parse("c:\\folder"), embedding("c:\\folder", None));
        let site = "https://huggingface.co/owner/name";
        assert_eq!(parse(site), embedding(site, None));
        let file = format!("{site}/resolve/main/x.safetensors?download=true");
        assert_eq!(parse(&format!("{file}:<cat>")), embedding(&file, Some("<cat>")));
    }
}
