//! How much of an effect each word owes: Shapley values by sampling permutations.
//!
//! Shapley (1953); the sampling is Castro, Gómez and Tejada (2009). The players are words. The
//! value of a set of words is any number, usually how far the prediction moves when only they are
//! left in the prompt.

use crate::Result;
use rand_mt::Mt;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The most words that are asked about at once.
pub const MOST: usize = 8;

/// A set of words: bit i for word i.
pub type Coalition = u32;

/// What [`shapley`] found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shapley {
    /// The value of each word: they sum to what all words together add (to rounding).
    pub values: Vec<f64>,
    /// The standard error of each value from its spread over the permutations. It is 0 when every
    /// set was evaluated, and absent when a single pair of permutations was affordable.
    pub errors: Vec<Option<f64>>,
    /// Permutations that were drawn; 0 when every set was evaluated.
    pub permutations: usize,
    /// Different sets that were evaluated.
    pub evaluations: usize,
}

/// The Shapley values of `words` words under `value`. It is asked for several sets at once, so that
/// it can evaluate them in one batch, and for no set twice.
///
/// When `budget` pays for all 2^words sets the values are exact. Else permutations are drawn by
/// Fisher and Yates with MT19937 seeded with `seed`, each followed by its reverse (antithetic
/// sampling). Drawing ends where the next pair would exceed the budget, but never before one pair.
///
/// # Errors
/// Those of `value`.
///
/// # Panics
/// When there are more than 20 words, or `value` answers with another number of values than it was
/// asked for.
pub fn shapley(
    words: usize,
    budget: usize,
    seed: u32,
    value: &mut dyn FnMut(&[Coalition]) -> Result<Vec<f64>>,
) -> Result<Shapley> {
    assert!(words <= 20);
    if budget >= 1 << words {
        let all: Vec<Coalition> = (0..1 << words).collect();
        let known = value(&all)?;
        assert_eq!(known.len(), all.len());
        return Ok(exact(words, &known));
    }
    let mut known: HashMap<Coalition, f64> = HashMap::new();
    let mut generator = Mt::new(seed);
    // One contribution per word and pair: the pairs are independent of each other, the two of a
    // pair are not.
    let mut pairs: Vec<Vec<f64>> = Vec::new();
    loop {
        let order = permutation(words, &mut generator);
        let orders = [order.clone(), order.into_iter().rev().collect()];
        let mut asked: Vec<Coalition> = Vec::new();
        for set in orders.iter().flat_map(|order| prefixes(order)) {
            if !known.contains_key(&set) && !asked.contains(&set) {
                asked.push(set);
            }
        }
        // Where the same few sets come again and again, more permutations add little: the second
        // limit ends that.
        if !pairs.is_empty() && (known.len() + asked.len() > budget || pairs.len() >= 4 * budget.max(1)) {
            break;
        }
        if !asked.is_empty() {
            let answers = value(&asked)?;
            assert_eq!(answers.len(), asked.len());
            known.extend(asked.into_iter().zip(answers));
        }
        let mut pair = vec![0.0; words];
        for order in &orders {
            let mut before = 0;
            for &word in order {
                let after = before | 1 << word;
                pair[word] += (known[&after] - known[&before]) / 2.0;
                before = after;
            }
        }
        pairs.push(pair);
    }
    let count = pairs.len() as f64;
    let mean = |word: usize| pairs.iter().map(|pair| pair[word]).sum::<f64>() / count;
    let values: Vec<f64> = (0..words).map(mean).collect();
    let error = |word: usize| {
        let squares: f64 = pairs.iter().map(|pair| (pair[word] - values[word]).powi(2)).sum();
        (pairs.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt())
    };
    let errors = (0..words).map(error).collect();
    Ok(Shapley { values, errors, permutations: 2 * pairs.len(), evaluations: known.len() })
}

