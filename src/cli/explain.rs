//! `attnmap explain`: whether each word mattered, and whether its map shows where.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::evidence::shapley::Shapley;
use attnmap::evidence::{Ask, CAUSAL, Cut, Evidence, Explanation, Redraw, Reweight};
use attnmap::files::{Target, check_place};
use attnmap::maker::Maker;
use attnmap::pipeline::{CheckpointChoice, Pipeline, RecordOptions};
use attnmap::prompt::WordWeights;
use attnmap::render::Display;
use attnmap::run::{self, Remake, Run};
use attnmap::trace::PromptInfo;
use attnmap::{Error, Result};
use clap::Args;

use super::checkpoint::{self, ModelArgs};
use super::display::MapArgs;
use super::inert::{self, PlannedRun};
use super::newest::{OUTPUTS, is_last, run_folder};
use super::open;
use super::print::{self, Terminal};
use super::progress;
use super::prompt::{adapter_warnings, read_text, warnings};
use super::sampling::RunArgs;

/// Test whether each word mattered, and whether its map shows where
#[derive(Debug, Args)]
#[command(after_help = HELP, mut_arg("words", |words| words.help("Words to test, e.g. \"apple,heart#2\" [default: \
all that could be drawn]")))]
pub struct ExplainArgs {
    /// A run's folder, or a prompt (a run is made of it first, as `generate` does) [default: the
    /// newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN|PROMPT")]
    subject: Option<OsString>,

    /// Take a prompt from a text file, all of it
    #[arg(long, value_name = "FILE", conflicts_with = "subject")]
    prompt_file: Option<PathBuf>,

    /// How a word is taken out: mask, substitute or drop
    #[arg(long, value_name = "CUT", default_value = "substitute")]
    cut: Cut,

    /// At how many steps of the run the prediction is compared
    #[arg(long, alias = "at", value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    test_steps: u16,

    /// Most rows of a batch: more is faster and takes more memory
    #[arg(long, value_name = "ROWS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..))]
    batch: u16,

    /// Draw the same seed without each word however long it takes [default: where it takes a minute
    /// or less]
    #[arg(long, conflicts_with = "no_counterfactual")]
    counterfactual: bool,

    /// Never draw the same seed without each word: whether it mattered is told from the prediction
    /// alone
    #[arg(long)]
    no_counterfactual: bool,

    /// Generate the same seed with what a word adds scaled: heart=0.5,2, or heart=0..2 (both ends
    /// included)
    ///
    /// Each weight is one image. A range, 0..2 or 0-2, is five images, or as many as are written
    /// after a slash: heart=0..2/9.
    #[arg(long, value_name = "WORD=WEIGHT")]
    weight: Vec<WordWeights>,

    /// Check that the maps fall apart when the weights of cross-attention are drawn anew, block by
    /// block
    #[arg(long)]
    sanity: bool,

    /// Share the effect among the words (at most 8) by Shapley values
    #[arg(long)]
    shapley: bool,

    /// Most sets of words that --shapley may try
    #[arg(long, value_name = "SETS", default_value_t = 64)]
    budget: usize,

    /// Test again where the run has been tested already
    #[arg(long)]
    force: bool,

    /// Open the run's page in the browser
    #[arg(long)]
    open: bool,

    /// Print what was found as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    model: ModelArgs,

    /// Seed of the run; `random` (or -1) draws one
    #[arg(long, value_name = "N", default_value = "0", value_parser = super::seed::parse)]
    #[arg(allow_negative_numbers = true)]
    #[arg(help_heading = "The run that a prompt becomes")]
    seed: u64,

    #[command(flatten, next_help_heading = "The run that a prompt becomes")]
    run: RunArgs,
}

