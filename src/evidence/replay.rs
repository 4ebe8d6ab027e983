//! A run made again by the checkpoint that made it, and whether it is the same.

use super::causal;
use crate::argument::{Argument, LATENTS, MODEL, PREDICTION};
use crate::pipeline::{Init, LookOptions, Options, Pipeline};
use crate::prompt::Prompt;
use crate::run::{Run, RunKind, RunRecord};
use crate::{Error, Result};
use candle_core::Tensor;
use image::RgbImage;
use std::ops::ControlFlow;

/// Whether the run is a look at a picture that was there, and no image was made.
pub(super) fn is_look(run: &Run) -> bool {
    run.record.kind == RunKind::Trace
}

/// The options that make `run` again with the checkpoint that made it, as far as its settings are
/// known here.
///
/// # Errors
/// Those of [`Pipeline::options_of`], and when a picture that the folder keeps is missing or
/// damaged.
pub fn options_of(pipeline: &Pipeline, run: &Run) -> Result<Options> {
    if is_look(run) {
        return Ok(pipeline.look_run(run.record.image, &LookOptions::of_run(run)?));
    }
    let negative = run.record.negative.as_deref().unwrap_or_default();
    Ok(Options { init: Init::of_run(run)?, ..pipeline.options_of(&run.record.settings, negative)? })
}

/// The prompt and the options that make `run` again with the checkpoint that made it.
///
/// # Errors
/// [`Error::Argument`] when `pipeline` is another checkpoint; [`Error::Trace`] when the run was
/// made in a way that cannot be replayed.
pub(crate) fn remade(run: &Run, pipeline: &Pipeline) -> Result<(Prompt, Options)> {
    check_checkpoint(&run.record, pipeline)?;
    let options = options_of(pipeline, run)?;
    check_replay(run, pipeline, &options)?;
    let prompt = pipeline.prompt(&run.record.prompt, &options)?;
    Ok((prompt, options))
}

