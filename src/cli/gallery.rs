//! `attnmap gallery`: prompts times seeds in one folder that opens in a browser.

use super::checkpoint::{LoadArgs, OwnArgs};
use super::display::{DisplayArgs, MapArgs};
use super::expect::{ExpectArgs, Unmet};
use super::gallery_progress::GalleryProgress;
use super::inert::{self, TypedArguments};
use super::init::InitAxes;
use super::lists;
use super::newest::OUTPUTS;
use super::open;
use super::print::{self, Terminal};
use super::prompt::{ConceptArgs, ProbeArgs, SyntaxArgs, missing_word, unread_syntax};
use super::sampling::AxesArgs;
use super::seed;
use super::signals;
use attnmap::Error;
use attnmap::argument::SHEET;
use attnmap::checkpoint::{Lora, Source};
use attnmap::files::{Form, Target, make_folder_of};
use attnmap::gallery::{
    Axes, Cell, GalleryEvent, LeftOut, Line, LiveIndex, Plan, Replacement, Shard, check_checkpoints, check_folder,
    continues, damaged_cells, fitting_batch, judge, make, pack, pack_place, parse_loras, read_lines, settle,
    write_index, write_sheet,
};
use attnmap::heatmap::{Aggregate, QuerySource};
use attnmap::pipeline::{CheckpointChoice, LoadOptions, Options, Pipeline};
use attnmap::plural;
use attnmap::prompt::{Syntax, WordWeights};
use attnmap::render::Display;
use attnmap::run::{self, Sampling};
use attnmap::trace::PromptInfo;
use clap::Args;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Make a gallery: the product of prompts, replaced and weighted words, sampling options, seeds,
/// checkpoints and LoRAs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GalleryArgs {
    /// A list of prompts: text (a prompt per line; # is a comment), .csv with a header, or .jsonl.
    /// Its columns: prompt, seeds, negative, steps, guidance, size, scheduler, spacing,
    /// clip_skip, original_size, crop, strength, emphasis, long
    #[arg(value_name = "PROMPTS")]
    prompts: Option<PathBuf>,

    /// A prompt, in place of a file or beside it; may be given several times
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,

    /// Seeds, e.g. 0..8 (8 left out), 0-7 (both ends included) or 1,5,9; each `random` draws one
    #[arg(long, value_name = "SEEDS", default_value = "0..4")]
    seeds: String,

    /// Also with this word replaced: apple=pear,lemon; may be given several times
    #[arg(long, value_name = "WORD=NEW,NEW")]
    replace: Vec<Replacement>,

    /// Also with this word emphasised, e.g. heart=0.5,1.5 or heart=0..2/5 (both ends included); may
    /// be given several times
    ///
    /// It is written (heart:0.5) and read as --emphasis does.
    #[arg(long, value_name = "WORD=W,W")]
    weight: Vec<WordWeights>,

    /// Also without each word that could be drawn, or with --by tag each tag: how much of the
    /// image changes
    #[arg(long, value_name = "EACH", value_parser = ["each"])]
    without: Option<String>,

    /// Checkpoints: `embedded`, a folder, a single file, or on the hub owner/name or
    /// owner/name/file.safetensors; may be given several times
    #[arg(long, short, value_name = "MODEL", default_value = "embedded")]
    model: Vec<String>,

    /// LoRAs to compare: none, FILE[:WEIGHT], or several of them with + between; may be given
    /// several times, each a cell of its own
    #[arg(long = "lora", value_name = "LORAS", value_parser = loras)]
    loras: Vec<Loras>,

    #[command(flatten)]
    syntax: SyntaxArgs,

    #[command(flatten)]
    sampling: AxesArgs,

    #[command(flatten)]
    expect: ExpectArgs,

    #[command(flatten)]
    probe: ProbeArgs,

    #[command(flatten)]
    concepts: ConceptArgs,

    /// Keep what the prompts' own tokens look at, in joint attention
    ///
    /// Stable Diffusion 3, FLUX.1 and Z-Image. It is seen with `view --queries text`, or everywhere
    /// with --queries text here.
    #[arg(long, help_heading = "What is kept", hide_short_help = true)]
    text_queries: bool,

    /// Record the unconditional half too, so that the negative prompt's words have maps
    #[arg(long, help_heading = "What is kept", hide_short_help = true)]
    trace_negative: bool,

    /// Keep the estimate of the image at every Nth step
    ///
    /// Unasked none is kept. The cells' pages show the image forming. Each estimate costs a
    /// decoding.
    #[arg(long, help_heading = "What is kept", value_name = "N", num_args = 0..=1)]
    #[arg(default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    keep_steps: Option<u32>,

    /// Seeds that go through the network together: faster, and more memory. Fixed once the gallery
    /// is begun [default: up to 4, as memory allows then]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), hide_short_help = true)]
    batch: Option<u16>,

    /// Make only this part, e.g. 2/8; all parts together are the gallery, on as many machines as
    /// see the folder
    #[arg(long, value_name = "I/N", hide_short_help = true)]
    shard: Option<Shard>,

    /// Make nothing, but index.html anew from the cells in this gallery's folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["prompts", "prompt", "shard", "out"], hide_short_help = true)]
    index: Option<PathBuf>,

    /// Pack the gallery for others, as a .zip file or a new folder. PROMPTS may be a gallery
    /// then, which is packed as it is
    #[arg(long, value_name = "FILE.zip|DIR", help_heading = "Sharing")]
    pack: Option<PathBuf>,

    /// Draw all images with captions as one PNG
    ///
    /// PROMPTS may be a gallery here, too.
    #[arg(long, value_name = "FILE.png", help_heading = "Sharing")]
    sheet: Option<PathBuf>,

    /// Replace what --pack and --sheet wrote before
    #[arg(long, help_heading = "Sharing", hide_short_help = true)]
    force: bool,

    /// The gallery's folder, where the same command goes on [default: outputs/<list or first
    /// prompt>-gallery, and counts up past others]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Open the page in the browser
    #[arg(long)]
    open: bool,

    /// Print what was made as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    init: InitAxes,

    #[command(flatten, next_help_heading = "All checkpoints")]
    own: OwnArgs,

    #[command(flatten)]
    load: LoadArgs,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    display: DisplayArgs,
}

