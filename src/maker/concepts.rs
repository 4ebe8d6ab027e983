//! Which words of a prompt are its concepts when none are named.

use crate::facts::lexicon::{Role, role};
use crate::prompt::{Syntax, word_ranges};
use crate::trace::normalized;

/// The words of `prompt` that say something: nouns, colours and the like, each once. Left out are
/// little words such as *a* and *on*, which would take their share of every place.
pub fn content_words(prompt: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in word_ranges(prompt, Syntax::default()).into_iter().map(|range| &prompt[range]) {
        let known = |other: &String| normalized(other) == normalized(word);
        if role(word) != Role::Filler && !words.iter().any(known) {
            words.push(word.to_owned());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::content_words;

    #[test]
    fn little_words_and_second_times_are_left_out() {
        assert_eq!(content_words("a red apple, on a Red frog"), ["red", "apple", "frog"]);
        assert!(content_words("a, the").is_empty());
    }
}
