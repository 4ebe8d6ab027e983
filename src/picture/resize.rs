//! Resizing with Lanczos's filter, equal to Pillow's bit for bit.
//!
//! diffusers resizes pictures with `PIL.Image.resize(.., LANCZOS)`, and a run must start from the
//! same pixels. Pillow (`libImaging/Resample.c`) widens the filter by the scale when it shrinks. It
//! normalises each pixel's weights and rounds them to 22-bit fixed point. It filters along one axis
//! first, and along the other in the 8-bit result. Which axis comes first is Pillow 13's choice;
//! older ones always begin with the rows, and may differ by 1 of 255.

use image::RgbImage;
use rayon::prelude::*;

/// Bits behind the point of Pillow's weights: 32 less those of a pixel and two to spare.
const PRECISION: u32 = 32 - 8 - 2;

/// Half the width of the filter at scale 1.
const LOBES: f64 = 3.0;

/// `image` with `width` x `height` pixels; itself when it has them.
///
/// # Panics
/// When a side is 0.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    assert!(width > 0 && height > 0, "a picture has pixels");
    let (dropped_rows, dropped_columns) =
        (i64::from(image.height()) - i64::from(height), i64::from(image.width()) - i64::from(width));
    // Pillow 13's rule, read off its results.
    if dropped_rows > 0 && dropped_rows > 2 * dropped_columns {
        resize_columns(&resize_rows(image, height), width)
    } else {
        resize_rows(&resize_columns(image, width), height)
    }
}

/// With `width` columns.
fn resize_columns(image: &RgbImage, width: u32) -> RgbImage {
    if image.width() == width {
        return image.clone();
    }
    let (taps, row) = (taps(image.width(), width), image.width() as usize * 3);
    let filter = |row: &[u8]| {
        let pixel = |taps: &Taps| [0, 1, 2].map(|channel| taps.sum(|x| row[x * 3 + channel]));
        taps.iter().flat_map(pixel).collect::<Vec<_>>()
    };
    from_raw(width, image.height(), image.as_raw().par_chunks_exact(row).flat_map_iter(filter).collect())
}

/// With `height` rows.
fn resize_rows(image: &RgbImage, height: u32) -> RgbImage {
    if image.height() == height {
        return image.clone();
    }
    let (taps, row, old) = (taps(image.height(), height), image.width() as usize * 3, image.as_raw());
    let filter = |taps: &Taps| (0..row).map(|at| taps.sum(|y| old[y * row + at])).collect::<Vec<_>>();
    from_raw(image.width(), height, taps.par_iter().flat_map_iter(filter).collect())
}

fn from_raw(width: u32, height: u32, pixels: Vec<u8>) -> RgbImage {
    RgbImage::from_raw(width, height, pixels).expect("three bytes a pixel")
}

/// The pixels that make one pixel of the result along one axis.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn sum(&self, value: impl Fn(usize) -> u8) -> u8 {
        let terms = self.weights.iter().enumerate().map(|(at, &weight)| i32::from(value(self.first + at)) * weight);
        let sum = terms.sum::<i32>() + (1 << (PRECISION - 1));
        (sum >> PRECISION).clamp(0, 255) as u8
    }
}

/// The taps of every pixel of a line of `new` pixels made from one of `old`.
fn taps(old: u32, new: u32) -> Vec<Taps> {
    let scale = f64::from(old) / f64::from(new);
    let stretch = scale.max(1.0);
    let support = LOBES * stretch;
    let tap = |pixel: u32| {
        let center = (f64::from(pixel) + 0.5) * scale;
        // Truncation is Pillow's own rule.
        let first = (center - support + 0.5).max(0.0) as u32;
        let end = ((center + support + 0.5) as u32).min(old);
        let weights: Vec<f64> =
            (first..end).map(|at| lanczos((f64::from(at) - center + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| {
            let scaled = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1u32 << PRECISION);
            (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        Taps { first: first as usize, weights: weights.iter().map(fixed).collect() }
    };
    (0..new).map(tap).collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_the_size_is_itself() {
        let image = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 7]));
        assert_eq!(resize(&image, 5, 3), image);
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let image = RgbImage::from_pixel(13, 1, image::Rgb([200, 0, 255]));
        for (width, height) in [(1, 1), (64, 40), (7, 9)] {
            assert!(resize(&image, width, height).pixels().all(|pixel| pixel.0 == [200, 0, 255]), "{width}x{height}");
        }
    }
}
