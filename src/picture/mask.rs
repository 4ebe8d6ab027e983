//! Masks: which part of a picture is drawn anew.

use super::read::{is_see_through, read_with_alpha};
use super::resize::resize;
use crate::argument::Argument;
use crate::trace::Grid;
use crate::{Error, Result};
use image::{GrayImage, Luma, RgbImage};
use std::path::Path;

/// The mask that `picture` is at `width` x `height` pixels: 255 where it is white, else 0. White is
/// at least half of full brightness, as Pillow weighs colours. As diffusers' mask processor:
/// resized first, then made grey and cut at 0.5.
pub fn mask(picture: &RgbImage, width: u32, height: u32) -> GrayImage {
    let picture = resize(picture, width, height);
    GrayImage::from_fn(width, height, |x, y| {
        let [red, green, blue] = picture.get_pixel(x, y).0.map(u32::from);
        // Pillow's `L24`: the weights of ITU-R 601-2 in 16-bit fixed point.
        let grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
        Luma([if grey >= 128 { 255 } else { 0 }])
    })
}

/// A mask as a user gave it.
#[derive(Debug, Clone)]
pub struct Mask {
    /// The picture; [`mask`] cuts it into black and white.
    pub picture: RgbImage,
    /// What the user may not expect of it, in a line.
    pub warning: Option<String>,
}

/// Reads the mask at `path`, which `argument` named, for a picture of `picture` pixels. Its
/// transparency is dropped, as diffusers does.
///
/// # Errors
/// As [`read`](super::read()), and [`check_shape`].
pub fn read_mask(path: &Path, picture: Grid, argument: Argument) -> Result<Mask> {
    let given = read_with_alpha(path, argument)?;
    let rgb = given.to_rgb8();
    check_shape(&rgb, picture, &format!("{argument:#} {}", path.display()))?;
    let warning = is_see_through(&given).then(|| {
        let white = mask(&rgb, rgb.width(), rgb.height());
        let share = white.as_raw().iter().filter(|value| **value > 0).count() as f64 / white.as_raw().len() as f64;
        format!(
            "{argument:#} {}: its transparency was dropped, and the colours beneath count: {:.0} % of it is white; \
             paint a mask in black and white",
            path.display(),
            100.0 * share
        )
    });
    Ok(Mask { picture: rgb, warning })
}

/// Refuses a mask of another shape than its picture: it belongs to another picture.
///
/// # Errors
/// [`Error::Input`] on `what` when the ratios of their sides differ by more than a fiftieth.
pub fn check_shape(mask: &RgbImage, picture: Grid, what: &str) -> Result<()> {
    let (height, width) = (mask.height() as usize, mask.width() as usize);
    let (a, b) = (width * picture.height, height * picture.width);
    if a.abs_diff(b) * 50 > a.max(b) {
        let reason = format!(
            "the mask has {width}x{height} pixels, the picture {}x{}: give one of the same shape",
            picture.width, picture.height
        );
        return Err(Error::input(what, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_white_is_white() {
        let grey = |value: u8| mask(&RgbImage::from_pixel(1, 1, image::Rgb([value; 3])), 1, 1).as_raw()[0];
        assert_eq!((grey(0), grey(127), grey(128), grey(255)), (0, 0, 255, 255));
        // Pure green is brighter than half, pure red and blue are not.
        let pure = |channel: usize| {
            let mut colour = [0; 3];
            colour[channel] = 255;
            mask(&RgbImage::from_pixel(1, 1, image::Rgb(colour)), 1, 1).as_raw()[0]
        };
        assert_eq!((pure(0), pure(1), pure(2)), (0, 255, 0));
    }

    #[test]
    fn masks_of_another_shape_are_refused() {
        let mask = RgbImage::new(100, 50);
        assert!(check_shape(&mask, Grid::new(512, 1024), "--mask").is_ok());
        assert!(check_shape(&mask, Grid::new(508, 1024), "--mask").is_ok());
        let error = check_shape(&mask, Grid::new(64, 64), "--mask").unwrap_err().to_string();
        assert!(error.contains("100x50") && error.contains("64x64"), "{error}");
    }
}
