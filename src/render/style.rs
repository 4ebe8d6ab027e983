//! The ways in which a map is laid over an image, by name.

use super::names::by_name;
use crate::argument::STYLE;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// How a map is laid over the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// The map's colours over a greyed image.
    #[default]
    Heat,
    /// Lines at 20, 40, 60 and 80 % of the scale, brighter as they rise, over the image as it is.
    Contour,
    /// The image where the map reaches the threshold, grey and dim elsewhere, with a line between.
    Mask,
    /// The image, lit by the map.
    Spotlight,
    /// The map's colours over the image as it is, denser as the map rises: the picture's colours
    /// and the scale's mix.
    Alpha,
}

impl Style {
    /// Every style with its name on the command line.
    pub const NAMED: [(&str, Self); 5] = [
        ("heat", Self::Heat),
        ("contour", Self::Contour),
        ("mask", Self::Mask),
        ("spotlight", Self::Spotlight),
        ("alpha", Self::Alpha),
    ];
}

impl FromStr for Style {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(STYLE, text, &Self::NAMED)
    }
}
