//! How often what `attnmap facts` and `attnmap compare` say of a run is wrong: the table of
//! ACCURACY.md, with the default checkpoint.
//!
//! `cargo run --release --example statements -- models/default/evaluation.json
//! tests/data/scenes/final`
//!
//! False alarms are counted on what is right, hits on what is wrong. The scenes have masks, which
//! say where things lie. A relation is right as the masks have it and wrong turned around. A thing
//! moved from one scene to another as its masks say. The held-out prompts of the model card come
//! with a judge's word on whether the things, their colours and the relation were drawn. Prompts
//! count as right where all their things were. One thing of each is also replaced by a word that
//! the checkpoint never saw, which cannot be drawn. The first half of the prompts chooses
//! thresholds. The other half, with other words and seeds, does not. Colours go to the nouns that
//! the prompt gives them, and to the other thing where the pairs are swapped.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::evidence::accuracy::{TIMESTEPS, read_scenes};
use attnmap::facts::lexicon::{self, Direction, Role};
use attnmap::facts::{self, APART, Facts, WordFacts};
use attnmap::heatmap::{Aggregate, THRESHOLD};
use attnmap::pipeline::{LoadOptions, LookOptions, Options, Pipeline, RecordOptions};
use attnmap::trace::{Grid, PromptInfo, Trace};
use attnmap::{Error, Result};
use candle_core::Tensor;

/// Names of which ten are taken that are not in the checkpoint's world: those that thresholds are
/// chosen on, and others.
const UNKNOWN: [[&str; 12]; 2] = [
    [
        "zebra",
        "truck",
        "helicopter",
        "piano",
        "wizard",
        "castle",
        "robot",
        "guitar",
        "sandwich",
        "dragon",
        "lorry",
        "volcano",
    ],
    [
        "camel", "ladder", "anchor", "violin", "soldier", "bridge", "teapot", "violet", "pirate", "walrus", "lobster",
        "canoe",
    ],
];

/// How often a statement was made: of what is right, and of what is wrong.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    false_alarms: usize,
    right: usize,
    hits: usize,
    wrong: usize,
}

/// The counts by the statement's name.
#[derive(Debug, Default)]
struct Counts {
    counts: BTreeMap<String, Count>,
    /// Contrasts of words that were drawn and of words that cannot be, by the part of the prompts.
    contrasts: BTreeMap<&'static str, [Vec<f32>; 2]>,
}

impl Counts {
    /// Whether `statement` was `said` of what is right. Each count is a line on stderr, so that a
    /// part of a long measurement counts too.
    fn right(&mut self, statement: &str, said: bool) {
        eprintln!("{statement}\tright\t{said}");
        let count = self.counts.entry(statement.to_owned()).or_default();
        count.right += 1;
        count.false_alarms += usize::from(said);
    }

    /// The same of what is wrong.
    fn wrong(&mut self, statement: &str, said: bool) {
        eprintln!("{statement}\twrong\t{said}");
        let count = self.counts.entry(statement.to_owned()).or_default();
        count.wrong += 1;
        count.hits += usize::from(said);
    }

    /// Neglect of a word that was `drawn` or cannot be.
    fn neglect(&mut self, part: &'static str, word: &WordFacts, drawn: bool) {
        let (statement, said) = (format!("probably not drawn, {part}"), word.neglected == Some(true));
        if drawn {
            self.right(&statement, said)
        } else {
            self.wrong(&statement, said)
        }
        let [of_drawn, of_others] = self.contrasts.entry(part).or_default();
        if drawn { of_drawn.extend(word.contrast) } else { of_others.extend(word.contrast) }
    }
}

