//! What the tests of a run found, for a page: sentences, and pictures by their place in a list.

use super::history::HistoryEntry;
use crate::evidence::{Evidence, Figure};
use crate::run::Run;
use crate::why::{self, Answer};
use crate::{Error, Result, files};
use serde_json::{Value, json};
use std::path::{Component, Path};

/// What is known of the run `entry`: `words`, `notes` and `figures`; all empty where it was not
/// tested.
///
/// # Errors
/// As [`Evidence::read`].
pub(super) fn tests(entry: &HistoryEntry) -> Result<Value> {
    let (evidence, answers) = read(entry)?;
    let tested = evidence.iter().flat_map(|evidence| &evidence.words);
    let tested = tested.map(|word| json!({"word": word.word, "sentence": word.sentence}));
    let told = answers.iter().map(|answer| json!({"word": answer.word, "sentence": answer.sentence}));
    let words: Vec<Value> = tested.chain(told).collect();
    let notes = evidence.iter().flat_map(|evidence| &evidence.notes);
    let notes: Vec<&String> = notes.chain(answers.iter().flat_map(|answer| &answer.notes)).collect();
    let captions: Vec<&String> = figures(&evidence, &answers).map(|figure| &figure.caption).collect();
    Ok(json!({"words": words, "notes": notes, "figures": captions}))
}

/// The PNG file of figure `index`.
///
/// # Errors
/// [`Error::Argument`] where there is none; [`Error::Io`].
pub(super) fn figure(entry: &HistoryEntry, index: usize) -> Result<Vec<u8>> {
    let none = || Error::input("figure", "the run has no such picture");
    let (evidence, answers) = read(entry)?;
    let file = &figures(&evidence, &answers).nth(index).ok_or_else(none)?.file;
    // The file comes from a JSON that others may have written.
    let path = Path::new(file);
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
fn figures<'a>(evidence: &'a Option<Evidence>, answers: &'a [Answer]) -> impl Iterator<Item = &'a Figure> {
    let tested = evidence.iter().flat_map(|evidence| &evidence.figures);
    tested.chain(answers.iter().flat_map(|answer| &answer.figures))
}

/// What explanations found of the words as the run has them, and the answers of `why`.
fn read(entry: &HistoryEntry) -> Result<(Option<Evidence>, Vec<Answer>)> {
    let evidence = Evidence::of_run(&Run::open(&entry.folder)?)?.map(|(evidence, _)| evidence);
    Ok((evidence, why::record::answers(&entry.folder)))
}
