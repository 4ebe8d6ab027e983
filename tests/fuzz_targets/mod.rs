//! What is done with one input of each fuzz target, for `fuzz/` (cargo-fuzz) and for
//! `tests/it/fuzz.rs` alike.
//!
//! A target holds the program to its rules on bad input and panics where they are broken. An error
//! is one line and names the file or option. A file that is being written is there whole or not at
//! all.

mod seed_run;

use attnmap::checkpoint::{Changes, Checkpoint, Embedding, Lora, OpenOptions, Part, Source};
use attnmap::gallery::{self, Axes, Plan, Replacement};
use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::pipeline::{LoadOptions, Pipeline};
use attnmap::prompt::Syntax;
use attnmap::run::Run;
use attnmap::trace::{Grid, Half, Trace};
use attnmap::{Error, facts, picture, report};
use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A kind of input.
pub struct Target {
    /// Its name in `fuzz/fuzz_targets` and in docs/FUZZING.md.
    pub name: &'static str,
    /// Good inputs, from which others are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Takes one input.
    pub take: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 11] = [
    Target { name: "trace", seeds: seed_run::traces, take: trace },
    Target { name: "run", seeds: run_seeds, take: run },
    Target { name: "picture", seeds: picture_seeds, take: picture },
    Target { name: "metadata", seeds: metadata_seeds, take: metadata },
    Target { name: "configs", seeds: config_seeds, take: configs },
    Target { name: "weights", seeds: weight_seeds, take: weights },
    Target { name: "lora", seeds: lora_seeds, take: lora },
    Target { name: "embedding", seeds: embedding_seeds, take: embedding },
    Target { name: "prompt", seeds: prompt_seeds, take: prompt },
    Target { name: "prompt_list", seeds: prompt_list_seeds, take: prompt_list },
    Target { name: "plan", seeds: plan_seeds, take: plan },
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|at| at.join("tests/fixtures"))
        .find(|at| at.is_dir())
        .unwrap()
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

/// Holds an error to its form: one line, a subject before the colon, and no exit code but those for
/// bad input.
#[track_caller]
fn one_line(error: &Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(['\n', '\r', '\u{1b}', '\0']), "{text:?}");
    assert!(text.len() < 4000, "{} bytes: {text}", text.len());
    assert!(matches!(error.exit_code(), 1 | 2), "{text}");
    assert!(!matches!(error, Error::Tensor(_)), "an inner message: {text}");
}

/// The value of a result whose error keeps to its form.
#[track_caller]
fn checked<T>(result: attnmap::Result<T>) -> Option<T> {
    result.inspect_err(one_line).ok()
}

/// A folder of this thread for one target, filled once by `fill`.
macro_rules! place {
    ($fill:expr) => {{
        thread_local! {
            static PLACE: OnceCell<TempDir> = const { OnceCell::new() };
        }
        PLACE.with(|place| {
            let made = || {
                let folder = tempfile::tempdir().unwrap();
                let fill: fn(&Path) = $fill;
                fill(folder.path());
                folder
            };
            place.get_or_init(made).path().to_path_buf()
        })
    }};
}

/// Names in `folder`, to see that none is left behind.
fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in names(from) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A trace file, alone.
pub fn trace(data: &[u8]) {
    let folder = place!(|_| ());
    let file = folder.join("trace.safetensors");
    fs::write(&file, data).unwrap();
    let Some(trace) = checked(Trace::load(&file)) else { return };
    let whole = checked(trace.verify()).is_some();
    for name in ["compete", "daam", "all"] {
        for half in [Half::Conditional, Half::Unconditional] {
            let how = Aggregate { half, ..Aggregate::named(name).unwrap() };
            let Some(maps) = checked(aggregate(&trace, &how, &trace.words(half))) else { continue };
            assert!(!whole || maps.words.iter().chain(&maps.shares).all(|value| value.is_finite()));
        }
        checked(facts::of_trace(&trace, &Aggregate::named(name).unwrap(), 0.5, None, &[], &[]));
    }
    let again = folder.join("again.safetensors");
    if checked(trace.save(&again)).is_some() {
        assert!(Trace::load(&again).is_ok(), "what was read is written so that it can be read");
    }
}

/// The files of a run that its page is made of; the first byte says which one the rest is.
const RUN_FILES: [&str; 3] = ["run.json", "heatmaps.safetensors", "evidence.json"];

