//! The contact sheet: the image, then every word's overlay with its caption and colour bar in
//! numbers.

use super::canvas::{fill, mix, paste};
use super::display::Display;
use super::overlay::{Base, THIN};
use super::styles::ScaleBar;
use super::text::Typesetter;
use image::{Rgb, RgbImage, imageops};
use rayon::prelude::*;

pub(super) const PAPER: [u8; 3] = [0x17, 0x17, 0x1b];
pub(super) const INK: [u8; 3] = [0xf2, 0xf0, 0xec];
pub(super) const FAINT: [u8; 3] = [0xa3, 0xa1, 0xa8];
const DIM: [u8; 3] = [0x33, 0x33, 0x39];

/// Pixels of a sheet, at most: with many words the tiles become smaller.
const MOST_PIXELS: usize = 20_000_000;

/// The short side of a tile, at least.
const SMALLEST_TILE: usize = 192;

/// What a sheet says beside its tiles.
#[derive(Debug, Clone)]
pub struct Sheet<'a> {
    /// The first line, usually the prompt.
    pub title: &'a str,
    /// A line below it: how the maps were made.
    pub subtitle: &'a str,
    /// A line at the foot: how to read the numbers.
    pub note: &'a str,
}

/// One word of a sheet. Values are mean attention probabilities of a step, 0 to 1.
#[derive(Debug, Clone)]
pub struct Tile<'a> {
    /// The word.
    pub label: &'a str,
    /// Its overlay, of the size of the sheet's [`Base`].
    pub overlay: &'a RgbImage,
    /// The upper end of its colour scale.
    pub top: f32,
    /// Its highest value.
    pub peak: f32,
    /// Its share of all attention.
    pub share: f32,
}

/// Draws the sheet: `base` first, then `tiles` in order, in as many columns as fill a screen best.
/// `display` is how the overlays were drawn: below those that show the scale's colours stands the
/// scale.
pub fn contact_sheet(base: &Base, tiles: &[Tile], sheet: &Sheet, display: &Display, text: &mut Typesetter) -> RgbImage {
    let plan = SheetSizes::new(base, tiles.len() + 1);
    let pictures: Vec<&RgbImage> = [&base.image].into_iter().chain(tiles.iter().map(|tile| tile.overlay)).collect();
    let size = (plan.width as u32, plan.height as u32);
    let fit = |&picture: &&'_ RgbImage| -> RgbImage {
        imageops::resize(picture, size.0, size.1, imageops::FilterType::Triangle)
    };
    let fitted: Vec<RgbImage> =
        if base.image.dimensions() == size { Vec::new() } else { pictures.par_iter().map(fit).collect() };
    let pictures = if fitted.is_empty() { pictures } else { fitted.iter().collect() };

    let inner = plan.columns as f32 * (plan.cell + plan.gap) - plan.gap;
    let title = text.set(sheet.title, 1.35 * plan.size, inner, 2);
    let subtitle = text.set(sheet.subtitle, 0.72 * plan.size, inner, 1);
    let note = text.set(sheet.note, 0.72 * plan.size, inner, 3);
    let head = plan.margin + title.height + subtitle.height + 0.9 * plan.size;
    let cell_height = plan.height as f32 + plan.caption + plan.gap;
    let foot = head + plan.rows as f32 * cell_height;
    let height = foot + note.height + plan.margin - 0.3 * plan.gap;
    let mut canvas = RgbImage::from_pixel((inner + 2.0 * plan.margin).ceil() as u32, height.ceil() as u32, Rgb(PAPER));

    text.draw(&mut canvas, &title, plan.margin, 0.9 * plan.margin, INK);
    text.draw(&mut canvas, &subtitle, plan.margin, 0.9 * plan.margin + title.height + 0.15 * plan.size, FAINT);
    let place = |cell: usize| {
        let (row, column) = (cell / plan.columns, cell % plan.columns);
        (plan.margin + column as f32 * (plan.cell + plan.gap), head + row as f32 * cell_height)
    };
    for (cell, picture) in pictures.iter().enumerate() {
        let (left, top) = place(cell);
        paste(&mut canvas, picture, left as i64, top as i64, plan.radius);
        match cell.checked_sub(1).map(|word| &tiles[word]) {
            None => plan.label(&mut canvas, text, (left, top), "image", FAINT, ""),
            Some(tile) => {
                plan.label(&mut canvas, text, (left, top), tile.label, INK, &percent(tile.share));
                plan.colour_bar(&mut canvas, text, (left, top), tile, display);
            }
        }
    }
    text.draw(&mut canvas, &note, plan.margin, foot, FAINT);
    canvas
}

/// Sizes of a sheet in pixels.
struct SheetSizes {
    columns: usize,
    rows: usize,
    /// Of a tile's picture.
    width: usize,
    height: usize,
    /// Width that a tile's words have: that of its picture, unless it is very thin.
    cell: f32,
    /// Font size of a word.
    size: f32,
    /// Height below a tile's picture.
    caption: f32,
    gap: f32,
    margin: f32,
    radius: f32,
}

