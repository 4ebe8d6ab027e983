//! How the thresholds of the verdicts were found, how often they err, and how verdicts fall on held-out prompts: the tables of
//! ACCURACY.md, with the default checkpoint.
//!
//! `cargo run --release --example verdicts -- scenes tests/data/scenes/select tests/data/scenes/report tests/data/scenes/final`: the
//! thresholds that the first folder gives, and the rates of error of those in use on each.
//!
//! `cargo run --release --example verdicts -- prompts models/default/evaluation.json`: the share of words in each verdict.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::evidence::causal::{Change, Cut, Row, changes, replay, spread_steps};
use attnmap::evidence::scene_folder::read_scenes;
use attnmap::evidence::scenes::TIMESTEPS;
use attnmap::evidence::scores::Agreement;
use attnmap::evidence::verdict::{Thresholds, Verdict, judge};
use attnmap::facts::lexicon::{Role, role};
use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::pipeline::{Keep, LoadOptions, LookOptions, Options, Pipeline};
use attnmap::prompt::Prompt;
use attnmap::trace::{Grid, PromptInfo, WordInfo};
use attnmap::{Error, Result};
use candle_core::Tensor;

/// Words that draw nothing.
const ARTICLES: [&str; 4] = ["a", "an", "the", "of"];

fn main() -> Result<()> {
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["scenes", folders @ ..] if !folders.is_empty() => scenes(&pipeline, folders),
        ["prompts", file] => prompts(&pipeline, Path::new(file)),
        _ => Err(Error::option("verdicts", "give `scenes FOLDER...` or `prompts evaluation.json`")),
    }
}

/// What the cuts of one set of scenes gave.
#[derive(Default)]
struct Found {
    /// Effects of cutting articles.
    articles: Vec<f64>,
    /// Effect, IoU of the own map and of the best control, for every cut of a noun.
    own: Vec<[f64; 3]>,
    /// The same with the map of the scene's other noun in the place of the own.
    swapped: Vec<[f64; 3]>,
    /// IoU and Spearman of the nouns' maps under `compete` and under `daam`.
    agreement: BTreeMap<&'static str, Vec<Agreement>>,
}

/// The words of `prompt` without each of which its prediction is compared.
fn cut(
    pipeline: &Pipeline,
    options: &Options,
    prompt: &Prompt,
    words: &[&WordInfo],
    steps: &[(&Tensor, f64)],
) -> Result<Vec<Change>> {
    let rows = words.iter().map(|word| Row::cut(pipeline, prompt, &[word], Cut::Substitute));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    changes(pipeline, options, &Row::whole(prompt), &rows, steps, 16, &mut || ControlFlow::Continue(()))
}

fn measure(pipeline: &Pipeline, folder: &Path) -> Result<Found> {
    let mut found = Found::default();
    for (index, scene) in read_scenes(folder)?.iter().enumerate() {
        let prompt = pipeline.tokenize(&scene.caption)?;
        let info = PromptInfo::from(&prompt);
        let look = LookOptions { levels: TIMESTEPS.to_vec(), seed: index as u64, ..LookOptions::default() };
        let options = pipeline.look_run(Grid::new(scene.image.height() as usize, scene.image.width() as usize), &look);
        let is_noun = |word: &WordInfo| scene.objects.iter().any(|object| object.range == (word.start..word.end));
        let places = |wanted: &dyn Fn(&WordInfo) -> bool| -> Vec<usize> {
            (0..info.words.len()).filter(|&word| wanted(&info.words[word])).collect()
        };
        let nouns = places(&is_noun);
        let articles = places(&|word| ARTICLES.contains(&word.text.as_str()));
        let all: Vec<&WordInfo> = nouns.iter().chain(&articles).map(|&word| &info.words[word]).collect();
        for noised in pipeline.noise_picture(&scene.image, &look)? {
            let steps = [(&noised.latent, noised.timestep as f64)];
            let changes = cut(pipeline, &options, &prompt, &all, &steps)?;
            let trace = pipeline.observe(&prompt, &options, &steps)?;
            for name in ["compete", "daam"] {
                let maps = aggregate(&trace, &Aggregate::named(name)?, &info.words)?;
                for (place, (&noun, change)) in nouns.iter().zip(&changes).enumerate() {
                    let agreement = found.agreement.entry(name).or_default();
                    agreement.push(Agreement::of(maps.word(noun), &change.map));
                    if name == "daam" {
                        continue;
                    }
                    let other = (nouns.len() > 1).then(|| nouns[(place + 1) % nouns.len()]);
                    let scores = |word: usize, other: Option<usize>| {
                        let judged = judge(&maps, word, other, &change.map, change.effect, &scene.image);
                        [change.effect, judged.attention.iou_top, judged.controls.best_iou()]
                    };
                    found.own.push(scores(noun, other));
                    found.swapped.extend(other.map(|other| scores(other, None)));
                }
            }
            found.articles.extend(changes[nouns.len()..].iter().map(|change| change.effect));
        }
    }
    Ok(found)
}

