//! A strip: pictures side by side, each with a caption, under a title.

use super::canvas::paste;
use super::overlay::{LONGEST, THIN};
use super::sheet::{FAINT, INK, PAPER};
use super::text::Typesetter;
use crate::figures::largest;
use image::{Rgb, RgbImage, imageops};

/// The short side of a picture of a strip, at least.
const SHORT: u32 = 256;

/// Most lines of a caption.
const LINES: usize = 3;

/// Draws `pictures`, all of one size, from left to right with their captions.
///
/// # Panics
/// When there are none.
pub fn strip(pictures: &[(&RgbImage, String)], title: &str, text: &mut Typesetter) -> RgbImage {
    let (width, height) = pictures[0].0.dimensions();
    let (short, long) = (width.min(height).max(1), width.max(height));
    let scale = match long > THIN as u32 * short {
        true => SHORT.div_ceil(short).min(LONGEST as u32 / long),
        false => SHORT.div_ceil(short),
    };
    let scale = scale.max(1);
    let (width, height) = (width * scale, height * scale);
    let size = (width.min(height) as f32).max(width.max(height) as f32 / THIN as f32) / 15.0;
    let (gap, margin) = (0.7 * size, 1.2 * size);
    // A caption needs room below the thinnest picture.
    let cell = (width as f32).max(8.0 * size);
    let inner = pictures.len() as f32 * (cell + gap) - gap;
    let title = text.set(title, 1.1 * size, inner, 2);
    let head = margin + title.height + 0.5 * size;
    let captions: Vec<_> = pictures.iter().map(|(_, caption)| text.set(caption, size, cell, LINES)).collect();
    let tallest = largest(captions.iter().map(|caption| caption.height));
    let more = tallest - text.set("", size, cell, 1).height;
    let total = head + height as f32 + 1.9 * size + more + 0.5 * margin;
    let mut canvas = RgbImage::from_pixel((inner + 2.0 * margin).ceil() as u32, total.ceil() as u32, Rgb(PAPER));
    text.draw(&mut canvas, &title, margin, 0.8 * margin, INK);
    for (index, ((picture, _), caption)) in pictures.iter().zip(&captions).enumerate() {
        let left = margin + index as f32 * (cell + gap);
        // Nearest neighbours: what differs between two small pictures must not be smoothed away.
        let picture = imageops::resize(*picture, width, height, imageops::FilterType::Nearest);
        paste(&mut canvas, &picture, left as i64, head as i64, 0.0);
        text.draw(&mut canvas, caption, left, head + height as f32 + 0.3 * size, FAINT);
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_order_with_room_for_captions() {
        let [red, blue] = [[255, 0, 0], [0, 0, 255]].map(|colour| RgbImage::from_pixel(64, 32, Rgb(colour)));
        let drawn = strip(&[(&red, "x 0".into()), (&blue, "x 1".into())], "frog", &mut Typesetter::new());
        let (width, height) = drawn.dimensions();
        assert!(width > 2 * 512 && height > 256, "{width}x{height}");
        let count = |colour: [u8; 3]| drawn.pixels().filter(|pixel| pixel.0 == colour).count();
        assert_eq!((count([255, 0, 0]), count([0, 0, 255])), (512 * 256, 512 * 256));
        let first = |colour: [u8; 3]| drawn.enumerate_pixels().filter(|(.., p)| p.0 == colour).map(|(x, ..)| x).min();
        assert!(first([255, 0, 0]) < first([0, 0, 255]));
    }

    #[test]
    fn a_long_caption_takes_more_lines_below_all_pictures() {
        let red = RgbImage::from_pixel(64, 64, Rgb([255, 0, 0]));
        let mut text = Typesetter::embedded();
        let mut drawn = |caption: &str| strip(&[(&red, "run".into()), (&red, caption.into())], "frog", &mut text);
        let long = drawn("turning “to the left of” to “to the right of”");
        let (short, longer) =
            (drawn("x 1"), drawn("with “to the right of the big red house” taken out of it, seed 12"));
        assert!(short.height() < long.height() && long.height() <= longer.height());
        // The last line ends above the edge.
        let edge = long.rows().next_back().unwrap();
        assert!(edge.clone().all(|pixel| pixel.0 == PAPER));
    }
}
