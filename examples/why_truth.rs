//! How often what `attnmap why` says is right: the table of ACCURACY.md, with the default
//! checkpoint.
//!
//! `cargo run --release --example why_truth -- DATA`
//!
//! Three parts, each appended line by line to a file in the folder DATA, so that an interrupted
//! measurement goes on:
//!
//! - `dense.jsonl`: where the thing of each case lies over many seeds, with the prompt as it is and
//!   with every edit, and without the LoRA. Its
//!   effects are taken as true.
//! - `asked.jsonl`: what `why` answers within 40 runs, on a run with another seed.
//! - `steps.jsonl`: for the first 20 cases, how often the thing stays with fresh noise after every
//!   single step.
//!
//! The figures are printed from the files at the end, over the cases that are there. `--select`
//! measures the other cases, those that chose the thresholds, and prints what their effects choose;
//! none of them is in a figure. `--again N` asks about other runs of the same prompts, with the
//! seeds N further on. `--seeds N` (64), `--noises N` (16), `--cases N` (60) and `--steps N` (the
//! checkpoint's own) cut the measurement short; `--report` measures nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::checkpoint::{Changes, Checkpoint, Lora, OpenOptions as Open, Source};
use attnmap::files::Target;
use attnmap::heatmap::Aggregate;
use attnmap::pipeline::{Event, LoadOptions, Options, Pipeline, RecordOptions};
use attnmap::render::Display;
use attnmap::run::{NewRun, Pictures, Run, RunKind, write_run};
use attnmap::trace::{By, PromptInfo, Unobserved};
use attnmap::why::bench::{Bench, From};
use attnmap::why::edits::{EditKind, edits};
use attnmap::why::plan::BUDGET;
use attnmap::why::record::{Findings, SeedSpot};
use attnmap::why::spot::{Spot, scatter};
use attnmap::why::thresholds::LEAST_CHANGED;
use attnmap::why::time::{is_settled, stays};
use attnmap::why::verdict::{CauseThresholds, answer};
use attnmap::why::words::moved;
use attnmap::why::{Cause, Question, Subject};
use attnmap::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Seeds go through the network together.
const BATCH: usize = 8;

/// The first seed of the dense measurement; `why` itself takes others.
const FIRST: u64 = 100_000;

/// How many cases have their steps measured.
const STEP_CASES: usize = 20;

/// What a case is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Kind {
    Stated,
    Lone,
    Pair,
    Lora,
}

/// A run that is asked about.
#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    prompt: String,
    word: String,
    seed: u64,
}

/// Things that the checkpoint draws, of every kind. Those in [`PAINTED`] have colours.
const THINGS: [&str; 13] =
    ["apple", "cat", "balloon", "owl", "car", "frog", "heart", "castle", "star", "banana", "teapot", "rocket", "clock"];

const PAINTED: [&str; 6] = ["apple", "balloon", "car", "heart", "star", "teapot"];

const COLOURS: [&str; 6] = ["red", "green", "blue", "yellow", "purple", "orange"];

const PLACES: [&str; 6] = ["", " on the beach", " on the grass", " in the snow", " at night", " in the desert"];

const RELATIONS: [&str; 4] = ["to the left of", "to the right of", "above", "below"];

/// `a red apple`; what has colours gets one.
fn named(thing: &str, number: usize) -> String {
    let words = match PAINTED.contains(&thing) {
        true => format!("{} {thing}", COLOURS[number % COLOURS.len()]),
        false => thing.to_owned(),
    };
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {words}")
}