/// The threshold that makes the share of `low` at or above it plus the share of `high` below it least; the middle, in logarithms, of all
/// that do.
fn between(low: &[f64], high: &[f64]) -> f64 {
    let mut candidates: Vec<f64> = low.iter().chain(high).copied().filter(|&value| value > 0.0).collect();
    candidates.sort_by(f64::total_cmp);
    let errors = |at: f64| share(low, |value| value >= at) + share(high, |value| value < at);
    let least = candidates.iter().map(|&at| errors(at)).fold(f64::INFINITY, f64::min);
    let best = |at: &&f64| errors(**at) <= least;
    let first = candidates.iter().position(|at| best(&at)).unwrap_or(0);
    // A threshold just above the value before the first does as well.
    let below = candidates[..first].last().copied().unwrap_or(candidates[first]);
    let last = candidates.iter().rev().find(best).copied().unwrap_or(candidates[first]);
    (below * last).sqrt()
}

fn share<T: Copy>(values: &[T], which: impl Fn(T) -> bool) -> f64 {
    values.iter().filter(|value| which(**value)).count() as f64 / values.len().max(1) as f64
}

fn scenes(pipeline: &Pipeline, folders: &[&str]) -> Result<()> {
    for (index, folder) in folders.iter().enumerate() {
        let found = measure(pipeline, Path::new(folder))?;
        let column = |rows: &[[f64; 3]], at: usize| rows.iter().map(|row| row[at]).collect::<Vec<f64>>();
        let mut swapped = column(&found.swapped, 1);
        if index == 0 {
            let least_effect = between(&found.articles, &column(&found.own, 0));
            let supported = between(&swapped, &column(&found.own, 1));
            swapped.sort_by(f64::total_cmp);
            let partly = swapped[(swapped.len() * 9 / 10).min(swapped.len() - 1)].min(supported);
            println!(
                "{folder} gives: least effect {least_effect:.2e}, supported from {supported:.3}, partly from {partly:.3}"
            );
        }
        let (limits, percent) = (Thresholds::default(), |share: f64| format!("{:.1} %", 100.0 * share));
        println!("\n{folder}, with {limits:?}:");
        println!(
            "  {} articles reach the least effect: {}; {} nouns do not: {}",
            found.articles.len(),
            percent(share(&found.articles, |effect| effect >= limits.least_effect)),
            found.own.len(),
            percent(share(&found.own, |[effect, ..]| effect < limits.least_effect)),
        );
        for (name, rows) in [("own maps", &found.own), ("swapped maps", &found.swapped)] {
            let is = |verdict: Verdict| {
                percent(share(rows, |[effect, iou, control]| limits.decide(effect, iou, control) == verdict))
            };
            println!(
                "  {} {name}: supported {}, partly {}, not supported {}",
                rows.len(),
                is(Verdict::Supported),
                is(Verdict::Partly),
                is(Verdict::NotSupported)
            );
        }
        for (name, all) in &found.agreement {
            let mean = |of: &dyn Fn(&Agreement) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
            println!(
                "  {name} against the causal maps: overlap of the highest fifths {:.3}, Spearman {:.3}, share of the change in the attended fifth {:.3}",
                mean(&|found| found.iou_top),
                mean(&|found| found.spearman.unwrap_or(0.0)),
                mean(&|found| found.drop),
            );
        }
    }
    Ok(())
}

