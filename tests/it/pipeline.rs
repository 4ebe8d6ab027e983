//! Whole runs against diffusers on the tiny checkpoints: final latents, image, and DAAM's global
//! heat map.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::heatmap::{self, Aggregate};
use attnmap::pipeline::{LoadOptions, MemoryPlan, Options, Pipeline, RecordOptions, Traced};
use attnmap::scheduler::TorchGenerator;
use attnmap::trace::Unobserved;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

/// The JSON file of a fixture: what diffusers ran, and the timesteps and tokens that it had.
#[derive(Debug, Deserialize)]
pub struct Settings {
    pub checkpoint: String,
    prompt: String,
    negative: String,
    guidance_scale: f64,
    scheduler: Option<String>,
    spacing: Option<String>,
    #[serde(default)]
    clip_skip: usize,
    original_size: Option<[usize; 2]>,
    crop: Option<[usize; 2]>,
    seed: u64,
    steps: usize,
    pub width: usize,
    pub height: usize,
    tokens: usize,
    timesteps: Vec<f64>,
}

impl Settings {
    /// The same run's options.
    pub fn options(&self, pipeline: &Pipeline) -> Options {
        Options {
            negative: self.negative.clone(),
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            seeds: vec![self.seed],
            height: self.height,
            width: self.width,
            scheduler: self.scheduler.as_ref().map(|name| name.parse().unwrap()),
            spacing: self.spacing.as_ref().map(|name| name.parse().unwrap()),
            clip_skip: self.clip_skip,
            original_size: self.original_size,
            crop: self.crop.unwrap_or_default(),
            ..pipeline.default_options()
        }
    }

    /// Runs with `options`: the tokens and timesteps of diffusers, latents within 1e-4, pixels
    /// within 2 of 255, DAAM's map within 1e-3 of its maximum.
    pub fn check(&self, name: &str, pipeline: &Pipeline, options: &Options, expected: &HashMap<String, Tensor>) {
        let prompt = pipeline.tokenize(&self.prompt).unwrap();
        assert_eq!(prompt.tokens.len(), self.tokens, "{name}: tokens");
        let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
        let (traced, _) = pipeline.trace(&prompt, options, RecordOptions::default(), quiet).unwrap();
        let Traced { generation, trace, .. } = &traced[0];

        assert_eq!(trace.recording.timesteps, self.timesteps, "{name}: timesteps");
        trace.verify().unwrap();
        let latents = distance(&values(&generation.latent), &values(&expected["latents"]));
        assert!(latents < 1e-4, "{name}: latents are off by {latents:e}");

        let image: Vec<u8> = expected["image"].flatten_all().unwrap().to_vec1().unwrap();
        let worst = generation.image.as_raw().iter().zip(&image).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 2, "{name}: a pixel is off by {worst}");

        let maps = heatmap::aggregate(trace, &Aggregate::named("daam").unwrap(), &[]).unwrap();
        let expected = values(&expected["heatmap"]);
        assert_eq!(maps.tokens.len(), expected.len(), "{name}: heat map size");
        let maximum = expected.iter().copied().fold(0.0, f32::max);
        let worst = maps.tokens.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-3 * maximum, "{name}: heat maps are off by {worst} of {maximum}");
        println!("{name}: latents {latents:.1e}, heat maps {:.1e} of the maximum", worst / maximum);
    }
}

/// A tiny checkpoint of the fixtures.
pub fn tiny(name: &str) -> Pipeline {
    let checkpoint = Checkpoint::open(&Source::Folder(fixtures().join(name)), &OpenOptions::default()).unwrap();
    Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap()
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Relative L2 distance.
pub fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut expected.iter().map(|&v| f64::from(v)))).sqrt()
}

#[test]
fn whole_runs_equal_diffusers() {
    let mut checked = 0;
    for entry in std::fs::read_dir(fixtures().join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            check(&path);
            checked += 1;
        }
    }
    assert!(checked >= 27, "{checked} fixtures");
}

