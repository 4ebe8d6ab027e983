//! What a lens on the text encoder shows, as a picture and as numbers.

use std::path::PathBuf;

use image::RgbImage;
use image::imageops::{FilterType, resize};
use serde::{Deserialize, Serialize};

use crate::figures::largest;
use crate::files::{Target, make_folder_of, write_json};
use crate::heatmap::{Aggregate, aggregate};
use crate::pipeline::Traced;
use crate::render::{Base, Display, Typesetter, overlay, strip, write_png};
use crate::trace::WordInfo;
use crate::{Error, Result};

/// The numbers of a lens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lens {
    /// The version of attnmap that made it.
    pub attnmap: String,
    /// The prompt.
    pub prompt: String,
    /// The seed of every image.
    pub seed: u64,
    /// One entry per stop, from the first layers on; the last is the run itself.
    pub stops: Vec<Stop>,
}

/// The image after some layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// After how many layers each text encoder ended.
    pub layers: Vec<usize>,
    /// How far the image is from the last one: the mean absolute difference of its values, 0 to 1.
    pub difference: f64,
    /// Each word's share of the attention, 0 to 1.
    pub words: Vec<(String, f32)>,
}

/// Draws the images of a lens side by side, each under the name of its layer, with the maps of
/// `words` below. Writes picture and numbers at `target`. Returns the numbers and both paths.
///
/// # Errors
/// [`Error::Argument`] when a file is there that may not be replaced; those of the maps;
/// [`Error::Io`].
pub fn draw_lens(
    target: &Target,
    seed: u64,
    runs: &[(Vec<usize>, Traced)],
    how: &Aggregate,
    words: &[WordInfo],
    display: &Display,
) -> Result<(Lens, [PathBuf; 2])> {
    display.check()?;
    let Some((_, last)) = runs.last() else { return Err(Error::bug("a lens without a stop")) };
    let [picture, numbers] = target.files([".png", ".json"])?;
    make_folder_of(&picture)?;
    let prompt = last.trace.about.prompt.clone();
    let maps = runs.iter().map(|(_, run)| aggregate(&run.trace, how, words)).collect::<Result<Vec<_>>>()?;

    let mut text = Typesetter::new();
    let name = |layers: &[usize]| match (layers[0], layers == runs[runs.len() - 1].0) {
        (0, _) => "embeddings".to_owned(),
        (_, true) => "all layers".to_owned(),
        _ => layers.iter().map(usize::to_string).collect::<Vec<_>>().join(" and "),
    };
    let title = format!("{} · after so many layers of the text encoder", prompt.text);
    let mut rows = Vec::with_capacity(words.len());
    let mut size = runs[0].1.generation.image.dimensions();
    for (index, word) in words.iter().enumerate() {
        // One scale for a word, so that its pictures can be held against each other.
        let top = largest(maps.iter().flat_map(|maps| maps.word(index)).copied());
        let drawn = runs.iter().zip(&maps).map(|((_, run), maps)| -> Result<(RgbImage, String)> {
            let base = Base::new(&run.generation.image, display.overlay_size)?;
            let share = crate::render::percent(maps.share(word));
            Ok((overlay(&base, maps.word(index), maps.grid, top, display), share))
        });
        let drawn = drawn.collect::<Result<Vec<_>>>()?;
        size = drawn[0].0.dimensions();
        let tiles: Vec<(&RgbImage, String)> = drawn.iter().map(|(image, share)| (image, share.clone())).collect();
        rows.push(strip(&tiles, &word.label(), &mut text));
    }
    // Each image stands above its maps, at their size.
    let images: Vec<(RgbImage, String)> = runs
        .iter()
        .map(|(layers, run)| (resize(&run.generation.image, size.0, size.1, FilterType::CatmullRom), name(layers)))
        .collect();
    let images: Vec<(&RgbImage, String)> = images.iter().map(|(image, name)| (image, name.clone())).collect();
    rows.insert(0, strip(&images, &title, &mut text));
    let sheet = stacked(&rows);
    write_png(&picture, &sheet, &[("Title", &title), ("Description", &prompt.text)], true)?;

    let stop = |((layers, run), maps): (&(Vec<usize>, Traced), &crate::heatmap::Heatmaps)| Stop {
        layers: layers.clone(),
        difference: difference(&run.generation.image, &last.generation.image),
        words: words.iter().map(|word| (word.label(), maps.share(word))).collect(),
    };
    let lens = Lens {
        attnmap: env!("CARGO_PKG_VERSION").to_owned(),
        prompt: prompt.text.clone(),
        seed,
        stops: runs.iter().zip(&maps).map(stop).collect(),
    };
    write_json(&numbers, &lens)?;
    Ok((lens, [picture, numbers]))
}

/// Pictures one below the other, from the left.
fn stacked(rows: &[RgbImage]) -> RgbImage {
    let width = rows.iter().map(RgbImage::width).max().unwrap_or(1);
    let height = rows.iter().map(RgbImage::height).sum();
    let paper = rows.first().map_or(image::Rgb([255; 3]), |row| *row.get_pixel(0, 0));
    let mut sheet = RgbImage::from_pixel(width, height, paper);
    let mut top = 0;
    for row in rows {
        image::imageops::replace(&mut sheet, row, 0, top);
        top += i64::from(row.height());
    }
    sheet
}

fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / 255.0 / a.as_raw().len().max(1) as f64
}
