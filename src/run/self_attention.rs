//! What a place of a run's image is tied to by self-attention, as a picture and as numbers.

use crate::figures::largest;
use crate::files::Target;
use crate::heatmap::Layout;
use crate::render::{Base, Display, Sheet, Tile, Typesetter, contact_sheet, frame, overlay, write_png};
use crate::trace::{Grid, Trace};
use crate::{Error, Result};
use image::RgbImage;
use serde::Serialize;
use std::path::PathBuf;

/// What a place is tied to at one grid of the UNet.
#[derive(Debug, Clone, Serialize)]
pub struct SelfAttentionMap {
    /// The grid.
    #[serde(flatten)]
    pub grid: Grid,
    /// How many self-attention sites were averaged.
    pub sites: usize,
    /// The share of the place's attention that stays in the place, 0 to 1.
    pub stays: f64,
    /// `[height, width]`: probabilities that sum to 1.
    pub map: Vec<f32>,
}

/// The files of one place.
#[derive(Debug, Clone, Serialize)]
pub struct SelfAttentionDrawn {
    /// The version of attnmap that measured it.
    pub attnmap: &'static str,
    /// The place, as it was asked for.
    pub place: String,
    /// One entry per grid, the coarsest first.
    pub maps: Vec<SelfAttentionMap>,
    /// The picture.
    #[serde(skip)]
    pub picture: PathBuf,
    /// These numbers.
    #[serde(skip)]
    pub numbers: PathBuf,
}

const NOTE: &str = "Each map is the place's own self-attention, the mean of heads, sites and steps, on its own \
colour scale: how its cells would \
                    mix the features of the others. Right of a resolution: the share that stays in the place. It says \
what looks alike or belongs \
                    together to the network, not why.";

/// Draws `maps` of `place` over `image` into the folder `target`, and writes them beside it as
/// JSON. A frame stands around `bounds`: left, top, right, bottom in pixels of the image. Both
/// files are named after the place.
///
/// # Errors
/// [`Error::Argument`] when a display value is out of range, or a file is there that may not be
/// replaced. [`Error::Io`] when one cannot be written.
pub fn draw_self_attention(
    target: &Target,
    (trace, image): (&Trace, &RgbImage),
    place: &str,
    bounds: Option<[f64; 4]>,
    maps: Vec<SelfAttentionMap>,
    display: &Display,
) -> Result<SelfAttentionDrawn> {
    display.check()?;
    let [picture, numbers] = target.within(super::slug(place)).files([".png", ".json"])?;
    std::fs::create_dir_all(target.path()).map_err(Error::io(target.path()))?;
    let mut base = Base::new(image, display.overlay_size)?;
    let shown = maps.iter().map(|tied| {
        let peak = largest(tied.map.iter().copied());
        let mut picture = overlay(&base, &tied.map, tied.grid, peak, display);
        frame_place(&mut picture, trace.about.image, bounds);
        (format!("{}x{}, {} sites", tied.grid.width, tied.grid.height, tied.sites), picture, peak)
    });
    let shown: Vec<_> = shown.collect();
    frame_place(&mut base.image, trace.about.image, bounds);
    let tiles: Vec<Tile> = shown
        .iter()
        .zip(&maps)
        .map(|((label, overlay, peak), tied)| Tile {
            label,
            overlay,
            top: *peak,
            peak: *peak,
            share: tied.stays as f32,
        })
        .collect();
    let title = format!("What {place} is tied to");
    let sheet = Sheet { title: &title, subtitle: &trace.about.prompt.text, note: NOTE };
    let sheet = contact_sheet(&base, &tiles, &sheet, display, &mut Typesetter::new());
    write_png(&picture, &sheet, &[("Title", &title), ("Description", &trace.about.prompt.text)], true)?;
    let tied =
        SelfAttentionDrawn { attnmap: env!("CARGO_PKG_VERSION"), place: place.to_owned(), maps, picture, numbers };
    crate::files::write_file(&tied.numbers, |file| {
        serde_json::to_writer(&mut *file, &tied)?;
        file.write_all(b"\n")
    })?;
    Ok(tied)
}

fn frame_place(picture: &mut RgbImage, image: Grid, bounds: Option<[f64; 4]>) {
    let Some([left, top, right, bottom]) = bounds else { return };
    let (x, y) = (f64::from(picture.width()) / image.width as f64, f64::from(picture.height()) / image.height as f64);
    frame(picture, [left * x, top * y, right * x, bottom * y]);
}

impl SelfAttentionMap {
    /// Where the map peaks and how far it spreads; see [`Layout`].
    pub fn layout(&self, threshold: f32) -> Layout {
        Layout::of(&self.map, self.grid, 1.0, 1.0, threshold)
    }
}
