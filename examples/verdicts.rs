//! How the thresholds of `attnmap explain` were found and how often its two answers err: the tables
//! of ACCURACY.md, with the default checkpoint.
//!
//! `cargo run --release --example verdicts -- scenes tests/data/scenes/select
//! tests/data/scenes/report tests/data/scenes/final` prints the thresholds that the first folder
//! gives. It also prints the rates of error of those in use on each.
//!
//! `cargo run --release --example verdicts -- prompts models/default/evaluation.json` gives both
//! answers on the held-out prompts. Every image is drawn again without each word. The first half
//! chooses what counts as changed, the other half does not. A last argument N
//! takes every N-th prompt alone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::evidence;
use attnmap::evidence::accuracy::{TIMESTEPS, read_scenes};
use attnmap::evidence::{
    Agreement, Change, Cut, Mattered, Row, Shows, Thresholds, WordEvidence, changes, judge, replay, spread_steps,
};
use attnmap::facts::lexicon::{Role, role, sets_the_scene};
use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::pipeline::{LoadOptions, LookOptions, Options, Pipeline, RecordOptions};
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
        ["prompts", file] => prompts(&pipeline, Path::new(file), 1),
        ["prompts", file, every] => prompts(&pipeline, Path::new(file), every.parse().unwrap_or(1)),
        _ => Err(Error::input("verdicts", "give `scenes FOLDER...` or `prompts evaluation.json [N]`")),
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

/// The threshold that makes the share of `low` at or above it plus the share of `high` below it
/// least. Of several it is the middle, in logarithms.
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
            let shown = between(&swapped, &column(&found.own, 1));
            swapped.sort_by(f64::total_cmp);
            let partly = swapped[(swapped.len() * 9 / 10).min(swapped.len() - 1)].min(shown);
            let mut effects = column(&found.own, 0);
            effects.sort_by(f64::total_cmp);
            let much = effects[effects.len() / 10];
            println!(
                "{folder} gives: effect least {least_effect:.2e}, much from {much:.2e}; map shows from {shown:.3}, \
                partly from {partly:.3}"
            );
        }
        let (limits, percent) = (Thresholds::default(), |share: f64| format!("{:.1} %", 100.0 * share));
        println!("\n{folder}, with {limits:?}:");
        let own = column(&found.own, 0);
        for (name, effects) in [("articles", &found.articles), ("nouns", &own)] {
            let is = |which| percent(share(effects, |effect| limits.mattered(effect, None) == which));
            println!(
                "  {} {name} mattered, by the prediction: not at all {}, a little {}, much {}",
                effects.len(),
                is(Mattered::NotAtAll),
                is(Mattered::ALittle),
                is(Mattered::Much)
            );
        }
        for (name, rows) in [("own maps", &found.own), ("swapped maps", &found.swapped)] {
            let answer = |[effect, iou, control]: [f64; 3]| limits.shows(limits.mattered(effect, None), iou, control);
            let is = |which| percent(share(rows, |row| answer(row) == which));
            println!(
                "  {} {name} show where: yes {}, partly {}, no {}, nothing to show {}",
                rows.len(),
                is(Shows::Yes),
                is(Shows::Partly),
                is(Shows::No),
                is(Shows::Nothing)
            );
        }
        for (name, all) in &found.agreement {
            let mean = |of: &dyn Fn(&Agreement) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
            println!(
                "  {name} against the causal maps: overlap of the highest fifths {:.3}, Spearman {:.3}, share of \
                the change in the attended fifth {:.3}",
                mean(&|found| found.iou_top),
                mean(&|found| found.spearman.unwrap_or(0.0)),
                mean(&|found| found.drop),
            );
        }
    }
    Ok(())
}

