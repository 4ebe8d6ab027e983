//! `mask`: the image where the map reaches the threshold, grey and dim elsewhere, with a line
//! between. A sheet's scale shows the part that is left as it is.

use super::painter::{LaidMap, LaidPixel, ONE_COLOUR_SCALE, Painter, ScaleBar};
use crate::render::canvas::mix;

pub(super) const MASK: Painter = Painter {
    name: "mask",
    without_opacity: None,
    without_palette: None,
    uses_threshold: true,
    shared_scale: ONE_COLOUR_SCALE,
    paint,
    scale,
};

fn paint(map: &LaidMap, pixel: &LaidPixel) -> [u8; 3] {
    let (threshold, opacity) = (map.threshold, map.opacity);
    let dim = mix(mix(pixel.image, [pixel.grey; 3], opacity), [16; 3], 0.85 * opacity);
    let inside = if reaches(pixel.value, threshold) { pixel.image } else { dim };
    let edge = if threshold > 0.0 { map.stroke(pixel, threshold, map.slope(pixel), 1.0) } else { 0.0 };
    mix(inside, map.colour(0.85), edge)
}

fn scale(bar: &ScaleBar, share: f32) -> [u8; 3] {
    if reaches(share, bar.threshold) { bar.lit } else { bar.dim }
}

/// Whether a place of `value` is in the mask. One of no value never is.
fn reaches(value: f32, threshold: f32) -> bool {
    value >= threshold && value > 0.0
}
