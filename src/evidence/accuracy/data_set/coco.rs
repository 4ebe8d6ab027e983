//! The layout of COCO (Lin et al., 2014): `annotations/instances_SPLIT.json` with polygons and run
//! lengths, and pictures in `SPLIT/`, `images/SPLIT/` or `images/`.

use super::labels::{BACKGROUND, Labels, VOID, wrong};
use crate::argument::SCENES;
use crate::evidence::accuracy::Scene;
use crate::trace::Grid;
use crate::{Error, Result, files, picture};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The most pixels of a picture that masks are made for.
const MOST_PIXELS: usize = 1 << 26;

#[derive(Debug, Deserialize)]
struct File {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Debug, Deserialize)]
struct Image {
    id: u64,
    file_name: String,
    height: usize,
    width: usize,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u64,
    segmentation: Segmentation,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Debug, Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// Where a thing is, in pixels of its picture.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Segmentation {
    /// Corners `x, y, x, y, ...`, several outlines.
    Polygons(Vec<Vec<f64>>),
    /// Lengths of runs down the columns, of what is not the thing first.
    Runs { counts: RunLengths, size: [usize; 2] },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RunLengths {
    Plain(Vec<u64>),
    Packed(String),
}

/// A folder in this layout.
#[derive(Debug)]
pub(super) struct Coco {
    list: PathBuf,
    pictures: Vec<PathBuf>,
    images: Vec<Image>,
    /// By the picture's number.
    annotations: HashMap<u64, Vec<Annotation>>,
    names: Vec<String>,
    /// A category's place in `names`, from 1.
    classes: BTreeMap<u64, u16>,
}

impl Coco {
    /// `None` where `folder` has another layout.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let Some((list, split)) = list_of(folder) else { return Ok(None) };
        let bytes = files::read(&list).map_err(Error::io(&list))?;
        let file: File = serde_json::from_slice(&bytes).map_err(|error| wrong(&list, error))?;
        if file.images.is_empty() || file.categories.is_empty() || file.categories.len() > 60_000 {
            return Err(wrong(&list, "it has no images, or no categories"));
        }
        if let Some(image) =
            file.images.iter().find(|image| !(1..=MOST_PIXELS).contains(&image.width.saturating_mul(image.height)))
        {
            return Err(wrong(
                &list,
                format!("{} has no size that a picture can have", crate::in_quotes(&image.file_name)),
            ));
        }
        let places = [folder.join(&split), folder.join("images").join(&split), folder.join("images"), folder.into()];
        let mut pictures = Vec::new();
        for image in &file.images {
            // A name is one file, and leads nowhere else.
            if Path::new(&image.file_name).components().count() != 1 || image.file_name.starts_with('.') {
                return Err(wrong(&list, format!("{} is no name of a picture", crate::in_quotes(&image.file_name))));
            }
            let place = places.iter().map(|place| place.join(&image.file_name)).find(|file| file.is_file());
            pictures.push(place.unwrap_or_else(|| places[0].join(&image.file_name)));
        }
        let classes = file.categories.iter().enumerate().map(|(at, category)| (category.id, at as u16 + 1)).collect();
        let mut annotations: HashMap<u64, Vec<Annotation>> = HashMap::new();
        for annotation in file.annotations {
            annotations.entry(annotation.image_id).or_default().push(annotation);
        }
        let names = file.categories.into_iter().map(|category| category.name).collect();
        Ok(Some(Self { list, pictures, images: file.images, annotations, names, classes }))
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// The picture at `index` as a scene. Where things overlap, the smaller one is in front.
    pub fn scene(&self, index: usize, size: Grid) -> Result<Scene> {
        let image = &self.images[index];
        let picture = picture::read(&self.pictures[index], SCENES)?;
        let grid = Grid::new(image.height, image.width);
        if picture.dimensions() != (image.width as u32, image.height as u32) {
            let listed = format!("{}x{}", image.width, image.height);
            return Err(wrong(&self.pictures[index], format!("it is not {listed}, as {} says", self.list.display())));
        }
        let mut things = Vec::new();
        for annotation in self.annotations.get(&image.id).into_iter().flatten() {
            let cells = annotation.segmentation.cells(grid).map_err(|reason| {
                wrong(&self.list, format!("{} of {}: {reason}", "a segmentation", crate::in_quotes(&image.file_name)))
            })?;
            let class = self.classes.get(&annotation.category_id).copied();
            let class =
                class.ok_or_else(|| wrong(&self.list, format!("there is no category {}", annotation.category_id)))?;
            things.push((if annotation.iscrowd == 0 { class } else { VOID }, cells));
        }
        things.sort_by_key(|(_, cells)| std::cmp::Reverse(cells.len()));
        let mut classes = vec![BACKGROUND; grid.cells()];
        for (class, cells) in things {
            cells.into_iter().for_each(|cell| classes[cell] = class);
        }
        Ok(Labels { grid, classes }.scene(image.file_name.clone(), &picture, &self.names, size))
    }
}

/// The file of instances, and the split that it is of.
fn list_of(folder: &Path) -> Option<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder.join("annotations")).ok()?;
    let mut lists: Vec<(PathBuf, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let split = name.strip_prefix("instances_")?.strip_suffix(".json")?.to_owned();
            Some((entry.path(), split))
        })
        .collect();
    // What is held out of training comes first.
    lists.sort_by_key(|(_, split)| (!split.starts_with("val"), split.clone()));
    lists.into_iter().next()
}

