//! One map over one image.

use super::canvas::{luma, mix};
use super::colormap::Colormap;
use super::display::Display;
use super::style::Style;
use crate::heatmap::{Filter, Resampler};
use crate::trace::Grid;
use crate::{Error, Result};
use image::{Rgb, RgbImage};
use rayon::prelude::*;

/// The shares of the scale that `contour` draws lines at.
pub(super) const LEVELS: [f32; 4] = [0.2, 0.4, 0.6, 0.8];

/// How many times longer than wide an image may be whose short side alone says how large it is
/// drawn.
pub(super) const THIN: usize = 16;

/// Pixels of a side of the overlays of thinner images, at most.
pub(super) const LONGEST: usize = 4096;

/// The share of the scale from which on `alpha` is as dense as it gets.
const COVERED: f32 = 0.6;

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
    // Line widths follow the size of the picture.
    let line = size.height.min(size.width) as f32 / 256.0;
    let painter = Painter { values: &values, size, line, display, table: display.colormap.table() };
    let mut out = base.image.clone();
    let width = size.width;
    out.par_chunks_mut(3 * width).zip(base.grey.par_chunks(width)).enumerate().for_each(|(row, (pixels, grey))| {
        for (column, (pixel, &grey)) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(grey).enumerate() {
            *pixel = painter.paint(row, column, *pixel, grey);
        }
    });
    out
}

struct Painter<'a> {
    /// 0 to 1 of the scale, one value per pixel.
    values: &'a [f32],
    size: Grid,
    line: f32,
    display: &'a Display,
    table: [[u8; 3]; 256],
}

impl Painter<'_> {
    fn paint(&self, row: usize, column: usize, pixel: [u8; 3], grey: u8) -> [u8; 3] {
        let value = self.values[row * self.size.width + column];
        let opacity = self.display.opacity;
        match self.display.style {
            Style::Heat => {
                // Grey below the colours: a hue then always means the scale and never the picture.
                let under = mix(pixel, [grey; 3], opacity.sqrt());
                mix(under, self.colour(value), opacity)
            }
            Style::Alpha => mix(pixel, self.colour(value), opacity * (value / COVERED).min(1.0)),
            Style::Spotlight => mix([0; 3], pixel, 1.0 - opacity * (1.0 - value)),
            Style::Contour => {
                let slope = self.slope(row, column);
                LEVELS.iter().fold(pixel, |pixel, &level| {
                    let (near, far) = (self.stroke(value, level, slope, 1.3), self.stroke(value, level, slope, 2.9));
                    mix(mix(pixel, [0; 3], 0.7 * far), self.colour(line_shade(level)), near)
                })
            }
            Style::Mask => {
                let threshold = self.display.threshold;
                let dim = mix(mix(pixel, [grey; 3], opacity), [16; 3], 0.85 * opacity);
                let inside = if value >= threshold && value > 0.0 { pixel } else { dim };
                let edge =
                    if threshold > 0.0 { self.stroke(value, threshold, self.slope(row, column), 1.0) } else { 0.0 };
                mix(inside, self.colour(0.85), edge)
            }
        }
    }

    fn colour(&self, value: f32) -> [u8; 3] {
        self.table[(value * 255.0 + 0.5) as usize]
    }

    /// How steep the map is at a pixel, in value per pixel.
    fn slope(&self, row: usize, column: usize) -> f32 {
        let Grid { height, width } = self.size;
        let at = |row: usize, column: usize| self.values[row * width + column];
        let dx = at(row, (column + 1).min(width - 1)) - at(row, column.saturating_sub(1));
        let dy = at((row + 1).min(height - 1), column) - at(row.saturating_sub(1), column);
        0.5 * dx.hypot(dy)
    }

    /// How much of a pixel a line at `level` covers: the distance to the line is the difference in
    /// value over the slope.
    fn stroke(&self, value: f32, level: f32, slope: f32, width: f32) -> f32 {
        let distance = (value - level).abs() / slope.max(1e-4);
        (0.5 * width * self.line + 0.5 - distance).clamp(0.0, 1.0)
    }
}

/// Where on the colour scale the line at `level` has its colour: the lower part is too dark for
/// lines.
pub(super) fn line_shade(level: f32) -> f32 {
    0.4 + 0.6 * level
}

impl Colormap {
    /// A strip of the scale, left 0 and right 1.
    pub(super) fn strip(self, width: u32, height: u32) -> RgbImage {
        let last = (width.max(2) - 1) as f32;
        RgbImage::from_fn(width, height, |x, _| Rgb(self.at(x as f32 / last)))
    }
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
