//! A seed as it is typed: a number, or one to be drawn.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::OnceLock;

use super::print;

/// The seed that was drawn.
static DRAWN: OnceLock<u64> = OnceLock::new();

/// Reads a seed; `random`, or -1 as other programs have it, draws one, the same for the whole
/// command.
pub fn parse(text: &str) -> Result<u64, String> {
    match text.trim() {
        // As many as other programs draw from: short enough to be typed again. The system's
        // randomness is what the hasher is keyed with.
        "random" | "-1" => Ok(*DRAWN.get_or_init(|| RandomState::new().hash_one(0) & u64::from(u32::MAX))),
        number => number.parse().map_err(|_| format!("write a number from 0 to {}, or random", u64::MAX)),
    }
}

/// Says which seed was drawn, if one was.
pub fn tell() {
    if let Some(seed) = DRAWN.get() {
        print::note(format!("--seed random drew {seed}"));
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn seeds_are_numbers_or_drawn() {
        assert_eq!((parse("0"), parse("18446744073709551615")), (Ok(0), Ok(u64::MAX)));
        let drawn = parse("random").unwrap();
        assert_eq!((parse("-1"), drawn <= u64::from(u32::MAX)), (Ok(drawn), true));
        for wrong in ["-2", "", "x", "1.5", "18446744073709551616"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
