//! `attribution.json`: what was attributed in a run, region by region.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::attribute::Attribution;
use super::inputs::Inputs;
use super::method::{Input, Method};
use crate::facts::region::Place;
use crate::figures::run_lengths;
use crate::files::{Turn, write_json};
use crate::heatmap::SavedAggregate;
use crate::run::RECORD;
use crate::trace::Grid;
use crate::{Error, Result};

/// The format that this version writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The file in a run's folder.
pub const ATTRIBUTION: &str = "attribution.json";

/// The content of `attribution.json`: an entry for each region, method and input that was asked
/// about, the newest last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attributions {
    /// The format version of the writer.
    pub format_version: u32,
    /// What was found.
    pub regions: Vec<RegionAttribution>,
}

/// What one region's target is attributed to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionAttribution {
    /// What the place is called, e.g. `pixel 40, 90` or `the region of frog`.
    pub place: String,
    /// Its bounds in pixels of the image, where it is a box: left, top, right, bottom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f64; 4]>,
    /// Its pixels, where it is no box.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<PlaceMask>,
    /// Of the region of a word: the maps that it was of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_of: Option<RegionMaps>,
    /// How.
    pub method: Method,
    /// To what.
    pub input: Input,
    /// The steps that the target is the mean of, from 0.
    pub steps: Vec<usize>,
    /// Points of the integral, or sets that were tried.
    pub evaluations: usize,
    /// The target of the prompt.
    pub target: f64,
    /// The target of the empty prompt.
    pub empty: f64,
    /// How far the values' sum is from what the prompt adds to the target, as a share of that.
    pub gap: Option<f64>,
    /// The words by value, highest first, then what surrounds them.
    pub words: Vec<AttributedWord>,
}

/// The maps that a word's region was of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionMaps {
    /// How they were made.
    #[serde(flatten)]
    pub how: SavedAggregate,
    /// The share of their maximum at which regions begin.
    pub threshold: f32,
}

/// Pixels of an image, in runs row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceMask {
    /// Height of the image in pixels.
    pub height: usize,
    /// Its width.
    pub width: usize,
    /// Lengths of runs of pixels that are out and in by turns; the first is out and may be 0.
    pub runs: Vec<usize>,
}

impl PlaceMask {
    /// The runs of `mask`, row by row, of an image of `size` pixels.
    pub fn of(mask: &[bool], size: Grid) -> Self {
        Self { height: size.height, width: size.width, runs: run_lengths(mask.iter().copied()) }
    }

    /// The pixels as a place; `None` where the runs do not fill the image.
    pub fn place(&self) -> Option<Place> {
        // More pixels than any image has.
        const MOST: usize = 1 << 28;
        let size = Grid::new(self.height, self.width);
        let all = self.runs.iter().try_fold(0usize, |all, &run| all.checked_add(run));
        if all.is_none_or(|all| all > MOST) || all != self.height.checked_mul(self.width) {
            return None;
        }
        let pixels = self.runs.iter().enumerate().flat_map(|(at, &run)| std::iter::repeat_n(at % 2 == 1, run));
        Some(Place::Mask(pixels.collect(), size))
    }
}

impl RegionAttribution {
    /// The place in an image of `image` pixels; `None` in files of versions that kept the name
    /// alone.
    pub fn place(&self, image: Grid) -> Option<Place> {
        match (self.bounds, &self.mask) {
            (Some(bounds), _) => Some(Place::Box(bounds, image)),
            (None, Some(mask)) => mask.place(),
            (None, None) => None,
        }
    }
}

/// One word's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttributedWord {
    /// The word, or what [`super::Owner::name`] calls what is none.
    pub word: String,
    /// Whether it is no word of the prompt.
    pub special: bool,
    /// Signed, in the target's unit.
    pub value: f64,
    /// The value over what the prompt adds to the target.
    pub share: Option<f64>,
    /// The standard error of the value, where it is sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// The share of the region's attention that goes to the word, 0 to 1. The file does not keep
    /// it: [`beside`](super::beside) has it of the run's maps as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<f64>,
    /// The share of what cutting the word changes that lies in the region, 0 to 1, where the run
    /// has been explained. The file does not keep it either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<f64>,
}

/// What was found as rows: the words by value, highest first, then what surrounds them. What
/// [joined](Attribution::joined) others has no row of its own.
pub fn rows(inputs: &Inputs, found: &Attribution) -> Vec<AttributedWord> {
    let added = found.whole - found.empty;
    let told = |place: usize| !found.joined.contains(&place) && (inputs.has(place) || found.values[place] != 0.0);
    let all = inputs.owners().iter().enumerate().filter(|(place, _)| told(*place));
    let row = |(place, owner): (usize, &super::inputs::Owner)| AttributedWord {
        word: owner.name.clone(),
        special: owner.word.is_none(),
        value: found.values[place],
        share: (added != 0.0).then(|| found.values[place] / added),
        error: found.errors[place],
        attention: None,
        cut: None,
    };
    let mut rows: Vec<AttributedWord> = all.map(row).collect();
    rows.sort_by(|a, b| a.special.cmp(&b.special).then(b.value.total_cmp(&a.value)));
    rows
}

impl Attributions {
    /// Those of a run folder; none where there is no file.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged or was written by a newer attnmap.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(ATTRIBUTION);
        if !file.is_file() {
            return Ok(Self { format_version: FORMAT_VERSION, regions: Vec::new() });
        }
        let bytes = crate::files::read(&file).map_err(Error::io(&file))?;
        let damaged = |reason: String| Error::Trace {
            file: file.clone(),
            reason: format!("{reason}; remove it, and `attnmap attribute` makes a new one"),
        };
        let found: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if found.format_version > FORMAT_VERSION {
            let version = found.format_version;
            return Err(damaged(format!("format {version} is newer than this attnmap reads ({FORMAT_VERSION})")));
        }
        Ok(found)
    }

    /// Adds what was found of a region, in the place of the same question's older answer.
    pub fn keep(&mut self, mut new: RegionAttribution) {
        for row in &mut new.words {
            (row.attention, row.cut) = (None, None);
        }
        // Two masks may have one file name. A word's region follows its map.
        let same = |old: &RegionAttribution| {
            (&old.place, old.method, old.input) == (&new.place, new.method, new.input)
                && (new.region_of.is_some() || old.mask.is_none() || old.mask == new.mask)
        };
        self.regions.retain(|old| !same(old));
        self.regions.push(new);
        self.format_version = FORMAT_VERSION;
    }

    /// Adds `new` to the file of a run folder, as [`keep`](Self::keep) does. Of several processes
    /// none takes away what another has found.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::Io`].
    pub fn add(folder: &Path, new: RegionAttribution) -> Result<()> {
        let _turn = Turn::wait(&folder.join(RECORD));
        let mut known = Self::read(folder)?;
        known.keep(new);
        write_json(&folder.join(ATTRIBUTION), &known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_kept_in_runs() {
        let size = Grid::new(2, 3);
        for mask in [[false, true, true, false, false, true], [true; 6], [false; 6]] {
            let kept = PlaceMask::of(&mask, size);
            assert_eq!(kept.place(), Some(Place::Mask(mask.to_vec(), size)));
        }
        assert_eq!(PlaceMask::of(&[true; 6], size).runs, [0, 6]);
        for runs in [vec![5], vec![3, usize::MAX, 4]] {
            assert_eq!(PlaceMask { height: 2, width: 3, runs }.place(), None);
        }
    }
}
