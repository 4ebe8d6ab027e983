//! What a picture's own metadata says of how it was made: caption, negative prompt, seed and
//! settings. One file per program that writes such metadata.
//!
//! Metadata is written by anyone. Its size, depth and number of steps are bounded. A value of a
//! wrong type is not taken, and nothing is ever run.

mod attnmap;
mod comfyui;
mod container;
mod found;
mod invokeai;
mod json;
mod web_ui;

pub use found::{METADATA_KEY, Metadata};

use found::{LONGEST, shortened};

/// The most entries of [`Metadata::not_taken`].
const MOST_LEFT: usize = 24;

/// What the metadata of `bytes`, a png, jpeg or webp file, says; `None` where no program that is
/// known here wrote any. Where several did, the first in this order: attnmap, the web UIs,
/// InvokeAI, ComfyUI.
///
/// # Errors
/// In a line, why metadata of a known program tells no prompt.
pub fn metadata(bytes: &[u8]) -> Result<Option<Metadata>, String> {
    let texts = container::texts(bytes)?;
    let mut failed = None;
    for read in [attnmap::read, web_ui::read, invokeai::read, comfyui::read] {
        match read(&texts) {
            Some(Ok(found)) => return Ok(Some(checked(found)?)),
            Some(Err(reason)) => failed = failed.or(Some(crate::printable(&reason))),
            None => {}
        }
    }
    failed.map_or(Ok(None), Err)
}

/// Takes out what no run could have.
fn checked(mut found: Metadata) -> Result<Metadata, String> {
    if found.prompt.trim().is_empty() {
        return Err(format!("the prompt in the metadata of {} is empty", found.program));
    }
    if found.prompt.len() > LONGEST {
        let (program, bytes) = (&found.program, found.prompt.len());
        return Err(format!("the prompt in the metadata of {program} has {bytes} bytes, which no text encoder reads"));
    }
    found.negative = found.negative.filter(|text| !text.trim().is_empty());
    if found.negative.as_ref().is_some_and(|text| text.len() > LONGEST) {
        found.negative = None;
        found.not_taken.push("a negative prompt that is too long".into());
    }
    if let Some(steps) = found.steps.filter(|steps| !(1..=100_000).contains(steps)) {
        found.steps = None;
        found.not_taken.push(format!("{steps} steps"));
    }
    if let Some(guidance) = found.guidance.filter(|guidance| !guidance.is_finite()) {
        found.guidance = None;
        found.not_taken.push(format!("the guidance {guidance}"));
    }
    let fits = |side: usize| (1..=1 << 16).contains(&side);
    if let Some((width, height)) = found.size.filter(|&(width, height)| !(fits(width) && fits(height))) {
        found.size = None;
        found.not_taken.push(format!("the size {width}x{height}"));
    }
    let mut seen = std::collections::HashSet::new();
    found.not_taken.retain(|left| seen.insert(left.clone()));
    let left = found.not_taken.len();
    if left > MOST_LEFT {
        found.not_taken.truncate(MOST_LEFT - 1);
        found.not_taken.push(format!("{} more", left - (MOST_LEFT - 1)));
    }
    for left in &mut found.not_taken {
        *left = shortened(left);
    }
    found.model = found.model.map(|name| shortened(&name));
    Ok(found)
}
