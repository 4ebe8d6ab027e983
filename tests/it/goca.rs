//! GoCA's maps against an independent computation (`tests/fixtures/make_goca.py`), and what they
//! refuse.

use std::collections::BTreeMap;
use std::fs;

use attnmap::heatmap::{Aggregate, Filter, Heatmaps, Resampler, aggregate, shares};
use attnmap::pipeline::{Options, Pipeline, RecordOptions, Traced};
use attnmap::trace::{GocaMaps, Grid, Trace};
use candle_core::{Device, Tensor};
use half::f16;
use serde::Deserialize;

use crate::cli::{self, refused};
use crate::program::{attnmap, json};
use crate::traced::{fixtures, load, traced};

#[derive(Debug, Deserialize)]
struct Case {
    checkpoint: String,
    prompt: String,
    words: Vec<String>,
    width: usize,
    height: usize,
    guidance_scale: f64,
    steps: usize,
    seed: u64,
}

impl Case {
    fn traced(&self, pipeline: &Pipeline, goca: bool) -> Vec<Traced> {
        let options = Options {
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            seeds: vec![self.seed, self.seed + 1],
            height: self.height,
            width: self.width,
            ..pipeline.default_options()
        };
        traced(pipeline, &self.prompt, &options, RecordOptions { goca, ..RecordOptions::default() })
    }
}

