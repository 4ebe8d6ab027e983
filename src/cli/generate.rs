//! `attnmap generate`: a prompt in, an image and a heat map for every word out.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use attnmap::heatmap::Resolution;
use attnmap::pipeline::{Event, Keep, Options, Pipeline, Timings, Traced};
use attnmap::prompt::Prompt;
use attnmap::report;
use attnmap::run::{self, NewRun, Pictures, RunKind, RunRecord};
use attnmap::scheduler::{SchedulerKind, Spacing};
use attnmap::trace::{Grid, PromptInfo, Site, WordInfo, probe_words};
use attnmap::{Error, Result};
use candle_core::{Device, Tensor};
use clap::Args;
use image::RgbImage;

use super::checkpoint::ModelArgs;
use super::display::{DisplayArgs, MapArgs};
use super::init::{Given, InitArgs};
use super::print::{self, Terminal};
use super::prompt::{PromptArgs, SyntaxArgs};

/// Generate images from a prompt and map every word's attention
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArgs {
    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    image: ImageArgs,

    #[command(flatten)]
    init: InitArgs,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    display: DisplayArgs,

    /// Where the run goes [default: outputs/<prompt>-<seed>]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Replace an existing run
    #[arg(long)]
    force: bool,

    /// Record the unconditional half too, so that the negative prompt's words have maps (`view --half unconditional`)
    #[arg(long)]
    trace_negative: bool,

    /// Ask the same layers about words that the image is not made with, separated by commas; the image stays the same to the bit
    #[arg(long, value_name = "WORDS", value_parser = parse_probes)]
    probe: Option<Probes>,

    /// Keep the self-attention too, for `ties`: all grids that fit the memory, or only these short sides or WxH, separated by commas
    #[arg(long, value_name = "SIZES", num_args = 0..=1, default_missing_value = "", require_equals = true)]
    self_attention: Option<String>,

    /// Memory that keeping self-attention may take while the run goes on
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = super::ties::parse_bytes, requires = "self_attention")]
    self_memory: u64,

    /// Keep no maps of single steps: a smaller trace, and no step windows or animations
    #[arg(long)]
    no_step_maps: bool,

    /// Keep the model's estimate of the image at every Nth step, as steps/NN.png; each costs one decoding
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    keep_steps: Option<u32>,

    /// Print the run's facts as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  attnmap generate \"a red apple to the left of a green frog on the beach\"
  attnmap generate \"a green frog and a red apple\" --words \"red apple,frog\" --style contour --seed 3 --images 4
  attnmap generate \"a monkey on a bicycle\" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --size 640x512
  attnmap generate \"a red apple on the beach\" --probe \"shadow,sand\"
  attnmap generate \"a green apple on the beach\" --init outputs/a-red-apple-on-the-beach-0/image.png --strength 0.7
  attnmap generate \"a red frog\" --init photo.png --mask white-where-the-frog-goes.png
  attnmap generate \"a (red:1.4) apple, [a frog]\" --emphasis
  attnmap generate --prompt-file scene.txt --long
  attnmap generate \"a monkey on a bicycle\" --model ./model.safetensors --lora ./style.safetensors:0.8
  attnmap generate \"a red apple on the beach\" --self-attention=16,32 --self-memory 512MiB

A probe's map is what the word would take of the prompt's attention if it stood there too; the word itself has no influence. It says what
the model ties a place to, not that it drew the thing: some layers give a share to any word.

