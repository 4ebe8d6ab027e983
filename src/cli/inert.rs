//! Options that have no effect in the combination given: which, when, and what is said of it, for
//! all commands.
//!
//! What a user typed is known by [`TypedArguments`]. An [`InertRule`] says of one option when it
//! does nothing.
//! Every rule is tried before a command begins ([`at_once`]), or where it makes runs once the
//! checkpoint is loaded ([`in_run`]). Each says so once.

use std::collections::BTreeSet;

use attnmap::heatmap::{Aggregate, Measure, SiteFilter};
use attnmap::pipeline::{CheckpointChoice, Options, Pipeline};
use attnmap::prompt::Prompt;
use attnmap::render::Display;
use attnmap::trace::{PromptInfo, WordInfo, normalized};
use clap::ArgMatches;
use clap::parser::ValueSource;

/// The options that were typed, by their long names, and the positional arguments by theirs.
#[derive(Debug, Clone, Default)]
pub struct TypedArguments {
    command: String,
    options: BTreeSet<String>,
}

impl TypedArguments {
    /// What `matches` of `command` holds that the user typed.
    pub fn new(command: &clap::Command, matches: &ArgMatches) -> Self {
        let Some((name, matches)) = matches.subcommand() else { return Self::default() };
        let Some(command) = command.find_subcommand(name) else { return Self::default() };
        let typed = |arg: &&clap::Arg| {
            let id = arg.get_id().as_str();
            matches.try_contains_id(id).unwrap_or(false) && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        let name_of = |arg: &clap::Arg| arg.get_long().map_or_else(|| arg.get_id().to_string(), str::to_owned);
        Self { command: name.to_owned(), options: command.get_arguments().filter(typed).map(name_of).collect() }
    }

    /// Whether the option of this long name was typed.
    pub fn has(&self, option: &str) -> bool {
        self.options.contains(option)
    }
}

/// What a run is about to be made of.
#[derive(Clone, Copy)]
pub struct PlannedRun<'a> {
    /// The loaded checkpoint.
    pub pipeline: &'a Pipeline,
    /// The checkpoint as it was chosen.
    pub choice: &'a CheckpointChoice,
    /// The run's options; of a look at a picture, those of its calls.
    pub options: &'a Options,
    /// The prompt.
    pub prompt: &'a Prompt,
    /// The words that are shown, where some are chosen.
    pub words: Option<&'a [WordInfo]>,
    /// The maps.
    pub aggregate: &'a Aggregate,
}

/// What decides whether an option does anything.
struct OptionScene<'a> {
    given: &'a TypedArguments,
    display: Option<&'a Display>,
    made: Option<PlannedRun<'a>>,
    keep_steps: Option<u32>,
}

/// When one option does nothing.
struct InertRule {
    /// Its long name.
    option: &'static str,
    /// Why it has no effect, and the way out; `None` where it has one, or where it cannot be told
    /// yet.
    inert: fn(&OptionScene) -> Option<String>,
}

const RULES: &[InertRule] = &[
    InertRule { option: "negative", inert: |scene| no_unconditional_half(scene, "to steer away from") },
    InertRule { option: "trace-negative", inert: |scene| no_unconditional_half(scene, "to record") },
    InertRule { option: "spacing", inert: same_timesteps },
    InertRule { option: "prediction", inert: same_prediction },
    InertRule { option: "lora", inert: no_weight },
    InertRule { option: "seed", inert: no_noise },
    InertRule { option: "images", inert: no_noise },
    InertRule { option: "keep-steps", inert: too_few_calls },
    InertRule { option: "probe", inert: probes_of_the_prompt },
    InertRule { option: "words", inert: |scene| named_otherwise(scene).or_else(|| every_word(scene)) },
    InertRule { option: "layers", inert: |scene| every_site(scene, |filter| matches!(filter, SiteFilter::Layers(_))) },
    InertRule {
        option: "resolution",
        inert: |scene| every_site(scene, |filter| matches!(filter, SiteFilter::Resolutions(_))),
    },
    InertRule { option: "heads", inert: every_head },
    InertRule { option: "steps-window", inert: every_step },
    InertRule { option: "opacity", inert: drawn_without_opacity },
    InertRule { option: "colormap", inert: drawn_without_colours },
    InertRule { option: "scale", inert: one_scale_a_grid },
    InertRule { option: "overlay-size", inert: larger_already },
    InertRule { option: "budget", inert: sets_of_words },
    InertRule { option: "keep-goca", inert: kept_already },
    InertRule { option: "self-memory", inert: bounds_nothing },
];

