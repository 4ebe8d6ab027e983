//! The gallery's page, made from whatever cells are there.

use super::cell::{CellFacts, FILE, MAPS, THUMB};
use super::make::{CELLS, FAILURES, Failure};
use crate::report::{embed_json, gallery_document};
use crate::run::RunRecord;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// The page's file in the gallery's folder.
const INDEX: &str = "index.html";

/// A cell as the page needs it.
#[derive(Debug, Clone)]
pub struct IndexCell {
    /// Its folder's name under `cells/`.
    pub name: String,
    /// What was asked for, and its maps' scale.
    pub facts: CellFacts,
    /// Width and height of the image in pixels.
    pub size: (usize, usize),
    /// Numbers of the whole run by name.
    pub numbers: Vec<(String, f64)>,
    /// Its words in the order of the maps.
    pub words: Vec<IndexWord>,
}

/// A word of a cell: name and its numbers, in the order of [`WORD_NUMBERS`].
#[derive(Debug, Clone)]
pub struct IndexWord {
    /// In lower case, so that words can be compared across prompts.
    pub name: String,
    /// As in [`WORD_NUMBERS`]; NaN where a map has none.
    pub numbers: [f32; 7],
}

/// What is known of a word in every cell.
pub const WORD_NUMBERS: [&str; 7] = ["share", "peak", "area", "entropy", "centre x", "centre y", "peak x"];

impl IndexCell {
    /// A cell from its run and its place in the gallery.
    pub fn new(name: String, facts: CellFacts, record: &RunRecord) -> Self {
        let s = &record.settings;
        let start = record.tokens.first().map_or(0.0, |token| token.share);
        let mut numbers = vec![
            ("guidance scale".to_string(), s.guidance_scale),
            ("start token share".to_string(), f64::from(start)),
            ("padding share".to_string(), f64::from(record.padding_share)),
            ("words".to_string(), record.words.len() as f64),
        ];
        numbers.extend(s.more.iter().filter_map(|(key, value)| Some((key.replace('_', " "), value.as_f64()?))));
        let words = record.words.iter().map(|word| {
            let l = &word.layout;
            let centre = l.centroid.map_or([f32::NAN; 2], |c| [c.x, c.y]);
            let peak = l.peak.map_or([f32::NAN; 2], |p| [p.value, p.x]);
            let numbers = [l.share, peak[0], l.area, l.entropy, centre[0], centre[1], peak[1]];
            let suffix = if word.word.occurrence > 1 { format!("#{}", word.word.occurrence) } else { String::new() };
            IndexWord { name: word.word.text.to_lowercase() + &suffix, numbers }
        });
        let words = words.collect();
        let mut facts = facts;
        facts.cell.steps = Some(s.steps); // the checkpoint's own, where none was asked for
        Self { name, facts, size: (record.image.width, record.image.height), numbers, words }
    }
}

/// All complete cells of the gallery in `folder`, in order, and the failures. What is not complete is left out.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read; [`Error::Option`] when it is no gallery.
pub fn read_cells(folder: &Path) -> Result<(Vec<IndexCell>, Vec<Failure>)> {
    let place = folder.join(CELLS);
    if !place.is_dir() {
        let reason = format!("{} is no gallery (no folder `cells` in it)", folder.display());
        return Err(Error::option("--index", reason));
    }
    let mut cells = Vec::new();
    for entry in std::fs::read_dir(&place).map_err(Error::io(&place))? {
        let path = entry.map_err(Error::io(&place))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let Ok(bytes) = std::fs::read(path.join(FILE)) else { continue };
        let damaged = |reason: String| Error::Trace { file: path.join(FILE), reason };
        let facts: CellFacts = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        cells.push(IndexCell::new(name.to_string(), facts, &RunRecord::read(&path)?));
    }
    cells.sort_by(|a, b| (a.facts.cell.order, &a.name).cmp(&(b.facts.cell.order, &b.name)));
    let mut failures: Vec<Failure> = match std::fs::read_dir(folder.join(FAILURES)) {
        Ok(entries) => {
            entries.filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.ok()?.path()).ok()?).ok()).collect()
        }
        Err(_) => Vec::new(), // no failures, no folder
    };
    failures.sort_by_key(|failure| failure.cell.order);
    Ok((cells, failures))
}

