//! The weights that a word is tried with, as a command line writes them: one, several or a range.

use crate::argument::WEIGHT;
use crate::{Error, Result};
use std::str::FromStr;

/// How many weights a range stands for unless said otherwise.
pub const WEIGHTS_OF_A_RANGE: usize = 5;

/// The most weights of a range.
const MOST: usize = 100;

/// A word and the weights to try it with, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct WordWeights {
    /// The word or phrase, as it was written.
    pub word: String,
    /// Its weights; 1 is the prompt as it is.
    pub weights: Vec<f32>,
}

/// `frog=0.5`, `frog=0.5,1,2`, `frog=0..2` or `frog=0-2` for five weights with both ends, or
/// `frog=0..2/9` for nine.
impl FromStr for WordWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let reason = format!(
                "{} cannot be read; write frog=0.5, or frog=0.5,1.5, or frog=0..2 for {WEIGHTS_OF_A_RANGE} weights \
                 with both ends, or frog=0..2/9 for nine",
                crate::in_quotes(text)
            );
            Error::argument(WEIGHT, reason)
        };
        let (word, weights) = text.rsplit_once('=').ok_or_else(wrong)?;
        let word = word.trim().to_owned();
        let weights = weights.split(',').map(several).collect::<Option<Vec<_>>>().ok_or_else(wrong)?.concat();
        if word.is_empty() || weights.is_empty() { Err(wrong()) } else { Ok(Self { word, weights }) }
    }
}

/// One weight or a range of weights; nothing where `text` is neither.
fn several(text: &str) -> Option<Vec<f32>> {
    let text = text.trim();
    // The first character can be a sign.
    let dash = || text.char_indices().skip(1).find(|&(_, c)| c == '-').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let Some((from, to)) = text.split_once("..").or_else(dash) else { return Some(vec![number(text)? as f32]) };
    let (to, count) = match to.split_once('/') {
        Some((to, count)) => (to, count.trim().parse().ok()?),
        None => (to, WEIGHTS_OF_A_RANGE),
    };
    let (from, to) = (number(from)?, number(to)?);
    let within = from < to && (2..=MOST).contains(&count);
    within.then(|| (0..count).map(|i| (from + (to - from) * i as f64 / (count - 1) as f64) as f32).collect())
}

/// A finite number in digits, as a person writes a weight.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = text.chars().all(|c| c.is_ascii_digit() || "+-.".contains(c));
    text.parse().ok().filter(|number: &f64| plain && (*number as f32).is_finite())
}

#[cfg(test)]
mod tests {
    use super::WordWeights;

    #[test]
    fn one_several_and_ranges_are_read_alike() {
        for (text, word, weights) in [
            ("frog=0.5", "frog", &[0.5][..]),
            ("frog = 0.5, 1 ,-2", "frog", &[0.5, 1.0, -2.0]),
            ("a=b=1", "a=b", &[1.0]),
            ("frog=0..2", "frog", &[0.0, 0.5, 1.0, 1.5, 2.0]),
            ("frog=0-2", "frog", &[0.0, 0.5, 1.0, 1.5, 2.0]),
            ("frog= -1-1/3, 2-3/2", "frog", &[-1.0, 0.0, 1.0, 2.0, 3.0]),
            ("frog=-1--0.5/2", "frog", &[-1.0, -0.5]),
            ("frog=0..1/3,2", "frog", &[0.0, 0.5, 1.0, 2.0]),
            ("frog=0.6..1/3", "frog", &[0.6, 0.8, 1.0]),
        ] {
            let found: WordWeights = text.parse().unwrap();
            assert_eq!((found.word.as_str(), found.weights.as_slice()), (word, weights), "{text}");
        }
        for wrong in [
            "frog",
            "frog=",
            "=1",
            "frog=x",
            "frog=1,",
            "frog=inf",
            "frog=nan",
            "frog=1e3",
            "frog=2..0",
            "frog=2-0",
            "frog=0-",
            "frog=-",
            "frog=1-2-3",
            "frog=0..",
            "frog=0..2/1",
            "frog=0..2/101",
            "frog=0..2/x",
            "frog=1..1",
            "frog=...",
            "frog=1e39",
        ] {
            assert!(wrong.parse::<WordWeights>().is_err(), "{wrong}");
        }
    }
}
