//! Seeds as they are typed: numbers, or some to be drawn.

use std::sync::OnceLock;

use attnmap::gallery::{is_random_seed, listed_seeds, random_seed};

use super::print;

/// The seed that was drawn.
static DRAWN: OnceLock<u64> = OnceLock::new();

/// Reads a seed; `random`, or -1 as other programs have it, draws one, the same for the whole
/// command.
pub fn parse(text: &str) -> Result<u64, String> {
    match text.trim() {
        text if is_random_seed(text) => Ok(*DRAWN.get_or_init(random_seed)),
        number => number.parse().map_err(|_| format!("write a number from 0 to {}, or random", u64::MAX)),
    }
}

/// Reads the list of seeds that `--seeds` gives. Each `random`, or -1, in it draws one of its own,
/// and all that were drawn are said.
pub fn list(text: &str) -> attnmap::Result<Vec<u64>> {
    let mut drawn = Vec::new();
    let mut number = |part: &str| {
        if !is_random_seed(part) {
            return part.to_owned();
        }
        let seed = random_seed().to_string();
        drawn.push(seed.clone());
        seed
    };
    let numbers: Vec<String> = text.split(',').map(&mut number).collect();
    let seeds = listed_seeds(&numbers.join(","))?;
    if !drawn.is_empty() {
        print::note(format!("--seeds random drew {}", print::some_of(&drawn)));
    }
    Ok(seeds)
}

/// Says which seed was drawn, if one was.
pub fn tell() {
    if let Some(seed) = DRAWN.get() {
        print::note(format!("--seed random drew {seed}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{list, parse};

    #[test]
    fn seeds_are_numbers_or_drawn() {
        assert_eq!((parse("0"), parse("18446744073709551615")), (Ok(0), Ok(u64::MAX)));
        let drawn = parse("random").unwrap();
        assert_eq!((parse("-1"), drawn <= u64::from(u32::MAX)), (Ok(drawn), true));
        for wrong in ["-2", "", "x", "1.5", "18446744073709551616"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_draws_each_of_its_own() {
        assert_eq!(list("0..2,5").unwrap(), [0, 1, 5]);
        let seeds = list("3, random,-1").unwrap();
        assert!(seeds.len() == 3 && seeds[0] == 3 && seeds[1] != seeds[2], "{seeds:?}");
        assert!(list("random,x").is_err() && list("random..5").is_err());
    }
}
