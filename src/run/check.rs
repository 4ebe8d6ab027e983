//! A run folder against its format (docs/TRACE.md): everything that is wrong with it, not the first
//! thing alone.

use super::folder::Run;
use super::record::FILE as RECORD;
use crate::trace::{QUERIES, Queries, Trace};
use crate::{Error, Result};
use safetensors::SafeTensors;
use serde::Serialize;
use std::path::Path;

/// How far the shares of a run's tokens may be from 1 together.
const SHARES_TOLERANCE: f32 = 1e-3;

/// One thing that is wrong with a run folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file that it is in, from the run folder.
    pub file: String,
    /// What is wrong, in one line.
    pub reason: String,
}

impl Fault {
    /// What `error` says of `file` of a run folder.
    pub(crate) fn of(file: &str, error: &Error) -> Self {
        Self { file: file.into(), reason: plain(error) }
    }
}

/// Everything that is wrong with the run in `folder`; nothing where it is as docs/TRACE.md says. A
/// report is not looked at, since it is made of the other files, and what later commands found has
/// a check of its own, `report::faults`.
///
/// # Errors
/// [`Error::Trace`] when there is no such folder.
pub fn check(folder: &Path) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    let run = match Run::open(folder) {
        Ok(run) => run,
        Err(error) if !folder.is_dir() && !folder.is_file() => return Err(error),
        Err(error) => {
            faults.push(Fault::of(RECORD, &error));
            return Ok(faults);
        }
    };
    let mut add = |file: &str, reason: String| faults.push(Fault { file: file.into(), reason });
    if let Err(error) = run.image() {
        add("image.png", plain(&error));
    }
    const TRACE: &str = "trace.safetensors";
    match Trace::load(&run.folder.join(TRACE)) {
        Ok(trace) => {
            for part in run.differences(&trace) {
                add(TRACE, format!("its {part} is another than run.json says"));
            }
            trace.faults().into_iter().for_each(|fault| add(TRACE, fault));
            of_record(&run, Some(&trace)).into_iter().for_each(|reason| add(RECORD, reason));
            match run.queries(&trace) {
                Ok(queries) => queries.iter().flat_map(Queries::faults).for_each(|fault| add(QUERIES, fault)),
                Err(error) => add(QUERIES, plain(&error)),
            }
        }
        Err(error) => {
            add(TRACE, plain(&error));
            of_record(&run, None).into_iter().for_each(|reason| add(RECORD, reason));
        }
    }
    of_heatmaps(&run).into_iter().for_each(|reason| add("heatmaps.safetensors", reason));
    let overlays = run.record.words.iter().chain(&run.record.probes).map(|word| word.overlay.as_str());
    for picture in overlays.chain(["words.png"]) {
        if let Err(error) = run.picture(picture) {
            add(picture, plain(&error));
        }
    }
    Ok(faults)
}

/// What is wrong in `run.json` itself, beside the trace where that can be read.
fn of_record(run: &Run, trace: Option<&Trace>) -> Vec<String> {
    let record = &run.record;
    let mut reasons = Vec::new();
    let shares = record.tokens.iter().map(|token| token.share).chain([record.padding_share]);
    let sum: f32 = shares.chain(record.image_share).sum();
    if sum.is_nan() || (sum - 1.0).abs() > SHARES_TOLERANCE {
        reasons.push(format!("the shares of tokens, padding and image sum to {sum}, not to 1"));
    }
    let count = record.tokens.len();
    for word in &record.words {
        let (text, tokens) = (&word.word.text, &word.word.tokens);
        if tokens.is_empty() || tokens.iter().any(|&token| token >= count) {
            reasons.push(format!("word {text:?} names tokens {tokens:?} of {count}"));
        }
    }
    let Some(trace) = trace else { return reasons };
    let halves = [Some(&trace.about.prompt), trace.about.negative.as_ref()];
    let own = |tokens: &[crate::trace::TokenInfo]| tokens.iter().eq(record.tokens.iter().map(|token| &token.token));
    if !halves.into_iter().flatten().any(|prompt| own(&prompt.tokens)) {
        reasons.push("its tokens are not those of the trace".into());
    }
    if record.prompt != trace.about.prompt.text {
        reasons.push("its prompt is not that of the trace".into());
    }
    reasons
}

/// What is wrong with the maps: shapes other than `run.json` says, or numbers that are none.
fn of_heatmaps(run: &Run) -> Vec<String> {
    let file = run.folder.join("heatmaps.safetensors");
    let bytes = match crate::files::read(&file) {
        Ok(bytes) => bytes,
        Err(error) => return vec![plain(&Error::io(&file)(error))],
    };
    let tensors = match SafeTensors::deserialize(&bytes) {
        Ok(tensors) => tensors,
        Err(error) => return vec![format!("not safetensors: {error}")],
    };
    let record = &run.record;
    let grid = [record.latent.height, record.latent.width];
    let mut expected = vec![("tokens", record.tokens.len()), ("words", record.words.len())];
    if !record.probes.is_empty() {
        expected.push(("probes", record.probes.len()));
    }
    let fault = |(name, count): (&str, usize)| {
        let Ok(tensor) = tensors.tensor(name) else { return Some(format!("no tensor {name}")) };
        let shape = [count, grid[0], grid[1]];
        if tensor.dtype() != safetensors::Dtype::F32 || tensor.shape() != shape {
            return Some(format!("{name} is {:?} {:?}, not F32 {shape:?}", tensor.dtype(), tensor.shape()));
        }
        let numbers = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let wrong = numbers.into_iter().find(|value| !value.is_finite() || *value < 0.0)?;
        Some(format!("{name} holds {wrong}"))
    };
    expected.into_iter().filter_map(fault).collect()
}

/// An error without the path before it, which the fault names.
fn plain(error: &Error) -> String {
    match error {
        Error::Trace { reason, .. } => reason.clone(),
        Error::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}