/// Shapley's own formula, with the value of every set in `known`.
fn exact(words: usize, known: &[f64]) -> Shapley {
    // A word joins a set of `size` others with probability size! (words - size - 1)! / words!.
    let mut weight = vec![1.0 / words.max(1) as f64; words.max(1)];
    for size in 1..words {
        weight[size] = weight[size - 1] * size as f64 / (words - size) as f64;
    }
    let value = |word: usize| {
        let others = (0..known.len()).filter(|set| set >> word & 1 == 0);
        others.map(|set| weight[set.count_ones() as usize] * (known[set | 1 << word] - known[set])).sum::<f64>()
    };
    let values = (0..words).map(value).collect();
    Shapley { values, errors: vec![Some(0.0); words], permutations: 0, evaluations: known.len() }
}

fn permutation(words: usize, generator: &mut Mt) -> Vec<usize> {
    let mut order: Vec<usize> = (0..words).collect();
    for last in (1..words).rev() {
        let other = (u64::from(generator.next_u32()) * (last as u64 + 1)) >> 32;
        order.swap(last, other as usize);
    }
    order
}

/// The empty set, then the words of `order` one after the other.
fn prefixes(order: &[usize]) -> Vec<Coalition> {
    let mut sets = vec![0];
    for &word in order {
        sets.push(sets.last().copied().unwrap_or(0) | 1 << word);
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: usize, budget: usize, mut value: impl FnMut(Coalition) -> f64) -> Shapley {
        shapley(words, budget, 3, &mut |sets| Ok(sets.iter().map(|&set| value(set)).collect())).unwrap()
    }

    #[test]
    fn an_additive_game_is_solved_exactly() {
        let worth = [1.0, -2.0, 0.5, 4.0];
        let add = |set: Coalition| (0..4).filter(|word| set >> word & 1 == 1).map(|word| worth[word]).sum();
        let sampled = of(4, 10, add);
        assert!(sampled.permutations >= 2);
        assert_eq!(sampled.values, worth);
        for (found, worth) in of(4, 16, add).values.iter().zip(worth) {
            assert!((found - worth).abs() < 1e-12);
        }
    }

    #[test]
    fn the_glove_game() {
        // Words 0 and 1 are left gloves, word 2 the right one; a pair is worth 1: (1/6, 1/6, 2/3).
        let gloves = |set: Coalition| if set & 0b100 != 0 && set & 0b011 != 0 { 1.0 } else { 0.0 };
        for (value, expected) in of(3, 8, gloves).values.iter().zip([1.0 / 6.0, 1.0 / 6.0, 2.0 / 3.0]) {
            assert!((value - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn sampling_comes_as_near_as_its_error_says() {
        // Pairs of words that need each other, and some that do not.
        let game = |set: Coalition| {
            let has = |word: u32| f64::from(set >> word & 1);
            3.0 * has(0) * has(1) + has(2) - 2.0 * has(3) * has(4) * has(0) + 0.5 * has(6) * has(7)
        };
        let (sampled, exact) = (of(8, 200, game), of(8, 256, game));
        for word in 0..8 {
            let (error, off) = (sampled.errors[word].unwrap(), (sampled.values[word] - exact.values[word]).abs());
            assert!(error < 0.2 && off <= 4.0 * error + 1e-9, "word {word}: off by {off}, error {error}");
        }
        assert!((sampled.values.iter().sum::<f64>() - game(0xff)).abs() < 1e-9);
    }

    #[test]
    fn the_budget_holds_and_no_set_is_asked_twice() {
        let mut asked = std::collections::HashSet::new();
        let found = of(8, 60, |set| {
            assert!(asked.insert(set));
            f64::from(set.count_ones()).powi(2)
        });
        assert!(found.evaluations <= 60 && found.permutations >= 2);
        assert!((found.values.iter().sum::<f64>() - 64.0).abs() < 1e-9);
    }

    #[test]
    fn no_words_no_values() {
        assert!(of(0, 10, |_| 0.0).values.is_empty());
    }
}
