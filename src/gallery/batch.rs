//! What a gallery holds to for ever: how many seeds go through the network together, and how maps
//! are made and drawn. It is as many seeds as memory holds when the gallery is begun.

use super::cell::Cell;
use super::plan::{Axes, Plan};
use crate::argument::{self, BATCH, OUT};
use crate::checkpoint::Checkpoint;
use crate::files::write_new_file;
use crate::heatmap::Aggregate;
use crate::pipeline::{CheckpointChoice, LoadOptions, MemoryPlan, free_memory};
use crate::render::Display;
use crate::{Error, Result, plural};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// What a gallery holds to for ever, in its folder.
pub(super) const FILE: &str = "gallery.json";

/// Seeds in one pass, at most: more gain little on a CPU, and an interrupt loses a whole pass.
pub const MOST: usize = 4;

/// Memory of a loaded checkpoint by that of its weights, with room for the first image. Measured:
/// 5.5 GB for the 4.3 GB of Stable Diffusion 1.5 at 512x512 (peak of `attnmap gallery --batch 1`
/// under `/usr/bin/time -v`).
const LOADED: f64 = 1.4;

/// Share of the free memory that a gallery may plan with.
const SHARE: f64 = 0.8;

#[derive(Serialize, Deserialize)]
struct Settled {
    format_version: u32,
    batch: usize,
    /// In words, as `run.json` says it.
    #[serde(default)]
    aggregate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maps: Option<Aggregate>,
    #[serde(default)]
    display: Option<Display>,
}

impl Settled {
    fn new(batch: usize, aggregate: &Aggregate, display: &Display) -> Self {
        let maps = Some(aggregate.clone());
        let (aggregate, display) = (Some(aggregate.to_string()), Some(display.clone()));
        Self { format_version: 1, batch, aggregate, maps, display }
    }

    /// Refuses maps that are made or drawn otherwise: the numbers of its cells could not be
    /// compared.
    fn check_maps(&self, folder: &Path, now: &Self) -> Result<()> {
        let refuse = |name: &str, begun: &str, now: &str| {
            let reason = format!(
                "{} was begun with {begun}, now {now}; ask for the same, or choose another {OUT}",
                folder.display()
            );
            Err(argument::named(name)
                .map_or_else(|| Error::input(name, &*reason), |own| Error::argument(own, &*reason)))
        };
        if let (Some(begun), Some(now)) = (&self.aggregate, &now.aggregate)
            && begun != now
        {
            return refuse("aggregate", &format!("the maps {begun}"), now);
        }
        let fields = |settled: &Self| match serde_json::to_value(&settled.display) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let now = fields(now);
        let changed = fields(self).into_iter().find(|(name, begun)| now.get(name).is_some_and(|now| now != begun));
        // Numbers are `f32`, which JSON's `f64` spells with all of their digits.
        let plain = |value: &serde_json::Value| match (value.as_str(), value.as_f64()) {
            (Some(text), _) => text.to_owned(),
            (_, Some(number)) => (number as f32).to_string(),
            _ => value.to_string(),
        };
        match changed {
            Some((name, begun)) => refuse(&name, &plain(&begun), &plain(&now[&name])),
            None => Ok(()),
        }
    }
}

/// Returns the batch size stored in the `gallery.json` of `folder`. On first use it stores `asked`,
/// or else what `propose` returns, with how maps are made and drawn. The last digits of an image
/// depend on how many went through the network with it, so a batch that changed would show.
///
/// # Errors
/// [`Error::Argument`] when `asked`, `aggregate` or `display` is not what the gallery was begun
/// with; [`Error::Trace`] when its `gallery.json` is damaged; [`Error::Io`]; those of `propose`.
pub fn settle(
    folder: &Path,
    asked: Option<usize>,
    (aggregate, display): (&Aggregate, &Display),
    propose: impl FnOnce() -> Result<usize>,
) -> Result<usize> {
    let file = folder.join(FILE);
    let with = |batch: usize| Settled::new(batch, aggregate, display);
    let settled = match read(&file)? {
        Some(settled) => settled,
        None => {
            let new = with(asked.map_or_else(propose, Ok)?.max(1));
            let json = serde_json::to_vec(&new).expect("plain data has a JSON form");
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
            // Another shard may have been faster; then its choice counts.
            if write_new_file(&file, &json)? { new } else { read(&file)?.unwrap_or(new) }
        }
    };
    let batch = settled.batch;
    settled.check_maps(folder, &with(batch))?;
    match asked {
        Some(asked) if asked != batch => {
            let reason = format!(
                "{} was begun with {} a pass, on which the last digits of its images depend; leave it out",
                folder.display(),
                plural(batch, "seed")
            );
            Err(Error::argument(BATCH, reason))
        }
        _ => Ok(batch),
    }
}

