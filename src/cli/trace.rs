//! `attnmap trace`: where the words of a caption lie in an existing picture.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use attnmap::argument::IMAGE;
use attnmap::facts::expect::Expectations;
use attnmap::gallery::is_many;
use attnmap::picture::{self, METADATA_KEY, Metadata};
use attnmap::pipeline::{LookOptions, RecordOptions};
use attnmap::prompt::Syntax;
use attnmap::report;
use attnmap::run::{self, NewRun, Pictures, RunKind, parse_size};
use attnmap::trace::{Grid, PromptInfo};
use attnmap::{Error, in_quotes};
use clap::Args;

use super::again;
use super::checkpoint::ModelArgs;
use super::display::{DisplayArgs, MapArgs};
use super::expect::{self, ExpectArgs, Unmet};
use super::inert::{self, PlannedRun};
use super::lists;
use super::output::{OutputArgs, listed, summary};
use super::print::{self, Terminal};
use super::prompt::{ConceptArgs, ProbeArgs, SyntaxArgs, adapter_warnings, shown_words, warnings};
use super::regions::RegionFileArgs;
use super::self_attention::GocaArgs;

/// Find the words of a caption in an existing picture
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct TraceArgs {
    /// The picture: png, jpeg or webp, of any size; or a folder or list of captioned pictures
    #[arg(value_name = "IMAGE")]
    pub(super) image: PathBuf,

    /// What it shows; its words are looked for [default: what the picture's own metadata says]
    #[arg(value_name = "CAPTION")]
    pub(super) caption: Option<String>,

    /// The caption as an option, which may begin with a dash
    #[arg(long = "caption", value_name = "TEXT", conflicts_with = "caption", allow_hyphen_values = true, hide = true)]
    pub(super) caption_option: Option<String>,

    /// Timesteps of training that the picture is noised to; the maps are their mean
    #[arg(
        long,
        value_name = "T,T",
        value_delimiter = ',',
        default_value = "300,450,600",
        allow_negative_numbers = true
    )]
    levels: Vec<usize>,

    /// Seed of the noise; `random` (or -1) draws one [default: the one in the picture's metadata,
    /// else 0]
    #[arg(long, value_name = "N", value_parser = super::seed::parse, allow_negative_numbers = true)]
    seed: Option<u64>,

    /// Take nothing from the picture's metadata
    #[arg(long)]
    pub(super) no_metadata: bool,

    /// Size at which the picture is shown, WIDTHxHEIGHT [default: near the checkpoint's own, in the
    /// picture's shape]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub(super) size: Option<[usize; 2]>,

    #[command(flatten)]
    syntax: SyntaxArgs,

    /// Last layers of CLIP that do not read the caption, 0 or more
    ///
    /// As clip_skip in diffusers: what the web UI and civitai call clip skip 2 is 1 here. SDXL
    /// leaves one out by itself.
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(super) clip_skip: Option<usize>,

    #[command(flatten)]
    pub(super) probe: ProbeArgs,

    #[command(flatten)]
    pub(super) concepts: ConceptArgs,

    #[command(flatten)]
    goca: GocaArgs,

    #[command(flatten)]
    pub(super) expect: ExpectArgs,

    #[command(flatten)]
    pub(super) model: ModelArgs,

    #[command(flatten)]
    pub(super) maps: MapArgs,

    #[command(flatten)]
    pub(super) display: DisplayArgs,

    #[command(flatten)]
    pub(super) regions: RegionFileArgs,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

