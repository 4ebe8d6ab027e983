//! Words asked later: a run made again exactly, with probes beside its prompt. Its trace tells of
//! them as if they had been asked about at first. What the trace holds already stays as it is.

use super::replay::{check_checkpoint, check_image, options_of};
use crate::argument::{PROBE, RUN};
use crate::heatmap::{Aggregate, DEFAULT_OF_CONCEPTS, Measure};
use crate::pipeline::{Event, LookOptions, Options, Pipeline, RecordOptions, concepts_asked};
use crate::run::{Remake, Run, RunKind, RunRecord, option_words, remake};
use crate::trace::{Half, Recording, SiteMaps, Trace, WordInfo, normalized};
use crate::{Error, Result};
use image::RgbImage;
use std::ops::ControlFlow;
use std::path::Path;

/// A run's trace with more words asked about.
#[derive(Debug)]
pub struct Asked {
    /// All probes of the run, those that it had first.
    pub probes: Vec<String>,
    /// The trace, which holds them all.
    pub trace: Trace,
    /// Whether the run was made again to the bit. Otherwise it was made beside others, in one pass
    /// with them, and the probes are those of the run alone: equal but for rounding.
    pub exact: bool,
}

/// Those of `words` that a run was not asked about; each once.
pub fn unasked(trace: &Trace, words: &[String]) -> Vec<String> {
    let mut new: Vec<String> = Vec::new();
    for word in words {
        let is = |other: &String| normalized(other) == normalized(word);
        if !trace.about.probes.iter().any(|probe| is(&probe.text)) && !new.iter().any(is) {
            new.push(word.clone());
        }
    }
    new
}

/// Refuses a run that attnmap cannot make again at all, before a checkpoint is loaded.
///
/// # Errors
/// As [`Run::check_can_draw`]; [`Error::Argument`] where its maps have no place for a new word.
pub fn check_kind(run: &Run) -> Result<()> {
    if run.record.how().is_ok_and(|how| how.measure == Measure::Goca) {
        let reason = "its maps are GoCA's, which has none of words beside the prompt; `attnmap view RUN` makes others";
        return Err(Error::argument(RUN, reason));
    }
    run.check_can_draw("probe")
}