Emphasis is asked for, since brackets are text to diffusers and to the model's training: ( ) and ((cat)) multiply a word's weight by 1.1
each, [cat] divides it by 1.1, (cat:1.3) multiplies it by 1.3, \\( and \\[ are brackets. The weight multiplies what the text encoder says
of the word's tokens; the mean over all tokens is then restored. Both are as in AUTOMATIC1111's web UI.
--size is WIDTHxHEIGHT. The same seed gives the same image as diffusers with a CPU generator. A picture to start from is resized to
--size; without it the picture keeps its shape, at a size near the checkpoint's own.";

/// What the image is made with.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What the image should not show
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub negative: String,

    /// Denoising steps [default: the checkpoint's own; 50 for most, 4 for few-step models]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,

    /// Classifier-free guidance; 1 or less turns it off [default: the checkpoint's own; 7.5 for most, 5 for SDXL]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    pub guidance: Option<f64>,

    /// Seed of the noise; the same seed gives the same image as diffusers with a CPU generator
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// How many images: seeds seed, seed + 1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub images: u64,

    /// Image size in pixels, WIDTHxHEIGHT [default: the checkpoint's own, or near it in the shape of --init]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub size: Option<(usize, usize)>,

    /// Sampler: ddim, pndm, euler, euler-a, dpm++2m, dpm++2m-karras, ddpm or lcm [default: the checkpoint's own]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<SchedulerKind>,

    /// How the timesteps are spread: leading, trailing or linspace; few-step models are made for trailing [default: the checkpoint's own]
    #[arg(long, value_name = "NAME")]
    pub spacing: Option<Spacing>,

    /// SDXL: the size that the image is said to have had before it was scaled, WIDTHxHEIGHT [default: its own]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub original_size: Option<(usize, usize)>,

    /// SDXL: left and top of the crop that the image is said to be; 0,0 puts the object in the middle
    #[arg(long, value_name = "X,Y", default_value = "0,0", hide_default_value = true, value_parser = parse_point)]
    pub crop: (usize, usize),

    /// Start from the tensor `latents` of this safetensors file (standard normal, [1, 4, height / 8, width / 8])
    #[arg(long, value_name = "FILE")]
    pub latents: Option<PathBuf>,
}

/// The words after `--probe`, each once.
#[derive(Debug, Clone)]
pub struct Probes(pub Vec<String>);

pub fn parse_probes(text: &str) -> Result<Probes, String> {
    let mut probes: Vec<String> = Vec::new();
    for probe in text.split(',').map(str::trim).filter(|probe| !probe.is_empty()) {
        if !probes.iter().any(|known| known.to_lowercase() == probe.to_lowercase()) {
            probes.push(probe.to_owned());
        }
    }
    if probes.is_empty() {
        return Err("it names no word; give words or phrases separated by commas, like \"shadow,tail\"".into());
    }
    Ok(Probes(probes))
}

/// Reads WIDTHxHEIGHT.
pub fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let (width, height) = text.split_once(['x', 'X']).ok_or("write WIDTHxHEIGHT, e.g. 512x512")?;
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| "write WIDTHxHEIGHT, e.g. 512x512".to_owned());
    Ok((number(width)?, number(height)?))
}

fn parse_point(text: &str) -> Result<(usize, usize), String> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let point = text.split_once(',').and_then(|(x, y)| number(x).zip(number(y)));
    point.ok_or_else(|| "write X,Y in pixels, e.g. 0,128".to_owned())
}

impl ImageArgs {
    /// The options of one run with one seed after another, each setting out from the picture that was given.
    fn options(
        &self,
        pipeline: &Pipeline,
        syntax: SyntaxArgs,
        probes: &[String],
        given: Option<&Given>,
    ) -> Result<Vec<Options>> {
        let defaults = pipeline.default_options();
        let (width, height) = match (self.size, given) {
            (Some(size), _) => size,
            (None, Some(given)) => given.size(pipeline).map(|size| (size.width, size.height))?,
            (None, None) => (defaults.width, defaults.height),
        };
        let latents = self.latents.as_deref().map(read_latents).transpose()?;
        let one = |index: u64| -> Result<Options> {
            let seed = self.seed.checked_add(index);
            let seed = seed.ok_or_else(|| Error::option("--seed", "seed + images is past the largest seed"))?;
            pipeline.check_size(Grid::new(height, width))?;
            let mut options = Options {
                negative: self.negative.clone(),
                syntax: syntax.syntax(),
                steps: self.steps.unwrap_or(defaults.steps),
                guidance_scale: self.guidance.unwrap_or(defaults.guidance_scale),
                seeds: vec![seed],
                height,
                width,
                scheduler: self.scheduler,
                probes: probes.to_vec(),
                spacing: self.spacing,
                original_size: self.original_size.map(|(width, height)| [height, width]),
                crop: [self.crop.1, self.crop.0],
                latents: latents.clone(),
                init: None,
                value_weights: None,
            };
            options.init = given.map(|given| given.init(&options));
            pipeline.check(&options)?;
            Ok(options)
        };
        (0..self.images).map(one).collect()
    }
}

