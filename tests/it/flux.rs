//! FLUX.1 and Z-Image against numbers made by diffusers, transformers and the Python recorder
//! (`tests/fixtures/make_flux.py`): their parts, whole runs, their traces, and what is refused.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::checkpoint::{
    Changes, Checkpoint, DenoiserConfig, FluxConfig, Lora, OpenOptions, Part, Qwen3Config, Source, VaeConfig,
    ZImageConfig,
};
use attnmap::model::layers::{Builder, MemoryOrder};
use attnmap::model::{AddedConditions, Conditioning, Denoiser, Qwen3, T5, Vae};
use attnmap::pipeline::{LoadOptions, LookOptions, MemoryPlan, Options, Pipeline, RecordOptions, Traced};
use attnmap::prompt::QwenTokenizer;
use attnmap::trace::{AttentionKind, Grid, Trace, Unobserved};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;

use crate::model::assert_close;
use crate::pipeline::{distance, tiny, values};
use crate::program::{attnmap, json};
use crate::single;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture("flux").join(format!("{name}.safetensors")), &Device::Cpu).unwrap()
}

fn quiet(_: attnmap::pipeline::Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The transformer in the folder of a tiny checkpoint, whatever the rest of it is.
fn transformer(name: &str, layout: MemoryOrder) -> (DenoiserConfig, Denoiser) {
    let folder = fixture(name).join("transformer");
    let file = folder.join("config.json");
    let json = std::fs::read(&file).unwrap();
    let config = match name {
        "tiny-z-image" => DenoiserConfig::ZImage(ZImageConfig::from_json(&json, &file).unwrap()),
        _ => DenoiserConfig::Flux(FluxConfig::from_json(&json, &file).unwrap()),
    };
    let tensors = candle_core::safetensors::load(folder.join("diffusion_pytorch_model.safetensors"), &Device::Cpu);
    let weights = candle_nn::VarBuilder::from_tensors(tensors.unwrap(), DType::F32, &Device::Cpu);
    let network = Denoiser::build(&config, &Builder::with_layout(weights, layout)).unwrap();
    (config, network)
}

#[test]
fn transformers_give_what_those_of_diffusers_give() {
    for name in ["tiny-flux-dev", "tiny-flux-schnell", "tiny-z-image"] {
        let numbers = tensors(name);
        for layout in [MemoryOrder::Nchw, MemoryOrder::Nhwc] {
            let (_, network) = transformer(name, layout);
            for case in ["square", "wide", "tall"] {
                let get = |what: &str| numbers.get(&format!("transformer/{case}/{what}")).cloned();
                let added = get("pooled").map(|pooled| AddedConditions { pooled, time_ids: [0.0; 6] });
                let lengths = get("lengths").map(|lengths| {
                    lengths.to_vec1::<i32>().unwrap().into_iter().map(|length| length as usize).collect()
                });
                let own = Conditioning::new(get("states").unwrap());
                let conditioning = Conditioning { added, lengths, guidance: Some(3.5), ..own };
                let prompt = network.prepare(&conditioning).unwrap();
                let timestep = f64::from(get("timestep").unwrap().to_vec1::<f32>().unwrap()[0]);
                let latent = get("latent").unwrap();
                let out = network.forward(&latent, timestep, &prompt, &mut Unobserved).unwrap();
                assert_close(&format!("{name} {case} {layout:?}"), &out, &get("out").unwrap(), 1e-4);
            }
            let odd = Tensor::zeros((2, 16, 7, 8), DType::F32, &Device::Cpu).unwrap();
            let states = numbers["transformer/square/states"].clone();
            let pooled = numbers.get("transformer/square/pooled").cloned();
            let added = pooled.map(|pooled| AddedConditions { pooled, time_ids: [0.0; 6] });
            let conditioning = Conditioning { added, guidance: Some(1.0), ..Conditioning::new(states) };
            let prompt = network.prepare(&conditioning).unwrap();
            let error = network.forward(&odd, 1.0, &prompt, &mut Unobserved).unwrap_err();
            assert!(error.to_string().contains("multiples of 2"), "{error}");
        }
    }
}

#[test]
fn qwen3_gives_what_that_of_transformers_gives() {
    let folder = fixture("tiny-z-image");
    let checkpoint = Checkpoint::open(&Source::Folder(folder), &OpenOptions::default()).unwrap();
    let (own, numbers) = (checkpoint.qwen.as_ref().unwrap(), tensors("tiny-z-image"));
    let weights = checkpoint.weights(Part::TextEncoder).unwrap();
    assert_eq!(weights.spare(), ["norm.weight"]);
    let plan = MemoryPlan::new(&checkpoint, &LoadOptions { dtype: DType::BF16, ..LoadOptions::default() }).unwrap();
    let formats: Vec<_> = plan.parts.iter().map(|part| (part.part.folder(), part.dtype)).collect();
    assert!(formats.contains(&("text_encoder", "f32")) && formats.contains(&("transformer", "bf16")), "{formats:?}");
    let qwen = weights.load(DType::F32, &Device::Cpu, |vb| Qwen3::new(&own.config, vb)).unwrap();
    for (row, ids) in numbers["qwen/ids"].to_vec2::<i32>().unwrap().into_iter().enumerate() {
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        let expected = numbers["qwen/states"].narrow(0, row, 1).unwrap();
        assert_close("Qwen3", &qwen.forward(&ids).unwrap(), &expected, 1e-5);
    }
    assert!(qwen.forward(&[400]).unwrap_err().to_string().contains("token id 400"));
    // What is cut off is named; the chat template counts.
    let tokenizer = QwenTokenizer::new(&own.tokenizer).unwrap();
    let prompt = tokenizer.encode("a red apple to the left of a green frog", 12).unwrap();
    assert!(prompt.ids.len() == 12 && prompt.cut_off.contains(&"frog".to_string()), "{prompt:?}");
    assert!(prompt.words.iter().any(|word| word.text == "red") && prompt.words.iter().all(|word| word.text != "frog"));
    assert!(tokenizer.encode("", 512).unwrap().words.is_empty());
}

#[derive(Debug, Deserialize)]
struct Case {
    checkpoint: String,
    prompt: String,
    negative: String,
    guidance: f64,
    seed: u64,
    steps: usize,
    height: usize,
    width: usize,
    timesteps: Vec<f64>,
}

impl Case {
    fn read(name: &str) -> Self {
        serde_json::from_slice(&std::fs::read(fixture("flux").join(format!("{name}.json"))).unwrap()).unwrap()
    }

    fn options(&self, pipeline: &Pipeline) -> Options {
        Options {
            negative: self.negative.clone(),
            guidance_scale: self.guidance,
            seeds: vec![self.seed],
            steps: self.steps,
            height: self.height,
            width: self.width,
            ..pipeline.default_options()
        }
    }

    /// Final latents, the image, and the trace: tokens, words, sites and sums of the recorder.
    fn check(&self, name: &str, pipeline: &Pipeline) {
        let (options, expected) = (self.options(pipeline), tensors(name));
        let prompt = pipeline.prompt(&self.prompt, &options).unwrap();
        let (mut traced, _) = pipeline.trace(&prompt, &options, RecordOptions::default(), &mut quiet).unwrap();
        let Traced { generation, trace, .. } = traced.remove(0);
        for (got, want) in trace.recording.timesteps.iter().zip(&self.timesteps) {
            assert!((got - want).abs() <= 1e-4, "{name}: timestep {got} for {want}");
        }
        let latents = distance(&values(&generation.latent), &values(&expected["latents"]));
        assert!(latents < 1e-3, "{name}: latents are off by {latents:e}");
        let image: Vec<u8> = expected["image"].flatten_all().unwrap().to_vec1().unwrap();
        let worst = generation.image.as_raw().iter().zip(&image).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 2, "{name}: a pixel is off by {worst}");

        let recorded = Trace::load(&fixture("flux").join(format!("{name}.trace.safetensors"))).unwrap();
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
        let most = most / self.steps as f32;
        println!("{name}: latents {latents:.1e}, a pixel {worst}, shares {most:.1e}");
        assert!(most < 1e-4, "{name}: shares are off by {most}");
        assert!(trace.recording.sites.iter().all(|site| site.kind == AttentionKind::Joint));
    }
}