/// Options that `gallery --index`, which makes nothing, still heeds.
const OF_AN_INDEX: [&str; 8] = ["index", "pack", "sheet", "force", "open", "json", "quiet", "threads"];

/// Options of `models` that say which checkpoint is described.
const OF_A_NAME: [&str; 5] = ["variant", "config", "prediction", "lora", "embedding"];

/// Options that say which checkpoint is used.
const OF_A_CHECKPOINT: [&str; 9] =
    ["model", "variant", "config", "prediction", "lora", "embedding", "dtype", "device", "ignore-memory"];

/// The commands that need a checkpoint for some of their options alone, with what those say.
const SELDOM: [(&str, &[&str], &str); 2] = [
    ("ask", &["cause", "versus"], "it goes with --cause and --versus"),
    ("facts", &["expect"], "it goes with --expect \"no THING\""),
];

/// What to say before the command begins.
pub fn at_once(given: &TypedArguments, display: Option<&Display>) -> Vec<String> {
    if given.command == "gallery" && given.has("index") {
        return alone(given, &OF_AN_INDEX, "--index makes no cell; leave it out");
    }
    if given.command == "models" && !given.has("name") {
        let inert = OF_A_NAME.iter().filter(|option| given.has(option));
        return inert
            .map(|option| say(option, "it belongs to one checkpoint; name that: attnmap models NAME"))
            .collect();
    }
    let seldom = SELDOM
        .iter()
        .find(|(command, options, _)| given.command == *command && !options.iter().any(|option| given.has(option)));
    if let Some((_, _, way_out)) = seldom {
        let inert = OF_A_CHECKPOINT.iter().filter(|option| given.has(option));
        return inert.map(|option| say(option, &format!("no checkpoint is needed; {way_out}"))).collect();
    }
    told(&OptionScene { given, display, made: None, keep_steps: None })
}

/// That all options but those of `heeded` do nothing here, for `reason`.
pub fn alone(given: &TypedArguments, heeded: &[&str], reason: &str) -> Vec<String> {
    let inert = given.options.iter().filter(|option| !heeded.contains(&option.as_str()));
    inert.map(|option| say(option, reason)).collect()
}

/// What to say once it is known what a run is made of.
pub fn in_run(
    given: &TypedArguments,
    made: PlannedRun,
    display: Option<&Display>,
    keep_steps: Option<u32>,
) -> Vec<String> {
    told(&OptionScene { given, display, made: Some(made), keep_steps })
}

fn told(scene: &OptionScene) -> Vec<String> {
    let typed = RULES.iter().filter(|rule| scene.given.has(rule.option));
    typed.filter_map(|rule| Some(say(rule.option, &(rule.inert)(scene)?))).collect()
}

fn say(option: &str, reason: &str) -> String {
    format!("--{option} has no effect here: {reason}")
}

fn without(scene: &OptionScene, other: &str, what: &str) -> Option<String> {
    let alone = scene.made.is_none() && !scene.given.has(other);
    alone.then(|| format!("it {what}, which is not given"))
}

/// `why` has a budget of another kind.
fn sets_of_words(scene: &OptionScene) -> Option<String> {
    (scene.given.command == "explain").then(|| without(scene, "shapley", "limits --shapley")).flatten()
}

fn kept_already(scene: &OptionScene) -> Option<String> {
    let goca = scene.made?.aggregate.measure == Measure::Goca;
    goca.then(|| "--aggregate goca keeps the same itself; leave it out".into())
}

