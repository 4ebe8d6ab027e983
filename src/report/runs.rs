//! The page that lists the runs of a folder, the newest first.

use super::html::{embed_json, runs_document};
use crate::Result;
use crate::argument::OUT;
use crate::files::{MARK, check_own, write_file};
use crate::plural;
use crate::run::list_runs;
use serde_json::json;
use std::path::Path;

/// The page's file in the folder of runs.
pub const RUNS_FILE: &str = "index.html";

/// Runs that the page lists, at most: older ones are found by their folders.
const MOST: usize = 1_000;

/// Writes `index.html` into `folder`, which lists the runs in it. Returns how many there are.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) when a page is there that attnmap did not write;
/// [`Error::Io`](crate::Error::Io).
pub fn write_runs(folder: &Path) -> Result<usize> {
    let file = folder.join(RUNS_FILE);
    check_own(&file, OUT)?;
    let runs = list_runs(folder, MOST);
    // Most runs are of one checkpoint: it is said once.
    let common =
        runs.first().map(|run| run.checkpoint.as_str()).filter(|id| runs.iter().all(|run| run.checkpoint == *id));
    let data = json!({
        "runs": runs, "common": common.unwrap_or_default(), "folder": folder.to_string_lossy(), "version": MARK,
    });
    let html = runs_document(&format!("{} · attnmap", plural(runs.len(), "run")), &embed_json(&data));
    write_file(&file, |out| out.write_all(html.as_bytes()))?;
    Ok(runs.len())
}
