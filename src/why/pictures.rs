//! The pictures of the experiments: each image with the thing's outline, and a strip for each
//! experiment.

use super::record::FOLDER;
use crate::Result;
use crate::argument::RUN;
use crate::evidence::Figure;
use crate::figures::largest;
use crate::files::{check_own, make_folder_of};
use crate::heatmap::THRESHOLD;
use crate::render::{Base, Display, Style, Typesetter, overlay, strip, write_png};
use crate::run::{distinct_slug, read_png};
use crate::trace::Grid;
use image::RgbImage;
use std::path::Path;

/// The short side of a picture in a strip, at least.
const SIDE: usize = 256;

/// Most pictures of a strip.
const MOST: usize = 5;

/// The strips: the name in their files, and what they show.
const STRIPS: [(&str, &str); 5] = [
    ("noise", "fresh noise"),
    ("mirrored", "the run's own noise mirrored"),
    ("words", "the same noise, another prompt"),
    ("loras", "the same noise without the LoRA"),
    ("steps", "fresh noise from a later step on"),
];

/// The experiment that a picture belongs to, by the name of its strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureSubject {
    /// The run itself, first in every strip.
    Run,
    /// One of the strips that a record names.
    Strip(&'static str),
}

/// `image` with the outline of the region of `map`.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) when the image has no pixels.
pub fn outlined(image: &RgbImage, map: &[f32], grid: Grid) -> Result<RgbImage> {
    let display = Display { style: Style::Mask, opacity: 0.0, threshold: THRESHOLD, ..Display::default() };
    let top = largest(map.iter().copied());
    Ok(overlay(&Base::new(image, SIDE)?, map, grid, top, &display))
}

/// Keeps a picture in the folder of a run, for the strips. `kept` are those that are there.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) where a file of the user's is in the way;
/// [`Error::Io`](crate::Error::Io).
pub fn keep(
    folder: &Path,
    word: &str,
    shows: PictureSubject,
    picture: &RgbImage,
    caption: String,
    kept: &mut Vec<Figure>,
) -> Result<()> {
    let name = match shows {
        PictureSubject::Run => "run",
        PictureSubject::Strip(name) => name,
    };
    let stem = format!("{FOLDER}/{}-{name}-", distinct_slug(word));
    let number = kept.iter().filter(|figure| figure.file.starts_with(&stem)).count();
    if number >= MOST {
        return Ok(());
    }
    let file = format!("{stem}{number}.png");
    write(folder, &file, picture, &caption)?;
    kept.push(Figure { caption, file });
    Ok(())
}

/// Draws the strip of each experiment from the pictures that were kept.
///
/// # Errors
/// [`Error::Trace`](crate::Error::Trace) or [`Error::Io`](crate::Error::Io) when a picture is
/// missing or damaged; as [`keep`].
pub fn strips(folder: &Path, word: &str, kept: &[Figure]) -> Result<Vec<Figure>> {
    let of = |name: &str| -> Result<Vec<(RgbImage, String)>> {
        let stem = format!("{FOLDER}/{}-{name}-", distinct_slug(word));
        let own = kept.iter().filter(|figure| figure.file.starts_with(&stem));
        own.map(|figure| Ok((read_png(&folder.join(&figure.file))?.0, figure.caption.clone()))).collect()
    };
    let run = of("run")?;
    let mut strips = Vec::new();
    for (name, title) in STRIPS {
        let own = of(name)?;
        if own.is_empty() {
            continue;
        }
        let all: Vec<(&RgbImage, String)> =
            run.iter().chain(&own).map(|(image, caption)| (image, caption.clone())).collect();
        let caption = format!("“{word}”: {title}");
        let file = format!("{FOLDER}/{}-{name}.png", distinct_slug(word));
        write(folder, &file, &strip(&all, &caption, &mut Typesetter::new()), &caption)?;
        strips.push(Figure { caption, file });
    }
    Ok(strips)
}

fn write(folder: &Path, file: &str, picture: &RgbImage, about: &str) -> Result<()> {
    let path = folder.join(file);
    check_own(&path, RUN)?;
    make_folder_of(&path)?;
    write_png(&path, picture, &[("Description", about)], false)
}
