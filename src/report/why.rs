//! The answers of `attnmap why` in a run's folder, for the page.

use super::data::{ImageData, WhyAnswer};
use crate::Result;
use crate::run::read_png;
use crate::why::Answer;
use crate::why::record::{TableRow, answers};
use std::path::{Component, Path};

/// Every answer that lies in `folder`, with the pictures that are still there.
///
/// # Errors
/// [`Error::Trace`](crate::Error::Trace) naming a picture that is damaged.
pub(super) fn why(folder: &Path) -> Result<Vec<WhyAnswer>> {
    answers(folder).into_iter().map(|answer| shown(folder, answer)).collect()
}

fn shown(folder: &Path, answer: Answer) -> Result<WhyAnswer> {
    let mut figures = Vec::new();
    for figure in answer.figures {
        let file = Path::new(&figure.file);
        // Only what lies in the folder itself.
        let inside = file.components().all(|part| matches!(part, Component::Normal(_)));
        let path = folder.join(file);
        if inside && path.is_file() {
            let image = ImageData { mime: "image/png", bytes: read_png(&path)?.1, width: 0, height: 0 };
            figures.push((figure.caption, image));
        }
    }
    let row = |row: TableRow| {
        let moves = row.moves.map_or_else(|| "–".into(), crate::percent);
        [row.experiment, row.images.to_string(), moves, row.more]
    };
    let rows = answer.table.into_iter().map(row).collect();
    Ok(WhyAnswer { word: answer.word, sentence: answer.sentence, rows, notes: answer.notes, figures })
}