#[test]
fn whole_runs_and_their_traces_are_those_of_diffusers_and_the_recorder() {
    for name in ["dev", "dev-wide", "schnell", "z-turbo", "z-wide", "z-one"] {
        let case = Case::read(name);
        case.check(name, &tiny(&case.checkpoint));
    }
}

/// Z-Image is guided from above 0 on, and a look at a picture never is.
#[test]
fn a_look_is_not_guided() {
    let source = Source::Folder(fixture("tiny-z-image"));
    let mut checkpoint = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
    checkpoint.defaults.guidance_scale = 0.5;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    assert!(pipeline.guided(&pipeline.default_options()));
    let run = pipeline.look_run(Grid::new(32, 32), &LookOptions::default());
    assert!(!pipeline.guided(&run), "{}", run.guidance_scale);
}

fn open(file: &str, config: Option<&str>) -> attnmap::Result<Checkpoint> {
    let changes = Changes { config: config.map(fixture), ..Changes::default() };
    let options = OpenOptions { changes, ..OpenOptions::default() };
    Checkpoint::open(&fixture(&format!("flux/{file}")).to_str().unwrap().parse::<Source>().unwrap(), &options)
}

/// A file of the authors' naming is the transformer, and the folder is the rest.
#[test]
fn a_transformer_in_a_file_of_its_own_is_that_of_the_folder() {
    let case = Case::read("schnell");
    let checkpoint = open("schnell-original.safetensors", Some("tiny-flux-schnell")).unwrap();
    case.check("schnell", &Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap());
    let refused = |file: &str, config: Option<&str>, parts: &[&str]| {
        let error = open(file, config).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
    };
    refused("schnell.gguf", None, &["schnell.gguf", "a transformer of FLUX.1", "`config`"]);
    refused("z-image.gguf", None, &["z-image.gguf", "a transformer of Z-Image", "`config`"]);
    refused("schnell.gguf", Some("tiny-sd1"), &["config", "StableDiffusionPipeline", "FLUX.1"]);
}

