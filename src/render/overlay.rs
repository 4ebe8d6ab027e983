//! One map over one image.

use super::canvas::{luma, mix};
use super::display::Display;
use super::styles::{LaidMap, LaidPixel};
use crate::heatmap::{Filter, Resampler};
use crate::trace::Grid;
use crate::{Error, Result};
use image::{Rgb, RgbImage};
use rayon::prelude::*;

/// How many times longer than wide an image may be whose short side alone says how large it is
/// drawn.
pub(super) const THIN: usize = 16;

/// Pixels of a side of the overlays of thinner images, at most.
pub(super) const LONGEST: usize = 4096;

/// An image at the size that overlays are drawn at.
#[derive(Debug, Clone)]
pub struct Base {
    /// The image, in colour.
    pub image: RgbImage,
    /// Its brightness.
    grey: Vec<u8>,
}

impl Base {
    /// `image`, enlarged smoothly when its short side has fewer than `size` pixels. An image whose
    /// sides differ by more than 16 times has at most 4,096 pixels per side instead.
    ///
    /// # Errors
    /// [`Error::Argument`] when the image has no pixels.
    pub fn new(image: &RgbImage, size: usize) -> Result<Self> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let short = width.min(height);
        if short == 0 {
            return Err(Error::input("image", "has no pixels"));
        }
        let long = width.max(height);
        let image = if long > THIN * short && (short < size || long > LONGEST) {
            let scale = (size as f64 / short as f64).min(LONGEST as f64 / long as f64);
            let side = |side: usize| ((side as f64 * scale).round() as usize).max(1);
            match scale > 1.0 {
                true => enlarge(image, Grid::new(side(height), side(width))),
                false => crate::picture::resize(image, side(width) as u32, side(height) as u32),
            }
        } else if short >= size {
            image.clone()
        } else {
            let side = |side: usize| (side * size + short / 2) / short;
            enlarge(image, Grid::new(side(height), side(width)))
        };
        let grey = image.as_raw().as_chunks::<3>().0.iter().map(|&pixel| luma(pixel)).collect();
        Ok(Self { image, grey })
    }

    fn grid(&self) -> Grid {
        Grid::new(self.image.height() as usize, self.image.width() as usize)
    }
}

/// `image` at size `to`, bicubic per channel.
fn enlarge(image: &RgbImage, to: Grid) -> RgbImage {
    let from = Grid::new(image.height() as usize, image.width() as usize);
    let resampler = Resampler::new(from, to, Filter::Bicubic);
    let channel = |channel: usize| {
        let plane: Vec<f32> = image.as_raw().iter().skip(channel).step_by(3).map(|&value| f32::from(value)).collect();
        resampler.resize(&plane)
    };
    let planes: Vec<Vec<f32>> = (0..3).into_par_iter().map(channel).collect();
    let byte = |value: f32| (value + 0.5).clamp(0.0, 255.0) as u8;
    let mut large = RgbImage::new(to.width as u32, to.height as u32);
    for (cell, pixel) in large.pixels_mut().enumerate() {
        *pixel = Rgb([byte(planes[0][cell]), byte(planes[1][cell]), byte(planes[2][cell])]);
    }
    large
}

/// Draws `map` (`grid`, row-major, not negative) over `base`. `top` is the value at the upper end
/// of the colour scale; higher ones are drawn as it. A `top` of 0 draws an empty map.
///
/// # Panics
/// When `map` has another length than `grid`.
pub fn overlay(base: &Base, map: &[f32], grid: Grid, top: f32, display: &Display) -> RgbImage {
    let size = base.grid();
    let mut values = Resampler::new(grid, size, Filter::Bicubic).resize(map);
    let scale = if top > 0.0 { 1.0 / top } else { 0.0 };
    values.iter_mut().for_each(|value| *value = (*value * scale).clamp(0.0, 1.0));
    let map = LaidMap {
        values: &values,
        size,
        line: size.height.min(size.width) as f32 / 256.0,
        opacity: display.opacity,
        threshold: display.threshold,
        table: display.colormap.table(),
    };
    let paint = display.style.painter().paint;
    let mut out = base.image.clone();
    let width = size.width;
    out.par_chunks_mut(3 * width).zip(base.grey.par_chunks(width)).enumerate().for_each(|(row, (pixels, grey))| {
        for (column, (pixel, &grey)) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(grey).enumerate() {
            let value = map.values[row * width + column];
            *pixel = paint(&map, &LaidPixel { row, column, image: *pixel, grey, value });
        }
    });
    out
}

/// The colours of [`signed`]: above 0, and below. Okabe and Ito (2008).
const SIGNS: [[u8; 3]; 2] = [[213, 94, 0], [0, 114, 178]];

/// A map with a sign over the greyed image: orange above 0, blue below, denser towards `top`. At
/// `top` the colour covers the image.
pub fn signed(base: &Base, map: &[f32], grid: Grid, top: f32) -> RgbImage {
    let size = Grid::new(base.image.height() as usize, base.image.width() as usize);
    let values = Resampler::new(grid, size, Filter::Bicubic).resize(map);
    let mut picture = base.image.clone();
    for ((pixel, &grey), value) in picture.pixels_mut().zip(&base.grey).zip(values) {
        let share = if top > 0.0 { (value.abs() / top).min(1.0) } else { 0.0 };
        *pixel = Rgb(mix([grey; 3], SIGNS[usize::from(value < 0.0)], share));
    }
    picture
}
