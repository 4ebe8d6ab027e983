//! What can be expected of an image.

use crate::Error;
use crate::argument::EXPECT;
use crate::facts::lexicon::Direction;
use crate::heatmap::{Bounds, Point};
use std::fmt;

/// A word lies in the centre when its own centre lies this near the middle of the image on both
/// axes. It is in shares of the sides: the middle ninth.
pub const CENTRE: f32 = 1.0 / 6.0;

/// What is expected of an image, as a user wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectations(pub(super) Vec<Expectation>);

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expectation {
    /// As it was written.
    pub text: String,
    /// Where each thing of `kind` begins in the list, in characters from 1.
    pub places: Vec<usize>,
    pub kind: ExpectationKind,
}

impl Expectation {
    /// The things that it names, each with its place in the list.
    pub fn things(&self) -> impl Iterator<Item = (&str, usize)> {
        self.kind.things().into_iter().zip(self.places.iter().copied())
    }
}

/// What is expected.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ExpectationKind {
    /// A thing lies to another like this.
    Relation { subject: String, relation: Direction, object: String },
    /// A thing lies on a side of the image.
    At { thing: String, side: ImageSide },
    /// A thing lies in a box.
    Within { thing: String, bounds: Bounds },
    /// A thing was drawn.
    Drawn(String),
    /// A thing was not drawn.
    Absent(String),
}

impl ExpectationKind {
    /// The things that it names.
    pub fn things(&self) -> Vec<&str> {
        match self {
            Self::Relation { subject, object, .. } => vec![subject, object],
            Self::At { thing, .. } | Self::Within { thing, .. } | Self::Drawn(thing) | Self::Absent(thing) => {
                vec![thing]
            }
        }
    }
}

/// A side of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageSide {
    Left,
    Right,
    Top,
    Bottom,
    Centre,
    TopLeft,
    TopRight,
    BottomLeft,
    BottomRight,
}

impl ImageSide {
    /// The names that are read; the first of each is its own.
    pub const NAMED: [(&str, Self); 15] = [
        ("left", Self::Left),
        ("right", Self::Right),
        ("top", Self::Top),
        ("bottom", Self::Bottom),
        ("centre", Self::Centre),
        ("center", Self::Centre),
        ("middle", Self::Centre),
        ("top left", Self::TopLeft),
        ("left top", Self::TopLeft),
        ("top right", Self::TopRight),
        ("right top", Self::TopRight),
        ("bottom left", Self::BottomLeft),
        ("left bottom", Self::BottomLeft),
        ("bottom right", Self::BottomRight),
        ("right bottom", Self::BottomRight),
    ];

    /// How far `at` lies beyond the border of this side, in shares of the image's sides: below 0 it
    /// lies on another.
    pub fn margin(self, at: Point) -> f32 {
        let (left, top) = (0.5 - at.x, 0.5 - at.y);
        match self {
            Self::Left => left,
            Self::Right => -left,
            Self::Top => top,
            Self::Bottom => -top,
            Self::Centre => CENTRE - left.abs().max(top.abs()),
            Self::TopLeft => left.min(top),
            Self::TopRight => top.min(-left),
            Self::BottomLeft => left.min(-top),
            Self::BottomRight => (-left).min(-top),
        }
    }
}

impl fmt::Display for Expectations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().map(|expectation| expectation.text.as_str()).collect();
        f.write_str(&texts.join(", "))
    }
}

/// An error on `--expect` that points at a character, counted from 1, where `what` stands.
pub(super) fn wrong(character: usize, what: &str, reason: &str) -> Error {
    Error::argument(EXPECT, format!("at character {character} ({what}): {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_halves_and_the_centre_is_the_middle_ninth() {
        let at = |x, y| Point { x, y };
        for (name, inside, outside) in [
            ("left", at(0.49, 0.9), at(0.51, 0.9)),
            ("right", at(0.51, 0.1), at(0.49, 0.1)),
            ("top", at(0.9, 0.49), at(0.9, 0.51)),
            ("bottom", at(0.1, 0.51), at(0.1, 0.49)),
            ("centre", at(0.66, 0.34), at(0.68, 0.5)),
            ("top left", at(0.4, 0.4), at(0.4, 0.6)),
            ("right top", at(0.6, 0.4), at(0.4, 0.4)),
            ("bottom left", at(0.4, 0.6), at(0.6, 0.6)),
            ("bottom right", at(0.6, 0.6), at(0.6, 0.4)),
        ] {
            let side = ImageSide::NAMED.iter().find(|(known, _)| *known == name).unwrap().1;
            assert!(side.margin(inside) >= 0.0 && side.margin(outside) < 0.0, "{name}");
        }
    }
}
