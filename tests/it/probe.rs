//! Words that are not in the prompt: their numbers against torch, and that the image does not know
//! of them.

use std::fs;
use std::path::{Path, PathBuf};

use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::pipeline::{Options, Pipeline, RecordOptions, Traced};
use attnmap::trace::{Half, TokenKind, Trace};
use candle_core::Device;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::{attnmap, generate, refused, walk};
use crate::traced::{fixtures, load, traced};

#[derive(Debug, Deserialize)]
struct Case {
    checkpoint: String,
    prompt: String,
    negative: String,
    probes: Vec<String>,
    counts: Vec<usize>,
    width: usize,
    height: usize,
    guidance_scale: f64,
    steps: usize,
    seed: u64,
}

fn run(pipeline: &Pipeline, prompt: &str, options: &Options) -> Vec<Traced> {
    traced(pipeline, prompt, options, RecordOptions::default())
}

#[test]
fn a_place_is_asked_about_in_either_half_and_within_areas() {
    let (made, _folder, run) = generate("a red apple", &["--negative", "rain", "--trace-negative"]);
    assert!(made.status.success());
    let run = run.display().to_string();
    let ask = |more: &[&str]| -> Vec<Value> {
        let output = attnmap(&[&["ask", &run, "--box", "0,0,64,64", "--json"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let words = |parts: &[Value]| -> Vec<String> {
        parts.iter().filter(|part| part["special"] == false).map(|part| part["word"].as_str().unwrap().into()).collect()
    };
    assert_eq!(words(&ask(&["--half", "unconditional"])), ["rain"]);
    // The negative prompt's words are not cut, so that no test is offered.
    for (half, offered) in [("conditional", true), ("unconditional", false)] {
        let asked = attnmap(&["ask", &run, "--at", "1,1", "--half", half]);
        let text = String::from_utf8(asked.stdout).unwrap();
        assert!(text.contains("not why") && text.contains("attnmap explain RUN") == offered, "{text}");
    }
    let record: Value = serde_json::from_slice(&fs::read(Path::new(&run).join("run.json")).unwrap()).unwrap();
    // Of everything, the part in a word's area is the word's area.
    let parts = ask(&[]);
    assert_eq!(words(&parts).len(), 3);
    for part in parts.iter().filter(|part| part["special"] == false) {
        let word = record["words"].as_array().unwrap().iter().find(|word| word["text"] == part["word"]).unwrap();
        assert!((part["in_area"].as_f64().unwrap() - word["area"].as_f64().unwrap()).abs() < 1e-6, "{part}");
    }
    let low = ask(&["--threshold", "0.01"]);
    let area = |parts: &[Value]| parts.iter().filter_map(|part| part["in_area"].as_f64()).sum::<f64>();
    assert!(area(&low) > area(&parts), "a lower threshold takes more in");
    refused(&attnmap(&["ask", &run, "--at", "1,1", "--threshold", "2"]), 2, &["--threshold", "between 0 and 1"]);
    let (_, _folder, plain) = generate("a red apple", &[]);
    let plain = plain.display().to_string();
    let asked = attnmap(&["ask", &plain, "--at", "1,1", "--half", "unconditional"]);
    refused(&asked, 2, &["--half", "--trace-negative"]);
}

#[test]
fn probes_equal_torch_and_leave_the_image_alone() {
    let cases: std::collections::BTreeMap<String, Case> =
        serde_json::from_slice(&fs::read(fixtures().join("probes.json")).unwrap()).unwrap();
    let expected = candle_core::safetensors::load(fixtures().join("probes.safetensors"), &Device::Cpu).unwrap();
    for (name, case) in cases {
        let pipeline = load(&case.checkpoint);
        let options = Options {
            negative: case.negative,
            steps: case.steps,
            guidance_scale: case.guidance_scale,
            seeds: vec![case.seed],
            height: case.height,
            width: case.width,
            ..pipeline.default_options()
        };
        let without = run(&pipeline, &case.prompt, &options).remove(0);
        let options = Options { probes: case.probes, ..options };
        let with = run(&pipeline, &case.prompt, &options).remove(0);

        // The very same bits: latent, image, and every number of the prompt's own maps.
        assert_eq!(with.generation.image, without.generation.image, "{name}");
        let bits = |traced: &Traced| traced.generation.latent.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(bits(&with), bits(&without), "{name}");
        let (with, without) = (with.trace.recording, without.trace.recording);
        assert!(without.probes.is_none());
        for (a, b) in with.conditional.sites.iter().zip(&without.conditional.sites) {
            assert!(a.sum[..] == b.sum[..] && a.steps.as_deref() == b.steps.as_deref(), "{name}");
        }

        let probes = with.probes.unwrap();
        assert_eq!(probes.tokens, case.counts.iter().sum::<usize>());
        let mut worst = 0f32;
        for (site, maps) in with.sites.iter().zip(&probes.sites) {
            let truth = &expected[&format!("{name}/{}", site.path)];
            assert_eq!(truth.dims(), [site.heads, probes.tokens, site.height, site.width], "{name}: {}", site.path);
            let truth = truth.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let off = maps.sum.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            let top = truth.iter().copied().fold(0f32, f32::max);
            assert!(off <= 1e-3 * top, "{name}: {} is off by {off} of {top}", site.path);
            worst = worst.max(off / top);
            // Steps hold the same, averaged over the heads.
            let steps = maps.steps.as_ref().unwrap();
            let cells = probes.tokens * site.height * site.width;
            for cell in 0..cells {
                let from_heads: f32 = maps.sum.iter().skip(cell).step_by(cells).sum::<f32>() / site.heads as f32;
                let from_steps: f32 = steps.iter().skip(cell).step_by(cells).map(|v| v.to_f32()).sum();
                assert!((from_heads - from_steps).abs() < 5e-3, "{name}: {from_heads} {from_steps}");
            }
        }
        println!("{name}: probes are off by {worst:.1e} of a site's maximum");
    }
}

fn options(pipeline: &Pipeline, probes: &[&str]) -> Options {
    Options {
        steps: 2,
        height: 64,
        width: 96,
        probes: probes.iter().map(ToString::to_string).collect(),
        ..pipeline.default_options()
    }
}

#[test]
fn probes_do_not_compete_with_each_other_and_batches_hold_each_image() {
    let pipeline = load("tiny-sd1");
    let both = Options { seeds: vec![3, 4], ..options(&pipeline, &["frog", "a dark shadow"]) };
    let both = run(&pipeline, "a red apple", &both);
    for (image, seed) in [3, 4].into_iter().enumerate() {
        for (probe, text, channels) in [(0, "frog", 0..1), (1, "a dark shadow", 1..4)] {
            let alone = Options { seeds: vec![seed], ..options(&pipeline, &[text]) };
            let alone = run(&pipeline, "a red apple", &alone).remove(0).trace.recording.probes.unwrap();
            let together = both[image].trace.recording.probes.as_ref().unwrap();
            for ((site, a), b) in both[image].trace.recording.sites.iter().zip(&alone.sites).zip(&together.sites) {
                let pixels = site.height * site.width;
                for head in 0..site.heads {
                    let part = head * together.tokens + channels.start;
                    let a = &a.sum[head * alone.tokens * pixels..][..alone.tokens * pixels];
                    let b = &b.sum[part * pixels..][..alone.tokens * pixels];
                    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(off < 1e-4, "probe {probe} of image {image} at {}: {off}", site.path);
                }
            }
        }
    }
}

#[test]
fn a_trace_keeps_its_probes_and_words_name_them() {
    let pipeline = load("tiny-sd1");
    let traced = run(&pipeline, "a red apple", &options(&pipeline, &["Apple", "dark shadow"])).remove(0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.safetensors");
    traced.trace.save(&path).unwrap();
    let trace = Trace::load(&path).unwrap();
    trace.verify().unwrap();
    assert_eq!(trace.about, traced.trace.about);
    let (kept, made) = (trace.recording.probes.as_ref().unwrap(), traced.trace.recording.probes.as_ref().unwrap());
    for (a, b) in kept.sites.iter().zip(&made.sites) {
        assert!(a.sum[..] == b.sum[..] && a.steps.as_deref() == b.steps.as_deref());
    }
    assert!(trace.about.probes.iter().all(|probe| probe.tokens.iter().all(|token| token.kind == TokenKind::Text)));

    let names = |choice: &str| -> Vec<String> {
        let words = trace.select(Half::Conditional, choice).unwrap();
        words.iter().map(|word| word.label()).collect()
    };
    // A word of the prompt is meant unless it is called a probe, or is none.
    assert_eq!(names("apple,probe:apple,dark shadow"), ["apple", "probe:Apple", "probe:dark shadow"]);
    let all: Vec<String> = trace.words(Half::Conditional).iter().map(|word| word.text.clone()).collect();
    assert_eq!(all, ["a", "red", "apple", "probe:Apple", "probe:dark shadow"]);
    let error = trace.select(Half::Conditional, "tail").unwrap_err().to_string();
    assert!(error.contains("\"tail\" is not in the prompt") && error.contains("probe:dark shadow"), "{error}");
    assert!(trace.select(Half::Unconditional, "probe:apple").is_err(), "probes belong to the prompt's half");

    // A probe's share is what it would take; the prompt's own shares are whole without it.
    for name in ["daam", "compete", "all"] {
        let words = trace.words(Half::Conditional);
        let maps = aggregate(&trace, &Aggregate::named(name).unwrap(), &words).unwrap();
        assert!((maps.shares.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{name}");
        assert_eq!(maps.probe_shares.len(), kept.tokens);
        for (index, word) in words.iter().enumerate() {
            let share = maps.share(word);
            assert!(share > 0.0 && share < 1.0, "{name}: {} has {share}", word.text);
            assert!(maps.word(index).iter().all(|value| (0.0..=2.5).contains(value)), "{name}: {}", word.text);
        }
        // A word of several tokens has the attention of all of them; DAAM's maps are their mean.
        let (cells, token) = (maps.grid.cells(), |token: usize| maps.probes[token * maps.grid.cells()..].iter());
        let count = words.last().unwrap().tokens.len();
        let of = if name == "daam" { count as f32 } else { 1.0 };
        let sum = (0..cells).map(|cell| (1..=count).map(|at| token(at).nth(cell).unwrap()).sum::<f32>() / of);
        let (shadow, sum) = (maps.word(words.len() - 1), sum.collect::<Vec<f32>>());
        match name {
            // What competes keeps its peak.
            "compete" => {
                let highest = |map: &[f32]| map.iter().copied().fold(0.0, f32::max);
                assert!((highest(shadow) - highest(&sum)).abs() < 1e-5);
            }
            _ => assert!(shadow.iter().zip(&sum).all(|(a, b)| (a - b).abs() < 1e-5), "{name}"),
        }
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_run_labels_its_probes() {
    let (plain, _kept, without) = generate("a red apple", &["--size", "96x64"]);
    let (output, _folder, out) = generate("a red apple", &["--size", "96x64", "--probe", "frog, apple,FROG"]);
    assert!(plain.status.success() && output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pixels = |folder: &Path| image::open(folder.join("image.png")).unwrap().to_rgb8();
    assert!(pixels(&out) == pixels(&without), "the image knows nothing of the probes");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("probe:frog") && table.contains("probe:apple") && table.contains("not in the prompt"),
        "{table}"
    );
    assert!(!String::from_utf8_lossy(&plain.stdout).contains("probe"));

    let (record, before) = (json(&out.join("run.json")), json(&without.join("run.json")));
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|word| word["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(&record["words"]), ["a", "red", "apple"]);
    assert_eq!(record["words"], before["words"], "the words' own numbers stay");
    assert_eq!(record["tokens"], before["tokens"]);
    assert_eq!(texts(&record["probes"]), ["probe:frog", "probe:apple"]);
    assert!(before.get("probes").is_none());
    for probe in record["probes"].as_array().unwrap() {
        let overlay = probe["overlay"].as_str().unwrap();
        assert!(overlay.contains("probe") && out.join(overlay).is_file(), "{overlay}");
    }
    let maps = fs::read(out.join("heatmaps.safetensors")).unwrap();
    let maps = safetensors::SafeTensors::deserialize(&maps).unwrap();
    assert_eq!(maps.tensor("probes").unwrap().shape(), [2, 16, 24]);
    assert_eq!(maps.tensor("words").unwrap().shape(), [3, 16, 24]);

    // Other choices from the trace: the probe alone, and a name that is neither.
    let run = out.display().to_string();
    let only = attnmap(&["view", &run, "--words", "frog", "--json"]);
    let only: Value = serde_json::from_slice(&only.stdout).unwrap();
    assert_eq!((texts(&only["words"]).len(), texts(&only["probes"])), (0, vec!["probe:frog".to_owned()]));
    refused(&attnmap(&["view", &run, "--words", "tail"]), 2, &["tail", "probe:frog"]);
    let asked = attnmap(&["ask", &run, "--at", "10,10", "--json"]);
    let asked: Value = serde_json::from_slice(&asked.stdout).unwrap();
    let row = |name: &str| asked.as_array().unwrap().iter().find(|part| part["word"] == name).unwrap().clone();
    assert_eq!((row("probe:frog")["probe"].clone(), row("apple")["probe"].clone()), (true.into(), false.into()));
}

#[test]
fn the_page_shows_probes_apart_and_facts_leave_them_out() {
    let (output, _folder, out) = generate("a red apple", &["--probe", "frog,dark shadow", "--size", "96x64"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let data = attnmap::report::from_run(&out).unwrap();
    assert_eq!(data.words.len(), 3);
    let names: Vec<&str> = data.probes.iter().map(|probe| probe.text.as_str()).collect();
    assert_eq!(names, ["frog", "dark shadow"]);
    let (tokens, channels) = (data.tokens.len(), data.channels());
    assert_eq!(data.probes.last().unwrap().tokens.last(), Some(&(channels - 1)));
    // The probes' channels follow the padding's at every head and step, as the trace has them.
    let trace = Trace::load(&out.join("trace.safetensors")).unwrap();
    let probes = trace.recording.probes.as_ref().unwrap();
    for (site, (own, asked)) in data.sites.iter().zip(trace.recording.conditional.sites.iter().zip(&probes.sites)) {
        let cells = site.height * site.width;
        for head in 0..site.heads {
            let page = &site.by_head[head * channels * cells..][..channels * cells];
            assert_eq!(page[..(tokens + 1) * cells], own.sum[head * (tokens + 1) * cells..][..(tokens + 1) * cells]);
            assert_eq!(
                page[(tokens + 1) * cells..],
                asked.sum[head * probes.tokens * cells..][..probes.tokens * cells]
            );
        }
        let (steps, asked) = (site.by_step.as_ref().unwrap(), asked.steps.as_ref().unwrap());
        let page = &steps[channels * cells..][(tokens + 1) * cells..channels * cells];
        assert_eq!(page, &asked[probes.tokens * cells..][..probes.tokens * cells], "the second step");
    }
    assert_eq!(data.official.unwrap().words.len(), (3 + 2) * 16 * 24);

    let run = out.display().to_string();
    let facts = |more: &[&str]| -> Value {
        serde_json::from_slice(&attnmap(&[&["facts", &run, "--json"], more].concat()).stdout).unwrap()
    };
    let (plain, named) = (facts(&[]), facts(&["--words", "frog"]));
    let words = |facts: &Value| -> Vec<String> {
        facts["words"].as_array().unwrap().iter().map(|word| word["word"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(words(&plain), ["a", "red", "apple"]);
    assert_eq!(words(&named), ["a", "red", "apple", "probe:frog"]);
    assert_eq!((&plain["relations"], &plain["leakage"]), (&named["relations"], &named["leakage"]));
    assert_eq!((&named["words"][3]["role"], &named["words"][3]["neglected"]), (&"probe".into(), &Value::Null));
}

#[test]
fn probes_that_are_none_are_refused_and_unknown_ones_warn() {
    for probe in ["", " , ,"] {
        let (output, _folder, _) = generate("a red apple", &["--probe", probe]);
        refused(&output, 2, &["--probe", "names no word"]);
    }
    let error = load("tiny-sd1").probe(" ").unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("holds no word"), "{error}");
    let long = vec!["apple"; 90].join(" ");
    let (output, _folder, _) = generate("a red apple", &["--probe", &long]);
    refused(&output, 2, &["--probe", "longer"]);

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run").display().to_string();
    let output = attnmap(&["generate", "a red apple", "--steps", "2", "--probe", "helicopter", "--out", &out]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("never saw: helicopter"), "{text}");
}

/// Every file of a run folder but those that name the command or the time.
fn numbers(run: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let files = walk(run).into_iter().filter(|file| !file.ends_with("run.json") && !file.ends_with("report.html"));
    files.map(|file| (file.strip_prefix(run).unwrap().to_owned(), fs::read(&file).unwrap())).collect()
}

#[test]
fn words_asked_later_are_those_asked_at_first() {
    let picture = fixtures().join("pictures/rgb.png").display().to_string();
    let model = fixtures().join("tiny-sd1").display().to_string();
    let own = ["--model", &model, "--steps", "2", "--size", "96x64"];
    let look = ["trace", &picture, "a red apple", "--model", &model, "--size", "96x64"];
    let guided = ["--negative", "rain", "--trace-negative", "--self-attention"];
    let cases: [(&[&str], &[&str]); 6] = [
        (&["generate", "a red apple"], &own),
        (&["generate", "a red apple", "--words", "apple", "--seed", "3", "--style", "contour"], &own),
        (&["generate", "a red apple", "--masks", "--outline", "svg", "--outline", "json"], &own),
        (&["generate", "a red apple", "--no-step-maps", "--guidance", "3"], &[&own[..], &guided].concat()),
        (&["generate", "a red apple, a hat", "--by", "tag"], &own),
        (&look, &[]),
    ];
    for (command, more) in cases {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (first, later) = (at("first"), at("later"));
        let first_at = first.clone();
        let make = |more_still: &[&str]| {
            let output = attnmap(&[command, more, more_still].concat());
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        make(&["--probe", "frog,dark shadow", "--out", &first]);
        make(&["--out", &later]);
        let before = json(&Path::new(&later).join("run.json"));
        let image = fs::read(Path::new(&later).join("image.png")).unwrap();
        for words in ["frog", "dark shadow,FROG"] {
            let output = attnmap(&["probe", &later, "--words", words]);
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let (a, b) = (numbers(Path::new(&first)), numbers(Path::new(&later)));
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{command:?}");
        for (name, bytes) in &a {
            assert!(*bytes == b[name], "{command:?}: {} differs", name.display());
        }
        assert_eq!(image, fs::read(Path::new(&later).join("image.png")).unwrap());
        let (first, after) = (json(&Path::new(&first).join("run.json")), json(&Path::new(&later).join("run.json")));
        for name in ["words", "probes", "tokens", "facts", "settings", "display", "aggregate", "warnings"] {
            assert_eq!(first[name], after[name], "{command:?}: {name}");
        }
        let regions = |run: &str| {
            let folder = Path::new(run).join("regions");
            let found = if folder.is_dir() { walk(&folder) } else { Vec::new() };
            let files = found.into_iter().filter(|path| path.is_file());
            let files: Vec<_> =
                files.map(|path| (path.strip_prefix(&folder).unwrap().to_owned(), fs::read(&path).unwrap())).collect();
            files.into_iter().collect::<std::collections::BTreeMap<_, _>>()
        };
        assert!(regions(&first_at) == regions(&later), "{command:?}: regions differ");
        assert_eq!(before["words"], after["words"], "the words' own numbers stay");
        let command = after["command"].as_str().unwrap();
        assert!(command.ends_with("--probe 'frog,dark shadow'"), "{command}");
        let page = fs::read_to_string(Path::new(&later).join("report.html")).unwrap();
        assert!(page.contains("dark shadow"));
    }
}

#[test]
fn what_cannot_be_asked_later_is_refused_and_changes_nothing() {
    let (made, _folder, run) = generate("a red apple", &["--probe", "frog"]);
    assert!(made.status.success());
    let path = run.display().to_string();
    let files = || walk(&run).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect::<Vec<_>>();
    let before = files();
    let asked = attnmap(&["probe", &path, "--words", "Frog", "--json"]);
    assert!(asked.status.success() && String::from_utf8_lossy(&asked.stderr).contains("already"));
    refused(&attnmap(&["probe", &path, "--words", " ,"]), 2, &["--words", "names no word"]);
    let long = vec!["apple"; 90].join(" ");
    refused(&attnmap(&["probe", &path, "--words", &long]), 2, &["--words", "longer"]);
    let other = fixtures().join("tiny-sd2").display().to_string();
    refused(&attnmap(&["probe", &path, "--words", "hat", "--model", &other]), 2, &["--model"]);
    assert!(before == files());
    // Another image than the run's own seed gives.
    let mut record = json(&run.join("run.json"));
    record["settings"]["seed"] = 4.into();
    fs::write(run.join("run.json"), record.to_string()).unwrap();
    let before = files();
    refused(&attnmap(&["probe", &path, "--words", "hat"]), 1, &["cannot be made again exactly"]);
    assert!(before == files());
    record["kind"] = "record".into();
    fs::write(run.join("run.json"), record.to_string()).unwrap();
    refused(&attnmap(&["probe", &path, "--words", "hat"]), 2, &["another program", "probe must make"]);
}

#[test]
fn probes_go_with_every_other_option() {
    for more in
        [&["--images", "2"][..], &["--negative", "rain", "--trace-negative"], &["--guidance", "1"], &["--no-step-maps"]]
    {
        let (output, folder, _) = generate("a red apple", &[&["--size", "64x96", "--probe", "frog"], more].concat());
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        let runs: Vec<PathBuf> = walk(folder.path()).into_iter().filter(|path| path.ends_with("run.json")).collect();
        assert_eq!(runs.len(), if more[0] == "--images" { 2 } else { 1 });
        for run in runs {
            assert_eq!(json(&run)["probes"][0]["text"], "probe:frog", "{more:?}");
            let trace = Trace::load(&run.with_file_name("trace.safetensors")).unwrap();
            trace.verify().unwrap();
            assert_eq!(trace.recording.probes.unwrap().tokens, 1);
        }
    }
}
