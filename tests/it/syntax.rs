//! Weighted and long prompts: whole runs against diffusers given states made chunk by chunk, and
//! words that keep their places.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::evidence::{Cut, Row, context};
use attnmap::files::Target;
use attnmap::heatmap::{self, Aggregate};
use attnmap::pipeline::{LoadOptions, Options, Pipeline, RecordOptions, Traced};
use attnmap::prompt::{Prompt, Syntax};
use attnmap::render::Display;
use attnmap::report;
use attnmap::run::{self, NewRun, Pictures};
use attnmap::trace::{Half, PromptInfo, TokenKind, Trace, Unobserved};
use candle_core::{DType, Device, Tensor};
use half::slice::HalfFloatSliceExt;
use serde::Deserialize;

const ALL: Syntax = Syntax { emphasis: true, long: true };

#[derive(Debug, Deserialize)]
struct Case {
    checkpoint: String,
    prompt: String,
    negative: String,
    emphasis: bool,
    long: bool,
    seed: u64,
    guidance: f64,
    steps: usize,
    width: usize,
    height: usize,
    ids: Vec<Vec<u32>>,
    negative_ids: Vec<Vec<u32>>,
    weights: Vec<Vec<f32>>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn load(name: &str) -> Pipeline {
    let source = if name == "default" { Source::default() } else { Source::Folder(fixtures().join(name)) };
    let checkpoint = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
    Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference as a share of the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let most = expected.iter().copied().fold(0.0, |most: f32, value| most.max(value.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / most
}

fn trace(pipeline: &Pipeline, prompt: &Prompt, options: &Options) -> Traced {
    let keep = RecordOptions { unconditional: true, ..RecordOptions::default() };
    let (mut traced, _) = pipeline.trace(prompt, options, keep, &mut |_| ControlFlow::Continue(())).unwrap();
    traced.swap_remove(0)
}

/// The ids of each chunk from its start token to its first end token.
fn own_ids(prompt: &Prompt) -> Vec<Vec<u32>> {
    prompt.keys().into_iter().map(|keys| prompt.ids[keys].to_vec()).collect()
}

#[test]
fn weighted_and_long_runs_equal_diffusers() {
    let mut checked = 0;
    for entry in std::fs::read_dir(fixtures().join("syntax")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            check(&path);
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked} fixtures");
}

fn check(path: &Path) {
    let name = path.file_stem().unwrap().to_string_lossy();
    let case: Case = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let expected = candle_core::safetensors::load(path.with_extension("safetensors"), &Device::Cpu).unwrap();
    let pipeline = load(&case.checkpoint);
    let options = Options {
        negative: case.negative,
        syntax: Syntax { emphasis: case.emphasis, long: case.long },
        steps: case.steps,
        guidance_scale: case.guidance,
        seeds: vec![case.seed],
        height: case.height,
        width: case.width,
        ..pipeline.default_options()
    };
    let prompt = pipeline.prompt(&case.prompt, &options).unwrap();
    assert_eq!(own_ids(&prompt), case.ids, "{name}");
    if case.emphasis {
        for (chunk, (weights, keys)) in case.weights.iter().zip(prompt.keys()).enumerate() {
            let own = &prompt.weights[keys.start + 1..keys.end - 1];
            assert_eq!(own, weights, "{name}: weights of chunk {chunk}");
        }
    } else {
        assert!(prompt.weights.is_empty(), "{name}");
    }
    let states = difference(
        &values(&pipeline.conditioning(&[&prompt], &pipeline.default_options()).unwrap().hidden_states),
        &values(&expected["states"]),
    );
    assert!(states < 1e-4, "{name}: states are off by {states:e}");

    let Traced { generation, trace, .. } = trace(&pipeline, &prompt, &options);
    let negative = trace.about.negative.as_ref().unwrap();
    let ids: Vec<u32> = negative.tokens.iter().map(|token| token.id).collect();
    assert_eq!(ids, case.negative_ids.concat(), "{name}: negative prompt");
    let latents = difference(&values(&generation.latent), &values(&expected["latents"]));
    assert!(latents < 1e-4, "{name}: latents are off by {latents:e}");
    let image: Vec<u8> = expected["image"].flatten_all().unwrap().to_vec1().unwrap();
    let pixel = generation.image.as_raw().iter().zip(&image).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(pixel <= 2, "{name}: a pixel is off by {pixel}");

    let daam = Aggregate::named("daam").unwrap();
    for (half, tensor) in [(Half::Conditional, "heatmap"), (Half::Unconditional, "negative_heatmap")] {
        let maps = heatmap::aggregate(&trace, &Aggregate { half, ..daam.clone() }, &[]).unwrap();
        let off = difference(&maps.tokens, &values(&expected[tensor]));
        assert!(off < 1e-3, "{name}: {tensor} is off by {off}");
        println!("{name}: states {states:.1e}, latents {latents:.1e}, {tensor} {off:.1e}");
    }

    // Every row of the file sums to the number of steps, padding of all chunks included, and the
    // text encoder's rows to 1.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.safetensors");
    trace.save(&file).unwrap();
    let read = Trace::load(&file).unwrap();
    read.verify().unwrap();
    assert_eq!(read.about, trace.about);
    let tokens = prompt.tokens.len();
    for layer in &read.recording.text {
        for row in layer.probabilities.to_f32_vec().chunks(tokens) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 2e-3, "{name}: {row:?}");
        }
    }
}

#[test]
fn plain_prompts_are_what_they_were() {
    let pipeline = load("tiny-sd1");
    let text = "a ((red)) apple \\(x\\) [of] BREAK (y:1.3)";
    assert_eq!(pipeline.prompt(text, &pipeline.default_options()).unwrap(), pipeline.tokenize(text).unwrap());
    // Text without syntax is read alike by all.
    let text = "a red apple to the left of a green frog, on the beach";
    let plain = pipeline.tokenize(text).unwrap();
    assert_eq!(pipeline.read(text, ALL).unwrap(), Prompt { syntax: ALL, ..plain });
}

#[test]
fn words_keep_their_places_in_the_text_as_typed() {
    let pipeline = load("tiny-sd1");
    let text = r"a (red:1.3) apple and ((a \(green\) frog)) BREAK [red] hairclip";
    let prompt = pipeline.read(text, ALL).unwrap();
    let words: Vec<&str> = prompt.words.iter().map(|word| &text[word.range.clone()]).collect();
    assert_eq!(words, ["a", "red", "apple", "and", "a", "(", "green", ")", "frog", "red", "hairclip"]);
    assert!(prompt.words.iter().all(|word| word.text == text[word.range.clone()]));
    for token in prompt.tokens.iter().filter(|token| token.kind == TokenKind::Text) {
        assert_eq!(prompt.ids[token.position], token.id);
    }

    // A phrase is found across its syntax and names what was read.
    let names = |choice: &str| -> Vec<(String, Vec<usize>)> {
        prompt.select(choice).unwrap().into_iter().map(|word| (word.label(), word.tokens)).collect()
    };
    let token = |word: &str, occurrence| {
        let found = prompt.words.iter().find(|w| w.text == word && w.occurrence == occurrence);
        found.unwrap().tokens.clone()
    };
    assert_eq!(names("red apple"), [("red apple".into(), [token("red", 1), token("apple", 1)].concat())]);
    assert_eq!(names("red#2"), [("red#2".into(), token("red", 2))]);
    assert_eq!(names("a (green) frog").len(), 1);
    assert_eq!(names("frog red")[0].1, [token("frog", 1), token("red", 2)].concat());

    // Each chunk has a start and an end of its own, which are not padding.
    let (starts, ends) = (names("<start>"), names("<end>"));
    assert_eq!((starts[0].0.as_str(), starts[1].0.as_str()), ("<start>", "<start>#2"));
    assert_eq!(starts[1].1[0], ends[0].1[0] + 1);
    assert_eq!(prompt.tokens[starts[1].1[0]].position, 77);
    assert_eq!(names("<end>#2")[0].1, [prompt.tokens.len() - 1]);
}

#[test]
fn what_does_not_fit_into_a_long_prompt_is_named() {
    let pipeline = load("default");
    let text = "frog ".repeat(16 * 30) + "and a hairclip";
    let prompt = pipeline.read(&text, ALL).unwrap();
    assert_eq!((prompt.chunks().len(), prompt.chunk_length, prompt.ids.len()), (16, 32, 16 * 32));
    assert_eq!(prompt.cut_off, ["and", "a", "hairclip"]);
    assert_eq!(prompt.words.len(), 16 * 30);
    // Ten thousand words, every one a bracket deeper, take no time worth noticing.
    let begun = std::time::Instant::now();
    pipeline.read(&"(frog ".repeat(10_000), ALL).unwrap();
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

/// The keys that a cut leaves out, or replaces, are those of the word's own chunk.
#[test]
fn cuts_reach_into_every_chunk() {
    let pipeline = load("tiny-sd1");
    let options = Options { syntax: ALL, steps: 2, height: 64, width: 64, ..pipeline.default_options() };
    let prompt = pipeline.prompt("a red apple BREAK (a green:1.2) frog", &options).unwrap();
    let info = PromptInfo::from(&prompt);
    let frog = info.words.iter().find(|word| word.text == "frog").unwrap();
    let positions: Vec<usize> = frog.tokens.iter().map(|&token| prompt.tokens[token].position).collect();
    assert!(positions.iter().all(|&position| position > 77));

    let substituted = Row::cut(&pipeline, &prompt, &[frog], Cut::Substitute).unwrap();
    let changed = |(position, _): &(usize, &u32)| prompt.ids[*position] != substituted.prompt().ids[*position];
    let changed: Vec<usize> = substituted.prompt().ids.iter().enumerate().filter(changed).map(|(at, _)| at).collect();
    assert_eq!(changed, positions);
    assert_eq!(substituted.prompt().weights, prompt.weights);

    // A dropped word leaves text, weights and chunks otherwise as they are.
    let dropped = Row::cut(&pipeline, &prompt, &[frog], Cut::Drop).unwrap();
    assert_eq!(own_ids(dropped.prompt())[0], own_ids(&prompt)[0]);
    assert_eq!(own_ids(dropped.prompt())[1].len() + frog.tokens.len(), own_ids(&prompt)[1].len());

    // Whole, masked and without the only word of a chunk: rows of one batch, whatever each one's
    // number of chunks.
    let whole = Row::whole(&prompt);
    let second: Vec<_> = info.words.iter().filter(|word| word.tokens[0] > 4).collect();
    let rows = [whole, Row::cut(&pipeline, &prompt, &[frog], Cut::Mask).unwrap(), substituted, dropped];
    let context = context(&pipeline, &rows, &pipeline.default_options()).unwrap();
    assert_eq!((context.batch(), context.tokens()), (4, 154));
    let latent = Tensor::zeros((4, 4, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let output = pipeline.predict_once(&latent, 500.0, &context, &mut Unobserved).unwrap();
    let rows: Vec<Vec<f32>> = (0..4).map(|row| values(&output.get(row).unwrap())).collect();
    for row in 1..4 {
        let off = difference(&rows[row], &rows[0]);
        assert!(off > 1e-5, "cut {row} changes nothing");
    }
    let emptied = Row::cut(&pipeline, &prompt, &second, Cut::Drop).unwrap();
    assert!(emptied.prompt().chunks().len() <= 2);
}

#[test]
fn a_prompt_read_by_another_syntax_is_refused() {
    let pipeline = load("tiny-sd1");
    let options = Options { syntax: ALL, ..pipeline.default_options() };
    let prompt = pipeline.tokenize("a red apple").unwrap();
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    let error = pipeline.generate(&prompt, &options, &mut Unobserved, quiet).unwrap_err().to_string();
    assert!(error.contains("read by another syntax"), "{error}");
}

/// The sheet and the page have the words of both halves, each half on a scale of its own;
/// everything else is the prompt's alone.
#[test]
fn words_of_the_negative_prompt_are_shown_too() {
    let pipeline = load("tiny-sd1");
    let options = Options {
        negative: "rain BREAK a (box:1.2)".into(),
        syntax: ALL,
        steps: 2,
        height: 48,
        width: 64,
        ..pipeline.default_options()
    };
    let prompt = pipeline.prompt("a red apple", &options).unwrap();
    let mut traced = trace(&pipeline, &prompt, &options);
    let folder = tempfile::tempdir().unwrap();
    let (aggregate, display) = (Aggregate::default(), Display { overlay_size: 64, ..Display::default() });
    let write = |traced: &Traced, name: &str| {
        let new = NewRun {
            kind: attnmap::run::RunKind::Generate,
            pictures: Pictures {
                trace: &traced.trace,
                image: &traced.generation.image,
                aggregate: &aggregate,
                display: &display,
                words: None,
            },
            by: Default::default(),
            settings: pipeline.settings(&options, 0),
            negative: Some(options.negative.clone()),
            command: String::new(),
            expect: None,
            cut_off: Vec::new(),
            warnings: Vec::new(),
            timings: Default::default(),
        };
        let (folder, record) =
            run::write_run(&Target::named(folder.path().join(name), false), &new, |_, _, _| Ok(())).unwrap();
        let sheet = image::image_dimensions(folder.join("words.png")).unwrap();
        assert_eq!(std::fs::read_dir(folder.join("overlays")).unwrap().count(), 3);
        assert_eq!(record.words.len(), 3);
        (report::from_run(&folder).unwrap(), sheet)
    };
    let (page, sheet) = write(&traced, "both");
    let negative = page.negative_words.unwrap();
    let words: Vec<&str> = negative.words.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(words, ["rain", "a", "box"]);
    let typed: String = negative.segments.iter().map(|segment| segment.text.as_str()).collect();
    assert_eq!(typed, options.negative);
    let other = Aggregate { half: Half::Unconditional, ..aggregate.clone() };
    let maps = heatmap::aggregate(&traced.trace, &other, &[]).unwrap();
    // Only the tokens that the words have; here two chunks, with a start and an end token each
    // between them.
    let (half, prompt) = traced.trace.half(Half::Unconditional).unwrap();
    let kept: Vec<usize> = prompt.words.iter().flat_map(|word| word.tokens.clone()).collect();
    let expected = prompt.words.iter().flat_map(|word| maps.map_of(word)).map(|value| value / maps.steps as f32);
    assert_eq!(negative.maps, expected.collect::<Vec<f32>>());
    assert_eq!(negative.shares, kept.iter().map(|&token| maps.shares[token]).collect::<Vec<_>>());
    // Behind the prompt's own channels at every site, head and step.
    let own = page.tokens.len() + 1;
    let recording = &traced.trace.recording;
    for ((site, shown), seen) in recording.sites.iter().zip(&page.sites).zip(&half.sites) {
        let cells = site.height * site.width;
        let plane = |values: &[f32], channels: usize, group: usize, channel: usize| {
            values[(group * channels + channel) * cells..][..cells].to_vec()
        };
        for (at, &token) in kept.iter().enumerate() {
            for head in 0..site.heads {
                let here = plane(&shown.by_head, own + kept.len(), head, own + at);
                assert_eq!(here, plane(&seen.sum, half.tokens + 1, head, token));
            }
            let steps = [shown.by_step.as_ref(), seen.steps.as_ref()].map(|steps| steps.unwrap().to_f32_vec());
            assert_eq!(plane(&steps[0], own + kept.len(), 1, own + at), plane(&steps[1], half.tokens + 1, 1, token));
        }
    }

    (traced.trace.recording.unconditional, traced.trace.about.negative) = (None, None);
    let (page, smaller) = write(&traced, "one");
    assert!(page.negative_words.is_none());
    assert!(smaller.0 * smaller.1 < sheet.0 * sheet.1, "{smaller:?} {sheet:?}");
}