fn check(path: &Path) {
    let settings: Settings = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let expected = candle_core::safetensors::load(path.with_extension("safetensors"), &Device::Cpu).unwrap();
    let pipeline = tiny(&settings.checkpoint);
    let name = path.file_stem().unwrap().to_string_lossy();
    settings.check(&name, &pipeline, &settings.options(&pipeline), &expected);
}

#[test]
fn an_observer_changes_nothing_and_a_batch_equals_single_runs() {
    let pipeline = tiny("tiny-sd1");
    let prompt = pipeline.tokenize("a red apple").unwrap();
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    let options = |seeds: &[u64]| Options {
        seeds: seeds.to_vec(),
        steps: 3,
        height: 64,
        width: 96,
        ..pipeline.default_options()
    };
    let (pair, _) = pipeline.trace(&prompt, &options(&[3, 4]), RecordOptions::default(), quiet).unwrap();
    for (seed, traced) in [3, 4].into_iter().zip(&pair) {
        let alone = pipeline.generate(&prompt, &options(&[seed]), &mut Unobserved, quiet).unwrap();
        assert_eq!(traced.generation.seed, seed);
        let error = distance(&values(&traced.generation.latent), &values(&alone.images[0].latent));
        assert!(error < 1e-5, "seed {seed}: {error:e}");
    }
    assert_ne!(pair[0].generation.image, pair[1].generation.image);
}

/// diffusers' pipeline sets `steps_offset` to 1 and `clip_sample` to false whatever an early
/// checkpoint's config says.
#[test]
fn early_scheduler_configs_are_repaired_as_diffusers_does() {
    let source = Source::Folder(fixtures().join("tiny-sd2"));
    let mut checkpoint = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
    let mut run = |steps_offset, clip_sample| {
        (checkpoint.scheduler.steps_offset, checkpoint.scheduler.clip_sample) = (steps_offset, clip_sample);
        checkpoint.scheduler.timestep_spacing = Some("leading".into());
        let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
        let options = Options { steps: 3, height: 64, width: 64, ..pipeline.default_options() };
        let prompt = pipeline.tokenize("a red apple").unwrap();
        let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
        let images = pipeline.generate(&prompt, &options, &mut Unobserved, quiet).unwrap().images;
        values(&images[0].latent)
    };
    let expected = run(Some(1), Some(false));
    assert!(expected == run(None, None) && expected == run(Some(0), Some(true)));
}

/// bf16 weights, and on some machines bf16 products: another image by a few levels at most, the
/// same maps.
#[test]
fn bf16_changes_little() {
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default()).unwrap();
    let run = |dtype| {
        let pipeline = Pipeline::load(&checkpoint, &LoadOptions { dtype, ..LoadOptions::default() }).unwrap();
        let prompt = pipeline.tokenize("a red apple to the left of a green frog on the beach").unwrap();
        let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
        let (mut traced, _) =
            pipeline.trace(&prompt, &pipeline.default_options(), RecordOptions::default(), quiet).unwrap();
        let Traced { generation, trace, .. } = traced.remove(0);
        let maps = heatmap::aggregate(&trace, &Aggregate::default(), &trace.about.prompt.words).unwrap();
        (generation.image, maps.tokens)
    };
    let ((image, maps), (other, other_maps)) = (run(DType::F32), run(DType::BF16));
    let off: Vec<u8> = image.as_raw().iter().zip(other.as_raw()).map(|(a, b)| a.abs_diff(*b)).collect();
    let mean = off.iter().map(|&v| f64::from(v)).sum::<f64>() / off.len() as f64;
    let worst = off.iter().max().unwrap();
    let maximum = maps.iter().copied().fold(0.0, f32::max);
    let map = maps.iter().zip(&other_maps).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / maximum;
    println!("bf16: image {mean:.3} on average, {worst} at most, maps {map:.1e} of the maximum");
    assert!(0.0 < mean && mean < 0.5 && *worst <= 12, "image: {mean} on average, {worst} at most");
    assert!(map < 0.02, "maps: {map} of the maximum");
}