fn main() -> Result<()> {
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
    let known = checkpoint.defaults.vocabulary.clone().unwrap_or_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        return Err(Error::input("statements", "give evaluation.json, folders of scenes, or both"));
    }
    let mut counts = Counts::default();
    for place in args.iter().map(Path::new) {
        match place.is_dir() {
            true => scenes(&pipeline, place, &mut counts)?,
            false => prompts(&pipeline, place, &known, &mut counts)?,
        }
    }
    println!("| statement | false alarms on what is right | hits on what is wrong |\n| --- | --- | --- |");
    for (name, count) in &counts.counts {
        let share = |part: usize, all: usize| match all {
            0 => "-".to_owned(),
            all => format!("{part} of {all} ({:.1} %)", 100.0 * part as f64 / all as f64),
        };
        println!("| {name} | {} | {} |", share(count.false_alarms, count.right), share(count.hits, count.wrong));
    }
    for (part, contrasts) in &mut counts.contrasts {
        contrasts.iter_mut().for_each(|values| values.sort_by(f32::total_cmp));
        let at = |values: &[f32], share: f64| {
            values.get((share * values.len() as f64) as usize).copied().unwrap_or_default()
        };
        println!("contrast, {part}: shares of 0, 1, 5, 10, 25, 50, 75, 90 % lie below");
        for (name, values) in ["drawn", "cannot be drawn"].iter().zip(contrasts.iter()) {
            let shares = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9];
            println!("  {name}: {}", shares.map(|share| format!("{:.2}", at(values, share))).join(", "));
        }
        let [drawn, others] = contrasts;
        for bound in [5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 8.5] {
            let below = |values: &[f32]| values.partition_point(|contrast| *contrast < bound);
            let (alarms, hits) = (below(drawn), below(others));
            println!("  below {bound}: {alarms} of {} drawn, {hits} of {} that cannot be", drawn.len(), others.len());
        }
    }
    Ok(())
}

/// Whether a colour of `facts` is said to go elsewhere, for each pair of the prompt.
fn leaks(facts: &Facts) -> Vec<bool> {
    facts.leakage.iter().map(facts::Leakage::tells).collect()
}

/// The centre of a mask, in shares of the image's sides: across and down.
fn centre(mask: &[bool], image: Grid) -> [f32; 2] {
    let (mut sum, mut count) = ([0.0f64; 2], 0.0f64);
    for (pixel, _) in mask.iter().enumerate().filter(|(_, inside)| **inside) {
        sum[0] += (pixel % image.width) as f64 + 0.5;
        sum[1] += (pixel / image.width) as f64 + 0.5;
        count += 1.0;
    }
    let count = count.max(1.0);
    [(sum[0] / count / image.width as f64) as f32, (sum[1] / count / image.height as f64) as f32]
}

/// Relations and moves against the masks of the scenes in `folder`.
fn scenes(pipeline: &Pipeline, folder: &Path, counts: &mut Counts) -> Result<()> {
    // Where each noun lies: by its map and by its mask.
    let mut seen: BTreeMap<String, Vec<[[f32; 2]; 2]>> = BTreeMap::new();
    for (index, scene) in read_scenes(folder)?.iter().enumerate() {
        let prompt = pipeline.tokenize(&scene.caption)?;
        let info = PromptInfo::from(&prompt);
        let image = Grid::new(scene.image.height() as usize, scene.image.width() as usize);
        let look = LookOptions { levels: TIMESTEPS.to_vec(), seed: index as u64, ..LookOptions::default() };
        let options = pipeline.look_run(image, &look);
        let noised = pipeline.noise_picture(&scene.image, &look)?;
        let calls: Vec<(&Tensor, f64)> = noised.iter().map(|noised| (&noised.latent, noised.timestep as f64)).collect();
        let trace = pipeline.observe(&prompt, &options, &calls)?;
        let found = facts::of_trace(&trace, &Aggregate::default(), THRESHOLD, None, &[], &[])?;
        let objects: Vec<([f32; 2], [f32; 2])> = scene
            .objects
            .iter()
            .filter_map(|object| {
                let word = info.words.iter().position(|word| object.range == (word.start..word.end))?;
                let by_map = found.words[word].layout.centroid?;
                let by_mask = centre(&object.mask, image);
                let places = seen.entry(object.word.to_lowercase()).or_default();
                places.push([[by_map.x, by_map.y], by_mask]);
                Some(([by_map.x, by_map.y], by_mask))
            })
            .collect();
        for (at, (map, mask)) in objects.iter().enumerate() {
            for (other_map, other_mask) in &objects[at + 1..] {
                for axis in 0..2 {
                    let (by_map, by_mask) = (map[axis] - other_map[axis], mask[axis] - other_mask[axis]);
                    if by_mask.abs() < APART {
                        continue;
                    }
                    // The prompt says what the masks have: it is denied where the maps have the
                    // opposite. Turned around, it should be.
                    let denied = |says: f32| by_map.abs() >= APART && by_map * says < 0.0;
                    counts.right("relation denied, masks", denied(by_mask));
                    counts.wrong("relation denied, masks", denied(-by_mask));
                }
            }
        }
    }
    // Every two scenes of the same thing: what lies where it lay, and what does not.
    for places in seen.values() {
        let pairs = (0..places.len()).flat_map(|a| (0..a).map(move |b| (places[a], places[b])));
        for ([map, mask], [other_map, other_mask]) in pairs {
            let by = |a: [f32; 2], b: [f32; 2]| (a[0] - b[0]).abs().max((a[1] - b[1]).abs());
            let (said, truth) = (by(map, other_map) >= APART, by(mask, other_mask));
            // Half a threshold to either side is neither.
            if truth < 0.5 * APART {
                counts.right("moved, masks", said);
            } else if truth >= 1.5 * APART {
                counts.wrong("moved, masks", said);
            }
        }
    }
    Ok(())
}

