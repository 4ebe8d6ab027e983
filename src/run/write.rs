//! A finished image becomes a run folder: every file of it, or none.

use super::own::KIND;
use super::{FORMAT_VERSION, Pictures, RunKind, RunRecord, Settings, render_run};
use crate::Result;
use crate::facts::expect::{Expectations, Sighting};
use crate::facts::of_trace;
use crate::files::{Staging, Target};
use crate::render::write_png;
use crate::trace::By;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a run folder is made of.
#[derive(Debug, Clone)]
pub struct NewRun<'a> {
    /// How the image came about.
    pub kind: RunKind,
    /// Image, trace, and how the maps are made and drawn.
    pub pictures: Pictures<'a>,
    /// What the words of its prompt are.
    pub by: By,
    /// What the image was made with.
    pub settings: Settings,
    /// The negative prompt, when it is not empty.
    pub negative: Option<String>,
    /// The command line that makes the same run again.
    pub command: String,
    /// What is expected of the image, with the sightings of what it looks for.
    pub expect: Option<(&'a Expectations, &'a [Sighting])>,
    /// Words of the prompt that did not fit.
    pub cut_off: Vec<String>,
    /// What the user was warned of.
    pub warnings: Vec<String>,
    /// Seconds by part.
    pub timings: BTreeMap<String, f64>,
}

/// Writes `image.png`, `trace.safetensors`, `heatmaps.safetensors`, `overlays/`, `words.png` and
/// `run.json` into a hidden folder beside `target` and puts it there when all are there. `finish`
/// may add further files before that; it is given the hidden folder and the place where it will be.
/// Returns the folder and what `run.json` says.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) when `target` may not be replaced, or a choice of
/// maps cannot be had; [`Error::Io`](crate::Error::Io) when something cannot be written. Nothing is
/// left behind.
pub fn write_run(
    target: &Target,
    new: &NewRun,
    finish: impl Fn(&Path, &Path, &RunRecord) -> Result<()>,
) -> Result<(PathBuf, RunRecord)> {
    let staging = Staging::new(target, &KIND)?;
    let record = fill(staging.path(), new).map_err(|error| staging.in_place(error))?;
    let place = staging.commit(|folder, place| finish(folder, place, &record))?;
    Ok((place, record))
}

/// Writes the files into `folder`.
fn fill(folder: &Path, new: &NewRun) -> Result<RunRecord> {
    let Pictures { trace, image, aggregate, display, .. } = new.pictures;
    // The file keeps the words.
    let by = trace.clone().by(new.by);
    let pictures = Pictures { trace: &by, ..new.pictures };
    let about = &by.about;

    let settings = serde_json::to_string(&new.settings).expect("plain data has a JSON form");
    let checkpoint = format!("{} {}", about.checkpoint.id, about.checkpoint.digest);
    let mut texts = vec![
        ("Description", about.prompt.text.as_str()),
        ("Settings", settings.as_str()),
        ("Checkpoint", checkpoint.as_str()),
    ];
    texts.extend(new.negative.as_deref().map(|negative| ("Negative prompt", negative)));
    write_png(&folder.join("image.png"), image, &texts, false)?;
    let (saved, drawn) =
        rayon::join(|| trace.save(&folder.join("trace.safetensors")), || render_run(folder, &pictures));
    saved?;
    let maps = drawn?;

    let mut record = RunRecord {
        format_version: FORMAT_VERSION,
        attnmap: env!("CARGO_PKG_VERSION").to_owned(),
        kind: new.kind,
        command: new.command.clone(),
        prompt: about.prompt.text.clone(),
        negative: new.negative.clone(),
        by: new.by,
        checkpoint: about.checkpoint.clone(),
        settings: new.settings.clone(),
        latent: about.latent,
        image: about.image,
        tokens: Vec::new(),
        encoders: about.encoders.clone(),
        padding_share: 0.0,
        image_share: None,
        words: Vec::new(),
        probes: Vec::new(),
        cut_off: new.cut_off.clone(),
        warnings: new.warnings.clone(),
        aggregate: String::new(),
        maps: None,
        display: display.clone(),
        facts: Some(of_trace(&by, aggregate, display.threshold, None, &[], &[])?),
        expectations: match new.expect {
            Some((expect, sightings)) => expect.check(&by, aggregate, display.threshold, sightings)?,
            None => Vec::new(),
        },
        sites: trace.recording.sites.clone(),
        timesteps: trace.recording.timesteps.clone(),
        timings: new.timings.clone(),
    };
    record.describe(&maps, aggregate, &about.prompt, display.threshold);
    record.write(folder)?;
    Ok(record)
}
