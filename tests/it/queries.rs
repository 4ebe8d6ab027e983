//! Queries and keys: their numbers against diffusers and transformers, the scores that they make,
//! their budget, and their file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use attnmap::pipeline::{Options, Pipeline, RecordOptions, Traced};
use attnmap::trace::{Queries, QueriesKeys, Site, Trace};
use candle_core::{Device, Tensor};
use half::f16;
use serde::Deserialize;

use crate::cli::{attnmap, generate, refused};
use crate::traced::{fixtures, load, traced};

#[derive(Debug, Deserialize)]
struct Case {
    checkpoint: String,
    site: String,
    prompt: String,
    width: usize,
    height: usize,
    guidance_scale: f64,
    steps: usize,
    seed: u64,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_slice(&fs::read(fixtures().join("queries.json")).unwrap()).unwrap()
}

impl Case {
    /// Two images of the run, in `steps` steps, with the queries of every site where `kept`.
    fn traced(&self, pipeline: &Pipeline, steps: usize, kept: bool) -> Vec<Traced> {
        let options = Options {
            steps,
            guidance_scale: self.guidance_scale,
            seeds: vec![self.seed, self.seed + 1],
            height: self.height,
            width: self.width,
            ..pipeline.default_options()
        };
        let queries = if kept { pipeline.query_sites(&options, None).unwrap() } else { Vec::new() };
        traced(pipeline, &self.prompt, &options, RecordOptions { queries, ..RecordOptions::default() })
    }
}

/// How far `found` is from `truth`, over the largest of it.
fn off(found: impl Iterator<Item = f16>, truth: &Tensor) -> f32 {
    let truth = truth.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let top = truth.iter().fold(0f32, |top, value| top.max(value.abs()));
    let mut count = 0;
    let pairs = found.zip(&truth).inspect(|_| count += 1);
    let worst = pairs.map(|(a, b)| (a.to_f32() - b).abs()).fold(0f32, f32::max);
    assert_eq!(count, truth.len());
    worst / top
}

#[test]
fn queries_and_keys_equal_diffusers_and_transformers() {
    let truth = candle_core::safetensors::load(fixtures().join("queries.safetensors"), &Device::Cpu).unwrap();
    for (name, case) in cases() {
        let pipeline = load(&case.checkpoint);
        let traced = case.traced(&pipeline, case.steps, true);
        let queries = traced[0].queries.as_ref().unwrap();
        let site = queries.sites.iter().find(|own| own.site.path == case.site).unwrap();
        let shape = [site.layer.heads, site.site.height, site.site.width, site.layer.head_dim];
        assert_eq!(truth[&format!("{name}/query")].dims(), shape, "{name}");
        // f16 has 11 bits.
        for (kind, values) in [("query", &site.layer.queries), ("key", &site.layer.keys)] {
            let off = off(values.iter().copied(), &truth[&format!("{name}/{kind}")]);
            println!("{name}: {kind} is off by {off:.1e} of the largest");
            assert!(off < 6e-4, "{name}: {kind} is off by {off}");
        }
        assert_ne!(site.layer.queries[..], traced[1].queries.as_ref().unwrap().sites[0].layer.queries[..]);
        assert_eq!(queries.encoders.len(), if name == "sdxl" { 2 } else { 1 });
        for encoder in &queries.encoders {
            let own = |layer: &QueriesKeys, kind: &str| -> Vec<f16> {
                if kind == "query" { layer.queries.to_vec() } else { layer.keys.to_vec() }
            };
            for kind in ["query", "key"] {
                let values = encoder.layers.iter().flat_map(|layer| own(layer, kind));
                let off = off(values, &truth[&format!("{name}/{}/{kind}", encoder.name)]);
                assert!(off < 6e-4, "{name}: {} {kind} is off by {off}", encoder.name);
            }
        }
        // Looking changes nothing: image and maps are the same to the bit.
        let plain = case.traced(&pipeline, case.steps, false);
        for (with, without) in traced.iter().zip(&plain) {
            assert!(without.queries.is_none());
            assert_eq!(with.generation.image, without.generation.image, "{name}");
            let sums = |traced: &Traced| traced.trace.recording.conditional.sites[0].sum.to_vec();
            assert_eq!(sums(with), sums(without), "{name}");
        }
    }
}

