//! `attnmap facts`: what the maps of a run tell about its layout, in numbers.

use std::path::{Path, PathBuf};

use attnmap::Error;
use attnmap::facts::expect::{Expectations, Outcome};
use attnmap::facts::sweep::Sweep;
use attnmap::facts::{self, Facts};
use attnmap::heatmap::Aggregate;
use attnmap::run::{self, Run, RunKind};
use attnmap::trace::{Grid, Half, normalized};
use clap::Args;
use serde::Serialize;

use super::checkpoint::ModelArgs;
use super::display::{MapArgs, threshold_of};
use super::expect::{self, ExpectArgs, Unmet};
use super::inert;
use super::newest::run_folder;
use super::print::{self, Terminal};

/// Print what the maps of a run tell: how words lie to each other, what was probably not drawn,
/// where and since when
#[derive(Debug, Args)]
#[command(after_help = HELP, mut_arg("words", |words| words.help("Probes to tell of too, e.g. \"probe:shadow\" \
[default: none]")))]
pub struct FactsArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten)]
    maps: MapArgs,

    /// Which adjective belongs to which noun: red:apple,blue:heart [default: an adjective and the
    /// noun after it]
    #[arg(long, value_name = "PAIRS")]
    bind: Option<String>,

    /// Folder of a seed sweep of the same prompt, whose little words peaks are compared with in
    /// --json [default: the one beside the run]
    #[arg(long, value_name = "DIR")]
    sweep: Option<PathBuf>,

    /// Share of a map's top at which areas, boxes and centres begin [default: the run's own,
    /// usually 0.4]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    threshold: Option<f32>,

    #[command(flatten)]
    expect: ExpectArgs,

    /// Print the facts as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

const HELP: &str = "\
Examples:
  attnmap facts last
  attnmap facts last --expect \"heart right of apple, apple@left, heart@0.5,0.3,0.5,0.5\"

Share of attention: how much of all attention goes to the word. Peak: the highest attention to it in one place.
Centre: of the area where its map reaches 40 % of its top, in pixels. Placed: the first step from which that
centre stays within a tenth of the image of where it ends. docs/NUMBERS.md defines all of them. A thing was
probably not drawn when no place was looked at for it 5.5 times as much as the image on average: of 45 that were
drawn on held-out prompts it was said of none, of 30 that could not be of 18 (ACCURACY.md). Adjectives and words
for the whole scene (beach, night) are not judged: their maps do not tell. The maps are the run's own unless
others are chosen. Probes (words that are not in the prompt) are left out unless --words names them; they get a
line of numbers and take no part in the rest.";

/// Runs the command.
pub fn run(args: &FactsArgs, terminal: &Terminal) -> anyhow::Result<()> {
    inert::at_once(&terminal.given, None).iter().for_each(print::warn);
    let run = args.maps.by_of(Run::open(&run_folder(args.run.as_deref())?)?);
    let threshold = threshold_of(args.threshold, &run.record)?;
    let (trace, image) = run.read()?;
    let aggregate = args.maps.aggregate_of(&run.record)?;
    let sweep = sweep(args.sweep.as_deref(), &run, &aggregate)?;
    let fillers = sweep.as_ref().map_or(&[][..], |sweep| &sweep.filler_peaks);
    let mut probes = args.maps.words_of(&trace, Half::Conditional)?.unwrap_or_default();
    probes.retain(|word| trace.about.prompt.is_probe(word));
    if terminal.given.has("words") && probes.is_empty() {
        print::warn(
            "--words has no effect here: facts are of every word of the prompt, and it names no probe; leave it out",
        );
    }
    let found = facts::of_trace(&trace, &aggregate, threshold, args.bind.as_deref(), fillers, &probes)?;
    let outcomes = match args.expect.list() {
        Some(expect) => {
            let asked = trace.probe_words(Half::Conditional);
            expect.check_words(&trace.about.prompt, &asked)?;
            let mut sightings = Expectations::sightings(&run.record.expectations);
            let mut things = expect.looked_for();
            things.retain(|thing| sightings.iter().all(|known| normalized(&known.thing) != normalized(thing)));
            if !things.is_empty() {
                // A look at the image: nothing else here needs the checkpoint.
                let pipeline = match run.record.kind {
                    // Whatever drew it, a checkpoint that attnmap runs can look at the image.
                    RunKind::Record if terminal.given.has("model") => {
                        args.model.load(Some([run.record.image.height, run.record.image.width]), terminal)?
                    }
                    RunKind::Record => return Err(unseen(&things).into()),
                    _ => args.model.load_of(&run.record, terminal)?,
                };
                sightings.extend(pipeline.look_for(&image, &things)?);
            }
            expect.check(&trace, &aggregate, threshold, &sightings)?
        }
        None => Vec::new(),
    };
    match args.json {
        true => print::json(&FactsJson { facts: &found, expectations: &outcomes })?,
        false => {
            let mut told = expect::lines(&outcomes);
            told += if told.is_empty() { "" } else { "\n" };
            let sentences = run.record.sentences(&found);
            print::stdout((told + &text(&found, &sentences, trace.about.image)).as_bytes())?;
        }
    }
    Unmet::of(&outcomes)
}

