//! PNG files with text chunks, written whole or not at all.

use crate::files::{MARK, write_file};
use crate::{Error, Result};
use image::{GrayImage, RgbImage};
use std::io;
use std::path::Path;

/// Writes `image` to `path` with `texts` (keyword, text) as UTF-8 text chunks, and with [`MARK`] as
/// its software. `fast` trades a third more bytes for a several times faster encoding.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_png(path: &Path, image: &RgbImage, texts: &[(&str, &str)], fast: bool) -> Result<()> {
    let mut bytes = Vec::new();
    let size = image.dimensions();
    let encoded = encode(&mut bytes, (png::ColorType::Rgb, size, image.as_raw()), texts, fast);
    encoded.map_err(|error| Error::io(path)(io::Error::other(error)))?;
    write_file(path, |file| file.write_all(&bytes))
}

/// As [`write_png`] for a picture in grey, e.g. a mask.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_gray_png(path: &Path, image: &GrayImage, texts: &[(&str, &str)]) -> Result<()> {
    let mut bytes = Vec::new();
    let encoded = encode(&mut bytes, (png::ColorType::Grayscale, image.dimensions(), image.as_raw()), texts, true);
    encoded.map_err(|error| Error::io(path)(io::Error::other(error)))?;
    write_file(path, |file| file.write_all(&bytes))
}

fn encode(
    bytes: &mut Vec<u8>,
    (colour, (width, height), pixels): (png::ColorType, (u32, u32), &[u8]),
    texts: &[(&str, &str)],
    fast: bool,
) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(bytes, width, height);
    encoder.set_color(colour);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(if fast { png::Compression::Fast } else { png::Compression::Balanced });
    for (keyword, text) in [("Software", MARK)].iter().chain(texts) {
        // A zero byte would end the text for some readers.
        encoder.add_itxt_chunk(keyword.to_string(), text.replace('\0', "\u{fffd}"))?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()
}

/// The text of a PNG file's chunk `keyword`, if it has one.
///
/// # Errors
/// [`Error::Io`] when the file cannot be opened, [`Error::Trace`] when it is no PNG.
pub fn png_text(path: &Path, keyword: &str) -> Result<Option<String>> {
    let file = crate::files::open(path).map_err(Error::io(path))?;
    let damaged = |error: png::DecodingError| Error::Trace { file: path.to_path_buf(), reason: error.to_string() };
    let mut reader = png::Decoder::new(io::BufReader::new(file)).read_info().map_err(damaged)?;
    // Text chunks may follow the picture.
    reader.finish().map_err(damaged)?;
    let chunk = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == keyword);
    chunk.map(|chunk| chunk.get_text().map_err(damaged)).transpose()
}