/// The verdicts of `attnmap explain` with its defaults on every prompt of an evaluation, with the seed that it was drawn with.
fn prompts(pipeline: &Pipeline, file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).map_err(Error::io(file))?;
    let wrong = |reason: String| Error::option("evaluation.json", reason);
    let list: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let list = list["images"].as_array().ok_or_else(|| wrong("has no images".into()))?;
    let mut table: BTreeMap<&str, BTreeMap<Verdict, usize>> = BTreeMap::new();
    let go = || ControlFlow::Continue(());
    for entry in list {
        let text = entry["prompt"].as_str().ok_or_else(|| wrong("an image has no prompt".into()))?;
        let seed = entry["seed"].as_u64().ok_or_else(|| wrong("an image has no seed".into()))?;
        let prompt = pipeline.tokenize(text)?;
        let options = Options { seeds: vec![seed], ..pipeline.default_options() };
        let keep = Keep { per_step: false, ..Keep::default() };
        let (traced, _) = pipeline.trace(&prompt, &options, keep, &mut |_| ControlFlow::Continue(()))?;
        let trajectory = replay(pipeline, &prompt, &options, &mut { go })?;
        let words = &traced[0].trace.about.prompt.words;
        let maps = aggregate(&traced[0].trace, &Aggregate::default(), words)?;
        let at = spread_steps(8, trajectory.timesteps.len());
        let steps: Vec<(&Tensor, f64)> =
            at.iter().map(|&step| (&trajectory.inputs[step], trajectory.timesteps[step])).collect();
        let kind = |word: &WordInfo| match role(&word.text) {
            _ if ARTICLES.contains(&word.text.as_str()) => Some("articles"),
            Role::Content => Some("nouns"),
            Role::Adjective => Some("adjectives"),
            Role::Filler | Role::Probe => None,
        };
        let tested: Vec<usize> = (0..words.len()).filter(|&word| kind(&words[word]).is_some()).collect();
        let chosen: Vec<&WordInfo> = tested.iter().map(|&word| &words[word]).collect();
        let changes = cut(pipeline, &options, &prompt, &chosen, &steps)?;
        let drawn: Vec<usize> = tested.iter().copied().filter(|&word| kind(&words[word]) != Some("articles")).collect();
        for (&word, change) in tested.iter().zip(&changes) {
            // The next word that could be drawn, as `explain` has it.
            let place = drawn.iter().position(|&drawn| drawn == word);
            let other = place.filter(|_| drawn.len() > 1).map(|place| drawn[(place + 1) % drawn.len()]);
            let image = &traced[0].generation.image;
            let judged = judge(&maps, word, other, &change.map, change.effect, image);
            let kind = kind(&words[word]).unwrap_or_default();
            *table.entry(kind).or_default().entry(judged.verdict).or_default() += 1;
        }
    }
    println!("{} prompts with {:?}", list.len(), Thresholds::default());
    for (kind, verdicts) in &table {
        let all: usize = verdicts.values().sum();
        let shares = [Verdict::Supported, Verdict::Partly, Verdict::NotSupported].map(|verdict| {
            let count = verdicts.get(&verdict).copied().unwrap_or(0);
            format!("{} {count} ({:.1} %)", verdict.name(), 100.0 * count as f64 / all as f64)
        });
        println!("{all} {kind}: {}", shares.join(", "));
    }
    Ok(())
}
