//! A gallery as one picture: what differs most in the columns, all else in the names of the rows.

use super::cell_files::THUMB;
use super::folder::CELLS;
use super::index::read_cells;
use super::index_cell::IndexCell;
use super::index_page::differing;
use crate::argument::SHEET;
use crate::render::{GridPicture, PictureGrid, Typesetter, picture_grid, write_png};
use crate::{Error, Result, picture, plural};
use std::path::Path;

/// Pictures of a sheet, at most: beyond that nobody can look at it, and no program opens it.
const MOST: usize = 4_000;

/// Writes the gallery in `folder` as one PNG at `path`. Seeds go across where they differ, else the
/// last thing that does. Each combination of everything else has a row. Returns the number of
/// pictures.
///
/// # Errors
/// [`Error::Argument`] when the folder is no gallery, or there is nothing to show, or far too much;
/// [`Error::Io`].
pub fn write_sheet(folder: &Path, path: &Path) -> Result<usize> {
    let (cells, _) = read_cells(folder)?;
    if cells.is_empty() || cells.len() > MOST {
        let reason = format!("{} has {}; a sheet shows 1 to {MOST}", folder.display(), plural(cells.len(), "cell"));
        return Err(Error::argument(SHEET, reason));
    }
    let grid = arrange(&cells, |cell| {
        let image = picture::read(&folder.join(CELLS).join(&cell.name).join(THUMB), SHEET)?;
        let notes = cell.notes.len();
        let caption = if notes == 0 { String::new() } else { format!("{notes} noted") };
        Ok(GridPicture { image, caption })
    })?;
    let sheet = picture_grid(&grid, &mut Typesetter::new());
    write_png(path, &sheet, &[("Description", &grid.title)], false)?;
    Ok(cells.len())
}

fn arrange(cells: &[IndexCell], picture: impl Fn(&IndexCell) -> Result<GridPicture>) -> Result<PictureGrid> {
    let axes = differing(cells);
    let across = axes.iter().position(|axis| axis.name == "seed").or(axes.len().checked_sub(1));
    let column_of = |cell: usize| across.map_or_else(String::new, |axis| axes[axis].texts[cell].clone());
    let row_of = |cell: usize| -> String {
        let others = axes.iter().enumerate().filter(|(at, _)| Some(*at) != across);
        others
            .map(|(_, axis)| axis.texts[cell].as_str())
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(" · ")
    };
    let mut columns: Vec<String> = Vec::new();
    let mut rows: Vec<(String, Vec<Option<GridPicture>>)> = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        let (column, row) = (column_of(at), row_of(at));
        let across = columns.iter().position(|known| *known == column).unwrap_or_else(|| {
            columns.push(column);
            columns.len() - 1
        });
        let down = rows.iter().position(|(known, _)| *known == row).unwrap_or_else(|| {
            rows.push((row, Vec::new()));
            rows.len() - 1
        });
        let row = &mut rows[down].1;
        if row.len() <= across {
            row.resize_with(across + 1, || None);
        }
        row[across] = Some(picture(cell)?);
    }
    let one_prompt = !axes.iter().any(|axis| axis.name == "prompt");
    let title = if one_prompt { cells[0].facts.cell.prompt.clone() } else { plural(cells.len(), "image") };
    let subtitle = cells[0].facts.cell.checkpoint_label();
    let note = "Made by attnmap".to_owned();
    Ok(PictureGrid { title, subtitle, note, columns, rows })
}
