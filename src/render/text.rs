//! Text in pictures: shaping, right-to-left, fallback fonts, cutting with an ellipsis.

use super::canvas::blend;
use cosmic_text::fontdb::{self, Source};
use cosmic_text::{
    Attrs, Buffer, Ellipsize, EllipsizeHeightLimit, Family, FontSystem, Metrics, Shaping, SwashCache, SwashContent,
    Weight, Wrap,
};
use image::RgbImage;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The fonts in the binary (see `fonts/README.md`): Latin, Greek and Cyrillic; Devanagari; Arabic.
const FONTS: [&[u8]; 3] = [
    include_bytes!("fonts/NotoSans-Regular.ttf"),
    include_bytes!("fonts/NotoSansDevanagari-Regular.ttf"),
    include_bytes!("fonts/NotoSansArabic-Regular.ttf"),
];

/// Characters of a text that are looked at, at most: more never fit on a line.
const LONGEST: usize = 400;

/// Measures and draws text with the embedded fonts. Fonts of the system are looked up only once a
/// text needs them, as that takes longer than a whole picture. A character that no font has is
/// written as its code point, `U+4E2D`.
pub struct Typesetter {
    fonts: FontSystem,
    cache: SwashCache,
    embedded: Vec<fontdb::ID>,
    /// Whether the system's fonts may be looked up and have not been.
    system_to_load: bool,
    missing: BTreeSet<char>,
}

impl std::fmt::Debug for Typesetter {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Typesetter").field("missing", &self.missing).finish_non_exhaustive()
    }
}

/// A line of text, or several where it wraps, ready to be drawn.
pub struct TextLine {
    buffer: Buffer,
    /// The width that it was set for.
    room: f32,
    /// Pixels on each side of its box that letters may reach into, as those of most fonts do a
    /// little.
    overhang: f32,
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
    /// A typesetter with the embedded fonts, and the system's where a text needs them.
    pub fn new() -> Self {
        Self { system_to_load: true, ..Self::embedded() }
    }

    /// A typesetter with the embedded fonts alone, which draws the same on every machine.
    pub fn embedded() -> Self {
        let mut database = fontdb::Database::new();
        let load = |font: &'static [u8]| database.load_font_source(Source::Binary(Arc::new(font)));
        let embedded = FONTS.into_iter().flat_map(load).collect();
        let fonts = FontSystem::new_with_locale_and_db("en".into(), database);
        Self { fonts, cache: SwashCache::new(), embedded, system_to_load: false, missing: BTreeSet::new() }
    }

    /// Sets `text` at `size` pixels in at most `lines` lines of at most `width` pixels; what does
    /// not fit ends in an ellipsis. Line breaks and control characters count as spaces.
    pub fn set(&mut self, text: &str, size: f32, width: f32, lines: usize) -> TextLine {
        let mut text: String =
            text.chars().take(LONGEST).map(|character| if character.is_control() { ' ' } else { character }).collect();
        if text.trim().is_empty() {
            text = " ".into();
        }
        self.find_fonts(&text);
        let text = self.readable(text, size);
        let mut buffer = self.empty(size);
        buffer.set_wrap(if lines > 1 { Wrap::WordOrGlyph } else { Wrap::None });
        buffer.set_ellipsize(Ellipsize::End(EllipsizeHeightLimit::Lines(lines.max(1))));
        buffer.set_size(Some(width.max(size)), None);
        buffer.set_text(&text, &attributes(), Shaping::Advanced, None);
        buffer.shape_until_scroll(&mut self.fonts, false);
        let (mut widest, mut height) = (0f32, 0f32);
        for run in buffer.layout_runs() {
            widest = widest.max(run.line_w);
            height = height.max(run.line_top + run.line_height);
        }
        TextLine { buffer, room: width.max(0.0), overhang: 0.2 * size, width: widest.min(width.max(0.0)), height }
    }

    /// The characters that no font has, of all texts so far.
    pub fn missing(&self) -> &BTreeSet<char> {
        &self.missing
    }

    fn empty(&mut self, size: f32) -> Buffer {
        Buffer::new(&mut self.fonts, Metrics::new(size, (1.3 * size).ceil()))
    }

