//! What a cell's run folder holds beside the run: its place in the gallery, a thumbnail, and its
//! words' maps as one picture.

use super::cell::Cell;
use crate::figures::largest;
use crate::run::RunRecord;
use crate::trace::Grid;
use crate::{Error, Result};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageEncoder, RgbImage, imageops};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::path::Path;

/// The file that makes a run folder a cell.
pub const FILE: &str = "cell.json";
/// The thumbnail.
pub const THUMB: &str = "thumb.jpg";
/// The words' maps, one below the other, each with its first and last row doubled.
pub const MAPS: &str = "maps.png";

/// Pixels of a thumbnail's longer side.
const THUMB_SIDE: u32 = 256;
/// Cells of a map's longer side in [`MAPS`].
const MAP_SIDE: usize = 32;
/// The colour that maps are drawn in; how strong a cell is lies in its alpha.
const HUE: [u8; 3] = [213, 94, 0];

/// The content of `cell.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellFacts {
    /// What was asked for.
    pub cell: Cell,
    /// The mean probability that alpha 255 stands for in `maps.png`.
    pub top: f32,
    /// Rows and columns of one map in `maps.png`.
    pub map: Grid,
}

/// Writes `cell.json`, `thumb.jpg` and `maps.png` into `folder`, where `record`'s run is. `maps`
/// are those of the record's words on the latent grid, `[words, h, w]`, mean probability per step.
///
/// # Errors
/// [`Error::Io`].
pub fn write_cell_files(folder: &Path, cell: &Cell, record: &RunRecord, image: &RgbImage, maps: &[f32]) -> Result<()> {
    let long = image.width().max(image.height()).max(1);
    let side = |pixels: u32| (pixels * THUMB_SIDE.min(long) / long).max(1);
    let small = imageops::resize(image, side(image.width()), side(image.height()), imageops::FilterType::Lanczos3);
    let mut jpeg = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut jpeg, 86);
    let encoded = encoder.write_image(small.as_raw(), small.width(), small.height(), image::ExtendedColorType::Rgb8);
    write(&folder.join(THUMB), encoded.map(|()| jpeg))?;

    let grid = record.latent;
    let factor = grid.height.max(grid.width).div_ceil(MAP_SIDE).max(1);
    let map = Grid::new(grid.height.div_ceil(factor), grid.width.div_ceil(factor));
    let top = largest(maps.iter().copied());
    // Each map has its first and last row twice, so that a browser that smooths it never sees its
    // neighbour.
    let tall = map.height + 2;
    let mut picture = image::RgbaImage::new(map.width as u32, (tall * record.words.len().max(1)) as u32);
    for (word, values) in maps.chunks_exact(grid.cells().max(1)).enumerate().take(record.words.len()) {
        let mean = mean_cells(values, grid, map, factor);
        for y in 0..tall {
            let row = y.saturating_sub(1).min(map.height - 1);
            for x in 0..map.width {
                let value = mean[row * map.width + x];
                let alpha = if top > 0.0 { (255.0 * value / top).round().clamp(0.0, 255.0) as u8 } else { 0 };
                let colour = image::Rgba([HUE[0], HUE[1], HUE[2], alpha]);
                picture.put_pixel(x as u32, (word * tall + y) as u32, colour);
            }
        }
    }
    let mut png = Cursor::new(Vec::new());
    let encoded = picture.write_to(&mut png, image::ImageFormat::Png);
    write(&folder.join(MAPS), encoded.map(|()| png.into_inner()))?;

    write_facts(folder, &CellFacts { cell: cell.clone(), top, map })
}

fn write_facts(folder: &Path, facts: &CellFacts) -> Result<()> {
    let json = serde_json::to_vec_pretty(facts).expect("plain data has a JSON form");
    crate::files::write_file(&folder.join(FILE), |out| out.write_all(&json))
}

/// Gives the finished cell in `folder` the place that `cell` has in the gallery now. More seeds,
/// prompts or pictures move those that are there. A prompt that was a line's own may now be another
/// with a word replaced, weighted or left out.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn place_anew(folder: &Path, cell: &Cell) -> Result<()> {
    let known = crate::files::read(&folder.join(FILE)).ok();
    // What cannot be read is told where the page is made of it.
    match known.and_then(|bytes| serde_json::from_slice::<CellFacts>(&bytes).ok()) {
        Some(facts) if facts.cell != facts.cell.placed_as(cell) => {
            write_facts(folder, &CellFacts { cell: facts.cell.placed_as(cell), ..facts })
        }
        _ => Ok(()),
    }
}

fn write(file: &Path, bytes: image::ImageResult<Vec<u8>>) -> Result<()> {
    let bytes = bytes.map_err(|error| Error::io(file)(std::io::Error::other(error)))?;
    crate::files::write_file(file, |out| out.write_all(&bytes))
}

/// `values` on `grid` averaged over blocks of `factor x factor`; those cut by the border average
/// what there is. Sums go cell by cell; those of pages (`report/pack.rs`) go row by row, and round
/// otherwise.
fn mean_cells(values: &[f32], grid: Grid, map: Grid, factor: usize) -> Vec<f32> {
    let mut out = vec![(0.0f32, 0u32); map.cells()];
    for (cell, &value) in values.iter().enumerate() {
        let to = (cell / grid.width / factor) * map.width + cell % grid.width / factor;
        out[to] = (out[to].0 + value, out[to].1 + 1);
    }
    out.into_iter().map(|(sum, count)| sum / count.max(1) as f32).collect()
}
