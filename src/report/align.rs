//! Which word of one prompt corresponds to which of another.

use crate::trace::normalized;
use serde::Serialize;
use similar::{Algorithm, DiffOp, capture_diff_slices};

/// How a word of one prompt stands to the other prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// The same word in both, in the same order.
    Same,
    /// Another word in the same place.
    Replaced,
    /// Only in the first prompt.
    OnlyA,
    /// Only in the second prompt.
    OnlyB,
}

/// A word of the first prompt, of the second, or of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Position among the first run's words.
    pub a: Option<usize>,
    /// Position among the second run's words.
    pub b: Option<usize>,
    /// How they correspond.
    pub kind: Match,
}

/// Aligns two word lists: the longest common subsequence (letter case and Unicode form aside) is
/// the same. Between its words, as many as both sides have are replaced in order. The rest stand on
/// one side alone.
pub fn align<S: AsRef<str>>(a: &[S], b: &[S]) -> Vec<Pair> {
    let a: Vec<String> = a.iter().map(|word| normalized(word.as_ref())).collect();
    let b: Vec<String> = b.iter().map(|word| normalized(word.as_ref())).collect();
    let (mut left, mut right) = (Vec::new(), Vec::new()); // of the gap that is open
    let mut pairs = Vec::new();
    let close = |left: &mut Vec<usize>, right: &mut Vec<usize>, pairs: &mut Vec<Pair>| {
        let both = left.len().min(right.len());
        for (&a, &b) in left.iter().zip(right.iter()) {
            pairs.push(Pair { a: Some(a), b: Some(b), kind: Match::Replaced });
        }
        pairs.extend(left.drain(..).skip(both).map(|a| Pair { a: Some(a), b: None, kind: Match::OnlyA }));
        pairs.extend(right.drain(..).skip(both).map(|b| Pair { a: None, b: Some(b), kind: Match::OnlyB }));
    };
    for change in capture_diff_slices(Algorithm::Lcs, &a, &b) {
        if let DiffOp::Equal { old_index, new_index, len } = change {
            close(&mut left, &mut right, &mut pairs);
            let same = |at| Pair { a: Some(old_index + at), b: Some(new_index + at), kind: Match::Same };
            pairs.extend((0..len).map(same));
        } else {
            left.extend(change.old_range());
            right.extend(change.new_range());
        }
    }
    close(&mut left, &mut right, &mut pairs);
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(a: &str, b: &str) -> Vec<(Option<usize>, Option<usize>, Match)> {
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<String>>();
        align(&words(a), &words(b)).into_iter().map(|p| (p.a, p.b, p.kind)).collect()
    }

    #[test]
    fn replaced_added_and_missing_words() {
        use Match::{OnlyA, OnlyB, Replaced, Same};
        assert_eq!(
            kinds("a Red apple", "a red pear"),
            [(Some(0), Some(0), Same), (Some(1), Some(1), Same), (Some(2), Some(2), Replaced)]
        );
        assert_eq!(
            kinds("a frog", "a big green frog"),
            [(Some(0), Some(0), Same), (None, Some(1), OnlyB), (None, Some(2), OnlyB), (Some(1), Some(3), Same)]
        );
        assert_eq!(
            kinds("frog on the beach", "the beach"),
            [(Some(0), None, OnlyA), (Some(1), None, OnlyA), (Some(2), Some(0), Same), (Some(3), Some(1), Same)]
        );
        assert_eq!(kinds("", "x"), [(None, Some(0), OnlyB)]);
        assert!(kinds("", "").is_empty());
    }

    #[test]
    fn every_word_stands_in_exactly_one_pair() {
        let pairs = kinds("a b c a b", "b a c d a");
        let mut a: Vec<_> = pairs.iter().filter_map(|p| p.0).collect();
        let mut b: Vec<_> = pairs.iter().filter_map(|p| p.1).collect();
        a.sort_unstable();
        b.sort_unstable();
        assert_eq!((a, b), ((0..5).collect(), (0..5).collect()));
    }
}