fn worst(found: &[f32], truth: &Tensor) -> f32 {
    let truth = truth.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(found.len(), truth.len());
    found.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn weights_shares_and_words_equal_an_independent_computation() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&fs::read(fixtures().join("goca.json")).unwrap()).unwrap();
    let truth = candle_core::safetensors::load(fixtures().join("goca.safetensors"), &Device::Cpu).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, case) in cases {
        let pipeline = load(&case.checkpoint);
        let both = case.traced(&pipeline, true);
        // What is read back is what was written.
        let file = folder.path().join(format!("{name}.safetensors"));
        both[0].trace.save(&file).unwrap();
        let trace = Trace::load(&file).unwrap();
        trace.verify().unwrap();
        let kept = trace.recording.goca.as_ref().unwrap();
        let of = |what: &str| &truth[&format!("{name}/{what}")];
        for (what, found, tolerance) in [
            ("weights", &kept.weights[..], 1e-5),
            ("shares", &kept.shares[..], 1e-5),
            // f16
            ("self", &kept.self_attention.iter().map(|value| value.to_f32()).collect::<Vec<_>>()[..], 3e-4),
        ] {
            let off = worst(found, of(what));
            println!("{name}: {what} off by {off:.1e}");
            assert!(off < tolerance, "{name}: {what} is off by {off:e}");
        }
        let how = Aggregate::named("goca").unwrap();
        let words = case.words.iter().map(|word| trace.about.prompt.select(word).unwrap().remove(0));
        let words = words.collect::<Vec<_>>();
        let maps = aggregate(&trace, &how, &words).unwrap();
        // Once it is stretched, the last bit of f16 counts for much where random weights look at
        // everything alike. So the words are made of the very numbers, too.
        let floats = |what: &str| of(what).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let given = GocaMaps {
            shares: floats("shares").into(),
            self_attention: floats("self").into_iter().map(f16::from_f32).collect::<Vec<_>>().into(),
            ..kept.clone()
        };
        // What the last bit is worth: the very numbers, each moved by it up or down.
        let moved = |(at, value): (usize, &f16)| match at.wrapping_mul(2_654_435_761) >> 16 & 1 {
            0 => f16::from_bits(value.to_bits() + 1),
            _ => f16::from_bits(value.to_bits().saturating_sub(1)),
        };
        let last_bit = GocaMaps {
            self_attention: given.self_attention.iter().enumerate().map(moved).collect::<Vec<_>>().into(),
            ..given.clone()
        };
        let with = |goca: GocaMaps| {
            let mut other = trace.clone();
            other.recording.goca = Some(goca);
            aggregate(&other, &how, &words).unwrap()
        };
        let (exact, last_bit) = (with(given), with(last_bit));
        let resampler = Resampler::new(kept.grid, trace.about.latent, Filter::Bilinear);
        for word in 0..case.words.len() {
            let expected = of("words").get(word).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = Tensor::from_vec(resampler.resize(&expected), maps.grid.cells(), &Device::Cpu).unwrap();
            let per_step = |maps: &Heatmaps| -> Vec<f32> {
                maps.word(word).iter().map(|value| value / maps.steps as f32).collect()
            };
            let bit = worst(
                &per_step(&last_bit),
                &Tensor::from_vec(per_step(&exact), maps.grid.cells(), &Device::Cpu).unwrap(),
            );
            for (maps, tolerance) in [(&exact, 1e-4), (&maps, 1e-4 + bit)] {
                let found = per_step(maps);
                let off = worst(&found, &expected);
                println!("{name}: {} off by {off:.1e} of {tolerance:.1e}", case.words[word]);
                assert!(off < tolerance, "{name}: {} is off by {off:e}", case.words[word]);
            }
        }
        // The region of everything has the shares of the whole, which sum to 1.
        let whole = shares(&trace, &how, &|grid: Grid| vec![1.0; grid.cells()]).unwrap();
        assert!((whole.tokens.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(maps.own_shares.as_ref().unwrap()[..whole.tokens.len()], whole.tokens[..]);
        // Looking changes nothing, and each image has its own.
        let plain = case.traced(&pipeline, false);
        for (with, without) in both.iter().zip(&plain) {
            assert!(without.trace.recording.goca.is_none());
            assert_eq!(with.generation.image, without.generation.image, "{name}");
            let sums = |traced: &Traced| traced.trace.recording.conditional.sites[0].sum.to_vec();
            assert_eq!(sums(with), sums(without), "{name}");
        }
        assert_ne!(kept.shares[..], both[1].trace.recording.goca.as_ref().unwrap().shares[..]);
    }
}

#[test]
fn maps_by_goca_are_made_and_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = fixtures().join("tiny-sd1");
    let model = model.to_str().unwrap();
    let place = |name: &str| here.join(name).to_str().unwrap().to_owned();
    let run = |prompt: &str, name: &str, more: &[&str]| {
        let out = place(name);
        let own = ["generate", prompt, "--model", model, "--steps", "2", "--size", "64x64", "--out", &out];
        cli::attnmap(&[&own[..], more].concat())
    };
    let made = run("a red apple on the beach", "goca", &["--aggregate", "goca"]);
    assert!(made.status.success(), "{made:?}");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(here.join("goca/run.json")).unwrap()).unwrap();
    assert_eq!(record["maps"]["name"], "goca");
    let facts = json(here, &["facts", "goca", "--json"]);
    assert_eq!(facts["words"][2]["peak"]["value"], 1.0, "{facts}");
    attnmap(here, &["ask", "goca", "--at", "32,32"]);
    attnmap(here, &["check", "goca"]);
    attnmap(here, &["view", "goca", "--aggregate", "daam", "--out", "other"]);
    // The other half has nothing of what GoCA's maps are made of, so that its words are left out.
    let guided = run("a frog", "guided", &["--aggregate", "goca", "--negative", "rain", "--trace-negative"]);
    assert!(guided.status.success(), "{guided:?}");
    attnmap(here, &["view", "guided", "--half", "unconditional", "--aggregate", "daam", "--out", "negative"]);
    // Before the run, each with its way out.
    for (more, told) in [
        (&["--aggregate", "goca", "--heads", "0"][..], "--heads"),
        (&["--aggregate", "goca", "--layers", "up"], "--layers"),
        (&["--keep-goca", "--probe", "shadow"], "leave out --probe"),
        (&["--keep-goca", "--self-memory", "1KiB"], "--self-memory allows"),
    ] {
        refused(&run("a frog", "no", more), 2, &[told]);
    }
    assert!(run("a frog", "plain", &[]).status.success());
    let viewed = cli::attnmap(&["view", &place("plain"), "--aggregate", "goca", "--out", &place("no")]);
    refused(&viewed, 2, &["make it again with --keep-goca"]);
    assert!(!here.join("no").exists());
}
