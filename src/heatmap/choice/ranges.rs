//! Which heads and which steps a heat map is made of.

use crate::argument::{HEADS, STEPS_WINDOW};
use crate::{Error, Result};
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

/// A choice of heads, `0-3,7`: numbers from 0, ranges with both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSet(Vec<RangeInclusive<usize>>);

impl HeadSet {
    /// Whether `head` is chosen.
    pub fn contains(&self, head: usize) -> bool {
        self.0.iter().any(|range| range.contains(&head))
    }

    /// The highest head that is named.
    pub fn highest(&self) -> usize {
        self.0.iter().map(|range| *range.end()).max().unwrap_or(0)
    }
}

impl FromStr for HeadSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::argument(HEADS, format!("{} is no choice of heads; write 0-3,7", crate::in_quotes(text)));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let range = |part: &str| -> Result<_> {
            let (first, last) = match part.split_once("..") {
                Some((first, end)) => (number(first)?, number(end)?.checked_sub(1).ok_or_else(wrong)?),
                None => {
                    let (first, last) = part.split_once('-').unwrap_or((part, part));
                    (number(first)?, number(last)?)
                }
            };
            if first <= last { Ok(first..=last) } else { Err(wrong()) }
        };
        Ok(Self(text.split(',').map(range).collect::<Result<_>>()?))
    }
}

impl fmt::Display for HeadSet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match range.start() == range.end() {
                true => write!(f, "{comma}{}", range.start())?,
                false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

/// A part of the run: `0.2..0.8` as shares of it, or `1-20` as step numbers from 1 with both ends.
#[derive(Debug, Clone, PartialEq)]
pub enum StepWindow {
    /// From and to, each 0 to 1; rounded to whole steps, at least one.
    Shares(f64, f64),
    /// First and last step, from 1.
    Numbers(usize, usize),
}

impl StepWindow {
    /// The steps of a run of `count` steps, from 0.
    ///
    /// # Errors
    /// [`Error::Argument`] when the window names steps that the run does not have.
    pub fn resolve(&self, count: usize) -> Result<Range<usize>> {
        match *self {
            Self::Shares(from, to) => {
                let at = |share: f64| (share * count as f64).round() as usize;
                let start = at(from).min(count.saturating_sub(1));
                Ok(start..at(to).clamp(start + 1, count.max(start + 1)))
            }
            Self::Numbers(first, last) if (1..=last).contains(&first) && last <= count => Ok(first - 1..last),
            Self::Numbers(..) => {
                Err(Error::argument(STEPS_WINDOW, format!("{self} goes beyond the run, which has steps 1-{count}")))
            }
        }
    }
}

impl FromStr for StepWindow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let reason = format!(
                "{} is no window; write shares of the run, like 0.2..0.8, or step numbers, like 1-20",
                crate::in_quotes(text)
            );
            Error::argument(STEPS_WINDOW, reason)
        };
        // No step is a fraction: `0.2-0.8` are shares too.
        let dash = || text.split_once('-').filter(|_| text.contains('.'));
        if let Some((from, to)) = text.split_once("..").or_else(dash) {
            let share = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
            let (from, to) = (share(from)?, share(to)?);
            return if 0.0 <= from && from < to && to <= 1.0 { Ok(Self::Shares(from, to)) } else { Err(wrong()) };
        }
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if 1 <= first && first <= last { Ok(Self::Numbers(first, last)) } else { Err(wrong()) }
    }
}

impl fmt::Display for StepWindow {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Shares(from, to) => write!(f, "{from}..{to}"),
            Self::Numbers(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_resolve_to_steps() {
        let window = |text: &str, count| text.parse::<StepWindow>().unwrap().resolve(count);
        assert_eq!(window("0.2..0.8", 50).unwrap(), 10..40);
        assert_eq!(window("0..1", 7).unwrap(), 0..7);
        assert_eq!(window("0.99..1", 4).unwrap(), 3..4);
        assert_eq!(window("0..0.01", 4).unwrap(), 0..1);
        assert_eq!(window("1-20", 20).unwrap(), 0..20);
        assert_eq!(window("3", 20).unwrap(), 2..3);
        assert_eq!(window("0.2-0.8", 50).unwrap(), 10..40);
        assert_eq!(window("0-0.5", 50).unwrap(), 0..25);
        assert!(window("1-21", 20).is_err());
        // As who uses the library may ask.
        for wrong in [StepWindow::Numbers(0, 3), StepWindow::Numbers(0, 0), StepWindow::Numbers(3, 2)] {
            assert!(wrong.resolve(20).is_err(), "{wrong}");
        }
        for wrong in ["", "0-3", "5-3", "0.8..0.2", "0..2", "a..b", "-1", "nan..1", "0.8-0.2", "1.5", "1.5-3", "0-1"] {
            assert!(wrong.parse::<StepWindow>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn heads_are_numbers_and_ranges() {
        let heads: HeadSet = "0-3,7".parse().unwrap();
        assert_eq!((0..9).filter(|&head| heads.contains(head)).collect::<Vec<_>>(), [0, 1, 2, 3, 7]);
        assert_eq!(heads.to_string(), "0-3,7");
        assert_eq!("0..4,7".parse::<HeadSet>().unwrap(), heads, "A..B leaves out its end");
        for wrong in ["", "3-1", "3..3", "0..0", "a", "1,,2", "-"] {
            assert!(wrong.parse::<HeadSet>().is_err(), "{wrong}");
        }
    }
}
