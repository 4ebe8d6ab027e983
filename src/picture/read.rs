//! Reading of picture files: png, jpeg and webp, whole, upright and of a bounded size.

use super::metadata::{Metadata, metadata};
use super::whole;
use crate::argument::Argument;
use crate::{Error, Result, files};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use std::io::{Cursor, ErrorKind, Read};
use std::path::Path;

/// The kinds of pictures that are read, for messages.
const KINDS: &str = "png, jpeg or webp";

/// Bytes of a decoded picture beyond which a file is refused (some 350 megapixels of 8 bits).
const LARGEST: u64 = 1 << 30;

/// Reads a png, jpeg or webp file as 8-bit RGB, turned upright as its EXIF orientation says;
/// transparency is dropped, as `PIL.Image.convert("RGB")` does. `argument` is the argument that
/// named the file, for messages.
///
/// # Errors
/// [`Error::Argument`] when there is no such file, it is no picture of these kinds, or it is cut
/// short, damaged or too large.
pub fn read(path: &Path, argument: Argument) -> Result<RgbImage> {
    Ok(read_with_alpha(path, argument)?.to_rgb8())
}

/// What the [`metadata`] of the picture file at `path` says.
///
/// # Errors
/// As [`read`] for a file that cannot be read; metadata that tells nothing is no failure.
pub fn read_metadata(path: &Path, argument: Argument) -> Result<Result<Option<Metadata>, String>> {
    Ok(metadata(&read_bytes(path, argument)?))
}

/// As [`read`], with what the user may not expect of the picture, in a line: what was transparent
/// now shows the colours beneath.
///
/// # Errors
/// As [`read`].
pub fn read_opaque(path: &Path, argument: Argument) -> Result<(RgbImage, Option<String>)> {
    let given = read_with_alpha(path, argument)?;
    let warning = is_see_through(&given).then(|| {
        format!(
            "{argument:#} {}: its transparency was dropped, and the colours beneath count; lay it over a \
             background first",
            path.display()
        )
    });
    Ok((given.to_rgb8(), warning))
}

/// Whether a part of `picture` is transparent.
pub(super) fn is_see_through(picture: &DynamicImage) -> bool {
    picture.color().has_alpha() && picture.to_rgba8().pixels().any(|pixel| pixel.0[3] < 255)
}

/// As [`read`], before the transparency is dropped.
pub(super) fn read_with_alpha(path: &Path, argument: Argument) -> Result<DynamicImage> {
    decode(&read_bytes(path, argument)?).map_err(|reason| refused(path, argument, &reason))
}

fn refused(path: &Path, argument: Argument, reason: &str) -> Error {
    Error::argument(argument, format!("{}: {reason}", path.display()))
}

/// The bytes of a picture file.
fn read_bytes(path: &Path, argument: Argument) -> Result<Vec<u8>> {
    let refuse = |reason: &str| refused(path, argument, reason);
    let mut bytes = Vec::new();
    let read = files::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    read.map_err(|error| match error.kind() {
        ErrorKind::NotFound => refuse(&format!("no such file; give a picture ({KINDS})")),
        ErrorKind::IsADirectory => refuse(&format!("a folder; give a picture ({KINDS})")),
        ErrorKind::InvalidInput => refuse(&format!("{error}; give a picture ({KINDS})")),
        _ => refuse(&format!("cannot be read ({error})")),
    })?;
    Ok(bytes)
}

/// The picture in `bytes`, a whole png, jpeg or webp file, turned upright. The first one of an
/// animation.
///
/// # Errors
/// What is wrong with it, to be said after the file's name.
pub fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    let format = match reader.format() {
        Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => format,
        Some(other) => {
            let kind = other.extensions_str().first().copied().unwrap_or("other");
            return Err(format!("a {kind} picture, and only png, jpeg and webp can be read; save it as one of these"));
        }
        None if bytes.is_empty() => return Err("empty; give a picture (png, jpeg or webp)".into()),
        None => return Err("not a picture that can be read; png, jpeg and webp can".into()),
    };
    if !whole::is_whole(bytes, format) {
        return Err("cut short: the end of the picture is missing; copy or save it again".into());
    }
    // Some decoders end their message with a line break.
    let damaged = |error: image::ImageError| format!("cannot be read as a picture ({})", error.to_string().trim_end());
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    if decoder.total_bytes() > LARGEST {
        let (width, height) = decoder.dimensions();
        return Err(format!("{width}x{height} pixels are too many; make it smaller first"));
    }
    // WebP files of some programs have JPEG's marker before the TIFF header. The decoder's own rule
    // finds no orientation there.
    let exif = decoder.exif_metadata().map_err(damaged)?.unwrap_or_default();
    let orientation = Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif));
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(image)
}