/// In SDXL one position of the sequence holds a token of each encoder; a trace says which, and
/// keeps both encoders' own attention.
#[test]
fn traces_name_the_tokens_of_both_encoders() {
    let source = Source::Folder(fixtures().join("tiny-sdxl"));
    let checkpoint = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    // The second tokenizer pads with "!", which it therefore finds one by one.
    let prompt = pipeline.tokenize("a frog!! in the snow").unwrap();
    let second = prompt.reading(attnmap::prompt::Joined::Channels).unwrap();
    assert_eq!(prompt.tokens.len() + 1, second.tokens.len());
    assert!(prompt.ids.len() == 77 && second.ids.len() == 77 && second.ids.last() == Some(&0));
    let options = Options { steps: 2, height: 32, width: 32, ..pipeline.default_options() };
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    let (traced, _) = pipeline.trace(&prompt, &options, RecordOptions::default(), quiet).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("trace.safetensors");
    traced[0].trace.save(&file).unwrap();
    let trace = attnmap::trace::Trace::load(&file).unwrap();
    assert_eq!(trace.about, traced[0].trace.about);
    let [first, other] = trace.about.encoders.as_slice() else { panic!("{:?}", trace.about.encoders) };
    assert_eq!((first.name.as_str(), other.name.as_str()), ("text_encoder", "text_encoder_2"));
    assert_eq!((first.tokens.clone(), other.padding), (trace.about.prompt.tokens.clone(), Some(0)));
    let cut =
        |tokens: &[attnmap::trace::TokenInfo]| tokens.iter().map(|token| (token.start, token.end)).collect::<Vec<_>>();
    assert_eq!(cut(&other.tokens)[3..5], [(6, 7), (7, 8)]);
    assert_eq!(cut(&first.tokens)[3], (6, 8));
    // Layers, and heads x tokens x tokens.
    let sizes = |layers: &[attnmap::trace::TextAttention]| {
        layers.iter().map(|layer| (layer.heads, layer.probabilities.len())).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&trace.recording.text), [(4, 4 * first.tokens.len().pow(2)); 3]);
    assert_eq!(sizes(&trace.recording.text_2), [(5, 5 * other.tokens.len().pow(2)); 4]);
}

/// The settings that a run records lead back to its options.
#[test]
fn options_come_back_from_settings() {
    let source = Source::Folder(fixtures().join("tiny-sdxl"));
    let checkpoint = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let options = Options {
        negative: "rain".into(),
        seeds: vec![7],
        original_size: Some([768, 1024]),
        crop: [16, 40],
        spacing: Some("trailing".parse().unwrap()),
        scheduler: Some("ddim".parse().unwrap()),
        ..pipeline.default_options()
    };
    let settings = pipeline.settings(&options, 7);
    assert_eq!(settings.further()["original_size"], "1024x768");
    assert_eq!(settings.further()["crop"], "40,16");
    let again = pipeline.options_of(&settings, "rain").unwrap();
    assert_eq!(format!("{again:?}"), format!("{options:?}"));
    let plain = pipeline.options_of(&pipeline.settings(&pipeline.default_options(), 0), "").unwrap();
    assert_eq!(format!("{plain:?}"), format!("{:?}", pipeline.default_options()));

    // What only SDXL is told is refused elsewhere.
    let source = Source::Folder(fixtures().join("tiny-sd1"));
    let checkpoint = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let cropped = Options { crop: [1, 0], ..pipeline.default_options() };
    assert!(pipeline.check(&cropped).unwrap_err().to_string().contains("only SDXL"));
}

/// Asks for the end of the run at its fifth observation, in the midst of a step.
struct Ends {
    interrupt: attnmap::model::Interrupt,
    told: usize,
}

impl attnmap::trace::AttentionObserver for Ends {
    fn wants(&self, site: &attnmap::trace::Site) -> bool {
        site.kind == attnmap::trace::AttentionKind::Cross
    }

    fn observe(&mut self, _: &attnmap::trace::Site, _: &Tensor) -> attnmap::Result<()> {
        self.told += 1;
        if self.told == 5 {
            self.interrupt.request();
        }
        Ok(())
    }
}

