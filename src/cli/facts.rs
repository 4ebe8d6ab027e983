//! `attnmap facts`: what the maps of a run tell about its layout, in numbers.

use std::path::PathBuf;

use attnmap::evidence::facts::{Context, Facts, facts, label};
use attnmap::heatmap::{self, Aggregate, Heatmaps, StepWindow};
use attnmap::run::Run;
use attnmap::trace::{Half, Trace, WordInfo};
use attnmap::{Error, Result};
use clap::Args;

use super::display::MapArgs;
use super::print;

/// Print what the maps of a run tell: where and since when, relations, neglected words, leaking adjectives
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct FactsArgs {
    /// The run's folder
    #[arg(value_name = "RUN")]
    run: PathBuf,

    #[command(flatten)]
    maps: MapArgs,

    /// Which adjective belongs to which noun: red:apple,green:frog [default: an adjective and the noun after it]
    #[arg(long, value_name = "PAIRS")]
    bind: Option<String>,

    /// Share of a map's top at which areas, boxes and centroids begin
    #[arg(long, value_name = "SHARE", default_value_t = heatmap::THRESHOLD)]
    threshold: f32,

    /// Print the facts as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Placed: the first step from which a word's centroid stays within a tenth of the image of where it ends. Neglected: the word's peak is no
higher than what half of the prompt's filler words (a, the, of ...) reach. An adjective leaks when its map is nearer (symmetric KL) to another
noun's than to its own. Probes (words that are not in the prompt) are left out unless --words names them; they get a line of numbers and take no
part in the rest.";

/// Runs the command.
pub fn run(args: &FactsArgs) -> anyhow::Result<()> {
    if !(args.threshold > 0.0 && args.threshold < 1.0) {
        return Err(Error::option("--threshold", "must lie between 0 and 1").into());
    }
    let run = Run::open(&args.run)?;
    let trace = run.trace()?;
    let mut probes = args.maps.words_of(&trace, Half::Conditional)?.unwrap_or_default();
    probes.retain(|word| trace.about.prompt.is_probe(word));
    let found = of_trace(&trace, &args.maps.aggregate()?, args.threshold, args.bind.as_deref(), &probes)?;
    if args.json { print::json(&found) } else { print::stdout(text(&found).as_bytes()) }
}

/// The facts of a trace: its prompt's words, and `probes` after them.
pub fn of_trace(
    trace: &Trace,
    aggregate: &Aggregate,
    threshold: f32,
    bind: Option<&str>,
    probes: &[WordInfo],
) -> Result<Facts> {
    let words = &[trace.about.prompt.words.as_slice(), probes].concat();
    let maps = heatmap::aggregate(trace, aggregate, words)?;
    // A chosen window or choice of heads has no single steps of its own, and noise levels are no steps on a way.
    let steps: Vec<Heatmaps> = match aggregate.steps.is_none() && aggregate.heads.is_none() && !trace.about.is_look() {
        true => (1..=trace.steps()).map_while(|step| at_step(trace, aggregate, words, step).ok()).collect(),
        false => Vec::new(),
    };
    let bind = bind.map(|bind| bindings(bind, &trace.about.prompt.words)).transpose()?;
    Ok(facts(&maps, &Context { threshold, steps: &steps, filler_peaks: &[], bind: bind.as_deref() }))
}

fn at_step(trace: &Trace, aggregate: &Aggregate, words: &[WordInfo], step: usize) -> Result<Heatmaps> {
    let steps = Some(StepWindow::Numbers(step, step));
    heatmap::aggregate(trace, &Aggregate { steps, ..aggregate.clone() }, words)
}

/// `red:apple,green:frog` as positions in the words.
pub fn bindings(text: &str, words: &[WordInfo]) -> Result<Vec<(usize, usize)>> {
    let place = |name: &str| {
        let found = words.iter().position(|word| label(word).eq_ignore_ascii_case(name.trim()));
        found.ok_or_else(|| Error::option("--bind", format!("the prompt has no word {:?}", name.trim())))
    };
    let pair = |pair: &str| {
        let (adjective, noun) = pair
            .split_once(':')
            .ok_or_else(|| Error::option("--bind", format!("{pair:?} is no pair; write red:apple,green:frog")))?;
        Ok((place(adjective)?, place(noun)?))
    };
    text.split(',').map(pair).collect()
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
            if word.neglected == Some(true) { "neglected".into() } else { String::new() },
        ]);
    }
    let mut text = print::table(&rows) + "\n";
    for stated in &found.stated {
        let says = match stated.agrees {
            Some(true) => "the maps agree",
            Some(false) => "the maps DISAGREE",
            None => "the maps are too close to call",
        };
        let claim = &stated.claim;
        let offset = stated.offset.map_or_else(String::new, |offset| format!(" (offset {offset:+.2})"));
        let names = [&claim.subject, &claim.object].map(|name| print::printable(name));
        text += &format!("stated: {} {} {}: {says}{offset}\n", names[0], claim.relation.words(), names[1]);
    }
    for leak in &found.leakage {
        let [adjective, noun, follows] =
            [&leak.adjective, &leak.noun, &leak.follows].map(|name| print::printable(name));
        let says = if leak.leaks() { format!("LEAKS to {follows}") } else { format!("follows {noun}") };
        let others =
            leak.others.iter().map(|other| format!("{} {:.2}", print::printable(&other.noun), other.divergence));
        let others = others.collect::<Vec<_>>().join(", ");
        text += &format!("{adjective} of {noun}: {says} (divergence {:.2}; {others})\n", leak.own);
    }
    for lies in &found.relations {
        let [subject, object] = [&lies.subject, &lies.object].map(|name| print::printable(name));
        text += &format!("{subject} {} {object}\n", lies.relation.words());
    }
    text
}
