//! `attnmap probe`: words asked about later, of a run that exists.

use std::ops::ControlFlow;
use std::path::PathBuf;

use attnmap::argument::WORDS;
use attnmap::evidence::asked;
use attnmap::evidence::options_of;
use attnmap::report;
use attnmap::run::Run;
use clap::Args;

use super::checkpoint::ModelArgs;
use super::newest::run_folder;
use super::print::{self, Terminal};
use super::prompt::{Probes, parse_probes, warnings};
use super::{open, output};

/// Ask a run about words that are not in its prompt, as if they had been asked about at first
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ProbeCommandArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    /// The words and phrases, separated by commas
    #[arg(long, value_name = "WORDS", value_parser = parse_probes)]
    words: Probes,

    /// Open the run's page in the browser
    #[arg(long)]
    open: bool,

    /// Print the run's record (run.json)
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

const HELP: &str = "\
Examples:
  attnmap probe --words \"hat,shadow\"
  attnmap probe last --words fox --open

The run is made again with the checkpoint that made it, and asked about the words beside its prompt, as
`generate --probe` does. Every number that it has already must come out the same to the bit, and stays. Its
trace, maps, pictures, page and run.json get the new words; the image does not change. A run that cannot be made
again exactly is refused: one that set out from --latents, that was made on another kind of machine, or that
another program recorded in a way that attnmap cannot follow.";

/// Runs the command.
pub fn run(args: &ProbeCommandArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let mut run = Run::open(&run_folder(args.run.as_deref())?)?;
    let (trace, image) = run.read()?;
    let new = asked::unasked(&trace, args.words.texts());
    if new.is_empty() {
        print::note("the run was asked about these words already");
        return show(args, &run);
    }
    asked::check_kind(&run)?;
    attnmap::report::check_room(&run.folder)?;
    let pipeline = args.model.load_of(&run.record, terminal)?;
    for probe in &new {
        pipeline.probe(probe).map_err(|error| error.named(WORDS))?;
    }
    let there: Vec<&str> =
        new.iter().map(String::as_str).filter(|word| trace.about.prompt.select(word).is_ok()).collect();
    if !there.is_empty() {
        print::warn(format!("the prompt has {} itself, and maps it", there.join(", ")));
    }
    let prompt = pipeline.prompt(&run.record.prompt, &options_of(&pipeline, &run)?)?;
    for warning in warnings(&pipeline, &prompt, "", &new)? {
        if !run.record.warnings.contains(&warning) {
            print::warn(&warning);
            run.record.warnings.push(warning);
        }
    }
    let bar = terminal.bar(trace.steps() as u64, "asking");
    let found = asked::ask(&pipeline, &run, (&trace, &image), &new, &mut || {
        bar.inc(1);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let found = found?;
    if !found.exact {
        print::warn(
            "the run was made in one pass with others; the new words are those of the run alone, equal but for \
            rounding",
        );
    }
    let spinner = terminal.spinner("drawing");
    let kept = asked::keep(&run, &found, &image, |folder, place| report::write_as(folder, place).map(drop));
    spinner.finish_and_clear();
    let record = kept?;
    show(args, &Run { folder: run.folder, record })
}

fn show(args: &ProbeCommandArgs, run: &Run) -> anyhow::Result<()> {
    if args.open {
        open::open(&run.folder.join("report.html"));
    }
    match args.json {
        true => print::json(&run.record),
        false => print::stdout(output::summary(&run.folder, &run.record).as_bytes()),
    }
}
