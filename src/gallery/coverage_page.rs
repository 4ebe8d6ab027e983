//! The page of a coverage table: which caption words are looked for at a place, where, and how
//! often; and the pictures where one is not.

use super::cell::Cell;
use super::cell_files::THUMB;
use super::folder::CELLS;
use crate::argument::{EXPECT, OUT};
use crate::facts::lexicon::Role;
use crate::facts::{Coverage, Covered};
use crate::report::sweep_document;
use crate::{Result, files, percent, plural};
use html_escape::{encode_double_quoted_attribute, encode_text};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;
use std::path::Path;

/// The page's file in the gallery's folder.
pub(super) const PAGE: &str = "coverage.html";

/// Pictures that are shown for a word that they lack, at most.
const SHOWN: usize = 48;

/// What a name of a cell may have in an address.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Writes the page; `cells` are the pictures by the names that the table gives them.
pub(super) fn write(folder: &Path, coverage: &Coverage, cells: &BTreeMap<String, Cell>) -> Result<()> {
    let file = folder.join(PAGE);
    files::check_own(&file, OUT)?;
    let html = page(coverage, cells);
    files::write_file(&file, |out| out.write_all(html.as_bytes()))
}

fn page(coverage: &Coverage, cells: &BTreeMap<String, Cell>) -> String {
    let rows: String = coverage.words.iter().map(row).collect();
    let missing: String =
        coverage.words.iter().filter(|word| !word.missing.is_empty()).map(|word| lacking(word, cells)).collect();
    let missing = match missing.is_empty() {
        true => "<p>Every word that is judged has a place in each picture of its captions.</p>".to_owned(),
        false => missing,
    };
    let pictures = plural(coverage.pictures, "picture");
    let body = format!(
        "<main class=\"page\"><header class=\"masthead\"><p class=\"meta\"><span class=\"mark\">attnmap</span>\
         <span>{pictures} · <a href=\"index.html\">all of them</a></span></p>\
         <h1>Where caption words are looked for</h1></header>\n\
         <section><div class=\"scroller\" tabindex=\"0\" role=\"region\" aria-label=\"Words in numbers\"><table>\
         <caption>How many captions have a word, in how many of their pictures it has a place, and where its map lies; \
         centre and scatter as shares of the picture’s sides, from the top left</caption>\
         <thead><tr><th scope=\"col\">Word</th><th scope=\"col\">captions</th><th scope=\"col\">has a place</th>\
         <th scope=\"col\">where</th><th scope=\"col\">centre</th><th scope=\"col\">scatter</th>\
         <th scope=\"col\">area</th></tr></thead><tbody>{rows}</tbody></table></div>\
         <p class=\"note\">A thing has a place where it is looked for {limit} times as much as in the picture on \
         average. That says where the model looked for it, and not that it is there: most things that are not \
         there have a place too. An expectation of the thing ({EXPECT:#}) tells that better. Adjectives and words \
         for the whole scene are not judged.</p></section>\n\
         <section><h2>Where a word may be missing</h2>{missing}</section>\n\
         <footer class=\"note\">attnmap {version}</footer></main>\n",
        limit = crate::facts::NEGLECT,
        version = env!("CARGO_PKG_VERSION"),
    );
    sweep_document(&format!("Coverage of {pictures} · attnmap"), &body)
}

fn row(word: &Covered) -> String {
    let none = || "–".to_owned();
    let found = if word.judged == 0 { none() } else { format!("{} of {}", word.found, word.judged) };
    let centre = word.centre.map_or_else(none, |at| format!("{}, {}", percent(at.x), percent(at.y)));
    let scatter = word.scatter.map_or_else(none, percent);
    let area = word.area.map_or_else(none, percent);
    let little = if word.role == Role::Content { "" } else { " class=\"little\"" };
    let dots: String = word
        .centres
        .iter()
        .take(500)
        .map(|at| format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"></circle>", 100.0 * at.x, 100.0 * at.y))
        .collect();
    let name = encode_text(&word.word);
    format!(
        "<tr{little}><th scope=\"row\" dir=\"auto\">{name}</th><td>{}</td><td>{found}</td>\
         <td><svg class=\"where\" viewBox=\"0 0 100 100\" width=\"40\" height=\"40\" role=\"img\" \
         aria-label=\"Centres of {}\">\
         <rect width=\"100\" height=\"100\"></rect>{dots}</svg></td>\
             <td>{centre}</td><td>{scatter}</td><td>{area}</td></tr>",
        word.captions,
        encode_double_quoted_attribute(&word.word),
    )
}

/// The pictures where `word` has no place.
fn lacking(word: &Covered, cells: &BTreeMap<String, Cell>) -> String {
    let picture = |name: &String| {
        let place = format!("{CELLS}/{}", utf8_percent_encode(name, PLAIN));
        let cell = cells.get(name);
        let file = cell.and_then(|cell| cell.look.as_ref()).and_then(|look| look.picture.file_name());
        let file = file.map_or_else(String::new, |file| file.to_string_lossy().into_owned());
        let caption = cell.map_or("", |cell| cell.prompt.as_str());
        format!(
            "<li><a href=\"{place}/report.html\"><img src=\"{place}/{THUMB}\" loading=\"lazy\" \
            alt=\"{}\"></a><span>{}</span></li>",
            encode_double_quoted_attribute(caption),
            encode_text(&file)
        )
    };
    let shown: String = word.missing.iter().take(SHOWN).map(picture).collect();
    let more = word.missing.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("<p class=\"note\">and {more} more (coverage.json)</p>") } else { String::new() };
    let (count, of) = (word.missing.len(), word.judged);
    let name = encode_text(&word.word);
    format!("<h3 dir=\"auto\">{name}: {count} of {of}</h3><ul class=\"seeds\">{shown}</ul>{more}")
}
