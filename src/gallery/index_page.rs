//! The data of a gallery's page: one row per cell, in which everything that repeats is named by its
//! place.

use super::cell::Cell;
use super::cell_files::{MAPS, THUMB};
use super::folder::{CELLS, Failure};
use super::index_cell::{IndexCell, NOTES};
use crate::files::MARK;
use crate::plural;
use crate::report::{embed_json, gallery_document};
use crate::run::Sampling;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// An axis by its name, and how a cell tells its place on it.
type Axis = (&'static str, fn(&IndexCell) -> String);

/// What may differ from cell to cell beside the seed, as texts; the page offers those as axes that
/// do.
const AXES: [Axis; 17] = [
    ("prompt", |cell| cell.facts.cell.prompt.clone()),
    ("base", |cell| cell.facts.cell.base.clone()),
    ("replaced", |cell| cell.facts.cell.replaced.clone()),
    ("weighted", |cell| cell.facts.cell.weighted.clone()),
    ("without", |cell| {
        let without: Vec<&str> = cell.left_out.iter().map(|part| part.origin.without.as_str()).collect();
        without.join(" / ")
    }),
    ("negative", |cell| cell.facts.cell.sampling.negative.clone().unwrap_or_default()),
    ("model", |cell| cell.facts.cell.checkpoint_label()),
    ("lora", |cell| cell.facts.cell.lora_label()),
    ("syntax", |cell| cell.facts.cell.syntax_label()),
    ("size", |cell| format!("{}×{}", cell.size.0, cell.size.1)),
    ("scheduler", |cell| asked(&cell.facts.cell, "scheduler")),
    ("spacing", |cell| asked(&cell.facts.cell, "spacing")),
    ("clip_skip", |cell| asked(&cell.facts.cell, "clip_skip")),
    ("original_size", |cell| asked(&cell.facts.cell, "original_size").replace('x', "×")),
    ("crop", |cell| asked(&cell.facts.cell, "crop")),
    ("strength", |cell| {
        let strength = cell.facts.cell.init.as_ref().and_then(|files| files.strength);
        strength.map_or_else(String::new, |share| share.to_string())
    }),
    ("init", |cell| cell.facts.cell.init.as_ref().map_or_else(String::new, |files| files.init.display().to_string())),
];

/// What `cell` asks for of the sampling, as it is written on a command line; empty for the
/// checkpoint's own.
fn asked(cell: &Cell, name: &str) -> String {
    Sampling::get(&cell.sampling, name).unwrap_or_default()
}

/// Something that differs among cells, in words for each of them.
pub(super) struct Differing {
    /// Its name among the axes, or `seed`, `steps`, `guidance`.
    pub name: &'static str,
    /// For each cell.
    pub texts: Vec<String>,
}

/// What differs among `cells`, the prompts first and the seed last.
pub(super) fn differing(cells: &[IndexCell]) -> Vec<Differing> {
    let written = |name: &'static str, of: &dyn Fn(&IndexCell) -> String| Differing {
        name,
        texts: cells.iter().map(of).collect(),
    };
    let texts = AXES.iter().map(|&(name, of)| match name {
        // What was asked of words is seen in the prompts.
        "base" | "replaced" | "weighted" | "without" => Differing { name, texts: Vec::new() },
        "prompt" | "negative" | "model" | "lora" | "init" | "size" | "syntax" => written(name, &of),
        _ => written(name, &|cell| match of(cell) {
            own if own.is_empty() => own,
            value => format!("{} {value}", name.replace('_', " ")),
        }),
    });
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let steps = written("steps", &|cell| format!("{} steps", cell.facts.cell.sampling.steps.unwrap_or_default()));
    let guidance = written("guidance", &|cell| format!("guidance {}", number(cell.facts.cell.sampling.guidance)));
    let seeds = written("seed", &|cell| format!("seed {}", cell.facts.cell.seed));
    let all = texts.chain([steps, guidance, seeds]);
    all.filter(|axis| axis.texts.windows(2).any(|pair| pair[0] != pair[1])).collect()
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

/// The page of `cells`: one row of plain numbers per cell, so that thousands stay small. `planned`
/// is how many there will be, where some are still to be made.
pub fn index_page(cells: &[IndexCell], failures: &[Failure], planned: Option<usize>) -> String {
    let mut axes: Vec<Names> = AXES.iter().map(|_| Names::default()).collect();
    let (mut words, mut numbers, mut notes) = (Names::default(), Names::default(), Names::default());
    let mut expectations = Names::default();
    let word_numbers = word_numbers(cells);
    let rows: Vec<Value> = cells
        .iter()
        .map(|cell| {
            let asked = &cell.facts.cell;
            let list: Vec<Value> = cell
                .words
                .iter()
                .map(|word| {
                    let known: HashMap<&str, f64> = word.numbers.iter().map(|(name, n)| (name.as_str(), *n)).collect();
                    let number = |name: &&str| rounded(known.get(name).copied().unwrap_or(f64::NAN));
                    let name = json!(words.of(&word.name));
                    Value::Array([name].into_iter().chain(word_numbers.iter().map(number)).collect())
                })
                .collect();
            let own: Map<String, Value> =
                cell.numbers.iter().map(|(name, n)| (numbers.of(name).to_string(), rounded(*n))).collect();
            let noted: Vec<Value> = cell.notes.iter().map(|(kind, text)| json!([kind, notes.of(text)])).collect();
            let expected: Vec<Value> =
                cell.expected.iter().map(|(text, met)| json!([expectations.of(text), met])).collect();
            let texts: Vec<usize> = AXES.iter().zip(&mut axes).map(|((_, of), names)| names.of(&of(cell))).collect();
            json!([
                cell.name,
                texts,
                exact(asked.seed),
                asked.sampling.steps,
                asked.sampling.guidance,
                rounded(f64::from(cell.facts.top)),
                cell.facts.map.height,
                own,
                list,
                noted,
                expected
            ])
        })
        .collect();
    let failed: Vec<Value> = failures
        .iter()
        .map(|failure| {
            let cell = &failure.cell;
            let said: Vec<String> = Sampling::NAMES
                .iter()
                .filter_map(|name| Some(format!("{} {}", name.replace('_', " "), cell.sampling.get(name)?)))
                .filter(|said| !said.ends_with(" false"))
                .collect();
            json!({
                "prompt": cell.prompt, "seed": exact(cell.seed), "model": cell.checkpoint_label(),
                "lora": cell.lora_label(), "asked": said, "error": failure.error,
            })
        })
        .collect();
    let axes: Vec<Value> =
        AXES.iter().zip(axes).map(|((name, _), names)| json!({"name": name, "texts": names.list})).collect();
    let data = json!({
        "axes": axes, "words": words.list, "numbers": numbers.list, "wordNumbers": word_numbers, "kinds": NOTES,
        "notes": notes.list, "expectations": expectations.list, "cells": rows, "failures": failed, "planned": planned,
        "files": {"cells": CELLS, "thumb": THUMB, "maps": MAPS, "image": "image.png", "page": "report.html"},
        "version": MARK,
        "coverage": cells.iter().any(|cell| cell.facts.cell.look.is_some()).then_some(super::coverage_page::PAGE),
    });
    gallery_document(&format!("{} · attnmap", plural(cells.len(), "image")), &embed_json(&data))
}

/// A seed as the page holds it: in digits where its numbers have too few bits.
fn exact(seed: u64) -> Value {
    if seed < 1 << f64::MANTISSA_DIGITS { json!(seed) } else { json!(seed.to_string()) }
}

/// Four significant digits; `null` for what is no number.
fn rounded(value: f64) -> Value {
    format!("{value:.3e}").parse::<f64>().ok().filter(|n| n.is_finite()).map_or(Value::Null, |n| {
        // Whole numbers without a fraction keep the page small.
        if n.fract() == 0.0 && n.abs() < 1e9 { json!(n as i64) } else { json!(n) }
    })
}