/// What `--json` prints.
#[derive(Serialize)]
struct FactsJson<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    #[serde(skip_serializing_if = "<[Outcome]>::is_empty")]
    expectations: &'a [Outcome],
}

/// The sweep whose little words peaks are compared with: the one that was named, or one of the same
/// prompt beside the run.
fn sweep(named: Option<&Path>, run: &Run, aggregate: &Aggregate) -> anyhow::Result<Option<Sweep>> {
    let own = run.record.about(aggregate.into());
    let of_run = |sweep: &Sweep| sweep.about.fits(&own);
    let Some(folder) = named else {
        let beside = run.folder.join("..").join(run::sweep_name(&run.record.prompt));
        return Ok(Sweep::newest(&beside, &own).map(|(_, sweep)| sweep));
    };
    let wrong = |reason: &str| Error::input("--sweep", format!("{} {reason}", folder.display()));
    let sweep = Sweep::read(folder)?.ok_or_else(|| wrong("holds no sweep; make one with `attnmap sweep PROMPT`"))?;
    if !of_run(&sweep) {
        return Err(wrong("is of another prompt, checkpoint or aggregate, or of other settings, than the run").into());
    }
    Ok(Some(sweep))
}

/// Relations that are listed, at most.
const RELATIONS: usize = 12;

fn text(found: &Facts, sentences: &[String], image: Grid) -> String {
    let mut text = String::new();
    for sentence in sentences {
        text += &format!("{}\n", print::line(sentence));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let head = ["word", "share of attention", "peak", "centre", "area", "placed at step"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for word in &found.words {
        let layout = &word.layout;
        let none = || "-".to_owned();
        rows.push(vec![
            print::printable(&word.word),
            print::percent(layout.share),
            layout.peak.map_or_else(none, |peak| print::percent(peak.value)),
            layout.centroid.map_or_else(none, |at| print::pixel(at.x, at.y, image)),
            print::percent(layout.area),
            word.placed.map_or_else(none, |placed| format!("{} of {}", placed.step, placed.steps)),
        ]);
    }
    text += &print::table(&rows);
    if !found.relations.is_empty() {
        text += "\nBy their maps:\n";
    }
    for lies in found.relations.iter().take(RELATIONS) {
        let [subject, object] = [&lies.subject, &lies.object].map(|name| print::printable(name));
        text += &format!("  {subject} {} {object}\n", lies.relation.words());
    }
    if let Some(more) = found.relations.len().checked_sub(RELATIONS).filter(|more| *more > 0) {
        text += &format!("  and {more} more (--json lists them)\n");
    }
    text
}

/// The refusal of a look at a run that another program recorded, without a checkpoint that could
/// look.
fn unseen(things: &[String]) -> Error {
    let things: Vec<String> = things.iter().map(attnmap::in_quotes).collect();
    let reason = format!(
        "another program recorded this run; whether {} was drawn needs a look at the image by a checkpoint \
         that attnmap runs: give one",
        things.join(" or ")
    );
    Error::input("--model", reason)
}
