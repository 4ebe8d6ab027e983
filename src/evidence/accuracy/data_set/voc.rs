//! The layout of the PASCAL VOC challenge (2012): `JPEGImages/ID.jpg`, `SegmentationClass/ID.png`
//! in the challenge's colours, and which of them count in `ImageSets/Segmentation/val.txt`.

use super::labels::{BACKGROUND, Labels, VOID, wrong};
use crate::argument::SCENES;
use crate::evidence::accuracy::Scene;
use crate::trace::Grid;
use crate::{Error, Result, files, picture};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The classes in the order of their numbers, from 1. Words that the challenge writes as one stand
/// apart, as a prompt has them.
const CLASSES: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
];

/// Where a folder that was unpacked has its own beginning.
const INSIDE: [&str; 3] = ["", "VOC2012", "VOCdevkit/VOC2012"];

/// A folder in this layout.
#[derive(Debug)]
pub(super) struct Voc {
    folder: PathBuf,
    names: Vec<String>,
    ids: Vec<String>,
    colours: HashMap<[u8; 3], u16>,
}

impl Voc {
    /// `None` where `folder` has another layout. A file `classes.txt` with a name per line takes
    /// the place of the challenge's classes.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let is_one = |folder: &PathBuf| folder.join("SegmentationClass").is_dir();
        let Some(folder) = INSIDE.iter().map(|inside| folder.join(inside)).find(is_one) else { return Ok(None) };
        let names = match lines(&folder.join("classes.txt"))? {
            Some(names) => names,
            None => CLASSES.map(str::to_owned).to_vec(),
        };
        if names.is_empty() || names.len() > 254 {
            return Err(wrong(&folder.join("classes.txt"), "it has no class, or more than 254"));
        }
        let list = folder.join("ImageSets/Segmentation/val.txt");
        let ids = match lines(&list)? {
            Some(ids) => ids,
            None => pictures(&folder.join("SegmentationClass"))?,
        };
        if ids.is_empty() {
            return Err(wrong(&list, "it names no picture"));
        }
        // An ID is a name and leads nowhere else.
        if let Some(id) = ids.iter().find(|id| id.contains(['/', '\\']) || id.starts_with('.')) {
            return Err(wrong(&list, format!("{} is no name of a picture", crate::in_quotes(id))));
        }
        let colours = (1..=names.len() as u16).map(|class| (colour(class as u8), class));
        let colours = colours.chain([(colour(0), BACKGROUND), (colour(255), VOID)]).collect();
        Ok(Some(Self { folder, names, ids, colours }))
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The picture at `index` as a scene.
    pub fn scene(&self, index: usize, size: Grid) -> Result<Scene> {
        let id = &self.ids[index];
        let file = |kind: &str, extension: &str| self.folder.join(kind).join(format!("{id}.{extension}"));
        let image = ["jpg", "jpeg", "png"].map(|extension| file("JPEGImages", extension));
        let image = image.iter().find(|file| file.is_file()).unwrap_or(&image[0]);
        let mask = file("SegmentationClass", "png");
        let (picture, pixels) = (picture::read(image, SCENES)?, picture::read(&mask, SCENES)?);
        if picture.dimensions() != pixels.dimensions() {
            return Err(wrong(&mask, format!("it has another size than {}", image.display())));
        }
        let class = |pixel: &image::Rgb<u8>| self.colours.get(&pixel.0).copied();
        let classes = pixels.pixels().map(class).collect::<Option<Vec<u16>>>();
        let classes = classes.ok_or_else(|| {
            wrong(&mask, "it has a colour that is no class's; masks have the colours of VOC, or classes.txt more names")
        })?;
        let grid = Grid::new(pixels.height() as usize, pixels.width() as usize);
        Ok(Labels { grid, classes }.scene(id.clone(), &picture, &self.names, size))
    }
}

/// The lines of a file without empty ones; `None` where there is no file.
fn lines(file: &Path) -> Result<Option<Vec<String>>> {
    if !file.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8(files::read(file).map_err(Error::io(file))?);
    let text = text.map_err(|_| wrong(file, "it is not UTF-8 text"))?;
    Ok(Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()))
}

/// The names of the PNG files in `folder`, in order.
fn pictures(folder: &Path) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = PathBuf::from(entry.map_err(Error::io(folder))?.file_name());
        if path.extension().is_some_and(|extension| extension == "png") {
            ids.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    ids.sort();
    Ok(ids)
}

/// The challenge's colour of a class, as `VOClabelcolormap.m` of the development kit has it. The
/// bits of its number, three at a time, fill red, green and blue from the top.
fn colour(class: u8) -> [u8; 3] {
    let mut colour = [0u8; 3];
    for bit in 0..8 {
        colour[bit % 3] |= (class >> bit & 1) << (7 - bit / 3);
    }
    colour
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_the_challenges() {
        // As the development kit's own function gives them.
        for (class, rgb) in [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (2, [0, 128, 0]),
            (7, [128, 128, 128]),
            (8, [64, 0, 0]),
            (15, [192, 128, 128]),
            (20, [0, 64, 128]),
            (255, [224, 224, 192]),
        ] {
            assert_eq!(colour(class), rgb, "{class}");
        }
    }
}
