//! The tokenizer against transformers, and words against the text they came from.

use attnmap::checkpoint::{TokenizerConfig, TokenizerFiles};
use attnmap::prompt::{Prompt, Tokenizer};
use attnmap::trace::{PromptInfo, TokenKind};
use proptest::prelude::*;
use serde::Deserialize;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

fn folder(checkpoint: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(checkpoint).join("tokenizer")
}

/// The files of a tiny checkpoint's tokenizer.
fn files(checkpoint: &str) -> TokenizerFiles {
    let folder = folder(checkpoint);
    let read = |name: &str| std::fs::read(folder.join(name)).ok().map(Cow::Owned);
    let config_file = folder.join("tokenizer_config.json");
    let config = std::fs::read(&config_file).unwrap();
    TokenizerFiles {
        vocab_json: read("vocab.json"),
        merges_txt: read("merges.txt"),
        tokenizer_json: read("tokenizer.json"),
        config: TokenizerConfig::from_json((&config, &config_file), None, 77).unwrap(),
        folder,
    }
}

static SD1: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::new(&files("tiny-sd1")).unwrap());
static SD2: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::new(&files("tiny-sd2")).unwrap());

#[derive(Deserialize)]
struct Entry {
    text: String,
    #[serde(rename = "tiny-sd1")]
    sd1: Vec<u32>,
    #[serde(rename = "tiny-sd2")]
    sd2: Vec<u32>,
}

fn entries() -> Vec<Entry> {
    serde_json::from_str(include_str!("../fixtures/prompts.json")).unwrap()
}

#[test]
fn ids_are_transformers() {
    let from_both = {
        let files = TokenizerFiles { tokenizer_json: files("tiny-sd2").tokenizer_json, ..files("tiny-sd1") };
        Tokenizer::new(&files).unwrap()
    };
    // tokenizer.json says how special tokens are found in a text: this one looks for the start
    // token after lower-casing.
    let same_in_both = |text: &str| !text.contains("<|StartOfText|>");
    for entry in entries() {
        for (tokenizer, expected, pad) in
            [(&*SD1, &entry.sd1, 1474), (&*SD2, &entry.sd2, 0), (&from_both, &entry.sd1, 1474)]
        {
            if std::ptr::eq(tokenizer, &from_both) && !same_in_both(&entry.text) {
                continue;
            }
            let prompt = tokenizer.encode(&entry.text).unwrap();
            assert_eq!(prompt.ids.len(), 77);
            assert_eq!(prompt.ids[..expected.len()], expected[..], "{:?}", entry.text);
            assert!(prompt.ids[expected.len()..].iter().all(|&id| id == pad), "{:?}", entry.text);
            assert_eq!(prompt.tokens.len(), expected.len(), "{:?}", entry.text);
        }
    }
}

/// What must hold for any text.
fn check(prompt: &Prompt) {
    let text = &prompt.text;
    assert_eq!(prompt.ids.len(), 77);
    let count = prompt.tokens.len();
    assert!((2..=77).contains(&count));
    for (position, token) in prompt.tokens.iter().enumerate() {
        assert_eq!((token.index, token.id), (position, prompt.ids[position]));
        let expected = match position {
            0 => TokenKind::Start,
            last if last == count - 1 => TokenKind::End,
            _ => TokenKind::Text,
        };
        assert_eq!(token.kind, expected);
        // On character boundaries of the text, and neither empty nor white space.
        let slice = text.get(token.range.clone()).unwrap_or_else(|| panic!("{:?} {token:?}", text));
        assert_eq!(slice.is_empty(), token.kind != TokenKind::Text, "{text:?} {token:?}");
    }
    // Every token of the text is in exactly one word, which covers it.
    let mut owners = vec![0; count];
    let mut end = 0;
    for word in &prompt.words {
        assert_eq!(text.get(word.range.clone()), Some(word.text.as_str()));
        assert!(word.range.start >= end, "words overlap: {text:?}");
        end = word.range.end;
        assert!(!word.tokens.is_empty());
        for &token in &word.tokens {
            owners[token] += 1;
            let range = &prompt.tokens[token].range;
            assert!(word.range.start <= range.start && range.end <= word.range.end, "{text:?} {word:?} {range:?}");
        }
    }
    assert_eq!(owners[0] + owners[count - 1], 0);
    assert!(owners[1..count - 1].iter().all(|&owners| owners == 1), "{text:?} {owners:?}");
    // Each word is found by its own name.
    let info = PromptInfo::from(prompt);
    for word in prompt.default_words() {
        // A comma separates names, and could only be part of one by a mark on it.
        if !word.text.contains(',') {
            assert!(prompt.select(&word.label()).unwrap().contains(&word), "{text:?} {word:?}");
        }
        assert!(info.words.iter().any(|info| info.tokens == word.tokens));
    }
}

