//! CLIP's vocabulary, which single files leave out because it never changes: 49,408 tokens, made
//! from the list of merges.

use flate2::read::GzDecoder;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io::Read;
use std::sync::OnceLock;

/// The 48,894 merges that CLIP uses, best first, one per line (Radford et al. 2021; MIT,
/// `models/clip/LICENSE`).
static MERGES: &[u8] = include_bytes!("../../../models/clip/merges.txt.gz");

/// Tokens of the vocabulary.
pub(super) const TOKENS: usize = 49_408;

/// `merges.txt` as a tokenizer folder has it.
pub(super) fn merges_txt() -> Cow<'static, [u8]> {
    Cow::Borrowed(merges().as_bytes())
}

/// `vocab.json` as a tokenizer folder has it.
///
/// Ids are counted as OpenAI's `simple_tokenizer.py` does: each byte, each byte at the end of a
/// word, what each merge gives, start and end.
pub(super) fn vocab_json() -> Cow<'static, [u8]> {
    let letters: Vec<String> = bytes().map(String::from).collect();
    let endings = letters.iter().map(|letter| format!("{letter}</w>"));
    let merged = merges().lines().map(|merge| merge.replacen(' ', "", 1));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
    let tokens = letters.iter().cloned().chain(endings).chain(merged).chain(special);
    let vocabulary: Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, Value::from(id))).collect();
    Cow::Owned(Value::Object(vocabulary).to_string().into_bytes())
}

fn merges() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut text = String::new();
        GzDecoder::new(MERGES).read_to_string(&mut text).expect("the built-in list is whole");
        text
    })
}

/// The character that stands for each byte, in the vocabulary's order. Printable bytes are
/// themselves and come first. The others follow as U+0100 and on (GPT-2's `bytes_to_unicode`).
fn bytes() -> impl Iterator<Item = char> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..256u32).filter(move |byte| !printable(*byte)).count() as u32;
    (0..256u32).filter(move |byte| printable(*byte)).chain(0x100..0x100 + others).filter_map(char::from_u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_an_id_of_its_own() {
        let vocabulary: Map<String, Value> = serde_json::from_slice(&vocab_json()).unwrap();
        assert_eq!(vocabulary.len(), TOKENS);
        // As in openai/clip-vit-large-patch14.
        for (token, id) in [("!", 0), ("!</w>", 256), ("in", 512), ("frog</w>", 11_438), ("<|endoftext|>", 49_407)] {
            assert_eq!(vocabulary[token], id, "{token}");
        }
    }
}