fn bounds_nothing(scene: &OptionScene) -> Option<String> {
    let PlannedRun { aggregate, .. } = scene.made?;
    let kept = ["self-attention", "keep-goca"].iter().any(|option| scene.given.has(option));
    let nothing = !kept && aggregate.measure != Measure::Goca;
    nothing
        .then(|| "it bounds what --self-attention and --keep-goca keep, and none of them is given; leave it out".into())
}

fn no_unconditional_half(scene: &OptionScene, what: &str) -> Option<String> {
    let PlannedRun { pipeline, options, .. } = scene.made?;
    if pipeline.guided(options) {
        return None;
    }
    Some(if pipeline.embeds_guidance() {
        format!(
            "this checkpoint takes the guidance as an input, so that there is no unconditional half {what}; leave \
            it out"
        )
    } else {
        let scale = options.guidance_scale;
        let whose = if scene.given.has("guidance") { "" } else { ", the checkpoint's own," };
        let none = pipeline.no_guidance();
        format!(
            "guidance is off ({scale}{whose} is not above {none}), so that there is no unconditional half {what}; \
             raise --guidance"
        )
    })
}

fn same_timesteps(scene: &OptionScene) -> Option<String> {
    let PlannedRun { pipeline, options, .. } = scene.made?;
    let spacing = options.spacing?;
    let without = Options { spacing: None, ..options.clone() };
    let same = pipeline.timesteps(options).ok()? == pipeline.timesteps(&without).ok()?;
    let sampler = pipeline.sampler_kind(options).ok()?;
    same.then(|| format!("{sampler} takes the same timesteps without {}; leave it out", spacing.name()))
}

fn same_prediction(scene: &OptionScene) -> Option<String> {
    let PlannedRun { choice, .. } = scene.made?;
    let asked = choice.changes.prediction.as_deref()?;
    let mut own = choice.clone();
    own.changes.prediction = None;
    let own = own.open(None).ok()?.scheduler.prediction_type;
    (own.as_deref().unwrap_or("epsilon") == asked).then(|| "the checkpoint says the same itself; leave it out".into())
}

fn no_weight(scene: &OptionScene) -> Option<String> {
    let loras = &scene.made?.choice.changes.loras;
    let none = loras.iter().find(|lora| lora.weight == 0.0)?;
    Some(format!("the weight of {} is 0; give another weight, or leave it out", none.file.display()))
}

/// Given latents and a sampler that draws nothing leave nothing for a seed to decide.
fn no_noise(scene: &OptionScene) -> Option<String> {
    let PlannedRun { pipeline, options, .. } = scene.made?;
    let sampler = pipeline.sampler_kind(options).ok()?;
    let drawn = options.latents.is_none() || options.init.is_some() || sampler.draws_noise();
    (!drawn).then(|| {
        format!("--latents is the noise, and {sampler} draws none of its own, so that every seed gives the same image")
    })
}

fn too_few_calls(scene: &OptionScene) -> Option<String> {
    let PlannedRun { pipeline, options, .. } = scene.made?;
    let (every, calls) = (scene.keep_steps?, pipeline.timesteps(options).ok()?.len());
    (every as usize > calls)
        .then(|| format!("the run has {calls} steps, so that none is the {every}th; give a smaller number"))
}

fn probes_of_the_prompt(scene: &OptionScene) -> Option<String> {
    let PlannedRun { options, prompt, .. } = scene.made?;
    let info = PromptInfo::from(prompt);
    let there: Vec<&str> =
        options.probes.iter().map(String::as_str).filter(|probe| info.select(probe).is_ok()).collect();
    let all = there.len() == options.probes.len() && !there.is_empty();
    all.then(|| {
        format!(
            "the prompt has {} itself, and maps it; a probe is a word that the prompt does not have",
            there.join(", ")
        )
    })
}

/// `ask` is about the words of `--versus` alone, where that is given.
fn named_otherwise(scene: &OptionScene) -> Option<String> {
    let named = scene.made.is_none() && scene.given.command == "ask" && scene.given.has("versus");
    named.then(|| "--versus names the words; leave it out".into())
}

fn every_word(scene: &OptionScene) -> Option<String> {
    let PlannedRun { prompt, words, .. } = scene.made?;
    let shown: Vec<String> = words?.iter().map(|word| normalized(&word.text)).collect();
    let all: Vec<String> = prompt.default_words().iter().map(|word| normalized(&word.text)).collect();
    (shown == all).then(|| "it names every word of the prompt, which all are shown without it".into())
}

