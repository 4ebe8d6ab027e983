//! `attnmap attribute`: which words what is drawn in a place depends on.

use std::ops::ControlFlow;
use std::path::PathBuf;

use attnmap::argument::{Argument, WORD};
use attnmap::attribution::{
    ATTRIBUTION, AttributionQuestion, AttributionTarget, Attributions, COMPLETE, GradientPlan, Input, Inputs,
    MOST_POINTS, Method, POINTS, PlaceMask, RegionAttribution, RegionMaps, RemadeRun, attribute, beside, check_run,
    rows, seen, word_place,
};
use attnmap::evidence::Evidence;
use attnmap::evidence::shapley::MOST;
use attnmap::facts::lexicon::{Role, role};
use attnmap::facts::region::Place;
use attnmap::pipeline::{CheckpointChoice, LoadOptions, Pipeline};
use attnmap::run::{Run, check_names};
use attnmap::trace::{WordInfo, only};
use attnmap::{Error, Result, plural};
use clap::Args;

use super::ask::RegionArgs;
use super::checkpoint::{self, ModelArgs};
use super::inert;
use super::newest::run_folder;
use super::open;
use super::print::{self, Terminal};

/// Tell which words what is drawn in a place depends on, by gradients, occlusion or Shapley values
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct AttributeArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten, next_help_heading = "The place")]
    region: RegionArgs,

    /// The region of a word's own map
    #[arg(long, value_name = "WORD", help_heading = "The \
    place", conflicts_with_all = ["at", "bounds", "region", "mask"])]
    word: Option<String>,

    /// How: gradient, integrated, occlusion or shapley
    #[arg(long, value_name = "METHOD", default_value = "integrated", help_heading = "Method")]
    method: Method,

    /// To what: states (of the text encoder, which cross-attention reads) or tokens (its
    /// embeddings)
    #[arg(long, value_name = "INPUT", default_value = "states", help_heading = "Method")]
    input: Input,

    /// Points of the integral of `integrated` [default: 32, and more until it is complete]
    #[arg(long, value_name = "N", help_heading = "Method", value_parser = clap::value_parser!(u16).range(1..=1024))]
    points: Option<u16>,

    /// Words that `shapley` shares among, at most 8; the others count as one [default: all that
    /// could be drawn]
    #[arg(long, value_name = "WORDS", help_heading = "Method")]
    words: Option<String>,

    /// Most sets of words that `shapley` may try
    #[arg(long, value_name = "SETS", default_value_t = 64, help_heading = "Method")]
    budget: usize,

    /// At how many steps of the run
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Method")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    test_steps: u16,

    /// Most rows of a batch: more is faster and takes more memory
    #[arg(long, value_name = "ROWS", default_value_t = 8, help_heading = "Method")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Open the run's page in the browser
    #[arg(long)]
    open: bool,

    /// Print what was found as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

const HELP: &str = "\
What is attributed is a number: the squared difference between the prediction with the prompt and without it in
the place, mean over some steps of the run. A value is a word's part in it: above 0 the place depends on the
word, below 0 the word holds it back.
  gradient    the gradient times the input: fast, rough
  integrated  integrated gradients from the empty prompt: the values sum to what the prompt adds
  occlusion   what is lost without the word alone; needs no gradients and little memory
  shapley     the mean over all orders in which words join: sums to what the prompt adds, slow
ACCURACY.md has how often each names the thing that is there first. The run is made again first, and must come
out the same. The result is kept in the run's folder (attribution.json) and shown on its page beside attention
and cut.

Examples:
  attnmap attribute --word heart
  attnmap attribute last --at 40,90 --method occlusion
  attnmap attribute last --box 0,0,64,64 --input tokens --json";