/// Writes `index.html` from what is in `folder`, whole or not at all, and returns the number of cells.
///
/// # Errors
/// Those of [`read_cells`]; [`Error::Io`].
pub fn write_index(folder: &Path) -> Result<usize> {
    let (cells, failures) = read_cells(folder)?;
    let html = index_page(&cells, &failures);
    crate::run::atomic::write_file(&folder.join(INDEX), |out| out.write_all(html.as_bytes()))?;
    Ok(cells.len())
}

/// Texts written once and named by their place.
#[derive(Default)]
struct Names {
    list: Vec<String>,
    place: HashMap<String, usize>,
}

impl Names {
    fn of(&mut self, text: &str) -> usize {
        if let Some(&at) = self.place.get(text) {
            return at;
        }
        self.list.push(text.to_string());
        self.place.insert(text.to_string(), self.list.len() - 1);
        self.list.len() - 1
    }
}

/// The page of `cells`: one row of plain numbers a cell, so that thousands stay small.
pub fn index_page(cells: &[IndexCell], failures: &[Failure]) -> String {
    let (mut prompts, mut models, mut replaced) = (Names::default(), Names::default(), Names::default());
    let (mut words, mut sizes, mut schedulers) = (Names::default(), Names::default(), Names::default());
    let mut numbers = Names::default();
    let rows: Vec<Value> = cells
        .iter()
        .map(|cell| {
            let c = &cell.facts.cell;
            let list: Vec<Value> = cell
                .words
                .iter()
                .map(|word| {
                    let mut row = vec![json!(words.of(&word.name))];
                    row.extend(word.numbers.iter().map(|&n| rounded(f64::from(n))));
                    Value::Array(row)
                })
                .collect();
            let own: Map<String, Value> =
                cell.numbers.iter().map(|(name, n)| (numbers.of(name).to_string(), rounded(*n))).collect();
            json!([
                cell.name,
                prompts.of(&c.prompt),
                prompts.of(&c.base),
                replaced.of(&c.replaced),
                models.of(&c.model),
                c.steps,
                c.seed,
                sizes.of(&format!("{}×{}", cell.size.0, cell.size.1)),
                schedulers.of(c.scheduler.as_deref().unwrap_or("")),
                rounded(f64::from(cell.facts.top)),
                cell.facts.map.height,
                cell.facts.map.width,
                own,
                list
            ])
        })
        .collect();
    let failed: Vec<Value> = failures
        .iter()
        .map(|f| json!({"prompt": f.cell.prompt, "seed": f.cell.seed, "model": f.cell.model, "error": f.error}))
        .collect();
    let data = json!({
        "prompts": prompts.list, "models": models.list, "replaced": replaced.list, "words": words.list,
        "sizes": sizes.list, "schedulers": schedulers.list, "numbers": numbers.list, "wordNumbers": WORD_NUMBERS,
        "cells": rows, "failures": failed, "files": {"cells": CELLS, "thumb": THUMB, "maps": MAPS},
        "version": env!("CARGO_PKG_VERSION"),
    });
    gallery_document(&format!("{} images · attnmap", cells.len()), &embed_json(&data))
}

/// Four significant digits; `null` for what is no number.
fn rounded(value: f64) -> Value {
    format!("{value:.3e}").parse::<f64>().ok().filter(|n| n.is_finite()).map_or(Value::Null, |n| {
        // Whole numbers without a fraction keep the page small.
        if n.fract() == 0.0 && n.abs() < 1e9 { json!(n as i64) } else { json!(n) }
    })
}