impl Segmentation {
    /// The cells of `grid` that it covers.
    fn cells(&self, grid: Grid) -> Result<Vec<usize>, String> {
        match self {
            Self::Polygons(outlines) => {
                let mut covered = vec![false; grid.cells()];
                for outline in outlines {
                    fill(outline, grid, &mut covered)?;
                }
                Ok((0..covered.len()).filter(|&cell| covered[cell]).collect())
            }
            Self::Runs { counts, size } => {
                if *size != [grid.height, grid.width] {
                    return Err(format!("its run lengths are of {size:?} and not of the picture's height and width"));
                }
                let counts = match counts {
                    RunLengths::Plain(counts) => counts.clone(),
                    RunLengths::Packed(text) => unpacked(text)?,
                };
                let (mut cells, mut at) = (Vec::new(), 0usize);
                for (index, &count) in counts.iter().enumerate() {
                    let end = usize::try_from(count).ok().and_then(|count| at.checked_add(count));
                    let end =
                        end.filter(|&end| end <= grid.cells()).ok_or("its run lengths are longer than the picture")?;
                    if index % 2 == 1 {
                        cells.extend((at..end).map(|cell| cell % grid.height * grid.width + cell / grid.height));
                    }
                    at = end;
                }
                Ok(cells)
            }
        }
    }
}

/// Marks the cells whose middles lie inside of `outline` by the even-odd rule.
fn fill(outline: &[f64], grid: Grid, covered: &mut [bool]) -> Result<(), String> {
    let corners: Vec<[f64; 2]> = outline.chunks_exact(2).map(|corner| [corner[0], corner[1]]).collect();
    if corners.len() < 3 || outline.len() % 2 == 1 {
        return Err("an outline has fewer than three corners".to_owned());
    }
    // Beyond any picture, and far from where differences of numbers overflow.
    const FARTHEST: f64 = 1e9;
    if let Some(value) = outline.iter().find(|value| !(-FARTHEST..=FARTHEST).contains(*value)) {
        return Err(format!("an outline has a corner at {value:e}"));
    }
    for row in 0..grid.height {
        let y = row as f64 + 0.5;
        let mut crossings: Vec<f64> = Vec::new();
        for (at, &[x0, y0]) in corners.iter().enumerate() {
            let [x1, y1] = corners[(at + 1) % corners.len()];
            if (y0 <= y) != (y1 <= y) {
                crossings.push(x0 + (y - y0) / (y1 - y0) * (x1 - x0));
            }
        }
        crossings.sort_by(f64::total_cmp);
        for pair in crossings.chunks_exact(2) {
            let column = |x: f64| (x - 0.5).ceil().clamp(0.0, grid.width as f64) as usize;
            covered[row * grid.width..][column(pair[0])..column(pair[1])].fill(true);
        }
    }
    Ok(())
}

/// Run lengths as text: five bits per character from 48 on, the sixth says that more follow. From
/// the fourth on a length is written as its difference to the one two before (`rleFrString` of
/// COCO's `maskApi.c`).
fn unpacked(text: &str) -> Result<Vec<u64>, String> {
    const WRONG: &str = "its packed run lengths are damaged";
    let mut counts: Vec<i64> = Vec::new();
    let mut bytes = text.bytes();
    while let Some(first) = bytes.next() {
        let (mut value, mut shift, mut byte) = (0i64, 0u32, first);
        loop {
            let bits = i64::from(byte).checked_sub(48).filter(|bits| (0..64).contains(bits)).ok_or(WRONG)?;
            if shift > 50 {
                return Err(WRONG.to_owned());
            }
            value |= (bits & 31) << shift;
            shift += 5;
            if bits & 32 == 0 {
                // The highest bit of the last character is the sign.
                value |= if bits & 16 != 0 { -1 << shift } else { 0 };
                break;
            }
            byte = bytes.next().ok_or(WRONG)?;
        }
        if counts.len() > 2 {
            value = value.checked_add(counts[counts.len() - 2]).ok_or(WRONG)?;
        }
        counts.push(value);
    }
    counts.into_iter().map(|count| u64::try_from(count).map_err(|_| WRONG.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_lengths_go_down_the_columns() {
        let grid = Grid::new(3, 4);
        let of = |counts| Segmentation::Runs { counts, size: [3, 4] }.cells(grid);
        assert_eq!(of(RunLengths::Plain(vec![1, 2, 4, 1, 4])).unwrap(), [4, 8, 6]);
        for bad in [vec![1, 99], vec![u64::MAX, u64::MAX]] {
            assert!(of(RunLengths::Plain(bad)).is_err());
        }
        assert!(Segmentation::Runs { counts: RunLengths::Plain(vec![]), size: [4, 3] }.cells(grid).is_err());
        // The runs 5, 1, 40, 2, 3 as pycocotools packs them. The first three are as they are, and
        // 40 has two characters. The last two are packed as the differences 2 - 1 and 3 - 40.
        assert_eq!(unpacked("51X11kN").unwrap(), [5, 1, 40, 2, 3]);
        for bad in ["\u{1}", "o", "oooooooooooooooo", "é"] {
            assert!(unpacked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn polygons_cover_the_pixels_whose_middles_they_hold() {
        let grid = Grid::new(4, 5);
        let square = Segmentation::Polygons(vec![vec![1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]]);
        assert_eq!(square.cells(grid).unwrap(), [6, 7, 8, 11, 12, 13]);
        let outside = Segmentation::Polygons(vec![vec![-9.0, -9.0, 90.0, -9.0, 90.0, 90.0, -9.0, 90.0]]);
        assert_eq!(outside.cells(grid).unwrap().len(), 20);
        for bad in [vec![], vec![1.0; 5], vec![0.0, 0.0, f64::NAN, 1.0, 2.0, 2.0]] {
            assert!(Segmentation::Polygons(vec![bad]).cells(grid).is_err());
        }
    }
}