fn run_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    seed_run::make(folder.path());
    let seed = |(index, name): (usize, &&str)| {
        [vec![index as u8], fs::read(folder.path().join(name)).unwrap_or_else(|_| seed_run::EVIDENCE.into())].concat()
    };
    RUN_FILES.iter().enumerate().map(seed).collect()
}

/// A run's folder with one file replaced: opened, put on a page, ranked.
pub fn run(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    let folder = place!(seed_run::make);
    let file = folder.join(RUN_FILES[usize::from(*which) % RUN_FILES.len()]);
    let kept = fs::read(&file).ok();
    fs::write(&file, data).unwrap();
    let before = names(&folder);
    if let Some(run) = checked(Run::open(&folder)) {
        checked(run.read());
    }
    match report::write(&folder) {
        Ok((page, bytes)) => {
            let html = fs::read(&page).unwrap();
            assert!(html.len() == bytes && html.trim_ascii_end().ends_with(b"</html>"), "a whole page");
            fs::remove_file(page).unwrap();
        }
        Err(error) => one_line(&error),
    }
    assert_eq!(names(&folder), before, "nothing is left behind");
    match kept {
        Some(kept) => fs::write(&file, kept).unwrap(),
        None => fs::remove_file(&file).unwrap(),
    }
}

fn picture_seeds() -> Vec<Vec<u8>> {
    let files = names(&fixtures().join("pictures")).into_iter();
    files
        .filter(|path| path.extension().is_some_and(|kind| kind != "safetensors"))
        .map(|path| fs::read(path).unwrap())
        .collect()
}

/// A picture, and the same as a mask.
pub fn picture(data: &[u8]) {
    match picture::decode(data) {
        Ok(image) => {
            let image = image.to_rgb8();
            let (width, height) = image.dimensions();
            assert!(width > 0 && height > 0);
            let size = Grid::new(height as usize, width as usize);
            checked(picture::fit(size, Grid::new(512, 512), 8, attnmap::argument::INIT));
            // Inputs may say that they are large.
            if size.cells() < 1 << 16 {
                assert_eq!(picture::resize(&image, 8, 8).dimensions(), (8, 8));
                assert!(picture::mask(&image, 8, 8).as_raw().iter().all(|value| matches!(value, 0 | 255)));
            }
        }
        Err(reason) => one_line(&Error::argument(attnmap::argument::INIT, reason)),
    }
}

/// Keywords of the texts that programs write into pictures.
const KEYWORDS: [&str; 5] = ["parameters", "prompt", "invokeai_metadata", "sd-metadata", "Settings"];

fn metadata_seeds() -> Vec<Vec<u8>> {
    let whole = names(&fixtures().join("metadata")).into_iter().map(|path| [vec![0], fs::read(path).unwrap()].concat());
    let texts = [
        "\u{1}a (red:1.2) frog <lora:x:0.8>\nNegative prompt: b\nSteps: 4, Sampler: Euler a, Seed: 1, Size: 8x8, \
        Lora hashes: \"a: 1, b\"",
        "\u{2}{\"s\": {\"class_type\": \"KSampler\", \"inputs\": {\"seed\": 1, \"steps\": [\"p\", 0], \"positive\": \
        [\"c\", 0], \"negative\": \
         [\"z\", 0], \"latent_image\": [\"s\", 0]}}, \"c\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": \
         {\"text\": [\"j\", 0], \"clip\": [\"c\", 0]}}, \
         \"j\": {\"class_type\": \"StringConcatenate\", \"inputs\": {\"string_a\": \"a\", \"string_b\": [\"j\", \
         0]}}, \"z\": {\"class_type\": \"Reroute\", \
         \"inputs\": {\"\": [\"c\", 0]}}, \"p\": {\"class_type\": \"PrimitiveInt\", \"inputs\": {\"value\": NaN}}}",
        "\u{3}{\"positive_prompt\": \"a\", \"seed\": 1, \"loras\": [{\"model\": {\"name\": \"x\"}, \"weight\": \
        0.5}], \"model\": \"m\"}",
        "\u{4}{\"image\": {\"prompt\": [{\"prompt\": \"a [b]\", \"weight\": 1}], \"seed\": 1, \"sampler\": \"k_lms\"}}",
        "\u{5}{\"seed\": 1, \"steps\": 3, \"loras\": [{\"file\": \"x\", \"weight\": 1}], \"emphasis\": true}",
    ];
    whole.chain(texts.map(|text| text.as_bytes().to_vec())).collect()
}

/// What a picture's metadata says: of a whole file where the first byte is 0, else of the text that
/// is put into one.
pub fn metadata(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    let bytes = match usize::from(*which).checked_sub(1) {
        None => data.to_vec(),
        Some(at) => with_text(KEYWORDS[at % KEYWORDS.len()], &String::from_utf8_lossy(data)),
    };
    let found = match picture::metadata(&bytes) {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(reason) => return one_line(&Error::input("CAPTION", reason)),
    };
    assert!(!found.prompt.trim().is_empty() && found.prompt.len() <= 1 << 16);
    assert!(found.not_taken.len() <= 24);
    for line in found.not_taken.iter().chain(&found.model) {
        assert!(line.len() < 1000 && !line.contains(char::is_control), "{line:?}");
    }
    let json = serde_json::to_string(&found).unwrap();
    let again: picture::Metadata = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), json);
}