/// Blocks are made into numbers as the `gguf` package does, and candle multiplies with them as they
/// lie. It is near within the 8 bits per number that its products round what goes in to.
#[test]
fn gguf_files_are_what_other_programs_make_of_them() {
    let numbers = tensors("quantised");
    let checkpoint = open("schnell.gguf", Some("tiny-flux-schnell")).unwrap();
    let plan = MemoryPlan::new(&checkpoint, &LoadOptions::default()).unwrap();
    let part = plan.parts.iter().find(|part| part.part == Part::Transformer).unwrap();
    assert!(part.dtype == "blocks" && part.bytes < part.parameters * 2, "{part:?}");
    for (layout, limit) in [(MemoryOrder::Nchw, 1e-4), (MemoryOrder::Nhwc, 0.03)] {
        let weights = checkpoint.weights(Part::Transformer).unwrap();
        let network = weights
            .load_quantised(DType::F32, &Device::Cpu, |vb, quantised| {
                Denoiser::build(&checkpoint.denoiser, &Builder::with_layout(vb, layout).with_quantised(quantised))
            })
            .unwrap();
        let added = Some(AddedConditions { pooled: numbers["flux/pooled"].clone(), time_ids: [0.0; 6] });
        let conditioning = Conditioning { added, ..Conditioning::new(numbers["flux/states"].clone()) };
        let prompt = network.prepare(&conditioning).unwrap();
        let out = network.forward(&numbers["flux/latent"], 700.0, &prompt, &mut Unobserved).unwrap();
        assert_close(&format!("FLUX.1 {layout:?}"), &out, &numbers["flux/out"], limit);
    }
    // In the folder of a part a GGUF file is taken where there is no other: here T5's.
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-flux-schnell"), folder.path());
    std::fs::remove_file(folder.path().join("text_encoder_2/model.safetensors")).unwrap();
    std::fs::copy(fixture("flux/t5.gguf"), folder.path().join("text_encoder_2/t5.gguf")).unwrap();
    std::fs::remove_file(folder.path().join("transformer/diffusion_pytorch_model.safetensors")).unwrap();
    std::fs::copy(fixture("flux/schnell.gguf"), folder.path().join("transformer/schnell.gguf")).unwrap();
    let checkpoint = Checkpoint::open(&Source::Folder(folder.path().into()), &OpenOptions::default()).unwrap();
    let own = checkpoint.t5.as_ref().unwrap();
    let ids = numbers["t5/ids"].to_dtype(DType::U32).unwrap();
    let t5 = |blocks: bool| {
        let weights = checkpoint.weights(own.part).unwrap();
        let read = weights.load_quantised(DType::F32, &Device::Cpu, |weights, quantised| match blocks {
            true => T5::with_blocks(&own.config, weights, quantised),
            false => T5::new(&own.config, weights),
        });
        read.unwrap().forward(&ids).unwrap()
    };
    assert_close("T5", &t5(false), &numbers["t5/states"], 1e-4);
    assert_close("T5 in its blocks", &t5(true), &numbers["t5/states"], 1e-4);
    let plan = MemoryPlan::new(&checkpoint, &LoadOptions::default()).unwrap();
    let part = plan.parts.iter().find(|part| part.part == own.part).unwrap();
    assert!(part.dtype == "blocks" && part.bytes < part.parameters * 2, "{part:?}");
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let options = Options { steps: 1, height: 16, width: 24, ..pipeline.default_options() };
    let prompt = pipeline.prompt("a red frog", &options).unwrap();
    pipeline.trace(&prompt, &options, RecordOptions::default(), &mut quiet).unwrap().0[0].trace.verify().unwrap();
    std::fs::copy(fixture("flux/t5.gguf"), folder.path().join("text_encoder_2/other.gguf")).unwrap();
    let error = Checkpoint::open(&Source::Folder(folder.path().into()), &OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("several GGUF files"), "{error}");

    let (config, numbers) = (transformer("tiny-z-image", MemoryOrder::Nchw).0, tensors("quantised"));
    let weights = attnmap::checkpoint::Weights::of_transformer(&fixture("flux/z-image.gguf")).unwrap();
    let network = weights.load(DType::F32, &Device::Cpu, |vb| Denoiser::plain(&config, vb)).unwrap();
    let prompt = network.prepare(&Conditioning::new(numbers["z-image/states"].clone())).unwrap();
    let latent = numbers["flux/latent"].narrow(0, 0, 1).unwrap();
    let out = network.forward(&latent, 700.0, &prompt, &mut Unobserved).unwrap();
    assert_close("Z-Image", &out, &numbers["z-image/out"], 1e-4);
}

