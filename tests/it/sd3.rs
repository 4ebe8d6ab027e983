//! Stable Diffusion 3 against numbers made by diffusers, transformers and the Python recorder
//! (`tests/fixtures/make_sd3.py`): its parts, whole runs, their traces, and what is refused.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::checkpoint::{DenoiserConfig, Part, SchedulerConfig};
use attnmap::heatmap::{Aggregate, Encoder, QuerySource, aggregate};
use attnmap::model::layers::{Builder, MemoryOrder};
use attnmap::model::{AddedConditions, Conditioning, Sd3, T5, Vae};
use attnmap::pipeline::{Options, Pipeline, RecordOptions, Traced};
use attnmap::prompt::{Joined, Syntax, T5Tokenizer};
use attnmap::scheduler::{FlowLevels, FlowRun, build_flow};
use attnmap::trace::{AttentionKind, Trace, Unobserved};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::cli::refused;
use crate::model::{assert_close, checkpoint};
use crate::pipeline::{distance, tiny, values};
use crate::program::{attnmap, json};

const CHECKPOINTS: [&str; 2] = ["tiny-sd3", "tiny-sd35"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture("sd3").join(format!("{name}.safetensors")), &Device::Cpu).unwrap()
}

fn quiet(_: attnmap::pipeline::Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn t5_reads_as_that_of_transformers() {
    let (checkpoint, numbers) = (checkpoint("tiny-sd3"), tensors("tiny-sd3"));
    let own = checkpoint.t5.as_ref().unwrap();
    let tokenizer = T5Tokenizer::new(&own.tokenizer).unwrap();
    let texts = ["a red apple to the left of a green frog", "frogs, snowed-in; caf\u{e9} na\u{ef}ve ok"];
    let rows: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, 256).unwrap().ids).collect();
    let expected: Vec<Vec<i32>> = numbers["t5/ids"].to_vec2::<i32>().unwrap();
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row.iter().map(|&id| id as i32).collect::<Vec<_>>(), *expected);
    }
    let weights = checkpoint.weights(own.part).unwrap();
    let t5 = weights.load(DType::F32, &Device::Cpu, |weights| T5::new(&own.config, weights)).unwrap();
    let states = t5.forward(&Tensor::new(rows.clone(), &Device::Cpu).unwrap()).unwrap();
    let shown: Vec<u32> = (0..256).step_by(9).collect();
    let states = states.index_select(&Tensor::new(shown, &Device::Cpu).unwrap(), 1).unwrap();
    assert_close("T5", &states, &numbers["t5/states"], 1e-5);
    // What does not fit is named, and the end token stays.
    let cut = tokenizer.encode("a red apple to the left of a green frog", 5).unwrap();
    assert_eq!((cut.ids.len(), cut.ids.last()), (5, rows[0].iter().find(|id| **id == 1).or(cut.ids.last())));
    assert!(cut.cut_off.contains(&"frog".to_string()), "{:?}", cut.cut_off);
}

