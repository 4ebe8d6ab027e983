//! What the pictures say of the places that the maps tell.

use super::bench::Drawn;
use super::spot::distance;
use crate::evidence::changed_pixels;
use crate::heatmap::{Filter, Resampler, THRESHOLD, region};
use crate::trace::Grid;
use image::{GrayImage, RgbImage};

/// The region of `map`, on `grid`, at the size of `image`: white from [`THRESHOLD`] times the
/// maximum on.
pub fn region_of(map: &[f32], grid: Grid, image: &RgbImage) -> GrayImage {
    let size = Grid::new(image.height() as usize, image.width() as usize);
    let map: Vec<f32> =
        Resampler::new(grid, size, Filter::Bicubic).resize(map).into_iter().map(|v: f32| v.max(0.0)).collect();
    region(&map, size, THRESHOLD)
}

/// The share of the white pixels of any of `regions` that differ between two images; 0 where none
/// is white.
pub fn changed_share_within(a: &RgbImage, b: &RgbImage, regions: &[GrayImage]) -> f64 {
    let changed = changed_pixels(a, b);
    let within = |at: usize| regions.iter().any(|region| region.as_raw()[at] > 0);
    let all: Vec<usize> = (0..changed.as_raw().len()).filter(|&at| within(at)).collect();
    let inside = all.iter().filter(|&&at| changed.as_raw()[at] > 0).count();
    inside as f64 / all.len().max(1) as f64
}

/// Where the map says that the thing moved by `near` or more, the share of its old and new region
/// that changed in the picture.
pub fn moved_share(before: &Drawn, after: &Drawn, grid: Grid, near: f64) -> Option<f64> {
    let moved = distance(before.spot.place()?, after.spot.place()?) >= near;
    let regions = || [region_of(&before.map, grid, &before.image), region_of(&after.map, grid, &after.image)];
    moved.then(|| changed_share_within(&before.image, &after.image, &regions()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::changed_share;
    use image::Rgb;

    #[test]
    fn what_changed_within_a_region_is_counted() {
        let plain = RgbImage::new(8, 8);
        let mut other = plain.clone();
        (0..4).for_each(|y| other.put_pixel(0, y, Rgb([200; 3])));
        let column = GrayImage::from_fn(8, 8, |x, _| image::Luma([if x == 0 { 255 } else { 0 }]));
        assert_eq!(changed_share_within(&plain, &other, &[column]), 0.5);
        assert_eq!((changed_share_within(&plain, &other, &[]), changed_share(&plain, &other)), (0.0, 4.0 / 64.0));
    }
}
