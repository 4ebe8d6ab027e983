//! `attnmap gallery`: prompts times seeds in one folder that opens in a browser.

use super::display::{DisplayArgs, MapArgs};
use super::print::{self, Terminal};
use attnmap::Error;
use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::gallery::{Axes, Line, Plan, Progress, Replacement, Shard, make, parse_seeds, read_lines, write_index};
use attnmap::pipeline::{LoadOptions, Pipeline};
use attnmap::trace::PromptInfo;
use clap::Args;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Make a gallery: the product of prompts, replacements, steps, seeds and checkpoints
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GalleryArgs {
    /// A list of prompts: text (a prompt a line), .csv with a header, or .jsonl; columns prompt, negative, seeds, steps,
    /// guidance, size, scheduler
    #[arg(value_name = "PROMPTS")]
    prompts: Option<PathBuf>,

    /// A prompt, in place of a file or beside it; may be given several times
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,

    /// Seeds: ranges whose end is left out and numbers, e.g. 0..8 or 1,5,9
    #[arg(long, value_name = "SEEDS", default_value = "0..4")]
    seeds: String,

    /// Also with this word replaced: apple=pear,lemon; may be given several times
    #[arg(long, value_name = "WORD=NEW,NEW")]
    replace: Vec<Replacement>,

    /// Numbers of steps, separated by commas [default: the checkpoint's own]
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    steps: Vec<u64>,

    /// Checkpoints: `embedded`, a folder, or a hub name; may be given several times
    #[arg(long, short, value_name = "MODEL", default_value = "embedded")]
    model: Vec<String>,

    /// What the images should not show
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative: String,

    /// Classifier-free guidance [default: the checkpoint's own]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<f64>,

    /// Image size in pixels, WIDTHxHEIGHT [default: the checkpoint's own]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(usize, usize)>,

    /// Sampler [default: the checkpoint's own]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,

    /// Seeds that go through the network together: faster, and more memory [default: 4 for the default checkpoint, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: Option<u16>,

    /// Make only this part, e.g. 2/8; all parts together are the gallery, on as many machines as see the folder
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,

    /// Make nothing, but index.html anew from the cells in this gallery's folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["prompts", "prompt", "shard", "out"])]
    index: Option<PathBuf>,

    /// The gallery's folder; run the same command again to continue an interrupted one
    #[arg(long, short, value_name = "DIR", default_value = "gallery")]
    out: PathBuf,

    #[command(flatten)]
    maps: MapArgs,

    #[command(flatten)]
    display: DisplayArgs,

    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  attnmap gallery prompts.txt --seeds 0..8 --out night
  attnmap gallery --prompt \"a red apple and a frog\" --replace apple=cake,ball --seeds 0..4
  attnmap gallery prompts.csv --seeds 0..64 --shard 3/16 --out /shared/night
  attnmap gallery --index /shared/night

Finished cells are kept when the command is run again. Exit code 1 when a cell could not be made; it is listed on the page.";

fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let pair = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
    pair.ok_or_else(|| "write WIDTHxHEIGHT, e.g. 512x512".to_owned())
}

/// Runs the command.
pub fn run(args: &GalleryArgs, terminal: &Terminal) -> anyhow::Result<()> {
    if let Some(folder) = &args.index {
        let cells = write_index(folder)?;
        return report(args, folder, &serde_json::json!({"cells": cells}), &format!("{cells} cells"));
    }
    let plan = Plan::new(&axes(args)?, batch(args))?;
    let aggregate = args.maps.aggregate()?;
    let display = args.display.display()?;
    if !matches!(args.maps.words(&PromptInfo::default(), &[]), Ok(None)) {
        return Err(
            Error::option("--words", "a gallery holds every word, to be chosen on its page; leave it out").into()
        );
    }
    if args.out.exists()
        && !args.out.join("cells").is_dir()
        && args.out.read_dir().is_ok_and(|mut d| d.next().is_some())
    {
        let reason = format!("{} is a folder with other things in it; choose another", args.out.display());
        return Err(Error::option("--out", reason).into());
    }
    let shard = args.shard.unwrap_or_default();
    let bar = terminal.bar(0, "cells");
    let mut load = |name: &str| -> attnmap::Result<Pipeline> {
        let open = OpenOptions { progress: terminal.downloads(), ..OpenOptions::default() };
        let checkpoint = Checkpoint::open(&name.parse::<Source>()?, &open)?;
        Pipeline::load(&checkpoint, &LoadOptions::default())
    };
    let mut progress = |event: Progress| {
        match event {
            Progress::Planned { cells, finished } => {
                bar.set_length(cells as u64);
                bar.set_position(finished as u64);
                bar.reset_eta();
            }
            Progress::Loading(name) => bar.set_message(print::printable(name)),
            Progress::Stepped => bar.tick(),
            Progress::Made(_) => bar.inc(1),
            Progress::Failed(cell, error) => {
                bar.inc(1);
                bar.suspend(|| print::warn(format!("{}, seed {}: {error}", print::printable(&cell.prompt), cell.seed)));
            }
        }
        ControlFlow::Continue(())
    };
    let outcome = make(&args.out, &plan, shard, (&aggregate, &display), &mut load, &mut progress);
    bar.finish_and_clear();
    let outcome = outcome?;
    write_index(&args.out)?;
    let line = format!("{} made, {} kept, {} failed", outcome.made, outcome.kept, outcome.failed);
    report(args, &args.out, &serde_json::to_value(outcome)?, &line)?;
    if outcome.failed > 0 {
        anyhow::bail!(
            "{} cells could not be made; the page lists them, and the same command tries them again",
            outcome.failed
        );
    }
    Ok(())
}

fn report(args: &GalleryArgs, folder: &std::path::Path, facts: &serde_json::Value, line: &str) -> anyhow::Result<()> {
    let page = folder.join("index.html");
    if args.json {
        return print::json(&serde_json::json!({"page": page, "facts": facts}));
    }
    print::stdout(format!("{line}\n{}\n", page.display()).as_bytes())
}

fn batch(args: &GalleryArgs) -> usize {
    let small = args.model.iter().all(|model| matches!(model.as_str(), "embedded" | "default"));
    args.batch.map_or(if small { 4 } else { 1 }, usize::from)
}

fn axes(args: &GalleryArgs) -> attnmap::Result<Axes> {
    let mut lines = args.prompts.as_deref().map(read_lines).transpose()?.unwrap_or_default();
    lines.extend(args.prompt.iter().map(|prompt| Line { prompt: prompt.clone(), ..Line::default() }));
    if let Some(empty) = lines.iter().position(|line| line.prompt.trim().is_empty()) {
        return Err(Error::option("PROMPTS", format!("prompt {} is empty", empty + 1)));
    }
    for model in &args.model {
        model.parse::<Source>()?; // a mistyped name is found before anything is made
    }
    if let Some(name) = &args.scheduler {
        name.parse::<attnmap::scheduler::SchedulerKind>()?;
    }
    Ok(Axes {
        lines,
        seeds: parse_seeds(&args.seeds)?,
        replacements: args.replace.clone(),
        steps: args.steps.iter().map(|&steps| steps as usize).collect(),
        models: args.model.clone(),
        negative: args.negative.clone(),
        guidance: args.guidance,
        size: args.size,
        scheduler: args.scheduler.clone(),
    })
}
