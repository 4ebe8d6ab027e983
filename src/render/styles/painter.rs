//! What a style is asked: how it paints, how a sheet shows its scale, which settings it leaves
//! unused.

use crate::render::colormap::Colormap;
use crate::trace::Grid;

/// What a sheet says of one scale for all words that is told by colours.
pub(super) const ONE_COLOUR_SCALE: &str = "one colour scale for all words";

/// A style.
pub(crate) struct Painter {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does in place of heeding the opacity, in words that follow its name; `None` where it
    /// heeds it.
    pub without_opacity: Option<&'static str>,
    /// The same of the colours of the scale.
    pub without_palette: Option<&'static str>,
    /// Whether it heeds the threshold.
    pub uses_threshold: bool,
    /// What a sheet says of one scale that all words share.
    pub shared_scale: &'static str,
    /// The colour of one pixel.
    pub paint: fn(&LaidMap, &LaidPixel) -> [u8; 3],
    /// The colour of a sheet's scale at a share of it, from 0 on the left to 1.
    pub scale: fn(&ScaleBar, f32) -> [u8; 3],
}

/// A map at the size of the image below it, and the settings that it is laid over it by.
pub(crate) struct LaidMap<'a> {
    /// 0 to 1 of the scale, one value per pixel.
    pub values: &'a [f32],
    /// Rows and columns of the image.
    pub size: Grid,
    /// Pixels of a line that is 1 wide: line widths follow the size of the image.
    pub line: f32,
    /// 0 to 1.
    pub opacity: f32,
    /// Of the scale, 0 to 1.
    pub threshold: f32,
    /// The scale's colours in 256 even steps.
    pub table: [[u8; 3]; 256],
}

/// One pixel of the image, and of the map over it.
pub(crate) struct LaidPixel {
    /// From the top.
    pub row: usize,
    /// From the left.
    pub column: usize,
    /// The image's colour.
    pub image: [u8; 3],
    /// The image's brightness.
    pub grey: u8,
    /// The map's value, 0 to 1 of the scale.
    pub value: f32,
}

impl LaidMap<'_> {
    /// The scale's colour at `value`, 0 to 1.
    pub fn colour(&self, value: f32) -> [u8; 3] {
        self.table[(value * 255.0 + 0.5) as usize]
    }

    /// How much of `pixel` a line of `width` at `level` covers: the distance to the line is the
    /// difference in value over the slope.
    pub fn stroke(&self, pixel: &LaidPixel, level: f32, slope: f32, width: f32) -> f32 {
        let distance = (pixel.value - level).abs() / slope.max(1e-4);
        (0.5 * width * self.line + 0.5 - distance).clamp(0.0, 1.0)
    }

    /// How steep the map is at `pixel`, in value per pixel.
    pub fn slope(&self, pixel: &LaidPixel) -> f32 {
        let Grid { height, width } = self.size;
        let (row, column) = (pixel.row, pixel.column);
        let at = |row: usize, column: usize| self.values[row * width + column];
        let dx = at(row, (column + 1).min(width - 1)) - at(row, column.saturating_sub(1));
        let dy = at((row + 1).min(height - 1), column) - at(row.saturating_sub(1), column);
        0.5 * dx.hypot(dy)
    }
}

/// The scale below a word of a sheet.
pub(crate) struct ScaleBar {
    /// The colours.
    pub colormap: Colormap,
    /// Of the scale, 0 to 1.
    pub threshold: f32,
    /// Half the width of a line, as a share of the scale.
    pub half_line: f32,
    /// The darker of the two greys of a scale that no colour tells.
    pub dim: [u8; 3],
    /// The lighter one.
    pub lit: [u8; 3],
}

impl ScaleBar {
    /// The colour at `share` of the scale.
    pub fn colour(&self, share: f32) -> [u8; 3] {
        self.colormap.at(share)
    }
}