/// The cases: 62 held out, 24 to select on. No prompt is in both.
fn cases(select: bool) -> Vec<Case> {
    let mut all = Vec::new();
    let counts = [(Kind::Stated, 36), (Kind::Lone, 20), (Kind::Pair, 16), (Kind::Lora, 14)];
    let mut seen = BTreeSet::new();
    for (kind, count) in counts {
        let mut made = 0;
        for number in 0.. {
            // Steps that share no factor with the lists go through all of them.
            let first = THINGS[number * 3 % 13];
            let second = THINGS[(number * 3 + 1 + number / 13 % 12) % 13];
            let place = PLACES[(number * 5 + number / 6) % 6];
            let relation = RELATIONS[(number + number / 4) % 4];
            let prompt = match kind {
                Kind::Stated => format!("{} {relation} {}{place}", named(first, number), named(second, number + 1)),
                Kind::Lone => format!("{}{place}", named(first, number)),
                Kind::Pair => format!("{} and {}{place}", named(first, number), named(second, number + 1)),
                Kind::Lora => format!("{}{place}", named(first, number + 1)),
            };
            if !seen.insert((kind, prompt.clone())) {
                continue;
            }
            let word = if number % 2 == 0 || matches!(kind, Kind::Lone | Kind::Lora) { first } else { second };
            // Every third to select on, of the first of each kind, and the rest held out, up to the
            // counts.
            let to_select = made % 7 % 3 == 2;
            if to_select == select {
                all.push(Case { kind, prompt, word: word.into(), seed: 11 + number as u64 });
            }
            made += 1;
            if made == count {
                break;
            }
        }
    }
    // Kinds take turns, so that a measurement that is cut short has all of them.
    let mut places: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut all: Vec<(f64, Case)> = all
        .iter()
        .map(|case| {
            let of_kind = all.iter().filter(|other| other.kind == case.kind).count();
            let place = places.entry(case.kind).or_default();
            *place += 1;
            ((*place as f64 - 0.5) / of_kind as f64, case.clone())
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().map(|(_, case)| case).collect()
}

/// A line of `dense.jsonl`: one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Dense {
    prompt: String,
    kind: Kind,
    word: String,
    steps: usize,
    /// The edit in words; empty for none, `lora` for the run without it.
    edit: String,
    change: Option<EditKind>,
    #[serde(flatten)]
    spot: SeedSpot,
}

/// A line of `asked.jsonl`: what was found within the budget. The answer is made of it when the
/// figures are printed, so that other thresholds ask for no other images.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asked {
    prompt: String,
    kind: Kind,
    word: String,
    steps: usize,
    findings: Findings,
}

impl Asked {
    /// Whether it is about this run.
    fn is_of(&self, case: &Case) -> bool {
        let seed = self.findings.seeds.first().map(|own| own.seed);
        self.prompt == case.prompt && self.kind == case.kind && seed == Some(case.seed)
    }
}

/// A line of `steps.jsonl`: how often the thing stays after one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Steps {
    prompt: String,
    kind: Kind,
    word: String,
    steps: usize,
    step: usize,
    noises: usize,
    stays: f64,
    /// The same of every other noise, and of the rest.
    #[serde(default)]
    halves: [f64; 2],
}

/// What is asked for.
struct Ask {
    data: PathBuf,
    select: bool,
    report: bool,
    seeds: usize,
    noises: usize,
    cases: usize,
    steps: Option<usize>,
    again: u64,
}

fn main() -> Result<()> {
    let ask = ask()?;
    let further = |case: Case| Case { seed: case.seed + ask.again, ..case };
    let cases: Vec<Case> = cases(ask.select).into_iter().take(ask.cases).map(further).collect();
    fs::create_dir_all(&ask.data).map_err(Error::io(&ask.data))?;
    if !ask.report {
        let pipelines = Pipelines::load()?;
        // Answers first: they need no more than the budget.
        for case in &cases {
            pipelines.asked(case, &ask)?;
        }
        // A round of seeds over all cases, then the next.
        for round in 0..ask.seeds.div_ceil(BATCH) {
            for case in &cases {
                let count = BATCH.min(ask.seeds - round * BATCH);
                let seeds: Vec<u64> = (0..count).map(|at| FIRST + (round * BATCH + at) as u64).collect();
                pipelines.dense(case, &seeds, &ask)?;
            }
        }
        for case in cases.iter().take(STEP_CASES).filter(|_| !ask.select) {
            pipelines.steps(case, &ask)?;
        }
    }
    if ask.select { choose(&ask, &cases) } else { report(&ask, &cases) }
}

fn ask() -> Result<Ask> {
    let wrong = || {
        Error::input(
            "why_truth",
            "give a folder, and --select, --report, --again N, --seeds N, --noises N, --cases N or --steps N",
        )
    };
    let (seeds, noises, cases) = (64, 16, 60);
    let (data, select, report) = (PathBuf::new(), false, false);
    let mut ask = Ask { data, select, report, seeds, noises, cases, steps: None, again: 0 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse::<usize>().ok()).ok_or_else(wrong);
        match arg.as_str() {
            "--select" => ask.select = true,
            "--report" => ask.report = true,
            "--seeds" => ask.seeds = number()?,
            "--noises" => ask.noises = number()?,
            "--cases" => ask.cases = number()?,
            "--steps" => ask.steps = Some(number()?),
            "--again" => ask.again = number()? as u64,
            folder if !folder.starts_with('-') => ask.data = folder.into(),
            _ => return Err(wrong()),
        }
    }
    if ask.data.as_os_str().is_empty() { Err(wrong()) } else { Ok(ask) }
}

