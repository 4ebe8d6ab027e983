//! The gallery's page, made from whatever cells are there.

use super::cell::{CellFacts, FILE, MAPS, THUMB};
use super::make::{CELLS, FAILURES, Failure};
use crate::report::{embed_json, gallery_document};
use crate::run::RunRecord;
use crate::trace::normalized;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// The page's file in the gallery's folder.
pub(super) const INDEX: &str = "index.html";

/// A cell as the page needs it.
#[derive(Debug, Clone)]
pub struct IndexCell {
    /// Its folder's name under `cells/`.
    pub name: String,
    /// What was asked for, and its maps' scale.
    pub facts: CellFacts,
    /// Width and height of the image in pixels.
    pub size: (usize, usize),
    /// Every number of the run's `run.json` by name; those of its words are [theirs](IndexWord::numbers).
    pub numbers: Vec<(String, f64)>,
    /// What was expected of it, and whether that is so; absent where it says nothing of this image.
    pub expected: Vec<(String, Option<bool>)>,
    /// Its words in the order of the maps.
    pub words: Vec<IndexWord>,
}

/// A word of a cell.
#[derive(Debug, Clone)]
pub struct IndexWord {
    /// In lower case, so that words can be compared across prompts.
    pub name: String,
    /// Every number that `run.json` has of it, by name.
    pub numbers: Vec<(String, f64)>,
}

/// Numbers of `run.json` that say nothing about an image, by the name of their field.
const UNTOLD: [&str; 9] =
    ["format_version", "display", "start", "end", "occurrence", "threshold", "otsu", "row", "column"];

impl IndexCell {
    /// A cell from its run and its place in the gallery.
    pub fn new(name: String, facts: CellFacts, record: &RunRecord) -> Self {
        let json = |value: serde_json::Result<Value>| value.expect("plain data has a JSON form");
        let start = record.tokens.first().map_or(0.0, |token| token.share);
        let mut numbers = vec![
            ("start token share".to_string(), f64::from(start)),
            ("number of words".to_string(), record.words.len() as f64),
        ];
        collect(&json(serde_json::to_value(record)), "", &mut numbers);
        let words = record.words.iter().map(|word| {
            let suffix = if word.word.occurrence > 1 { format!("#{}", word.word.occurrence) } else { String::new() };
            let mut numbers = Vec::new();
            collect(&json(serde_json::to_value(word)), "", &mut numbers);
            IndexWord { name: normalized(&word.word.text) + &suffix, numbers }
        });
        let words = words.collect();
        let expected = record.expectations.iter();
        let expected = expected.map(|outcome| (outcome.expectation.clone(), outcome.met)).collect();
        let mut facts = facts;
        // The checkpoint's own, where none was asked for.
        facts.cell.steps = Some(record.settings.steps);
        facts.cell.guidance = Some(record.settings.guidance_scale);
        Self { name, facts, size: (record.image.width, record.image.height), numbers, expected, words }
    }
}

/// Adds every number of `value` that says something about an image to `numbers`, named by its fields; lists are left out.
fn collect(value: &Value, name: &str, numbers: &mut Vec<(String, f64)>) {
    if let Some(number) = value.as_f64() {
        numbers.push((name.to_string(), number));
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        if UNTOLD.contains(&key.as_str()) {
            continue;
        }
        // "peak" beside "peak x", and "seed" where "settings seed" would say no more.
        let own = if matches!(key.as_str(), "settings" | "value") { String::new() } else { key.replace('_', " ") };
        collect(inner, format!("{name} {own}").trim(), numbers);
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
        let Ok(bytes) = crate::files::read(&path.join(FILE)) else { continue };
        let damaged = |reason: String| Error::Trace { file: path.join(FILE), reason };
        let facts: CellFacts = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        cells.push(IndexCell::new(name.to_string(), facts, &RunRecord::read(&path)?));
    }
    cells.sort_by(|a, b| (a.facts.cell.order, &a.name).cmp(&(b.facts.cell.order, &b.name)));
    let mut failures: Vec<Failure> = match std::fs::read_dir(folder.join(FAILURES)) {
        Ok(entries) => entries
            .filter_map(|entry| serde_json::from_slice(&crate::files::read(&entry.ok()?.path()).ok()?).ok())
            .collect(),
        Err(_) => Vec::new(), // no failures, no folder
    };
    failures.sort_by_key(|failure| failure.cell.order);
    Ok((cells, failures))
}