/// The tensor `latents` of a safetensors file, with or without the leading dimension of 1.
fn read_latents(path: &Path) -> Result<Tensor> {
    let refuse = |reason: String| Error::option("--latents", format!("{}: {reason}", path.display()));
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).map_err(|error| {
        let cause = if path.is_file() { format!("not a safetensors file ({error})") } else { "no such file".into() };
        refuse(cause)
    })?;
    let latents = tensors.get("latents").ok_or_else(|| refuse("it has no tensor named `latents`".into()))?;
    Ok(if latents.rank() == 3 { latents.unsqueeze(0)? } else { latents.clone() })
}

/// Runs the command: checks everything that can be checked before work is done, then makes one run folder an image.
pub fn run(args: &GenerateArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let text = args.prompt.text()?;
    let aggregate = args.maps.aggregate()?;
    let display = args.display.display()?;
    let given = args.init.read()?;
    let started = Instant::now();
    let pipeline = args.model.load(args.image.size, terminal)?;
    let loading = started.elapsed().as_secs_f64();

    let asked = args.probe.as_ref().map_or(&[][..], |probes| &probes.0);
    let runs = args.image.options(&pipeline, args.prompt.syntax, asked, given.as_ref())?;
    let prompt = pipeline.prompt(&text, &runs[0])?;
    let info = PromptInfo::from(&prompt);
    let words = shown_words(&args.maps, &pipeline, &info, asked)?;
    let targets: Vec<_> = runs.iter().map(|options| args.target(&text, options.seeds[0])).collect();
    for target in &targets {
        run::check_target(target, args.force)?;
    }
    // A choice of sites that the network does not have is found now and not after the last step.
    let latent = pipeline.latent_grid(&runs[0]);
    aggregate.choose(&pipeline.sites(runs[0].height, runs[0].width), latent)?;
    let warnings = warnings(&pipeline, &prompt, asked)?;
    warnings.iter().for_each(print::warn);

    let keep = Keep {
        per_step: !args.no_step_maps,
        unconditional: args.trace_negative,
        ties: args.ties(&pipeline, &runs[0], terminal)?,
    };
    let mut records = Vec::with_capacity(runs.len());
    for (options, target) in runs.iter().zip(&targets) {
        let mut estimates = Vec::new();
        let (traced, timings) = denoise(
            &pipeline,
            &prompt,
            options,
            &keep,
            args.keep_steps.map(|every| (every, &mut estimates)),
            terminal,
        )?;
        let Traced { generation, trace } = &traced[0];
        let timings = BTreeMap::from([
            ("load".to_owned(), loading),
            ("encode".to_owned(), timings.encode),
            ("steps".to_owned(), timings.steps),
            ("decode".to_owned(), timings.decode),
        ]);
        let new = NewRun {
            kind: RunKind::Generate,
            pictures: Pictures {
                trace,
                image: &generation.image,
                aggregate: &aggregate,
                display: &display,
                words: words.as_deref(),
            },
            settings: pipeline.settings(options, generation.seed),
            negative: Some(options.negative.clone()).filter(|negative| !negative.is_empty()),
            command: command(&text, generation.seed),
            cut_off: prompt.cut_off.clone(),
            warnings: warnings.clone(),
            timings,
        };
        let spinner = terminal.spinner("drawing");
        let (folder, record) = run::write_run(target, args.force, &new, |folder, _| {
            run::save_steps(folder, &estimates)?;
            options.init.iter().try_for_each(|init| init.save(folder))?;
            report::write_as(folder, target).map(drop)
        })?;
        spinner.finish_and_clear();
        if !args.json {
            print::stdout(summary(&folder, &record).as_bytes())?;
        }
        records.push(record);
    }
    match (args.json, records.as_slice()) {
        (true, [record]) => print::json(record),
        (true, records) => print::json(&records),
        (false, _) => Ok(()),
    }
}

