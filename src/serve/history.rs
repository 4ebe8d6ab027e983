//! The runs of the folder, the newest first: what a page is told of each. A name from a browser is
//! looked for in this list and never made a path.

use super::caches::Latest;
use crate::report::{Match, align};
use crate::run::{RECORD, Run, RunRecord, newest_runs};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

/// Runs that are shown, at most; the folder may hold more.
const MOST: usize = 200;

/// The longer side of a thumbnail in pixels.
const THUMB: u32 = 160;

/// JPEG's quality, 1 to 100.
const QUALITY: u8 = 85;

/// A run of the folder.
#[derive(Debug)]
pub(super) struct HistoryEntry {
    /// The name of its folder, which is its name here.
    pub name: String,
    pub folder: PathBuf,
    /// When its `run.json` was written, in nanoseconds: what was read of an older one is stale.
    pub drawn: u64,
    prompt: String,
    words: Vec<(String, usize, usize)>,
    negative: String,
    command: String,
    settings: Value,
    checkpoint: String,
}

/// The runs of one folder.
#[derive(Debug)]
pub(super) struct History {
    folder: PathBuf,
    known: Mutex<Vec<Arc<HistoryEntry>>>,
    thumbs: Latest<(String, u64), Arc<Vec<u8>>>,
}

impl History {
    /// Of the runs in `folder`, which need not be there yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, known: Mutex::default(), thumbs: Latest::new(MOST) }
    }

    /// The folder that runs are made in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks at the folder again; what was read of a run is kept where its `run.json` is the same.
    fn look(&self) -> Vec<Arc<HistoryEntry>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = newest_runs(&self.folder).into_iter().take(MOST).filter_map(|folder| {
            let drawn = drawn(&folder);
            let same = known.iter().find(|entry| entry.folder == folder && entry.drawn == drawn);
            same.cloned().or_else(|| HistoryEntry::read(folder, drawn).map(Arc::new))
        });
        let now: Vec<Arc<HistoryEntry>> = now.collect();
        known.clone_from(&now);
        now
    }

    /// The run of this name.
    pub fn entry(&self, name: &str) -> Option<Arc<HistoryEntry>> {
        let found = |list: &[Arc<HistoryEntry>]| list.iter().find(|entry| entry.name == name).cloned();
        let known = found(&self.known.lock().unwrap_or_else(PoisonError::into_inner));
        match known {
            Some(entry) if entry.drawn == drawn(&entry.folder) => Some(entry),
            _ => found(&self.look()),
        }
    }

    /// The name of the newest run.
    pub fn newest(&self) -> Option<String> {
        self.look().first().map(|entry| entry.name.clone())
    }

    /// All runs for a page, the newest first, the words marked that the run before it does not have
    /// in the same place.
    pub fn list(&self) -> Value {
        let entries = self.look();
        let older = entries.iter().skip(1).map(Some).chain([None]);
        entries.iter().zip(older).map(|(entry, older)| entry.json(older.map(|older| &**older))).collect()
    }

    /// The image of the run `name`, small, as JPEG; `None` where it cannot be had.
    pub fn thumb(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        let entry = self.entry(name)?;
        let key = (entry.name.clone(), entry.drawn);
        if let Some(known) = self.thumbs.get(&key) {
            return Some(known);
        }
        let image = Run::open(&entry.folder).and_then(|run| run.image()).ok()?;
        let scale = (f64::from(THUMB) / f64::from(image.width().max(image.height()))).min(1.0);
        let [width, height] =
            [image.width(), image.height()].map(|side| ((f64::from(side) * scale).round() as u32).max(1));
        let small = resize(&image, width, height, FilterType::Triangle);
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(&small).ok()?;
        let bytes = Arc::new(bytes);
        self.thumbs.put(key, Arc::clone(&bytes));
        Some(bytes)
    }
}

impl HistoryEntry {
    /// What is shown of the run in `folder`; `None` where its `run.json` cannot be read.
    fn read(folder: PathBuf, drawn: u64) -> Option<Self> {
        let record = RunRecord::read(&folder).ok()?;
        let words = record.words.iter().map(|word| &word.word);
        Some(Self {
            name: folder.file_name()?.to_string_lossy().into_owned(),
            drawn,
            words: words.map(|word| (word.text.clone(), word.start, word.end)).collect(),
            negative: record.negative.clone().unwrap_or_default(),
            settings: settings_of(&record),
            checkpoint: record.checkpoint.id.clone(),
            command: record.command,
            prompt: record.prompt,
            folder,
        })
    }

    /// For a page. `older` is the run before it.
    fn json(&self, older: Option<&Self>) -> Value {
        let texts = |entry: &Self| entry.words.iter().map(|(text, ..)| text.clone()).collect::<Vec<_>>();
        let changed: Vec<usize> = older.map_or_else(Vec::new, |older| {
            let pairs = align(&texts(older), &texts(self));
            pairs.iter().filter(|pair| pair.kind != Match::Same).filter_map(|pair| pair.b).collect()
        });
        // The prompt in pieces, whole when put together, each said to be changed or not.
        let mut pieces: Vec<Value> = Vec::new();
        let mut at = 0;
        let mut push = |text: Option<&str>, changed: bool| {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                pieces.push(json!([text, changed]));
            }
        };
        for word in changed {
            let (_, start, end) = self.words[word];
            push(self.prompt.get(at..start), false);
            push(self.prompt.get(start..end), true);
            at = end.max(at);
        }
        push(self.prompt.get(at..), false);
        json!({
            "run": self.name, "prompt": self.prompt, "pieces": pieces, "negative": self.negative,
            "settings": self.settings, "command": self.command, "checkpoint": self.checkpoint,
            "drawn": self.drawn.to_string(),
        })
    }
}

/// What the run was made with; the seed in decimal digits, as a page's numbers have too few bits.
fn settings_of(record: &RunRecord) -> Value {
    let mut settings = serde_json::to_value(&record.settings).unwrap_or_default();
    settings["seed"] = json!(record.settings.seed.to_string());
    settings
}

/// When the run in `folder` was drawn; 0 where it is not there.
fn drawn(folder: &Path) -> u64 {
    let modified = std::fs::metadata(folder.join(RECORD)).and_then(|found| found.modified()).ok();
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
