//! `attnmap view`: a run's maps and pictures again, with other choices and without the checkpoint.

use super::display::{DisplayArgs, HalfArg, MapArgs};
use super::newest::run_folder;
use super::print::Terminal;
use super::regions::RegionFileArgs;
use super::{inert, open, output, print};
use attnmap::evidence::judge_again;
use attnmap::files::Target;
use attnmap::heatmap::DEFAULT;
use attnmap::render::missing_glyphs;
use attnmap::report;
use attnmap::run::{self, Remake, Run, remake};
use clap::Args;
use std::path::{Path, PathBuf};

/// Make a run's maps and pictures again, with other choices and without the checkpoint
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_arg("aggregate", |arg| {
    arg.help(format!("Which layers are averaged, whatever the run has [default: {DEFAULT}; with --layers all]"))
}))]
pub struct ViewArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    display: DisplayArgs,

    /// Which half of the guidance batch; the unconditional one needs a run made with
    /// --trace-negative
    #[arg(long, value_name = "HALF", default_value = "conditional", help_heading = "Maps")]
    half: HalfArg,

    /// Make a run folder of its own there instead of changing the run
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// With --out: replace an existing run; what is not attnmap's in its folder stays
    #[arg(long, requires = "out")]
    force: bool,

    /// Open the run's page in the browser
    #[arg(long)]
    open: bool,

    #[command(flatten)]
    regions: RegionFileArgs,

    /// Print the run's record (run.json)
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  attnmap view --words apple --style contour
  attnmap view last --layers up --heads 0-3 --open
  attnmap view last --steps-window 0..0.2 --out early
  attnmap view last --words apple --masks --outline svg

The run's heatmaps.safetensors, overlays, words.png, report.html and run.json are replaced, and what `explain`
said of its maps is said of the new ones; its image and trace stay as they are.";

/// Runs the command.
pub fn run(args: &ViewArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let mut aggregate = args.maps.aggregate()?;
    let display = args.display.display()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    aggregate.half = args.half.into();
    let regions = args.regions.chosen(display.threshold)?;
    let run = args.maps.by_of(Run::open(&run_folder(args.run.as_deref())?)?);
    let (trace, image) = run.read()?;
    let words = match trace.half(aggregate.half) {
        Some(_) => args.maps.words_of(&trace, aggregate.half)?,
        None => None, // refused when the maps are made, with the way out
    };
    missing_glyphs(&trace.about.prompt.text).iter().for_each(print::warn);
    let choices = Remake { aggregate: &aggregate, display: &display, words: words.as_deref(), asked: None };
    let target = args.out.as_ref().map(|out| Target::named(out, args.force));
    target.iter().try_for_each(|target| target.room_for(&run::KIND, &["report.html"]))?;
    let page = |folder: &Path, place: &Path| report::write_as(folder, place).map(drop);
    let (folder, record) = remake(&run, (&trace, &image), &choices, target.as_ref(), page)?;
    // What was said of the maps before is said of these.
    match judge_again(&folder) {
        Ok(true) => drop(report::write(&folder)?),
        Ok(false) => {}
        Err(error) => print::warn(error.to_string()),
    }
    let written = match regions {
        Some((threshold, files)) => choices.regions(&trace, &folder, threshold, files)?,
        None => Vec::new(),
    };
    if args.open {
        open::open(&folder.join("report.html"));
    }
    if !args.json && !written.is_empty() {
        let lines: String = written.iter().map(|path| format!("{}\n", path.display())).collect();
        return print::stdout((output::summary(&folder, &record) + "\n" + &lines).as_bytes());
    }
    if args.json { print::json(&record) } else { print::stdout(output::summary(&folder, &record).as_bytes()) }
}
