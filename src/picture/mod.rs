//! Pictures that come in: reading files, and bringing them and their masks to a size that a
//! checkpoint can take.

mod mask;
mod resize;
mod whole;

pub use mask::{Mask, check_shape, mask, read_mask};
pub use resize::resize;

use crate::trace::Grid;
use crate::{Error, Result, files};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use std::io::{Cursor, ErrorKind, Read};
use std::path::Path;

/// The kinds of pictures that are read, for messages.
const KINDS: &str = "png, jpeg or webp";

/// Bytes of a decoded picture beyond which a file is refused (some 350 megapixels of 8 bits).
const LARGEST: u64 = 1 << 30;

/// How many times longer than wide (or wider than long) a picture may be for [`fit`].
const THINNEST: usize = 8;

/// Reads a png, jpeg or webp file as 8-bit RGB, turned upright as its EXIF orientation says;
/// transparency is dropped, as `PIL.Image.convert("RGB")` does. `option` is the argument that named
/// the file, for messages.
///
/// # Errors
/// [`Error::Option`] when there is no such file, it is no picture of these kinds, or it is cut
/// short, damaged or too large.
pub fn read(path: &Path, option: &str) -> Result<RgbImage> {
    Ok(read_with_alpha(path, option)?.to_rgb8())
}

/// As [`read`], before the transparency is dropped.
fn read_with_alpha(path: &Path, option: &str) -> Result<DynamicImage> {
    let refuse = |reason: &str| Error::option(option, format!("{}: {reason}", path.display()));
    let mut bytes = Vec::new();
    let read = files::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    read.map_err(|error| match error.kind() {
        ErrorKind::NotFound => refuse(&format!("no such file; give a picture ({KINDS})")),
        ErrorKind::IsADirectory => refuse(&format!("a folder; give a picture ({KINDS})")),
        ErrorKind::InvalidInput => refuse(&format!("{error}; give a picture ({KINDS})")),
        _ => refuse(&format!("cannot be read ({error})")),
    })?;
    decode(&bytes).map_err(|reason| refuse(&reason))
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
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// The size in pixels at which a picture is shown to a checkpoint. `usual` is the checkpoint's own
/// size, and its VAE has `factor` pixels per latent cell.
///
/// A picture stays as it is when its sides are multiples of the factor and its area is between half
/// the usual one and twice it. Any other keeps its shape and is brought to the usual area, each
/// side rounded to the nearest multiple of the factor.
///
/// # Errors
/// [`Error::Option`] for a picture more than eight times as long as wide, which has no useful size
/// near the usual one.
pub fn fit(picture: Grid, usual: Grid, factor: usize, option: &str) -> Result<Grid> {
    let Grid { height, width } = picture;
    if height.min(width) * THINNEST < height.max(width) || height.min(width) == 0 {
        let reason =
            format!("{width}x{height} pixels are too long and thin to be shown whole; choose a size with --size");
        return Err(Error::option(option, reason));
    }
    let whole = height % factor == 0 && width % factor == 0;
    if whole && picture.cells() * 2 >= usual.cells() && picture.cells() <= usual.cells() * 2 {
        return Ok(picture);
    }
    let scale = (usual.cells() as f64 / picture.cells() as f64).sqrt();
    let side = |pixels: usize| ((pixels as f64 * scale / factor as f64).round() as usize).max(1) * factor;
    Ok(Grid::new(side(height), side(width)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pictures_of_a_good_size_stay_and_others_keep_their_shape() {
        let fit = |width, height| {
            let size = fit(Grid::new(height, width), Grid::new(512, 512), 8, "--init").unwrap();
            (size.width, size.height)
        };
        assert_eq!(fit(512, 512), (512, 512));
        assert_eq!(fit(640, 512), (640, 512));
        assert_eq!(fit(4000, 3000), (592, 440));
        assert_eq!(fit(300, 400), (440, 592));
        assert_eq!(fit(641, 512), (576, 456));
    }

    #[test]
    fn very_thin_pictures_are_refused() {
        let error = fit(Grid::new(10, 81), Grid::new(512, 512), 8, "--init").unwrap_err();
        assert!(error.to_string().contains("81x10") && error.to_string().contains("--size"), "{error}");
    }

    proptest! {
        #[test]
        fn sizes_are_multiples_near_the_usual_area(height in 1usize..5000, width in 1usize..5000) {
            let usual = Grid::new(512, 768);
            if let Ok(size) = fit(Grid::new(height, width), usual, 8, "--init") {
                prop_assert!(size.height % 8 == 0 && size.width % 8 == 0);
                let share = size.cells() as f64 / usual.cells() as f64;
                prop_assert!((0.49..=2.01).contains(&share), "{size:?}");
                let turned = (size.height as f64 / size.width as f64) / (height as f64 / width as f64);
                prop_assert!((0.9..1.1).contains(&turned), "{size:?}");
            }
        }
    }
}
