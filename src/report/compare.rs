//! Two runs side by side: which words correspond, and one page with both images and the difference
//! of their maps.

use super::assets;
use super::data::{PageWord, ReportData, RunMaps};
use super::differences::{self, name_of};
use super::html::{Document, INLINE, data_url, document, embed_json, shorten};
use super::pack::{PlaneBlock, Planes};
use crate::argument::{RUN, WORDS};
use crate::evidence::CHANGED;
use crate::{Error, Result};
use html_escape::{encode_double_quoted_attribute, encode_text};
use serde_json::{Value, json};

/// Runs on one page, at most: each brings its image and its maps.
pub const MOST_RUNS: usize = 8;

/// The page that compares two runs. `pages` are the addresses of their own pages from this one,
/// where it can link to them.
///
/// # Errors
/// [`Error::Argument`] when a run has no maps of its own to compare.
pub fn compare_page(a: &ReportData, b: &ReportData, pages: [Option<&str>; 2]) -> Result<String> {
    let [of_a, of_b] = pages.map(|page| page.map(str::to_owned));
    compare_runs(&[(a, of_a), (b, of_b)], None)
}

/// The page that compares two runs or more, each with the address of its own page from this one,
/// where it can link to it. The first is the base that the others are compared with, until another
/// is chosen there. Of `words` alone where some are chosen, by their
/// [labels](crate::trace::WordInfo::label) in lower case: `a` is the first, `a#2` the second.
///
/// # Errors
/// [`Error::Argument`] when there are less than two runs or more than [`MOST_RUNS`], when a run has
/// no maps of its own to compare, and for a word that none of the runs has.
pub fn compare_runs(runs: &[(&ReportData, Option<String>)], words: Option<&[String]>) -> Result<String> {
    if !(2..=MOST_RUNS).contains(&runs.len()) {
        return Err(Error::argument(RUN, format!("two to {MOST_RUNS} runs are compared; {} given", runs.len())));
    }
    let has = |name: &String| runs.iter().any(|(data, _)| data.words.iter().any(|word| name_of(word) == *name));
    if let Some(unknown) = words.unwrap_or_default().iter().find(|name| !has(name)) {
        return Err(Error::argument(WORDS, format!("none of the runs has a word {}", crate::in_quotes(unknown))));
    }
    let mut planes = Planes::default();
    let mut sides = Vec::new();
    for (data, page) in runs {
        let official = data.official.as_ref().ok_or_else(|| {
            let reason = "it has no maps of its prompt (maps that `view --half unconditional` made, of the negative \
            prompt, \
                          cannot be compared); make them with `attnmap view`";
            Error::input(&data.name, reason)
        })?;
        let block = planes.add(&official.words, official.height, official.width, 16);
        let mut run = run_json(data, official, &block);
        run["href"] = json!(page);
        sides.push(run);
    }
    let mut pairs = serde_json::Map::new();
    for (at, (a, _)) in runs.iter().enumerate() {
        for (other, (b, _)) in runs.iter().enumerate().filter(|(other, _)| *other != at) {
            pairs.insert(format!("{at}-{other}"), pair_json(a, b, words));
        }
    }
    let run = json!({"runs": sides, "pairs": pairs, "changed": CHANGED, "version": env!("CARGO_PKG_VERSION")});
    let prompts: String = runs.iter().map(|(data, _)| format!("<br>{}", encode_text(&data.prompt))).collect();
    let images = runs.iter().enumerate().map(|(at, (data, _))| {
        let source = data_url(&data.image);
        let source = encode_double_quoted_attribute(&source);
        format!("<img id=\"source-{at}\" class=\"still\" alt=\"Run {}\" src=\"{source}\">\n", at + 1)
    });
    let body = format!(
        "<noscript><p class=\"still\">The maps on this page are drawn by a script, which this browser does not \
        run.{prompts}</p></noscript>\n{}",
        images.collect::<String>()
    );
    let titles: Vec<String> = runs.iter().take(2).map(|(data, _)| shorten(&data.prompt, 50)).collect();
    let more = if runs.len() > 2 { format!(" and {} more", runs.len() - 2) } else { String::new() };
    Ok(document(&Document {
        title: &format!("{}{more} · attnmap", titles.join(" | ")),
        style: &assets::compare_style(),
        script: &assets::compare_script(),
        body: &body,
        images: INLINE,
        data: &[("run", "application/json", &embed_json(&run)), ("maps", "text/plain", &planes.base64())],
    }))
}

/// What the page says of `a` beside `b`.
fn pair_json(a: &ReportData, b: &ReportData, words: Option<&[String]>) -> Value {
    let pairs = differences::pairs(a, b, words);
    let settings: Vec<Value> =
        differences::settings(&a.settings, &b.settings).into_iter().map(|row| json!(row)).collect();
    json!({"pairs": pairs, "settings": settings, "differences": differences::differences(a, b, words)})
}

fn run_json(data: &ReportData, official: &RunMaps, block: &PlaneBlock) -> Value {
    let share = |word: &PageWord| word.tokens.iter().filter_map(|&token| official.shares.get(token)).sum::<f32>();
    let words: Vec<Value> = data
        .words
        .iter()
        .enumerate()
        .map(|(index, word)| {
            let layout = data.layout.iter().find(|row| row.word == index);
            json!({"text": word.text, "occurrence": word.occurrence, "tokens": word.tokens, "share": share(word),
                   "layout": layout.map(|row| &row.facts)})
        })
        .collect();
    json!({
        "name": data.name, "prompt": data.prompt, "words": words, "command": data.command,
        "image": {"width": data.image.width, "height": data.image.height},
        "aggregate": official.name, "block": block,
    })
}