/// Whether the gallery in `folder` makes and draws its maps in this way.
pub(super) fn begun_with(folder: &Path, (aggregate, display): (&Aggregate, &Display)) -> bool {
    let settled = read(&folder.join(FILE)).ok().flatten();
    let now = |batch: usize| Settled::new(batch, aggregate, display);
    settled.is_none_or(|settled| settled.check_maps(folder, &now(settled.batch)).is_ok())
}

/// Whether a gallery was begun in `folder`.
pub(super) fn is_settled(folder: &Path) -> bool {
    read(&folder.join(FILE)).is_ok_and(|settled| settled.is_some())
}

fn read(file: &Path) -> Result<Option<Settled>> {
    match crate::files::read(file) {
        Ok(bytes) => {
            let damaged = |error: serde_json::Error| Error::Trace { file: file.into(), reason: error.to_string() };
            serde_json::from_slice::<Settled>(&bytes).map(Some).map_err(damaged)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(file)(error)),
    }
}

/// As many seeds in one pass, from 1 to `MOST`, as the largest images of the largest checkpoint of
/// `axes` leave room for. It is 1 where the system does not tell how much is free. A checkpoint
/// that cannot be opened counts for nothing: it says so when its cells fail.
///
/// # Errors
/// Those of [`Plan::new`].
pub fn fitting_batch(axes: &Axes, open: &dyn Fn(&CheckpointChoice) -> Result<Checkpoint>) -> Result<usize> {
    let Some(free) = free_memory() else { return Ok(1) };
    let mut least: Option<usize> = None;
    let mut seen: Vec<&Cell> = Vec::new();
    let plan = Plan::new(axes, 1)?;
    for cell in &plan.cells {
        if seen.iter().any(|known| known.same_checkpoint(cell)) {
            continue;
        }
        seen.push(cell);
        let planned = |(checkpoint, load): (Checkpoint, LoadOptions)| {
            let [height, width] = load.size.unwrap_or(checkpoint.defaults.size);
            let factor = checkpoint.vae.factor();
            let latent = height.div_ceil(factor).saturating_mul(width.div_ceil(factor)) as u64;
            let image = latent.saturating_mul(4 * checkpoint.denoiser.values_per_cell());
            Ok((MemoryPlan::new(&checkpoint, &load)?.weights(), image))
        };
        let Ok((weights, image)) = plan.open(cell, open).and_then(planned) else { continue };
        let fits = fitting(free, weights, image);
        least = Some(least.map_or(fits, |least| least.min(fits)));
    }
    Ok(least.unwrap_or(1))
}

fn fitting(free: u64, weights: u64, image: u64) -> usize {
    let room = free as f64 * SHARE - weights as f64 * LOADED;
    1 + (room.max(0.0) / image.max(1) as f64).min((MOST - 1) as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_choice_holds_and_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let gallery = folder.path().join("night");
        let (aggregate, display) = (Aggregate::default(), Display::default());
        let maps = (&aggregate, &display);
        assert_eq!(settle(&gallery, None, maps, || Ok(3)).unwrap(), 3);
        assert_eq!(settle(&gallery, None, maps, || panic!("is settled")).unwrap(), 3);
        assert_eq!(settle(&gallery, Some(3), maps, || Ok(1)).unwrap(), 3);
        let error = settle(&gallery, Some(2), maps, || Ok(1)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("begun with 3"), "{error}");
        assert!(!write_new_file(&gallery.join(FILE), b"{}").unwrap(), "the first of two shards wins");
        assert_eq!(fs::read_dir(&gallery).unwrap().count(), 1);
        let other = Display { overlay_size: 64, ..Display::default() };
        let error = settle(&gallery, None, (&aggregate, &other), || Ok(1)).unwrap_err().to_string();
        assert!(error.contains("overlay_size: ") && error.contains("begun with 512, now 64"), "{error}");
        // Those of before this was recorded go on.
        fs::write(gallery.join(FILE), r#"{"format_version":1,"batch":3}"#).unwrap();
        assert_eq!(settle(&gallery, None, (&aggregate, &other), || Ok(1)).unwrap(), 3);
        fs::write(gallery.join(FILE), "{").unwrap();
        assert!(settle(&gallery, None, maps, || Ok(1)).unwrap_err().to_string().contains(FILE));
    }

    #[test]
    fn seeds_go_together_when_memory_allows() {
        const GB: u64 = 1_000_000_000;
        assert_eq!(fitting(100 * GB, 4 * GB, GB), MOST);
        assert_eq!(fitting(10 * GB, 4 * GB, GB), 3);
        assert_eq!(fitting(4 * GB, 4 * GB, GB), 1, "too little for one: the system may still manage");
        assert_eq!(fitting(0, 0, 0), 1);
    }
}
