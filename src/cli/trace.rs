//! `attnmap trace`: where the words of a caption lie in an existing picture.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use attnmap::Error;
use attnmap::facts::expect::Expectations;
use attnmap::picture;
use attnmap::pipeline::LookOptions;
use attnmap::report;
use attnmap::run::{self, NewRun, Pictures, RunKind};
use attnmap::trace::{Grid, PromptInfo};
use clap::Args;

use super::again;
use super::checkpoint::ModelArgs;
use super::display::{DisplayArgs, MapArgs};
use super::expect::{self, ExpectArgs, Unmet};
use super::inert::{self, Made};
use super::lists;
use super::output::{OutputArgs, summary};
use super::print::{self, Terminal};
use super::prompt::{ProbeArgs, SyntaxArgs, adapter_warnings, shown_words, warnings};
use super::regions::RegionFileArgs;
use super::sampling::parse_size;

/// Find the words of a caption in an existing picture
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct TraceArgs {
    /// The picture: png, jpeg or webp, of any size
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// What it shows; its words are looked for
    #[arg(value_name = "CAPTION", required_unless_present = "caption_option")]
    caption: Option<String>,

    /// The caption as an option, which may begin with a dash
    #[arg(long = "caption", value_name = "TEXT", conflicts_with = "caption", allow_hyphen_values = true, hide = true)]
    caption_option: Option<String>,

    /// Timesteps of training that the picture is noised to; the maps are their mean
    #[arg(
        long,
        value_name = "T,T",
        value_delimiter = ',',
        default_value = "300,450,600",
        allow_negative_numbers = true
    )]
    levels: Vec<usize>,

    /// Seed of the noise; `random` (or -1) draws one
    #[arg(long, value_name = "N", default_value = "0", value_parser = super::seed::parse, allow_negative_numbers = true)]
    seed: u64,

    /// Size at which the picture is shown, WIDTHxHEIGHT [default: near the checkpoint's own, in the picture's shape]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(usize, usize)>,

    #[command(flatten)]
    syntax: SyntaxArgs,

    #[command(flatten)]
    probe: ProbeArgs,

    #[command(flatten)]
    expect: ExpectArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    display: DisplayArgs,

    #[command(flatten)]
    regions: RegionFileArgs,

    #[command(flatten)]
    output: OutputArgs,
}

const HELP: &str = "\
Examples:
  attnmap trace outputs/*frog-on-the-beach-0/image.png \"a red apple and a frog\"
  attnmap trace photo.jpg \"a dog on a sofa\" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --words \"dog,sofa\"
  attnmap trace photo.jpg \"a dog on a sofa\" --words dog --masks
  attnmap trace photo.jpg \"a dog on a sofa\" --expect \"dog@left, no cat\"
  attnmap ask last --at 40,90

The picture is turned upright, resized, encoded, noised to each level and shown to the UNet once with the caption; nothing is drawn.
Low levels leave the picture clear and the caption little to say, high levels leave little of the picture. There is no unconditional half:
guidance would not change what the caption's words attend to. The run's image.png is the picture as it was shown, and view, ask, facts,
report, compare, animate and explain work on it.";

/// Runs the command.
pub fn run(args: &TraceArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let caption = args.caption.as_ref().or(args.caption_option.as_ref()).map_or("", String::as_str);
    if caption.trim().is_empty() {
        return Err(Error::option("CAPTION", "the caption is empty; say what the picture shows").into());
    }
    let aggregate = args.maps.aggregate()?;
    let display = args.display.display()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    let regions = args.regions.chosen(display.threshold)?;
    let (given, warning) = picture::read_opaque(&args.image, "IMAGE")?;
    warning.iter().for_each(print::warn);
    let name = format!("trace-{}", run::run_name(caption, args.seed));
    let target = args.output.target(&name);
    target.room_for(&run::KIND, &["report.html"])?;
    let started = Instant::now();
    let pipeline = args.model.load(args.size, terminal)?;
    let loading = started.elapsed().as_secs_f64();

    let options = args.look();
    pipeline.check_look(&options)?;
    let size = match args.size {
        Some((width, height)) => Grid::new(height, width),
        None => pipeline.fit_picture(&given, "IMAGE")?,
    };
    pipeline.check_size(size)?;
    let prompt = pipeline.prompt(caption, &pipeline.look_run(size, &options))?;
    let info = PromptInfo::from(&prompt);
    args.expect.check(&pipeline, &info, &options.probes)?;
    let run = pipeline.look_run(size, &options);
    let words = shown_words(&args.maps, &pipeline, &info, &options.probes)?;
    let factor = pipeline.vae_factor();
    // A choice of sites that the network does not have is found now and not after the last call.
    let latent = Grid::new(size.height / factor, size.width / factor);
    aggregate.choose(&pipeline.sites(size.height, size.width), latent)?;
    let mut warnings = warnings(&pipeline, &prompt, "", &options.probes)?;
    let texts: Vec<&str> = std::iter::once(caption).chain(options.probes.iter().map(String::as_str)).collect();
    warnings.extend(adapter_warnings(&pipeline, &texts, options.syntax)?);
    let choice = args.model.choice()?;
    let made = Made {
        pipeline: &pipeline,
        choice: &choice,
        options: &run,
        prompt: &prompt,
        words: words.as_deref(),
        aggregate: &aggregate,
    };
    warnings.extend(inert::in_run(&terminal.given, made, Some(&display), None));
    warnings.iter().for_each(print::warn);

    let image = picture::resize(&given, size.width as u32, size.height as u32);
    let started = Instant::now();
    let bar = terminal.bar(options.levels.len() as u64, "levels");
    let trace = pipeline.trace_picture(&image, &prompt, &options, !args.output.no_step_maps, &mut || {
        bar.inc(1);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let trace = trace?;
    let things = args.expect.list().map(Expectations::looked_for);
    let sightings = things.map(|things| pipeline.look_for(&image, &things)).transpose()?;
    let looking = started.elapsed().as_secs_f64();
    let mut settings = pipeline.look_settings(&options, size);
    settings.more.insert("picture".into(), args.image.display().to_string().into());
    let new = NewRun {
        kind: RunKind::Trace,
        pictures: Pictures {
            trace: &trace,
            image: &image,
            aggregate: &aggregate,
            display: &display,
            words: words.as_deref(),
        },
        settings,
        negative: None,
        command: again::command(caption, args.seed, args.output.out.as_deref()),
        expect: args.expect.list().zip(sightings.as_deref()),
        cut_off: prompt.cut_off.clone(),
        warnings,
        timings: BTreeMap::from([("load".to_owned(), loading), ("steps".to_owned(), looking)]),
    };
    let spinner = terminal.spinner("drawing");
    let (folder, record) = run::write_run(&target, &new, |folder, place, _| {
        run::save_regions(&new.pictures, folder, regions)?;
        report::write_as(folder, place).map(drop)
    })?;
    spinner.finish_and_clear();
    args.output.opened(&folder);
    match args.output.json {
        true => print::json(&record)?,
        false => print::stdout((summary(&folder, &record) + &expect::lines(&record.expectations)).as_bytes())?,
    }
    Unmet::of(&record.expectations)
}

impl TraceArgs {
    /// The levels from the noisiest on, as a run goes.
    fn look(&self) -> LookOptions {
        let mut levels = lists::once("--levels", self.levels.clone(), ToString::to_string);
        levels.sort_unstable_by(|a, b| b.cmp(a));
        LookOptions { levels, seed: self.seed, probes: self.probe.texts().to_vec(), syntax: self.syntax.syntax() }
    }
}
