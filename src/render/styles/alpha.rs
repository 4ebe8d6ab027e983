//! `alpha`: the map's colours over the image as it is, denser as the map rises.

use super::painter::{LaidMap, LaidPixel, ONE_COLOUR_SCALE, Painter, ScaleBar};
use crate::render::canvas::mix;

pub(super) const ALPHA: Painter = Painter {
    name: "alpha",
    without_opacity: None,
    without_palette: None,
    uses_threshold: false,
    shared_scale: ONE_COLOUR_SCALE,
    paint,
    scale: ScaleBar::colour,
};

/// The share of the scale from which on it is as dense as it gets.
const COVERED: f32 = 0.6;

fn paint(map: &LaidMap, pixel: &LaidPixel) -> [u8; 3] {
    mix(pixel.image, map.colour(pixel.value), map.opacity * (pixel.value / COVERED).min(1.0))
}