/// What the denoiser was shown at each call of `run`, with the timestep. A traced picture is noised
/// again. A generated image is made again and must be `image`, but for what rounding in a batch of
/// several images does. `progress` is told of every step.
///
/// # Errors
/// [`Error::Trace`] when the run cannot be made again exactly; [`Error::Interrupted`] when
/// `progress` breaks.
pub(crate) fn shown(
    run: &Run,
    image: &RgbImage,
    pipeline: &Pipeline,
    prompt: &Prompt,
    options: &Options,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Vec<(Tensor, f64)>> {
    if is_look(run) {
        let noised = pipeline.noise_picture(image, &LookOptions::of_run(run)?)?;
        return Ok(noised.into_iter().map(|noised| (noised.latent, noised.timestep as f64)).collect());
    }
    let trajectory = causal::replay(pipeline, prompt, options, progress)?;
    check_image(run, &trajectory.generation.image, image, "its words cannot be tested")?;
    Ok(trajectory.inputs.into_iter().zip(trajectory.timesteps).collect())
}

/// Whether `again`, the run made again, is its `image`, but for rounding; `else_` says what follows
/// where it is not.
///
/// # Errors
/// [`Error::Trace`] with what may have been another.
pub(crate) fn check_image(run: &Run, again: &RgbImage, image: &RgbImage, else_: &str) -> Result<()> {
    let recorded = run.record.kind == RunKind::Record;
    let is_same =
        if recorded { differs_by_at_most(again, image, ANOTHER_PROGRAM) } else { same_but_for_rounding(again, image) };
    if is_same {
        return Ok(());
    }
    let cause = match recorded {
        true => {
            "the checkpoint draws another image from its settings: its weights, its sampler or its steps (a callback) \
            were changed in Python, noise of its steps was drawn for several images at once, its device or number type \
            rounds otherwise, or the checkpoint is another one"
                .to_owned()
        }
        false => format!("it was made with {LATENTS}, on another machine or by another version"),
    };
    let reason = format!("the run cannot be made again exactly ({cause}); {else_}");
    Err(Error::Trace { file: run.folder.join("image.png"), reason })
}

/// Whether a run with `options` says all of itself that `run` says: no other run is made in
/// silence. A look at a picture is made again from the picture itself.
///
/// # Errors
/// [`Error::Trace`] naming a setting that the options leave out.
pub(crate) fn check_replay(run: &Run, pipeline: &Pipeline, options: &Options) -> Result<()> {
    let record = &run.record;
    let said = pipeline.settings(options, record.settings.seed).further();
    // What another program says of itself changes nothing in what is drawn.
    let harmless = |name: &str| record.kind == RunKind::Record && ["pipeline", "max_length"].contains(&name);
    let left_out = |(name, value): &(&String, &serde_json::Value)| {
        !value.is_null() && !said.contains_key(*name) && !harmless(name)
    };
    if let Some((name, value)) = record.settings.further().iter().filter(|_| !is_look(run)).find(left_out) {
        let reason =
            format!("the run was made with `{name}` ({value}), which cannot be replayed; its words cannot be tested");
        return Err(Error::Trace { file: run.folder.join(crate::run::RECORD), reason });
    }
    Ok(())
}

/// Whether `pipeline` is the checkpoint that made the run. What another program recorded has no
/// digest of its weights: whoever makes it again compares the images (`check_image`).
///
/// # Errors
/// [`Error::Argument`] that names both checkpoints. If only the variant, config, prediction, LoRAs
/// or embeddings differ, it names those. [`Error::Unsupported`] if only the contents of the files
/// differ.
pub fn check_checkpoint(record: &RunRecord, pipeline: &Pipeline) -> Result<()> {
    if pipeline.digest() == record.checkpoint.digest || record.kind == RunKind::Record {
        return Ok(());
    }
    if pipeline.id() == record.checkpoint.id {
        return Err(other_weights(record, pipeline)?);
    }
    let reason = format!(
        "{} is not the checkpoint that made the run ({}, digest {}); give that one with {MODEL}",
        pipeline.id(),
        record.checkpoint.id,
        record.checkpoint.digest
    );
    Err(Error::argument(MODEL, reason))
}

/// The refusal of the run's own checkpoint with other weights than it had: changed by other
/// options, or other files now. Options are named only where the run or the user gave them.
fn other_weights(record: &RunRecord, pipeline: &Pipeline) -> Result<Error> {
    let (id, had) = (pipeline.id(), record.settings.changes.arguments());
    let now = pipeline.changes().arguments();
    let text = |(argument, value): &(Argument, String)| format!("{argument} {value}");
    let list = |changes: Vec<String>| changes.join(" ");
    if had == now {
        let files = match now.iter().filter(|(argument, _)| *argument != PREDICTION).map(text).collect::<Vec<_>>() {
            none if none.is_empty() => "its files".to_owned(),
            changes => format!("its files, or those of {},", list(changes)),
        };
        let reason = format!(
            "{files} are other ones than when the run was made (digest {} now, {} then); put the old files back, or \
            make the run again: \
             its run.json has the command",
            pipeline.digest(),
            record.checkpoint.digest
        );
        return Ok(Error::Unsupported { what: format!("testing this run with {id}"), way_out: reason });
    }
    let more: Vec<_> = now.iter().filter(|change| !had.contains(change)).map(text).collect();
    let missing: Vec<_> = had.iter().filter(|change| !now.contains(change)).map(text).collect();
    let argument = now.iter().chain(&had).find(|change| !now.contains(change) || !had.contains(change));
    let reason = match (more.is_empty(), missing.is_empty()) {
        (false, true) => format!("the run was made without {}; leave it out", list(more)),
        (true, _) => format!("the run was made with {}; give it too", list(missing)),
        (false, false) => format!("the run was made with {}, not with {}", list(missing), list(more)),
    };
    Ok(Error::argument(argument.map_or(MODEL, |(argument, _)| *argument), reason))
}

/// Whether two images of a run are one. The networks sum in another order for several images at
/// once. So a value in a thousand may fall on the other side of a rounding to 1/255.
fn same_but_for_rounding(a: &RgbImage, b: &RgbImage) -> bool {
    let off = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).filter(|&off| off > 0);
    let (count, worst) = off.fold((0, 0), |(count, worst), off| (count + 1, off.max(worst)));
    a.dimensions() == b.dimensions() && worst <= 1 && 1000 * count <= a.as_raw().len()
}

/// By how much of 255 a value of another program's image of the same run may differ: what attnmap
/// is held to against diffusers (ACCURACY.md).
const ANOTHER_PROGRAM: u8 = 2;

/// Whether no value of two images is further apart than `most`.
fn differs_by_at_most(a: &RgbImage, b: &RgbImage, most: u8) -> bool {
    a.dimensions() == b.dimensions() && a.as_raw().iter().zip(b.as_raw()).all(|(a, b)| a.abs_diff(*b) <= most)
}