#[test]
fn transformers_give_what_those_of_diffusers_give() {
    for name in CHECKPOINTS {
        let (checkpoint, numbers) = (checkpoint(name), tensors(name));
        let DenoiserConfig::Sd3(config) = &checkpoint.denoiser else { panic!("{:?}", checkpoint.denoiser) };
        for layout in [MemoryOrder::Nchw, MemoryOrder::Nhwc] {
            let weights = checkpoint.weights(Part::Transformer).unwrap();
            let build = |vb| Sd3::build(config, &Builder::with_layout(vb, layout));
            let network = weights.load(DType::F32, &Device::Cpu, build).unwrap();
            for case in ["square", "wide", "tall"] {
                let get = |what: &str| numbers[&format!("transformer/{case}/{what}")].clone();
                let added = Some(AddedConditions { pooled: get("pooled"), time_ids: [0.0; 6] });
                let conditioning = Conditioning { added, ..Conditioning::new(get("states")) };
                let prompt = network.prepare(&conditioning).unwrap();
                let timestep = f64::from(get("timestep").to_vec1::<f32>().unwrap()[0]);
                let out = network.forward(&get("latent"), timestep, &prompt, &mut Unobserved).unwrap();
                assert_close(&format!("{name} {case} {layout:?}"), &out, &get("out"), 1e-4);
            }
            // Half a patch, and more places than the table has.
            let prompt = network.prepare(&Conditioning {
                added: Some(AddedConditions {
                    pooled: Tensor::zeros((1, 44), DType::F32, &Device::Cpu).unwrap(),
                    time_ids: [0.0; 6],
                }),
                ..Conditioning::new(
                    Tensor::zeros((1, 3, config.joint_attention_dim), DType::F32, &Device::Cpu).unwrap(),
                )
            });
            for (height, width) in [(7, 8), (8, 26)] {
                let latent = Tensor::zeros((1, 16, height, width), DType::F32, &Device::Cpu).unwrap();
                let error = network.forward(&latent, 1.0, prompt.as_ref().unwrap(), &mut Unobserved).unwrap_err();
                assert!(error.to_string().contains("multiples of 2, and at most 24"), "{error}");
            }
        }
        let weights = checkpoint.weights(Part::Vae).unwrap();
        let vae = weights.load(DType::F32, &Device::Cpu, |weights| Vae::new(&checkpoint.vae, weights)).unwrap();
        assert_close("mean", &vae.encode(&numbers["vae/pixels"]).unwrap().mean, &numbers["vae/mean"], 1e-5);
        assert_close("decoded", &vae.pixels_of(&numbers["vae/latent"]).unwrap(), &numbers["vae/decoded"], 1e-5);
    }
}

#[derive(Debug, Deserialize)]
struct Schedule {
    name: String,
    config: serde_json::Value,
    steps: usize,
    tokens: usize,
    from_one: bool,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    samples: Vec<Vec<f32>>,
}