/// Runs the command.
pub fn run(args: &AttributeArgs, terminal: &Terminal) -> anyhow::Result<()> {
    inert::at_once(&terminal.given, None).iter().for_each(print::warn);
    for (option, method) in [("points", Method::Integrated), ("budget", Method::Shapley), ("words", Method::Shapley)] {
        if terminal.given.has(option) && args.method != method {
            print::warn(format!("--{option} has no effect here: it is of --method {method}"));
        }
    }
    let run = Run::open(&run_folder(args.run.as_deref())?)?;
    check_run(&run)?;
    let trace = run.trace()?;
    let (latent, image) = (trace.about.latent, trace.about.image);
    let prompt = &trace.about.prompt;
    let one = |argument: Argument, text: &str| -> Result<WordInfo> {
        let words = prompt.select(text).map_err(|error| error.named(argument))?;
        only(text, words).map_err(|reason| Error::argument(argument, reason))
    };
    if args.word.is_none() && !args.region.is_given() {
        let reason = "name a place: --word WORD, or --at X,Y or --box X,Y,W,H in pixels, or --region FILE";
        return Err(Error::input("--word", reason).into());
    }
    let region = &args.region;
    let (place, name, bounds): (Place, String, Option<[f64; 4]>) = match &args.word {
        Some(word) => {
            let word = one(WORD, word)?;
            (word_place(&run, &word)?, format!("the region of {}", word.label()), None)
        }
        None => {
            let mask = region.mask(image)?;
            region.region(latent, image, mask.as_ref())?;
            let (name, bounds) = region.place()?;
            (region.of_image(image, mask.as_ref())?, name, bounds)
        }
    };
    let Some(on_latent) = place.on(latent) else {
        let reason = "the region is smaller than a cell of the latent grid; name a larger place";
        return Err(Error::input("--word", reason).into());
    };
    let players = players(args, &prompt.words, |text| prompt.select(text))?;
    attnmap::report::check_room(&run.folder)?;
    check_names(&run.folder, &[ATTRIBUTION])?;
    // What is damaged is told before the work.
    Attributions::read(&run.folder)?;

    let choice = args.model.over(CheckpointChoice::of_run(&run.record)?)?;
    let pipeline = args.model.load_of(&run.record, terminal)?;
    let bar = terminal.bar(run.record.timesteps.len() as u64, "replaying");
    let seen = seen(&run, &pipeline, usize::from(args.test_steps), &mut || {
        bar.inc(1);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    let (pipeline, batch) = ready(args, pipeline, choice, &seen, &run, terminal)?;
    let RemadeRun { prompt: read, options, indices, steps } = &seen;
    let inputs = Inputs::of_words(&pipeline, read, &prompt.words, args.input, options)?;
    let target = AttributionTarget::new(&pipeline, read, options, steps, &on_latent)?;
    let question = AttributionQuestion {
        options,
        target: &target,
        inputs: &inputs,
        method: args.method,
        points: args.points.map(usize::from),
        batch,
        players: &players,
        budget: args.budget,
    };
    let passes = match args.method {
        Method::Gradient => 1,
        Method::Integrated => args.points.map_or(POINTS, usize::from),
        Method::Occlusion => inputs.owners().len(),
        Method::Shapley => args.budget.min(1 << (players.len() + 1)),
    };
    let bar = terminal.bar(((passes + 2) * steps.len()) as u64, "attributing");
    let found = attribute(&pipeline, &question, &mut |rows| {
        bar.inc(rows as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();

    let saved = || RegionMaps { how: run.record.saved_aggregate(), threshold: run.record.display.threshold };
    let mut region = RegionAttribution {
        place: name,
        bounds,
        mask: match (&place, bounds) {
            (Place::Mask(mask, size), None) => Some(PlaceMask::of(mask, *size)),
            _ => None,
        },
        region_of: args.word.as_ref().map(|_| saved()),
        method: args.method,
        input: args.input,
        steps: indices.clone(),
        evaluations: found.evaluations,
        target: found.whole,
        empty: found.empty,
        gap: found.gap,
        words: rows(&inputs, &found),
    };
    if args.method.is_complete()
        && let Some(gap) = region.gap.filter(|gap| *gap > COMPLETE)
    {
        let more = match args.points {
            Some(_) => "give more --points".to_owned(),
            None => format!("{MOST_POINTS} points are not enough here; --method shapley has no gap"),
        };
        print::warn(format!("the values miss what the prompt adds by {}; {more}", print::percent(gap)));
    }
    Attributions::add(&run.folder, region.clone())?;
    attnmap::report::write(&run.folder)?;
    if args.open {
        open::open(&run.folder.join("report.html"));
    }
    // Damaged evidence is nothing to stand beside.
    let evidence = Evidence::of_run(&run).ok().flatten();
    beside(&mut region, &run, &trace, evidence.as_ref())?;
    if args.json {
        return print::json(&region);
    }
    print::stdout(table(&region).as_bytes())
}

/// The owners that join one by one: the words that are named, or all that could be drawn.
fn players(
    args: &AttributeArgs,
    words: &[WordInfo],
    select: impl Fn(&str) -> Result<Vec<WordInfo>>,
) -> Result<Vec<usize>> {
    let place = |word: &WordInfo| words.iter().position(|known| known == word);
    let found: Vec<usize> = match &args.words {
        Some(text) => {
            let single = |word: &WordInfo| {
                let reason = || format!("{} is no single word of the prompt", attnmap::in_quotes(&word.text));
                place(word).ok_or_else(|| Error::input("--words", reason()))
            };
            select(text)?.iter().map(single).collect::<Result<_>>()?
        }
        None => (0..words.len()).filter(|&word| role(&words[word].text) != Role::Filler).collect(),
    };
    if args.method == Method::Shapley && found.len() > MOST {
        let reason = format!("{} words are too many to share among; choose at most {MOST} with --words", found.len());
        return Err(Error::input(if args.words.is_some() { "--words" } else { "--method" }, reason));
    }
    Ok(found)
}

/// The networks as the method needs them, and the rows of a batch that fit into memory.
fn ready(
    args: &AttributeArgs,
    pipeline: Pipeline,
    choice: CheckpointChoice,
    seen: &RemadeRun,
    run: &Run,
    terminal: &Terminal,
) -> anyhow::Result<(Pipeline, usize)> {
    let asked = usize::from(args.batch);
    if !args.method.differentiates() {
        return Ok((pipeline, asked));
    }
    let on_cpu = choice.load.device.is_cpu();
    let batch = match choice.load.ignore_memory || !on_cpu {
        true => asked,
        false => {
            let latent = pipeline.latent_grid(&seen.options);
            match choice.open(None)?.denoiser.unet() {
                Some(config) => GradientPlan::new(config, latent, seen.prompt.ids.len()).rows(asked)?,
                None => asked,
            }
        }
    };
    if batch < asked {
        print::note(format!("batches of {batch} rows, which is what fits into memory"));
    }
    if !on_cpu {
        return Ok((pipeline, batch));
    }
    // The fast layers know no gradients. They go first, so that the weights are never held twice.
    drop(pipeline);
    let plain = CheckpointChoice { load: LoadOptions { plain: true, ..choice.load }, ..choice };
    let size = Some([run.record.image.height, run.record.image.width]);
    Ok((checkpoint::load(&plain, size, terminal)?, batch))
}

fn table(region: &RegionAttribution) -> String {
    let tested = region.words.iter().any(|row| row.cut.is_some());
    let method = region.method.name();
    let mut head = vec!["word".to_owned(), method.into(), "share".into(), "attention here".into()];
    head.extend(tested.then(|| "share of its change".to_owned()));
    let mut lines = vec![head];
    for row in &region.words {
        let or_none = |share: Option<f64>| share.map_or_else(|| "-".into(), print::percent);
        let error = row.error.filter(|error| *error > 0.0).map_or_else(String::new, |error| format!(" ± {error:.2e}"));
        let mut line = vec![
            print::printable(&row.word),
            format!("{:+.3e}{error}", row.value),
            or_none(row.share),
            or_none(row.attention),
        ];
        line.extend(tested.then(|| or_none(row.cut)));
        lines.push(line);
    }
    let mut text = format!("{}, by {} of {}\n\n", print::line(&region.place), method, region.input);
    text += &print::table(&lines);
    text += &format!(
        "\nThe prompt moves the prediction there by {:.3e}, the empty prompt by {:.3e} (squared, mean of {}).\n",
        region.target,
        region.empty,
        plural(region.steps.len(), "step")
    );
    text += match (region.method.is_complete(), region.gap.is_some_and(|gap| gap > COMPLETE)) {
        (true, false) => "Share: the value over what the prompt adds; all shares sum to 100 %",
        (true, true) => "Share: the value over what the prompt adds; all shares should sum to 100 % and miss it",
        (false, _) => "Share: the value over what the prompt adds; the shares of this method need not sum to 100 %",
    };
    text += &region.gap.map_or_else(|| ".\n".to_owned(), |gap| format!(" (gap {}).\n", print::percent(gap)));
    if region.method == Method::Shapley {
        text += "<other>: all that has no line of its own, which joined as one.\n";
    }
    text += "Attention here: the share of the attention in the place that goes to the word.\n";
    if tested {
        text += "Share of its change: how much of what cutting the word changes lies in the place.\n";
    }
    text
}