impl GenerateArgs {
    /// The self-attention sites to keep, said on stderr with the memory that they take.
    fn ties(&self, pipeline: &Pipeline, options: &Options, terminal: &Terminal) -> Result<Vec<Site>> {
        let Some(sizes) = &self.self_attention else { return Ok(Vec::new()) };
        let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
        let size = |size: &str| {
            let reason = || format!("{size:?} is no size; write the short side of a grid, like 16, or WxH, like 24x16");
            size.parse::<Resolution>().map_err(|_| Error::option("--self-attention", reason()))
        };
        let sizes: Vec<Resolution> = sizes.map(size).collect::<Result<_>>()?;
        let wanted = |site: &Site| sizes.iter().any(|size| size.matches(site));
        let wanted = (!sizes.is_empty()).then_some(&wanted as &dyn Fn(&Site) -> bool);
        let plan = pipeline.plan_ties(options, wanted, self.self_memory)?;
        if !terminal.quiet {
            eprintln!("attnmap: {}", plan.describe());
        }
        Ok(plan.sites)
    }

    /// The run folder of one seed. With several images `--out` is the folder that they go into.
    fn target(&self, prompt: &str, seed: u64) -> PathBuf {
        let name = run::run_name(prompt, seed);
        match &self.out {
            None => Path::new("outputs").join(name),
            Some(out) if self.image.images > 1 => out.join(name),
            Some(out) => out.clone(),
        }
    }
}

/// The command line that makes the run of `seed` again: the one that was typed, with this seed alone, and with the prompt in place of
/// the file that it came from.
pub fn command(prompt: &str, seed: u64) -> String {
    let mut words = vec!["attnmap".to_owned()];
    let mut typed = std::env::args().skip(1);
    while let Some(word) = typed.next() {
        match word.as_str() {
            "--seed" | "--images" => drop(typed.next()),
            "--prompt-file" => {
                drop(typed.next());
                words.push(run::quoted(prompt));
            }
            other if other.starts_with("--prompt-file=") => words.push(run::quoted(prompt)),
            "--json" | "--force" | "--quiet" | "-q" => {}
            other if other.starts_with("--seed=") || other.starts_with("--images=") => {}
            _ => words.push(run::quoted(&word)),
        }
    }
    words.extend(["--seed".to_owned(), seed.to_string()]);
    words.join(" ")
}

/// The chosen words of a prompt and the probes; `None` for all.
pub fn shown_words(
    maps: &MapArgs,
    pipeline: &Pipeline,
    prompt: &PromptInfo,
    probes: &[String],
) -> Result<Option<Vec<WordInfo>>> {
    let probes = probe_words(prompt, &pipeline.probe_infos(probes)?);
    let mut words = maps.words(prompt, &probes)?;
    if let Some(words) = &mut words {
        // Whoever asks about a word wants to see it, whatever else is shown.
        words.extend(probes.into_iter().filter(|probe| !words.contains(probe)).collect::<Vec<_>>());
    }
    Ok(words)
}