#[test]
fn a_run_ends_within_a_step_and_the_next_is_whole() {
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default()).unwrap();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let options = Options { steps: 2, ..pipeline.default_options() };
    let prompt = pipeline.prompt("a red apple", &options).unwrap();
    let sites = pipeline.sites(options.height, options.width).len();
    assert!(sites > 5);
    let mut observer = Ends { interrupt: pipeline.interrupt().clone(), told: 0 };
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    let ended = pipeline.trace_with(&prompt, &options, RecordOptions::default(), &mut observer, quiet);
    assert!(matches!(ended, Err(attnmap::Error::Interrupted)) && observer.told == 5, "told {}", observer.told);
    pipeline.interrupt().clear();
    observer.told = 6;
    let (runs, _) = pipeline.trace_with(&prompt, &options, RecordOptions::default(), &mut observer, quiet).unwrap();
    assert_eq!(observer.told, 6 + 2 * sites, "the other observer is told of what the recorder is");
    runs[0].trace.verify().unwrap();
}

/// T5 and Qwen3 read the texts that are known first and leave; they come back for others.
#[test]
fn a_large_text_encoder_may_leave_memory_before_the_denoiser_comes() {
    let known = "a red apple to the left of a green frog";
    for (name, encoder) in [("tiny-sd3", "T5"), ("tiny-flux-schnell", "T5"), ("tiny-z-image", "Qwen3")] {
        let checkpoint = crate::model::checkpoint(name);
        let options = |text_encoder_first| LoadOptions {
            text_encoder_first,
            texts: vec![known.into()],
            ..LoadOptions::default()
        };
        let plan = |text_encoder_first| MemoryPlan::new(&checkpoint, &options(text_encoder_first)).unwrap();
        let (leaves, stays) = (plan(true), plan(false));
        assert!(leaves.text_encoder_first && !stays.text_encoder_first && leaves.peak() < stays.peak(), "{name}");
        let said = format!("; {encoder} reads the prompt first and leaves again");
        assert!(leaves.to_string().contains(&said) && !stays.to_string().contains(&said), "{leaves}");
        let [leaves, stays] = [true, false].map(|first| Pipeline::load(&checkpoint, &options(first)).unwrap());
        let latent = |pipeline: &Pipeline, text: &str| {
            let options =
                Options { steps: 2, height: 16, width: 24, negative: "snow".into(), ..pipeline.default_options() };
            let prompt = pipeline.prompt(text, &options).unwrap();
            let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
            values(&pipeline.generate(&prompt, &options, &mut Unobserved, quiet).unwrap().images[0].latent)
        };
        for text in [known, "a blue bird"] {
            assert_eq!(latent(&leaves, text), latent(&stays, text), "{name}: {text}");
        }
    }
}

/// Samplers that draw noise in their steps: latents that stand for the seed's own leave them the
/// noise of the run, and diffusers' way draws the first noise a second time.
#[test]
fn given_latents_leave_the_steps_their_noise_where_they_stand_for_drawn_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1");
    let checkpoint = Checkpoint::open(&Source::Folder(folder), &OpenOptions::default()).unwrap();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let options = Options {
        steps: 3,
        seeds: vec![4],
        height: 64,
        width: 64,
        scheduler: Some("euler-a".parse().unwrap()),
        ..pipeline.default_options()
    };
    let latent = pipeline.latent_grid(&options);
    let own = TorchGenerator::new(4)
        .randn_tensor((1, pipeline.latent_channels(), latent.height, latent.width), DType::F32, &Device::Cpu)
        .unwrap();
    let prompt = pipeline.prompt("a red apple", &options).unwrap();
    let run = |options: &Options| {
        let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
        let mut done = pipeline.generate(&prompt, options, &mut Unobserved, quiet).unwrap();
        done.images.remove(0).latent.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let given = |latents_as_drawn| run(&Options { latents: Some(own.clone()), latents_as_drawn, ..options.clone() });
    let plain = run(&options);
    assert!(plain == given(true) && plain != given(false));
}
