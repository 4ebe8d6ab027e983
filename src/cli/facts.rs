//! `attnmap facts`: what the maps of a run tell about its layout, in numbers.

use std::path::{Path, PathBuf};

use attnmap::facts::sweep::{About, Sweep};
use attnmap::facts::{self, Facts};
use attnmap::files::Target;
use attnmap::run::{self, Run};
use attnmap::trace::Half;
use attnmap::{Error, heatmap};
use clap::Args;

use super::display::MapArgs;
use super::newest::run_folder;
use super::print;

/// Print what the maps of a run tell: where and since when, relations, neglected words, leaking adjectives
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct FactsArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten)]
    maps: MapArgs,

    /// Which adjective belongs to which noun: red:apple,green:frog [default: an adjective and the noun after it]
    #[arg(long, value_name = "PAIRS")]
    bind: Option<String>,

    /// Folder of a seed sweep of the same prompt, to test neglected words against [default: the one beside the run, if there is one]
    #[arg(long, value_name = "DIR")]
    sweep: Option<PathBuf>,

    /// Share of a map's top at which areas, boxes and centroids begin
    #[arg(long, value_name = "SHARE", default_value_t = heatmap::THRESHOLD)]
    threshold: f32,

    /// Print the facts as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Placed: the first step from which a word's centroid stays within a tenth of the image of where it ends. A thing looks neglected
when its peak stays below half of what the highest filler word (a, the, of ...) reaches, over the seeds of a sweep where there is one: on the
built-in checkpoint true of 2 % of things that are drawn and of 80 to 94 % of words it does not know. Adjectives and words for the whole
scene (beach, night) are not judged: their peaks do not tell. An adjective leaks when its map is nearer (symmetric KL) to another noun's than to its own. Probes (words that are not in the prompt) are left out unless --words
names them; they get a line of numbers and take no part in the rest.";

/// Runs the command.
pub fn run(args: &FactsArgs) -> anyhow::Result<()> {
    if !(args.threshold > 0.0 && args.threshold < 1.0) {
        return Err(Error::option("--threshold", "must lie between 0 and 1").into());
    }
    let run = Run::open(&run_folder(args.run.as_deref())?)?;
    let (trace, _) = run.read()?;
    let aggregate = args.maps.aggregate()?;
    let sweep = sweep(args.sweep.as_deref(), &run, &aggregate.to_string())?;
    let fillers = sweep.as_ref().map_or(&[][..], |sweep| &sweep.filler_peaks);
    let mut probes = args.maps.words_of(&trace, Half::Conditional)?.unwrap_or_default();
    probes.retain(|word| trace.about.prompt.is_probe(word));
    let found = facts::of_trace(&trace, &aggregate, args.threshold, args.bind.as_deref(), fillers, &probes)?;
    if args.json { print::json(&found) } else { print::stdout(text(&found).as_bytes()) }
}

/// The sweep to test neglected words against: the one that was named, or one of the same prompt beside the run.
fn sweep(named: Option<&Path>, run: &Run, aggregate: &str) -> anyhow::Result<Option<Sweep>> {
    let record = &run.record;
    let own = About {
        prompt: record.prompt.clone(),
        checkpoint: record.checkpoint.clone(),
        aggregate: aggregate.to_owned(),
        negative: record.negative.clone().unwrap_or_default(),
        settings: Some(serde_json::to_value(&record.settings)?),
    };
    let of_run = |sweep: &Sweep| sweep.about.fits(&own);
    let Some(folder) = named else {
        let beside = run.folder.join("..").join(run::slug(&run.record.prompt) + "-sweep");
        let sweeps = Target::generated(beside, false).taken().into_iter().rev();
        return Ok(sweeps.filter_map(|folder| Sweep::read(&folder).ok().flatten()).find(of_run));
    };
    let wrong = |reason: &str| Error::option("--sweep", format!("{} {reason}", folder.display()));
    let sweep = Sweep::read(folder)?.ok_or_else(|| wrong("holds no sweep; make one with `attnmap sweep PROMPT`"))?;
    if !of_run(&sweep) {
        return Err(wrong("is of another prompt, checkpoint or aggregate, or of other settings, than the run").into());
    }
    Ok(Some(sweep))
}

fn text(found: &Facts) -> String {
    let head = ["word", "attention", "peak", "centre x, y", "area", "concentration", "spread", "placed", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for word in &found.words {
        let layout = &word.layout;
        let none = || "-".to_owned();
        rows.push(vec![
            print::printable(&word.word),
            format!("{:.1} %", 100.0 * layout.share),
            layout.peak.map_or_else(none, |peak| format!("{:.3}", peak.value)),
            layout.centroid.map_or_else(none, |at| format!("{:.2}, {:.2}", at.x, at.y)),
            format!("{:.0} %", 100.0 * layout.area),
            format!("{:.2}", word.concentration),
            word.spread.map_or_else(none, |spread| format!("{spread:.2}")),
            word.placed.map_or_else(none, |placed| format!("{}/{}", placed.step, placed.steps)),
            if word.neglected == Some(true) { "neglected?".into() } else { String::new() },
        ]);
    }
    let mut text = print::table(&rows) + "\n";
    for sentence in found.sentences() {
        text += &format!("{}\n", print::line(&sentence));
    }
    for lies in &found.relations {
        let [subject, object] = [&lies.subject, &lies.object].map(|name| print::printable(name));
        text += &format!("{subject} {} {object}\n", lies.relation.words());
    }
    text
}