/// LoRAs that are merged together.
#[derive(Debug, Clone)]
struct Loras(Vec<Lora>);

fn loras(text: &str) -> Result<Loras, String> {
    parse_loras(text).map(Loras).map_err(|_| "write none, FILE, FILE:WEIGHT or several of them with +".to_owned())
}

const EXAMPLES: &str = "\
Examples:
  attnmap gallery prompts.txt --seeds 0..8 --out night
  attnmap gallery --prompt \"a red apple and a heart\" --replace apple=cake,ball --seeds 0..4
  attnmap gallery prompts.csv --seeds 0..64 --shard 3/16 --out /shared/night
  attnmap gallery --prompt \"a red apple\" --guidance 3,5,8 --scheduler ddim,euler-a --seeds 0..2
  attnmap gallery --prompt \"a red apple and a heart\" --weight heart=0.6,1.4 --seeds 0..4
  attnmap gallery --prompt \"a red apple, on the beach\" --without each --by tag --seeds 0
  attnmap gallery --prompt \"a monkey\" --model ./model --lora none --lora style.safetensors:0.5
  attnmap gallery --prompt \"a red apple\" --model ./flux --concepts --seeds 0..4
  attnmap gallery --prompt \"an apple to the left of a heart\" --expect \"apple left of heart, no fox\"
  attnmap gallery --index /shared/night
  attnmap gallery night --pack night.zip --sheet night.png

Finished cells are kept when the command is run again. Exit code 1 when a cell could not be made; it is listed
on the page.";

