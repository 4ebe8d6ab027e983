//! The components of a run's attention, as a picture and as numbers in its folder.

use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::argument::RUN;
use crate::components::{Component, Components};
use crate::files::{check_own, write_json};
use crate::render::{Base, Display, Sheet, Tile, Typesetter, contact_sheet, overlay, write_png};
use crate::{Error, Result};

/// The numbers in a run's folder.
pub const COMPONENTS: &str = "components.json";

/// The picture beside them.
const PICTURE: &str = "components.png";

const NOTE: &str = "All heads' maps written as sums of these few maps, each on its own colour scale, named after \
the word that it follows \
                    most. Right of a name: its share of the attention that they make. It says what goes together, not \
why.";

/// Draws the components over `image` and writes picture and numbers into the run folder `folder`,
/// in place of older ones. Returns both paths.
///
/// # Errors
/// [`Error::Argument`] where a file that attnmap did not write is in the way; [`Error::Io`].
pub fn write_components(
    folder: &Path,
    found: &Components,
    prompt: &str,
    image: &RgbImage,
    display: &Display,
) -> Result<[PathBuf; 2]> {
    let [picture, numbers] = [PICTURE, COMPONENTS].map(|name| folder.join(name));
    [&picture, &numbers].into_iter().try_for_each(|file| check_own(file, RUN))?;
    let base = Base::new(image, display.overlay_size)?;
    let draw = |component: &Component| overlay(&base, &component.map, found.grid, 1.0, display);
    let overlays: Vec<RgbImage> = found.components.iter().map(draw).collect();
    let tiles = found.components.iter().zip(&overlays);
    let tiles: Vec<Tile> = tiles
        .map(|(component, overlay)| Tile {
            label: &component.name,
            overlay,
            top: 1.0,
            peak: 1.0,
            share: component.share as f32,
        })
        .collect();
    let title = format!("{} components of the attention", found.components.len());
    let sheet = Sheet { title: &title, subtitle: prompt, note: NOTE };
    let sheet = contact_sheet(&base, &tiles, &sheet, display, &mut Typesetter::new());
    write_png(&picture, &sheet, &[("Title", &title), ("Description", prompt)], true)?;
    write_json(&numbers, found)?;
    Ok([picture, numbers])
}

/// The components that the run folder `folder` holds; `None` where there are none.
///
/// # Errors
/// [`Error::Trace`] when the file is damaged.
pub fn read_components(folder: &Path) -> Result<Option<Components>> {
    let file = folder.join(COMPONENTS);
    if !file.is_file() {
        return Ok(None);
    }
    let bytes = crate::files::read(&file).map_err(Error::io(&file))?;
    let reason = |error: serde_json::Error| format!("{error}; `attnmap components` makes it again");
    let found: Components =
        serde_json::from_slice(&bytes).map_err(|error| Error::Trace { file: file.clone(), reason: reason(error) })?;
    let cells = found.grid.cells();
    if found.components.iter().any(|component| component.map.len() != cells) {
        let reason = "a map has another size than the grid; `attnmap components` makes it again".into();
        return Err(Error::Trace { file, reason });
    }
    Ok(Some(found))
}