#[test]
fn soft_maxed_scores_are_the_recorded_probabilities_of_a_step() {
    for (name, case) in cases() {
        let pipeline = load(&case.checkpoint);
        // PNDM calls the network once more than it has steps, but for one step.
        let traced = case.traced(&pipeline, 1, true);
        for Traced { trace, queries, .. } in &traced {
            let queries = queries.as_ref().unwrap();
            assert_eq!((trace.steps(), queries.steps), (1, 1), "{name}");
            assert_eq!(queries.differs_from(trace), None, "{name}");
            let mut worst = 0f32;
            assert_eq!(queries.sites.len(), trace.recording.sites.len());
            for (own, maps) in queries.sites.iter().zip(&trace.recording.conditional.sites) {
                let (cells, tokens) = (own.layer.places(), trace.about.prompt.tokens.len());
                for (head, cell) in (0..own.layer.heads).flat_map(|head| (0..cells).map(move |cell| (head, cell))) {
                    let all = own.layer.log_sum_exp(head, cell, 0..queries.key_count);
                    // f16 rounds a query and a key by 2^-11 each, and so a product by twice that.
                    let sizes = (0..queries.key_count).map(|key| {
                        own.layer.products(head, cell, key).iter().map(|product| product.abs()).sum::<f32>()
                    });
                    let rounded = 1.01 * sizes.fold(0f32, f32::max) / 1024.0;
                    for token in 0..tokens {
                        let score = own.layer.score(head, cell, queries.key_of(token).unwrap());
                        let recorded = maps.sum[(head * (tokens + 1) + token) * cells + cell];
                        let found = (score - all).exp();
                        let off = (found - recorded).abs();
                        let most = found * ((2.0 * rounded).exp() - 1.0) + 1e-5;
                        assert!(off <= most, "{name}: {found} and {recorded}, which f16 brings {most} apart");
                        worst = worst.max(off);
                    }
                }
            }
            println!("{name}: probabilities are off by {worst:.1e}");
            // Heads of 4 channels and scores up to 27 let f16 show in the tiny SDXL.
            assert!(worst < if name == "sdxl" { 3e-3 } else { 1e-3 }, "{name}: {worst}");
            let text = [&trace.recording.text, &trace.recording.text_2];
            for (encoder, recorded) in queries.encoders.iter().zip(text) {
                let count = encoder.tokens();
                for (layer, own) in encoder.layers.iter().zip(recorded) {
                    for at in 0..layer.heads * count * count {
                        let (head, token, key) = (at / count / count, at / count % count, at % count);
                        let seen = encoder.seen_by(token);
                        let found = match seen.contains(&key) {
                            true => (layer.score(head, token, key) - layer.log_sum_exp(head, token, seen)).exp(),
                            false => 0.0,
                        };
                        let off = (found - own.probabilities[at].to_f32()).abs();
                        assert!(off < 1e-3, "{name}: {} is off by {off}", encoder.name);
                    }
                }
            }
        }
    }
}

