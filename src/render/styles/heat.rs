//! `heat`: the map's colours over a greyed image.

use super::painter::{LaidMap, LaidPixel, ONE_COLOUR_SCALE, Painter, ScaleBar};
use crate::render::canvas::mix;

pub(super) const HEAT: Painter = Painter {
    name: "heat",
    without_opacity: None,
    without_palette: None,
    uses_threshold: false,
    shared_scale: ONE_COLOUR_SCALE,
    paint,
    scale: ScaleBar::colour,
};

fn paint(map: &LaidMap, pixel: &LaidPixel) -> [u8; 3] {
    // Grey below the colours: a hue then always means the scale and never the picture.
    let under = mix(pixel.image, [pixel.grey; 3], map.opacity.sqrt());
    mix(under, map.colour(pixel.value), map.opacity)
}
