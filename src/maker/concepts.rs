//! Which words are the concepts of a run, named or not.

use crate::argument::{CONCEPTS, PROBE};
use crate::facts::lexicon::{Role, role};
use crate::pipeline::{Pipeline, concepts_of};
use crate::prompt::{Prompt, Syntax, word_ranges};
use crate::trace::{PromptInfo, normalized};
use crate::{Error, Result};

/// The words of `prompt` that say something: nouns, colours and the like, each once. Left out are
/// little words such as *a* and *on*, which would take their share of every place.
fn content_words<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for word in words {
        let known = |other: &String| normalized(other) == normalized(word);
        if role(word) != Role::Filler && !kept.iter().any(known) {
            kept.push(word.to_owned());
        }
    }
    kept
}

/// The concepts that a run of `prompt` keeps; none where it keeps none. `named` is what
/// `concepts` names: no word where it stands alone, and `None` where it is not given. Without
/// names they are the prompt's words that say something. In joint attention `probes` bring those
/// with them.
///
/// # Errors
/// [`Error::Argument`] on `concepts` where attention is not joint, for a word that the prompt does
/// not have, and where it has none that says something.
pub fn concepts_of_run(
    pipeline: &Pipeline,
    prompt: &Prompt,
    named: Option<&[String]>,
    probes: &[String],
) -> Result<Vec<String>> {
    let words = prompt.default_words();
    let own = || content_words(words.iter().map(|word| word.text.as_str()));
    let Some(named) = named else {
        let asked = pipeline.has_joint_attention() && !probes.is_empty();
        return Ok(if asked { own() } else { Vec::new() });
    };
    pipeline.check_joint(true, false)?;
    let concepts = match named {
        [] => own(),
        named => concepts_of(&PromptInfo::from(prompt), named)?,
    };
    if concepts.is_empty() {
        let reason = format!("the prompt has no word that says something; name some, like {CONCEPTS}=apple,frog");
        return Err(Error::argument(CONCEPTS, reason));
    }
    check_rivals(&concepts, probes)?;
    Ok(concepts)
}

/// Refuses a concept that no other competes with: each place is shared out among them, so that it
/// would have all of every place.
fn check_rivals(concepts: &[String], probes: &[String]) -> Result<()> {
    let first = normalized(&concepts[0]);
    if concepts.iter().chain(probes).any(|other| normalized(other) != first) {
        return Ok(());
    }
    let reason = format!(
        "{} alone would have every place, as concepts share places out; name a second, or a rival with \
         {PROBE} background",
        crate::in_quotes(&concepts[0])
    );
    Err(Error::argument(CONCEPTS, reason))
}

/// The texts that such a run of `prompt` reads, as far as they are known before its checkpoint is:
/// the prompt first.
pub fn texts_of_run(prompt: &str, named: Option<&[String]>, probes: &[String]) -> Vec<String> {
    let own = match named.is_some() || !probes.is_empty() {
        true => content_words(word_ranges(prompt, Syntax::default()).into_iter().map(|range| &prompt[range])),
        false => Vec::new(),
    };
    let named = named.unwrap_or_default().iter().cloned();
    std::iter::once(prompt.to_owned()).chain(named).chain(own).chain(probes.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concept_needs_a_rival() {
        let list = |text: &str| -> Vec<String> { text.split_whitespace().map(String::from).collect() };
        for (concepts, probes, fine) in
            [("frog", "", false), ("frog Frog", "frog", false), ("frog", "background", true), ("red frog", "", true)]
        {
            assert_eq!(check_rivals(&list(concepts), &list(probes)).is_ok(), fine, "{concepts}; {probes}");
        }
        assert!(check_rivals(&list("frog"), &[]).unwrap_err().to_string().contains("alone would have every place"));
    }

    #[test]
    fn little_words_and_second_times_are_left_out() {
        let words = |text: &str| texts_of_run(text, Some(&[]), &[]).split_off(1);
        assert_eq!(words("a red apple, on a Red frog"), ["red", "apple", "frog"]);
        assert!(words("a, the").is_empty());
    }
}