const HELP: &str = "\
Examples:
  attnmap trace outputs/*heart-on-the-beach-0/image.png --out outputs/its-own-caption
  attnmap trace outputs/*heart-on-the-beach-0/image.png \"a red apple and a heart\"
  attnmap trace photo.jpg \"a dog on a sofa\" --model stable-diffusion-v1-5/stable-diffusion-v1-5
  attnmap trace photo.jpg \"a dog on a sofa\" --words dog --masks
  attnmap trace photo.jpg \"a dog on a sofa\" --expect \"dog@left, no cat\"
  attnmap trace ./pictures --by tag --out outputs/coverage
  attnmap ask last --at 40,90

Caption, negative prompt, seed and settings come from the metadata that attnmap, AUTOMATIC1111's web UI, Forge,
ComfyUI or InvokeAI wrote into the picture. What was taken and what was not is said; what is given here comes
first. The maps depend on the caption and the seed; the rest is recorded in run.json.
A folder with a .txt file beside each picture (or a list: .txt with a path a line, .csv or .jsonl with file_name
and text) becomes a gallery with a table: which caption words have a place, where, how often. The same command goes
on where it was interrupted. --expect judges every picture whose caption has the words; --masks and --outline
write the files of each.
The picture is turned upright, resized, encoded, noised to each level and shown to the denoiser once with
the caption; nothing is drawn. Low levels leave the picture clear and the caption little to say, high levels leave
little of the picture. There is no unconditional half: guidance would not change what the caption's words attend
to. The run's image.png is the picture as it was shown, and view, ask, facts, report, compare, animate and
explain work on it.";

impl TraceArgs {
    /// Whether many captioned pictures are given and not one.
    pub fn is_many(&self) -> bool {
        is_many(&self.image)
    }
}

/// Runs the command for one picture.
pub fn run(args: &TraceArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let typed = args.caption.as_deref().or(args.caption_option.as_deref());
    if typed.is_some_and(|caption| caption.trim().is_empty()) {
        return Err(Error::input("CAPTION", "the caption is empty; say what the picture shows").into());
    }
    let mut aggregate = args.maps.aggregate()?;
    let display = args.display.display()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    let regions = args.regions.chosen(display.threshold)?;
    let (given, warning) = picture::read_opaque(&args.image, IMAGE)?;
    warning.iter().for_each(print::warn);
    let mut taken = args.take(typed, picture::read_metadata(&args.image, IMAGE)?)?;
    let caption = &*taken.caption;
    let name = format!("trace-{}", run::run_name(caption, taken.seed));
    let target = args.output.target(&name);
    target.room_for(&run::KIND, &["report.html"])?;
    let started = Instant::now();
    let texts = args.concepts.texts(caption, args.probe.texts());
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pipeline = args.model.load_for(&texts, args.size, terminal)?;
    let loading = started.elapsed().as_secs_f64();

    // What the program of the picture meant by brackets is nothing to a family that has none.
    let typed_syntax = args.syntax.syntax();
    if pipeline.family().flows() && taken.syntax != typed_syntax {
        let switches = taken.switches(args.syntax);
        print::note(format!("read without{switches} after all, as only Stable Diffusion 1, 2 and XL take it"));
        taken.syntax = typed_syntax;
    }
    if args.clip_skip.is_none() && pipeline.check_clip_skip(taken.clip_skip).is_err() {
        print::note(format!("read without --clip-skip {} after all, as this checkpoint cannot", taken.clip_skip));
        taken.clip_skip = 0;
    }
    let mut options = args.look(&taken);
    pipeline.check_look(&options)?;
    let size = match args.size {
        Some([height, width]) => Grid::new(height, width),
        None => pipeline.fit_picture(&given, IMAGE)?,
    };
    pipeline.check_size(size)?;
    let prompt = pipeline.prompt(caption, &pipeline.look_run(size, &options))?;
    let info = PromptInfo::from(&prompt);
    args.expect.check(&pipeline, &info.by(args.maps.by()), &options.probes)?;
    options.concepts = args.concepts.of(&pipeline, &prompt, &options.probes)?;
    aggregate = args.maps.of_concepts(aggregate, !options.concepts.is_empty());
    let run = pipeline.look_run(size, &options);
    let words = shown_words(&args.maps, &pipeline, &info.by(args.maps.by()), &options.probes)?;
    let goca = args.goca.check(&pipeline, &run, &aggregate)?;
    let factor = pipeline.vae_factor();
    // A choice of sites that the network does not have is found now and not after the last call.
    let latent = Grid::new(size.height / factor, size.width / factor);
    aggregate.choose(&pipeline.sites(size.height, size.width), latent)?;
    aggregate.check_encoder(&info)?;
    let mut warnings = warnings(&pipeline, &prompt, "", &options.probes)?;
    let texts: Vec<&str> = std::iter::once(caption).chain(options.probes.iter().map(String::as_str)).collect();
    warnings.extend(adapter_warnings(&pipeline, &texts, options.syntax)?);
    let choice = args.model.choice()?;
    let made = PlannedRun {
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
    let keep = RecordOptions { per_step: !args.output.no_step_maps, goca, ..RecordOptions::default() };
    let started = Instant::now();
    let bar = terminal.bar(options.levels.len() as u64, "levels");
    let trace = pipeline.trace_picture(&image, &prompt, &options, &keep, &mut || {
        bar.inc(1);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let trace = trace?;
    let things = args.expect.list().map(Expectations::looked_for);
    let sightings = things.map(|things| pipeline.look_for(&image, &things)).transpose()?;
    let looking = started.elapsed().as_secs_f64();
    let mut settings = pipeline.look_settings(&options, size);
    settings.picture = Some(args.image.display().to_string());
    if let Some(metadata) = &taken.metadata {
        settings.more.insert(METADATA_KEY.into(), serde_json::to_value(metadata)?);
    }
    let new = NewRun {
        kind: RunKind::Trace,
        pictures: Pictures {
            trace: &trace,
            image: &image,
            aggregate: &aggregate,
            display: &display,
            words: words.as_deref(),
        },
        by: args.maps.by(),
        settings,
        negative: taken.metadata.as_ref().and_then(|metadata| metadata.negative.clone()),
        command: again::command(caption, taken.seed, args.output.out.as_deref()) + &taken.options(args),
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
    listed(&folder);
    args.output.opened(&folder);
    match args.output.json {
        true => print::json(&record)?,
        false => print::stdout((summary(&folder, &record) + &expect::lines(&record.expectations)).as_bytes())?,
    }
    Unmet::of(&record.expectations)
}

/// What a look is made with of what the picture says and what was given.
struct Taken {
    caption: String,
    seed: u64,
    syntax: Syntax,
    clip_skip: usize,
    metadata: Option<Metadata>,
}

impl Taken {
    /// The switches of how the caption is read that nobody typed, as a command line needs them.
    fn switches(&self, typed: SyntaxArgs) -> String {
        let typed: Vec<&str> = typed.syntax().switches().collect();
        self.syntax.switches().filter(|name| !typed.contains(name)).map(|name| format!(" --{name}")).collect()
    }

    /// As [`switches`](Self::switches), with the number of layers that nobody typed.
    fn options(&self, typed: &TraceArgs) -> String {
        let mut options = self.switches(typed.syntax);
        if typed.clip_skip.is_none() && self.clip_skip > 0 {
            options += &format!(" --clip-skip {}", self.clip_skip);
        }
        options
    }
}

impl TraceArgs {
    /// The levels from the noisiest on, as a run goes.
    fn look(&self, taken: &Taken) -> LookOptions {
        let levels = self.sorted_levels();
        LookOptions {
            levels,
            seed: taken.seed,
            probes: self.probe.texts().to_vec(),
            syntax: taken.syntax,
            clip_skip: taken.clip_skip,
            ..LookOptions::default()
        }
    }

    /// The noise levels from the noisiest on.
    fn sorted_levels(&self) -> Vec<usize> {
        let mut levels = lists::once("--levels", self.levels.clone(), ToString::to_string);
        levels.sort_unstable_by(|a, b| b.cmp(a));
        levels
    }

    /// How each of many pictures is looked at.
    pub(super) fn look_at_each(&self) -> LookOptions {
        let seed = self.seed.unwrap_or(0);
        let (levels, syntax, clip_skip) = (self.sorted_levels(), self.syntax.syntax(), self.clip_skip.unwrap_or(0));
        LookOptions { levels, seed, syntax, clip_skip, ..LookOptions::default() }
    }

    /// Takes from `found`, the picture's metadata, what was not given, and says so.
    fn take(&self, typed: Option<&str>, found: Result<Option<Metadata>, String>) -> attnmap::Result<Taken> {
        let found = if self.no_metadata { Ok(None) } else { found };
        let (metadata, reason) = match found {
            Ok(metadata) => (metadata, None),
            Err(reason) => (None, Some(reason)),
        };
        let caption = match (typed, &metadata) {
            (Some(caption), _) => caption.to_owned(),
            (None, Some(metadata)) => metadata.prompt.clone(),
            (None, None) => return Err(self.no_caption(reason.as_deref())),
        };
        if let Some(reason) = reason {
            print::note(format!("nothing is taken from the picture's metadata: {reason}"));
        }
        let mut syntax = self.syntax.syntax();
        if let (None, Some(metadata)) = (typed, &metadata) {
            syntax.emphasis |= metadata.syntax.emphasis;
            syntax.long |= metadata.syntax.long;
        }
        let said = metadata.as_ref().filter(|_| typed.is_none()).and_then(|metadata| metadata.clip_skip);
        let clip_skip = self.clip_skip.or(said).unwrap_or(0);
        let seed = self.seed.or(metadata.as_ref().and_then(|metadata| metadata.seed)).unwrap_or(0);
        let taken = Taken { caption, seed, syntax, clip_skip, metadata };
        self.tell(typed, &taken);
        Ok(taken)
    }

    fn no_caption(&self, reason: Option<&str>) -> Error {
        let image = self.image.display();
        let reason = match reason {
            Some(reason) => reason,
            None if self.no_metadata => "no caption is given, and --no-metadata takes none from the picture",
            None => {
                "no caption is given, and the picture has no metadata that says one (that of attnmap, \
                AUTOMATIC1111, Forge, ComfyUI and \
                 InvokeAI is read)"
            }
        };
        Error::input(
            "CAPTION",
            format!("{image}: {reason}; say what it shows: attnmap trace {image} \"a dog on a sofa\""),
        )
    }

    /// Says what was taken of the picture's metadata, what is recorded alone, and what could not be
    /// taken.
    fn tell(&self, typed: Option<&str>, taken: &Taken) {
        let Some(metadata) = &taken.metadata else { return };
        let mut used = Vec::new();
        if typed.is_none() {
            used.push(format!("the caption {}", in_quotes(&metadata.prompt)));
            let options = taken.options(self);
            used.extend((!options.is_empty()).then(|| format!("read with{options}")));
        }
        used.extend(metadata.seed.filter(|_| self.seed.is_none()).map(|seed| format!("seed {seed}")));
        if used.is_empty() {
            used.push("nothing, as caption and seed are given".into());
        }
        print::note(format!("from the picture's metadata, written by {}: {}", metadata.program, used.join(", ")));
        let recorded = metadata.settings();
        if !recorded.is_empty() {
            print::note(format!("recorded in run.json, without effect on the maps: {}", recorded.join(", ")));
        }
        if !metadata.not_taken.is_empty() {
            print::note(format!("not taken: {}", metadata.not_taken.join("; ")));
        }
    }
}