const HELP: &str = "\
Two answers a word. Did it matter: the same seed is drawn without the word, and the share of the image that
changes tells (under 0.3 %: not at all; from 4 %: much). Does its map show where: at some steps of the run, from
the latents that the run had there, the denoiser predicts with the prompt and without the word; where the two
differ is the word's causal map, which the attention map is held against, and against maps that know nothing of
the word. ACCURACY.md has how often both err. Drawing the seed without a word takes as long as the run's own
steps, a word; what takes over a minute is asked for with --counterfactual. Three cuts answer different questions:
  mask        the word's term is left out of cross-attention: the direct path only
  substitute  the word becomes the article `a` before the text encoder: direct and through other tokens, positions kept
  drop        the word leaves the text
A traced picture is tested at its noise levels, without a run to make again. --weight scales, in every
cross-attention of the conditional half, what each of the word's tokens adds (probability times value); the
probabilities stay. 1 is the run itself, 0 the cut `mask`. --by tag tests what stands between commas as one
word. It ends with the dead tags: those whose absence changes under 0.3 % of the image. The image without all of
them at once is drawn too, with the figure beside it. The result is kept in the run's folder (evidence.json,
evidence.safetensors, causal/, counterfactual/, weights/) and shown in its report. Words that are tested one
after the other stand side by side there; another --cut, --test-steps or choice of maps replaces them, and says
so.

Examples:
  attnmap explain \"a red apple to the left of a blue heart on the beach\"
  attnmap explain \"a red apple, on the beach, at the beach\" --by tag
  attnmap explain \"a (red:1.4) apple\" --emphasis --steps 20 --size 96x96
  attnmap explain last --words heart --counterfactual --weight heart=0..2 --sanity";