fn every_site(scene: &OptionScene, is_own: fn(&SiteFilter) -> bool) -> Option<String> {
    let PlannedRun { pipeline, options, aggregate, .. } = scene.made?;
    let (sites, latent) = (pipeline.sites(options.height, options.width), pipeline.latent_grid(options));
    let mut wider = aggregate.clone();
    wider.sites.retain(|filter| !is_own(filter));
    let same = aggregate.choose(&sites, latent).ok()? == wider.choose(&sites, latent).ok()?;
    same.then(|| format!("it leaves out no layer of those that --aggregate {} takes", wider.name))
}

fn every_head(scene: &OptionScene) -> Option<String> {
    let PlannedRun { pipeline, options, aggregate, .. } = scene.made?;
    let (sites, latent) = (pipeline.sites(options.height, options.width), pipeline.latent_grid(options));
    let heads = aggregate.heads.as_ref()?;
    let taken = aggregate.choose(&sites, latent).ok()?;
    let all = taken.iter().all(|&site| (0..sites[site].heads).all(|head| heads.contains(head)));
    all.then(|| "it names every head, which all are taken without it".into())
}

fn every_step(scene: &OptionScene) -> Option<String> {
    let PlannedRun { pipeline, options, aggregate, .. } = scene.made?;
    let calls = pipeline.timesteps(options).ok()?.len();
    let window = aggregate.steps.as_ref()?.resolve(calls).ok()?;
    (window == (0..calls)).then(|| "it names every step, which all are taken without it".into())
}

fn drawn_without_opacity(scene: &OptionScene) -> Option<String> {
    let display = scene.display.filter(|_| scene.made.is_none())?;
    display.style.without_opacity().map(|instead| format!("--style {} {instead}", display.style.name()))
}

fn drawn_without_colours(scene: &OptionScene) -> Option<String> {
    let display = scene.display.filter(|_| scene.made.is_none())?;
    display.style.without_palette().map(|instead| format!("--style {} {instead}", display.style.name()))
}

fn one_scale_a_grid(scene: &OptionScene) -> Option<String> {
    (scene.given.command == "self-attention").then(|| "each resolution of self-attention has its own scale".into())
}

