//! LoRAs and textual-inversion embeddings against diffusers with PEFT: images and latents of whole
//! runs; what does not fit the checkpoint is refused by name.

use assert_cmd::Command;
use attnmap::checkpoint::{Changes, Checkpoint, Embedding, Lora, OpenOptions, Part, Source};
use attnmap::pipeline::{LoadOptions, Options, Pipeline};
use attnmap::trace::Unobserved;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn lora(name: &str, weight: f64) -> Lora {
    Lora { file: fixture("adapters").join(format!("{name}.safetensors")), weight }
}

fn open(checkpoint: &str, loras: Vec<Lora>) -> attnmap::Result<Checkpoint> {
    open_changed(checkpoint, Changes { loras, ..Default::default() })
}

fn open_changed(checkpoint: &str, changes: Changes) -> attnmap::Result<Checkpoint> {
    Checkpoint::open(&Source::Folder(fixture(checkpoint)), &OpenOptions { changes, ..Default::default() })
}

#[derive(Deserialize)]
struct Case {
    checkpoint: String,
    prompt: String,
    seed: u64,
    steps: usize,
    loras: Vec<(String, f64)>,
    embeddings: Vec<(String, Option<String>)>,
    #[serde(default)]
    ids: Vec<u32>,
}

impl Case {
    fn read(name: &str) -> Self {
        serde_json::from_slice(&fs::read(fixture("adapters").join(format!("run-{name}.json"))).unwrap()).unwrap()
    }

    fn changes(&self) -> Changes {
        let loras = self.loras.iter().map(|(file, weight)| lora(file, *weight)).collect();
        let embeddings = self.embeddings.iter().map(|(file, word)| embedding(file, word.as_deref())).collect();
        Changes { loras, embeddings, ..Default::default() }
    }
}

fn embedding(name: &str, word: Option<&str>) -> Embedding {
    Embedding { file: fixture("adapters").join(format!("{name}.safetensors")), word: word.map(String::from) }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Latents and image of a case's run with `changes`, and the pipeline that made them.
fn run(case: &Case, changes: Changes) -> (Vec<f32>, Vec<u8>, Pipeline) {
    let checkpoint = open_changed(&case.checkpoint, changes).unwrap();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let prompt = pipeline.tokenize(&case.prompt).unwrap();
    let options = Options {
        steps: case.steps,
        guidance_scale: 5.0,
        seeds: vec![case.seed],
        height: 64,
        width: 64,
        ..pipeline.default_options()
    };
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    let done = pipeline.generate(&prompt, &options, &mut Unobserved, quiet).unwrap().images.remove(0);
    (values(&done.latent), done.image.into_raw(), pipeline)
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut expected.iter().map(|&v| f64::from(v)))).sqrt()
}

#[test]
fn changed_runs_equal_diffusers() {
    for name in
        ["one", "one-sd2", "two", "sgm", "attn-procs", "tucker", "embeddings", "sdxl", "sdxl-peft", "sdxl-embedding"]
    {
        let case = Case::read(name);
        let file = fixture("adapters").join(format!("run-{name}.safetensors"));
        let expected = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let latents = values(&expected["latents"]);
        let image: Vec<u8> = expected["image"].flatten_all().unwrap().to_vec1().unwrap();
        let (found, pixels, pipeline) = run(&case, case.changes());
        let error = distance(&found, &latents);
        assert!(error < 1e-4, "{name}: {error:e}");
        let worst = pixels.iter().zip(&image).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(pixels.len() == image.len() && worst <= 2, "{name}: {worst}");
        // The LoRA did something, and is on record.
        let (plain, _, plain_pipeline) = run(&case, Changes::default());
        assert!(distance(&plain, &latents) > 0.02, "{name}");
        assert_ne!(pipeline.digest(), plain_pipeline.digest());
        let settings = serde_json::to_value(pipeline.settings(&pipeline.default_options(), 0)).unwrap();
        assert_eq!(settings["loras"].as_array().map_or(0, Vec::len), case.loras.len(), "{name}");
        assert_eq!(settings["embeddings"].as_array().map_or(0, Vec::len), case.embeddings.len(), "{name}");
    }
}

