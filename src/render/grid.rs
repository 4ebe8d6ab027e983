//! Many pictures as one: rows and columns with names, a caption below each picture.

use super::canvas::paste;
use super::sheet::{FAINT, INK, PAPER};
use super::text::Typesetter;
use image::{Rgb, RgbImage, imageops};

/// Pixels of a sheet, at most; the pictures become smaller.
const MOST_PIXELS: f32 = 60_000_000.0;

/// What a sheet of pictures shows.
#[derive(Debug, Clone, Default)]
pub struct PictureGrid {
    /// The first line.
    pub title: String,
    /// A line below it.
    pub subtitle: String,
    /// A line at the foot.
    pub note: String,
    /// The name of each column; empty for none.
    pub columns: Vec<String>,
    /// The name of each row with its pictures, one per column; `None` where there is none.
    pub rows: Vec<(String, Vec<Option<GridPicture>>)>,
}

/// A picture of a sheet.
#[derive(Debug, Clone)]
pub struct GridPicture {
    /// The picture.
    pub image: RgbImage,
    /// A line below it; may be empty.
    pub caption: String,
}

/// Draws the pictures in rows below each other, each at its own shape in cells of one size.
pub fn picture_grid(grid: &PictureGrid, text: &mut Typesetter) -> RgbImage {
    let across = grid.rows.iter().map(|(_, row)| row.len()).max().unwrap_or(0).max(grid.columns.len()).max(1);
    let pictures = || grid.rows.iter().flat_map(|(_, row)| row).flatten();
    let longest =
        |side: fn(&RgbImage) -> u32| pictures().map(|picture| side(&picture.image)).max().unwrap_or(64) as f32;
    let (full_width, full_height) = (longest(RgbImage::width), longest(RgbImage::height));
    let whole = across as f32 * full_width * grid.rows.len().max(1) as f32 * full_height;
    let scale = (MOST_PIXELS / whole.max(1.0)).sqrt().min(1.0);
    let (width, height) = ((full_width * scale).max(8.0), (full_height * scale).max(8.0));
    let size = (width.max(height) / 14.0).clamp(6.0, 28.0);
    let (gap, margin) = (0.7 * size, 1.6 * size);
    let captioned = pictures().any(|picture| !picture.caption.is_empty());
    let below = if captioned { 1.6 * size } else { 0.0 };
    let named = grid.rows.iter().any(|(name, _)| !name.is_empty());
    let left = margin + if named { (0.9 * width).max(9.0 * size) + gap } else { 0.0 };
    let inner = left - margin + across as f32 * (width + gap) - gap;

    let title = text.set(&grid.title, 1.5 * size, inner, 3);
    let subtitle = text.set(&grid.subtitle, 0.9 * size, inner, 2);
    let note = text.set(&grid.note, 0.9 * size, inner, 3);
    let heads = if grid.columns.iter().all(String::is_empty) { 0.0 } else { 2.8 * size };
    let top = margin + title.height + subtitle.height + 1.2 * size;
    let first = top + heads;
    let foot = first + grid.rows.len() as f32 * (height + below + gap);
    let (canvas_width, canvas_height) = (inner + 2.0 * margin, foot + note.height + margin);
    let mut canvas = RgbImage::from_pixel(canvas_width.ceil() as u32, canvas_height.ceil() as u32, Rgb(PAPER));
    text.draw(&mut canvas, &title, margin, margin, INK);
    text.draw(&mut canvas, &subtitle, margin, margin + title.height + 0.3 * size, FAINT);
    for (column, name) in grid.columns.iter().enumerate() {
        let line = text.set(name, size, width, 2);
        text.draw(&mut canvas, &line, left + column as f32 * (width + gap), first - line.height - 0.3 * size, FAINT);
    }
    for (row, (name, pictures)) in grid.rows.iter().enumerate() {
        let y = first + row as f32 * (height + below + gap);
        let lines = (height / (1.4 * size)).floor().max(1.0) as usize;
        let name = text.set(name, size, left - margin - gap, lines);
        text.draw(&mut canvas, &name, margin, y, INK);
        for (column, picture) in pictures.iter().enumerate() {
            let Some(GridPicture { image, caption }) = picture else { continue };
            let x = left + column as f32 * (width + gap);
            let own = (image.width() as f32 * scale, image.height() as f32 * scale);
            let own = (own.0.round().max(1.0) as u32, own.1.round().max(1.0) as u32);
            let fitted = match own == image.dimensions() {
                true => None,
                false => Some(imageops::resize(image, own.0, own.1, imageops::FilterType::Triangle)),
            };
            paste(&mut canvas, fitted.as_ref().unwrap_or(image), x as i64, y as i64, 0.15 * size);
            let line = text.set(caption, 0.8 * size, width, 1);
            text.draw(&mut canvas, &line, x, y + own.1 as f32 + 0.25 * size, FAINT);
        }
    }
    text.draw(&mut canvas, &note, margin, foot, FAINT);
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_stands_in_its_row_and_column() {
        let picture = |colour: [u8; 3]| {
            let image = RgbImage::from_pixel(64, 48, Rgb(colour));
            Some(GridPicture { image, caption: "seed 0".into() })
        };
        let grid = PictureGrid {
            title: "a frog".into(),
            columns: vec!["seed 0".into(), "seed 1".into()],
            rows: vec![
                ("8 steps".into(), vec![picture([250, 0, 0]), None]),
                ("25 steps".into(), vec![None, picture([0, 0, 250])]),
            ],
            ..PictureGrid::default()
        };
        let sheet = picture_grid(&grid, &mut Typesetter::embedded());
        let places = |colour: [u8; 3]| -> Vec<(u32, u32)> {
            sheet.enumerate_pixels().filter(|(.., pixel)| pixel.0 == colour).map(|(x, y, _)| (x, y)).collect()
        };
        let (red, blue) = (places([250, 0, 0]), places([0, 0, 250]));
        assert!(red.len() > 64 * 48 - 40 && blue.len() > 64 * 48 - 40, "{} {}", red.len(), blue.len());
        let (last, first) = (red.iter().max().unwrap(), blue.iter().min().unwrap());
        assert!(last.0 < first.0, "the second column is to the right");
        assert!(red.iter().map(|at| at.1).max() < blue.iter().map(|at| at.1).min(), "the second row is below");
    }
}
