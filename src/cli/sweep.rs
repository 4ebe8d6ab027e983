//! `attnmap sweep`: a prompt's habits over many seeds.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::facts::lexicon::Role;
use attnmap::facts::sweep::{StatedSweep, Sweep, WordSweep};
use attnmap::files::{Target, check_place};
use attnmap::gallery::{SWEEP, SweepRequest, sweep};
use attnmap::heatmap::QuerySource;
use attnmap::pipeline::Options;
use attnmap::run;
use attnmap::trace::{Grid, PromptInfo};
use clap::Args;

use super::checkpoint::ModelArgs;
use super::display::MapArgs;
use super::expect::{ExpectArgs, Unmet};
use super::inert::{self, PlannedRun};
use super::init::InitArgs;
use super::lists;
use super::newest::OUTPUTS;
use super::open;
use super::print::{self, Terminal};
use super::prompt::{ConceptArgs, ProbeArgs, PromptArgs, SyntaxArgs, adapter_warnings, shown_words, warnings};
use super::sampling::{SamplingArgs, StepsArgs};
use super::seed;

/// See where each word of a prompt lands over many seeds: a habit, or one seed's accident
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SweepArgs {
    #[command(flatten)]
    prompt: PromptArgs,

    /// Seeds, e.g. 0..32 (32 left out), 0-31 (both ends included) or 1,5,9; each `random` draws one
    #[arg(long, value_name = "SEEDS", default_value = "0..32")]
    seeds: String,

    #[command(flatten)]
    syntax: SyntaxArgs,

    #[command(flatten)]
    steps: StepsArgs,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    expect: ExpectArgs,

    #[command(flatten)]
    probe: ProbeArgs,

    #[command(flatten)]
    concepts: ConceptArgs,

    /// Where the result goes [default: outputs/<prompt>-sweep, and counts up]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Replace an existing sweep; what is not attnmap's in its folder stays
    #[arg(long)]
    force: bool,

    /// Open the page in the browser
    #[arg(long)]
    open: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    init: InitArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    maps: MapArgs,
}

const EXAMPLES: &str = "\
Examples:
  attnmap sweep \"a red apple to the left of a blue heart\" --seeds 0..32
  attnmap sweep \"a red apple to the left of a blue heart\" --expect \"heart right of apple, no fox\"
  attnmap sweep \"a monkey on a bicycle\" --model ./model.safetensors --lora ./style.safetensors:0.8
  attnmap sweep \"a red apple and a blue heart\" --model ./flux --concepts --seeds 0..8

--queries text needs no other option here. `facts` compares peaks with those of the sweep of the same prompt and
settings that lies beside a run. The pages of such runs get a link to the sweep.";

/// Runs the command.
pub fn run(args: &SweepArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let text = args.prompt.text()?;
    let seeds = lists::once("--seeds", seed::list(&args.seeds)?, ToString::to_string);
    let mut aggregate = args.maps.aggregate()?;
    let target = Target::of(args.out.clone(), args.force, || Path::new(OUTPUTS).join(run::sweep_name(&text)));
    check_place(&target.folder(&SWEEP)?)?;
    let given = args.init.read()?;
    inert::at_once(&terminal.given, None).iter().for_each(print::warn);
    let probes = args.probe.texts();
    let mut texts = args.concepts.texts(&text, probes);
    texts.push(args.sampling.negative.clone());
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pipeline = args.model.load_for(&texts, args.sampling.size, terminal)?;
    let mut options = Options {
        seeds: seeds.clone(),
        probes: probes.to_vec(),
        ..args.sampling.options(&pipeline, args.syntax, args.steps.steps)
    };
    if let Some(given) = &given {
        given.put_into(&mut options, args.sampling.size.is_some(), &pipeline)?;
    }
    let prompt = pipeline.prompt(&text, &options)?;
    let info = PromptInfo::from(&prompt);
    options.concepts = args.concepts.of(&pipeline, &prompt, probes)?;
    aggregate = args.maps.of_concepts(aggregate, !options.concepts.is_empty());
    pipeline.check_joint(false, aggregate.queries == QuerySource::Text)?;
    let by = info.by(args.maps.by());
    args.expect.check(&pipeline, &by, probes)?;
    let words = shown_words(&args.maps, &pipeline, &by, probes)?;
    let words = words.or_else(|| (!args.maps.by().is_word()).then_some(by.words));
    warnings(&pipeline, &prompt, &options.negative, probes)?.iter().for_each(print::warn);
    let texts: Vec<&str> = [&*text, &*options.negative].into_iter().chain(probes.iter().map(String::as_str)).collect();
    adapter_warnings(&pipeline, &texts, options.syntax)?.iter().for_each(print::warn);
    let choice = args.model.choice()?;
    let made = PlannedRun {
        pipeline: &pipeline,
        choice: &choice,
        options: &options,
        prompt: &prompt,
        words: words.as_deref(),
        aggregate: &aggregate,
    };
    inert::in_run(&terminal.given, made, None, None).iter().for_each(print::warn);
    let bar = terminal.bar(seeds.len() as u64, "seeds");
    let (expect, mask, by) = (args.expect.list(), args.init.mask(), args.maps.by());
    let asked = SweepRequest { words: words.as_deref(), expect, mask, by };
    let swept = sweep(&pipeline, &prompt, &options, &aggregate, asked, &mut |_| {
        bar.inc(1);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let swept = swept?;
    let folder = swept.write(&target)?;
    link(&swept.runs(&folder));
    if args.open {
        open::open(&folder.join("index.html"));
    }
    if args.json {
        print::json(&swept.found)?;
    } else {
        let text = format!(
            "{}\n{}\n",
            table(&swept.found, Grid::new(options.height, options.width)),
            folder.join("index.html").display()
        );
        print::stdout(text.as_bytes())?;
    }
    let expected = &swept.found.expectations;
    Unmet::count(
        expected.iter().filter(|one| one.unmet() > 0).count(),
        expected.len(),
        "expectations",
        "met in every seed",
    )
}

/// Writes the pages of `runs` again, which then have the link to the sweep. One that cannot be
/// written, or is not attnmap's, is no failure of the sweep.
fn link(runs: &[PathBuf]) {
    let failed: Vec<_> = runs.iter().filter_map(|run| attnmap::report::write(run).err()).collect();
    if let Some(first) = failed.first() {
        let more = match failed.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        print::warn(format!("a run's page has no link to the sweep: {first}{more}"));
    }
}

/// Where the words land in images of `image` pixels.
fn table(found: &Sweep, image: Grid) -> String {
    let head = ["word", "peak", "centre", "scatter", "probably not drawn"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(found.words.iter().map(|word| word.cells(image).map(|cell| print::printable(&cell)).to_vec()));
    let mut text = print::table(&rows);
    text += "\nCentre: the mean over the seeds, in pixels. Scatter: how far from there, of the image's sides.\n";
    for expected in &found.expectations {
        text += &format!("{}\n", print::line(&expected.to_string()));
    }
    if found.words.iter().any(|word| word.role == Role::Probe) {
        text += &format!("{}\n", print::PROBES);
    }
    let habits = found.words.iter().filter(|word| word.has_a_place()).filter_map(WordSweep::sentence);
    for said in habits.chain(found.stated.iter().filter_map(StatedSweep::sentence)) {
        text += &format!("{}\n", print::line(&said));
    }
    text
}
