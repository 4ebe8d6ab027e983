//! Text in pictures: shaping, right-to-left, fallback fonts, cutting with an ellipsis.

use super::canvas::blend;
use cosmic_text::fontdb::{self, Source};
use cosmic_text::{
    Attrs, Buffer, Ellipsize, EllipsizeHeightLimit, Family, FontSystem, Metrics, Shaping, SwashCache, SwashContent,
    Weight, Wrap,
};
use image::RgbImage;
use std::sync::Arc;

/// The fonts in the binary (see `fonts/README.md`): Latin, Greek and Cyrillic; Devanagari; Arabic.
const FONTS: [&[u8]; 3] = [
    include_bytes!("fonts/NotoSans-Regular.ttf"),
    include_bytes!("fonts/NotoSansDevanagari-Regular.ttf"),
    include_bytes!("fonts/NotoSansArabic-Regular.ttf"),
];

/// Characters of a text that are looked at, at most: more never fit on a line.
const LONGEST: usize = 400;

/// Measures and draws text with the embedded fonts. Fonts of the system are looked up only once a text needs them, as that
/// takes longer than a whole picture; a character that no font has is drawn as an empty box.
pub struct Typesetter {
    fonts: FontSystem,
    cache: SwashCache,
    embedded: Vec<fontdb::ID>,
    system_loaded: bool,
}

impl std::fmt::Debug for Typesetter {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Typesetter").field("system_loaded", &self.system_loaded).finish_non_exhaustive()
    }
}

/// A line of text, or several where it wraps, ready to be drawn.
pub struct Line {
    buffer: Buffer,
    /// Width of the widest line in pixels.
    pub width: f32,
    /// Height of all lines in pixels.
    pub height: f32,
}

impl Default for Typesetter {
    fn default() -> Self {
        Self::new()
    }
}

impl Typesetter {
    /// A typesetter with the embedded fonts.
    pub fn new() -> Self {
        let mut database = fontdb::Database::new();
        let load = |font: &'static [u8]| database.load_font_source(Source::Binary(Arc::new(font)));
        let embedded = FONTS.into_iter().flat_map(load).collect();
        let fonts = FontSystem::new_with_locale_and_db("en".into(), database);
        Self { fonts, cache: SwashCache::new(), embedded, system_loaded: false }
    }

    /// Sets `text` at `size` pixels in at most `lines` lines of at most `width` pixels; what does not fit ends in an ellipsis.
    /// Line breaks and control characters count as spaces.
    pub fn set(&mut self, text: &str, size: f32, width: f32, lines: usize) -> Line {
        let mut text: String =
            text.chars().take(LONGEST).map(|character| if character.is_control() { ' ' } else { character }).collect();
        if text.trim().is_empty() {
            text = " ".into();
        }
        self.find_fonts(&text);
        let mut buffer = Buffer::new(&mut self.fonts, Metrics::new(size, (1.3 * size).ceil()));
        buffer.set_wrap(if lines > 1 { Wrap::WordOrGlyph } else { Wrap::None });
        buffer.set_ellipsize(Ellipsize::End(EllipsizeHeightLimit::Lines(lines.max(1))));
        buffer.set_size(Some(width.max(size)), None);
        let attrs = Attrs::new().family(Family::Name("Noto Sans")).weight(Weight::NORMAL);
        buffer.set_text(&text, &attrs, Shaping::Advanced, None);
        buffer.shape_until_scroll(&mut self.fonts, false);
        let (mut widest, mut height) = (0f32, 0f32);
        for run in buffer.layout_runs() {
            widest = widest.max(run.line_w);
            height = height.max(run.line_top + run.line_height);
        }
        Line { buffer, width: widest, height }
    }

    /// Draws `line` with its upper left corner at `(left, top)`; right-to-left text starts there too.
    pub fn draw(&mut self, canvas: &mut RgbImage, line: &Line, left: f32, top: f32, colour: [u8; 3]) {
        for run in line.buffer.layout_runs() {
            // A right-to-left line stands at the right end of the buffer; captions all start at the left.
            // Spaces that a break left at its start do not count.
            let visible = run.glyphs.iter().filter(|glyph| !run.text[glyph.start..glyph.end].trim().is_empty());
            let start = visible.map(|glyph| glyph.x).fold(f32::INFINITY, f32::min);
            let start = if start.is_finite() { start } else { 0.0 };
            for glyph in run.glyphs {
                let glyph = glyph.physical((left - start, top + run.line_y), 1.0);
                let Some(image) = self.cache.get_image(&mut self.fonts, glyph.cache_key).as_ref() else { continue };
                let (x, y) = (glyph.x + image.placement.left, glyph.y - image.placement.top);
                let width = image.placement.width.max(1);
                let at = |index: usize| {
                    (i64::from(x) + (index as u32 % width) as i64, i64::from(y) + (index as u32 / width) as i64)
                };
                if image.content == SwashContent::Color {
                    for (index, &[r, g, b, a]) in image.data.as_chunks::<4>().0.iter().enumerate() {
                        blend(canvas, at(index).0, at(index).1, [r, g, b], f32::from(a) / 255.0);
                    }
                } else {
                    for (index, &cover) in image.data.iter().enumerate() {
                        blend(canvas, at(index).0, at(index).1, colour, f32::from(cover) / 255.0);
                    }
                }
            }
        }
    }

    /// Loads the system's fonts if `text` has a character that the embedded ones lack.
    fn find_fonts(&mut self, text: &str) {
        if self.system_loaded {
            return;
        }
        let fonts: Vec<_> =
            self.embedded.iter().filter_map(|&id| self.fonts.get_font(id, fontdb::Weight::NORMAL)).collect();
        let known = |character: char| fonts.iter().any(|font| font.as_swash().charmap().map(character) != 0);
        let visible = |character: &char| !character.is_whitespace() && !character.is_control();
        if !text.chars().filter(visible).all(known) {
            self.fonts.db_mut().load_system_fonts();
            self.system_loaded = true;
        }
    }
}
