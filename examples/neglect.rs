//! How often `attnmap facts` calls a thing neglected that is drawn, and one that cannot be: the table of ACCURACY.md, with the default
//! checkpoint.
//!
//! `cargo run --release --example neglect -- models/default/evaluation.json`: the held-out prompts of the model card, of whose things 99 % are
//! drawn, as they stand and with one thing's name in each replaced by a word that the checkpoint never saw. The first 70 prompts chose the
//! threshold; the others, with other words and seeds, are what it was not chosen on.

use std::ops::ControlFlow;
use std::path::Path;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::facts::{self, lexicon};
use attnmap::heatmap::{Aggregate, THRESHOLD};
use attnmap::pipeline::{Keep, LoadOptions, Options, Pipeline};
use attnmap::{Error, Result};

/// Names that are not in the default checkpoint's world: those that the threshold was chosen on, and others.
const UNKNOWN: [[&str; 10]; 2] = [
    ["zebra", "truck", "helicopter", "piano", "wizard", "castle", "robot", "guitar", "sandwich", "dragon"],
    ["camel", "ladder", "anchor", "violin", "soldier", "bridge", "teapot", "violet", "pirate", "walrus"],
];

/// How many prompts chose the threshold.
const CHOSEN_ON: usize = 70;

fn main() -> Result<()> {
    let file = std::env::args().nth(1).ok_or_else(|| Error::option("neglect", "give evaluation.json"))?;
    let bytes = std::fs::read(&file).map_err(Error::io(Path::new(&file)))?;
    let wrong = |reason: String| Error::option("neglect", format!("{file}: {reason}"));
    let read: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let images = read["images"].as_array().ok_or_else(|| wrong("no `images`".into()))?;

    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
    let known = checkpoint.defaults.vocabulary.clone().unwrap_or_default();
    let is_thing = |word: &str| {
        lexicon::role(word) == lexicon::Role::Content
            && !lexicon::sets_the_scene(word)
            && known.iter().any(|k| k == word)
    };
    // Peaks as shares of the highest filler's: of things that are drawn, and of words that cannot be.
    let mut shares: [[Vec<f32>; 2]; 2] = Default::default();
    for (index, image) in images.iter().enumerate() {
        let set = usize::from(index >= CHOSEN_ON);
        let prompt = image["prompt"].as_str().ok_or_else(|| wrong("an image without `prompt`".into()))?;
        let seed = image["seed"].as_u64().unwrap_or(0) + 5000 * set as u64;
        let words: Vec<&str> = prompt.split(' ').collect();
        let things: Vec<usize> = (0..words.len()).filter(|&at| is_thing(words[at])).collect();
        for word in told(&pipeline, prompt, seed)?.words {
            if is_thing(&word.word) {
                shares[set][0].extend(word.of_filler_peak);
            }
        }
        let Some(&place) = things.get(index % things.len().max(1)) else { continue };
        let unknown = UNKNOWN[set][index % 10];
        let mut other = words.clone();
        other[place] = unknown;
        let facts = told(&pipeline, &other.join(" "), seed)?;
        shares[set][1]
            .extend(facts.words.iter().filter(|word| word.word == unknown).filter_map(|word| word.of_filler_peak));
    }
    for (name, [drawn, unknown]) in ["chosen on", "not chosen on"].iter().zip(&shares) {
        let called = |shares: &[f32]| {
            let count = shares.iter().filter(|&&share| share < facts::NEGLECT).count();
            format!("{count} of {} ({:.1} %)", shares.len(), 100.0 * count as f64 / shares.len().max(1) as f64)
        };
        println!("{name}: called neglected of things drawn {}, of unknown words {}", called(drawn), called(unknown));
    }
    Ok(())
}

/// The facts of a run of `prompt`, as `attnmap generate` records them.
fn told(pipeline: &Pipeline, prompt: &str, seed: u64) -> Result<facts::Facts> {
    let options = Options { seeds: vec![seed], ..pipeline.default_options() };
    let prompt = pipeline.prompt(prompt, &options)?;
    let keep = Keep { per_step: false, ..Keep::default() };
    let (runs, _) = pipeline.trace(&prompt, &options, keep, &mut |_| ControlFlow::Continue(()))?;
    facts::of_trace(&runs[0].trace, &Aggregate::default(), THRESHOLD, None, &[], &[])
}