impl SheetSizes {
    fn new(base: &Base, cells: usize) -> Self {
        let (full_width, full_height) = (base.image.width() as usize, base.image.height() as usize);
        let short = full_width.min(full_height);
        let mut tile = short;
        loop {
            let (width, height) = (full_width * tile / short, full_height * tile / short);
            // The long side of a thin picture says how large its words are.
            let size = (tile as f32).max(width.max(height) as f32 / THIN as f32) / 17.0;
            let cell = (width as f32).max(12.0 * size);
            let (caption, gap) = (3.6 * size, 0.9 * size);
            let (cell_width, cell_height) = (cell + gap, height as f32 + caption + gap);
            // As close to 3:2 as it gets, the usual screen, with few empty places at the end.
            let cost = |columns: usize| {
                let rows = cells.div_ceil(columns);
                let ratio = columns as f32 * cell_width / (rows as f32 * cell_height);
                (ratio / 1.5).ln().abs() + 0.8 * (columns * rows - cells) as f32 / cells as f32
            };
            let columns = (1..=cells).min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(1);
            let rows = cells.div_ceil(columns);
            let pixels = columns as f32 * cell_width * rows as f32 * cell_height;
            if pixels as usize <= MOST_PIXELS || tile <= SMALLEST_TILE {
                let (margin, radius) = (1.6 * size, 0.35 * size);
                return Self { columns, rows, width, height, cell, size, caption, gap, margin, radius };
            }
            tile = (tile * 9 / 10).max(SMALLEST_TILE);
        }
    }

    /// The word below a tile at `(left, top)`, and a number at the right end of the line.
    fn label(
        &self,
        canvas: &mut RgbImage,
        text: &mut Typesetter,
        at: (f32, f32),
        label: &str,
        ink: [u8; 3],
        number: &str,
    ) {
        let (left, top) = (at.0 + 0.1 * self.size, at.1 + self.height as f32 + 0.25 * self.size);
        let width = self.cell - 0.2 * self.size;
        let number = (!number.is_empty()).then(|| text.set(number, 0.85 * self.size, width, 1));
        let taken = number.as_ref().map_or(0.0, |number| number.width + 0.5 * self.size);
        let label = text.set(label, 1.1 * self.size, width - taken, 1);
        text.draw(canvas, &label, left, top, ink);
        if let Some(number) = number {
            // On the same base line as the word.
            text.draw(canvas, &number, left + width - number.width, top + 0.24 * self.size, FAINT);
        }
    }

    /// The scale from 0 on the left to its top on the right, as the style of the overlays shows it.
    fn scale(&self, display: &Display, width: u32, height: u32) -> RgbImage {
        let (width, height) = (width.max(1), height.max(1));
        let last = (width.max(2) - 1) as f32;
        let bar = ScaleBar {
            colormap: display.colormap,
            threshold: display.threshold,
            half_line: (0.09 * self.size).max(1.0) / last,
            dim: DIM,
            lit: FAINT,
        };
        let colour = display.style.painter().scale;
        RgbImage::from_fn(width, height, |x, _| Rgb(colour(&bar, x as f32 / last)))
    }

    /// The scale below the word: its two ends in numbers, and a mark where the word's own peak
    /// lies.
    fn colour_bar(&self, canvas: &mut RgbImage, text: &mut Typesetter, at: (f32, f32), tile: &Tile, display: &Display) {
        let size = 0.66 * self.size;
        let (left, top) = (at.0 + 0.1 * self.size, at.1 + self.height as f32 + 1.95 * self.size);
        let width = self.cell - 0.2 * self.size;
        let bar_height = (0.36 * self.size).max(3.0);
        let mut bar = self.scale(display, width as u32, bar_height as u32);
        // What the word never reaches is dimmed; black ends of a scale would vanish on the paper
        // without a frame.
        let reached = if tile.top > 0.0 { (tile.peak / tile.top).clamp(0.0, 1.0) } else { 0.0 };
        let end = (reached * (bar.width() - 1) as f32).round() as u32;
        let (columns, rows) = bar.dimensions();
        for (x, y, pixel) in bar.enumerate_pixels_mut() {
            let frame = x == 0 || y == 0 || x + 1 == columns || y + 1 == rows;
            let shade = if x > end { mix(pixel.0, PAPER, 0.72) } else { pixel.0 };
            *pixel = Rgb(if frame { mix(shade, FAINT, 0.35) } else { shade });
        }
        paste(canvas, &bar, left as i64, top as i64, 0.0);
        let tick = (0.09 * self.size).max(1.0);
        let tick_at = left + reached * width;
        let (across, down) = ([tick_at - tick, tick_at + tick], [top - 2.0 * tick, top + bar_height + 2.0 * tick]);
        let (left_edge, top_edge) = (across[0] as i32, down[0] as i32);
        let (wide, high) = (across[1].ceil() as i32 - left_edge, down[1] as i32 - top_edge);
        fill(canvas, (left_edge, top_edge), (wide, high), INK);
        let below = top + bar_height + 0.12 * self.size;
        let zero = text.set("0", size, width, 1);
        text.draw(canvas, &zero, left, below, FAINT);
        let end = text.set(&percent(tile.top), size, width, 1);
        text.draw(canvas, &end, left + width - end.width, below, FAINT);
        let peak = text.set(&format!("peak {}", percent(tile.peak)), size, width, 1);
        let room =
            (left + zero.width + size)..(left + width - end.width - size - peak.width).max(left + zero.width + size);
        text.draw(canvas, &peak, (tick_at - 0.5 * peak.width).clamp(room.start, room.end), below, INK);
    }
}

/// A share as per cent, with no line break before the sign.
pub fn percent(share: f32) -> String {
    crate::percent(share).replace(' ', "\u{a0}")
}
