//! The gallery's page, made from whatever cells are there.

use super::folder::{CELLS, FAILURES, Failure, INDEX, whole};
use super::index_cell::{CHANGED, IndexCell, WithoutWord};
use super::index_page::index_page;
use crate::argument;
use crate::evidence::changed_share;
use crate::files;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// All complete cells of the gallery in `folder`, in order, and the failures. What is not complete
/// is left out.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read; [`Error::Argument`] when it is no gallery.
pub(super) fn read_cells(folder: &Path) -> Result<(Vec<IndexCell>, Vec<Failure>)> {
    let mut cells = HashMap::new();
    read_new(folder, &mut cells)?;
    add_changes(folder, &mut cells);
    Ok((in_order(cells.into_values().collect()), read_failures(folder)))
}

/// Reads the complete cells of the gallery in `folder` that `known` does not have yet.
fn read_new(folder: &Path, known: &mut HashMap<String, IndexCell>) -> Result<()> {
    let place = folder.join(CELLS);
    if !place.is_dir() {
        let reason = format!("{} is no gallery (no folder `cells` in it)", folder.display());
        return Err(Error::argument(argument::INDEX, reason));
    }
    for entry in std::fs::read_dir(&place).map_err(Error::io(&place))? {
        let path = entry.map_err(Error::io(&place))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        // A damaged cell must not stop all others.
        if known.contains_key(name) {
            continue;
        }
        let Some((facts, record)) = whole(&path) else { continue };
        known.insert(name.to_owned(), IndexCell::new(name.to_owned(), facts, &record));
    }
    Ok(())
}

/// Adds to each cell of which something was left out how much of the image that changed, where the
/// whole cell is there too. A picture that cannot be read adds nothing.
fn add_changes(folder: &Path, cells: &mut HashMap<String, IndexCell>) {
    let image = |cell: &IndexCell| {
        let bytes = files::read(&folder.join(CELLS).join(&cell.name).join("image.png")).ok()?;
        Some(image::load_from_memory(&bytes).ok()?.to_rgb8())
    };
    let is_whole = |cell: &&IndexCell| cell.facts.cell.origins().iter().any(|origin| origin.without.is_empty());
    let wholes: Vec<&IndexCell> = cells.values().filter(is_whole).collect();
    let change = |(cell, place): (&IndexCell, usize)| -> Option<(String, usize, f64)> {
        let origin = &cell.left_out[place].origin;
        let whole = wholes.iter().find(|whole| cell.facts.cell.is_part_of(origin, &whole.facts.cell))?;
        let (own, whole) = (image(cell)?, image(whole)?);
        (own.dimensions() == whole.dimensions()).then(|| (cell.name.clone(), place, changed_share(&whole, &own)))
    };
    let missing: Vec<(&IndexCell, usize)> = cells
        .values()
        .flat_map(|cell| (0..cell.left_out.len()).map(move |place| (cell, place)))
        .filter(|(cell, place)| cell.left_out[*place].changed.is_none())
        .collect();
    let found: Vec<(String, usize, f64)> = missing.into_par_iter().filter_map(change).collect();
    for (name, place, share) in found {
        if let Some(cell) = cells.get_mut(&name) {
            cell.left_out[place].changed = Some(share);
            // The page has one number per image: that of the first way.
            if place == 0 {
                cell.numbers.push((CHANGED.to_owned(), share));
            }
        }
    }
}

fn in_order<C: Borrow<IndexCell>>(mut cells: Vec<C>) -> Vec<C> {
    let place = |cell: &C| -> (usize, String) {
        let cell: &IndexCell = cell.borrow();
        (cell.facts.cell.order, cell.name.clone())
    };
    cells.sort_by_cached_key(place);
    cells
}

fn read_failures(folder: &Path) -> Vec<Failure> {
    // No failures, no folder.
    let entries = std::fs::read_dir(folder.join(FAILURES)).into_iter().flatten().flatten();
    let failures = entries.filter_map(|entry| serde_json::from_slice(&files::read(&entry.path()).ok()?).ok());
    let mut failures: Vec<Failure> = failures.collect();
    failures.sort_by_cached_key(|failure| (failure.cell.order, failure.cell.name()));
    failures
}

/// Writes `index.html` from what is in `folder`, whole or not at all, and returns the number of
/// cells.
///
/// # Errors
/// [`Error::Argument`] when the folder is no gallery, or a page is there that attnmap did not
/// write; [`Error::Io`].
pub fn write_index(folder: &Path) -> Result<usize> {
    LiveIndex::new(folder, None).write()
}

/// The page of a gallery that is being made, brought up to date as cells come.
#[derive(Debug)]
pub struct LiveIndex {
    folder: PathBuf,
    planned: Option<usize>,
    known: HashMap<String, IndexCell>,
    /// When the page was last written, and how long that took.
    written: Option<(Instant, Duration)>,
}

/// A cell of which something was left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftOut {
    /// Its folder's name under `cells/`.
    pub cell: String,
    /// The prompt that it was left out of, as it stood in the list.
    pub base: String,
    /// The word or tag that was left out.
    pub without: String,
    /// Which share of the image changes by it, 0 to 1; absent where the whole cell is not there.
    pub changed: Option<f64>,
}

impl LiveIndex {
    /// The cells of which something was left out, in order, as they were read last.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let told = |cell: &IndexCell| -> Vec<LeftOut> {
            let one = |part: &WithoutWord| LeftOut {
                cell: cell.name.clone(),
                base: part.origin.base.clone(),
                without: part.origin.without.clone(),
                changed: part.changed,
            };
            cell.left_out.iter().map(one).collect()
        };
        in_order(self.known.values().collect()).into_iter().flat_map(told).collect()
    }

    /// The least time from one page to the next.
    const PAUSE: Duration = Duration::from_secs(2);

    /// Nothing is read or written yet. `planned` is the number of cells that the whole gallery will
    /// have.
    pub fn new(folder: &Path, planned: Option<usize>) -> Self {
        Self { folder: folder.to_path_buf(), planned, known: HashMap::new(), written: None }
    }

    /// Writes the page, unless that was done a moment ago: the first cell shows at once, and
    /// thousands cost little.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn refresh(&mut self) -> Result<()> {
        let rested = self.written.is_none_or(|(at, took)| at.elapsed() >= Self::PAUSE.max(20 * took));
        if rested { self.write().map(drop) } else { Ok(()) }
    }

    /// Writes the page from the cells that were read before and those that have come, whoever made
    /// them. Returns how many there are.
    ///
    /// # Errors
    /// As [`write_index`].
    pub fn write(&mut self) -> Result<usize> {
        let began = Instant::now();
        files::check_own(&self.folder.join(INDEX), argument::INDEX)?;
        // Whoever writes last has read last: no page leaves out a cell that an earlier page had.
        let _turn = files::Turn::wait(&self.folder.join(super::batch::FILE));
        read_new(&self.folder, &mut self.known)?;
        add_changes(&self.folder, &mut self.known);
        let (cells, failures) = (in_order(self.known.values().cloned().collect()), read_failures(&self.folder));
        let planned = self.planned.filter(|planned| cells.len() + failures.len() < *planned);
        let html = index_page(&cells, &failures, planned);
        files::write_file(&self.folder.join(INDEX), |out| out.write_all(html.as_bytes()))?;
        self.written = Some((Instant::now(), began.elapsed()));
        Ok(cells.len())
    }
}
