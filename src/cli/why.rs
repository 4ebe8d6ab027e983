//! `attnmap why`: why a thing of a run lies where it does.

use std::ops::ControlFlow;
use std::path::PathBuf;

use attnmap::argument::{AT, BOX};
use attnmap::pipeline::{CheckpointChoice, LoadOptions};
use attnmap::run::Run;
use attnmap::trace::{By, Grid};
use attnmap::why::plan::{BUDGET, LEAST};
use attnmap::why::{Answer, Question, Subject};
use attnmap::{Error, Result, plural};
use clap::Args;

use super::ask::{box_at, point_at};
use super::checkpoint::{self, ModelArgs};
use super::display::names;
use super::inert;
use super::newest::run_folder;
use super::open;
use super::print::{self, Terminal};

/// Find out why a thing of a run lies where it does: the words, the noise, or a habit of the model
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct WhyArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten)]
    subject: SubjectArgs,

    /// What a word is: each word, or each tag, that is all between two commas [default: the run's
    /// own]
    #[arg(long, value_name = "UNIT", value_parser = names(By::NAMED), help_heading = "The thing")]
    by: Option<By>,

    /// Most runs that the experiments may cost
    #[arg(long, value_name = "RUNS", default_value_t = BUDGET as u32, help_heading = "Experiments")]
    #[arg(value_parser = clap::value_parser!(u32).range(LEAST as i64..=10_000))]
    budget: u32,

    /// Most images in one pass: more is faster and takes more memory
    #[arg(long, value_name = "IMAGES", default_value_t = 4, help_heading = "Experiments")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Ask again where the run has an answer, or a part of one
    #[arg(long, help_heading = "Experiments")]
    force: bool,

    /// Open the run's page in the browser
    #[arg(long)]
    open: bool,

    /// Print the answer as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// Which thing is meant.
#[derive(Debug, Args)]
#[command(next_help_heading = "The thing")]
#[group(required = false, multiple = false)]
struct SubjectArgs {
    /// The thing of this word of the prompt [default: the one that the maps are surest of]
    #[arg(long, value_name = "WORD")]
    word: Option<String>,

    /// The thing at a pixel of the image, counted from its top left
    #[arg(long, value_name = "X,Y")]
    at: Option<String>,

    /// The thing in a box of the image in pixels: left, top, width, height
    #[arg(long = "box", value_name = "X,Y,W,H")]
    bounds: Option<String>,
}

const HELP: &str = "\
The run is drawn again with something else, and the thing's map tells where it lies then:
  noise   other seeds; the run's own noise mirrored, and the patch under the thing swapped with the other side's
  words   each other word taken out, each phrase like `to the left of` taken out and turned round, over the same seeds
  habit   what is left when neither moves it; a run with LoRAs is also drawn without them
  steps   the estimate of the image noised again after some steps: from which on does the thing stay?
What moves the thing is a cause. The answer is one sentence with the strongest figure for each; docs/WHY.md says
how to read it, and ACCURACY.md how far it has been measured. A run counts as one for all of its steps: going on
from step 12 of 24 costs half a run. What was found is kept after each batch in the run's folder (why/,
why.json): a question goes on when it is asked again, after an interrupt or with a larger --budget.
--by tag asks about what stands between commas as one thing, and takes each other tag out whole. A run of joint
attention (Stable Diffusion 3, FLUX.1, Z-Image) is refused: its maps do not tell whether a thing was drawn.

Examples:
  attnmap generate \"a red apple to the left of a blue heart on the beach\"
  attnmap why last --word heart
  attnmap why last --at 40,64 --budget 24 --json";

