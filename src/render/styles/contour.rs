//! `contour`: lines at shares of the scale over the image as it is. A sheet's scale has the lines
//! alone.

use super::painter::{LaidMap, LaidPixel, Painter, ScaleBar};
use crate::render::canvas::mix;

pub(super) const CONTOUR: Painter = Painter {
    name: "contour",
    without_opacity: Some("draws lines over the image as it is"),
    without_palette: None,
    uses_threshold: false,
    shared_scale: "one scale for all words, with lines at 20, 40, 60 and 80 % of it",
    paint,
    scale,
};

/// The shares of the scale that lines are drawn at.
const LEVELS: [f32; 4] = [0.2, 0.4, 0.6, 0.8];

fn paint(map: &LaidMap, pixel: &LaidPixel) -> [u8; 3] {
    let slope = map.slope(pixel);
    LEVELS.iter().fold(pixel.image, |under, &level| {
        let (near, far) = (map.stroke(pixel, level, slope, 1.3), map.stroke(pixel, level, slope, 2.9));
        mix(mix(under, [0; 3], 0.7 * far), map.colour(line_shade(level)), near)
    })
}

fn scale(bar: &ScaleBar, share: f32) -> [u8; 3] {
    let near = LEVELS.iter().find(|level| (share - **level).abs() <= bar.half_line);
    near.map_or(bar.dim, |&level| bar.colour(line_shade(level)))
}

/// Where on the colour scale the line at `level` has its colour: the lower part is too dark for
/// lines.
fn line_shade(level: f32) -> f32 {
    0.4 + 0.6 * level
}