/// The lines of a file of the measurement; a line that was cut short is passed over.
fn lines<T: for<'a> Deserialize<'a>>(ask: &Ask, name: &str) -> Vec<T> {
    let text = fs::read_to_string(ask.data.join(name)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn append<T: Serialize>(ask: &Ask, name: &str, lines: &[T]) -> Result<()> {
    let path = ask.data.join(name);
    let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap_or_default() + "\n").collect();
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::io(&path))
}

fn go(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The checkpoint as it is, and with the LoRA.
struct Pipelines {
    plain: Pipeline,
    lora: Pipeline,
}

impl Pipelines {
    fn load() -> Result<Self> {
        let with = |changes: Changes| -> Result<Pipeline> {
            let checkpoint = Checkpoint::open(&Source::Embedded, &Open { changes, ..Open::default() })?;
            Pipeline::load(&checkpoint, &LoadOptions::default())
        };
        let lora = Lora { file: "examples/lora/stand-left.safetensors".into(), weight: 1.0 };
        Ok(Self { plain: with(Changes::default())?, lora: with(Changes { loras: vec![lora], ..Changes::default() })? })
    }

    fn of(&self, case: &Case) -> &Pipeline {
        if case.kind == Kind::Lora { &self.lora } else { &self.plain }
    }

    fn bench<'a>(&self, pipeline: &'a Pipeline, case: &Case, ask: &Ask) -> Result<Bench<'a>> {
        let own = pipeline.default_options();
        let options = Options { seeds: vec![case.seed], steps: ask.steps.unwrap_or(own.steps), ..own };
        let prompt = pipeline.prompt(&case.prompt, &options)?;
        let thing = PromptInfo::from(&prompt).select(&case.word)?.swap_remove(0);
        let aggregate = Aggregate::default();
        Ok(Bench { pipeline, options, prompt, aggregate, thing, by: By::Word, batch: BATCH })
    }

    /// Where the thing lies with the prompt as it is and with every edit, for `seeds`, but for what
    /// is in the file.
    fn dense(&self, case: &Case, seeds: &[u64], ask: &Ask) -> Result<()> {
        let bench = self.bench(self.of(case), case, ask)?;
        let steps = bench.options.steps;
        let known: Vec<Dense> = lines(ask, "dense.jsonl");
        let same = |line: &&Dense| line.prompt == case.prompt && line.kind == case.kind && line.steps == steps;
        let known: BTreeSet<(String, u64)> =
            known.iter().filter(same).map(|line| (line.edit.clone(), line.spot.seed)).collect();
        let edits = edits(bench.pipeline, &bench.prompt, &bench.options, &bench.thing, bench.by)?;
        let plain = self.bench(&self.plain, case, ask)?;
        let mut all = vec![(String::new(), None, &bench, &bench.prompt)];
        for edit in &edits {
            let name = edit.change.in_words(&edit.of, edit.becomes.as_deref());
            all.push((name, Some(edit.change), &bench, &edit.prompt));
        }
        if case.kind == Kind::Lora {
            all.push(("lora".into(), None, &plain, &plain.prompt));
        }
        for (edit, change, bench, prompt) in all {
            let missing: Vec<u64> =
                seeds.iter().copied().filter(|&seed| !known.contains(&(edit.clone(), seed))).collect();
            let drawn = bench.draw(prompt, &missing, From::Seed, &mut go)?;
            let line = |(&seed, spot): (&u64, Spot)| Dense {
                prompt: case.prompt.clone(),
                kind: case.kind,
                word: case.word.clone(),
                steps,
                edit: edit.clone(),
                change,
                spot: SeedSpot { seed, spot },
            };
            let found: Vec<Dense> = missing.iter().zip(drawn.iter().map(|drawn| drawn.spot)).map(line).collect();
            append(ask, "dense.jsonl", &found)?;
        }
        Ok(())
    }

    /// What `why` answers of the run.
    fn asked(&self, case: &Case, ask: &Ask) -> Result<()> {
        let bench = self.bench(self.of(case), case, ask)?;
        let steps = bench.options.steps;
        let known: Vec<Asked> = lines(ask, "asked.jsonl");
        if known.iter().any(|line| line.is_of(case) && line.steps == steps) {
            return Ok(());
        }
        let folder = ask.data.join("run");
        let run = make_run(&bench, &folder)?;
        let question = Question::new(run, &Subject::Word(case.word.clone()), BUDGET, BATCH)?;
        let mut plain = |changes: Changes| -> Result<Pipeline> {
            let checkpoint = Checkpoint::open(&Source::Embedded, &Open { changes, ..Open::default() })?;
            Pipeline::load(&checkpoint, &LoadOptions::default())
        };
        let answer = question.make(bench.pipeline, &mut plain, true, &mut go)?;
        let _ = fs::remove_dir_all(&folder);
        let (prompt, word) = (case.prompt.clone(), case.word.clone());
        let line = Asked { prompt, kind: case.kind, word, steps, findings: answer.findings };
        append(ask, "asked.jsonl", &[line])
    }

    /// How often the thing stays after each step of the run.
    fn steps(&self, case: &Case, ask: &Ask) -> Result<()> {
        let bench = self.bench(self.of(case), case, ask)?;
        let steps = bench.options.steps;
        let known: Vec<Steps> = lines(ask, "steps.jsonl");
        let same = |line: &&Steps| line.prompt == case.prompt && line.kind == case.kind && line.steps == steps;
        let known: BTreeSet<usize> = known.iter().filter(same).map(|line| line.step).collect();
        if (0..steps).all(|step| known.contains(&step)) {
            return Ok(());
        }
        let mut estimates: Vec<Tensor> = Vec::new();
        bench.pipeline.generate(&bench.prompt, &bench.options, &mut Unobserved, &mut |event| {
            if let Event::Stepped { denoised, .. } = event {
                estimates.push(denoised.clone());
            }
            ControlFlow::Continue(())
        })?;
        let own = bench.draw(&bench.prompt, &[case.seed], From::Seed, &mut go)?;
        let Some(place) = own[0].spot.place() else { return Ok(()) };
        let seeds: Vec<u64> = (0..ask.noises as u64).map(|at| FIRST + at).collect();
        for step in (0..steps).filter(|step| !known.contains(step)) {
            let from = match step.checked_sub(1) {
                None => From::Seed,
                Some(before) => From::Estimate(&estimates[before], step),
            };
            let drawn = bench.draw(&bench.prompt, &seeds, from, &mut go)?;
            let spots: Vec<Spot> = drawn.iter().map(|drawn| drawn.spot).collect();
            let near = CauseThresholds::default().near;
            let (odd, even): (Vec<_>, Vec<_>) = spots.iter().enumerate().partition(|(at, _)| at % 2 == 1);
            let of = |half: Vec<(usize, &Spot)>| {
                stays(&half.into_iter().map(|(_, spot)| *spot).collect::<Vec<_>>(), place, near)
            };
            let (halves, stays) = ([of(even), of(odd)], stays(&spots, place, near));
            let (prompt, word) = (case.prompt.clone(), case.word.clone());
            append(
                ask,
                "steps.jsonl",
                &[Steps { prompt, kind: case.kind, word, steps, step, noises: seeds.len(), stays, halves }],
            )?;
        }
        Ok(())
    }
}

