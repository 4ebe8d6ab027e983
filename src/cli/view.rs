//! `attnmap view`: a run's maps and pictures again, with other choices and without the checkpoint.

use super::display::{DisplayArgs, MapArgs};
use super::print::Terminal;
use super::{inert, output, print};
use attnmap::render::missing_glyphs;
use attnmap::run::{Remake, Run, remake};
use attnmap::trace::Half;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Make a run's maps and pictures again, with other choices and without the checkpoint
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ViewArgs {
    /// The run's folder
    #[arg(value_name = "RUN")]
    run: PathBuf,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    display: DisplayArgs,

    /// Which half of the guidance batch; the unconditional one needs a run made with --trace-negative
    #[arg(long, value_name = "HALF", default_value = "conditional", help_heading = "Maps")]
    half: HalfArg,

    /// Make a run folder of its own there instead of changing the run
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// With --out: replace an existing run
    #[arg(long, requires = "out")]
    force: bool,

    /// Print the run's facts as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  attnmap view outputs/a-red-apple-0 --words apple --style contour
  attnmap view outputs/a-red-apple-0 --layers up --heads 0-3
  attnmap view outputs/a-red-apple-0 --steps-window 0..0.2 --out early

The run's heatmaps.safetensors, overlays, words.png and run.json are replaced; its image and trace stay as they are.";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HalfArg {
    /// The rows that were given the prompt
    Conditional,
    /// The rows that were given the negative prompt
    Unconditional,
}

/// Runs the command.
pub fn run(args: &ViewArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let mut aggregate = args.maps.aggregate()?;
    let display = args.display.display()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    aggregate.half = match args.half {
        HalfArg::Conditional => Half::Conditional,
        HalfArg::Unconditional => Half::Unconditional,
    };
    let run = Run::open(&args.run)?;
    let (trace, image) = run.read()?;
    let words = match trace.half(aggregate.half) {
        Some(_) => args.maps.words_of(&trace, aggregate.half)?,
        None => None, // refused when the maps are made, with the way out
    };
    missing_glyphs(&trace.about.prompt.text).iter().for_each(print::warn);
    let choices = Remake { aggregate: &aggregate, display: &display, words: words.as_deref() };
    let (folder, record) = remake(&run, (&trace, &image), &choices, args.out.as_deref(), args.force)?;
    if args.json { print::json(&record) } else { print::stdout(output::summary(&folder, &record).as_bytes()) }
}