/// Relations, neglect and colours on the prompts of an evaluation.
fn prompts(pipeline: &Pipeline, file: &Path, known: &[String], counts: &mut Counts) -> Result<()> {
    let bytes = std::fs::read(file).map_err(Error::io(file))?;
    let wrong = |reason: String| Error::input("statements", format!("{}: {reason}", file.display()));
    let read: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let images = read["images"].as_array().ok_or_else(|| wrong("no `images`".into()))?;
    let is_thing = |word: &str| {
        lexicon::role(word) == Role::Content && !lexicon::sets_the_scene(word) && known.iter().any(|k| k == word)
    };
    // Those that chose nothing come first.
    let first = images.len() / 2;
    let unknown = UNKNOWN.map(|names| {
        let new = names.into_iter().filter(|name| !known.iter().any(|known| known == name));
        new.take(10).collect::<Vec<_>>()
    });
    if let Some(images) = read["unknown"].as_array() {
        beside_unknown(pipeline, images, counts)?;
    }
    let (chose, others) = images.split_at(first);
    let others = others.iter().enumerate().map(|(index, image)| (first + index, image));
    for (index, image) in others.chain(chose.iter().enumerate()) {
        let set = usize::from(index >= first);
        let part = ["first prompts", "other prompts"][set];
        let prompt = image["prompt"].as_str().ok_or_else(|| wrong("an image without `prompt`".into()))?;
        let seed = image["seed"].as_u64().unwrap_or(0);
        // A comma is a word of its own here, as it is a token.
        let spaced = prompt.replace(',', " ,");
        let words: Vec<&str> = spaced.split(' ').collect();

        // The picture that was judged.
        let run = self::run(pipeline, prompt, seed)?;
        let told = facts_of(&run, None)?;
        // Of the small world the file says `objects`.
        let drawn = image.get("things").or(image.get("objects")) == Some(&true.into());
        let things: Vec<usize> = (0..words.len()).filter(|&at| is_thing(words[at])).collect();
        for stated in told.stated.iter().filter(|_| drawn) {
            let denied = format!("relation denied, {part}");
            let opposite = stated.claim.relation != Direction::Inside && stated.agrees == Some(true);
            match image["relation"].as_bool() {
                Some(true) => {
                    counts.right(&denied, stated.agrees == Some(false));
                    counts.wrong(&denied, opposite);
                }
                // Of three things the judge does not say which of the relations was missed.
                Some(false) if things.len() == 2 => counts.wrong(&denied, stated.agrees == Some(false)),
                _ => {}
            }
        }
        let colours = format!("colour may go elsewhere, {part}");
        if drawn && image["colours"].as_bool() != Some(false) {
            leaks(&told).into_iter().for_each(|said| counts.right(&colours, said));
        }
        // The scene described: it is no thing, and no colour can have gone there.
        let described =
            words.iter().find_map(|&word| Some((word, DESCRIBED.iter().find(|(scene, _)| *scene == word)?.1)));
        if let Some((scene, adjective)) = described.filter(|_| drawn) {
            let prompt = prompt.replacen(scene, &format!("{adjective} {scene}"), 1);
            let told = facts_of(&self::run(pipeline, &prompt, seed)?, None)?;
            let said =
                |at: &str| told.leakage.iter().any(|leak| leak.tells() && (leak.follows == at || leak.noun == at));
            counts.right(&format!("colour may go to or from a described scene, {part}"), said(scene));
        }
        // Every colour given to another thing than the prompt gives it to.
        let pairs = lexicon::bindings(&words);
        let swapped = pairs.iter().filter_map(|&(adjective, noun)| {
            let other = things.iter().find(|&&thing| thing != noun)?;
            Some(format!("{}:{}", words[adjective], words[*other]))
        });
        let swapped: Vec<String> = swapped.collect();
        if drawn && !swapped.is_empty() {
            let told = facts_of(&run, Some(&swapped.join(",")))?;
            leaks(&told).into_iter().for_each(|said| counts.wrong(&colours, said));
        }

        let seed = seed + 5000 * set as u64;
        let told = if set == 0 { told } else { facts_of(&self::run(pipeline, prompt, seed)?, None)? };
        for word in told.words.iter().filter(|word| is_thing(&word.word) && image.get("things") != Some(&false.into()))
        {
            counts.neglect(part, word, true);
        }
        let Some(&place) = things.get(index % things.len().max(1)) else { continue };
        let unknown = unknown[set][index % unknown[set].len()];
        let mut other = words.clone();
        other[place] = unknown;
        let told = facts_of(&self::run(pipeline, &other.join(" "), seed)?, None)?;
        for word in told.words.iter().filter(|word| word.word == unknown) {
            counts.neglect(part, word, false);
        }
    }
    Ok(())
}

