//! Drawing on an RGB image: blending, rectangles, other images.

use image::{Rgb, RgbImage};
use imageproc::drawing::draw_filled_rect_mut;
use imageproc::rect::Rect;

/// `over` on `under`, `alpha` from 0 to 1.
pub fn mix(under: [u8; 3], over: [u8; 3], alpha: f32) -> [u8; 3] {
    let one = |under: u8, over: u8| (f32::from(under) + (f32::from(over) - f32::from(under)) * alpha + 0.5) as u8;
    [one(under[0], over[0]), one(under[1], over[1]), one(under[2], over[2])]
}

/// Perceived brightness of a colour, 0 to 255 (Rec. 709 weights on sRGB values: good enough to grey
/// a picture).
pub fn luma([r, g, b]: [u8; 3]) -> u8 {
    (0.2126 * f32::from(r) + 0.7152 * f32::from(g) + 0.0722 * f32::from(b) + 0.5) as u8
}

/// Blends `colour` onto one pixel; outside the picture nothing happens.
pub fn blend(canvas: &mut RgbImage, x: i64, y: i64, colour: [u8; 3], alpha: f32) {
    let inside = (0..i64::from(canvas.width())).contains(&x) && (0..i64::from(canvas.height())).contains(&y);
    if inside {
        let pixel = canvas.get_pixel_mut(x as u32, y as u32);
        *pixel = Rgb(mix(pixel.0, colour, alpha));
    }
}

/// Fills the rectangle of `size` (width, height) at `corner` (left, top); what lies outside is cut
/// off, and nothing of no size is drawn.
pub fn fill(canvas: &mut RgbImage, corner: (i32, i32), size: (i32, i32), colour: [u8; 3]) {
    if size.0 > 0 && size.1 > 0 {
        let rectangle = Rect::at(corner.0, corner.1).of_size(size.0 as u32, size.1 as u32);
        draw_filled_rect_mut(canvas, rectangle, Rgb(colour));
    }
}

/// Draws a frame around `bounds` (left, top, right, bottom in pixels of `canvas`): white with a
/// dark line on either side.
pub fn frame(canvas: &mut RgbImage, bounds: [f64; 4]) {
    let unit = i64::from((canvas.width().min(canvas.height()) / 256).max(1));
    let [left, top, right, bottom] = bounds.map(|at| at.round() as i64);
    for y in top - 2 * unit..bottom + 2 * unit {
        for x in left - 2 * unit..right + 2 * unit {
            // How far outside the bounds, negative within.
            let out = (left - x).max(x - right + 1).max(top - y).max(y - bottom + 1);
            if (1 - unit..=2 * unit).contains(&out) {
                let white = (1..=unit).contains(&out);
                blend(canvas, x, y, if white { [255; 3] } else { [20; 3] }, 0.9);
            }
        }
    }
}

/// Copies `picture` to `(left, top)` with corners rounded by `radius`; what lies outside is cut
/// off.
pub fn paste(canvas: &mut RgbImage, picture: &RgbImage, left: i64, top: i64, radius: f32) {
    let (width, height) = picture.dimensions();
    let canvas_width = canvas.width() as usize;
    let (reach, left_u, right) = (radius.ceil() as u32, left as usize, left + i64::from(width));
    let fits = left >= 0 && right <= canvas_width as i64;
    for y in 0..height {
        let row = top + i64::from(y);
        if !(0..i64::from(canvas.height())).contains(&row) {
            continue;
        }
        if fits && y >= reach && y + reach < height {
            let from = &picture.as_raw()[3 * (y * width) as usize..][..3 * width as usize];
            let at = 3 * (row as usize * canvas_width + left_u);
            canvas.as_flat_samples_mut().samples[at..at + from.len()].copy_from_slice(from);
            continue;
        }
        for x in 0..width {
            let alpha = corner(x as f32, y as f32, width as f32, height as f32, radius);
            blend(canvas, left + i64::from(x), row, picture.get_pixel(x, y).0, alpha);
        }
    }
}

/// How much of a pixel lies inside a rectangle with rounded corners, 0 to 1.
fn corner(x: f32, y: f32, width: f32, height: f32, radius: f32) -> f32 {
    let inwards = |at: f32, size: f32| (radius - (at + 0.5).min(size - at - 0.5)).max(0.0);
    let (dx, dy) = (inwards(x, width), inwards(y, height));
    if dx == 0.0 || dy == 0.0 { 1.0 } else { (radius - dx.hypot(dy) + 0.5).clamp(0.0, 1.0) }
}