/// The tensors of a file of f16 with the weights of all layers in float8, and the same weights in
/// f32 as they then are. The factors beside them have both of ComfyUI's namings: one of a layer, or
/// one of each row.
fn scaled(file: &str, of_rows: bool) -> [single::Tensors; 2] {
    let bytes = std::fs::read(fixture(file)).unwrap();
    let (mut small, mut plain) = (single::Tensors::new(), single::Tensors::new());
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
        assert_eq!(view.dtype(), Dtype::F16);
        let (name, shape) = (name.to_string(), view.shape().to_vec());
        let Some(layer) = name.strip_suffix(".weight").filter(|_| shape.len() == 2) else {
            for tensors in [&mut small, &mut plain] {
                tensors.insert(name.clone(), (Dtype::F16, shape.clone(), view.data().to_vec()));
            }
            continue;
        };
        let (rows, columns) = (shape[0], shape[1]);
        let count = if of_rows { rows } else { 1 };
        let factors: Vec<f32> = (0..count).map(|row| 0.7 + 0.01 * (row % 60) as f32).collect();
        // The upper half of an f16 is a float8 of the kind e5m2.
        let codes: Vec<u8> = view.data().iter().skip(1).step_by(2).copied().collect();
        let value = |(index, code): (usize, &u8)| {
            let factor = factors[index / columns % count];
            (half::f16::from_le_bytes([0, *code]).to_f32() * factor).to_le_bytes()
        };
        let values: Vec<u8> = codes.iter().enumerate().flat_map(value).collect();
        let factors: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        if of_rows {
            let format = br#"{"format": "float8_e5m2"}"#.to_vec();
            small.insert(format!("{layer}.weight_scale"), (Dtype::F32, vec![rows, 1], factors));
            small.insert(format!("{layer}.comfy_quant"), (Dtype::U8, vec![format.len()], format));
        } else {
            small.insert(format!("{layer}.scale_weight"), (Dtype::F32, Vec::new(), factors));
            small.insert("scaled_fp8".into(), (Dtype::F8_E5M2, vec![0], Vec::new()));
        }
        plain.insert(name.clone(), (Dtype::F32, shape.clone(), values));
        small.insert(name, (Dtype::F8_E5M2, shape, codes));
    }
    [small, plain]
}

