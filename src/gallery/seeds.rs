//! Lists of seeds as they are written: numbers and ranges.

use crate::argument::SEEDS;
use crate::{Error, Result};
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Cells of a gallery, at most: a mistyped range should not fill a disk.
pub(super) const MOST_CELLS: usize = 1_000_000;

/// Whether `text` asks for a seed to be drawn: `random`, or -1 as other programs have it.
pub fn is_random_seed(text: &str) -> bool {
    ["random", "-1"].contains(&text.trim())
}

/// A seed that is drawn anew, as large as other programs draw: short enough to be typed again.
pub fn random_seed() -> u64 {
    // The system's randomness is what the hasher is keyed with, each time another.
    RandomState::new().hash_one(0) & u64::from(u32::MAX)
}

/// Seeds as written, separated by commas: numbers, ranges whose end is left out, like `0..8`, and
/// ranges with both ends, like `0-7`. Each `random`, or -1, is one that is drawn.
///
/// A seed that is given twice counts once.
///
/// # Errors
/// [`Error::Argument`] on `seeds`.
pub fn parse_seeds(text: &str) -> Result<Vec<u64>> {
    let mut seen = HashSet::new();
    Ok(listed_seeds(text)?.into_iter().filter(|seed| seen.insert(*seed)).collect())
}

/// As [`parse_seeds`], with each seed as often as it is given.
///
/// # Errors
/// As [`parse_seeds`].
pub fn listed_seeds(text: &str) -> Result<Vec<u64>> {
    let wrong = |part: &str| {
        Error::argument(
            SEEDS,
            format!("{} is no seed; write 0..8 (without 8), 0-7 (with both), 1,5,9 or random", crate::in_quotes(part)),
        )
    };
    let mut seeds = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        if is_random_seed(part) {
            seeds.push(random_seed());
            continue;
        }
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong(part));
        let range = match (part.split_once(".."), part.split_once('-')) {
            (Some((from, to)), _) => Some((number(from)?, number(to)?.checked_sub(1).ok_or_else(|| wrong(part))?)),
            (None, Some((from, to))) => Some((number(from)?, number(to)?)),
            (None, None) => None,
        };
        match range {
            Some((from, last)) => {
                if from > last {
                    return Err(wrong(part));
                }
                // Of all seeds there are one more than fit into 64 bits.
                let count = u128::from(last - from) + 1;
                if count > MOST_CELLS as u128 {
                    let reason = format!("{} are {count} seeds, more than {MOST_CELLS}", crate::in_quotes(part));
                    return Err(Error::argument(SEEDS, reason + "; make the range shorter"));
                }
                seeds.extend(from..=last);
            }
            None => seeds.push(number(part)?),
        }
    }
    if seeds.is_empty() { Err(wrong(text)) } else { Ok(seeds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbers_and_ranges() {
        assert_eq!(parse_seeds("0..3, 7,10..12").unwrap(), [0, 1, 2, 7, 10, 11]);
        assert_eq!(parse_seeds("0-2,7, 10-11").unwrap(), [0, 1, 2, 7, 10, 11], "A-B has both ends");
        let last = format!("{}-{}", u64::MAX - 1, u64::MAX);
        assert_eq!(parse_seeds(&last).unwrap(), [u64::MAX - 1, u64::MAX]);
        assert_eq!(parse_seeds("5,0,0..3,5,1").unwrap(), [5, 0, 1, 2]);
        assert_eq!(listed_seeds("0,0,1").unwrap(), [0, 0, 1]);
        for wrong in ["", "x", "3..1", "1..", "-2", "random..5", "0..-1", "0..99999999999"] {
            assert!(parse_seeds(wrong).is_err(), "{wrong}");
        }
        let long = parse_seeds("0..99999999999").unwrap_err().to_string();
        assert!(long.contains("99999999999 seeds, more than 1000000"), "{long}");
    }

    #[test]
    fn each_random_seed_of_a_list_is_one_of_its_own() {
        let seeds = listed_seeds("random, 7,-1,random").unwrap();
        assert_eq!((seeds.len(), seeds[1]), (4, 7));
        let drawn = [seeds[0], seeds[2], seeds[3]];
        assert!(drawn.iter().all(|seed| *seed <= u64::from(u32::MAX)), "{drawn:?}");
        // Of three among four billion, two are the same in less than one of a billion lists.
        assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[0] != drawn[2], "{drawn:?}");
    }
}