/// What `attnmap explain` answers with its defaults on every `step`-th prompt of an evaluation,
/// with the seed that it was drawn with. The first prompts choose thresholds.
fn prompts(pipeline: &Pipeline, file: &Path, step: usize) -> Result<()> {
    let bytes = std::fs::read(file).map_err(Error::io(file))?;
    let wrong = |reason: String| Error::input("evaluation.json", reason);
    let list: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let list = list["images"].as_array().ok_or_else(|| wrong("has no images".into()))?;
    let first = list.len() / 2;
    let mut found: [BTreeMap<&str, Vec<WordEvidence>>; 2] = Default::default();
    for (index, entry) in list.iter().enumerate().step_by(step.max(1)) {
        let text = entry["prompt"].as_str().ok_or_else(|| wrong("an image has no prompt".into()))?;
        let seed = entry["seed"].as_u64().ok_or_else(|| wrong("an image has no seed".into()))?;
        let words = found.get_mut(usize::from(index >= first)).ok_or_else(|| wrong("no such part".into()))?;
        for (kind, word) in explained(pipeline, text, seed)? {
            // So that a part of a long measurement counts too.
            let (mattered, shows) = (word.mattered.name(), word.shows.name());
            let changed = word.changed.unwrap_or(f64::NAN);
            eprintln!("{index}\t{kind}\t{}\t{:.3e}\t{changed:.4}\t{mattered}\t{shows}", word.word, word.effect);
            words.entry(kind).or_default().push(word);
        }
    }
    let percent = |part: usize, all: usize| format!("{:.1} %", 100.0 * part as f64 / all.max(1) as f64);
    let changed = |words: &[WordEvidence]| words.iter().filter_map(|word| word.changed).collect::<Vec<f64>>();
    let of = |kind: &str| found[0].get(kind).map_or(Vec::new(), |words| changed(words));
    let mut things = of("things");
    things.sort_by(f64::total_cmp);
    if let (Some(tenth), Some(quarter)) = (things.get(things.len() / 10), things.get(things.len() / 4)) {
        println!(
            "the first {first} give: image changed least {:.2e}; nine tenths of the things change {tenth:.3} or \
             more, three quarters {quarter:.3} (much)",
            between(&of("articles"), &things),
        );
    }
    println!("with {:?}", Thresholds::default());
    for (part, found) in ["chosen on", "not chosen on"].iter().zip(&found) {
        for (kind, words) in found {
            let mattered = |which| percent(words.iter().filter(|word| word.mattered == which).count(), words.len());
            let shows = |which| percent(words.iter().filter(|word| word.shows == which).count(), words.len());
            println!(
                "{part}, {} {kind}: mattered much {}, a little {}, not at all {}; map shows where: yes {}, partly \
                {}, no {}, nothing {}",
                words.len(),
                mattered(Mattered::Much),
                mattered(Mattered::ALittle),
                mattered(Mattered::NotAtAll),
                shows(Shows::Yes),
                shows(Shows::Partly),
                shows(Shows::No),
                shows(Shows::Nothing),
            );
            let nothing = words.iter().filter(|word| word.changed < Some(0.01) && word.shows != Shows::Nothing).count();
            println!("  said to show something where less than 1 % of the image changes: {nothing}");
        }
    }
    Ok(())
}

/// The tested words of a run of `text` by their kind: things and scenes, adjectives, and the
/// prompt's first article.
fn explained(pipeline: &Pipeline, text: &str, seed: u64) -> Result<Vec<(&'static str, WordEvidence)>> {
    let prompt = pipeline.tokenize(text)?;
    let options = Options { seeds: vec![seed], ..pipeline.default_options() };
    let keep = RecordOptions { per_step: false, ..RecordOptions::default() };
    let (traced, _) = pipeline.trace(&prompt, &options, keep, &mut |_| ControlFlow::Continue(()))?;
    let trajectory = replay(pipeline, &prompt, &options, &mut || ControlFlow::Continue(()))?;
    let words = &traced[0].trace.about.prompt.words;
    let maps = aggregate(&traced[0].trace, &Aggregate::default(), words)?;
    let at = spread_steps(8, trajectory.timesteps.len());
    let steps: Vec<(&Tensor, f64)> =
        at.iter().map(|&step| (&trajectory.inputs[step], trajectory.timesteps[step])).collect();
    let first = words.iter().position(|word| ARTICLES.contains(&word.text.as_str()));
    let kind = |at: usize| match role(&words[at].text) {
        _ if Some(at) == first => Some("articles"),
        Role::Content if sets_the_scene(&words[at].text) => Some("scenes"),
        Role::Content => Some("things"),
        Role::Adjective => Some("adjectives"),
        Role::Filler | Role::Probe => None,
    };
    let tested: Vec<usize> = (0..words.len()).filter(|&word| kind(word).is_some()).collect();
    let chosen: Vec<&WordInfo> = tested.iter().map(|&word| &words[word]).collect();
    let changes = cut(pipeline, &options, &prompt, &chosen, &steps)?;
    let placed: Vec<(usize, WordInfo)> = tested.iter().map(|&word| (word, words[word].clone())).collect();
    let rows = chosen.iter().map(|word| Row::cut(pipeline, &prompt, &[word], Cut::Substitute));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let image = &traced[0].generation.image;
    let go = &mut || ControlFlow::Continue(());
    let without = evidence::without(pipeline, &prompt, &options, &placed, &rows, Cut::Substitute, image, go)?;
    let drawn: Vec<usize> = tested.iter().copied().filter(|&word| kind(word) != Some("articles")).collect();
    let judged = tested.iter().zip(&changes).zip(&without).filter_map(|((&word, change), (without, _))| {
        // The next word that could be drawn, as `explain` has it.
        let place = drawn.iter().position(|&drawn| drawn == word);
        let other = place.filter(|_| drawn.len() > 1).map(|place| drawn[(place + 1) % drawn.len()]);
        let mut judged = judge(&maps, word, other, &change.map, change.effect, image);
        judged.answer(Some(without.area));
        Some((kind(word)?, judged))
    });
    Ok(judged.collect())
}
