//! Lists of seeds as they are written: numbers and ranges.

use crate::argument::SEEDS;
use crate::{Error, Result};
use std::collections::HashSet;

/// Cells of a gallery, at most: a mistyped range should not fill a disk.
pub(super) const MOST_CELLS: usize = 1_000_000;

/// Seeds as written, separated by commas: numbers, ranges whose end is left out, like `0..8`, and
/// ranges with both ends, like `0-7`.
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
            format!("{} is no seed; write 0..8 (without 8), 0-7 (with both) or 1,5,9", crate::in_quotes(part)),
        )
    };
    let mut seeds = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong(part));
        let range = match (part.split_once(".."), part.split_once('-')) {
            (Some((from, to)), _) => Some((number(from)?, number(to)?)),
            (None, Some((from, to))) => Some((number(from)?, number(to)?.checked_add(1).ok_or_else(|| wrong(part))?)),
            (None, None) => None,
        };
        match range {
            Some((from, to)) => {
                if from >= to {
                    return Err(wrong(part));
                }
                if to - from > MOST_CELLS as u64 {
                    let reason = format!("{} are {} seeds, more than {MOST_CELLS}", crate::in_quotes(part), to - from);
                    return Err(Error::argument(SEEDS, reason + "; make the range shorter"));
                }
                seeds.extend(from..to);
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
        assert_eq!(parse_seeds("5,0,0..3,5,1").unwrap(), [5, 0, 1, 2]);
        assert_eq!(listed_seeds("0,0,1").unwrap(), [0, 0, 1]);
        for wrong in ["", "x", "3..1", "1..", "-1", "0..99999999999"] {
            assert!(parse_seeds(wrong).is_err(), "{wrong}");
        }
        let long = parse_seeds("0..99999999999").unwrap_err().to_string();
        assert!(long.contains("99999999999 seeds, more than 1000000"), "{long}");
    }
}
