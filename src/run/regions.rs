//! The region of each word for other programs: black and white masks, outlines as SVG or JSON, and
//! one COCO file for the run.

use super::record::numbered;
use crate::argument::RUN;
use crate::figures;
use crate::files::{check_own, write_file, write_json};
use crate::heatmap::{ConnectedRegion, Filter, Heatmaps, Outline, Resampler, otsu, outlines, place_masks, region};
use crate::render::{outline_svg, write_gray_png};
use crate::trace::{Grid, WordInfo};
use crate::{Error, Result};
use image::GrayImage;
use serde::Serialize;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of these files in a run.
pub const REGIONS: &str = "regions";

const OUTLINES: &str = "outlines.json";
const COCO: &str = "coco.json";

/// Where the region of a word's map begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// At this share of the map's maximum, 0 to 1.
    Share(f32),
    /// At Otsu's threshold of each map.
    Otsu,
}

/// Which files are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionFiles {
    /// `NN-word.png`, white where the word's region is, at the image's size; and `coco.json`.
    pub masks: bool,
    /// `NN-word.svg`.
    pub svg: bool,
    /// `outlines.json`.
    pub json: bool,
}

/// The region of one word on the image.
#[derive(Debug, Clone, Serialize)]
pub struct WordRegion {
    /// The word, numbered where it stands in the prompt several times.
    pub word: String,
    /// Where the region begins, as a share of the map's maximum.
    pub threshold: f32,
    /// Share of the image, 0 to 1.
    pub area: f32,
    /// The separate places, largest share of the region's attention first.
    pub places: Vec<ConnectedRegion>,
    /// The lines around places and holes, in pixels of the image.
    pub outlines: Vec<Outline>,
    /// White where the region is.
    #[serde(skip)]
    pub mask: GrayImage,
    /// The places again, each with white where it is.
    #[serde(skip)]
    pub place_masks: Vec<(ConnectedRegion, GrayImage)>,
}

/// The region of each chosen word of `maps` at the size of `image`: the map is resized (bicubic)
/// before it is cut.
pub fn word_regions(maps: &Heatmaps, image: Grid, threshold: Threshold) -> Vec<WordRegion> {
    let resampler = Resampler::new(maps.grid, image, Filter::Bicubic);
    let one = |(index, word): (usize, &WordInfo)| {
        let map: Vec<f32> = resampler.resize(maps.word(index)).into_iter().map(|value: f32| value.max(0.0)).collect();
        let threshold = match threshold {
            Threshold::Share(share) => share,
            Threshold::Otsu => otsu(&map),
        };
        let mask = region(&map, image, threshold);
        let white = mask.pixels().filter(|pixel| pixel.0[0] > 0).count();
        let place_masks = place_masks(&mask, &map);
        WordRegion {
            word: word.label(),
            threshold,
            area: white as f32 / image.cells().max(1) as f32,
            places: place_masks.iter().map(|(place, _)| *place).collect(),
            outlines: outlines(&mask),
            mask,
            place_masks,
        }
    };
    maps.chosen.iter().enumerate().map(one).collect()
}

