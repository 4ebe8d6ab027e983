//! `attnmap explain`: whether each word mattered where its map is lit.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use attnmap::checkpoint::{Changes, Source};
use attnmap::evidence::causal::{self, Change, Cut, Row};
use attnmap::evidence::facts::label;
use attnmap::evidence::lexicon::{Role, role};
use attnmap::evidence::record::{Evidence, FORMAT_VERSION, ShapleyOfWords, Thresholds};
use attnmap::evidence::shapley::{self, shapley};
use attnmap::evidence::verdict::judge;
use attnmap::heatmap::{self, Heatmaps};
use attnmap::pipeline::{Init, Keep, LookOptions, Options, Pipeline};
use attnmap::prompt::Prompt;
use attnmap::render::{Display, write_png};
use attnmap::run::{self, NewRun, Pictures, Run, RunKind};
use attnmap::trace::WordInfo;
use attnmap::{Error, Result};
use candle_core::{DType, Tensor};
use clap::Args;
use image::RgbImage;

use super::display::MapArgs;
use super::generate::ModelArgs;
use super::print::{self, Terminal};

/// Test whether each word mattered where its map is lit
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ExplainArgs {
    /// A run's folder, or a prompt (a run is made of it first)
    #[arg(value_name = "RUN|PROMPT")]
    subject: String,

    #[command(flatten)]
    maps: MapArgs,

    /// Checkpoint, where it is not where the run says
    #[arg(long, short, value_name = "MODEL")]
    model: Option<Source>,

    /// Seed of the run that a prompt becomes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// How a word is taken out: mask, substitute or drop
    #[arg(long, value_name = "CUT", default_value = "substitute")]
    cut: Cut,

    /// At how many steps of the run the prediction is compared
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    at: u16,

    /// Most rows of a batch: more is faster and takes more memory
    #[arg(long, value_name = "ROWS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..))]
    batch: u16,

    /// Generate the same seed without each word too, and show what changed
    #[arg(long)]
    counterfactual: bool,

    /// Share the effect among the words (at most 8) by Shapley values
    #[arg(long)]
    shapley: bool,

    /// Most sets of words that --shapley may try
    #[arg(long, value_name = "SETS", default_value_t = 64)]
    budget: usize,

    /// Test again where the run has been tested already
    #[arg(long)]
    force: bool,

    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
At some steps of the run, from the latents that the run had there, the UNet predicts with the prompt and without each word. Where the two
differ is the word's causal map; a verdict says whether the attention map lights the same places, and better than maps that know nothing
of the word. Three cuts answer different questions:
  mask        the word's term is left out of cross-attention: the direct path only
  substitute  the word becomes the article `a` before the text encoder: direct and through other tokens, positions kept
  drop        the word leaves the text
A traced picture is tested at its noise levels, without a run to make again.
The result is kept in the run's folder (evidence.json, evidence.safetensors) and shown in its report.";

/// Runs the command.
pub fn run(args: &ExplainArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let aggregate = args.maps.aggregate()?;
    if args.counterfactual && args.cut == Cut::Mask {
        let reason = "makes no image with --cut mask; use substitute or drop";
        return Err(Error::option("--counterfactual", reason).into());
    }
    let (run, pipeline) = open(args, terminal)?;
    let trace = run.trace()?;
    let info = &trace.about.prompt;
    let maps = heatmap::aggregate(&trace, &aggregate, &info.words)?;
    let tested = tested(args, &maps, info)?;
    if !args.force
        && !args.counterfactual
        && let Some((known, _)) = Evidence::read(&run.folder, maps.grid)?
        && answers(args, &known, &maps, &tested, &aggregate.to_string())
    {
        return show(args, &run.folder, &known);
    }
    let pipeline = match pipeline {
        Some(pipeline) => pipeline,
        None => load(args, &run, terminal)?,
    };
    let looked = run.record.kind == RunKind::Trace;
    if args.counterfactual && looked {
        let reason =
            "the run is a look at a picture that was there; leave it out, or make a run with `attnmap generate`";
        return Err(Error::option("--counterfactual", reason).into());
    }
    let options = if looked {
        pipeline.look_run(run.record.image, &LookOptions::of_run(&run)?)
    } else {
        let negative = run.record.negative.as_deref().unwrap_or_default();
        Options {
            init: Init::of_run(&run)?,
            ..pipeline.options_of(&run.record.settings, negative).with_context(|| run.folder.display().to_string())?
        }
    };
    let prompt = pipeline.prompt(&run.record.prompt, &options)?;
    let rows = tested.iter().map(|&word| Row::cut(&pipeline, &prompt, &[&maps.chosen[word]], args.cut));
    let rows = rows.collect::<Result<Vec<_>>>()?;

    let (batch, count) = (usize::from(args.batch), run.record.timesteps.len());
    let at = causal::spread_steps(usize::from(args.at), count);
    let sets = if args.shapley { args.budget.min(1 << tested.len()) } else { 0 };
    let calls = causal::calls(rows.len(), at.len(), batch) + causal::calls(sets, at.len(), batch);
    let images = if args.counterfactual { rows.len() } else { 0 };
    let again = if looked { 0 } else { count * (1 + images) };
    let cost = cost(&run, pipeline.guided(&options), again, calls, batch);
    if !terminal.quiet {
        eprintln!("attnmap: {cost}");
    }

    let bar = terminal.bar((again + calls) as u64, "testing");
    let mut tick = || {
        bar.inc(1);
        ControlFlow::Continue(())
    };
    let image = run.image()?;
    let shown = shown(&pipeline, &prompt, &run, &image, &options, &mut tick)?;
    let steps: Vec<(&Tensor, f64)> = at.iter().map(|&step| (&shown[step].0, shown[step].1)).collect();
    let whole = Row::whole(&prompt);
    let changes = causal::changes(&pipeline, &options, &whole, &rows, &steps, batch, &mut tick)?;
    let words = tested.iter().zip(&changes).enumerate();
    let words = words.map(|(place, (&word, change))| {
        let other = (tested.len() > 1).then(|| tested[(place + 1) % tested.len()]);
        judge(&maps, word, other, &change.map, change.effect, &image)
    });
    let words = words.collect();
    let shapley = match args.shapley {
        true => Some(share(args, &pipeline, &options, &prompt, &maps, &tested, &steps, &mut tick)?),
        false => None,
    };
    let evidence = Evidence {
        format_version: FORMAT_VERSION,
        cut: args.cut,
        steps: at,
        aggregate: aggregate.to_string(),
        thresholds: Thresholds::default(),
        words,
        shapley,
    };
    if args.counterfactual {
        let words: Vec<&WordInfo> = tested.iter().map(|&word| &maps.chosen[word]).collect();
        counterfactuals(&pipeline, &options, &words, &rows, &image, &run.folder, &mut tick)?;
    }
    bar.finish_and_clear();
    evidence.write(&run.folder, &changes, maps.grid)?;
    attnmap::report::write(&run.folder)?;
    show(args, &run.folder, &evidence)
}

/// The run, and the pipeline where it had to be loaded to make the run.
fn open(args: &ExplainArgs, terminal: &Terminal) -> anyhow::Result<(Run, Option<Pipeline>)> {
    let path = Path::new(&args.subject);
    if path.exists() || args.subject.contains(std::path::MAIN_SEPARATOR) && !args.subject.contains(' ') {
        return Ok((Run::open(path)?, None));
    }
    if args.subject.trim().is_empty() {
        return Err(Error::option(
            "PROMPT",
            "the prompt is empty; give a run's folder or say what the image should show",
        )
        .into());
    }
    let target = PathBuf::from("outputs").join(run::run_name(&args.subject, args.seed));
    if let Ok(run) = Run::open(&target)
        && run.record.prompt == args.subject
        && args.model.as_ref().is_none_or(|model| model.to_string() == run.record.checkpoint.id)
    {
        return Ok((run, None));
    }
    run::check_target(&target, false)?;
    let pipeline = model(args.model.clone().unwrap_or_default(), Changes::default()).load(terminal)?;
    let options = Options { seeds: vec![args.seed], ..pipeline.default_options() };
    let prompt = pipeline.tokenize(&args.subject)?;
    let spinner = terminal.spinner("generating");
    let (traced, _) = pipeline.trace(&prompt, &options, Keep::default(), &mut |_| ControlFlow::Continue(()))?;
    spinner.finish_and_clear();
    let (aggregate, display) = (args.maps.aggregate()?, Display::default());
    let new = NewRun {
        kind: RunKind::Generate,
        pictures: Pictures {
            trace: &traced[0].trace,
            image: &traced[0].generation.image,
            aggregate: &aggregate,
            display: &display,
            words: None,
        },
        settings: pipeline.settings(&options, args.seed),
        negative: None,
        command: format!("attnmap generate {:?} --model {} --seed {}", args.subject, pipeline.id(), args.seed),
        cut_off: prompt.cut_off.clone(),
        warnings: Vec::new(),
        timings: Default::default(),
    };
    let (folder, _) = run::write_run(&target, false, &new, |_, _| Ok(()))?;
    Ok((Run::open(&folder)?, Some(pipeline)))
}

fn model(model: Source, changes: Changes) -> ModelArgs {
    ModelArgs { model, variant: None, changes: changes.into(), dtype: DType::F32, device: "cpu".into() }
}

/// The checkpoint that made the run.
fn load(args: &ExplainArgs, run: &Run, terminal: &Terminal) -> anyhow::Result<Pipeline> {
    let source = match &args.model {
        Some(source) => source.clone(),
        None => run.record.checkpoint.id.parse()?,
    };
    let pipeline = model(source, Changes::from_record(&run.record.settings.more)?).load(terminal)?;
    if pipeline.digest() != run.record.checkpoint.digest {
        let reason = format!(
            "{} is not the checkpoint that made the run ({}, digest {}); give that one with --model",
            pipeline.id(),
            run.record.checkpoint.id,
            run.record.checkpoint.digest
        );
        return Err(Error::option("--model", reason).into());
    }
    Ok(pipeline)
}

/// What the UNet was shown at each call of the run, with the timestep. A traced picture is noised again; a generated image is made again.
fn shown(
    pipeline: &Pipeline,
    prompt: &Prompt,
    run: &Run,
    image: &RgbImage,
    options: &Options,
    tick: &mut dyn FnMut() -> ControlFlow<()>,
) -> anyhow::Result<Vec<(Tensor, f64)>> {
    if run.record.kind == RunKind::Trace {
        let noised = pipeline.noise_picture(image, &LookOptions::of_run(run)?)?;
        return Ok(noised.into_iter().map(|noised| (noised.latent, noised.timestep as f64)).collect());
    }
    let trajectory = causal::replay(pipeline, prompt, options, tick)?;
    if trajectory.generation.image != *image {
        let reason = "the run cannot be made again exactly (it was made with --latents, on another machine or by another version); \
                      its words cannot be tested";
        return Err(Error::Trace { file: run.folder.join("image.png"), reason: reason.into() }.into());
    }
    Ok(trajectory.inputs.into_iter().zip(trajectory.timesteps).collect())
}

/// The words to test, by position in the maps: those of `--words`, or all that could be drawn.
fn tested(args: &ExplainArgs, maps: &Heatmaps, info: &attnmap::trace::PromptInfo) -> anyhow::Result<Vec<usize>> {
    let found: Vec<usize> = match args.maps.words(info, &[])? {
        None => (0..maps.chosen.len()).filter(|&word| role(&maps.chosen[word].text) != Role::Filler).collect(),
        Some(words) => {
            let place = |word: &WordInfo| {
                maps.chosen.iter().position(|chosen| chosen.tokens == word.tokens).ok_or_else(|| {
                    Error::option(
                        "--words",
                        format!("{:?} is no single word; explain tests words one by one", word.text),
                    )
                })
            };
            words.iter().map(place).collect::<Result<_>>()?
        }
    };
    if found.is_empty() {
        return Err(
            Error::option("--words", "the prompt has no word that could be drawn; name the words to test").into()
        );
    }
    if args.shapley && found.len() > shapley::MOST {
        let reason = format!("{} words are too many; choose at most {} with --words", found.len(), shapley::MOST);
        return Err(Error::option("--shapley", reason).into());
    }
    Ok(found)
}

/// Whether kept evidence is what was asked for.
fn answers(args: &ExplainArgs, known: &Evidence, maps: &Heatmaps, tested: &[usize], aggregate: &str) -> bool {
    let words = tested.iter().map(|&word| label(&maps.chosen[word]));
    known.cut == args.cut
        && known.aggregate == aggregate
        && known.thresholds == Thresholds::default()
        && known.words.iter().map(|word| word.word.clone()).eq(words)
        && known.steps.len() == usize::from(args.at).min(known.steps.len().max(1))
        && (known.shapley.is_some() || !args.shapley)
}

/// What it will take, from how long the run's own steps took.
fn cost(run: &Run, guided: bool, steps: usize, calls: usize, batch: usize) -> String {
    let text = format!("{steps} steps of the run again and {calls} UNet calls of up to {batch} rows");
    let guided = if guided { 2.0 } else { 1.0 };
    match run.record.timings.get("steps") {
        Some(seconds) => {
            let row = seconds / run.record.timesteps.len().max(1) as f64 / guided;
            let total = row * (steps as f64 * guided + calls as f64 * batch as f64);
            format!("{text}, about {total:.0} s at the run's own speed")
        }
        None => text,
    }
}

#[allow(clippy::too_many_arguments)]
fn share(
    args: &ExplainArgs,
    pipeline: &Pipeline,
    options: &Options,
    prompt: &Prompt,
    maps: &Heatmaps,
    tested: &[usize],
    steps: &[(&Tensor, f64)],
    tick: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<ShapleyOfWords> {
    let whole = Row::whole(prompt);
    // The worth of a set: how much of the effect of cutting all words it takes back by being there.
    let mut effect_of_none = None;
    let mut value = |sets: &[u32]| -> Result<Vec<f64>> {
        let cut = |set: &u32| {
            let out = tested.iter().enumerate().filter(|(place, _)| set >> place & 1 == 0);
            let out: Vec<&WordInfo> = out.map(|(_, &word)| &maps.chosen[word]).collect();
            Row::cut(pipeline, prompt, &out, args.cut)
        };
        let rows = sets.iter().map(cut).collect::<Result<Vec<_>>>()?;
        let changes = causal::changes(pipeline, options, &whole, &rows, steps, usize::from(args.batch), tick)?;
        if effect_of_none.is_none() {
            effect_of_none = sets.iter().zip(&changes).find(|(set, _)| **set == 0).map(|(_, change)| change.effect);
        }
        let none = effect_of_none.unwrap_or(0.0);
        Ok(changes.iter().map(|change: &Change| none - change.effect).collect())
    };
    let found = shapley(tested.len(), args.budget, 0, &mut value)?;
    Ok(ShapleyOfWords { words: tested.iter().map(|&word| label(&maps.chosen[word])).collect(), found })
}

/// The image without each word, and where it differs, as pictures in the run's folder.
#[allow(clippy::too_many_arguments)]
fn counterfactuals(
    pipeline: &Pipeline,
    options: &Options,
    words: &[&WordInfo],
    rows: &[Row],
    image: &RgbImage,
    folder: &Path,
    tick: &mut dyn FnMut() -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let place = folder.join("counterfactual");
    std::fs::create_dir_all(&place).map_err(Error::io(&place))?;
    for (index, (word, row)) in words.iter().zip(rows).enumerate() {
        let other = causal::replay(pipeline, row.prompt(), options, tick)?.generation.image;
        let difference = image.pixels().zip(other.pixels());
        let difference = difference.flat_map(|(a, b)| (0..3).map(|channel| a.0[channel].abs_diff(b.0[channel])));
        let difference = RgbImage::from_raw(image.width(), image.height(), difference.collect());
        let name = run::slug(&label(word));
        let text = [("Description", format!("the same seed without {:?}", word.text))];
        let text = text.each_ref().map(|(key, value)| (*key, value.as_str()));
        write_png(&place.join(format!("{index:02}-without-{name}.png")), &other, &text, false)?;
        if let Some(difference) = difference {
            write_png(&place.join(format!("{index:02}-without-{name}-difference.png")), &difference, &text, false)?;
        }
    }
    Ok(())
}

fn show(args: &ExplainArgs, folder: &Path, evidence: &Evidence) -> anyhow::Result<()> {
    if args.json {
        return print::json(evidence);
    }
    let head = ["word", "verdict", "effect", "overlap", "Spearman", "holds", "best control"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for word in &evidence.words {
        let rank = word.attention.spearman.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        rows.push(vec![
            print::printable(&word.word),
            word.verdict.name().into(),
            format!("{:.2} %", 100.0 * word.effect),
            format!("{:.2}", word.attention.iou_top),
            rank,
            format!("{:.0} %", 100.0 * word.attention.drop),
            format!("{:.2}", word.controls.best_iou()),
        ]);
    }
    let mut text = print::table(&rows) + "\n";
    for word in &evidence.words {
        text += &format!("{}\n", word.sentence);
    }
    if let Some(ShapleyOfWords { words, found }) = &evidence.shapley {
        text += &format!("\nShares of the effect of all these words ({} sets tried):\n", found.evaluations);
        for ((word, value), error) in words.iter().zip(&found.values).zip(&found.errors) {
            let error = error.map_or_else(String::new, |error| format!(" ± {:.2}", 100.0 * error));
            text += &format!("  {} {:.2}{error} %\n", print::printable(word), 100.0 * value);
        }
    }
    text += &format!(
        "\nEffect: share of the prediction that the cut moved. Overlap: of the highest fifths of both maps (two random fifths: 0.11). \
         Holds: how much of the change lies in the attended fifth.\n{}\n",
        folder.join("evidence.json").display()
    );
    print::stdout(text.as_bytes())
}