/// Runs the command.
pub fn run(args: &ExplainArgs, terminal: &Terminal) -> anyhow::Result<()> {
    inert::at_once(&terminal.given, None).iter().for_each(print::warn);
    let (run, pipeline) = open(args, terminal)?;
    let (own, run) = (run.record.by, args.maps.by_of(run));
    let aggregate = args.maps.aggregate_of(&run.record)?;
    let prompt = run.trace()?.about.prompt;
    let ask = Ask {
        aggregate,
        words: args.maps.words(&prompt, &[])?,
        cut: args.cut,
        at: usize::from(args.test_steps),
        batch: usize::from(args.batch),
        shapley: args.shapley.then_some(args.budget),
        sanity: args.sanity,
        redraw: match (args.counterfactual, args.no_counterfactual) {
            (true, _) => Redraw::Always,
            (_, true) => Redraw::Never,
            _ => Redraw::Cheap,
        },
        reweight: args.weight.iter().map(|asked| Reweight::of(asked, &prompt)).collect::<Result<_>>()?,
    };
    let explanation = Explanation::new(run, ask)?;
    let folder = &explanation.run().folder;
    if !args.force
        && let Some(known) = explanation.known()?.filter(|known| !can_try_more(args, known))
    {
        let unused = ["model", "lora", "embedding", "dtype", "device", "batch"]
            .map(|option| (option, terminal.given.has(option)));
        if let Some((option, _)) = unused.iter().find(|(_, given)| *given && pipeline.is_none()) {
            print::warn(format!(
                "--{option} has no effect here: all that is asked is known already; --force tests again"
            ));
        }
        return show(args, folder, &known);
    }
    attnmap::report::check_room(folder)?;
    explanation.check_room()?;
    let replaced = explanation.replaces();
    if explanation.run().record.by != own {
        in_its_words(explanation.run())?;
    }
    let mut pipeline = match pipeline {
        Some(pipeline) => pipeline,
        None => args.model.load_of(&explanation.run().record, terminal)?,
    };
    let cost = explanation.cost(&pipeline);
    print::note(cost.to_string());
    if let (false, Some(seconds)) = explanation.redraws()
        && !args.no_counterfactual
        && explanation.can_redraw()
    {
        let minutes = (seconds / 60.0).ceil();
        print::note(format!("the image without each word takes {minutes:.0} min more; --counterfactual draws it"));
    }
    let bar = terminal.bar((cost.steps + cost.calls) as u64, "testing");
    let evidence = explanation.make(&mut pipeline, &mut || {
        bar.inc(1);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    attnmap::report::write(folder)?;
    if let Some(replaced) = replaced {
        print::note(format!("replaced what had been tested in another way: {replaced}"));
    }
    show(args, folder, &evidence)
}

/// Whether `known` shared the effect by a sample of the sets, and `--budget` now pays for more of
/// them. Sampling ends where the next two orders of the words would exceed its budget. No set and
/// all words are known by then.
fn can_try_more(args: &ExplainArgs, known: &Evidence) -> bool {
    let more = |found: &Shapley, words: usize| {
        let next = found.evaluations + 2 * words.saturating_sub(1);
        let all = 1usize.checked_shl(words as u32).unwrap_or(usize::MAX);
        found.permutations > 0 && args.budget >= next.min(all)
    };
    args.shapley && known.shapley.as_ref().is_some_and(|shared| more(&shared.found, shared.words.len()))
}

/// Makes the maps and the page of `run` again with its words as they are tested, as `view --by`
/// does.
fn in_its_words(run: &Run) -> anyhow::Result<()> {
    let (trace, image) = run.read()?;
    let aggregate = run.record.how().unwrap_or_default();
    let choices = Remake { aggregate: &aggregate, display: &run.record.display, words: None, asked: None };
    run::remake(run, (&trace, &image), &choices, None, |folder, place| {
        attnmap::report::write_as(folder, place).map(drop)
    })?;
    Ok(())
}

/// The run, and the pipeline where it had to be loaded to make the run or to know it.
fn open(args: &ExplainArgs, terminal: &Terminal) -> anyhow::Result<(Run, Option<Pipeline>)> {
    let named = args.subject.as_deref();
    let newest = args.prompt_file.is_none() && named.is_none_or(|subject| is_last(Path::new(subject)));
    let newest = if newest { Some(run_folder(None)?) } else { None };
    let subject = newest.as_deref().map(Path::as_os_str).or(named).unwrap_or_default();
    let (path, written) = (Path::new(subject), subject.to_string_lossy());
    if args.prompt_file.is_none()
        && (path.exists() || written.contains(std::path::MAIN_SEPARATOR) && !written.contains(' '))
    {
        // First: what lies there may be a sweep, or a folder of the user's.
        let run = Run::open(path)?;
        if args.run != RunArgs::default() || terminal.given.has("seed") {
            let reason =
                "is a run, made as it is; how a run is made (--seed, --steps, --size, --emphasis ...) is for prompts";
            return Err(Error::input("RUN", format!("{written} {reason}")).into());
        }
        return Ok((run, None));
    }
    let text = match &args.prompt_file {
        Some(file) => read_text(file)?,
        None => {
            let reason = || format!("{written} is no run's folder, and no UTF-8 text");
            subject.to_str().ok_or_else(|| Error::input("PROMPT", reason()))?.to_owned()
        }
    };
    if text.trim().is_empty() {
        let reason = "the prompt is empty; give a run's folder or say what the image should show";
        return Err(Error::input("PROMPT", reason).into());
    }
    let target = Target::generated(Path::new(OUTPUTS).join(run::run_name(&text, args.seed)), false);
    // A run of this prompt that is there already is meant, the newest of those that were made as it
    // is said now.
    for known in target.taken().iter().rev().filter_map(|folder| Run::open(folder).ok()) {
        if known.record.prompt == text
            && let Some(pipeline) = is_meant(args, &known, terminal)?
        {
            return Ok((known, pipeline));
        }
    }
    check_place(&target.folder(&run::KIND)?)?;
    let pipeline = args.model.load(args.run.sampling.size, terminal)?;
    let folder = make(args, &text, &target, &pipeline, terminal)?;
    Ok((Run::open(&folder)?, Some(pipeline)))
}

/// Whether `known` is the run that the arguments make: then the pipeline, where it had to be loaded
/// to tell.
fn is_meant(args: &ExplainArgs, known: &Run, terminal: &Terminal) -> anyhow::Result<Option<Option<Pipeline>>> {
    let record = &known.record;
    let choice = CheckpointChoice::of_run(record)?;
    if args.model.over(choice.clone())? != choice {
        return Ok(None);
    }
    if args.run == RunArgs::default() {
        return Ok(Some(None));
    }
    let pipeline = checkpoint::load(&choice, args.run.sampling.size, terminal)?;
    let options = args.run.options(&pipeline, args.seed);
    let same = record.settings == pipeline.settings(&options, args.seed)
        && record.negative.as_deref().unwrap_or_default() == options.negative
        && known.trace()?.about.probes == pipeline.probe_infos(&options.probes)?;
    Ok(same.then_some(Some(pipeline)))
}

/// Makes the run of a prompt, as `generate` does, and returns its folder.
fn make(
    args: &ExplainArgs,
    text: &str,
    target: &Target,
    pipeline: &Pipeline,
    terminal: &Terminal,
) -> anyhow::Result<PathBuf> {
    let options = args.run.options(pipeline, args.seed);
    pipeline.check(&options)?;
    let prompt = pipeline.prompt(text, &options)?;
    // Before the work: what is asked of the run must be in its prompt.
    let info = PromptInfo::from(&prompt).by(args.maps.by());
    args.maps.check_words(&info)?;
    args.weight.iter().try_for_each(|asked| Reweight::of(asked, &info).map(drop))?;
    let mut warnings = warnings(pipeline, &prompt, &options.negative, &options.probes)?;
    let probes = options.probes.iter().map(String::as_str);
    let texts: Vec<&str> = [text, &*options.negative].into_iter().chain(probes).collect();
    warnings.extend(adapter_warnings(pipeline, &texts, options.syntax)?);
    let (choice, aggregate) = (args.model.choice()?, args.maps.aggregate()?);
    let made = PlannedRun {
        pipeline,
        choice: &choice,
        options: &options,
        prompt: &prompt,
        words: None,
        aggregate: &aggregate,
    };
    warnings.extend(inert::in_run(&terminal.given, made, None, None));
    warnings.iter().for_each(print::warn);
    let maker = Maker {
        pipeline,
        prompt: &prompt,
        keep: RecordOptions::for_maps(&aggregate),
        keep_steps: None,
        aggregate,
        display: Display::default(),
        by: args.maps.by(),
        words: None,
        expect: None,
        regions: None,
        warnings,
        loading: None,
    };
    maker.check(&options)?;
    let command = pipeline.command(text, &options)
        + &run::map_options(&maker.aggregate, &maker.display, !options.concepts.is_empty())
        + &run::by_option(maker.by);
    Ok(progress::make(&maker, &options, target, command, terminal)?.0)
}

fn show(args: &ExplainArgs, folder: &Path, evidence: &Evidence) -> anyhow::Result<()> {
    if args.open {
        open::open(&folder.join("report.html"));
    }
    if args.json {
        return print::json(evidence);
    }
    let head = ["word", "did it matter?", "image changed", "does its map show where?"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for word in &evidence.words {
        rows.push(vec![
            print::printable(&word.word),
            word.mattered.name().into(),
            word.changed.map_or_else(|| "-".into(), print::percent),
            word.shows.name().into(),
        ]);
    }
    let mut text = print::table(&rows) + "\n";
    for word in &evidence.words {
        text += &format!("{}\n", print::line(&word.sentence));
    }
    if !evidence.notes.is_empty() {
        text.push('\n');
    }
    for note in &evidence.notes {
        text += &format!("{}\n", print::line(note));
    }
    for figure in &evidence.figures {
        let caption = print::line(&figure.caption);
        text += &format!("\n{caption}\n{}\n", folder.join(&figure.file).display());
    }
    if evidence.words.iter().any(|word| word.picture.is_some()) {
        text += &format!("\nCausal maps: {}\n", folder.join(CAUSAL).display());
    }
    text += &format!("All scores: {}\n", folder.join("evidence.json").display());
    print::stdout(text.as_bytes())
}