/// Writes `index.html` from what is in `folder`, whole or not at all, and returns the number of cells.
///
/// # Errors
/// Those of [`read_cells`]; [`Error::Option`] when a page is there that attnmap did not write; [`Error::Io`].
pub fn write_index(folder: &Path) -> Result<usize> {
    let (cells, failures) = read_cells(folder)?;
    crate::files::check_own(&folder.join(INDEX), "--index")?;
    let html = index_page(&cells, &failures);
    crate::files::write_file(&folder.join(INDEX), |out| out.write_all(html.as_bytes()))?;
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

/// The names of all numbers of all words, in the order of their first.
fn word_numbers(cells: &[IndexCell]) -> Vec<&str> {
    let mut names = Vec::new();
    let all = cells.iter().flat_map(|cell| &cell.words).flat_map(|word| &word.numbers);
    for (name, _) in all {
        if !names.contains(&name.as_str()) {
            names.push(name.as_str());
        }
    }
    names
}

/// The page of `cells`: one row of plain numbers a cell, so that thousands stay small.
pub fn index_page(cells: &[IndexCell], failures: &[Failure]) -> String {
    let (mut prompts, mut models, mut replaced) = (Names::default(), Names::default(), Names::default());
    let (mut words, mut sizes, mut schedulers) = (Names::default(), Names::default(), Names::default());
    let (mut negatives, mut numbers) = (Names::default(), Names::default());
    let (mut loras, mut syntaxes, mut expectations) = (Names::default(), Names::default(), Names::default());
    let word_numbers = word_numbers(cells);
    let rows: Vec<Value> = cells
        .iter()
        .map(|cell| {
            let c = &cell.facts.cell;
            let list: Vec<Value> = cell
                .words
                .iter()
                .map(|word| {
                    let known: HashMap<&str, f64> = word.numbers.iter().map(|(name, n)| (name.as_str(), *n)).collect();
                    let number = |name: &&str| rounded(known.get(name).copied().unwrap_or(f64::NAN));
                    json!(
                        [json!(words.of(&word.name))]
                            .into_iter()
                            .chain(word_numbers.iter().map(number))
                            .collect::<Vec<_>>()
                    )
                })
                .collect();
            let own: Map<String, Value> =
                cell.numbers.iter().map(|(name, n)| (numbers.of(name).to_string(), rounded(*n))).collect();
            let expected: Vec<Value> =
                cell.expected.iter().map(|(text, met)| json!([expectations.of(text), met])).collect();
            json!([
                cell.name,
                prompts.of(&c.prompt),
                prompts.of(&c.base),
                replaced.of(&c.replaced),
                negatives.of(&c.negative),
                models.of(&c.checkpoint_label()),
                c.steps,
                c.guidance,
                c.seed,
                sizes.of(&format!("{}×{}", cell.size.0, cell.size.1)),
                schedulers.of(c.scheduler.as_deref().unwrap_or("")),
                rounded(f64::from(cell.facts.top)),
                cell.facts.map.height,
                own,
                list,
                loras.of(&c.lora_label()),
                syntaxes.of(&c.syntax_label()),
                expected
            ])
        })
        .collect();
    let failed: Vec<Value> = failures
        .iter()
        .map(|f| json!({"prompt": f.cell.prompt, "seed": f.cell.seed, "model": f.cell.checkpoint_label(), "error": f.error}))
        .collect();
    let data = json!({
        "prompts": prompts.list, "models": models.list, "replaced": replaced.list, "words": words.list,
        "negatives": negatives.list, "loras": loras.list, "syntaxes": syntaxes.list,
        "expectations": expectations.list,
        "sizes": sizes.list, "schedulers": schedulers.list, "numbers": numbers.list, "wordNumbers": word_numbers,
        "cells": rows, "failures": failed, "files": {"cells": CELLS, "thumb": THUMB, "maps": MAPS},
        "version": env!("CARGO_PKG_VERSION"),
        "coverage": cells.iter().any(|cell| cell.facts.cell.look.is_some()).then_some(super::coverage_page::PAGE),
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