/// Makes `run`, whose trace and image these are, again with the checkpoint that made it, and asks
/// it about `words` too. `progress` is told of every call of the network.
///
/// # Errors
/// [`Error::Argument`] when `pipeline` is another checkpoint, or a word has no token, or another
/// program recorded the run. [`Error::Trace`] when the run cannot be made again exactly.
/// [`Error::Interrupted`] when `progress` breaks.
pub fn ask(
    pipeline: &Pipeline,
    run: &Run,
    (trace, image): (&Trace, &RgbImage),
    words: &[String],
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Asked> {
    check_kind(run)?;
    check_checkpoint(&run.record, pipeline)?;
    let known = trace.about.probes.iter().map(|probe| probe.text.clone());
    let probes: Vec<String> = known.chain(unasked(trace, words)).collect();
    let infos = pipeline.probe_infos(&probes)?;
    let concepts = concepts_asked(&trace.about.concepts);
    let options = Options { probes: probes.clone(), concepts, ..options_of(pipeline, run)? };
    let prompt = pipeline.prompt(&run.record.prompt, &options)?;
    let per_step = trace.recording.conditional.sites.iter().all(|site| site.steps.is_some());
    let (again, drawn) = match run.record.kind {
        RunKind::Trace => {
            let noised = pipeline.noise_picture(image, &LookOptions::of_run(run)?)?;
            let keep = RecordOptions { per_step, ..RecordOptions::default() };
            (pipeline.trace_noised(&prompt, &noised, &options, &keep, progress)?.recording, None)
        }
        _ => {
            let unconditional = trace.recording.unconditional.is_some();
            let keep = RecordOptions { per_step, unconditional, ..RecordOptions::default() };
            let (mut traced, _) = pipeline.trace(&prompt, &options, keep, &mut |event| match event {
                Event::Stepped { .. } => progress(),
                _ => ControlFlow::Continue(()),
            })?;
            let traced = traced.swap_remove(0);
            (traced.trace.recording, Some(traced.generation.image))
        }
    };
    let exact = same_numbers(&trace.recording, &again);
    let otherwise = "ask when it is made: attnmap generate PROMPT --probe WORDS";
    match drawn {
        _ if exact => {}
        Some(drawn) => check_image(run, &drawn, image, otherwise)?,
        None => {
            let reason =
                format!("the run cannot be made again exactly (on another machine or by another version); {otherwise}");
            return Err(Error::Trace { file: run.folder.join("trace.safetensors"), reason });
        }
    }
    let mut about = trace.about.clone();
    about.probes = infos;
    about.concepts = pipeline.concepts(&prompt, &options)?;
    // Concepts read each other: with new ones, all have new maps.
    let recording = Recording { probes: again.probes, concepts: again.concepts, ..trace.recording.clone() };
    Ok(Asked { probes, trace: Trace::new(about, recording)?, exact })
}

/// Whether two recordings hold the same numbers of the prompt and the negative prompt, to the bit.
fn same_numbers(a: &Recording, b: &Recording) -> bool {
    let site = |(a, b): (&SiteMaps, &SiteMaps)| a.sum[..] == b.sum[..] && a.steps.as_deref() == b.steps.as_deref();
    let half = |a: &[SiteMaps], b: &[SiteMaps]| a.len() == b.len() && a.iter().zip(b).all(site);
    let other = match (&a.unconditional, &b.unconditional) {
        (Some(a), Some(b)) => half(&a.sites, &b.sites),
        (a, b) => a.is_none() && b.is_none(),
    };
    a.timesteps == b.timesteps && half(&a.conditional.sites, &b.conditional.sites) && other
}

/// Puts `asked` into the folder of `run`: its trace, and maps, pictures and `run.json` made again.
/// They are made as the run has them, with the probes among its words. `finish` makes the page, as
/// in [`remake`]. Returns what `run.json` says.
///
/// # Errors
/// As [`remake`].
pub fn keep(
    run: &Run,
    asked: &Asked,
    image: &RgbImage,
    finish: impl Fn(&Path, &Path) -> Result<()>,
) -> Result<RunRecord> {
    let Run { folder, record } = run;
    // Of a version that knows other aggregates: the default.
    let mut aggregate = record.how().unwrap_or_default();
    let trace = &asked.trace;
    // Where attention is joint a word beside the prompt has no map but that of a concept.
    let first = !trace.about.concepts.is_empty() && run.trace()?.about.concepts.is_empty();
    if first && aggregate == Aggregate::default() {
        aggregate = Aggregate::named(DEFAULT_OF_CONCEPTS)?;
    }
    let shown: Vec<WordInfo> = record.words.iter().map(|word| word.word.clone()).collect();
    let own = trace.half(aggregate.half).map_or(&[][..], |(_, prompt)| &prompt.words);
    // Whoever asks about a word wants to see it, whatever else is shown.
    let probes = trace.probe_words(aggregate.half);
    let words: Vec<WordInfo> = shown.iter().cloned().chain(probes).collect();
    let words = (shown != own || aggregate.half == Half::Unconditional).then_some(words);
    let command = with_probes(&record.command, &asked.probes);
    let choices =
        Remake { aggregate: &aggregate, display: &record.display, words: words.as_deref(), asked: Some(&command) };
    let run = Run { folder: folder.clone(), record: record.clone() };
    Ok(remake(&run, (trace, image), &choices, None, finish)?.1)
}

/// The `command` of a run that is asked about `probes`, in the place of those that it was asked
/// about before. Of an option that stands elsewhere as well the last one counts.
fn with_probes(command: &str, probes: &[String]) -> String {
    let is_word = |value: &str| match value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')) {
        Some(inner) => !inner.replace("'\\''", "").contains('\''),
        None => !value.contains([' ', '\'']),
    };
    // `--probe=-x`, quoted or not, where the first begins with a dash.
    let before = |command: &str| {
        let forms = [" --probe ", " --probe=", " '--probe="];
        let found = forms.into_iter().filter_map(|form| {
            let (before, value) = command.rsplit_once(form)?;
            let value = if form.ends_with(" '--probe=") { format!("'{value}") } else { value.to_owned() };
            is_word(&value).then_some(before.len())
        });
        found.max()
    };
    let mut command = command;
    while let Some(end) = before(command) {
        command = &command[..end];
    }
    format!("{command} {}", option_words(&PROBE.option(), &probes.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_asks_about_the_last_probes_alone() {
        let probes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let once =
            with_probes("attnmap generate 'a frog' --seed 3 --probe 'a cat'\\''s hat'", &probes(&["hat", "red hat"]));
        assert_eq!(once, "attnmap generate 'a frog' --seed 3 --probe 'hat,red hat'");
        assert_eq!(with_probes(&once, &probes(&["tail"])), "attnmap generate 'a frog' --seed 3 --probe tail");
        for dashed in [&["-x"][..], &["-x", "a hat"]] {
            let asked = with_probes(&once, &probes(dashed));
            assert!(asked.contains("--probe=-x"), "{asked}");
            assert_eq!(with_probes(&asked, &probes(&["tail"])), "attnmap generate 'a frog' --seed 3 --probe tail");
        }
    }
}