/// A PNG of one pixel with `text`.
fn with_text(keyword: &str, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    for (keyword, text) in [("Description", "a frog"), (keyword, text)] {
        encoder.add_itxt_chunk(keyword.into(), text.replace('\0', " ")).unwrap();
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0]).unwrap();
    writer.finish().unwrap();
    bytes
}

/// The configs of a checkpoint's folder; the first byte says which one the rest is.
const CONFIGS: [&str; 8] = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
];

fn config_seeds() -> Vec<Vec<u8>> {
    let seed = |(index, name): (usize, &&str)| [vec![index as u8], fixture(&format!("tiny-sd1/{name}"))].concat();
    CONFIGS.iter().enumerate().map(seed).collect()
}

fn tiny(folder: &Path) {
    copy(&fixtures().join("tiny-sd1"), folder);
}

/// Opens the checkpoint in `folder` and loads it, as every command does.
fn load(folder: &Path, changes: Changes) {
    let options = OpenOptions { changes, ..OpenOptions::default() };
    let Some(checkpoint) = checked(Checkpoint::open(&Source::Folder(folder.into()), &options)) else { return };
    checked(checkpoint.digest());
    checked(Pipeline::load(&checkpoint, &LoadOptions::default()));
}

/// A config of a checkpoint's folder.
pub fn configs(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    let folder = place!(tiny);
    let name = CONFIGS[usize::from(*which) % CONFIGS.len()];
    fs::write(folder.join(name), data).unwrap();
    load(&folder, Changes::default());
    fs::write(folder.join(name), fixture(&format!("tiny-sd1/{name}"))).unwrap();
}

fn weight_seeds() -> Vec<Vec<u8>> {
    // A file is told by its beginning, whatever its name.
    ["tiny-sd1/vae/diffusion_pytorch_model.safetensors", "quantised/kinds.gguf", "quantised/scaled.safetensors"]
        .map(fixture)
        .into()
}

/// The weights of a checkpoint's part.
pub fn weights(data: &[u8]) {
    let folder = place!(tiny);
    // The smallest part; all are read by the same code.
    fs::write(folder.join("vae/diffusion_pytorch_model.safetensors"), data).unwrap();
    let opened = Checkpoint::open(&Source::Folder(folder.clone()), &OpenOptions::default());
    let Some(checkpoint) = checked(opened) else { return };
    checked(checkpoint.digest());
    checked(checkpoint.weights(Part::Vae));
    checked(Pipeline::load(&checkpoint, &LoadOptions::default()));
}

fn lora_seeds() -> Vec<Vec<u8>> {
    ["attn-procs", "peft", "sgm", "tucker"].map(|name| fixture(&format!("adapters/{name}.safetensors"))).into()
}

/// A LoRA file.
pub fn lora(data: &[u8]) {
    let folder = place!(tiny);
    let file = folder.join("adapter.safetensors");
    fs::write(&file, data).unwrap();
    load(&folder, Changes { loras: vec![Lora { file, weight: 0.7 }], ..Changes::default() });
}

fn embedding_seeds() -> Vec<Vec<u8>> {
    ["one-vector", "three-vectors"].map(|name| fixture(&format!("adapters/{name}.safetensors"))).into()
}

/// An embedding file.
pub fn embedding(data: &[u8]) {
    let folder = place!(tiny);
    let file = folder.join("cat.safetensors");
    fs::write(&file, data).unwrap();
    load(&folder, Changes { embeddings: vec![Embedding { file, word: None }], ..Changes::default() });
}

fn prompt_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "\u{3}a (red apple:1.3), ((frog)) and [beach] BREAK \\(so\\)\napple,red apple,frog#2,<start>",
        "\u{1}(a:0.5) [b|c] <lora:x:0.8> AND d\nb,c",
        "\u{2}cafe\u{301} \u{c548}\u{b155} हिन्दी 🐸\u{200d}🐸, don't!\ncafé,hindi,🐸",
        "\u{0}the the the THE\nthe#3,the",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// A prompt with a choice of its words: the first byte says how it is read, the last line is the
