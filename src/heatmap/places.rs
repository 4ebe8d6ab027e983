//! Where a map is high: the region, its separate places with a box each, its outlines, and Otsu's
//! threshold.

use super::layout::Bounds;
use crate::figures::largest;
use crate::trace::Grid;
use image::{GrayImage, ImageBuffer, Luma};
use imageproc::contours::{BorderType, find_contours};
use imageproc::contrast::otsu_level;
use imageproc::region_labelling::{Connectivity, connected_components};
use serde::{Deserialize, Serialize};

/// A place with less than this share of what its region holds is a speck, unless it is the largest.
pub const SPECK: f32 = 0.05;

/// A separate part of a region: cells that touch each other at a side or corner, and no others of
/// the region.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConnectedRegion {
    /// The box around it, edges from 0 to 1 of the image.
    pub bounds: Bounds,
    /// Its share of the image, 0 to 1.
    pub area: f32,
    /// Its share of what the whole region holds, 0 to 1.
    pub share: f32,
}

/// A closed line around a place, or around a hole in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// Whether what it encloses is a hole.
    pub hole: bool,
    /// Its corners `[x, y]`, centres of the cells at the border, in cells from the left and the top
    /// edge.
    pub points: Vec<[f32; 2]>,
}

/// The cells of `map` `[grid.height, grid.width]` that reach `threshold` times its maximum: 255,
/// the others 0. None of a map of zeros.
pub fn region(map: &[f32], grid: Grid, threshold: f32) -> GrayImage {
    let top = largest(map.iter().copied());
    let level = threshold * top;
    GrayImage::from_fn(grid.width as u32, grid.height as u32, |x, y| {
        let value = map[y as usize * grid.width + x as usize];
        Luma([if top > 0.0 && value >= level { 255 } else { 0 }])
    })
}

/// The separate places of a `region`, largest share first, specks left out (see [`SPECK`]). `map`
/// says what each cell holds.
pub fn places(region: &GrayImage, map: &[f32]) -> Vec<ConnectedRegion> {
    labelled(region, map).into_iter().map(|(place, _)| place).collect()
}

/// As [`places`], each with its own cells of the region: 255, the others 0.
pub fn place_masks(region: &GrayImage, map: &[f32]) -> Vec<(ConnectedRegion, GrayImage)> {
    let labels = components(region);
    let mask = |(place, label): (ConnectedRegion, u32)| {
        let cell = |x, y| Luma([if labels.get_pixel(x, y).0[0] == label { 255 } else { 0 }]);
        (place, GrayImage::from_fn(region.width(), region.height(), cell))
    };
    labelled(region, map).into_iter().map(mask).collect()
}

/// For each cell of a `region` the label of its connected component, 0 outside of the region.
fn components(region: &GrayImage) -> ImageBuffer<Luma<u32>, Vec<u32>> {
    match region.dimensions() {
        (0, _) | (_, 0) => ImageBuffer::new(0, 0),
        // imageproc refuses a picture of one cell.
        (1, 1) => ImageBuffer::from_pixel(1, 1, Luma([u32::from(region.get_pixel(0, 0).0[0] > 0)])),
        _ => connected_components(region, Connectivity::Eight, Luma([0])),
    }
}

/// The places with the label of each among the connected components.
fn labelled(region: &GrayImage, map: &[f32]) -> Vec<(ConnectedRegion, u32)> {
    let (width, height) = region.dimensions();
    if width == 0 || height == 0 {
        return Vec::new();
    }
    /// Left, top, right and bottom in cells, number of cells, and what they hold.
    type Found = ([u32; 4], u32, f64);
    let mut found: Vec<Found> = Vec::new();
    for (x, y, label) in components(region).enumerate_pixels() {
        let Some(index) = (label.0[0] as usize).checked_sub(1) else { continue };
        if found.len() <= index {
            found.resize(index + 1, ([width, height, 0, 0], 0, 0.0));
        }
        let ([left, top, right, bottom], count, holds) = found[index];
        let sides = [left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)];
        found[index] = (sides, count + 1, holds + f64::from(map[(y * width + x) as usize]));
    }
    let all: f64 = found.iter().map(|(_, _, holds)| holds).sum();
    let share = |part: f64| if all > 0.0 { (part / all) as f32 } else { 0.0 };
    let place = |&([left, top, right, bottom], count, holds): &Found| ConnectedRegion {
        bounds: Bounds {
            left: left as f32 / width as f32,
            top: top as f32 / height as f32,
            right: right as f32 / width as f32,
            bottom: bottom as f32 / height as f32,
        },
        area: count as f32 / (width * height) as f32,
        share: share(holds),
    };
    let mut places: Vec<(ConnectedRegion, u32)> = found.iter().map(place).zip(1..).collect();
    // Labels go from top to bottom, which decides among equals.
    places.sort_by(|(a, _), (b, _)| b.share.total_cmp(&a.share));
    let kept = places.iter().skip(1).take_while(|(place, _)| place.share >= SPECK).count();
    places.truncate(1 + kept);
    places
}

