//! What the user should know of a prompt before waiting for its image.

use crate::argument::{EMBEDDING, LONG, MODEL};
use crate::checkpoint::AddedWord;
use crate::pipeline::Pipeline;
use crate::prompt::{Joined, Prompt, Syntax, Unread, nearest, unread};
use crate::render::missing_glyphs;
use crate::{Result, in_quotes, printable};
use std::collections::{BTreeMap, HashSet};

/// What `texts` (prompts, and with them negative prompts) have of other programs' syntax, each kind
/// once. `has_syntax` is whether the checkpoint reads weights and chunks where it is told to.
pub fn unread_syntax<'a>(texts: impl IntoIterator<Item = &'a str>, syntax: Syntax, has_syntax: bool) -> Vec<String> {
    let mut found: Vec<Unread> = Vec::new();
    let all = texts.into_iter().flat_map(|text| unread(text, syntax));
    for unread in all.map(|unread| if has_syntax { unread } else { unread.of_plain_text() }) {
        if found.iter().all(|other| other.advice != unread.advice) {
            found.push(unread);
        }
    }
    found.iter().map(|Unread { piece, advice, .. }| format!("{} {advice}", in_quotes(piece))).collect()
}

/// What the user should know before waiting: syntax that is not read, words that were cut off,
/// words that the checkpoint does not know. Letters that no font has are named too.
///
/// # Errors
/// As [`Pipeline::probe`].
pub fn warnings(pipeline: &Pipeline, prompt: &Prompt, negative: &str, probes: &[String]) -> Result<Vec<String>> {
    let mut warnings = unread_syntax([prompt.text.as_str(), negative], prompt.syntax, !pipeline.family().flows());
    let (beside, behind) = (prompt.reading(Joined::Channels), prompt.reading(Joined::Tokens));
    if !prompt.cut_off.is_empty() {
        let tokens = behind.map_or(prompt.ids.len(), |behind| behind.ids.len());
        let words = some_of(&prompt.cut_off);
        let hint = if prompt.syntax.long || behind.is_some() || pipeline.family().flows() {
            String::new()
        } else {
            format!("; {LONG} gives it a longer prompt in chunks")
        };
        warnings
            .push(format!("the prompt is longer than {tokens} tokens; the model does not see all of: {words}{hint}"));
    }
    let unseen = beside.filter(|_| behind.is_some()).map(|second| &second.cut_off);
    if let Some(unseen) = unseen.filter(|unseen| !unseen.is_empty()) {
        let words = some_of(unseen);
        warnings.push(format!("the CLIP encoders read the first {} tokens; T5 alone sees: {words}", prompt.ids.len()));
    }
    let places = |prompt: &Prompt| prompt.own_tokens().iter().map(|token| token.range.clone()).collect::<Vec<_>>();
    if beside.is_some_and(|second| places(second) != places(prompt)) {
        warnings.push(
            "the second text encoder cuts this prompt in other places (`!` is its padding), so that one position \
            holds two words; \
             maps are of the first encoder's tokens"
                .to_owned(),
        );
    }
    if let Some(vocabulary) = &pipeline.defaults().vocabulary {
        let mut unknown = prompt.unknown_words(vocabulary);
        for probe in probes {
            let more = pipeline.probe(probe)?.unknown_words(vocabulary);
            unknown.extend(more.iter().filter(|word| !unknown.contains(word)).cloned().collect::<Vec<_>>());
        }
        if !unknown.is_empty() {
            warnings.push(never_seen(pipeline.id(), &unknown, vocabulary, &pipeline.defaults().near));
        }
    }
    let texts = [std::slice::from_ref(&prompt.text), probes].concat().join(" ");
    warnings.extend(missing_glyphs(&texts));
    Ok(warnings)
}

/// What the user should know of LoRAs and embeddings: layers that were left out, words that stand
/// in none of the `texts` of a run.
///
/// # Errors
/// As [`Pipeline::read`].
pub fn adapter_warnings(pipeline: &Pipeline, texts: &[&str], syntax: Syntax) -> Result<Vec<String>> {
    let mut warnings = pipeline.warnings().to_vec();
    let missing = pipeline.words_not_in(texts, syntax)?;
    warnings.extend(missing.into_iter().map(|word| missing_word("the prompt does not have", word)));
    Ok(warnings)
}

/// That `who` the word of an embedding.
pub fn missing_word(who: &str, AddedWord { word, file, .. }: &AddedWord) -> String {
    format!("{who} {word}, the word of {EMBEDDING} {}, which changes nothing without it", file.display())
}

/// That the checkpoint `id`, which knows `vocabulary`, never saw the words `unknown`, with the
/// nearest that it knows and the way out.
fn never_seen(id: &str, unknown: &[String], vocabulary: &[String], near: &BTreeMap<String, String>) -> String {
    let near = |word: &String| nearest(word, vocabulary, near).map(|known| format!("{known} for {}", shortened(word)));
    let near: Vec<String> = unknown.iter().filter_map(near).take(4).collect();
    let near =
        if near.is_empty() { String::new() } else { format!(" (the nearest that it knows: {})", near.join(", ")) };
    format!(
        "the checkpoint {id} is a demonstration model and never saw: {}{near}; `attnmap models {id}` lists the {} \
        words that it knows; \
         for the whole world give {MODEL} stable-diffusion-v1-5/stable-diffusion-v1-5",
        some_of(unknown),
        vocabulary.len(),
    )
}

/// The first few of `words`, each once, and how many more there are.
pub fn some_of(words: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut seen = HashSet::new();
    let words: Vec<_> = words.iter().filter(|word| seen.insert(*word)).collect();
    let mut text = words.iter().take(SHOWN).map(|word| shortened(word)).collect::<Vec<_>>().join(", ");
    if words.len() > SHOWN {
        text += &format!(" and {} more", words.len() - SHOWN);
    }
    text
}

/// `text` without control characters, which could drive the reader's terminal, and no longer than a
/// line: what is cut off ends in an ellipsis.
pub fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let line = printable(text);
    match line.char_indices().nth(MOST) {
        None => line,
        Some(_) => line.chars().take(MOST - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn long_words_end_in_an_ellipsis() {
        assert_eq!(shortened(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(shortened(&"é".repeat(61)), "é".repeat(59) + "…");
        assert_eq!(shortened("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