/// Writes the asked `files` of `regions` into the folder `regions` of the run folder `folder`.
/// Returns their paths.
///
/// # Errors
/// [`Error::Argument`] where a file that attnmap did not write is in the way, before any is
/// written; [`Error::Io`].
pub fn write_regions(folder: &Path, regions: &[WordRegion], image: Grid, files: RegionFiles) -> Result<Vec<PathBuf>> {
    let folder = folder.join(REGIONS);
    let place = |index: usize, word: &WordRegion, kind: &str| {
        folder.join(format!("{}.{kind}", numbered(index, regions.len(), &word.word)))
    };
    let words = || regions.iter().enumerate();
    let masks: Vec<_> =
        words().filter(|_| files.masks).map(|(index, word)| (place(index, word, "png"), word)).collect();
    let pictures: Vec<_> =
        words().filter(|_| files.svg).map(|(index, word)| (place(index, word, "svg"), word)).collect();
    let version = env!("CARGO_PKG_VERSION");
    let all = json!({"attnmap": version, "width": image.width, "height": image.height, "words": regions});
    let json = [(files.json, folder.join(OUTLINES), all), (files.masks, folder.join(COCO), coco(regions, image))];
    let json: Vec<_> = json.into_iter().filter(|(asked, ..)| *asked).map(|(_, path, value)| (path, value)).collect();
    let paths = masks.iter().chain(&pictures).map(|(path, _)| path).chain(json.iter().map(|(path, _)| path));
    let paths: Vec<PathBuf> = paths.cloned().collect();
    paths.iter().try_for_each(|path| check_own(path, RUN))?;
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    for (path, word) in &masks {
        write_gray_png(path, &word.mask, &[("Description", &word.word)])?;
    }
    for (path, word) in &pictures {
        let picture = outline_svg(&word.outlines, image, &word.word);
        write_file(path, |file| file.write_all(picture.as_bytes()))?;
    }
    for (path, value) in &json {
        write_json(path, value)?;
    }
    // Those of words that were chosen before would pass for this choice's.
    let kinds = [(files.masks, "png"), (files.svg, "svg")];
    let asked =
        |path: &Path| kinds.iter().any(|(asked, kind)| *asked && path.extension().is_some_and(|has| has == *kind));
    for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if asked(&path) && !paths.contains(&path) && check_own(&path, RUN).is_ok() {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(paths)
}

/// Which regions the run folder `folder` has, and where they begin: at a share of their maps where
/// all begin at the same one. `usual` is that share where no file tells. `None` where it has none.
pub(super) fn there(folder: &Path, usual: f32) -> Option<(Threshold, RegionFiles)> {
    let folder = folder.join(REGIONS);
    let names = fs::read_dir(&folder).ok()?.flatten().map(|entry| entry.path());
    let own: Vec<PathBuf> = names.filter(|path| check_own(path, RUN).is_ok()).collect();
    let has = |name: &str| own.contains(&folder.join(name));
    let svg = own.iter().any(|path| path.extension().is_some_and(|kind| kind == "svg"));
    let files = RegionFiles { masks: has(COCO), svg, json: has(OUTLINES) };
    let thresholds = |file: &str, list: &str| -> Option<Vec<f64>> {
        let all: serde_json::Value = serde_json::from_slice(&crate::files::read(&folder.join(file)).ok()?).ok()?;
        all[list].as_array()?.iter().map(|word| word["threshold"].as_f64()).collect()
    };
    let told = thresholds(OUTLINES, "words").or_else(|| thresholds(COCO, "categories"));
    let threshold = match told.as_deref() {
        Some([first, rest @ ..]) if rest.iter().all(|other| other == first) => Threshold::Share(*first as f32),
        Some([_, ..]) => Threshold::Otsu,
        _ => Threshold::Share(usual),
    };
    (files != RegionFiles::default()).then_some((threshold, files))
}

/// The regions in the format of the COCO data set. A category is a word, with the number of its
/// separate places and where its region begins. An annotation is a place, with its pixels as run
/// lengths down the columns and its box. It also has its share of what the word's region holds.
fn coco(regions: &[WordRegion], image: Grid) -> serde_json::Value {
    let Grid { height, width } = image;
    let mut annotations = Vec::new();
    for (index, word) in regions.iter().enumerate() {
        for (place, mask) in &word.place_masks {
            let counts = run_lengths(mask);
            let area: usize = counts.iter().skip(1).step_by(2).sum();
            annotations.push(json!({
                "id": annotations.len() + 1,
                "image_id": 1,
                "category_id": index + 1,
                "bbox": around(mask),
                "area": area,
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": counts},
                "share": place.share,
            }));
        }
    }
    let category = |(index, word): (usize, &WordRegion)| {
        let places = word.place_masks.len();
        json!({"id": index + 1, "name": word.word, "places": places, "threshold": word.threshold})
    };
    json!({
        "attnmap": env!("CARGO_PKG_VERSION"),
        "images": [{"id": 1, "file_name": "image.png", "width": width, "height": height}],
        "categories": regions.iter().enumerate().map(category).collect::<Vec<_>>(),
        "annotations": annotations,
    })
}

/// Left, top, width and height in pixels of what is white.
fn around(mask: &GrayImage) -> [u32; 4] {
    let white = || mask.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0] > 0);
    let ends = |at: fn((u32, u32)) -> u32| {
        let all = || white().map(|(x, y, _)| at((x, y)));
        (all().min().unwrap_or(0), all().max().map_or(0, |last| last + 1))
    };
    let ((left, right), (top, bottom)) = (ends(|(x, _)| x), ends(|(_, y)| y));
    [left, top, right - left, bottom - top]
}

/// Lengths of runs of black and white in turn, black first, down one column after another.
fn run_lengths(mask: &GrayImage) -> Vec<usize> {
    let columns = (0..mask.width()).flat_map(|x| (0..mask.height()).map(move |y| (x, y)));
    figures::run_lengths(columns.map(|(x, y)| mask.get_pixel(x, y).0[0] > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    #[test]
    fn runs_go_down_the_columns_and_begin_with_black() {
        let mut mask = GrayImage::new(3, 2);
        mask.put_pixel(0, 0, Luma([255]));
        mask.put_pixel(1, 1, Luma([255]));
        assert_eq!(run_lengths(&mask), [0, 1, 2, 1, 2]);
        assert_eq!(around(&mask), [0, 0, 2, 2]);
        assert_eq!(run_lengths(&GrayImage::new(3, 2)), [6]);
        assert_eq!(around(&GrayImage::new(3, 2)), [0, 0, 0, 0]);
    }
}