/// Makes the run of a case in `folder`.
fn make_run(bench: &Bench, folder: &Path) -> Result<Run> {
    let (traced, _) = bench.pipeline.trace(
        &bench.prompt,
        &bench.options,
        RecordOptions { per_step: false, ..RecordOptions::default() },
        &mut |_| ControlFlow::Continue(()),
    )?;
    let new = NewRun {
        kind: RunKind::Generate,
        pictures: Pictures {
            trace: &traced[0].trace,
            image: &traced[0].generation.image,
            aggregate: &Aggregate::default(),
            display: &Display::default(),
            words: None,
        },
        by: Default::default(),
        settings: bench.pipeline.settings(&bench.options, bench.seed()),
        negative: None,
        expect: None,
        command: String::new(),
        cut_off: Vec::new(),
        warnings: Vec::new(),
        timings: BTreeMap::new(),
    };
    let target = Target::named(folder.to_path_buf(), true);
    write_run(&target, &new, |_, _, _| Ok(()))?;
    Run::open(folder)
}

/// The effects of a case by the dense measurement: that of the strongest edit, the scatter, and
/// that of the LoRA.
struct Effects {
    seeds: usize,
    edit: Option<f64>,
    scatter: f64,
    lora: Option<f64>,
    /// Whether an edit of a phrase of place is the strongest.
    by_phrase: bool,
}

