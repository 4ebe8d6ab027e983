//! Pictures made small enough to travel in the page: what a run set out from and its mask, and the
//! sheet of its words.

use super::data::{ImageData, StartPicture};
use crate::picture;
use crate::pipeline::Init;
use image::codecs::jpeg::JpegEncoder;
use image::{GrayImage, ImageFormat, RgbImage, imageops};
use std::io::Cursor;

/// The longer side in pixels, at most.
const LONGEST: u32 = 512;

/// The longer side of the sheet of words in pixels, at most.
const SHEET: u32 = 1400;

/// JPEG's quality, 1 to 100.
const QUALITY: u8 = 88;

/// `init` as the page shows it.
pub(super) fn start(init: &Init) -> Option<StartPicture> {
    Some(StartPicture {
        name: init.name.clone(),
        strength: init.strength,
        picture: jpeg(&init.image, LONGEST, picture::resize)?,
        mask: match &init.mask {
            Some(mask) => Some(drawn_anew(mask)?),
            None => None,
        },
    })
}

/// The sheet of a run's words for the page: JPEG, its longer side at most 1400 pixels. `None` for
/// what is no picture.
pub(super) fn sheet(png: &[u8]) -> Option<ImageData> {
    // It is seen without a script alone: the fast way is good enough.
    jpeg(&image::load_from_memory(png).ok()?.to_rgb8(), SHEET, imageops::thumbnail)
}

/// `image` with a longer side of at most `longest`, made smaller by `reduce`, as JPEG.
fn jpeg(image: &RgbImage, longest: u32, reduce: fn(&RgbImage, u32, u32) -> RgbImage) -> Option<ImageData> {
    let (width, height) = image.dimensions();
    let scale = (f64::from(longest) / f64::from(width.max(height))).min(1.0);
    let [w, h] = [width, height].map(|side| ((f64::from(side) * scale).round() as u32).max(1));
    let small = if scale < 1.0 { reduce(image, w, h) } else { image.clone() };
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(&small).ok()?;
    Some(ImageData { mime: "image/jpeg", bytes, width: w as usize, height: h as usize })
}

/// The mask, black and white, as PNG.
fn drawn_anew(mask: &GrayImage) -> Option<ImageData> {
    let (width, height) = (mask.width() as usize, mask.height() as usize);
    let mut bytes = Cursor::new(Vec::new());
    mask.write_to(&mut bytes, ImageFormat::Png).ok()?;
    Some(ImageData { mime: "image/png", bytes: bytes.into_inner(), width, height })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Luma, Rgb};

    #[test]
    fn large_pictures_are_made_small_in_their_own_shape() {
        let init = |width, height| Init {
            image: RgbImage::from_fn(width, height, |x, _| Rgb([(x * 255 / width) as u8, 0, 0])),
            name: "photo.jpg".into(),
            strength: 0.5,
            mask: Some(GrayImage::from_fn(width, height, |x, _| Luma([if x < width / 2 { 0 } else { 255 }]))),
        };
        let large = start(&init(1024, 640)).unwrap();
        assert_eq!((large.picture.width, large.picture.height), (512, 320));
        let picture = image::load_from_memory(&large.picture.bytes).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (512, 320));
        assert!(picture.get_pixel(10, 160).0[0] < 40 && picture.get_pixel(500, 160).0[0] > 215);
        let mask = image::load_from_memory(&large.mask.unwrap().bytes).unwrap().to_luma8();
        assert_eq!((mask.get_pixel(500, 0).0[0], mask.get_pixel(600, 0).0[0]), (0, 255));
        assert_eq!(start(&init(96, 64)).unwrap().picture.width, 96);
    }
}
