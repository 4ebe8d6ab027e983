//! What is found wrong before a gallery makes anything.

use super::cell::Cell;
use super::cell_files::{CellFacts, FILE};
use super::folder::{CELLS, is_finished};
use super::plan::Plan;
use crate::argument::{INIT, MASK, OUT};
use crate::checkpoint::{Checkpoint, Family};
use crate::heatmap::Aggregate;
use crate::pipeline::{
    CheckpointChoice, InitFiles, LoadedInit, check_clip_skip, check_conditions, check_guidance, check_joint,
    check_size, check_strength,
};
use crate::trace::Grid;
use crate::{Error, Result};
use std::path::Path;

/// Opens the checkpoints of cells that are still to be made. So it fails before anything is written
/// if an error affects every cell, or if maps by `aggregate` take no layer of any. Errors of single
/// cells are reported when those cells are made.
///
/// # Errors
/// [`Error::Argument`] for a LoRA, embedding or variant that is not there, even for a single cell.
/// Where no cell is finished or can be, the error of the first.
pub fn check_checkpoints(
    folder: &Path,
    plan: &Plan,
    aggregate: &Aggregate,
    open: &dyn Fn(&CheckpointChoice) -> Result<Checkpoint>,
) -> Result<()> {
    let mut known: Vec<(&Cell, Option<Checkpoint>)> = Vec::new();
    let (mut possible, mut first) = (false, None);
    for cell in &plan.cells {
        if is_finished(folder, cell) {
            possible = true;
            continue;
        }
        let at = match known.iter().position(|(other, _)| other.same_checkpoint(cell)) {
            Some(at) => at,
            None => {
                let checkpoint = match plan.open(cell, open) {
                    Ok((checkpoint, _)) => Some(checkpoint),
                    Err(error @ Error::Argument { .. }) => return Err(error),
                    Err(error) => {
                        first.get_or_insert(error);
                        None
                    }
                };
                known.push((cell, checkpoint));
                known.len() - 1
            }
        };
        let Some(checkpoint) = &known[at].1 else { continue };
        let (factor, family) = (checkpoint.factor(), checkpoint.index.family);
        let sized = cell.sampling.size.map_or(Ok(()), |[height, width]| check_size(Grid::new(height, width), factor));
        let guided = sized.and_then(|()| cell.sampling.guidance.map_or(Ok(()), check_guidance));
        let strength = cell.init.as_ref().and_then(|files| files.strength);
        let taken = guided.and_then(|()| strength.map_or(Ok(()), check_strength));
        let cropped = cell.sampling.crop.is_some_and(|crop| crop != [0, 0]);
        let (original, conditioned) = (cell.sampling.original_size.is_some(), family == Family::StableDiffusionXl);
        let conditions = taken.and_then(|()| check_conditions(original, cropped, conditioned));
        let skipped = cell.sampling.clip_skip.unwrap_or_default();
        let read = conditions.and_then(|()| check_clip_skip(skipped, family, &checkpoint.clip_layers()));
        let joint = read.and_then(|()| check_joint(family.flows(), cell.concepts.is_some(), cell.text_queries));
        match joint.and_then(|()| check_layers(checkpoint, cell, aggregate)) {
            Ok(()) => possible = true,
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if !possible => Err(error),
        _ => Ok(()),
    }
}

/// Whether maps by `aggregate` take a layer of the network that makes `cell`.
fn check_layers(checkpoint: &Checkpoint, cell: &Cell, aggregate: &Aggregate) -> Result<()> {
    let size = cell.sampling.size.unwrap_or(checkpoint.defaults.size);
    let latent = size.map(|side| side / checkpoint.vae.factor());
    aggregate.choose(&checkpoint.denoiser.sites(latent), Grid::new(latent[0], latent[1])).map(drop)
}

/// Reads the pictures that the cells of `plan` set out from, each once. A picture that changes
/// while a gallery is made is then not mixed.
///
/// # Errors
/// [`Error::Argument`] for what is no picture, and when finished cells in `folder` set out from
/// another picture of the same name.
pub(super) fn read_pictures<'a>(folder: &Path, plan: &'a Plan) -> Result<Vec<(&'a InitFiles, LoadedInit)>> {
    let mut pictures: Vec<(&InitFiles, LoadedInit)> = Vec::new();
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
        let facts = crate::files::read(&path.join(FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<CellFacts>(&bytes).ok());
        let Some((kept, cell)) = facts.and_then(|CellFacts { cell, .. }| Some((cell.init.clone()?, cell))) else {
            continue;
        };
        let key = (kept, cell.sampling.size, cell.model);
        if seen.contains(&key) {
            continue;
        }
        let kept = &key.0;
        for (files, given) in pictures.iter().filter(|(files, _)| files.init == kept.init) {
            let (argument, picture) = match (given.changed_since(&path), &files.mask) {
                (Some(MASK), Some(mask)) if files.mask == kept.mask => (MASK, mask),
                (Some(INIT), _) => (INIT, &files.init),
                _ => continue,
            };
            let reason = format!(
                "{} is not the picture that {} was made with; choose another {OUT}, or remove the cells that were",
                picture.display(),
                path.display()
            );
            return Err(Error::argument(argument, reason));
        }
        seen.push(key);
    }
    Ok(pictures)
}
