//! Which files of a repository a pipeline needs.

use crate::checkpoint::config::ModelIndex;
use crate::checkpoint::part::Part;

/// Files without which nothing can be done, weights aside.
pub(super) fn required(index: &ModelIndex) -> Vec<String> {
    let mut names = vec!["scheduler/scheduler_config.json".to_string()];
    names.extend(tokenizers(index).map(|folder| format!("{folder}/tokenizer_config.json")));
    names.extend(index.parts().iter().map(|part| format!("{}/config.json", part.folder())));
    names
}

/// Files that are fetched where the repository has them.
pub(super) fn optional(index: &ModelIndex) -> Vec<String> {
    const TOKENIZER: [&str; 5] =
        ["added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "vocab.json"];
    let mut names = vec!["attnmap.json".to_string()];
    names.extend(tokenizers(index).flat_map(|folder| TOKENIZER.map(|name| format!("{folder}/{name}"))));
    names
}

/// The folders of the tokenizers: one for each text encoder.
fn tokenizers(index: &ModelIndex) -> impl Iterator<Item = &'static str> {
    index.parts().iter().filter_map(|part| match part {
        Part::TextEncoder => Some("tokenizer"),
        Part::TextEncoder2 => Some("tokenizer_2"),
        Part::TextEncoder3 => Some("tokenizer_3"),
        Part::Transformer | Part::Unet | Part::Vae => None,
    })
}

pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
