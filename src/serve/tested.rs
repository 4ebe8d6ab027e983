//! What the tests of a run found, for a page: sentences, and pictures by their place in a list.

use super::history::HistoryEntry;
use crate::evidence::{Evidence, Figure};
use crate::run::Run;
use crate::{Error, Result, files, why};
use serde_json::{Value, json};
use std::path::{Component, Path};

/// What is known of the run `entry`: `words`, `notes` and `figures`; all empty where it was not
/// tested.
///
/// # Errors
/// As [`Evidence::read`].
pub(super) fn tests(entry: &HistoryEntry) -> Result<Value> {
    let (evidence, answers) = (read(entry)?, why::record::answers(&entry.folder));
    let tested = evidence.iter().flat_map(|evidence| &evidence.words);
    let tested = tested.map(|word| json!({"word": word.word, "sentence": word.sentence}));
    let told = answers.iter().map(|answer| json!({"word": answer.word, "sentence": answer.sentence}));
    let words: Vec<Value> = tested.chain(told).collect();
    let notes = evidence.iter().flat_map(|evidence| &evidence.notes);
    let notes: Vec<&String> = notes.chain(answers.iter().flat_map(|answer| &answer.notes)).collect();
    let figures: Vec<String> = figures(entry)?.into_iter().map(|figure| figure.caption).collect();
    Ok(json!({"words": words, "notes": notes, "figures": figures}))
}

/// The PNG file of figure `index`.
///
/// # Errors
/// [`Error::Argument`] where there is none; [`Error::Io`].
pub(super) fn figure(entry: &HistoryEntry, index: usize) -> Result<Vec<u8>> {
    let none = || Error::input("figure", "the run has no such picture");
    let file = figures(entry)?.into_iter().nth(index).ok_or_else(none)?.file;
    // The file comes from a JSON that others may have written.
    let path = Path::new(&file);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(none());
    }
    let path = entry.folder.join(path);
    let bytes = files::read(&path).map_err(Error::io(&path))?;
    if image::guess_format(&bytes).ok() != Some(image::ImageFormat::Png) {
        return Err(none());
    }
    Ok(bytes)
}

/// The pictures of all tests, in the order in which a page shows them.
fn figures(entry: &HistoryEntry) -> Result<Vec<Figure>> {
    let tested = read(entry)?.map_or_else(Vec::new, |evidence| evidence.figures);
    Ok(tested
        .into_iter()
        .chain(why::record::answers(&entry.folder).into_iter().flat_map(|answer| answer.figures))
        .collect())
}

fn read(entry: &HistoryEntry) -> Result<Option<Evidence>> {
    let run = Run::open(&entry.folder)?;
    Ok(Evidence::read(&entry.folder, run.record.latent)?.map(|(evidence, _)| evidence))
}
