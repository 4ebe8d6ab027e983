//! Where two images of one size differ, and by how much.

use crate::heatmap::{Bounds, ConnectedRegion, places};
use image::{DynamicImage, GrayImage, Luma, RgbImage};
use imageproc::distance_transform::Norm;
use imageproc::morphology::open;

/// A pixel counts as changed when one of its channels differs by at least this share of the full
/// scale.
pub const CHANGED: f32 = 0.1;

/// The share of the image `a` that differs in `b`, of the same size, 0 to 1. A pixel differs where
/// a channel does by [`CHANGED`] or more.
pub fn changed_share(a: &RgbImage, b: &RgbImage) -> f64 {
    area(&difference(a, b).0)
}

/// The share of a difference that reaches [`CHANGED`], 0 to 1.
pub(super) fn area(difference: &RgbImage) -> f64 {
    share(&reaching(difference))
}

/// The share of `mask` that is white, 0 to 1.
fn share(mask: &GrayImage) -> f64 {
    mask.as_raw().iter().filter(|&&value| value > 0).count() as f64 / mask.as_raw().len().max(1) as f64
}

/// The absolute difference, channel by channel, and its mean, 0 to 1.
pub(super) fn difference(a: &RgbImage, b: &RgbImage) -> (RgbImage, f64) {
    let mut difference = a.clone();
    let mut sum = 0u64;
    for (x, y, pixel) in difference.enumerate_pixels_mut() {
        let other = b.get_pixel(x, y);
        pixel.0.iter_mut().zip(other.0).for_each(|(value, other)| *value = value.abs_diff(other));
        sum += pixel.0.iter().map(|&value| u64::from(value)).sum::<u64>();
    }
    let count = (a.as_raw().len().max(1)) as f64;
    (difference, sum as f64 / 255.0 / count)
}

/// What changed of an image.
pub(super) struct Changed {
    /// White where a channel differs by [`CHANGED`] or more, else black.
    pub(super) region: RgbImage,
    /// Share of the image that is white, 0 to 1.
    pub(super) area: f64,
    /// The separate places, largest first, specks left out.
    pub(super) places: Vec<ConnectedRegion>,
}

impl Changed {
    /// The box around all places.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        let around = |a: Bounds, b: Bounds| Bounds {
            left: a.left.min(b.left),
            top: a.top.min(b.top),
            right: a.right.max(b.right),
            bottom: a.bottom.max(b.bottom),
        };
        self.places.iter().map(|place| place.bounds).reduce(around)
    }
}

/// White where a channel of two images of one size differs by [`CHANGED`] or more, else black.
pub(crate) fn changed_pixels(a: &RgbImage, b: &RgbImage) -> GrayImage {
    reaching(&difference(a, b).0)
}

/// White where a channel of a difference reaches [`CHANGED`], else black.
fn reaching(difference: &RgbImage) -> GrayImage {
    let (width, height) = difference.dimensions();
    let mut mask = GrayImage::new(width, height);
    for (pixel, out) in difference.pixels().zip(mask.pixels_mut()) {
        let reaches = pixel.0.iter().any(|&value| f32::from(value) >= CHANGED * 255.0);
        *out = Luma([if reaches { 255 } else { 0 }]);
    }
    mask
}

/// The region of a difference that reaches [`CHANGED`].
///
/// Places are what is left of it after an opening (erosion, then dilation) by a 128th of the
/// image's short side. So a lone pixel at the edge does not stretch a box over the whole image.
/// Where nothing is left, all of it counts.
pub(super) fn changed(difference: &RgbImage) -> Changed {
    let (width, height) = difference.dimensions();
    let mask = reaching(difference);
    let radius = (width.min(height) / 128).clamp(1, u32::from(u8::MAX)) as u8;
    let opened = open(&mask, Norm::LInf, radius);
    let solid = if opened.pixels().any(|pixel| pixel.0[0] > 0) { &opened } else { &mask };
    // Every pixel counts the same.
    let places = places(solid, &vec![1.0; solid.len()]);
    let area = share(&mask);
    Changed { region: DynamicImage::ImageLuma8(mask).to_rgb8(), area, places }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn a_region_is_where_a_channel_differs_enough() {
        let mut other = RgbImage::new(10, 5);
        other.put_pixel(3, 2, Rgb([0, 26, 0]));
        other.put_pixel(4, 2, Rgb([0, 0, 255]));
        other.put_pixel(9, 4, Rgb([25, 25, 25]));
        let (difference, mean) = difference(&RgbImage::new(10, 5), &other);
        let changed = changed(&difference);
        let bounds = changed.bounds();
        let Changed { region, area, places } = changed;
        assert!((mean - f64::from(26 + 255 + 75) / 255.0 / 150.0).abs() < 1e-12);
        assert_eq!((area, region.get_pixel(3, 2).0, region.get_pixel(9, 4).0), (0.04, [255; 3], [0; 3]));
        assert_eq!(bounds, Some(Bounds { left: 0.3, top: 0.4, right: 0.5, bottom: 0.6 }));
        assert_eq!(places.len(), 1);
    }

    #[test]
    fn a_speck_does_not_stretch_the_box() {
        let mut difference = RgbImage::new(100, 50);
        let mut fill = |left: u32, top: u32, side: u32| {
            for at in 0..side * side {
                difference.put_pixel(left + at % side, top + at / side, Rgb([255; 3]));
            }
        };
        fill(10, 10, 10);
        fill(40, 20, 8);
        fill(99, 0, 1);
        fill(0, 49, 1);
        let changed = changed(&difference);
        assert_eq!(changed.area, f64::from(100 + 64 + 2) / 5000.0);
        let bounds = |left, top, right, bottom| Bounds { left, top, right, bottom };
        let places: Vec<Bounds> = changed.places.iter().map(|place| place.bounds).collect();
        assert_eq!(places, [bounds(0.1, 0.2, 0.2, 0.4), bounds(0.4, 0.4, 0.48, 0.56)]);
        assert_eq!(changed.bounds(), Some(bounds(0.1, 0.2, 0.48, 0.56)));
        assert_eq!(changed.region.get_pixel(99, 0).0, [255; 3]);
    }
}