#[test]
fn flow_schedules_are_those_of_diffusers() {
    let cases: Vec<Schedule> = serde_json::from_slice(&std::fs::read(fixture("sd3/schedules.json")).unwrap()).unwrap();
    assert!(cases.len() >= 9);
    for case in cases {
        let config = SchedulerConfig::from_json(case.config.to_string().as_bytes(), Path::new("s.json")).unwrap();
        let levels = if case.from_one { FlowLevels::FromOne } else { FlowLevels::OfSchedule };
        let run = FlowRun { steps: case.steps, image_tokens: case.tokens, levels };
        let mut scheduler = build_flow(&config, None, run).unwrap();
        let name = &case.name;
        assert_eq!(scheduler.timesteps().len(), case.steps, "{name}");
        for (got, want) in scheduler.timesteps().iter().zip(&case.timesteps) {
            assert!((got - want).abs() <= 1e-4, "{name}: timestep {got} for {want}");
        }
        let mut sample = Tensor::new(&[1.5f32, -0.25, 0.75], &Device::Cpu).unwrap();
        let (clean, noise) =
            (Tensor::new(&[2f32], &Device::Cpu).unwrap(), Tensor::new(&[10f32], &Device::Cpu).unwrap());
        for (index, want) in case.samples.iter().enumerate() {
            let noised = scheduler.add_noise(&clean, &noise, index).unwrap().to_vec1::<f32>().unwrap()[0];
            let level = case.sigmas[index];
            assert!((noised - (2.0 + 8.0 * level)).abs() < 1e-5, "{name}: {noised} at level {level}");
            let output = ((&sample * 3.0).unwrap() + index as f64).unwrap().sin().unwrap();
            let stepped = scheduler.step(&output, index, &sample, &mut []).unwrap();
            let clean = (&sample - (&output * f64::from(level)).unwrap()).unwrap();
            assert_close("denoised", &stepped.denoised, &clean, 1e-6);
            sample = stepped.previous;
            for (got, want) in sample.to_vec1::<f32>().unwrap().iter().zip(want) {
                assert!((got - want).abs() < 2e-6, "{name}, step {index}: {got} for {want}");
            }
        }
    }
    // What the class has beside is refused by its name.
    for field in ["invert_sigmas", "stochastic_sampling", "use_karras_sigmas"] {
        let json = format!(r#"{{"_class_name": "FlowMatchEulerDiscreteScheduler", "{field}": true}}"#);
        let config = SchedulerConfig::from_json(json.as_bytes(), Path::new("s.json")).unwrap();
        let run = FlowRun { steps: 4, image_tokens: 16, levels: FlowLevels::OfSchedule };
        assert!(build_flow(&config, None, run).unwrap_err().to_string().contains(field));
    }
}

#[derive(Debug, Deserialize)]
struct Case {
    checkpoint: String,
    prompt: String,
    negative: String,
    guidance: f64,
    seed: u64,
    steps: usize,
    #[serde(default)]
    clip_skip: usize,
    height: usize,
    width: usize,
    timesteps: Vec<f64>,
}

impl Case {
    fn read(name: &str) -> Self {
        serde_json::from_slice(&std::fs::read(fixture("sd3").join(format!("{name}.json"))).unwrap()).unwrap()
    }

    fn options(&self, pipeline: &Pipeline) -> Options {
        Options {
            negative: self.negative.clone(),
            guidance_scale: self.guidance,
            seeds: vec![self.seed],
            steps: self.steps,
            clip_skip: self.clip_skip,
            height: self.height,
            width: self.width,
            ..pipeline.default_options()
        }
    }
}

/// Final latents, the image, and the trace: tokens, words, sites, encoders and sums of the
/// recorder.
#[test]
fn whole_runs_and_their_traces_are_those_of_diffusers_and_the_recorder() {
    for name in ["guided-square", "wide", "turbo", "medium", "skipped"] {
        let (case, expected) = (Case::read(name), tensors(name));
        let pipeline = tiny(&case.checkpoint);
        let options = case.options(&pipeline);
        let prompt = pipeline.prompt(&case.prompt, &options).unwrap();
        let (mut traced, _) = pipeline.trace(&prompt, &options, RecordOptions::default(), &mut quiet).unwrap();
        let Traced { generation, trace, .. } = traced.remove(0);
        for (got, want) in trace.recording.timesteps.iter().zip(&case.timesteps) {
            assert!((got - want).abs() <= 1e-4, "{name}: timestep {got} for {want}");
        }
        let latents = distance(&values(&generation.latent), &values(&expected["latents"]));
        assert!(latents < 1e-3, "{name}: latents are off by {latents:e}");
        let image: Vec<u8> = expected["image"].flatten_all().unwrap().to_vec1().unwrap();
        let worst = generation.image.as_raw().iter().zip(&image).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 2, "{name}: a pixel is off by {worst}");

        let recorded = Trace::load(&fixture("sd3").join(format!("{name}.trace.safetensors"))).unwrap();
        trace.verify().unwrap();
        assert_eq!(trace.about.prompt, recorded.about.prompt, "{name}");
        assert_eq!(trace.about.encoders, recorded.about.encoders, "{name}");
        assert_eq!(trace.recording.sites, recorded.recording.sites, "{name}");
        assert_eq!((trace.about.latent, trace.about.image), (recorded.about.latent, recorded.about.image));
        let mut most = 0f32;
        for (own, theirs) in trace.recording.conditional.sites.iter().zip(&recorded.recording.conditional.sites) {
            assert_eq!(own.sum.len(), theirs.sum.len());
            most = own.sum.iter().zip(&*theirs.sum).map(|(a, b)| (a - b).abs()).fold(most, f32::max);
        }
        let most = most / case.steps as f32;
        println!("{name}: latents {latents:.1e}, a pixel {worst}, shares {most:.1e}");
        assert!(most < 1e-4, "{name}: shares are off by {most}");
        // Words have tokens of both encoders where there is T5, and image and text share the rest.
        let t5 = case.checkpoint == "tiny-sd3";
        for word in &trace.about.prompt.words {
            let behind = word.tokens.iter().filter(|&&token| token >= prompt.own_tokens().len()).count();
            assert_eq!(behind > 0, t5, "{}", word.text);
            assert!(behind < word.tokens.len(), "{}", word.text);
        }
        assert!(trace.recording.sites.iter().all(|site| site.kind == AttentionKind::Joint));
    }
}