/// choice.
pub fn prompt(data: &[u8]) {
    thread_local! {
        static PIPELINE: Pipeline = {
            let source = Source::Folder(fixtures().join("tiny-sd1"));
            let checkpoint = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
            Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap()
        };
    }
    let Some((how, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    let (text, choice) = text.rsplit_once('\n').unwrap_or((&text, ""));
    let syntax = Syntax { emphasis: how & 1 > 0, long: how & 2 > 0 };
    PIPELINE.with(|pipeline| {
        let Some(prompt) = checked(pipeline.read(text, syntax)) else { return };
        assert!(prompt.weights.is_empty() || prompt.weights.len() == prompt.ids.len());
        for word in prompt.words.iter().chain(&prompt.default_words()) {
            assert!(prompt.text.get(word.range.clone()).is_some() && !word.tokens.is_empty());
            assert!(word.tokens.iter().all(|&token| token < prompt.tokens.len()));
            if !word.is_punctuation() && !word.text.contains([',', '#']) {
                let found = prompt.select(&word.label());
                assert!(found.is_ok_and(|found| found.contains(word)), "{:?} is found by its own name", word.label());
            }
        }
        for word in checked(prompt.select(choice)).unwrap_or_default() {
            assert!(!word.tokens.is_empty());
        }
    });
}

/// Kinds of prompt lists; the first byte says which one the rest is.
const LISTS: [&str; 3] = ["list.txt", "list.csv", "list.jsonl"];

fn prompt_list_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "\u{0}a red apple\n# left out\n\na frog",
        "\u{1}prompt,negative,seeds,steps,guidance,size,scheduler,emphasis,long\n\"a, \
        b\",c,0..3,8,7.5,64x64,ddim,true,false\n",
        "\u{2}{\"prompt\": \"a frog\", \"seeds\": [1, 2], \"steps\": 3, \"size\": \"64x64\"}\n{\"prompt\": \"b\", \
        \"seeds\": \"0..2\"}\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// A list of prompts.
pub fn prompt_list(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    let folder = place!(|_| ());
    let file = folder.join(LISTS[usize::from(*which) % LISTS.len()]);
    fs::write(&file, data).unwrap();
    let Some(lines) = checked(gallery::read_lines(&file)) else { return };
    let axes = Axes { lines, seeds: vec![0], ..Axes::default() };
    planned(&axes, 1);
}

fn plan_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "\u{2}a red apple\n0..3,7\napple=pear,lemon\nred=green\n8\nnone\nstyle.safetensors:0.5+b.safetensors",
        "\u{1}a\n5\n\n\n0\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// A gallery's plan: the first byte is the batch; lines are a prompt, seeds, two replacements,
/// steps and two sets of LoRAs.
pub fn plan(data: &[u8]) {
    let Some((batch, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\n');
    let mut next = || parts.next().unwrap_or_default();
    let line = gallery::Line { prompt: next().into(), ..Default::default() };
    let Some(seeds) = checked(gallery::parse_seeds(next())) else { return };
    let mut axes = Axes { lines: vec![line], seeds, models: vec!["embedded".into()], ..Axes::default() };
    for text in [next(), next()].into_iter().filter(|text| !text.is_empty()) {
        axes.replacements.extend(checked(text.parse::<Replacement>()));
    }
    let asked = next().parse().ok().map(|steps| attnmap::run::Sampling { steps: Some(steps), ..Default::default() });
    axes.sampling.push(asked.into_iter().collect());
    for text in [next(), next()].into_iter().filter(|text| !text.is_empty()) {
        axes.loras.extend(checked(gallery::parse_loras(text)));
    }
    planned(&axes, usize::from(*batch));
}

/// Plans a gallery: each cell has a name of its own that no path can be made of, and is in one
/// pass.
fn planned(axes: &Axes, batch: usize) {
    let Some(plan) = checked(Plan::new(axes, batch)) else { return };
    let mut in_passes: Vec<usize> = plan.passes.iter().flatten().copied().collect();
    in_passes.sort_unstable();
    assert!(in_passes.iter().copied().eq(0..plan.cells.len()));
    let few = plan.cells.iter().take(1000);
    let mut names: Vec<String> = few.map(gallery::Cell::name).collect();
    assert!(names.iter().all(|name| !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.')));
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two cells of one name");
}
