//! One word against another, as a picture and as numbers in the run's folder.

use crate::facts::versus::Versus;
use crate::figures::largest;
use crate::files::{Target, write_json};
use crate::render::{Base, Display, Typesetter, signed, strip, write_png};
use crate::trace::Trace;
use crate::{Error, Result, in_quotes};
use image::RgbImage;
use serde::Serialize;
use std::path::PathBuf;

/// The files of two words.
#[derive(Debug, Clone, Serialize)]
pub struct VersusFiles {
    /// The version of attnmap that measured it.
    pub attnmap: &'static str,
    /// What was found.
    #[serde(flatten)]
    pub versus: Versus,
    /// The picture.
    #[serde(skip)]
    pub picture: PathBuf,
    /// These numbers.
    #[serde(skip)]
    pub numbers: PathBuf,
}

/// Draws `versus` over `image` into the folder `target`, and writes its numbers beside it as JSON.
/// It draws the image, the difference of both maps, and that of what cutting each changes where it
/// is known. Both files are named after the words.
///
/// # Errors
/// [`Error::Argument`] when a file is there that may not be replaced; [`Error::Io`] when one cannot
/// be written.
pub fn draw_versus(
    target: &Target,
    (trace, image): (&Trace, &RgbImage),
    versus: Versus,
    display: &Display,
) -> Result<VersusFiles> {
    let [first, second] = &versus.words;
    let [picture, numbers] =
        target.within(super::distinct_slug(&format!("{first} {second}"))).files([".png", ".json"])?;
    std::fs::create_dir_all(target.path()).map_err(Error::io(target.path()))?;
    let base = Base::new(image, display.overlay_size)?;
    let top = |map: &[f32]| largest(map.iter().map(|value| value.abs()));
    let mut pictures = vec![(base.image.clone(), "the run".to_owned())];
    let attention = format!("looked at, up to {} more", crate::percent(top(&versus.map)));
    pictures.push((signed(&base, &versus.map, versus.grid, top(&versus.map)), attention));
    if let Some(change) = &versus.change {
        pictures.push((signed(&base, change, versus.grid, top(change)), "changed when each is cut".into()));
    }
    let title = format!("More to {} (orange) or to {} (blue)", in_quotes(first), in_quotes(second));
    let pictures: Vec<(&RgbImage, String)> = pictures.iter().map(|(picture, name)| (picture, name.clone())).collect();
    let drawn = strip(&pictures, &title, &mut Typesetter::new());
    write_png(&picture, &drawn, &[("Title", &title), ("Description", &trace.about.prompt.text)], true)?;
    let files = VersusFiles { attnmap: env!("CARGO_PKG_VERSION"), versus, picture, numbers };
    write_json(&files.numbers, &files)?;
    Ok(files)
}