/// An observer changes nothing, both halves are recorded, and images of a batch are those of single
/// runs.
#[test]
fn a_batch_of_both_halves() {
    let pipeline = tiny("tiny-sd35");
    let run = |seeds: Vec<u64>| Options {
        seeds,
        steps: 2,
        height: 16,
        width: 24,
        negative: "snow".into(),
        ..pipeline.default_options()
    };
    let options = run(vec![1, 2]);
    let prompt = pipeline.prompt("a red frog", &options).unwrap();
    let self_sites = pipeline.plan_self_attention(&options, None, 1 << 30).unwrap();
    assert_eq!(self_sites.sites.len(), 2, "the second attentions of 3.5 medium");
    let keep = RecordOptions { unconditional: true, self_attention: self_sites.sites, ..RecordOptions::default() };
    let (traced, _) = pipeline.trace(&prompt, &options, keep, &mut quiet).unwrap();
    for (seed, traced) in [1, 2].into_iter().zip(&traced) {
        traced.trace.verify().unwrap();
        assert!(traced.trace.recording.unconditional.is_some());
        assert_eq!(traced.trace.recording.self_attention.len(), 1);
        let alone = pipeline.generate(&prompt, &run(vec![seed]), &mut Unobserved, &mut quiet).unwrap();
        let off = distance(&values(&traced.generation.latent), &values(&alone.images[0].latent));
        assert!(off < 1e-5, "seed {seed}: {off:e}");
    }
    // Values of a token times 0 change the image, and weights of 1 do not.
    let weighted = |weight| {
        let mut value_weights = vec![1.0; prompt.key_count()];
        value_weights[3] = weight;
        let options = Options { value_weights: Some(value_weights), ..run(vec![1]) };
        values(&pipeline.generate(&prompt, &options, &mut Unobserved, &mut quiet).unwrap().images[0].latent)
    };
    let own = values(&traced[0].generation.latent);
    assert!(distance(&weighted(1.0), &own) < 1e-5 && distance(&weighted(0.0), &own) > 1e-4);
}

