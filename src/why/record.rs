//! What the experiments found, kept after each of them, and the answer: `why/WORD.json` and
//! `why.json` in a run's folder.

use super::noise::Mirror;
pub use super::spot::SeedSpot;
use super::thresholds::{Cause, CauseThresholds};
use super::thresholds::{LEAST_CHANGED, ODDS};
use super::time::ForkResult;
use super::words::Effect;
use crate::argument::RUN;
use crate::evidence::Figure;
use crate::files::{check_own, write_json};
use crate::heatmap::SavedAggregate;
use crate::run::distinct_slug;
use crate::trace::By;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The format that this version writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The newest answer, in a run's folder.
pub const FILE: &str = "why.json";

/// The folder of what was found for each word, and of the pictures.
pub const FOLDER: &str = "why";

/// The check of the thing's map in pixels: the run with the word taken out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pixels {
    /// The share of the map's region whose pixels change without the word, 0 to 1.
    pub inside: f64,
    /// The share of the whole image that changes.
    pub image: f64,
}

impl Pixels {
    /// The odds that a pixel of the map's region changes, over those of any pixel of the image: 1
    /// where the change lies anywhere.
    pub fn odds(&self) -> f64 {
        let of = |share: f64| share / (1.0 - share).max(1e-3);
        of(self.inside) / of(self.image).max(1e-9)
    }

    /// Whether the picture changes, and where the map says.
    pub(super) fn agree_with_map(&self) -> bool {
        self.image >= LEAST_CHANGED && self.odds() >= ODDS
    }
}

/// All that was found of one word so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The word.
    pub word: String,
    /// What the words of the prompt were.
    #[serde(default, skip_serializing_if = "By::is_word")]
    pub by: By,
    /// Most runs that the experiments may cost.
    pub budget: usize,
    /// How the maps were made.
    #[serde(flatten)]
    pub how: SavedAggregate,
    /// Steps of the run: calls of the network.
    pub steps: usize,
    /// What was spent, in runs: a run that goes on from a later step counts as its part of the
    /// steps.
    pub runs: f64,
    /// Where the thing lies in the run and with fresh noise, the run's own seed first.
    pub seeds: Vec<SeedSpot>,
    /// The check in pixels.
    pub pixels: Option<Pixels>,
    /// The run with its noise mirrored.
    pub mirrors: Vec<Mirror>,
    /// The run with its prompt edited.
    pub effects: Vec<Effect>,
    /// Edits that the budget left no room for.
    pub untested: Vec<String>,
    /// The LoRAs of the run, by their files' names.
    pub loras: Vec<String>,
    /// Where the thing lies without them.
    pub without_loras: Vec<SeedSpot>,
    /// The run gone on from a later step with fresh noise.
    pub forks: Vec<ForkResult>,
    /// The pictures that were kept, from the run folder.
    pub pictures: Vec<Figure>,
}

/// `why/WORD.json`: what was found, and whether all of it is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The version of attnmap that wrote it.
    pub attnmap: String,
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// What was found so far.
    pub findings: Findings,
    /// What it says together, once everything is found.
    pub answer: Option<Answer>,
}

/// `why.json`: why a thing lies where it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The version of attnmap that wrote it.
    pub attnmap: String,
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// The word.
    pub word: String,
    /// What put the thing there; empty where it cannot be told.
    pub cause: Vec<Cause>,
    /// Whether a figure lies within a quarter of its bound, so that other seeds might say
    /// otherwise: the sentence then says *may*.
    #[serde(default)]
    pub near_bound: bool,
    /// After how many steps the thing stays whatever the noise; 0 where most noises put it there;
    /// absent where that was not found.
    pub settled_at: Option<usize>,
    /// Steps of the run.
    pub steps: usize,
    /// The answer in a sentence.
    pub sentence: String,
    /// Where the thing lies, shares of the image's sides from the left and the top; absent where it
    /// seems not drawn.
    pub place: Option<[f64; 2]>,
    /// The LoRAs that put it there, where a habit is theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<String>,
    /// The table: each experiment, how far the thing moved, and more.
    pub table: Vec<TableRow>,
    /// What is to be said beside it.
    pub notes: Vec<String>,
    /// A strip of pictures for each experiment.
    pub figures: Vec<Figure>,
    /// What decided.
    pub thresholds: CauseThresholds,
    /// What it cost, in runs.
    pub runs: f64,
    /// All that was found.
    pub findings: Findings,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// The experiment in words.
    pub experiment: String,
    /// How many images.
    pub images: usize,
    /// How far the thing moves or scatters, as a share of the image's sides.
    pub moves: Option<f64>,
    /// What else is to be said.
    pub more: String,
}

/// The file of a word in the folder of a run.
pub fn file_of(folder: &Path, word: &str) -> PathBuf {
    folder.join(FOLDER).join(format!("{}.json", distinct_slug(word)))
}

impl Kept {
    /// What is kept of `word` in the folder of a run. It is found anew (`None`) where there is
    /// nothing, or nothing that this version reads.
    ///
    /// # Errors
    /// [`Error::Argument`] where a file of the user's is in the way.
    pub fn read(folder: &Path, word: &str) -> Result<Option<Self>> {
        let file = file_of(folder, word);
        check_own(&file, RUN)?;
        Ok(Self::of_file(&file).ok().filter(|kept| kept.findings.word == word))
    }

    /// What `file` holds, or why that cannot be read.
    fn of_file(file: &Path) -> Result<Self, String> {
        let bytes = crate::files::read(file).map_err(|error| error.to_string())?;
        let kept: Self = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        match kept.format_version {
            FORMAT_VERSION => Ok(kept),
            other => Err(format!("format {other} is none that this attnmap reads ({FORMAT_VERSION})")),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let inside = folder.join(FOLDER);
        std::fs::create_dir_all(&inside).map_err(Error::io(&inside))?;
        write_json(&file_of(folder, &self.findings.word), self)
    }
}

/// The answers that a run's folder has, by their words; what is damaged or of another version is
/// passed over.
pub fn answers(folder: &Path) -> Vec<Answer> {
    let kept = all_kept(folder).into_iter().filter_map(|(_, kept)| kept.ok());
    let mut answers: Vec<Answer> = kept.filter_map(|kept| kept.answer).collect();
    answers.sort_by(|a, b| a.word.cmp(&b.word));
    answers
}

/// Every file of findings in a run's folder, by name, with what it holds or why that cannot be
/// read.
pub fn all_kept(folder: &Path) -> Vec<(PathBuf, Result<Kept, String>)> {
    let entries = std::fs::read_dir(folder.join(FOLDER)).into_iter().flatten().flatten().map(|entry| entry.path());
    let json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let mut files: Vec<PathBuf> = entries.filter(json).collect();
    files.sort();
    let with_content = |file: PathBuf| {
        let kept = Kept::of_file(&file);
        (file, kept)
    };
    files.into_iter().map(with_content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_to_lie_where_the_map_says() {
        for (inside, image, agrees) in
            [(0.9, 0.1, true), (0.3, 0.05, true), (0.9, 0.4, true), (0.3, 0.3, false), (0.001, 1e-4, false)]
        {
            assert_eq!(Pixels { inside, image }.agree_with_map(), agrees, "{inside} of {image}");
        }
        assert!((Pixels { inside: 0.25, image: 0.25 }.odds() - 1.0).abs() < 1e-9);
    }
}
