//! Stable Diffusion 3 as people have it: single files with some of the parts, a transformer as
//! GGUF, and LoRAs in the namings that are about (`tests/fixtures/make_sd3.py`).

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::checkpoint::{Changes, Checkpoint, DenoiserConfig, Lora, OpenOptions, Part, Source};
use attnmap::model::layers::{Builder, MemoryOrder};
use attnmap::model::{AddedConditions, Conditioning, Denoiser};
use attnmap::pipeline::{LoadOptions, MemoryPlan, Options, Pipeline, RecordOptions};
use attnmap::trace::Unobserved;
use candle_core::{DType, Device};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

use crate::model::{assert_close, checkpoint};
use crate::pipeline::{distance, values};
use crate::single::load;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A tensor's name, its shape, the tensors of the folder that it is made of, and whether its halves
/// are the other way round.
#[derive(Deserialize)]
struct Row(String, Vec<usize>, Vec<String>, bool);

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// The tensors of the single file that the tiny checkpoint `name` stands for; its autoencoder is
/// not among them.
fn tensors(name: &str) -> Tensors {
    let mut sources = BTreeMap::new();
    for part in ["transformer", "text_encoder", "text_encoder_2", "text_encoder_3"] {
        let stem = if part == "transformer" { "diffusion_pytorch_model" } else { "model" };
        let Ok(bytes) = fs::read(fixture(name).join(part).join(format!("{stem}.safetensors"))) else { continue };
        for (key, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            assert_eq!(view.dtype(), Dtype::F16);
            sources.insert(format!("{part}/{key}"), view.data().to_vec());
        }
    }
    let recipe = fs::read(fixture("single").join(format!("{name}.json"))).unwrap();
    let rows: Vec<Row> = serde_json::from_slice(&recipe).unwrap();
    let made = |Row(name, shape, parts, swapped): Row| {
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| sources[part].clone()).collect();
        if swapped {
            let half = bytes.len() / 2;
            bytes.rotate_left(half);
        }
        (name, (shape, bytes))
    };
    rows.into_iter().map(made).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name.clone(), TensorView::new(Dtype::F16, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn open(path: &Path, config: Option<PathBuf>) -> attnmap::Result<Checkpoint> {
    let changes = Changes { config, ..Default::default() };
    Checkpoint::open(&Source::File(path.into()), &OpenOptions { changes, ..Default::default() })
}

#[test]
fn single_files_have_the_folders_tensors_whatever_parts_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for name in ["tiny-sd3", "tiny-sd35"] {
        let whole = checkpoint(name);
        let all = tensors(name);
        let only = |start: &str| -> Tensors {
            all.iter()
                .filter(|(name, _)| name.starts_with(start))
                .map(|(name, own)| (name.clone(), own.clone()))
                .collect()
        };
        let bare = only("model.").into_iter().map(|(name, own)| (name.replace("model.diffusion_model.", ""), own));
        // With text encoders; without; the transformer alone, as in ComfyUI's folder of that name.
        for tensors in [all.clone(), only("model."), bare.collect()] {
            write(&path, &tensors);
            let file = open(&path, Some(fixture(name))).unwrap();
            assert_eq!(file.denoiser, whole.denoiser);
            for &part in whole.index.parts() {
                let shapes = whole.weights(part).unwrap().shapes();
                assert_eq!(load(&file, part, &shapes), load(&whole, part, &shapes), "{name} {part:?}");
            }
        }
    }
    // Nothing says where the rest is, or which tokens T5 reads.
    write(&path, &tensors("tiny-sd35"));
    let refused = |config: Option<PathBuf>, part: &str| {
        let error = open(&path, config).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("`config`"), "{error}");
    };
    refused(None, "tokens, which are not CLIP's");
    write(&path, &tensors("tiny-sd35").into_iter().filter(|(name, _)| name.starts_with("model.")).collect());
    refused(None, "has no text_encoder, text_encoder_2, vae");
    write(&path, &tensors("tiny-sd3"));
    let part = folder.path().join("part");
    fs::create_dir(&part).unwrap();
    for folder in ["tokenizer", "tokenizer_2"] {
        fs::create_dir(part.join(folder)).unwrap();
        for file in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
            fs::copy(fixture("tiny-sd3").join(folder).join(file), part.join(folder).join(file)).unwrap();
        }
    }
    refused(Some(part), "tokenizer_3/tokenizer.json");
    // A tensor that no such model has.
    let mut strange = tensors("tiny-sd35");
    let (shape, bytes) = strange["model.diffusion_model.pos_embed"].clone();
    strange.insert("model.diffusion_model.joint_blocks.0.x_block.other.weight".into(), (shape, bytes));
    write(&path, &strange);
    let error = open(&path, Some(fixture("tiny-sd35"))).unwrap_err().to_string();
    assert!(error.contains("x_block.other.weight") && error.contains("Stable Diffusion 3"), "{error}");
}