/// `W + weight alpha / rank up down`, for a linear layer and for a convolution, whatever type the
/// weights are read as.
#[test]
fn weights_are_the_sum_of_both() {
    let file = candle_core::safetensors::load(fixture("adapters/kohya-sd1.safetensors"), &Device::Cpu).unwrap();
    let plain = open("tiny-sd1", vec![]).unwrap();
    for (layer, key) in [
        (
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
        ),
        ("mid_block.resnets.0.conv1", "lora_unet_mid_block_resnets_0_conv1"),
        ("mid_block.attentions.0.proj_in", "lora_unet_mid_block_attentions_0_proj_in"),
    ] {
        let factor = |part: &str| file[&format!("{key}.lora_{part}.weight")].to_dtype(DType::F32).unwrap();
        let (up, down) = (factor("up"), factor("down"));
        let rank = down.dim(0).unwrap();
        let delta = up.flatten_from(1).unwrap().matmul(&down.flatten_from(1).unwrap()).unwrap();
        let alpha = values(&file[&format!("{key}.alpha")])[0];
        let scale = f64::from(alpha) / rank as f64 * 0.5;
        let name = format!("{layer}.weight");
        let read = |checkpoint: &Checkpoint, dtype| {
            let vb = checkpoint.weights(Part::Unet).unwrap().var_builder(dtype, &Device::Cpu);
            vb.get_unchecked_dtype(&name, dtype).unwrap()
        };
        let base = read(&plain, DType::F32);
        let expected = (&base + (delta * scale).unwrap().reshape(base.shape()).unwrap()).unwrap();
        let changed = open("tiny-sd1", vec![lora("kohya-sd1", 0.5)]).unwrap();
        assert!(distance(&values(&read(&changed, DType::F32)), &values(&expected)) < 1e-6, "{layer}");
        assert!(distance(&values(&read(&changed, DType::BF16)), &values(&expected)) < 4e-3, "{layer}");
        // At weight 0 nothing is changed; taking it away again gives the weights back.
        assert_eq!(values(&read(&open("tiny-sd1", vec![lora("kohya-sd1", 0.0)]).unwrap(), DType::F32)), values(&base));
        let both = open("tiny-sd1", vec![lora("kohya-sd1", 1.0), lora("kohya-sd1", -1.0)]).unwrap();
        assert!(distance(&values(&read(&both, DType::F32)), &values(&base)) < 1e-6);
    }
}

