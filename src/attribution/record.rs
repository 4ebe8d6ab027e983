//! `attribution.json`: what was attributed in a run, region by region.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::attribute::Attribution;
use super::inputs::Inputs;
use super::method::{Input, Method};
use crate::files::write_json;
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
    /// The share of the region's attention that goes to the word, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<f64>,
    /// The share of what cutting the word changes that lies in the region, 0 to 1, where the run
    /// has been explained.
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
    pub fn keep(&mut self, new: RegionAttribution) {
        let same = |old: &RegionAttribution| (&old.place, old.method, old.input) == (&new.place, new.method, new.input);
        self.regions.retain(|old| !same(old));
        self.regions.push(new);
        self.format_version = FORMAT_VERSION;
    }

    /// Writes the file into a run folder, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(ATTRIBUTION), self)
    }
}