/// Runs the command.
pub fn run(args: &GalleryArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let display = args.display.display()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    if let Some(folder) = &args.index {
        let cells = write_index(folder)?;
        return report(args, folder, json!({"cells": cells}), &plural(cells, "cell"));
    }
    if let Some(folder) = args.prompts.as_ref().filter(|folder| args.shares() && folder.is_dir()) {
        inert::alone(&terminal.given, &SHARING, "a gallery is shared as it is; leave it out")
            .iter()
            .for_each(print::warn);
        return report(args, folder, json!({}), "");
    }
    let axes = axes(args)?;
    let single = Plan::new(&axes, 1)?; // what cannot be multiplied is found before anything is written
    if let Some(expect) = args.expect.list() {
        let texts = |cell: &Cell| [cell.prompt.clone()].into_iter().chain(cell.probes.clone()).collect::<Vec<_>>();
        let texts: BTreeSet<String> = single.cells.iter().flat_map(texts).collect();
        expect.check_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let aggregate = args.maps.of_concepts(args.maps.aggregate()?, axes.concepts.is_some());
    if !matches!(args.maps.words(&PromptInfo::default(), &[]), Ok(None)) {
        return Err(
            Error::input("--words", "a gallery holds every word, to be chosen on its page; leave it out").into()
        );
    }
    if !args.maps.by().is_word() && args.without.is_none() {
        let reason =
            "a gallery's page is made by words; with --without each it says what is left out, else leave it out";
        return Err(Error::input("--by", reason).into());
    }
    let out = &folder(args, &single, (&aggregate, &display));
    check_folder(out)?;
    args.check_shares()?;
    own_settings(terminal, &axes.lines).iter().for_each(print::warn);
    let known = RefCell::new(BTreeSet::new());
    let open = |choice: &CheckpointChoice| {
        let checkpoint = choice.open(terminal.downloads())?;
        let new = |warning: &&String| known.borrow_mut().insert(String::clone(warning));
        checkpoint.warnings.iter().filter(new).for_each(print::warn);
        Ok(checkpoint)
    };
    for warning in texts(&single).into_iter().flat_map(|(syntax, texts)| unread_syntax(texts, syntax, true)) {
        print::warn(&warning);
        known.borrow_mut().insert(warning);
    }
    check_checkpoints(out, &single, &aggregate, &open)?;
    let batch = settle(out, args.batch.map(usize::from), (&aggregate, &display), || fitting_batch(&axes, &open))?;
    let plan = Plan { expect: args.expect.list().cloned(), ..Plan::new(&axes, batch)? };
    let (mut told, mut heard) = (GalleryProgress::new(terminal, &known), BTreeSet::new());
    let (done, place, planned) = (Arc::clone(&told.done), out.clone(), plan.cells.len());
    signals::say_at_end(move || done.last_words(&place, planned));
    let mut progress = |event: GalleryEvent| {
        if let GalleryEvent::Loaded(pipeline) = &event {
            let said = of_checkpoint(&terminal.given, pipeline, &plan);
            let new: Vec<String> = said.into_iter().filter(|line| heard.insert(line.clone())).collect();
            told.bar.suspend(|| new.iter().for_each(print::warn));
        }
        told.tell(&event);
        ControlFlow::Continue(())
    };
    let shard = args.shard.unwrap_or_default();
    let outcome = make(out, &plan, shard, (&aggregate, &display), &open, &mut progress);
    told.bar.finish_and_clear();
    let outcome = outcome?;
    let expected = judge(out, &plan, shard, &open)?;
    // What was judged changes what the page says.
    let mut index = LiveIndex::new(out, Some(plan.cells.len()));
    index.write()?;
    let mut line = format!("{} made, {} kept, {} failed", outcome.made, outcome.kept, outcome.failed);
    let mut facts = serde_json::to_value(outcome)?;
    if args.expect.list().is_some() {
        line += &format!("\n{expected}");
        facts["expected"] = serde_json::to_value(expected)?;
    }
    if args.without.is_some() {
        let left_out = index.left_out();
        for LeftOut { cell, without, changed, .. } in &left_out {
            let changed = changed.map_or_else(|| "-".into(), print::percent);
            line += &format!("\nwithout {}  {changed} of the image changes  {cell}", print::printable(without));
        }
        facts["without"] = serde_json::to_value(left_out)?;
    }
    report(args, out, facts, &line)?;
    if outcome.failed > 0 {
        anyhow::bail!(
            "{} could not be made; the page has why, and the same command tries again",
            plural(outcome.failed, "cell")
        );
    }
    Unmet::count(expected.unmet, expected.met + expected.unmet, "images", "as expected")
}

/// Options that a gallery is shared by.
const SHARING: [&str; 8] = ["PROMPTS", "prompts", "pack", "sheet", "force", "open", "json", "quiet"];

impl GalleryArgs {
    fn shares(&self) -> bool {
        self.pack.is_some() || self.sheet.is_some()
    }

    /// Where `--sheet` is to be written.
    fn sheet_at(&self, file: &Path) -> attnmap::Result<PathBuf> {
        Target::named(file, self.force).file(Form::Picture, &run::KIND).map_err(|error| error.named(SHEET))
    }

    /// Refuses what is in the way of `--sheet` and `--pack`, before cells are made.
    fn check_shares(&self) -> attnmap::Result<()> {
        if let Some(file) = &self.sheet {
            self.sheet_at(file)?;
        }
        if let Some(place) = &self.pack {
            pack_place(place, self.force)?;
        }
        Ok(())
    }
}

/// Shares the gallery in `folder` where that is asked for, and prints what was made of it: `facts`,
/// or `line`.
fn report(args: &GalleryArgs, folder: &Path, facts: Value, line: &str) -> anyhow::Result<()> {
    for cell in damaged_cells(folder) {
        let way_out = "left out; the command that made the gallery makes it again";
        print::warn(format!("{} is damaged, and {way_out}", cell.display()));
    }
    let page = folder.join("index.html");
    let mut lines: Vec<String> = Some(line).filter(|line| !line.is_empty()).map(str::to_owned).into_iter().collect();
    let mut all = json!({"page": page.display().to_string(), "facts": facts});
    if let Some(file) = &args.sheet {
        let file = args.sheet_at(file)?;
        make_folder_of(&file)?;
        let count = write_sheet(folder, &file)?;
        lines.push(format!("{}  {}", file.display(), plural(count, "image")));
        all["sheet"] = json!(file.display().to_string());
    }
    if let Some(file) = &args.pack {
        make_folder_of(file)?;
        let packed = pack(folder, file, args.force)?;
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let (bytes, of) = (megabytes(packed.bytes), megabytes(packed.of));
        lines.push(format!("{}  {bytes} of {of}, {} files", packed.path.display(), packed.files));
        all["pack"] = serde_json::to_value(&packed)?;
    }
    if args.open {
        open::open(&page);
    }
    if args.json {
        return print::json(&all);
    }
    lines.push(page.display().to_string());
    print::stdout((lines.join("\n") + "\n").as_bytes())
}

/// The gallery's folder: the one that was named, or one of the gallery's own name. There, a gallery
/// of the same cells goes on; past any other folder the name counts up.
fn folder(args: &GalleryArgs, plan: &Plan, maps: (&Aggregate, &Display)) -> PathBuf {
    if let Some(out) = &args.out {
        return out.clone();
    }
    let list = args.prompts.as_deref().and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
    let name = list.unwrap_or_else(|| plan.cells.first().map_or_else(String::new, |cell| cell.base.clone()));
    let target = Target::generated(Path::new(OUTPUTS).join(run::slug(&name) + "-gallery"), false);
    let taken = target.taken();
    match taken.iter().find(|folder| continues(folder, plan, maps)) {
        Some(known) => known.clone(),
        None => target.counted(taken.len() + 1),
    }
}

/// What is to be said of the cells once their checkpoint is there. It is of words of embeddings
/// that no prompt has, and of options that do nothing without guidance.
fn of_checkpoint(given: &TypedArguments, pipeline: &Pipeline, plan: &Plan) -> Vec<String> {
    let mut syntaxes: Vec<Syntax> = Vec::new();
    for cell in &plan.cells {
        if !syntaxes.contains(&cell.sampling.syntax()) {
            syntaxes.push(cell.sampling.syntax());
        }
    }
    let missing = |syntax: &Syntax| {
        let cells = plan.cells.iter().filter(|cell| cell.sampling.syntax() == *syntax);
        let texts: BTreeSet<&str> = cells
            .flat_map(|cell| [&cell.prompt].into_iter().chain(&cell.sampling.negative).chain(&cell.probes))
            .map(String::as_str)
            .collect();
        // What cannot be read fails where its cell is made.
        let words = pipeline.words_not_in(&texts.into_iter().collect::<Vec<_>>(), *syntax).unwrap_or_default();
        words.into_iter().map(|word| missing_word("no prompt has", word)).collect::<Vec<_>>()
    };
    let each: Vec<Vec<String>> = syntaxes.iter().map(missing).collect();
    let everywhere = |line: &&String| each.iter().all(|lines| lines.contains(line));
    let mut said: Vec<String> = each.first().into_iter().flatten().filter(everywhere).cloned().collect();
    let own = pipeline.default_options();
    let guided = |cell: &Cell| {
        let guidance_scale = cell.sampling.guidance.unwrap_or(own.guidance_scale);
        pipeline.guided(&Options { guidance_scale, ..own.clone() })
    };
    if !plan.cells.iter().any(guided) {
        let unheard = ["negative", "trace-negative"].into_iter().filter(|option| given.has(option));
        said.extend(unheard.map(|option| {
            format!(
                "--{option} has no effect here: guidance is off, so that there is no unconditional half; raise \
            --guidance"
            )
        }));
    }
    if given.has("without") && !plan.cells.iter().any(Cell::leaves_out) {
        said.push("--without has no effect here: no prompt has two parts of which one could be left out".into());
    }
    let short = |every: u32| plan.cells.iter().all(|cell| every as usize > cell.sampling.steps.unwrap_or(own.steps));
    if let Some(every) = plan.cells.first().and_then(|cell| cell.keep_steps).filter(|&every| short(every)) {
        said.push(format!("--keep-steps has no effect here: no cell has {every} steps; give a smaller number"));
    }
    said
}

/// Options of the command that no line of the list takes, since each has its own.
fn own_settings(terminal: &Terminal, lines: &[Line]) -> Vec<String> {
    let seeds = terminal.given.has("seeds") && lines.iter().all(|line| line.seeds.is_some());
    let own = |name: &&str| {
        terminal.given.has(&name.replace('_', "-")) && lines.iter().all(|line| line.sampling.get(name).is_some())
    };
    let inert = Sampling::NAMES.into_iter().filter(own).chain(seeds.then_some("seeds"));
    inert
        .map(|name| name.replace('_', "-"))
        .map(|option| format!("--{option} has no effect here: every prompt of the list has its own"))
        .collect()
}

/// The prompts and negative prompts of each syntax that cells are read by, each once.
fn texts(plan: &Plan) -> Vec<(Syntax, Vec<&str>)> {
    let mut each: Vec<(Syntax, Vec<&str>)> = Vec::new();
    let mut seen = HashSet::new();
    for cell in &plan.cells {
        let (syntax, negative) = (cell.sampling.syntax(), cell.sampling.negative.as_deref().unwrap_or_default());
        for text in [cell.prompt.as_str(), negative] {
            if !seen.insert((syntax.emphasis, syntax.long, text)) {
                continue;
            }
            match each.iter_mut().find(|(other, _)| *other == syntax) {
                Some((_, texts)) => texts.push(text),
                None => each.push((syntax, vec![text])),
            }
        }
    }
    each
}

fn axes(args: &GalleryArgs) -> attnmap::Result<Axes> {
    if let Some(file) = args.prompts.as_deref().filter(|file| file.is_dir() || !file.exists()) {
        let what = if file.is_dir() { "is a folder" } else { "is no file" };
        let reason = format!(
            "{} {what}; give a list of prompts (.txt, .csv, .jsonl), or a prompt with --prompt",
            file.display()
        );
        return Err(Error::input("PROMPTS", reason));
    }
    let mut lines = args.prompts.as_deref().map(read_lines).transpose()?.unwrap_or_default();
    let prompts = lists::once("--prompt", args.prompt.clone(), String::clone);
    lines.extend(prompts.iter().map(|prompt| Line { prompt: prompt.clone(), ..Line::default() }));
    if let Some(empty) = lines.iter().position(|line| line.prompt.trim().is_empty()) {
        return Err(Error::input("PROMPTS", format!("prompt {} is empty", empty + 1)));
    }
    for model in &args.model {
        model.parse::<Source>()?; // a mistyped name is found before anything is made
    }
    let init = args.init.files()?; // what is no picture is found before anything is made
    Ok(Axes {
        lines,
        seeds: lists::once("--seeds", seed::list(&args.seeds)?, ToString::to_string),
        replacements: args.replace.clone(),
        weights: args.weight.clone(),
        without: args.without.as_ref().map(|_| args.maps.by()),
        sampling: args.sampling.axes(args.syntax, &args.init.strength),
        models: lists::once("--model", args.model.clone(), String::clone),
        changes: args.own.changes(),
        loras: lists::once("--lora", args.loras.iter().map(|loras| loras.0.clone()).collect(), |set: &Vec<Lora>| {
            let names: Vec<String> = set.iter().map(ToString::to_string).collect();
            if names.is_empty() { "none".into() } else { names.join("+") }
        }),
        load: args.load.over(LoadOptions::default())?,
        init,
        probes: args.probe.texts().to_vec(),
        concepts: args.concepts.named(),
        text_queries: args.text_queries || args.maps.aggregate()?.queries == QuerySource::Text,
        trace_negative: args.trace_negative,
        keep_steps: args.keep_steps,
    })
}