/// A LoRA changes a single file as it changes the folder, under either naming of the UNet.
#[test]
fn a_single_file_takes_loras() {
    for (checkpoint, name) in [("tiny-sd1", "kohya-sd1"), ("tiny-sd1", "sgm"), ("tiny-sdxl", "kohya-sdxl")] {
        let (_kept, path) = crate::single::tiny_file(checkpoint, |_| {});
        let changes = Changes { config: Some(fixture(checkpoint)), loras: vec![lora(name, 1.0)], ..Default::default() };
        let file =
            Checkpoint::open(&Source::File(path.clone()), &OpenOptions { changes, ..Default::default() }).unwrap();
        let folder = open(checkpoint, vec![lora(name, 1.0)]).unwrap();
        for &part in folder.index.parts() {
            let shapes = folder.weights(part).unwrap().shapes();
            assert_eq!(
                crate::single::load(&file, part, &shapes),
                crate::single::load(&folder, part, &shapes),
                "{name}"
            );
        }
    }
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(name: &str) -> Tensors {
    read_file(&fixture("adapters").join(format!("{name}.safetensors")))
}

fn read_file(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (&str, TensorView)| {
        (name.to_string(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    file.iter().map(|(name, view)| tensor((name, view))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("style.safetensors");
    let refusal = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = read("kohya-sd1");
        change(&mut tensors);
        write(&path, &tensors);
        let message = open("tiny-sd1", vec![Lora { file: path.clone(), weight: 1.0 }]).unwrap_err().to_string();
        assert!(message.contains("style.safetensors") && message.lines().count() == 1, "{message}");
        message
    };
    let rename = |from: &'static str, to: &'static str| {
        move |tensors: &mut Tensors| {
            *tensors =
                std::mem::take(tensors).into_iter().map(|(name, tensor)| (name.replace(from, to), tensor)).collect();
        }
    };
    let key = "lora_unet_mid_block_resnets_0_conv1";
    let message = refusal(&rename("_block", "_level"));
    assert!(message.contains("lora_unet_down_levels_0_") && message.contains("are not in"), "{message}");
    let sdxl = |tensors: &mut Tensors| {
        tensors.retain(|name, _| name.starts_with("lora_te_"));
        rename("lora_te_", "lora_te2_")(tensors);
    };
    assert!(refusal(&sdxl).contains("it is for SDXL"));
    assert!(refusal(&rename("lora_unet_", "lora_unet_double_blocks_")).contains("it is for Flux"));
    let message = refusal(&rename("lora_", "transformer.lora_"));
    assert!(message.contains("no part of a LoRA") && message.contains("a diffusion transformer"), "{message}");
    let message = refusal(&|tensors| drop(tensors.remove(&format!("{key}.lora_up.weight"))));
    assert!(message.contains(key) && message.contains("no up factor"), "{message}");
    let message = refusal(&rename(".alpha", ".dora_scale"));
    assert!(message.contains(".dora_scale") && message.contains("DoRA"), "{message}");
    let message = refusal(&|tensors| {
        *tensors = BTreeMap::from([("other".into(), (Dtype::F16, vec![1], vec![0, 0]))]);
    });
    assert!(message.contains("`other` is no part of a LoRA"), "{message}");
    // Numbers that are not finite are found when the weight is read.
    let mut tensors = read("kohya-sd1");
    tensors.get_mut(&format!("{key}.lora_up.weight")).unwrap().2[..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    write(&path, &tensors);
    let damaged = open("tiny-sd1", vec![Lora { file: path.clone(), weight: 1.0 }]).unwrap();
    let message = Pipeline::load(&damaged, &LoadOptions::default()).err().unwrap().to_string();
    assert!(message.contains("style.safetensors") && message.contains("NaN"), "{message}");
    // The LoRA of another model.
    let message = open("tiny-sd1", vec![lora("kohya-sd2", 1.0)]).unwrap_err().to_string();
    assert!(message.contains("another kind of checkpoint"), "{message}");

    for (file, expected) in [("style.ckpt", "Python pickle"), ("missing.safetensors", "no file")] {
        if file.ends_with("ckpt") {
            fs::write(folder.path().join(file), b"x").unwrap();
        }
        let error = open("tiny-sd1", vec![Lora { file: folder.path().join(file), weight: 1.0 }]).unwrap_err();
        assert!(error.to_string().contains(expected) && error.exit_code() == 2, "{error}");
    }
}

/// The weights of a part, and what opening its checkpoint warned of.
type Merged = (BTreeMap<String, Vec<f32>>, Vec<String>);

/// The weights of `part` of a tiny checkpoint with the LoRA `file`, whose tensors have other names.
fn renamed(checkpoint: &str, part: Part, file: &Path, rename: impl Fn(&str) -> String) -> Merged {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("renamed.safetensors");
    let tensors = read_file(file);
    write(&path, &tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect());
    let checkpoint = open(checkpoint, vec![Lora { file: path, weight: 1.0 }]).unwrap();
    let shapes = checkpoint.weights(part).unwrap().shapes();
    (crate::single::load(&checkpoint, part, &shapes), checkpoint.warnings)
}

/// OneTrainer writes diffusers' layers after `lora_transformer_`, and DiffSynth-Studio after
/// nothing.
#[test]
fn namings_of_other_trainers_are_read() {
    let file = fixture("flux/lora-peft.safetensors");
    let onetrainer = |name: &str| {
        let (layer, factor) = name.split_once(".lora_").unwrap();
        let layer = layer.strip_prefix("transformer.").unwrap().replace('.', "_");
        let factor = factor.replace("A.", "down.").replace("B.", "up.");
        format!("lora_transformer_{layer}.lora_{factor}")
    };
    let bare = |name: &str| name.strip_prefix("transformer.").unwrap().replace(".weight", ".default.weight");
    let check = |checkpoint: &str, file: &Path, rename: &dyn Fn(&str) -> String| {
        let expected = renamed(checkpoint, Part::Transformer, file, str::to_string);
        assert_eq!(renamed(checkpoint, Part::Transformer, file, rename), expected, "{checkpoint}");
        assert!(expected.1.is_empty(), "{:?}", expected.1);
    };
    check("tiny-flux-schnell", &file, &onetrainer);
    check("tiny-flux-schnell", &file, &bare);
    check("tiny-z-image", &fixture("flux/z-lora-peft.safetensors"), &bare);
}

/// FLUX.1's T5 is its second encoder, and kohya's scripts and ComfyUI call it as they call the
/// third of Stable Diffusion 3.
#[test]
fn t5_is_found_whatever_its_number_is() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("t5.safetensors");
    let down = (Dtype::F16, vec![2, 32], [7u8, 0x38].repeat(64));
    let up = (Dtype::F16, vec![32, 2], [3u8, 0x34].repeat(64));
    write(&file, &BTreeMap::from([("lora_down".to_string(), down), ("lora_up".to_string(), up)]));
    let layer = "encoder.block.0.layer.0.SelfAttention.q";
    let flat = layer.replace('.', "_");
    let weights = |layer: &str| {
        let part = Part::TextEncoder2;
        renamed("tiny-flux-schnell", part, &file, |factor| format!("{layer}.{factor}.weight"))
    };
    let expected = weights(&format!("lora_te2_{flat}"));
    let plain = open("tiny-flux-schnell", vec![]).unwrap();
    let shapes = plain.weights(Part::TextEncoder2).unwrap().shapes();
    let plain = crate::single::load(&plain, Part::TextEncoder2, &shapes);
    let name = format!("{layer}.weight");
    assert_ne!(plain[&name], expected.0[&name]);
    for layer in [
        format!("lora_te3_{flat}"),
        format!("text_encoder_2.{layer}"),
        format!("text_encoders.t5xxl.transformer.{layer}"),
    ] {
        assert_eq!(weights(&layer), expected, "{layer}");
    }
}

/// The last norm of FLUX.1 has shift before scale at its authors', and scale before shift in
/// diffusers (`swap_scale_shift`).
#[test]
fn the_last_norm_of_flux_has_its_halves_in_order() {
    let folder = TempDir::new().unwrap();
    let weights = |layer: &str, up: Vec<u8>| {
        let file = folder.path().join("norm.safetensors");
        let down = (Dtype::F16, vec![2, 32], [7u8, 0x38].repeat(64));
        let up = (Dtype::F16, vec![64, 2], up);
        let names = ["down", "up"].map(|factor| format!("{layer}.lora_{factor}.weight"));
        write(&file, &names.into_iter().zip([down, up]).collect());
        renamed("tiny-flux-schnell", Part::Transformer, &file, str::to_string)
    };
    let (shift, scale) = ([3u8, 0x34].repeat(64), [5u8, 0x38].repeat(64));
    let (authors, own) = ([&shift[..], &scale[..]].concat(), [&scale[..], &shift[..]].concat());
    let expected = weights("transformer.norm_out.linear", own);
    assert!(expected.1.is_empty(), "{:?}", expected.1);
    assert_eq!(weights("lora_unet_final_layer_adaLN_modulation_1", authors.clone()), expected);
    assert_ne!(weights("transformer.norm_out.linear", authors), expected);
}

#[test]
fn the_command_line_takes_several() {
    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    let path = |name: &str| fixture("adapters").join(format!("{name}.safetensors")).display().to_string();
    let mut generate = Command::cargo_bin("attnmap").unwrap();
    generate.args(["generate", "a red apple", "--steps", "2", "--size", "64x64", "--model"]).arg(fixture("tiny-sd1"));
    generate.args(["--lora", &format!("{}:0.7", path("kohya-sd1")), "--lora", &path("peft"), "--out"]).arg(&run);
    generate.assert().success();
    let record: Value = serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap();
    assert_eq!(record["settings"]["loras"][0]["weight"], 0.7);
    assert_eq!(record["settings"]["loras"][1]["file"], path("peft"));
    assert!(record["command"].as_str().unwrap().contains("kohya-sd1.safetensors:0.7"));
    // The run is made again with them.
    let mut explain = Command::cargo_bin("attnmap").unwrap();
    explain.arg("explain").arg(&run).args(["--words", "apple"]).assert().success();
}

#[test]
fn an_embedding_is_one_word_of_several_tokens() {
    let case = Case::read("embeddings");
    let checkpoint = open_changed("tiny-sd1", case.changes()).unwrap();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let prompt = pipeline.tokenize(&case.prompt).unwrap();
    assert_eq!(prompt.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), case.ids);
    let words: Vec<(String, usize)> =
        prompt.default_words().iter().map(|word| (word.label(), word.tokens.len())).collect();
    let expected = [
        ("a", 1),
        ("<toy-cat>", 1),
        ("to", 1),
        ("the", 1),
        ("left", 1),
        ("of", 1),
        ("fluffyred", 3),
        ("<toy-cat>#2", 1),
    ];
    assert_eq!(words, expected.map(|(word, tokens)| (word.to_string(), tokens)));
    assert_eq!(prompt.tokens[8].text, "fluffyred_1");
    // Upper and lower case are alike; a longer word is another word.
    assert_eq!(pipeline.tokenize("FluffyRed").unwrap().ids[1..4], prompt.ids[7..10]);
    assert!(!pipeline.tokenize("fluffyreds").unwrap().ids.contains(&prompt.ids[7]));
    // Without a word for it the file's own name, or the one in it, is the word.
    let unnamed = Changes { embeddings: vec![embedding("three-vectors", None)], ..Default::default() };
    let pipeline = Pipeline::load(&open_changed("tiny-sd1", unnamed).unwrap(), &LoadOptions::default()).unwrap();
    assert_eq!(pipeline.tokenize("three-vectors").unwrap().words[0].tokens, [1, 2, 3]);
}

#[test]
fn an_embedding_that_does_not_fit_is_named() {
    let refusal = |checkpoint: &str, embedding: Embedding| {
        let changes = Changes { embeddings: vec![embedding], ..Default::default() };
        let opened = open_changed(checkpoint, changes);
        opened.and_then(|checkpoint| Pipeline::load(&checkpoint, &LoadOptions::default())).err().unwrap().to_string()
    };
    let message = refusal("tiny-sd2", embedding("one-vector", None));
    assert!(message.contains("its vectors have 32 numbers, and text_encoder takes 40"), "{message}");
    let message = refusal("tiny-sd1", embedding("one-vector", Some("frog")));
    assert!(message.contains("embedding: the vocabulary has \"frog\" already"), "{message}");
    let twice = vec![embedding("one-vector", Some("<x>")); 2];
    let twice = open_changed("tiny-sd1", Changes { embeddings: twice, ..Default::default() });
    let message = twice.and_then(|twice| Pipeline::load(&twice, &LoadOptions::default())).err().unwrap().to_string();
    assert!(message.contains("\"<x>\" already; name another: FILE.safetensors:<x-2>"), "{message}");
    assert!(refusal("tiny-sd1", embedding("one-vector", Some("a b"))).contains("is no word"));
    assert!(refusal("tiny-sd1", embedding("kohya-sd1", None)).contains("is no embedding"));
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("x.safetensors");
    let vectors = || (Dtype::F16, vec![1, 32], vec![0; 64]);
    write(&file, &BTreeMap::from([("clip_l".to_string(), vectors()), ("clip_g".to_string(), vectors())]));
    let message = refusal("tiny-sd1", Embedding { file: file.clone(), word: None });
    assert!(message.contains("it is for SDXL"), "{message}");
    let message = refusal("tiny-sdxl", embedding("one-vector", None));
    assert!(message.contains("it is for Stable Diffusion 1 or 2"), "{message}");
    let pickle = Embedding { file: "x.pt".into(), word: None };
    assert!(refusal("tiny-sd1", pickle).contains("Python pickle"));
}

#[test]
fn a_weight_that_gives_nan_is_named() {
    let lora = format!("{}:1e30", fixture("adapters").join("kohya-sd1.safetensors").display());
    let (output, _folder, run) = crate::cli::generate("a red apple", &["--lora", &lora]);
    crate::cli::refused(&output, 2, &["--lora: the network gave NaN", "lower the weight"]);
    assert!(!run.exists());
}