fn effects(case: &Case, dense: &[Dense]) -> Option<Effects> {
    let own: Vec<&Dense> = dense.iter().filter(|line| line.prompt == case.prompt && line.kind == case.kind).collect();
    let spots =
        |edit: &str| -> Vec<SeedSpot> { own.iter().filter(|line| line.edit == edit).map(|line| line.spot).collect() };
    let base = spots("");
    let places: Vec<[f64; 2]> = base.iter().filter_map(|spot| spot.spot.place()).collect();
    let names: BTreeSet<&str> = own.iter().map(|line| line.edit.as_str()).filter(|name| !name.is_empty()).collect();
    let shift = |name: &str| moved(&spots(name), &base).shift;
    let edits = names.iter().filter(|name| **name != "lora").filter_map(|name| Some((shift(name)?, *name)));
    let strongest = edits.max_by(|a, b| a.0.total_cmp(&b.0));
    let phrase = |name: &str| {
        own.iter().any(|line| line.edit == name && line.change.is_some_and(|change| change != EditKind::WithoutWord))
    };
    Some(Effects {
        seeds: base.len(),
        edit: strongest.map(|(shift, _)| shift),
        scatter: scatter(&places)?,
        lora: names.contains("lora").then(|| shift("lora")).flatten(),
        by_phrase: strongest.is_some_and(|(_, name)| phrase(name)),
    })
}

/// The lines of the steps that were asked for.
fn dense_lines(ask: &Ask) -> Vec<Dense> {
    let all: Vec<Dense> = lines(ask, "dense.jsonl");
    all.into_iter().filter(|line| ask.steps.is_none_or(|steps| line.steps == steps)).collect()
}

/// The middle of the widest gap between two neighbours of `values`, as a ratio.
fn widest_gap(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.retain(|value| *value > 0.01);
    values.sort_by(f64::total_cmp);
    let gap = |pair: &&[f64]| pair[1] / pair[0];
    values.windows(2).max_by(|a, b| gap(a).total_cmp(&gap(b))).map(|pair| (pair[0], pair[1]))
}

/// What the cases to select on choose.
fn choose(ask: &Ask, cases: &[Case]) -> Result<()> {
    let dense = dense_lines(ask);
    let (mut shifts, mut scatters) = (Vec::new(), Vec::new());
    println!("| case | seeds | strongest edit | scatter | without the LoRA |\n| --- | --- | --- | --- | --- |");
    for case in cases {
        let Some(found) = effects(case, &dense) else { continue };
        let show = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.3}"));
        println!(
            "| {:?}: {} ({}) | {} | {} | {:.3} | {} |",
            case.kind,
            case.prompt,
            case.word,
            found.seeds,
            show(found.edit),
            found.scatter,
            show(found.lora)
        );
        shifts.extend(found.edit.into_iter().chain(found.lora));
        scatters.push(found.scatter);
    }
    let asked: Vec<Asked> = lines(ask, "asked.jsonl");
    println!("| case | of its region changes | of the image | odds |\n| --- | --- | --- | --- |");
    let mut odds = Vec::new();
    for case in cases {
        let Some(pixels) = asked.iter().find(|line| line.is_of(case)).and_then(|line| line.findings.pixels) else {
            continue;
        };
        let (of_case, image) = (format!("{:?}: {}", case.kind, case.prompt), pixels.image);
        println!("| {of_case} | {:.3} | {image:.4} | {:.2} |", pixels.inside, pixels.odds());
        if image >= LEAST_CHANGED {
            odds.push(pixels.odds());
        }
    }
    let lowest = odds.iter().copied().fold(f64::INFINITY, f64::min);
    println!("odds: {lowest:.2} at least, of {} cases whose image changes", odds.len());
    for (name, values) in [("shift", shifts), ("scatter", scatters)] {
        if let Some((below, above)) = widest_gap(values) {
            println!(
                "{name}: the widest gap is from {below:.3} to {above:.3}, its middle {:.3}",
                (below * above).sqrt()
            );
        }
    }
    Ok(())
}

/// The first step from which on the thing stays, by the rising curve that is nearest to the shares
/// of noises after each step (isotonic regression by pooling). A share of a few noises falls below
/// the bound by chance.
fn settled(shares: impl Iterator<Item = f64>) -> usize {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for share in shares {
        let (mut sum, mut count) = (share, 1);
        while let Some((before, pooled)) =
            pools.pop_if(|(before, pooled)| *before / *pooled as f64 > sum / count as f64)
        {
            sum += before;
            count += pooled;
        }
        pools.push((sum, count));
    }
    pools.iter().take_while(|(sum, count)| !is_settled(sum / *count as f64)).map(|(_, count)| count).sum()
}