/// The outlines of a `region`, corners only.
pub fn outlines(region: &GrayImage) -> Vec<Outline> {
    let outline = |contour: imageproc::contours::Contour<i32>| {
        let centre = |at: i32| at as f32 + 0.5;
        let points = contour.points.iter().map(|point| [centre(point.x), centre(point.y)]).collect();
        Outline { hole: contour.border_type == BorderType::Hole, points: corners(points) }
    };
    find_contours::<i32>(region).into_iter().map(outline).collect()
}

/// `points` of a closed line without those on a straight line between their neighbours.
fn corners(points: Vec<[f32; 2]>) -> Vec<[f32; 2]> {
    let count = points.len();
    if count < 3 {
        return points;
    }
    let straight = |index: usize| {
        let [before, at, after] = [index + count - 1, index, index + 1].map(|index| points[index % count]);
        let (first, second) = ([at[0] - before[0], at[1] - before[1]], [after[0] - at[0], after[1] - at[1]]);
        // The same direction, and not back again.
        first[0] * second[1] == first[1] * second[0] && first[0] * second[0] + first[1] * second[1] > 0.0
    };
    (0..count).filter(|&index| !straight(index)).map(|index| points[index]).collect()
}

/// Otsu's threshold of a map, as a share of its maximum: where what is above and what is below
/// differ most (Otsu 1979). It is found on 256 levels; 0 for a map of zeros.
pub fn otsu(map: &[f32]) -> f32 {
    let top = largest(map.iter().copied());
    if top <= 0.0 {
        return 0.0;
    }
    let levels = map.iter().map(|value| (value / top * 255.0).round() as u8).collect();
    let image = GrayImage::from_raw(map.len() as u32, 1, levels);
    // Levels above the one that is found are the foreground; a level begins half below its number.
    image.map_or(0.0, |image| (f32::from(otsu_level(&image)) + 0.5) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: &[&str]) -> (Vec<f32>, Grid) {
        let digit = |byte: u8| f32::from(byte - b'0') / 9.0;
        let map = rows.iter().flat_map(|row| row.bytes().map(digit)).collect();
        (map, Grid::new(rows.len(), rows[0].len()))
    }

    #[test]
    fn two_apples_are_two_places() {
        let (map, grid) = map(&["0000000000", "0990000044", "0990000040", "0009000000", "0000000000"]);
        let region = region(&map, grid, 0.4);
        let places = places(&region, &map);
        let bounds = |left, top, right, bottom| Bounds { left, top, right, bottom };
        // Corners touch: the 9 at the lower right belongs to the block.
        assert_eq!(
            places.iter().map(|place| place.bounds).collect::<Vec<_>>(),
            [bounds(0.1, 0.2, 0.4, 0.8), bounds(0.8, 0.2, 1.0, 0.6)]
        );
        assert_eq!((places[0].area, places[1].area), (0.1, 0.06));
        assert!((places[0].share - 45.0 / 57.0).abs() < 1e-6);
    }

    #[test]
    fn a_map_of_one_cell_has_one_place_or_none() {
        let of = |value: f32| {
            let region = region(&[value], Grid::new(1, 1), 0.4);
            (places(&region, &[value]).len(), place_masks(&region, &[value]).len(), outlines(&region).len())
        };
        assert_eq!((of(1.0).0, of(1.0).1, of(0.0)), (1, 1, (0, 0, 0)));
    }

    #[test]
    fn specks_are_no_places_but_the_largest_is_one() {
        let (mut map, grid) = map(&["99999", "99999", "99999", "00000", "00004"]);
        assert_eq!(places(&region(&map, grid, 0.4), &map).len(), 1);
        map.iter_mut().for_each(|value| *value = 0.0);
        assert!(places(&region(&map, grid, 0.4), &map).is_empty());
        map[7] = 1e-9;
        let single = places(&region(&map, grid, 0.4), &map);
        assert_eq!((single.len(), single[0].share, single[0].area), (1, 1.0, 0.04));
    }

    #[test]
    fn outlines_go_round_places_and_holes() {
        let (map, grid) = map(&["0000000", "0999990", "0900090", "0900090", "0999990", "0000000"]);
        let outlines = outlines(&region(&map, grid, 0.4));
        assert_eq!(outlines.iter().map(|outline| outline.hole).collect::<Vec<_>>(), [false, true]);
        let mut corners = outlines[0].points.clone();
        corners.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert_eq!(corners, [[1.5, 1.5], [1.5, 4.5], [5.5, 1.5], [5.5, 4.5]]);
    }

    #[test]
    fn otsu_parts_the_high_from_the_low() {
        let mut map = vec![0.1f32; 90];
        map.extend([0.9; 10]);
        let level = otsu(&map);
        assert!(level > 0.1 / 0.9 && level < 1.0, "{level}");
        assert_eq!(region(&map, Grid::new(10, 10), level).pixels().filter(|pixel| pixel.0[0] > 0).count(), 10);
        assert_eq!(otsu(&[0.0; 4]), 0.0);
        assert!(otsu(&[0.5; 4]) < 0.01);
    }
}
