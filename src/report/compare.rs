//! Two runs side by side: which words correspond, and one page with both images and the difference of their maps.

use super::align::align;
use super::assets;
use super::data::{Official, ReportData, WordInfo};
use super::differences;
use super::html::{Document, INLINE, data_url, document, embed_json, shorten};
use super::pack::{Block, Planes};
use crate::evidence::redrawn::CHANGED;
use crate::{Error, Result};
use html_escape::{encode_double_quoted_attribute, encode_text};
use serde_json::{Value, json};

/// The page that compares two runs. `pages` are the addresses of their own pages from this one, where it can link to them.
///
/// # Errors
/// [`Error::Option`] when a run has no maps of its own to compare.
pub fn compare_page(a: &ReportData, b: &ReportData, pages: [Option<&str>; 2]) -> Result<String> {
    let mut planes = Planes::default();
    let mut side = |data: &ReportData, page: Option<&str>| -> Result<Value> {
        let official = data
            .official
            .as_ref()
            .ok_or_else(|| {
                let reason = "it has no maps of its prompt (maps that `view --half unconditional` made, of the negative prompt, \
                              cannot be compared); make them with `attnmap view`";
                Error::option(&data.name, reason)
            })?;
        let block = planes.add(&official.words, official.height, official.width, 16);
        let mut run = run_json(data, official, &block);
        run["href"] = json!(page);
        Ok(run)
    };
    let words = |data: &'_ ReportData| data.words.iter().map(|word| word.text.clone()).collect::<Vec<String>>();
    let pairs = align(&words(a), &words(b));
    let settings: Vec<Value> =
        differences::settings(&a.settings, &b.settings).into_iter().map(|row| json!(row)).collect();
    let run = json!({
        "a": side(a, pages[0])?, "b": side(b, pages[1])?, "pairs": pairs, "settings": settings,
        "differences": differences::differences(a, b), "changed": CHANGED, "version": env!("CARGO_PKG_VERSION"),
    });
    let body = format!(
        "<noscript><p class=\"still\">The maps on this page are drawn by a script, which this browser does not run. A: {} B: {}</p></noscript>\n\
         <img id=\"source-a\" class=\"still\" alt=\"A\" src=\"{}\">\n<img id=\"source-b\" class=\"still\" alt=\"B\" src=\"{}\">\n",
        encode_text(&a.prompt),
        encode_text(&b.prompt),
        encode_double_quoted_attribute(&data_url(&a.image)),
        encode_double_quoted_attribute(&data_url(&b.image)),
    );
    Ok(document(&Document {
        title: &format!("{} | {} · attnmap", shorten(&a.prompt, 50), shorten(&b.prompt, 50)),
        style: &assets::compare_style(),
        script: &assets::compare_script(),
        body: &body,
        images: INLINE,
        data: &[("run", "application/json", &embed_json(&run)), ("maps", "text/plain", &planes.base64())],
    }))
}

fn run_json(data: &ReportData, official: &Official, block: &Block) -> Value {
    let share = |word: &WordInfo| word.tokens.iter().filter_map(|&token| official.shares.get(token)).sum::<f32>();
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