#[test]
fn what_does_not_go_is_refused_by_name() {
    let pipeline = tiny("tiny-sd3");
    let own = pipeline.default_options();
    assert_eq!((own.steps, own.guidance_scale, own.height, own.width), (28, 7.0, 64, 64));
    let refused = |options: Options, part: &str| {
        let error = pipeline.check(&options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    assert!(pipeline.check(&Options { probes: vec!["cat".into()], ..own.clone() }).is_ok(), "a probe is a concept");
    refused(Options { scheduler: Some("ddim".parse().unwrap()), ..own.clone() }, "choose flow-euler");
    refused(Options { spacing: Some("trailing".parse().unwrap()), ..own.clone() }, "spacing");
    refused(Options { crop: [1, 0], ..own.clone() }, "only SDXL");
    refused(Options { width: 20, ..own.clone() }, "multiple of 8 pixels");
    refused(Options { width: 104, ..own.clone() }, "96 pixels a side");
    refused(Options { steps: 0, ..own.clone() }, "steps");
    let emphasis = pipeline.read("a (red:1.5) frog", Syntax { emphasis: true, long: false });
    assert!(emphasis.unwrap_err().to_string().contains("emphasis"));
    // And flow matching's sampler elsewhere.
    let other = tiny("tiny-sd1");
    let options = Options { scheduler: Some("flow-euler".parse().unwrap()), ..other.default_options() };
    assert!(other.check(&options).unwrap_err().to_string().contains("flow matching"));
    // A prompt longer than CLIP reads is T5's to the end.
    let long = "a red apple to the left of a green frog, ".repeat(8);
    let prompt = pipeline.tokenize(&long).unwrap();
    assert!(prompt.cut_off.is_empty() && !prompt.reading(Joined::Channels).unwrap().cut_off.is_empty());
    let warnings = attnmap::maker::warnings(&pipeline, &prompt, "", &[]).unwrap();
    assert!(warnings.iter().any(|line| line.contains("T5 alone sees")), "{warnings:?}");
}

/// A run by the program, and what works on it without the network.
#[test]
fn the_program_makes_and_reads_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tiny-sd3");
    let model = model.to_str().unwrap();
    let text = "a red apple to the left of a green frog";
    let make = ["generate", text, "--model", model, "--size", "56x32", "--steps", "3", "--seed", "2", "--out", "run"];
    attnmap(folder.path(), &make);
    for file in ["image.png", "trace.safetensors", "run.json", "report.html", "words.png"] {
        assert!(folder.path().join("run").join(file).is_file(), "{file}");
    }
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("run/run.json")).unwrap()).unwrap();
    assert_eq!(record["settings"]["scheduler"], "flow-euler");
    let shares = record["tokens"].as_array().unwrap().iter().map(|token| token["share"].as_f64().unwrap());
    let all = shares.sum::<f64>() + record["padding_share"].as_f64().unwrap() + record["image_share"].as_f64().unwrap();
    assert!((all - 1.0).abs() < 1e-3, "{all}");
    assert_eq!(record["words"].as_array().unwrap().len(), 10);
    attnmap(folder.path(), &["check", "run"]);
    let facts = json(folder.path(), &["facts", "run", "--json"]);
    assert!(facts.to_string().contains("frog"), "{facts}");
    // Its bound was measured on cross-attention alone.
    assert!(!facts.to_string().contains("probably not drawn"), "{facts}");
    attnmap(folder.path(), &["ask", "run", "--at", "10,20"]);
    let models = json(folder.path(), &["models", model, "--json"]);
    assert_eq!(models["prediction_type"], "flow");
    assert_eq!(models["sites"].as_array().unwrap().len(), 3);
    assert_eq!(models["parts"].as_array().unwrap().len(), 5);
    assert_eq!(models["factor"], 8);
}

