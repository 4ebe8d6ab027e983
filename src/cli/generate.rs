//! `attnmap generate`: a prompt in, an image and a heat map for every word out.

use std::path::PathBuf;
use std::time::Instant;

use attnmap::files::Target;
use attnmap::heatmap::Resolution;
use attnmap::maker::Maker;
use attnmap::pipeline::{LoadedInit, Options, Pipeline, RecordOptions, read_latents};
use attnmap::prompt::Prompt;
use attnmap::run;
use attnmap::trace::{PromptInfo, Site};
use attnmap::{Error, Result};
use clap::Args;

use super::again;
use super::checkpoint::ModelArgs;
use super::display::{DisplayArgs, MapArgs};
use super::expect::{self, ExpectArgs, Unmet};
use super::inert::{self, PlannedRun};
use super::init::InitArgs;
use super::output::{OutputArgs, summary};
use super::print::{self, Terminal};
use super::progress;
use super::prompt::{ConceptArgs, PromptArgs, adapter_warnings, shown_words, warnings};
use super::regions::RegionFileArgs;
use super::sampling::RunArgs;
use super::self_attention::GocaArgs;

/// Generate images from a prompt and map every word's attention
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArgs {
    #[command(flatten)]
    prompt: PromptArgs,

    /// Seed of the noise; the same seed gives the same image as diffusers with a CPU generator.
    /// `random` (or -1) draws one
    #[arg(long, value_name = "N", default_value = "0", value_parser = super::seed::parse)]
    #[arg(allow_negative_numbers = true)]
    seed: u64,

    /// How many images: seeds seed, seed + 1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    images: u64,

    #[command(flatten)]
    run: RunArgs,

    /// Start from the tensor `latents` of this safetensors file
    ///
    /// Standard normal noise of the shape [1, channels, height / 8, width / 8]: 4 channels, 16 in
    /// Stable Diffusion 3, FLUX.1 and Z-Image.
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,

    /// Record the unconditional half too, so that the negative prompt's words have maps
    ///
    /// They are seen with `view --half unconditional`.
    #[arg(long, help_heading = "What is kept")]
    trace_negative: bool,

    #[command(flatten)]
    concepts: ConceptArgs,

    /// Keep what the prompt's own tokens look at, in joint attention
    ///
    /// Stable Diffusion 3, FLUX.1 and Z-Image. It is seen with `view --queries text`.
    #[arg(long, help_heading = "What is kept")]
    text_queries: bool,

    #[command(flatten)]
    goca: GocaArgs,

    /// Keep the self-attention too: all grids that fit, or these, e.g. =16,24x32
    ///
    /// All grids that fit into --self-memory, or only those of these short sides or WxH, separated
    /// by commas.
    #[arg(long, help_heading = "What is kept", value_name = "SIZES", num_args = 0..=1)]
    #[arg(default_missing_value = "", require_equals = true, group = "of_self_attention")]
    self_attention: Option<String>,

    /// Keep queries and keys, for "inside one score", e.g. =8,16
    ///
    /// The page then shows what each channel gives to a score. Of all layers, or only those of
    /// these short sides or WxH, separated by commas. Queries are kept as their mean over the
    /// steps, which has the mean of the scores.
    #[arg(long, help_heading = "What is kept", value_name = "SIZES", num_args = 0..=1)]
    #[arg(default_missing_value = "", require_equals = true)]
    keep_queries: Option<String>,

    /// Memory for queries and keys while the run goes on
    #[arg(long, help_heading = "What is kept", value_name = "SIZE", default_value = "1GiB")]
    #[arg(value_parser = super::self_attention::parse_bytes, requires = "keep_queries")]
    query_memory: u64,

    /// Keep the estimate of the image at every Nth step; 0 keeps none [default: about 8 up to
    /// 256x256, none beyond]
    ///
    /// The page shows the image forming. Each estimate costs a decoding.
    #[arg(long, help_heading = "What is kept", value_name = "N", num_args = 0..=1, default_missing_value = "1")]
    keep_steps: Option<u32>,

    #[command(flatten)]
    expect: ExpectArgs,

    #[command(flatten)]
    init: InitArgs,

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

const EXAMPLES: &str = "\
Examples:
  attnmap generate \"a red apple to the left of a blue heart on the beach\"
  attnmap generate \"a blue heart and a red apple\" --words \"red apple,heart\" --style contour
  attnmap generate \"a monkey on a bicycle\" --model ./model.safetensors --size 640x512
  attnmap generate \"a (red:1.4) apple, [a heart]\" --emphasis --seed 3 --images 4
  attnmap generate \"a red apple on the beach\" --probe \"shadow,sand\"
  attnmap generate \"a red apple on the beach\" --expect \"apple@left, no fox\"
  attnmap generate \"a red apple on the beach\" --words apple --masks --outline svg
  attnmap generate \"a green apple\" --init photo.png --strength 0.7
  attnmap generate \"a red heart\" --init photo.png --mask white-where-the-heart-goes.png
  attnmap generate --prompt-file scene.txt --long
  attnmap generate \"a monkey\" --model ./model.safetensors --lora ./style.safetensors:0.8
  attnmap generate \"a <toy-cat>\" --model ./model --embedding './cat.safetensors:<toy-cat>'
  attnmap generate \"a monkey\" --model ./few-steps --steps 4 --spacing trailing --guidance 0
  attnmap generate \"a monkey on a bicycle\" --model ./model --prediction v_prediction
  attnmap generate \"a monkey\" --model ./sdxl --original-size 1024x1024 --crop 0,0
  attnmap generate \"a red apple on the beach\" --scheduler heun --steps 12
  attnmap generate \"an apple in the snow\" --negative \"red apple\" --trace-negative
  attnmap generate \"a red apple and a heart\" --model ./flux --concepts --probe sky
  attnmap generate \"a red apple on the beach\" --self-attention=16,32 --self-memory 512MiB
  attnmap generate \"a red apple on the beach\" --keep-queries=8,16

A probe's map is what the word would take of the prompt's attention if it stood there too; the word itself has
no influence. It says what the model ties a place to, not that it drew the thing: some layers give a share to
any word.

Emphasis is asked for, since brackets are text to diffusers and to the model's training: ( ) and ((cat))
multiply a word's weight by 1.1 each, [cat] divides it by 1.1, (cat:1.3) multiplies it by 1.3, \\( and \\[ are
brackets. The weight multiplies what the text encoder says of the word's tokens; the mean over all tokens is
then restored. Both are as in AUTOMATIC1111's web UI.

--size is WIDTHxHEIGHT. The same seed gives the same image as diffusers with a CPU generator. A picture to start
from is resized to --size; without it the picture keeps its shape, at a size near the checkpoint's own.

Ranges: A-B has both ends included (--heads 0-3, --steps-window 1-20, --weight heart=0-2). In A..B the end is left
out of lists (--seeds 0..8, --heads 0..4) and included in shares and weights (--steps-window 0.2..0.8).";

/// The grids in the value of `option`; none where it has no value.
fn grid_sizes(option: &str, sizes: &str) -> Result<Vec<Resolution>> {
    let size = |size: &str| {
        let quoted = attnmap::in_quotes(size);
        let reason = format!("{quoted} is no size; write the short side of a grid, like 16, or WxH, like 24x16");
        size.parse::<Resolution>().map_err(|_| Error::input(option, reason))
    };
    sizes.split(',').map(str::trim).filter(|size| !size.is_empty()).map(size).collect()
}

/// Runs the command: checks everything that can be checked before work is done, then makes one run
/// folder per image.
pub fn run(args: &GenerateArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let text = args.prompt.text()?;
    let mut aggregate = args.maps.aggregate()?;
    let display = args.display.display()?;
    let regions = args.regions.chosen(display.threshold)?;
    let given = args.init.read()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    let started = Instant::now();
    let mut texts = args.concepts.texts(&text, args.run.probe.texts());
    texts.push(args.run.sampling.negative.clone());
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pipeline = args.model.load_for(&texts, args.run.sampling.size, terminal)?;
    let loading = started.elapsed().as_secs_f64();

    let mut runs = args.options(&pipeline, given.as_ref())?;
    let prompt = pipeline.prompt(&text, &runs[0])?;
    let info = PromptInfo::from(&prompt);
    let probes = args.run.probe.texts();
    let concepts = args.concepts.of(&pipeline, &prompt, probes)?;
    aggregate = args.maps.of_concepts(aggregate, !concepts.is_empty());
    runs.iter_mut().for_each(|options| options.concepts.clone_from(&concepts));
    args.expect.check(&pipeline, &info.by(args.maps.by()), probes)?;
    let words = shown_words(&args.maps, &pipeline, &info.by(args.maps.by()), probes)?;
    let targets: Vec<_> = runs.iter().map(|options| args.target(&text, options.seeds[0])).collect();
    for target in &targets {
        target.room_for(
            &run::KIND,
            if given.is_some() { &["report.html", "init.png", "mask.png"] } else { &["report.html"] },
        )?;
    }
    let mut warnings = warnings(&pipeline, &prompt, &runs[0].negative, probes)?;
    let texts: Vec<&str> = [&*text, &*runs[0].negative].into_iter().chain(probes.iter().map(String::as_str)).collect();
    warnings.extend(adapter_warnings(&pipeline, &texts, runs[0].syntax)?);
    let choice = args.model.choice()?;
    let made = PlannedRun {
        pipeline: &pipeline,
        choice: &choice,
        options: &runs[0],
        prompt: &prompt,
        words: words.as_deref(),
        aggregate: &aggregate,
    };
    warnings.extend(inert::in_run(&terminal.given, made, Some(&display), args.keep_steps));
    warnings.iter().for_each(print::warn);
    let keep = RecordOptions {
        per_step: !args.output.no_step_maps,
        unconditional: args.trace_negative,
        text_queries: args.text_queries(&pipeline)?,
        goca: args.goca.check(&pipeline, &runs[0], &aggregate)?,
        self_attention: args.self_attention(&pipeline, &runs[0])?,
        queries: args.queries(&pipeline, &prompt, &runs[0])?,
    };
    let maker = Maker {
        pipeline: &pipeline,
        prompt: &prompt,
        keep,
        keep_steps: args
            .keep_steps
            .or_else(|| run::kept_by_default(runs[0].height, runs[0].width, runs[0].steps))
            .filter(|&every| every > 0),
        aggregate,
        display,
        by: args.maps.by(),
        words,
        expect: args.expect.list(),
        regions,
        warnings,
        loading: Some(loading),
    };
    maker.check(&runs[0])?;
    let (mut records, mut folders) = (Vec::with_capacity(runs.len()), Vec::new());
    for (options, target) in runs.iter().zip(&targets) {
        let out = args.output.out.as_ref().map(|_| target.path());
        let command = again::command(&text, options.seeds[0], out);
        let (folder, record) = progress::make(&maker, options, target, command, terminal)?;
        if !args.output.json {
            print::stdout((summary(&folder, &record) + &expect::lines(&record.expectations)).as_bytes())?;
        }
        records.push(record);
        folders.push(folder);
    }
    args.output.opened(&folders[0]);
    match (args.output.json, records.as_slice()) {
        (true, [record]) => print::json(record)?,
        (true, records) => print::json(&records)?,
        (false, _) => {}
    }
    Unmet::of(records.iter().flat_map(|record| &record.expectations))
}

impl GenerateArgs {
    /// The options of one run with one seed after another, each setting out from the picture that
    /// was given.
    fn options(&self, pipeline: &Pipeline, given: Option<&LoadedInit>) -> Result<Vec<Options>> {
        let latents = self.latents.as_deref().map(read_latents).transpose()?;
        let one = |index: u64| -> Result<Options> {
            let seed = self.seed.checked_add(index);
            let seed = seed.ok_or_else(|| Error::input("--seed", "seed + images is past the largest seed"))?;
            let mut options = Options { latents: latents.clone(), ..self.run.options(pipeline, seed) };
            if let Some(given) = given {
                given.put_into(&mut options, self.run.sampling.size.is_some(), pipeline)?;
            }
            pipeline.check(&options)?;
            Ok(options)
        };
        (0..self.images).map(one).collect()
    }

    /// Whether the text's own queries are kept.
    fn text_queries(&self, pipeline: &Pipeline) -> Result<bool> {
        pipeline.check_joint(false, self.text_queries)?;
        Ok(self.text_queries)
    }

    /// The self-attention sites to keep, said on stderr with the memory that they take.
    fn self_attention(&self, pipeline: &Pipeline, options: &Options) -> Result<Vec<Site>> {
        let Some(sizes) = &self.self_attention else { return Ok(Vec::new()) };
        let sizes = grid_sizes("--self-attention", sizes)?;
        let wanted = |site: &Site| sizes.iter().any(|size| size.matches(site));
        let wanted = (!sizes.is_empty()).then_some(&wanted as &dyn Fn(&Site) -> bool);
        // Whatever memory it may take: no grid could be named then.
        if pipeline.plan_self_attention(options, None, u64::MAX).is_err() {
            let reason = "the image's places look at each other and at the text in one softmax here, and no layer has \
                self-attention alone; leave it out";
            return Err(Error::input("--self-attention", reason));
        }
        let plan = pipeline.plan_self_attention(options, wanted, self.goca.self_memory)?;
        print::note(plan.describe());
        Ok(plan.sites)
    }

    /// The sites whose queries are kept, said on stderr with what that takes.
    fn queries(&self, pipeline: &Pipeline, prompt: &Prompt, options: &Options) -> Result<Vec<Site>> {
        let Some(sizes) = &self.keep_queries else { return Ok(Vec::new()) };
        let sizes = grid_sizes("--keep-queries", sizes)?;
        let wanted = |site: &Site| sizes.iter().any(|size| size.matches(site));
        let wanted = (!sizes.is_empty()).then_some(&wanted as &dyn Fn(&Site) -> bool);
        let sites = pipeline.query_sites(options, wanted)?;
        print::note(pipeline.plan_queries(prompt, options, &sites, self.query_memory)?.describe());
        Ok(sites)
    }

    /// The run folder of one seed. With several images `--out` is the folder that they go into.
    fn target(&self, prompt: &str, seed: u64) -> Target {
        let (name, target) = (run::run_name(prompt, seed), |name: &str| self.output.target(name));
        if self.images > 1 && self.output.out.is_some() { target(&name).within(name) } else { target(&name) }
    }
}