    /// `text` with the characters that no font has as code points.
    fn readable(&mut self, text: String, size: f32) -> String {
        if text.is_ascii() {
            return text;
        }
        // On one endless line: what an ellipsis hides would be looked for in vain.
        let mut shaped = self.empty(size);
        shaped.set_wrap(Wrap::None);
        shaped.set_text(&text, &attributes(), Shaping::Advanced, None);
        shaped.shape_until_scroll(&mut self.fonts, false);
        let mut absent = vec![false; text.len()];
        for run in shaped.layout_runs() {
            for glyph in run.glyphs.iter().filter(|glyph| glyph.glyph_id == 0) {
                absent[glyph.start..glyph.end].fill(true);
            }
        }
        // Fonts have what is Latin; a cluster may join it with a mark that they lack.
        text.char_indices().filter(|(_, character)| character.is_ascii()).for_each(|(at, _)| absent[at] = false);
        let lacks = |&(at, character): &(usize, char)| absent[at] && leaves_ink(character);
        let found: Vec<char> = text.char_indices().filter(lacks).map(|(_, character)| character).collect();
        if found.is_empty() {
            return text;
        }
        self.missing.extend(found);
        let mut readable = String::new();
        let mut after_code = false;
        for (at, character) in text.char_indices() {
            let ink = leaves_ink(character);
            // Joiners and selectors of what is not drawn say nothing more.
            if !ink && !character.is_whitespace() && (absent[at] || after_code) {
                continue;
            }
            let code = absent[at] && ink;
            if (code || after_code) && !readable.is_empty() && !readable.ends_with(' ') && character != ' ' {
                readable.push(' ');
            }
            match code {
                true => readable += &format!("U+{:04X}", u32::from(character)),
                false => readable.push(character),
            }
            after_code = code;
        }
        readable
    }

    /// Draws `line` with its upper left corner at `(left, top)`; right-to-left text starts there
    /// too. What would reach out of the lines' box by more than a fifth of the text's size is cut
    /// off. A heap of accents is such.
    pub fn draw(&mut self, canvas: &mut RgbImage, line: &TextLine, left: f32, top: f32, colour: [u8; 3]) {
        let over = if line.room > 0.0 { line.overhang } else { 0.0 };
        let (columns, rows) = (left - over..left + line.room + over, top - over..top + line.height + over);
        let inside = |x: i64, y: i64| columns.contains(&(x as f32 + 0.5)) && rows.contains(&(y as f32 + 0.5));
        for run in line.buffer.layout_runs() {
            // A right-to-left line stands at the right end of the buffer; captions all start at the
            // left. Spaces that a break left at its start do not count.
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
                        let (x, y) = at(index);
                        blend(canvas, x, y, [r, g, b], if inside(x, y) { f32::from(a) / 255.0 } else { 0.0 });
                    }
                } else {
                    for (index, &cover) in image.data.iter().enumerate() {
                        let (x, y) = at(index);
                        blend(canvas, x, y, colour, if inside(x, y) { f32::from(cover) / 255.0 } else { 0.0 });
                    }
                }
            }
        }
    }

    /// Loads the system's fonts if `text` has a character that the embedded ones lack.
    fn find_fonts(&mut self, text: &str) {
        if !self.system_to_load {
            return;
        }
        let fonts: Vec<_> =
            self.embedded.iter().filter_map(|&id| self.fonts.get_font(id, fontdb::Weight::NORMAL)).collect();
        let known = |character: char| fonts.iter().any(|font| font.as_swash().charmap().map(character) != 0);
        let visible = |character: &char| !character.is_whitespace() && !character.is_control();
        if !text.chars().filter(visible).all(known) {
            self.fonts.db_mut().load_system_fonts();
            self.system_to_load = false;
        }
    }
}

/// A warning of the characters of `text` that no font has and that pictures show as code points;
/// `None` where all can be drawn.
pub fn missing_glyphs(text: &str) -> Option<String> {
    /// Characters that are named, at most.
    const NAMED: usize = 8;
    if text.is_ascii() {
        return None;
    }
    let mut typesetter = Typesetter::new();
    typesetter.set(text, 12.0, 1.0, 1);
    let missing = typesetter.missing();
    let named: Vec<_> = missing.iter().take(NAMED).map(|character| format!("{character}")).collect();
    let more = if missing.len() > NAMED { format!(" and {} more", missing.len() - NAMED) } else { String::new() };
    (!missing.is_empty()).then(|| {
        format!(
            "no font here has {}{more}; pictures show code points instead (install a font for the script, such as \
            Noto, for letters)",
            named.join(" ")
        )
    })
}