/// A word's tokens of CLIP and of T5, apart and together.
#[test]
fn a_word_is_shown_as_each_encoder_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let small = ["--size", "32x32", "--steps", "2", "--seed", "2", "--out"];
    let make = |model: &str, out: &str, more: &[&str]| -> Vec<String> {
        let model = fixture(model).display().to_string();
        let words = ["generate", "a red apple and a green frog", "--model", &model];
        [&words[..], &small, &[out], more].concat().into_iter().map(String::from).collect()
    };
    let program = |words: &[String]| attnmap(folder.path(), &words.iter().map(String::as_str).collect::<Vec<_>>());
    let record = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.path().join(name).join("run.json")).unwrap()).unwrap()
    };
    program(&make("tiny-sd3", "run", &["--text-queries"]));
    let view = |encoder: &[&str]| {
        attnmap(folder.path(), &[&["view", "run", "--aggregate", "all"], encoder].concat());
        attnmap(folder.path(), &["check", "run"]);
        let maps = candle_core::safetensors::load(run.join("heatmaps.safetensors"), &Device::Cpu).unwrap();
        (record("run"), values(&maps["words"]))
    };
    let (unasked, own) = view(&[]);
    let [both, clip, t5] = ["both", "clip", "t5"].map(|encoder| view(&["--encoder", encoder]));
    assert!(own == both.1 && unasked["maps"] == both.0["maps"] && unasked["words"] == both.0["words"]);
    assert!(both.0["maps"].get("encoder").is_none(), "{}", both.0["maps"]);
    assert_eq!((&clip.0["maps"]["encoder"], &t5.0["maps"]["encoder"]), (&"clip".into(), &"t5".into()));
    let t5_share = t5.0["words"][2]["share"].clone();
    let share = |record: &serde_json::Value, word: usize| record["words"][word]["share"].as_f64().unwrap();
    let words = both.0["words"].as_array().unwrap().len();
    assert_eq!(words, 7);
    for word in 0..words {
        let [both, clip, t5] = [&both.0, &clip.0, &t5.0].map(|record| share(record, word));
        assert!(clip > 0.0 && clip < both && t5 > 0.0 && t5 < both, "{word}: {clip} and {t5} of {both}");
        assert!((clip + t5 - both).abs() < 1e-6, "{word}: {clip} and {t5} make {both}");
    }
    for ((both, clip), t5) in both.1.iter().zip(&clip.1).zip(&t5.1) {
        assert!((clip + t5 - both).abs() < 1e-6, "{clip} and {t5} make {both}");
    }

    // What a word gives to the image is the mean over the tokens that are left.
    let trace = Trace::load(&run.join("trace.safetensors")).unwrap();
    let prompt = &trace.about.prompt;
    let behind = prompt.behind().unwrap();
    let given = |encoder| {
        let how = Aggregate { queries: QuerySource::Text, encoder, ..Aggregate::named("all").unwrap() };
        aggregate(&trace, &how, &prompt.words).unwrap()
    };
    let [both, clip, t5] = [Encoder::Both, Encoder::Clip, Encoder::T5].map(given);
    for word in &prompt.words {
        let of_clip = word.tokens.iter().filter(|&&token| token < behind).count() as f32;
        let of_t5 = word.tokens.len() as f32 - of_clip;
        let sum = of_clip * clip.share(word) + of_t5 * t5.share(word);
        assert!((sum - (of_clip + of_t5) * both.share(word)).abs() < 1e-5, "{}", word.text);
    }

    // Other commands take it, and follow the run.
    // Each reading's end token is told apart, by the name by which it can be chosen.
    let ends = |encoder: &str| -> Vec<String> {
        let ranked = json(folder.path(), &["ask", "run", "--at", "10,20", "--encoder", encoder, "--json"]);
        let words = ranked.as_array().unwrap().iter().map(|part| part["word"].as_str().unwrap().to_owned());
        words.filter(|word| word.starts_with("<end>")).collect()
    };
    assert_eq!(ends("both"), ["<end>", "<end>#2"]);
    assert_eq!((ends("clip"), ends("t5")), (vec!["<end>".to_owned()], vec!["<end>#2".to_owned()]));
    let ranked = json(folder.path(), &["ask", "run", "--at", "10,20", "--encoder", "clip", "--json"]);
    assert!(ranked.as_array().unwrap().iter().any(|part| part["word"] == "<start>"), "{ranked}");
    let ranked = json(folder.path(), &["ask", "run", "--at", "10,20", "--json"]);
    assert!(ranked.as_array().unwrap().iter().all(|part| part["word"] != "<start>"), "T5 has none: {ranked}");
    let facts = json(folder.path(), &["facts", "run", "--json"]);
    let apple = facts["words"].as_array().unwrap().iter().find(|word| word["word"] == "apple").unwrap();
    assert_eq!(apple["share"], t5_share);
    attnmap(folder.path(), &["report", "run"]);
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    let chosen = format!("\"behind\":{behind},");
    assert!(page.contains(&chosen) && page.contains("\"encoder\":\"t5\""), "the page knows whose maps it has");
    program(&make("tiny-sd3", "of-t5", &["--encoder", "t5"]));
    let made = record("of-t5");
    assert_eq!((&made["maps"]["name"], &made["maps"]["encoder"]), (&"compete".into(), &"t5".into()));
    assert!(made["command"].as_str().unwrap().contains("--encoder t5"), "{}", made["command"]);

    // Without T5 there is one reading, which is found before anything is made.
    let none = folder.path().join("none").display().to_string();
    let refuses = make("tiny-sd35", &none, &["--encoder", "clip", "--quiet"]);
    let output = crate::cli::attnmap(&refuses.iter().map(String::as_str).collect::<Vec<_>>());
    refused(&output, 2, &["--encoder", "one reading", "Stable Diffusion 3 with T5"]);
    assert!(!Path::new(&none).exists());
}
