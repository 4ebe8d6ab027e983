//! What is found wrong before a gallery makes anything.

use super::cell::{CellFacts, FILE};
use super::make::CELLS;
use super::plan::Plan;
use crate::pipeline::{Given, InitFiles};
use crate::{Error, Result};
use std::path::Path;

/// Reads the pictures that the cells of `plan` set out from, each once, so that one that changes while a gallery is made is not mixed.
///
/// # Errors
/// [`Error::Option`] for what is no picture, and when finished cells in `folder` set out from another picture of the same name.
pub(super) fn read_pictures<'a>(folder: &Path, plan: &'a Plan) -> Result<Vec<(&'a InitFiles, Given)>> {
    let mut pictures: Vec<(&InitFiles, Given)> = Vec::new();
    for files in plan.cells.iter().filter_map(|cell| cell.init.as_ref()) {
        if pictures.iter().all(|(known, _)| *known != files) {
            pictures.push((files, files.read()?));
        }
    }
    if pictures.is_empty() {
        return Ok(pictures);
    }
    // One cell of each size tells for all.
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder.join(CELLS)).into_iter().flatten().flatten() {
        let path = entry.path();
        let facts =
            std::fs::read(path.join(FILE)).ok().and_then(|bytes| serde_json::from_slice::<CellFacts>(&bytes).ok());
        let Some((kept, cell)) = facts.and_then(|CellFacts { cell, .. }| Some((cell.init.clone()?, cell))) else {
            continue;
        };
        let key = (kept, cell.size, cell.model);
        if seen.contains(&key) {
            continue;
        }
        let kept = &key.0;
        for (files, given) in pictures.iter().filter(|(files, _)| files.init == kept.init) {
            let (option, picture) = match (given.changed_since(&path), &files.mask) {
                (Some("--mask"), Some(mask)) if files.mask == kept.mask => ("--mask", mask),
                (Some("--init"), _) => ("--init", &files.init),
                _ => continue,
            };
            let reason = format!(
                "{} is not the picture that {} was made with; choose another --out, or remove the cells that were",
                picture.display(),
                path.display()
            );
            return Err(Error::option(option, reason));
        }
        seen.push(key);
    }
    Ok(pictures)
}