/// The font that is looked in first.
fn attributes() -> Attrs<'static> {
    Attrs::new().family(Family::Name("Noto Sans")).weight(Weight::NORMAL)
}

/// Whether a character is seen by itself: no space, control, joiner, direction, variation selector
/// or tag.
fn leaves_ink(character: char) -> bool {
    let unseen = matches!(
        character,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{e0000}'..='\u{e0fff}'
    );
    !(unseen || character.is_whitespace() || character.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// `words` set at 12 pixels, and what they leave on a canvas from (20, 20) on: left, top, right
    /// and bottom, exclusive.
    fn drawn(text: &mut Typesetter, words: &str, width: f32, lines: usize) -> (TextLine, Option<[u32; 4]>) {
        let mut canvas = RgbImage::new(200, 60);
        let line = text.set(words, 12.0, width, lines);
        text.draw(&mut canvas, &line, 20.0, 20.0, [255; 3]);
        let inked = canvas.enumerate_pixels().filter(|(.., pixel)| **pixel != Rgb([0; 3]));
        let extent = inked.fold(None, |extent, (x, y, _)| {
            let [left, top, right, bottom] = extent.unwrap_or([x, y, 0, 0]);
            Some([left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)])
        });
        (line, extent)
    }

    #[test]
    fn no_text_leaves_its_box() {
        let zalgo = format!("Z{}a", "\u{301}\u{316}\u{334}".repeat(70));
        let long = "Donaudampfschifffahrtsgesellschaftskapitän".repeat(5);
        let texts = ["apple", &zalgo, &long, "تفاحة", "a\u{202e}bcdef ghijkl mnopq", "x \u{64b}\u{650}"];
        for words in texts {
            for (width, lines) in [(100.0, 1), (100.0, 2), (30.0, 1), (5.0, 1), (0.0, 1), (-8.0, 1)] {
                let (line, extent) = drawn(&mut Typesetter::embedded(), words, width, lines);
                let Some([left, top, right, bottom]) = extent else {
                    assert!(width < 30.0, "{words:?} is drawn at all");
                    continue;
                };
                // A fifth of 12 pixels may hang over.
                assert!(left >= 17 && top >= 17, "{words:?} at {width}: {left}, {top}");
                assert!(right as f32 <= 23.0 + width && bottom as f32 <= 23.0 + line.height, "{words:?} at {width}");
                assert!(line.width <= width.max(0.0) && line.height <= lines as f32 * 16.0, "{words:?} at {width}");
            }
        }
    }

    #[test]
    fn what_no_font_has_is_written_as_code_points() {
        let mut text = Typesetter::embedded();
        for (word, readable) in [
            ("中文", "U+4E2D U+6587"),
            ("a🐸b", "a U+1F438 b"),
            // Joiners and variation selectors are no signs of their own.
            ("👩\u{200d}🌾\u{fe0f}", "U+1F469 U+1F33E"),
        ] {
            let widths = [word, readable].map(|word| text.set(word, 12.0, 1000.0, 1).width);
            assert_eq!(widths[0], widths[1], "{word}");
        }
        assert_eq!(text.missing().iter().collect::<String>(), "中文🌾🐸👩");
        let mut text = Typesetter::embedded();
        for known in ["apple", "яблоко", "हिन्दी", "e\u{301}\u{301}", "a\u{200d}b\u{202e}", "تفاحة"]
        {
            text.set(known, 12.0, 1000.0, 1);
        }
        assert!(text.missing().is_empty(), "{:?}", text.missing());
    }

    #[test]
    fn fonts_of_the_system_are_used_where_they_are() {
        let mut text = Typesetter::new();
        text.set("ก中", 12.0, 1000.0, 1);
        let faces: Vec<_> = text.fonts.db().faces().map(|face| face.id).collect();
        let fonts: Vec<_> =
            faces.into_iter().filter_map(|id| text.fonts.get_font(id, fontdb::Weight::NORMAL)).collect();
        for character in ['ก', '中'] {
            let known = fonts.iter().any(|font| font.as_swash().charmap().map(character) != 0);
            assert_eq!(text.missing().contains(&character), !known, "{character}, {} fonts", fonts.len());
        }
    }
}