/// Layers that are thirds of one have their own rows' factors.
#[test]
fn scaled_float8_files_are_their_weights_times_the_factors() {
    let folder = tempfile::tempdir().unwrap();
    let same = |part: Part, small: &Checkpoint, plain: &Checkpoint| {
        let dtypes = small.weights(part).unwrap().summary().dtypes;
        assert!(dtypes.contains(&"F8_E5M2".to_string()), "{dtypes:?}");
        let shapes = plain.weights(part).unwrap().shapes();
        assert_eq!(single::load(small, part, &shapes), single::load(plain, part, &shapes), "{part:?}");
        let latent = |checkpoint: &Checkpoint| {
            let pipeline = Pipeline::load(checkpoint, &LoadOptions::default()).unwrap();
            let options = Options { steps: 1, height: 16, width: 24, ..pipeline.default_options() };
            let prompt = pipeline.tokenize("a red frog").unwrap();
            values(&pipeline.generate(&prompt, &options, &mut Unobserved, &mut quiet).unwrap().images[0].latent)
        };
        assert_eq!(latent(small), latent(plain), "{part:?}");
    };
    for of_rows in [false, true] {
        let [small, plain] = scaled("flux/schnell-original.safetensors", of_rows);
        let [small, plain] = [("small", small), ("plain", plain)].map(|(name, tensors)| {
            let path = folder.path().join(format!("{name}-{of_rows}.safetensors"));
            single::write(&path, &tensors);
            let changes = Changes { config: Some(fixture("tiny-flux-schnell")), ..Changes::default() };
            Checkpoint::open(&Source::File(path), &OpenOptions { changes, ..OpenOptions::default() }).unwrap()
        });
        same(Part::Transformer, &small, &plain);
        let [small, plain] = scaled("tiny-flux-schnell/text_encoder_2/model.safetensors", of_rows);
        let [small, plain] = [("small", small), ("plain", plain)].map(|(name, tensors)| {
            let own = folder.path().join(format!("{name}-{of_rows}"));
            copy(&fixture("tiny-flux-schnell"), &own);
            single::write(&own.join("text_encoder_2/model.safetensors"), &tensors);
            Checkpoint::open(&Source::Folder(own), &OpenOptions::default()).unwrap()
        });
        same(small.t5.as_ref().unwrap().part, &small, &plain);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[derive(Deserialize)]
struct FullSize {
    config: serde_json::Value,
    tensors: usize,
    /// `{19}` in a name stands for the numbers below 19.
    weights: HashMap<String, Vec<usize>>,
}

/// The networks of the released configurations ask for exactly the tensors that diffusers and
/// transformers make of them.
#[test]
fn full_size_networks_ask_for_the_weights_of_diffusers() {
    let all: HashMap<String, FullSize> =
        serde_json::from_slice(&std::fs::read(fixture("full-size/transformers.json")).unwrap()).unwrap();
    assert_eq!(all.len(), 5);
    for (name, FullSize { config, tensors, weights }) in all {
        let mut expected = crate::model_shapes::Shapes::new();
        for (kind, shape) in weights {
            match kind.split_once('{').and_then(|(before, rest)| Some((before.to_string(), rest.split_once('}')?))) {
                None => drop(expected.insert(kind, shape)),
                Some((before, (count, after))) => (0..count.parse::<usize>().unwrap()).for_each(|index| {
                    expected.insert(format!("{before}{index}{after}"), shape.clone());
                }),
            }
        }
        assert_eq!(expected.len(), tensors, "{name}");
        let (json, file) = (config.to_string(), Path::new("config.json"));
        let denoiser = |config: DenoiserConfig| crate::model_shapes::asked_for(|b| Denoiser::build(&config, b));
        let asked = match name.as_str() {
            "flux-dev" | "flux-schnell" => {
                denoiser(DenoiserConfig::Flux(FluxConfig::from_json(json.as_bytes(), file).unwrap()))
            }
            "z-image-turbo" => {
                denoiser(DenoiserConfig::ZImage(ZImageConfig::from_json(json.as_bytes(), file).unwrap()))
            }
            "vae" => {
                let config = VaeConfig::from_json(json.as_bytes(), file).unwrap();
                let numbers = (config.latent_channels, config.scaling_factor, config.shift_factor);
                assert_eq!(numbers, (16, 0.3611, 0.1159));
                crate::model_shapes::asked_for(|b| Vae::build(&config, b))
            }
            "qwen3-4b" => {
                let config = Qwen3Config::from_json(json.as_bytes(), file).unwrap();
                assert_eq!((config.rope_theta, config.head_dim), (1e6, 128));
                // transformers' own names begin with `layers`, those of the files with `model`. The
                // states are taken before the norm.
                let read = expected.into_iter().filter(|(name, _)| name != "norm.weight");
                expected = read.map(|(name, shape)| (format!("model.{name}"), shape)).collect();
                crate::model_shapes::asked_of_weights(|weights| Qwen3::new(&config, weights))
            }
            other => panic!("{other}"),
        };
        let differ: Vec<_> = asked.iter().filter(|(name, shape)| expected.get(*name) != Some(*shape)).collect();
        assert!(differ.is_empty() && asked.len() == expected.len(), "{name}: {differ:?}");
    }
}

#[test]
fn kinds_that_are_shown_pictures_are_refused_by_name() {
    let file = Path::new("config.json");
    let refused = |result: attnmap::Result<()>, part: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    let flux = |json: &str| FluxConfig::from_json(json.as_bytes(), file).map(drop);
    refused(flux(r#"{"in_channels": 384, "out_channels": 64}"#), "Fill, Canny or Depth");
    refused(flux(r#"{"axes_dims_rope": [16, 56, 58]}"#), "axes_dims_rope");
    refused(flux(r#"{"num_layers": 18446744073709551615}"#), "num_layers");
    let z_image = |json: &str| ZImageConfig::from_json(json.as_bytes(), file).map(drop);
    refused(z_image(r#"{"siglip_feat_dim": 1152}"#), "Omni");
    refused(z_image(r#"{"all_patch_size": [2, 4]}"#), "all_patch_size");
    for (class, part) in [
        ("FluxKontextPipeline", "FLUX.1 Kontext"),
        ("FluxFillPipeline", "FLUX.1 Fill"),
        ("FluxControlNetPipeline", "ControlNet"),
        ("WanPipeline", "a video model"),
        ("QwenImagePipeline", "docs/PYTHON.md"),
    ] {
        let json = format!(r#"{{"_class_name": "{class}"}}"#);
        refused(attnmap::checkpoint::ModelIndex::from_json(json.as_bytes(), file).map(drop), part);
    }
}

/// Runs by the program, and what works on them without the network.
#[test]
fn the_program_makes_and_reads_runs() {
    let folder = tempfile::tempdir().unwrap();
    for (name, sites) in [("tiny-flux-schnell", 4), ("tiny-z-image", 3)] {
        let model = fixture(name);
        let model = model.to_str().unwrap();
        let text = "a red apple to the left of a green frog";
        let make =
            ["generate", text, "--model", model, "--size", "56x32", "--steps", "2", "--seed", "2", "--out", name];
        attnmap(folder.path(), &make);
        for file in ["image.png", "trace.safetensors", "run.json", "report.html", "words.png"] {
            assert!(folder.path().join(name).join(file).is_file(), "{name}: {file}");
        }
        let record = std::fs::read(folder.path().join(name).join("run.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["settings"]["scheduler"], "flow-euler");
        assert_eq!(record["words"].as_array().unwrap().len(), 10, "{name}");
        attnmap(folder.path(), &["check", name]);
        let facts = json(folder.path(), &["facts", name, "--json"]);
        assert!(facts.to_string().contains("frog"), "{facts}");
        attnmap(folder.path(), &["ask", name, "--at", "10,20"]);
        let models = json(folder.path(), &["models", model, "--json"]);
        assert_eq!((&models["prediction_type"], &models["factor"]), (&"flow".into(), &8.into()));
        assert_eq!(models["sites"].as_array().unwrap().len(), sites);
    }
}

/// The latents of a case with `loras` at weight 0.7, and what opening the checkpoint warned of.
fn with_loras(case: &Case, loras: &[PathBuf]) -> (Vec<f32>, Vec<String>) {
    let loras = loras.iter().map(|file| Lora { file: file.clone(), weight: 0.7 }).collect();
    let options = OpenOptions { changes: Changes { loras, ..Changes::default() }, ..OpenOptions::default() };
    let checkpoint = Checkpoint::open(&Source::Folder(fixture(&case.checkpoint)), &options).unwrap();
    let warnings = checkpoint.warnings.iter().map(ToString::to_string).collect();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let prompt = pipeline.tokenize(&case.prompt).unwrap();
    let made = pipeline.generate(&prompt, &case.options(&pipeline), &mut Unobserved, &mut quiet).unwrap();
    (values(&made.images[0].latent), warnings)
}

/// Kohya's scripts', the authors' own, where queries, keys and values are one layer (and FLUX.1's
/// feed-forward), XLabs' and Anime-Z's (`tests/fixtures/make_flux_lora.py`,
/// `make_z_image_lora.py`).
#[test]
fn loras_of_every_naming_change_the_same_and_give_the_latents_of_diffusers() {
    let namings: [(&str, &str, &[&str]); 3] = [
        ("schnell", "lora", &["peft", "kohya", "bfl"]),
        ("schnell", "xlabs", &["processors"]),
        ("z-turbo", "z-lora", &["peft", "kohya", "authors", "dots"]),
    ];
    for (case, lora, namings) in namings {
        let (case, expected) = (Case::read(case), values(&tensors(lora)["latents"]));
        for naming in namings {
            let file = fixture("flux").join(format!("{lora}-{naming}.safetensors"));
            let (latents, warnings) = with_loras(&case, &[file]);
            assert!(warnings.is_empty(), "{lora}-{naming}: {warnings:?}");
            let off = distance(&latents, &expected);
            println!("{lora}-{naming}: latents {off:.1e}");
            assert!(off < 1e-3, "{lora}-{naming}: latents are off by {off:e}");
        }
        assert!(distance(&with_loras(&case, &[]).0, &expected) > 0.01, "{lora} changes nothing");
    }
}

#[test]
fn a_layer_of_a_lora_that_the_checkpoint_lacks_is_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    for (case, lora, absent) in [
        ("schnell", "lora-kohya", "lora_unet_double_blocks_7_img_attn_proj"),
        ("z-turbo", "z-lora-kohya", "lora_unet_layers_7_attention_to_q"),
    ] {
        let mut all = tensors(lora);
        let of_one = |tensor: &str| Tensor::ones((2, 2), DType::F32, &Device::Cpu).map(|one| (tensor.to_owned(), one));
        for factor in ["lora_down", "lora_up"] {
            all.extend([of_one(&format!("{absent}.{factor}.weight")).unwrap()]);
        }
        let file = folder.path().join(format!("{lora}.safetensors"));
        candle_core::safetensors::save(&all, &file).unwrap();
        let (_, warnings) = with_loras(&Case::read(case), &[file]);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(absent) && warnings[0].contains("the rest is applied"), "{warnings:?}");
    }
}