fn larger_already(scene: &OptionScene) -> Option<String> {
    let (PlannedRun { options, .. }, display) = (scene.made?, scene.display?);
    let short = options.width.min(options.height);
    (short >= display.overlay_size)
        .then(|| format!("the image's short side has {short} pixels, and overlays are never smaller"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options that always do something, or say how a prompt is read or what is allowed whatever
    /// comes, with the reason.
    const ALWAYS: &[(&str, &str)] = &[
        ("prompt", "is what the run is of"),
        ("prompt-file", "is what the run is of"),
        ("guidance", "decides whether there is guidance, too"),
        ("size", "is the image's"),
        ("scheduler", "names what the checkpoint may name itself"),
        ("clip-skip", "is refused where there is no CLIP"),
        ("original-size", "is refused where it would do nothing"),
        ("crop", "is refused where it would do nothing"),
        ("steps", "is the run's"),
        ("emphasis", "says how the prompt is read, whatever it has"),
        ("long", "says how the prompt is read, however long it is"),
        ("latents", "is the run's first sample"),
        ("self-attention", "is refused where there is none"),
        ("concepts", "is refused where there are none"),
        ("text-queries", "is refused where there are none"),
        ("queries", "may name what is usual"),
        ("encoder", "is refused where there is one reading"),
        ("keep-queries", "is refused where there are none"),
        ("query-memory", "needs --keep-queries"),
        ("init", "is where the run begins"),
        ("mask", "needs --init"),
        ("strength", "needs --init"),
        ("model", "is the checkpoint"),
        ("variant", "is refused where it would do nothing"),
        ("config", "is refused where it would do nothing"),
        ("embedding", "adds a word to the vocabulary"),
        ("dtype", "may name what is usual"),
        ("device", "may name what is usual"),
        ("ignore-memory", "allows"),
        ("aggregate", "may name what is usual"),
        ("by", "may name what is usual"),
        ("no-metadata", "allows nothing to be taken"),
        ("style", "is how overlays are drawn"),
        ("threshold", "decides areas and boxes in run.json, too"),
        ("out", "is where results go"),
        ("force", "allows"),
        ("no-step-maps", "is what is kept"),
        ("json", "is how facts are printed"),
        ("open", "shows the page"),
        ("levels", "is what the picture is noised to"),
        ("seeds", "are the images"),
        ("without", "is a cell each"),
        ("replace", "is refused where no prompt has the word"),
        ("batch", "limits"),
        ("pack", "is the gallery for others"),
        ("sheet", "is the gallery as a picture"),
        ("shard", "is a part of the cells"),
        ("index", "makes the page alone"),
        ("cut", "is how words are taken out"),
        ("test-steps", "limits"),
        ("caption", "is what the picture is said to show"),
        ("counterfactual", "is an image a word"),
        ("no-counterfactual", "keeps images from being drawn"),
        ("weight", "is an image a weight"),
        ("sanity", "is a check"),
        ("shapley", "is a share a word"),
        ("expect", "is a judgement"),
        ("masks", "are files"),
        ("outline", "is a file"),
        ("otsu", "is refused where it would do nothing"),
        ("threads", "is for every command"),
        ("quiet", "is for every command"),
        ("help", "is for every command"),
    ];

    #[test]
    fn every_option_of_the_commands_that_make_runs_is_known_here() {
        let command = super::super::command();
        for name in ["generate", "trace", "gallery", "sweep", "explain"] {
            let command = command.find_subcommand(name).unwrap();
            for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                let ruled = RULES.iter().filter(|rule| rule.option == option).count();
                let always = ALWAYS.iter().filter(|(always, _)| *always == option).count();
                assert_eq!(ruled + always, 1, "{name} --{option}: say when it has no effect, or why it always has one");
            }
        }
    }

    fn at_once_of(arguments: &[&str]) -> Vec<String> {
        let command = super::super::command();
        let matches = command.clone().try_get_matches_from([&["attnmap"], arguments].concat()).unwrap();
        let style = arguments.iter().position(|word| *word == "--style").map(|at| arguments[at + 1].parse().unwrap());
        let display = Display { style: style.unwrap_or_default(), ..Display::default() };
        at_once(&TypedArguments::new(&command, &matches), Some(&display))
    }

    #[test]
    fn what_the_command_line_alone_decides_is_said_once() {
        for (arguments, options) in [
            (&["explain", "run", "--budget", "9"][..], &["--budget"][..]),
            (&["explain", "run", "--budget", "9", "--shapley"], &[]),
            (&["generate", "x", "--style", "contour", "--opacity", "0.5"], &["--opacity"]),
            (&["generate", "x", "--style", "mask", "--opacity", "0.5"], &[]),
            (&["view", "run", "--style", "spotlight", "--colormap", "turbo"], &["--colormap"]),
            (&["view", "run", "--colormap", "turbo"], &[]),
            (&["gallery", "--index", "g", "--seeds", "0..3", "--steps", "4", "--json"], &["--seeds", "--steps"]),
            (&["models", "--variant", "fp16"], &["--variant"]),
            (&["models", "embedded", "--lora", "x.safetensors"], &[]),
            (&["self-attention", "run", "--at", "1,1", "--scale", "word"], &["--scale"]),
            (&["ask", "run", "--at", "1,1", "--model", "embedded"], &["--model"]),
            (&["ask", "run", "--at", "1,1", "--cause", "--model", "embedded"], &[]),
            (&["ask", "run", "--versus", "red,green", "--words", "beach"], &["--words"]),
            (&["ask", "run", "--at", "1,1", "--words", "beach"], &[]),
        ] {
            let told = at_once_of(arguments);
            let said: Vec<&str> = told.iter().map(|line| line.split(' ').next().unwrap()).collect();
            assert_eq!(said, options, "{arguments:?}: {told:?}");
        }
    }
}