/// The binary keeps them in a file of the run, which every command leaves or makes again.
#[test]
fn a_run_keeps_them_in_a_file_of_its_own() {
    let (output, folder, out) = generate("a red apple", &["--size", "96x64", "--keep-queries=8,4"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("queries and keys of 6 layers take up to "), "{said}");
    let file = out.join("queries.safetensors");
    let (queries, trace) = (Queries::load(&file).unwrap(), Trace::load(&out.join("trace.safetensors")).unwrap());
    assert_eq!((queries.differs_from(&trace), queries.faults()), (None, Vec::new()));
    assert_eq!(queries.sites.len(), 6);
    assert!(queries.sites.iter().all(|own| own.site.height < 16), "those of the chosen grids alone");
    assert_eq!(fs::metadata(&file).unwrap().len() as usize / 2 / queries.numbers(), 1, "two bytes a number");
    // What is read is what was kept, and the file is written alike.
    let again = folder.path().join("again.safetensors");
    queries.save(&again).unwrap();
    assert_eq!(fs::read(&file).unwrap(), fs::read(&again).unwrap());

    let run = out.display().to_string();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap();
    assert!(record["command"].as_str().unwrap().contains("--keep-queries=8,4"), "{}", record["command"]);
    assert!(attnmap(&["check", &run]).status.success());
    let before = fs::read(&file).unwrap();
    assert!(attnmap(&["probe", &run, "--words", "frog"]).status.success());
    assert_eq!(fs::read(&file).unwrap(), before, "probe leaves it");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<script id=\"queries\""), "the page has them");
    let other = folder.path().join("other").display().to_string();
    assert!(attnmap(&["view", &run, "--out", &other]).status.success());
    assert_eq!(fs::read(Path::new(&other).join("queries.safetensors")).unwrap(), before);

    // A file that is another run's, or damaged, is told by `check`; the page does without.
    let other_prompt = Queries { prompt: "a frog".into(), ..queries.clone() };
    other_prompt.save(&file).unwrap();
    assert_eq!(attnmap(&["check", &run]).status.code(), Some(1));
    let told = attnmap(&["check", &run]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned() + &String::from_utf8_lossy(&told.stderr);
    assert!(told.contains("queries.safetensors") && told.contains("its prompt is not that of the trace"), "{told}");
    fs::write(&file, &before[..before.len() / 2]).unwrap();
    assert!(attnmap(&["report", &run]).status.success());
    assert!(!fs::read_to_string(out.join("report.html")).unwrap().contains("<script id=\"queries\""));
    let told = attnmap(&["check", &run]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned() + &String::from_utf8_lossy(&told.stderr);
    assert!(told.contains("queries.safetensors"), "{told}");
}

#[test]
fn what_cannot_be_kept_is_refused_with_the_numbers_and_the_way_out() {
    let (output, _folder, _) = generate("a red apple", &["--keep-queries", "--query-memory", "20KiB"]);
    refused(&output, 2, &["--keep-queries: queries of 11 layers take", "20.0 KiB", "--query-memory", "=4"]);
    // Both ways out.
    for more in [["--keep-queries=4", "--query-memory=40KiB"], ["--keep-queries", "--query-memory=1MiB"]] {
        let (output, _folder, _) = generate("a red apple", &more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (output, _folder, _) = generate("a red apple", &["--keep-queries=5"]);
    refused(&output, 2, &["--keep-queries", "no layer of this run has that grid; it has 16x16, 8x8, 4x4"]);
    let (output, _folder, _) = generate("a red apple", &["--keep-queries=big"]);
    refused(&output, 2, &["--keep-queries", "no size"]);
    let (output, _folder, _) = generate("a red apple", &["--query-memory", "1MiB"]);
    refused(&output, 2, &["--keep-queries"]);
    let sd3 = load("tiny-sd3");
    let error = sd3.query_sites(&sd3.default_options(), None).unwrap_err().to_string();
    assert!(error.contains("keep_queries: in joint attention"), "{error}");
}

/// Of a page with too little room, grids are averaged down before a layer is left out; scores are
/// still the mean of the cells'.
#[test]
fn the_page_holds_what_fits_its_budget() {
    let case = &cases()["sd1"];
    let traced = case.traced(&load(&case.checkpoint), 2, true).swap_remove(0);
    let queries = traced.queries.unwrap();
    let (output, _folder, out) = generate(&case.prompt, &["--size", "64x32"]);
    assert!(output.status.success());
    let mut data = attnmap::report::from_run(&out).unwrap();
    data.tokens.truncate(traced.trace.about.prompt.tokens.len());
    let factors = |budget| {
        let packed = attnmap::report::queries::pack(&queries, &data, budget);
        let sites = packed.about["sites"].as_array().unwrap();
        let factors = sites.iter().map(|site| site["factor"].as_u64().unwrap()).collect::<Vec<_>>();
        (factors, packed.about["leftOut"].as_array().unwrap().len(), packed.base64.len())
    };
    let (all, left, whole) = factors(usize::MAX / 4);
    assert_eq!((all.iter().max(), left), (Some(&1), 0));
    let (some, left, less) = factors(30_000);
    assert!(some.contains(&2) && left == 0 && less < whole, "{some:?} {left}");
    let (_, left, least) = factors(8_000);
    assert!(left > 0 && least < 12_000, "{left} {least}");
}

/// Sites as the library's callers choose them.
#[test]
fn a_choice_of_sites_is_taken_by_path() {
    let pipeline = load("tiny-sd1");
    let mid = |site: &Site| site.path.starts_with("mid_block");
    let sites = pipeline.query_sites(&pipeline.default_options(), Some(&mid)).unwrap();
    assert_eq!(sites.len(), 1);
}
