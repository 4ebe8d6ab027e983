//! Two runs side by side: which words correspond, and one page with both images and the difference of their maps.

use super::assets;
use super::data::{Official, ReportData, WordInfo};
use super::differences;
use super::html::{Document, INLINE, data_url, document, embed_json, shorten};
use super::pack::{Block, Planes};
use crate::evidence::redrawn::CHANGED;
use crate::trace::normalized;
use crate::{Error, Result};
use html_escape::{encode_double_quoted_attribute, encode_text};
use serde::Serialize;
use serde_json::{Value, json};
use similar::{Algorithm, DiffOp, capture_diff_slices};

/// How a word of one prompt stands to the other prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// The same word in both, in the same order.
    Same,
    /// Another word in the same place.
    Replaced,
    /// Only in the first prompt.
    OnlyA,
    /// Only in the second prompt.
    OnlyB,
}

/// A word of the first prompt, of the second, or of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Position among the first run's words.
    pub a: Option<usize>,
    /// Position among the second run's words.
    pub b: Option<usize>,
    /// How they correspond.
    pub kind: Match,
}

/// Aligns two word lists: the longest common subsequence (letter case and Unicode form aside) is the same; between its words, as many as both
/// sides have are replaced in order, the rest stand on one side alone.
pub fn align<S: AsRef<str>>(a: &[S], b: &[S]) -> Vec<Pair> {
    let a: Vec<String> = a.iter().map(|word| normalized(word.as_ref())).collect();
    let b: Vec<String> = b.iter().map(|word| normalized(word.as_ref())).collect();
    let (mut left, mut right) = (Vec::new(), Vec::new()); // of the gap that is open
    let mut pairs = Vec::new();
    let close = |left: &mut Vec<usize>, right: &mut Vec<usize>, pairs: &mut Vec<Pair>| {
        let both = left.len().min(right.len());
        for (&a, &b) in left.iter().zip(right.iter()) {
            pairs.push(Pair { a: Some(a), b: Some(b), kind: Match::Replaced });
        }
        pairs.extend(left.drain(..).skip(both).map(|a| Pair { a: Some(a), b: None, kind: Match::OnlyA }));
        pairs.extend(right.drain(..).skip(both).map(|b| Pair { a: None, b: Some(b), kind: Match::OnlyB }));
    };
    for change in capture_diff_slices(Algorithm::Lcs, &a, &b) {
        if let DiffOp::Equal { old_index, new_index, len } = change {
            close(&mut left, &mut right, &mut pairs);
            let same = |at| Pair { a: Some(old_index + at), b: Some(new_index + at), kind: Match::Same };
            pairs.extend((0..len).map(same));
        } else {
            left.extend(change.old_range());
            right.extend(change.new_range());
        }
    }
    close(&mut left, &mut right, &mut pairs);
    pairs
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(a: &str, b: &str) -> Vec<(Option<usize>, Option<usize>, Match)> {
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<String>>();
        align(&words(a), &words(b)).into_iter().map(|p| (p.a, p.b, p.kind)).collect()
    }

    #[test]
    fn replaced_added_and_missing_words() {
        use Match::{OnlyA, OnlyB, Replaced, Same};
        assert_eq!(
            kinds("a Red apple", "a red pear"),
            [(Some(0), Some(0), Same), (Some(1), Some(1), Same), (Some(2), Some(2), Replaced)]
        );
        assert_eq!(
            kinds("a frog", "a big green frog"),
            [(Some(0), Some(0), Same), (None, Some(1), OnlyB), (None, Some(2), OnlyB), (Some(1), Some(3), Same)]
        );
        assert_eq!(
            kinds("frog on the beach", "the beach"),
            [(Some(0), None, OnlyA), (Some(1), None, OnlyA), (Some(2), Some(0), Same), (Some(3), Some(1), Same)]
        );
        assert_eq!(kinds("", "x"), [(None, Some(0), OnlyB)]);
        assert!(kinds("", "").is_empty());
    }

    #[test]
    fn every_word_stands_in_exactly_one_pair() {
        let pairs = kinds("a b c a b", "b a c d a");
        let mut a: Vec<_> = pairs.iter().filter_map(|p| p.0).collect();
        let mut b: Vec<_> = pairs.iter().filter_map(|p| p.1).collect();
        a.sort_unstable();
        b.sort_unstable();
        assert_eq!((a, b), ((0..5).collect(), (0..5).collect()));
    }
}
