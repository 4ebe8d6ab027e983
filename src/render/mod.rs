//! Pictures: colormaps, overlays, contact sheets, PNG metadata. Takes plain grids and images, knows
//! no run.

mod canvas;
mod colormap;
mod display;
mod grid;
mod names;
mod outline;
mod overlay;
mod png;
mod sheet;
mod strip;
mod styles;
mod text;

pub use canvas::{fill, frame};
pub use colormap::Colormap;
pub use display::{Display, Scale};
pub use grid::{GridPicture, PictureGrid, picture_grid};
pub use outline::outline_svg;
pub use overlay::{Base, overlay, signed};
pub use png::{png_text, write_gray_png, write_png};
pub use sheet::{Sheet, Tile, contact_sheet, percent};
pub use strip::strip;
pub use styles::Style;
pub use text::{Typesetter, missing_glyphs};