/// Neglect beside a word that the checkpoint never saw: what was drawn there all the same is in the
/// evaluation.
fn beside_unknown(pipeline: &Pipeline, images: &[serde_json::Value], counts: &mut Counts) -> Result<()> {
    for (index, image) in images.iter().enumerate() {
        let part = ["first prompts", "other prompts"][usize::from(2 * index >= images.len())];
        let (Some(prompt), Some(seed)) = (image["prompt"].as_str(), image["seed"].as_u64()) else { continue };
        let told = facts_of(&run(pipeline, prompt, seed)?, None)?;
        let drawn = |word: &str| image["drawn"].as_array().is_some_and(|drawn| drawn.iter().any(|one| one == word));
        let name = format!("probably not drawn beside an unknown word, {part}");
        for word in &told.words {
            if drawn(&word.word) {
                counts.right(&name, word.neglected == Some(true));
            } else if image["word"] == *word.word {
                counts.wrong(&name, word.neglected == Some(true));
            }
        }
    }
    Ok(())
}

/// What describes a word for the whole scene.
const DESCRIBED: [(&str, &str); 5] =
    [("beach", "sunny"), ("grass", "green"), ("snow", "white"), ("night", "dark"), ("desert", "yellow")];

/// The trace of a run of `prompt`, as `attnmap generate` records it, but for single steps.
fn run(pipeline: &Pipeline, prompt: &str, seed: u64) -> Result<Trace> {
    let options = Options { seeds: vec![seed], ..pipeline.default_options() };
    let prompt = pipeline.prompt(prompt, &options)?;
    let keep = RecordOptions { per_step: false, ..RecordOptions::default() };
    let (mut runs, _) = pipeline.trace(&prompt, &options, keep, &mut |_| ControlFlow::Continue(()))?;
    Ok(runs.swap_remove(0).trace)
}

/// Its facts, with the pairs of `bind` where they are given.
fn facts_of(run: &Trace, bind: Option<&str>) -> Result<Facts> {
    facts::of_trace(run, &Aggregate::default(), THRESHOLD, bind, &[], &[])
}