/// The figures.
fn report(ask: &Ask, cases: &[Case]) -> Result<()> {
    let (dense, limits) = (dense_lines(ask), CauseThresholds::default());
    let asked: Vec<Asked> = lines(ask, "asked.jsonl");
    let steps: Vec<Steps> = lines(ask, "steps.jsonl");
    let steps_of = |case: &Case, asked: &Asked| -> Vec<Steps> {
        let same = |line: &&Steps| line.prompt == case.prompt && line.kind == case.kind && line.steps == asked.steps;
        let mut own: Vec<Steps> = steps.iter().filter(same).cloned().collect();
        own.sort_by_key(|line| line.step);
        own
    };
    let mut counts: BTreeMap<Kind, [usize; 5]> = BTreeMap::new();
    // Answers that name a cause and those of them that agree: away from the bounds, and near one.
    let mut told_by_near = [[0usize; 2]; 2];
    let (mut within, mut halves_within, mut timed, mut least_seeds) = (0, 0, 0, usize::MAX);
    for case in cases {
        let same = |line: &&Asked| line.is_of(case) && ask.steps.is_none_or(|steps| line.steps == steps);
        let Some(asked) = asked.iter().find(same) else { continue };
        let answer = answer(&asked.findings, &limits);
        let [told, untold, right, cases, agrees] = counts.entry(case.kind).or_default();
        *told += 1;
        *untold += usize::from(answer.cause.is_empty());
        let has = |cause: Cause| answer.cause.contains(&cause);
        let by_construction = match case.kind {
            Kind::Stated => has(Cause::Words),
            Kind::Lone => !has(Cause::Words),
            Kind::Lora => has(Cause::Habit) && !answer.loras.is_empty() && !has(Cause::Words),
            Kind::Pair => true,
        };
        *right += usize::from(by_construction);
        let Some(found) = effects(case, &dense) else {
            if !by_construction {
                println!(
                    "{:?}: {} ({}): said {:?}; {}",
                    case.kind, case.prompt, case.word, answer.cause, answer.sentence
                );
            }
            continue;
        };
        let truth = limits.causes(found.edit, found.scatter, found.lora);
        let agree = answer.cause == truth;
        *cases += 1;
        *agrees += usize::from(agree);
        if !answer.cause.is_empty() {
            let [told, right] = &mut told_by_near[usize::from(answer.near_bound)];
            *told += 1;
            *right += usize::from(agree);
        }
        least_seeds = least_seeds.min(found.seeds);
        if !agree || !by_construction {
            println!(
                "{:?}: {} ({}): said {:?}, true {truth:?} (edit {:?}{}, scatter {:.3}, LoRA {:?}); {}",
                case.kind,
                case.prompt,
                case.word,
                answer.cause,
                found.edit,
                if found.by_phrase { " by a phrase" } else { "" },
                found.scatter,
                found.lora,
                answer.sentence
            );
        }
        let own = steps_of(case, asked);
        if own.len() == answer.steps {
            let truth = settled(own.iter().map(|line| line.stays));
            let [one, other] = [0, 1].map(|half| settled(own.iter().map(|line| line.halves[half])));
            halves_within += usize::from(one.abs_diff(other) <= 2);
            timed += 1;
            let near = answer.settled_at.is_some_and(|step| step.abs_diff(truth) <= 2);
            within += usize::from(near);
            if !near {
                println!("{}: said settled at {:?}, true {truth} of {}", case.prompt, answer.settled_at, answer.steps);
            }
        }
    }
    println!("| cases | asked | cannot tell | as it must be | measured densely | cause agrees |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (kind, [told, untold, right, cases, agrees]) in &counts {
        println!("| {kind:?} | {told} | {untold} | {right} | {cases} | {agrees} |");
    }
    let total = |at: usize| counts.values().map(|counts| counts[at]).sum::<usize>();
    println!("| all | {} | {} | {} | {} | {} |", total(0), total(1), total(2), total(3), total(4));
    let [[far, far_right], [near, near_right]] = told_by_near;
    println!("causes named: {far_right} of {far} agree away from the bounds, {near_right} of {near} near one");
    println!("dense: at least {least_seeds} seeds; settled within 2 steps: {within} of {timed}");
    println!("the two halves of the noises of those {timed} agree within 2 steps in {halves_within}");
    Ok(())
}