/// What the user should know before waiting: words that were cut off, words that the checkpoint does not know.
pub fn warnings(pipeline: &Pipeline, prompt: &Prompt, probes: &[String]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if !prompt.cut_off.is_empty() {
        let tokens = prompt.ids.len();
        let words = print::some_of(&prompt.cut_off);
        let hint = if prompt.syntax.long { "" } else { "; --long gives it a longer prompt in chunks" };
        warnings.push(format!("the prompt is longer than {tokens} tokens; the model does not see: {words}{hint}"));
    }
    let places = |prompt: &Prompt| prompt.tokens.iter().map(|token| token.range.clone()).collect::<Vec<_>>();
    if prompt.second.as_deref().is_some_and(|second| places(second) != places(prompt)) {
        warnings.push(
            "the second text encoder cuts this prompt in other places (`!` is its padding), so that one position holds two words; \
             maps are of the first encoder's tokens"
                .to_owned(),
        );
    }
    if let Some(vocabulary) = &pipeline.defaults().vocabulary {
        let mut unknown = prompt.unknown_words(vocabulary);
        for probe in probes {
            let more = pipeline.probe(probe)?.unknown_words(vocabulary);
            unknown.extend(more.iter().filter(|word| !unknown.contains(word)).cloned().collect::<Vec<_>>());
        }
        if !unknown.is_empty() {
            warnings.push(format!(
                "the default checkpoint is a demonstration model and never saw: {} (it knows: {}); for the whole world give \
                 --model stable-diffusion-v1-5/stable-diffusion-v1-5",
                print::some_of(&unknown),
                vocabulary.join(" "),
            ));
        }
    }
    Ok(warnings)
}

/// Runs the steps behind a progress bar; `estimates` is told every how many steps the image's estimate is kept, and where.
fn denoise(
    pipeline: &Pipeline,
    prompt: &Prompt,
    options: &Options,
    keep: &Keep,
    mut estimates: Option<(u32, &mut Vec<(usize, RgbImage)>)>,
    terminal: &Terminal,
) -> Result<(Vec<Traced>, Timings)> {
    let bar = terminal.bar(0, &format!("seed {}", options.seeds[0]));
    let mut failed = None;
    let done = pipeline.trace(prompt, options, keep.clone(), &mut |event| {
        match event {
            Event::Encoded { calls } => bar.set_length(calls as u64),
            Event::Stepped { step, denoised, .. } => {
                bar.inc(1);
                let kept = estimates.as_mut().filter(|(every, _)| (step.index + 1) % *every as usize == 0);
                if let Some((_, kept)) = kept {
                    match pipeline.decode(denoised) {
                        Ok(image) => kept.push((step.index, image)),
                        Err(error) => {
                            failed = Some(error);
                            return ControlFlow::Break(());
                        }
                    }
                }
            }
            Event::Decoded { .. } => {}
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    failed.map_or(done, Err)
}

/// The table of words and where the files are.
pub fn summary(folder: &Path, record: &RunRecord) -> String {
    let mut rows = vec![["word", "tokens", "attention", "peak", "at x, y"].map(str::to_owned).to_vec()];
    for word in record.words.iter().chain(&record.probes) {
        let info = &word.word;
        let label = if info.occurrence > 1 { format!("{}#{}", info.text, info.occurrence) } else { info.text.clone() };
        let layout = &word.layout;
        let at = layout.peak.map_or("-".to_owned(), |peak| format!("{:.2}, {:.2}", peak.x, peak.y));
        let peak = layout.peak.map_or("-".to_owned(), |peak| format!("{:.3}", peak.value));
        let share = format!("{:.1} %", 100.0 * layout.share);
        rows.push(vec![print::printable(&label), info.tokens.len().to_string(), share, peak, at]);
    }
    let rest = 1.0 - record.words.iter().map(|word| word.layout.share).sum::<f32>();
    let mut text = print::table(&rows);
    text += &format!(
        "The rest, {:.1} %, lies on the start and end tokens, padding and words not listed.\n\n",
        100.0 * rest
    );
    if !record.probes.is_empty() {
        text.truncate(text.trim_end().len());
        text += &format!("\n{}\n\n", print::PROBES);
    }
    let files = ["image.png", "words.png", "report.html"].map(|name| folder.join(name));
    for file in files.iter().filter(|file| file.is_file()) {
        text += &format!("{}\n", file.display());
    }
    text += &format!("{} (overlays, maps, trace, run.json)\n", folder.display());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_width_by_height() {
        assert_eq!(parse_size("640x512"), Ok((640, 512)));
        for wrong in ["", "640", "x", "640x", "-1x2", "axb", "1x2x3"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
