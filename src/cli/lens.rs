//! `attnmap lens`: where in the text encoder a prompt's meaning arises.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::facts::lexicon::{Role, role};
use attnmap::files::{Target, check_part, check_place};
use attnmap::lens::{Lens, draw_lens};
use attnmap::pipeline::Options;
use attnmap::run;
use attnmap::trace::PromptInfo;
use clap::Args;

use super::checkpoint::ModelArgs;
use super::display::{DisplayArgs, MapArgs};
use super::inert::{self, PlannedRun};
use super::newest::OUTPUTS;
use super::print::{self, Terminal};
use super::prompt::{PromptArgs, SyntaxArgs, adapter_warnings, warnings};
use super::sampling::{SamplingArgs, StepsArgs};

/// Show the image that the text encoder's states after each of its layers give
#[derive(Debug, Args)]
#[command(after_help = HELP, mut_arg("words", |words| words.help("Words whose maps and shares are shown [default: \
all that could be drawn]")))]
pub struct LensArgs {
    #[command(flatten)]
    prompt: PromptArgs,

    /// Seed of every image; `random` (or -1) draws one
    #[arg(long, value_name = "N", default_value = "0", value_parser = super::seed::parse)]
    #[arg(allow_negative_numbers = true)]
    seed: u64,

    /// One layer in so many, counted back from the last; the first and the last are always shown
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    every: u16,

    #[command(flatten)]
    syntax: SyntaxArgs,

    #[command(flatten)]
    steps: StepsArgs,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// Where picture and numbers go, without an ending [default: outputs/<prompt>-lens, and counts
    /// up]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Replace a picture and numbers that are there already
    #[arg(long)]
    force: bool,

    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    display: DisplayArgs,
}

const HELP: &str = "\
Examples:
  attnmap lens \"a red apple to the left of a blue heart\"
  attnmap lens \"a red apple and a blue heart\" --every 2 --words apple,heart --steps 10

The states after a layer go through the text encoder's final norm and condition the denoiser as the last ones
do; the negative prompt stays as it is, and so does the seed. The first picture is that of the token embeddings.
With SDXL the states before the last layer are given to the UNet as they are, and the shorter encoder ends after
the same share of its layers. A word's maps below the images have one scale.";

/// Runs the command.
pub fn run(args: &LensArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let text = args.prompt.text()?;
    let (aggregate, display) = (args.maps.aggregate()?, args.display.display()?);
    let target = Target::of(args.out.clone(), args.force, || Path::new(OUTPUTS).join(run::slug(&text) + "-lens"));
    // Refused before the work is done.
    let files = target.files([".png", ".json"])?;
    files.iter().try_for_each(|file| check_part(file, &run::KIND).and_then(|()| check_place(file)))?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    let pipeline = args.model.load(args.sampling.size, terminal)?;
    let options = Options { seeds: vec![args.seed], ..args.sampling.options(&pipeline, args.syntax, args.steps.steps) };
    pipeline.check(&options)?;
    aggregate.choose(&pipeline.sites(options.height, options.width), pipeline.latent_grid(&options))?;
    let prompt = pipeline.prompt(&text, &options)?;
    let info = PromptInfo::from(&prompt).by(args.maps.by());
    aggregate.check_encoder(&info)?;
    let words = args.maps.words(&info, &[])?;
    warnings(&pipeline, &prompt, &options.negative, &[])?.iter().for_each(print::warn);
    adapter_warnings(&pipeline, &[&text, &options.negative], options.syntax)?.iter().for_each(print::warn);
    let choice = args.model.choice()?;
    let made = PlannedRun {
        pipeline: &pipeline,
        choice: &choice,
        options: &options,
        prompt: &prompt,
        words: words.as_deref(),
        aggregate: &aggregate,
    };
    inert::in_run(&terminal.given, made, Some(&display), None).iter().for_each(print::warn);
    let drawn = |word: &&attnmap::trace::WordInfo| role(&word.text) != Role::Filler;
    let words = words.unwrap_or_else(|| info.words.iter().filter(drawn).cloned().collect());

    let stops = pipeline.lens_stops(usize::from(args.every), options.clip_skip);
    let calls = pipeline.timesteps(&options)?.len();
    let bar = terminal.bar((stops.len() * calls) as u64, "looking");
    let runs = pipeline.lens(&prompt, &options, &stops, &mut || {
        bar.inc(1);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let runs: Vec<_> = stops.into_iter().zip(runs?).collect();
    let (lens, [picture, numbers]) = draw_lens(&target, args.seed, &runs, &aggregate, &words, &display)?;
    if args.json {
        return print::json(&lens);
    }
    print::stdout(format!("{}\n{}\n{}\n", table(&lens), picture.display(), numbers.display()).as_bytes())
}

fn table(lens: &Lens) -> String {
    let words = lens.stops.first().map_or(&[][..], |stop| &stop.words);
    let mut head = vec!["layers".to_owned(), "from the image".into()];
    head.extend(words.iter().map(|(word, _)| print::printable(word)));
    let mut rows = vec![head];
    for stop in &lens.stops {
        let layers: Vec<String> = stop.layers.iter().map(usize::to_string).collect();
        let mut row = vec![layers.join(" and "), print::percent(stop.difference)];
        row.extend(stop.words.iter().map(|(_, share)| print::percent(f64::from(*share))));
        rows.push(row);
    }
    print::table(&rows)
        + "\nFrom the image: mean difference of its values from those of the image of all layers.\nBelow a word: \
        its share of the attention.\n"
}