/// The shapes of the releases' single files, as far as configs are read from them.
#[test]
fn configs_are_read_from_the_shapes_of_full_size_files() {
    use crate::model_shapes::{config, shapes};
    use crate::single::sparse;
    for name in ["sd3-medium", "sd35-medium", "sd35-large"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let own = shapes(name, "transformer", "");
        let (json, file) = config(name, "transformer");
        let expected = attnmap::checkpoint::Sd3Config::from_json(&json, &file).unwrap();
        // The original's tensors, made of diffusers' by the recipe of a tiny checkpoint.
        let recipe = fs::read(fixture("single/tiny-sd35.json")).unwrap();
        let rows: Vec<Row> = serde_json::from_slice(&recipe).unwrap();
        let mut tensors = BTreeMap::new();
        let last = expected.num_layers - 1;
        for block in 0..=last {
            // The first, middle and last block of the tiny one.
            let like = if block == last { "2" } else { "0" };
            for Row(original, _, parts, _) in &rows {
                let Some(rest) = original.strip_prefix("model.diffusion_model.") else { continue };
                let inside = rest.strip_prefix(&format!("joint_blocks.{like}."));
                let (to, parts): (String, Vec<String>) = match inside {
                    Some(rest) => {
                        let (from, to) = (format!("_blocks.{like}."), format!("_blocks.{block}."));
                        (
                            format!("joint_blocks.{block}.{rest}"),
                            parts.iter().map(|part| part.replace(&from, &to)).collect(),
                        )
                    }
                    None if rest.starts_with("joint_blocks.") => continue,
                    None => (rest.to_string(), parts.clone()),
                };
                let found: Option<Vec<&Vec<usize>>> =
                    parts.iter().map(|part| own.get(part.trim_start_matches("transformer/"))).collect();
                let Some(found) = found else { continue };
                let mut shape = found[0].clone();
                if found.len() > 1 {
                    shape[0] *= found.len();
                }
                tensors.insert(format!("model.diffusion_model.{to}"), shape);
            }
        }
        sparse(&path, &tensors);
        // The other parts from a folder of configs.
        let parts = folder.path().join("parts");
        for (part, of) in [("vae", "sd3-medium"), ("text_encoder", "sd3-medium"), ("text_encoder_2", "sdxl")] {
            fs::create_dir_all(parts.join(part)).unwrap();
            fs::write(parts.join(part).join("config.json"), config(of, part).0).unwrap();
            let stem = if part == "vae" { "diffusion_pytorch_model" } else { "model" };
            fs::write(parts.join(part).join(format!("{stem}.safetensors")), "").unwrap();
        }
        let file = open(&path, Some(parts)).unwrap();
        assert_eq!(file.denoiser, DenoiserConfig::Sd3(expected), "{name}");
        assert_eq!(file.weights(Part::Transformer).unwrap().shapes(), own, "{name}");
        assert_eq!((file.defaults.size, file.defaults.steps), ([1024, 1024], 28));
        assert_eq!(file.scheduler.shift, Some(3.0));
    }
}

/// As `flux::gguf_files_are_what_other_programs_make_of_them`: the same blocks as numbers, and in
/// candle's products. The last norm of the text and that of the end are swapped as they are read.
#[test]
fn a_gguf_file_is_what_diffusers_makes_of_it() {
    let file = fixture("sd3/tiny-sd3.gguf");
    let numbers = candle_core::safetensors::load(fixture("sd3/quantised.safetensors"), &Device::Cpu).unwrap();
    let checkpoint = open(&file, Some(fixture("tiny-sd3"))).unwrap();
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
        let added = Some(AddedConditions { pooled: numbers["pooled"].clone(), time_ids: [0.0; 6] });
        let conditioning = Conditioning { added, ..Conditioning::new(numbers["states"].clone()) };
        let prompt = network.prepare(&conditioning).unwrap();
        let out = network.forward(&numbers["latent"], 700.0, &prompt, &mut Unobserved).unwrap();
        assert_close(&format!("Stable Diffusion 3 {layout:?}"), &out, &numbers["out"], limit);
    }
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let options = Options { steps: 1, height: 16, width: 24, ..pipeline.default_options() };
    let prompt = pipeline.prompt("a red frog", &options).unwrap();
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    pipeline.trace(&prompt, &options, RecordOptions::default(), quiet).unwrap().0[0].trace.verify().unwrap();
    let error = open(&file, None).unwrap_err().to_string();
    assert!(error.contains("has no text_encoder, text_encoder_2, vae") && error.contains("`config`"), "{error}");
}

#[test]
fn loras_of_both_namings_change_the_same_and_give_the_latents_of_diffusers() {
    let with = |file: &str, weight| {
        let lora = Lora { file: fixture("sd3").join(file), weight };
        let changes = Changes { loras: vec![lora], ..Default::default() };
        let options = OpenOptions { changes, ..Default::default() };
        Checkpoint::open(&Source::Folder(fixture("tiny-sd35")), &options).unwrap()
    };
    let (peft, kohya) = (with("lora-peft.safetensors", 0.7), with("lora-kohya.safetensors", 0.7));
    assert!(peft.warnings.is_empty() && kohya.warnings.is_empty(), "{:?} {:?}", peft.warnings, kohya.warnings);
    let shapes = peft.weights(Part::Transformer).unwrap().shapes();
    let (one, other) = (load(&peft, Part::Transformer, &shapes), load(&kohya, Part::Transformer, &shapes));
    let plain = load(&checkpoint("tiny-sd35"), Part::Transformer, &shapes);
    let mut changed = 0;
    for (name, values) in &one {
        let most = values.iter().zip(&other[name]).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(most < 2e-4, "{name}: {most}");
        changed += usize::from(values != &plain[name]);
    }
    assert_eq!(changed, 12);
    let expected = candle_core::safetensors::load(fixture("sd3/lora.safetensors"), &Device::Cpu).unwrap();
    let pipeline = Pipeline::load(&peft, &LoadOptions::default()).unwrap();
    let options = Options {
        negative: "rain".into(),
        guidance_scale: 4.5,
        seeds: vec![6],
        steps: 3,
        height: 32,
        width: 32,
        ..pipeline.default_options()
    };
    let prompt = pipeline.prompt("a blue bird in the snow", &options).unwrap();
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    let images = pipeline.generate(&prompt, &options, &mut Unobserved, quiet).unwrap().images;
    let off = distance(&values(&images[0].latent), &values(&expected["latents"]));
    assert!(off < 1e-3, "latents are off by {off:e}");
}
