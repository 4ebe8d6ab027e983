//! `spotlight`: the image, lit by the map. Nothing is told by colours, so that its scale is a plain
//! one.

use super::painter::{LaidMap, LaidPixel, ONE_COLOUR_SCALE, Painter, ScaleBar};
use crate::render::canvas::mix;

pub(super) const SPOTLIGHT: Painter = Painter {
    name: "spotlight",
    without_opacity: None,
    without_palette: Some("shows the image's own colours"),
    uses_threshold: false,
    shared_scale: ONE_COLOUR_SCALE,
    paint,
    scale,
};

fn paint(map: &LaidMap, pixel: &LaidPixel) -> [u8; 3] {
    mix([0; 3], pixel.image, 1.0 - map.opacity * (1.0 - pixel.value))
}

fn scale(bar: &ScaleBar, share: f32) -> [u8; 3] {
    mix(bar.dim, bar.lit, share)
}
