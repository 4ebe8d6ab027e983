//! Colour scales from 0 to 1.

use super::names::by_name;
use crate::argument::COLORMAP;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A perceptual colour scale. All but `turbo` rise evenly in lightness, so that they survive
/// greyscale printing and colour-blind eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colormap {
    /// Black, purple, orange, cream (matplotlib).
    #[default]
    Magma,
    /// Black, red, yellow (matplotlib).
    Inferno,
    /// Purple, green, yellow (matplotlib).
    Viridis,
    /// Blue, pink, yellow (matplotlib).
    Plasma,
    /// Blue to yellow, for colour-blind eyes (Nuñez et al. 2018).
    Cividis,
    /// Rainbow without bands (Mikhailov 2019); not even in lightness.
    Turbo,
    /// Black to white.
    Grey,
}

impl Colormap {
    /// Every colormap with its name on the command line.
    pub const NAMED: [(&str, Self); 7] = [
        ("magma", Self::Magma),
        ("inferno", Self::Inferno),
        ("viridis", Self::Viridis),
        ("plasma", Self::Plasma),
        ("cividis", Self::Cividis),
        ("turbo", Self::Turbo),
        ("grey", Self::Grey),
    ];

    /// The sRGB colour at `value`, 0 to 1; clamped, and NaN is 0.
    pub fn at(self, value: f32) -> [u8; 3] {
        let value = if value > 0.0 { f64::from(value.min(1.0)) } else { 0.0 };
        let gradient = match self {
            Self::Magma => colorous::MAGMA,
            Self::Inferno => colorous::INFERNO,
            Self::Viridis => colorous::VIRIDIS,
            Self::Plasma => colorous::PLASMA,
            Self::Cividis => colorous::CIVIDIS,
            Self::Turbo => colorous::TURBO,
            Self::Grey => return [(value * 255.0).round() as u8; 3],
        };
        gradient.eval_continuous(value).as_array()
    }

    /// The colours of 256 even steps from 0 to 1.
    pub fn table(self) -> [[u8; 3]; 256] {
        std::array::from_fn(|step| self.at(step as f32 / 255.0))
    }
}

impl FromStr for Colormap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(COLORMAP, if text == "gray" { "grey" } else { text }, &Self::NAMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_outside() {
        assert_eq!(Colormap::Grey.table()[255], [255; 3]);
        for (name, map) in Colormap::NAMED {
            assert_eq!(name.parse::<Colormap>().unwrap(), map);
            assert_eq!((map.at(-1.0), map.at(f32::NAN), map.at(9.0)), (map.at(0.0), map.at(0.0), map.at(1.0)));
        }
        assert!("jet".parse::<Colormap>().unwrap_err().to_string().contains("magma, inferno"));
    }

    #[test]
    fn the_even_ones_rise_in_lightness() {
        for (name, map) in Colormap::NAMED.into_iter().filter(|&(_, map)| map != Colormap::Turbo) {
            let luma = |[r, g, b]: [u8; 3]| 0.2126 * f32::from(r) + 0.7152 * f32::from(g) + 0.0722 * f32::from(b);
            let steps = map.table().map(luma);
            assert!(steps.windows(2).all(|pair| pair[1] > pair[0] - 1.5), "{name}");
            assert!(steps[255] - steps[0] > 120.0, "{name}");
        }
    }
}