#[test]
fn odd_prompts_have_words_that_cover_their_tokens() {
    for entry in entries() {
        check(&SD1.encode(&entry.text).unwrap());
        check(&SD2.encode(&entry.text).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_has_words_that_cover_their_tokens(text in any::<String>()) {
        check(&SD1.encode(&text).unwrap());
    }

    #[test]
    fn any_mix_of_scripts_has_words_that_cover_their_tokens(
        text in "([a-zA-Z',.!# -]|[0-9]|[éüñß]|[\u{300}-\u{36f}]|[\u{900}-\u{97f}]|[\u{600}-\u{6ff}]|[一-丿]|[🐀-🐿]|\u{200d}|[\u{fe0f}\u{1f3fb}]|[\\s\u{0}-\u{1f}]){0,60}"
    ) {
        check(&SD1.encode(&text).unwrap());
        check(&SD2.encode(&text).unwrap());
    }

    /// Any choice is answered, or refused on one line.
    #[test]
    fn any_choice_is_answered(text in "[a-c ]{0,20}", choice in "([a-c]{1,2}|[ ,#0-9<>]|start|end|\\PC){0,8}") {
        let prompt = SD1.encode(&text).unwrap();
        match prompt.select(&choice) {
            Ok(words) => prop_assert!(words.iter().all(|word| !word.tokens.is_empty())),
            Err(error) => prop_assert!(error.exit_code() == 2 && !error.to_string().contains('\n')),
        }
    }

    /// A part of a word is never found in it.
    #[test]
    fn parts_of_words_are_not_words(first in "[a-z]{1,8}", second in "[a-z]{1,8}") {
        let prompt = SD1.encode(&format!("a {first}{second} here")).unwrap();
        for part in [&first, &second] {
            if !["a", "here"].contains(&part.as_str()) && *part != format!("{first}{second}") {
                prop_assert!(prompt.select(part).is_err());
            }
        }
        prop_assert_eq!(prompt.select(&format!("{first}{second}")).unwrap().len(), 1);
    }
}

fn texts(prompt: &Prompt, choice: &str) -> Result<Vec<(String, usize)>, String> {
    let words = prompt.select(choice).map_err(|error| error.to_string())?;
    Ok(words.into_iter().map(|word| (word.text, word.occurrence)).collect())
}

#[test]
fn words_phrases_and_occurrences_are_selected() {
    let prompt = SD1.encode("A red Apple, a hairclip and an apple on the BEACH").unwrap();
    let one = |text: &str, occurrence| (text.to_string(), occurrence);
    assert_eq!(texts(&prompt, "red apple,beach").unwrap(), [one("red Apple", 1), one("BEACH", 1)]);
    assert_eq!(texts(&prompt, "apple").unwrap(), [one("Apple", 1), one("apple", 2)]);
    assert_eq!(texts(&prompt, "apple#2").unwrap(), [one("apple", 2)]);
    // Also where the characters of that name stand in the prompt.
    let tricky = SD1.encode("apple apple#2").unwrap();
    assert_eq!(texts(&tricky, "apple#2").unwrap(), [one("apple", 2)]);
    assert_eq!(texts(&SD1.encode("apple#2").unwrap(), "apple#2").unwrap(), [one("apple#2", 1)]);
    assert!(
        texts(&prompt, "hair").unwrap_err().starts_with("words: \"hair\" is not in the prompt; it has: A, red, Apple")
    );
    assert_eq!(prompt.select("hairs").unwrap_err().exit_code(), 2);

    let special = prompt.select("<start>,<end>").unwrap();
    assert_eq!(special[0].tokens, [0]);
    assert_eq!(special[1].tokens, [prompt.tokens.len() - 1]);
    let words: Vec<_> = prompt.default_words().into_iter().map(|word| word.label()).collect();
    assert_eq!(words, ["A", "red", "Apple", "a#2", "hairclip", "and", "an", "apple#2", "on", "the", "BEACH"]);

    // Punctuation has no map unless it is asked for.
    let prompt = SD1.encode("wow!! a blue-eyed frog! 青蛙 🐸").unwrap();
    assert_eq!(texts(&prompt, "!!,blue-eyed,青蛙,🐸").unwrap().len(), 4);
    assert_eq!(prompt.select("!").unwrap()[0].range, 22..23);
    assert!(prompt.default_words().iter().all(|word| !word.text.contains('!')));
}

#[test]
fn words_that_do_not_fit_are_named() {
    let prompt = SD1.encode(&format!("{}frog and a hairclip", "a ".repeat(74))).unwrap();
    assert_eq!(prompt.tokens.len(), 77);
    assert_eq!(prompt.cut_off, ["and", "a", "hairclip"]);
    assert_eq!(prompt.words.last().unwrap().text, "frog");
    // A word cut in the middle is named too, and keeps the tokens that are there.
    let prompt = SD1.encode(&format!("{}hairclip", "a ".repeat(74))).unwrap();
    assert_eq!(prompt.cut_off, ["hairclip"]);
    assert_eq!(prompt.words.last().unwrap().tokens, [75]);
    assert!(SD1.encode("a red apple").unwrap().cut_off.is_empty());
}

#[test]
fn hostile_prompts_are_quick() {
    let start = Instant::now();
    for text in [
        "frog ".repeat(10_000),
        "x".repeat(100_000),
        "🐸".repeat(10_000),
        "हिन्दी में ".repeat(5_000),
        "e\u{301}".repeat(20_000),
        "!".repeat(50_000),
        "\0".repeat(10_000),
        " ".repeat(100_000),
    ] {
        let begun = Instant::now();
        let prompt = SD1.encode(&text).unwrap();
        check(&prompt);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{} took {:?}",
            &text[..text.char_indices().nth(5).unwrap().0],
            begun.elapsed()
        );
    }
    assert_eq!(SD1.encode(&"frog ".repeat(10_000)).unwrap().cut_off.len(), 10_000 - 75);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn words_outside_of_a_vocabulary_are_named() {
    let vocabulary = ["red", "apple", "frog", "Beach ball", "a"].map(String::from);
    let prompt = SD1.encode("A RED apple, a purple dog on the beach. Purple!").unwrap();
    assert_eq!(prompt.unknown_words(&vocabulary), ["purple", "dog", "on", "the"]);
}

#[test]
fn broken_tokenizers_are_refused_by_file() {
    let refused = |change: fn(&mut TokenizerFiles)| {
        let mut files = files("tiny-sd1");
        change(&mut files);
        Tokenizer::new(&files).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused(|files| files.merges_txt = None).contains("neither tokenizer.json nor vocab.json"));
    for (error, file) in [
        (refused(|files| files.vocab_json = Some(Cow::Borrowed(b"{\"a\": "))), "vocab.json: not a vocabulary"),
        (refused(|files| files.vocab_json = Some(Cow::Borrowed(b"{\"a\": 0}"))), "merges.txt: does not fit vocab.json"),
        (refused(|files| files.merges_txt = Some(Cow::Borrowed(b"a b c"))), "merges.txt: \"a b c\" is not a merge"),
        (refused(|files| files.merges_txt = Some(Cow::Borrowed(b"\xff\xfe"))), "merges.txt: not UTF-8"),
        (refused(|files| files.tokenizer_json = Some(Cow::Borrowed(b"{}"))), "tokenizer.json: not a CLIP tokenizer"),
        (refused(|files| files.tokenizer_json = Some(Cow::Borrowed(b"["))), "tokenizer.json: not valid JSON"),
        (
            refused(|files| files.config.pad_token = "<pad>".into()),
            "vocab.json: the vocabulary lacks the special token \"<pad>\"",
        ),
        (refused(|files| files.config.model_max_length = 1), "tokenizer_config.json: `model_max_length` is 1"),
    ] {
        assert!(error.contains(file) && !error.contains('\n'), "{error}");
    }
}
