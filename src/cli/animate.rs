//! `attnmap animate`: a word's map over the steps.

use super::display::{DisplayArgs, MapArgs};
use super::inert;
use super::newest::run_folder;
use super::print::{self, Terminal};
use attnmap::Error;
use attnmap::files::Target;
use attnmap::heatmap::Aggregate;
use attnmap::render::missing_glyphs;
use attnmap::run::{Animation, Run, animate, kept_steps};
use attnmap::trace::Half;
use clap::Args;
use std::path::PathBuf;

/// Show a word's map over the steps: an animated PNG and a sheet of stills
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_arg("heads", |heads| heads.hide(true)), mut_arg("steps_window", |window| {
    window.hide(true)
}))]
pub struct AnimateArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    display: DisplayArgs,

    /// Seconds that a step is shown
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2)]
    seconds: f32,

    /// Where the files go [default: RUN/animations, with names that count up]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Replace animations that are there already
    #[arg(long)]
    force: bool,

    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  attnmap animate --words heart
  attnmap animate last --words \"red apple,heart\" --layers up --scale word --seconds 0.1

One colour scale serves all words and steps; --scale word gives each word its own. With `generate --keep-steps`
the image behind the map is the estimate of that step.

Animated PNG plays in every browser and holds every colour of the scale; GIF has 256 colours a frame, and no
animated WebP can be written without a C library.";

/// Runs the command.
pub fn run(args: &AnimateArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let run = args.maps.by_of(Run::open(&run_folder(args.run.as_deref())?)?);
    let chosen = args.maps.aggregate_of(&run.record)?;
    let own = run.record.saved_aggregate().is_same(&(&chosen).into());
    // A run whose own maps are of some heads or steps is animated over all of them, unless they are
    // asked for.
    let asked = ["heads", "steps-window"].iter().any(|option| terminal.given.has(option));
    let aggregate = if own && !asked { Aggregate { heads: None, steps: None, ..chosen } } else { chosen };
    if aggregate.steps.is_some() || aggregate.heads.is_some() {
        let reason = "an animation shows every step, and single steps are kept for all heads together; leave it out";
        let option = if aggregate.steps.is_some() { "--steps-window" } else { "--heads" };
        return Err(Error::input(option, reason).into());
    }
    if !(0.01..=10.0).contains(&args.seconds) {
        return Err(Error::input("--seconds", format!("must be 0.01 to 10; {} given", args.seconds)).into());
    }
    let display = args.display.display()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    let (trace, image) = run.read()?;
    let words = args.maps.words_of(&trace, Half::Conditional)?;
    let estimates = kept_steps(&run)?;
    missing_glyphs(&trace.about.prompt.text).iter().for_each(print::warn);
    let animation = Animation {
        trace: &trace,
        image: &image,
        estimates: &estimates,
        aggregate: &aggregate,
        display: &display,
        seconds: args.seconds,
    };
    let target = Target::of(args.out.clone(), args.force, || run.folder.join("animations"));
    let files = animate(&target, &animation, words.as_deref())?;
    if args.json {
        return print::json(&files);
    }
    let line = |file: &attnmap::run::Animated| format!("{}\n{}\n", file.animation.display(), file.stills.display());
    print::stdout(files.iter().map(line).collect::<String>().as_bytes())
}
