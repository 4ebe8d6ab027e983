//! What is wrong with the findings beside a run, which its page does without.

use crate::attribution::{ATTRIBUTION, Attributions};
use crate::evidence::{Evidence, Figure};
use crate::run::{COMPONENTS, Fault, Run, read_components};
use crate::why::record::all_kept;
use std::collections::BTreeSet;

/// Everything that is wrong with what later commands found of `run`: its evidence, attributions,
/// components and the answers about a thing's place, with their pictures. Nothing where a file
/// is not there at all.
pub fn faults(run: &Run) -> Vec<Fault> {
    let folder = run.folder.as_path();
    let (mut faults, mut pictures) = (Vec::new(), BTreeSet::new());
    let mut shown = |figures: &[Figure]| pictures.extend(figures.iter().map(|figure| figure.file.clone()));
    match Evidence::read(folder, run.record.latent) {
        Ok(found) => found.iter().for_each(|(evidence, _)| shown(&evidence.figures)),
        Err(error) => faults.push(Fault::of("evidence.json", &error)),
    }
    for (file, kept) in all_kept(folder) {
        match kept {
            Ok(kept) => kept.answer.iter().for_each(|answer| shown(&answer.figures)),
            Err(reason) => {
                let file = file.strip_prefix(folder).unwrap_or(&file).display().to_string();
                faults.push(Fault { file, reason });
            }
        }
    }
    if let Err(error) = Attributions::read(folder) {
        faults.push(Fault::of(ATTRIBUTION, &error));
    }
    if let Err(error) = read_components(folder) {
        faults.push(Fault::of(COMPONENTS, &error));
    }
    for file in pictures {
        if let Err(error) = run.picture(&file) {
            faults.push(Fault::of(&file, &error));
        }
    }
    faults
}
