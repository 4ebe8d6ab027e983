//! The ways in which a map is laid over an image. A style is a file here and a line in the table.

mod alpha;
mod contour;
mod heat;
mod mask;
mod painter;
mod spotlight;

pub(super) use painter::{LaidMap, LaidPixel, Painter, ScaleBar};

use super::names::by_name;
use crate::argument::STYLE;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Declares [`Style`] with the [`Painter`] of each.
macro_rules! styles {
    ($($(#[$about:meta])* $style:ident => $painter:expr;)+) => {
        /// How a map is laid over the image.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Style {
            $($(#[$about])* $style,)+
        }

        impl Style {
            /// Every style with its name on the command line.
            pub const NAMED: [(&str, Self); [$($painter.name),+].len()] = [$(($painter.name, Self::$style)),+];

            /// What its file says of it.
            pub(super) fn painter(self) -> &'static Painter {
                match self {
                    $(Self::$style => &$painter,)+
                }
            }
        }
    };
}

styles! {
    /// The map's colours over a greyed image.
    #[default]
    Heat => heat::HEAT;
    /// Lines at 20, 40, 60 and 80 % of the scale, brighter as they rise, over the image as it is.
    Contour => contour::CONTOUR;
    /// The image where the map reaches the threshold, grey and dim elsewhere, with a line between.
    Mask => mask::MASK;
    /// The image, lit by the map.
    Spotlight => spotlight::SPOTLIGHT;
    /// The map's colours over the image as it is, denser as the map rises: the picture's colours
    /// and the scale's mix.
    Alpha => alpha::ALPHA;
}

impl Style {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        self.painter().name
    }

    /// What it does in place of heeding the opacity, in words that follow its name; `None` where
    /// it heeds it.
    pub fn without_opacity(self) -> Option<&'static str> {
        self.painter().without_opacity
    }

    /// What it does in place of heeding the colormap, in words that follow its name; `None` where
    /// it heeds it.
    pub fn without_palette(self) -> Option<&'static str> {
        self.painter().without_palette
    }

    /// Whether it heeds the threshold.
    pub fn uses_threshold(self) -> bool {
        self.painter().uses_threshold
    }

    /// What a sheet says of one scale that all words share.
    pub(crate) fn shared_scale(self) -> &'static str {
        self.painter().shared_scale
    }
}

impl FromStr for Style {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(STYLE, text, &Self::NAMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{Base, Colormap, Display, overlay};
    use crate::trace::Grid;
    use image::{Rgb, RgbImage};

    #[test]
    fn what_a_style_says_of_settings_is_so() {
        let image = RgbImage::from_fn(64, 64, |x, y| Rgb([4 * x as u8, 4 * y as u8, 90]));
        let (base, grid) = (Base::new(&image, 64).unwrap(), Grid::new(8, 8));
        let map: Vec<f32> = (0..64).map(|cell| cell as f32).collect();
        let draw = |display: Display| overlay(&base, &map, grid, 63.0, &display);
        for (name, style) in Style::NAMED {
            let usual = Display { style, ..Display::default() };
            let drawn = draw(usual.clone());
            let heeds = |other: Display| draw(other) != drawn;
            let opacity = heeds(Display { opacity: 0.2, ..usual.clone() });
            assert_eq!(opacity, style.without_opacity().is_none(), "{name}");
            let palette = heeds(Display { colormap: Colormap::Turbo, ..usual.clone() });
            assert_eq!(palette, style.without_palette().is_none(), "{name}");
            assert_eq!(heeds(Display { threshold: 0.9, ..usual.clone() }), style.uses_threshold(), "{name}");
            assert_eq!((style.name(), serde_json::json!(style)), (name, serde_json::json!(name)));
        }
    }
}
