//! What the tests of a run found, for a page: sentences, and pictures by their place in a list.

use super::history::Entry;
use crate::evidence::record::Evidence;
use crate::run::Run;
use crate::{Error, Result, files};
use serde_json::{Value, json};
use std::path::{Component, Path};

/// What is known of the run `entry`: `words`, `notes` and `figures`; all empty where it was not
/// tested.
///
/// # Errors
/// As [`Evidence::read`].
pub(super) fn tests(entry: &Entry) -> Result<Value> {
    let Some(evidence) = read(entry)? else { return Ok(json!({"words": [], "notes": [], "figures": []})) };
    let words: Vec<Value> =
        evidence.words.iter().map(|word| json!({"word": word.word, "sentence": word.sentence})).collect();
    let figures: Vec<&str> = evidence.figures.iter().map(|figure| figure.caption.as_str()).collect();
    Ok(json!({"words": words, "notes": evidence.notes, "figures": figures}))
}

/// The PNG file of figure `index`.
///
/// # Errors
/// [`Error::Option`] where there is none; [`Error::Io`].
pub(super) fn figure(entry: &Entry, index: usize) -> Result<Vec<u8>> {
    let none = || Error::option("figure", "the run has no such picture");
    let evidence = read(entry)?.ok_or_else(none)?;
    let file = &evidence.figures.get(index).ok_or_else(none)?.file;
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

fn read(entry: &Entry) -> Result<Option<Evidence>> {
    let run = Run::open(&entry.folder)?;
    Ok(Evidence::read(&entry.folder, run.record.latent)?.map(|(evidence, _)| evidence))
}