/// Runs the command.
pub fn run(args: &WhyArgs, terminal: &Terminal) -> anyhow::Result<()> {
    inert::at_once(&terminal.given, None).iter().for_each(print::warn);
    let mut run = Run::open(&run_folder(args.run.as_deref())?)?;
    run.record.by = args.by.unwrap_or(run.record.by);
    let subject = args.subject.subject(run.record.image)?;
    let question = Question::new(run, &subject, args.budget as usize, usize::from(args.batch))?;
    if !args.force
        && let Some(known) = question.known()?
    {
        let unused = ["model", "lora", "embedding", "dtype", "device", "batch"];
        if let Some(option) = unused.iter().find(|option| terminal.given.has(option)) {
            print::warn(format!("--{option} has no effect here: the answer is known already; --force asks again"));
        }
        question.put_first(&known)?;
        return show(args, &question, &known);
    }
    attnmap::report::check_room(&question.run().folder)?;
    let pipeline = args.model.load_of(&question.run().record, terminal)?;
    let made = if args.force { 0.0 } else { question.made()? };
    print::note(cost(&question, args.budget, made));
    let bar = terminal.bar(u64::from(args.budget) * question.calls() as u64, "asking");
    bar.set_position((made * question.calls() as f64) as u64);
    let record = &question.run().record;
    let known = args.model.over(CheckpointChoice::of_run(record)?)?;
    let size = [record.image.height, record.image.width];
    let answer = question.make(
        &pipeline,
        &mut |changes| {
            let load = LoadOptions { size: Some(size), ..known.load.clone() };
            let choice = CheckpointChoice { changes, load, ..known.clone() };
            checkpoint::load(&choice, Some(size), terminal).map_err(|error| match error.downcast::<Error>() {
                Ok(error) => error,
                Err(other) => Error::input("--model", other.to_string()),
            })
        },
        args.force,
        &mut |images| {
            bar.inc(images as u64);
            ControlFlow::Continue(())
        },
    )?;
    bar.finish_and_clear();
    attnmap::report::write(&question.run().folder)?;
    show(args, &question, &answer)
}

impl SubjectArgs {
    fn subject(&self, image: Grid) -> Result<Subject> {
        if let Some(text) = &self.at {
            return Ok(Subject::Place(point_at(text, image)?, AT));
        }
        if let Some(text) = &self.bounds {
            return Ok(Subject::Place(box_at(text, image)?, BOX));
        }
        Ok(self.word.clone().map_or(Subject::Any, Subject::Word))
    }
}

/// How long it will take, before it begins.
fn cost(question: &Question, budget: u32, made: f64) -> String {
    let left = (f64::from(budget) - made).max(0.0);
    let seconds = question.seconds().map(|seconds| seconds * left / f64::from(budget));
    let long = match seconds {
        Some(seconds) if seconds < 90.0 => format!("about {:.0} s", seconds.max(1.0)),
        Some(seconds) => format!("about {:.0} min", seconds / 60.0),
        None => "an unknown time".to_owned(),
    };
    let runs = |count: f64| plural(count.round() as usize, "run");
    let goes_on = if made > 0.0 { format!("going on after {}; ", runs(made)) } else { String::new() };
    let (left, steps) = (runs(left), plural(question.calls(), "step"));
    format!("“{}”: {goes_on}at most {left} of {steps}, {long}", question.word())
}

fn show(args: &WhyArgs, question: &Question, answer: &Answer) -> anyhow::Result<()> {
    let folder = &question.run().folder;
    if args.open {
        open::open(&folder.join("report.html"));
    }
    if args.json {
        return print::json(answer);
    }
    let head = ["experiment", "images", "moves or scatters", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for row in &answer.table {
        rows.push(vec![
            print::printable(&row.experiment),
            row.images.to_string(),
            row.moves.map_or_else(|| "-".into(), print::percent),
            row.more.clone(),
        ]);
    }
    let mut text = format!("{}\n\n{}", print::line(&answer.sentence), print::table(&rows));
    text += "\nMoves: how far the mean place of the thing's map moves, as a share of the image's sides.\n";
    for note in &answer.notes {
        text += &format!("{}\n", print::line(note));
    }
    for figure in &answer.figures {
        text += &format!("\n{}\n{}\n", print::line(&figure.caption), folder.join(&figure.file).display());
    }
    text += &format!("\nAll figures: {}\n", folder.join(attnmap::why::record::FILE).display());
    print::stdout(text.as_bytes())
}
