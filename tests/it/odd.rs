//! Checkpoints, LoRAs and embeddings in uncommon layouts, as they lie about: against diffusers
//! where numbers are concerned (`tests/fixtures/make_odd.py`), and what is left out is named.

use crate::checkpoint::{Copy, TEXT, Tensors, UNET, read_tensors, write_tensors};
use assert_cmd::Command;
use attnmap::checkpoint::{Changes, Checkpoint, Embedding, Lora, OpenOptions, Part, Source};
use attnmap::pipeline::{LoadOptions, Options, Pipeline};
use attnmap::prompt::Syntax;
use attnmap::trace::Unobserved;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture("odd").join(name), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The length of the difference as a share of the expected length.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut expected.iter().map(|&v| f64::from(v)))).sqrt()
}

fn open(folder: &Path, changes: Changes) -> attnmap::Result<Checkpoint> {
    Checkpoint::open(&Source::Folder(folder.into()), &OpenOptions { changes, ..Default::default() })
}

fn load(checkpoint: &Checkpoint) -> Pipeline {
    Pipeline::load(checkpoint, &LoadOptions::default()).unwrap()
}

/// The final latents of a run as `make_odd.py` makes it.
fn latents(pipeline: &Pipeline, prompt: &str, syntax: Syntax) -> Vec<f32> {
    let options = Options {
        steps: 3,
        guidance_scale: 5.0,
        seeds: vec![7],
        height: 64,
        width: 64,
        syntax,
        ..pipeline.default_options()
    };
    let prompt = pipeline.prompt(prompt, &options).unwrap();
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    values(&pipeline.generate(&prompt, &options, &mut Unobserved, quiet).unwrap().images[0].latent)
}

const PROMPT: &str = "a red apple to the left of a green frog";
const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// Changes some fields of a JSON file of the copy.
fn set(copy: &Copy, file: &str, fields: Value) {
    copy.edit(file, |config| {
        for (name, value) in fields.as_object().unwrap() {
            config[name] = value.clone();
        }
    });
}

/// A variant of the UNet alone, whose numbers are half the plain ones.
fn halved_variant(copy: &Copy, name: &str) {
    let half = |bytes: &[u8]| (half::f16::from_le_bytes([bytes[0], bytes[1]]) * half::f16::from_f32(0.5)).to_le_bytes();
    let mut tensors = read_tensors(&copy.path().join(UNET));
    for (_, dtype, _, bytes) in &mut tensors {
        assert_eq!(*dtype, Dtype::F16);
        *bytes = bytes.chunks(2).flat_map(half).collect();
    }
    write_tensors(&copy.path().join(format!("unet/diffusion_pytorch_model.{name}.safetensors")), &tensors);
}

fn variant(name: &str) -> Changes {
    Changes { variant: Some(name.into()), ..Default::default() }
}

#[test]
fn layouts_equal_diffusers() {
    type Layout = (&'static str, &'static str, Changes, &'static dyn Fn(&Copy));
    let layouts: [Layout; 7] = [
        ("clip-skip", "one layer less", Changes::default(), &|copy| {
            set(copy, "text_encoder/config.json", json!({"num_hidden_layers": 2}));
        }),
        ("euler", "another class in the index", Changes::default(), &|copy| {
            set(copy, "model_index.json", json!({"scheduler": ["diffusers", "EulerDiscreteScheduler"]}));
        }),
        ("euler", "no class in the file", Changes::default(), &|copy| {
            set(copy, "model_index.json", json!({"scheduler": ["diffusers", "EulerDiscreteScheduler"]}));
            copy.edit(SCHEDULER, |config| drop(config.as_object_mut().unwrap().remove("_class_name")));
        }),
        ("dpm-of-euler", "options of another class", Changes::default(), &|copy| {
            set(copy, "model_index.json", json!({"scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}));
            let fields = json!({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true,
                "timestep_spacing": "trailing", "interpolation_type": "log_linear"});
            set(copy, SCHEDULER, fields);
        }),
        ("plain", "fields without effect", Changes::default(), &|copy| {
            let fields = json!({"_class_name": "UNetOfSomeone", "decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0,
                "optimization_step": 37000, "power": 0.6666, "update_after_step": 0, "use_ema_warmup": false,
                "new_field": null, "_private": 1, "torch_dtype": "float16"});
            set(copy, "unet/config.json", fields);
            let fields = json!({"pad_to_multiple_of": 8, "tokenizer_class": "CLIPTokenizerFast", "_private": {}});
            set(copy, "tokenizer/tokenizer_config.json", fields);
            set(copy, "model_index.json", json!({"controlnet": [null, null], "new_flag": null}));
            for file in ["vae/config.json", "text_encoder/config.json", SCHEDULER] {
                set(
                    copy,
                    file,
                    json!({"new_field": null, "_private": [1], "transformers_version": "4.0", "dtype": "float16"}),
                );
            }
        }),
        ("plain", "the config and the tensors of a whole CLIP", Changes::default(), &|copy| {
            copy.edit("text_encoder/config.json", |config| {
                *config = json!({"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 24,
                    "text_config": config.clone(), "vision_config": {}});
            });
            add_spare(copy);
        }),
        ("variant", "a variant of the UNet alone", variant("half"), &|copy| halved_variant(copy, "half")),
    ];
    let expected = expected("runs.safetensors");
    for (name, what, changes, change) in layouts {
        let copy = Copy::of("tiny-sd1");
        change(&copy);
        let found = latents(&load(&open(copy.path(), changes).unwrap()), PROMPT, Syntax::default());
        let off = distance(&found, &values(&expected[name]));
        assert!(off < 1e-4, "{what}: {off:e}");
    }
}

/// Puts tensors beside the text encoder's that no prompt passes through.
fn add_spare(copy: &Copy) {
    let mut tensors = read_tensors(&copy.path().join(TEXT));
    let one = |name: &str, shape: Vec<usize>| {
        (name.to_string(), Dtype::F32, shape.clone(), vec![0; 4 * shape.iter().product::<usize>()])
    };
    tensors.extend([
        one("logit_scale", vec![]),
        one("text_projection.weight", vec![24, 32]),
        one("visual_projection.weight", vec![24, 8]),
        one("vision_model.embeddings.class_embedding", vec![8]),
        one("vision_model.post_layernorm.weight", vec![8]),
    ]);
    let ids = (0..77i64).flat_map(i64::to_le_bytes).collect();
    tensors.push(("text_model.embeddings.position_ids".into(), Dtype::I64, vec![1, 77], ids));
    write_tensors(&copy.path().join(TEXT), &tensors);
}

#[test]
fn tensors_to_spare_are_left_out_and_listed() {
    let plain = open(&fixture("tiny-sd1"), Changes::default()).unwrap().describe().unwrap();
    let copy = Copy::of("tiny-sd1");
    add_spare(&copy);
    set(&copy, "text_encoder/config.json", json!({"num_hidden_layers": 2}));
    let mut unet = read_tensors(&copy.path().join(UNET));
    unet.push(("model_ema.decay".into(), Dtype::F32, vec![], vec![0; 4]));
    write_tensors(&copy.path().join(UNET), &unet);
    let checkpoint = open(copy.path(), Changes::default()).unwrap();
    load(&checkpoint);
    let found = checkpoint.describe().unwrap();
    let spare = &found.parts[0].spare;
    assert_eq!(
        spare[..],
        [
            "encoder.layers.2.* (16 tensors)",
            "logit_scale",
            "text_model.embeddings.position_ids",
            "text_projection.weight",
            "vision_model.* (2 tensors)",
            "visual_projection.weight"
        ]
    );
    assert_eq!(found.parts[1].spare, ["model_ema.decay"]);
    assert!(found.parts[2].spare.is_empty());
    assert!(found.parameters < plain.parameters && found.digest != plain.digest);
    let out = Command::cargo_bin("attnmap").unwrap().arg("models").arg(copy.path()).output().unwrap();
    let page = String::from_utf8(out.stdout).unwrap();
    assert!(page.contains("not used") && page.contains("text_encoder: vision_model.* (2 tensors)"), "{page}");
    // What would change numbers is refused as before.
    let mut tensors = read_tensors(&copy.path().join(TEXT));
    tensors.push(("text_model.encoder.layers.0.adapter.weight".into(), Dtype::F32, vec![1], vec![0; 4]));
    write_tensors(&copy.path().join(TEXT), &tensors);
    let loaded = Pipeline::load(&open(copy.path(), Changes::default()).unwrap(), &LoadOptions::default());
    assert!(loaded.err().unwrap().to_string().contains("adapter.weight"));
}

#[test]
fn a_variant_is_taken_where_a_part_has_it() {
    let copy = Copy::of("tiny-sd1");
    halved_variant(&copy, "non_ema");
    let checkpoint = open(copy.path(), variant("non_ema")).unwrap();
    let files = [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    assert_eq!(checkpoint.weight_files(), files);
    let pipeline = load(&checkpoint);
    let settings = serde_json::to_value(pipeline.settings(&pipeline.default_options(), 0)).unwrap();
    assert_eq!((&settings["variant"], &settings["weights"]), (&json!("non_ema"), &json!(files)));
    // The plain files are taken where nothing is said; then there is no list.
    let pipeline = load(&open(copy.path(), Changes::default()).unwrap());
    let settings = serde_json::to_value(pipeline.settings(&pipeline.default_options(), 0)).unwrap();
    assert!(settings.get("weights").is_none());

    let refusal = |name: Option<&str>| {
        let changes = Changes { variant: name.map(String::from), ..Default::default() };
        open(copy.path(), changes).unwrap_err().to_string()
    };
    assert!(refusal(Some("fp16")).contains("no part has a `fp16` variant in safetensors; leave `variant` out"));
    // Where the UNet has its variant alone, the way out that is named leads out.
    fs::remove_file(copy.path().join(UNET)).unwrap();
    assert!(
        refusal(None)
            .contains("has only a `non_ema` variant of diffusion_pytorch_model.safetensors; give `variant` non_ema")
    );
    assert!(refusal(Some("fp16")).contains("`variant` non_ema is there"));
    open(copy.path(), variant("non_ema")).unwrap();
    // A pickle of the variant is no reason to refuse the plain safetensors of another part.
    fs::write(copy.path().join("vae/diffusion_pytorch_model.non_ema.bin"), "x").unwrap();
    open(copy.path(), variant("non_ema")).unwrap();
    // A part with another variant alone.
    let vae = copy.path().join("vae/diffusion_pytorch_model");
    fs::rename(vae.with_extension("safetensors"), vae.with_extension("fp16.safetensors")).unwrap();
    let message = refusal(Some("non_ema"));
    assert!(message.contains("vae") && message.contains("neither a `non_ema` variant nor"), "{message}");
}

/// A weight that a LoRA changes does not stay in its blocks, and the plan of memory counts it so.
#[test]
fn changed_blocks_are_counted_as_the_numbers_that_they_become() {
    let bytes = |loras: Vec<Lora>, blocks: bool| {
        let changes = Changes { loras, config: Some(fixture("tiny-flux-schnell")), ..Default::default() };
        let options = OpenOptions { changes, ..Default::default() };
        let checkpoint = Checkpoint::open(&Source::File(fixture("flux/schnell.gguf")), &options).unwrap();
        checkpoint.weights(Part::Transformer).unwrap().bytes_in_memory(DType::F32, blocks)
    };
    let lora = || vec![Lora { file: fixture("flux/lora-peft.safetensors"), weight: 1.0 }];
    assert_eq!(bytes(lora(), false), bytes(vec![], false));
    assert!(bytes(vec![], true) < bytes(lora(), true) && bytes(lora(), true) < bytes(lora(), false));
}

/// The parts that a transformer's own file lacks may have variants in the folder beside it.
#[test]
fn a_variant_is_taken_of_the_parts_beside_a_transformer() {
    let copy = Copy::of("tiny-flux-schnell");
    let vae = copy.path().join("vae");
    let fp16 = "diffusion_pytorch_model.fp16.safetensors";
    fs::rename(vae.join("diffusion_pytorch_model.safetensors"), vae.join(fp16)).unwrap();
    let open = |file: &Path, name: Option<&str>| {
        let variant = name.map(String::from);
        let changes = Changes { variant, config: Some(copy.path().into()), ..Default::default() };
        Checkpoint::open(&Source::File(file.into()), &OpenOptions { changes, ..Default::default() })
    };
    let transformer = fixture("flux/schnell.gguf");
    let message = open(&transformer, None).unwrap_err().to_string();
    assert!(message.contains("give `variant` fp16"), "{message}");
    let checkpoint = open(&transformer, Some("fp16")).unwrap();
    let files = checkpoint.weight_files();
    assert!(files.contains(&format!("vae/{fp16}")), "{files:?}");
    assert!(files.contains(&"text_encoder/model.safetensors".to_string()), "{files:?}");
    load(&checkpoint);
    let message = open(&transformer, Some("bf16")).unwrap_err().to_string();
    assert!(message.contains("no part has a `bf16` variant"), "{message}");
    // A file that has all parts has no variants.
    let (_kept, whole) = crate::single::tiny_file("tiny-sd1", |_| {});
    let message = open(&whole, Some("fp16")).unwrap_err().to_string();
    assert!(message.contains("one set of weights; leave `variant` out"), "{message}");
}

fn lora(path: &Path) -> Changes {
    Changes { loras: vec![Lora { file: path.into(), weight: 0.8 }], ..Default::default() }
}

fn kohya() -> Tensors {
    read_tensors(&fixture("adapters/kohya-sd1.safetensors"))
}

/// Every weight that `merged.safetensors` has, as this LoRA makes it.
fn assert_merged(checkpoint: &Checkpoint, what: &str) {
    for (name, tensor) in expected("merged.safetensors") {
        let (part, name) = match name.strip_prefix("unet.") {
            Some(name) => (Part::Unet, name),
            None => (Part::TextEncoder, name.strip_prefix("text_encoder.").unwrap()),
        };
        let weights = checkpoint.weights(part).unwrap().var_builder(DType::F32, &Device::Cpu);
        let found = values(&weights.get_unchecked_dtype(name, DType::F32).unwrap());
        let off = distance(&found, &values(&tensor));
        assert!(off < 1e-6, "{what}: {name} is off by {off:e}");
    }
}

#[test]
fn alphas_of_every_type_and_shape_merge_as_in_diffusers() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("style.safetensors");
    let one = |dtype: Dtype, alpha: f32| -> Vec<u8> {
        match dtype {
            Dtype::F16 => half::f16::from_f32(alpha).to_le_bytes().to_vec(),
            Dtype::BF16 => half::bf16::from_f32(alpha).to_le_bytes().to_vec(),
            Dtype::F32 => alpha.to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(alpha).to_le_bytes().to_vec(),
            Dtype::I64 | Dtype::U64 => (alpha as i64).to_le_bytes().to_vec(),
            Dtype::I32 | Dtype::U32 => (alpha as i32).to_le_bytes().to_vec(),
            Dtype::I16 | Dtype::U16 => (alpha as i16).to_le_bytes().to_vec(),
            _ => vec![alpha as u8],
        }
    };
    let types = [
        Dtype::I64,
        Dtype::I32,
        Dtype::I16,
        Dtype::I8,
        Dtype::U64,
        Dtype::U32,
        Dtype::U16,
        Dtype::U8,
        Dtype::F64,
        Dtype::F32,
        Dtype::BF16,
    ];
    for (number, dtype) in types.into_iter().enumerate() {
        let mut tensors = kohya();
        for (name, kind, shape, bytes) in &mut tensors {
            if name.ends_with(".alpha") {
                let alpha = half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
                (*kind, *bytes, *shape) = (dtype, one(dtype, alpha), vec![1; number % 3]);
            }
        }
        write_tensors(&path, &tensors);
        assert_merged(&open(&fixture("tiny-sd1"), lora(&path)).unwrap(), &format!("{dtype:?}"));
    }
    // Two numbers are no scale.
    let mut tensors = kohya();
    let alpha = tensors.iter_mut().find(|tensor| tensor.0.ends_with(".alpha")).unwrap();
    (alpha.2, alpha.3) = (vec![2], vec![0; 4]);
    write_tensors(&path, &tensors);
    assert!(open(&fixture("tiny-sd1"), lora(&path)).unwrap_err().to_string().contains("is not one number"));
}

#[test]
fn layers_that_do_not_fit_are_left_out_with_one_warning() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("style.safetensors");
    // None of these is a layer whose merged weight is compared.
    let layer = "lora_unet_mid_block_resnets_1_conv1";
    let rename = |to: &'static str| {
        move |tensors: &mut Tensors| tensors.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace(layer, to))
    };
    type Case = (&'static str, Box<dyn Fn(&mut Tensors)>);
    let cases: [Case; 6] = [
        ("(not in ", Box::new(rename("lora_unet_mid_block_resnets_7_conv1"))),
        (
            "lora_te2_text_model_encoder_layers_0_mlp_fc1",
            Box::new(rename("lora_te2_text_model_encoder_layers_0_mlp_fc1")),
        ),
        (
            "does not make the layer's [24, 24, 3, 3]",
            Box::new(move |tensors: &mut Tensors| {
                let down = tensors.iter_mut().find(|tensor| tensor.0 == format!("{layer}.lora_down.weight")).unwrap();
                // A convolution of another width.
                (down.2[1], down.3) = (12, down.3[..down.3.len() / 2].to_vec());
            }),
        ),
        (
            "DoRA",
            Box::new(move |tensors: &mut Tensors| {
                tensors.push((format!("{layer}.dora_scale"), Dtype::F16, vec![1], vec![0, 0]));
            }),
        ),
        (
            "LoHa",
            Box::new(move |tensors: &mut Tensors| {
                tensors.push((format!("{layer}.hada_w1_a"), Dtype::F16, vec![1], vec![0, 0]));
            }),
        ),
        (
            "`other` (no part of a LoRA",
            Box::new(|tensors: &mut Tensors| {
                tensors.push(("other".into(), Dtype::F16, vec![1], vec![0, 0]));
            }),
        ),
    ];
    for (expected, change) in cases {
        let mut tensors = kohya();
        change(&mut tensors);
        write_tensors(&path, &tensors);
        let checkpoint = open(&fixture("tiny-sd1"), lora(&path)).unwrap();
        assert_merged(&checkpoint, expected);
        let [warning] = &checkpoint.warnings[..] else { panic!("{expected}: {:?}", checkpoint.warnings) };
        let told =
            warning.contains(expected) && warning.contains("style.safetensors: 1 of ") && warning.lines().count() == 1;
        assert!(told, "{warning}");
    }
    // Many are counted, and the text encoder's last layers are left out with those that clip skip
    // leaves out.
    write_tensors(&path, &kohya());
    let copy = Copy::of("tiny-sd1");
    set(&copy, "text_encoder/config.json", json!({"num_hidden_layers": 2}));
    let checkpoint = open(copy.path(), lora(&path)).unwrap();
    assert!(
        checkpoint.warnings[0].contains("6 of ") && checkpoint.warnings[0].contains("and 3 more"),
        "{:?}",
        checkpoint.warnings
    );
    assert_merged(&checkpoint, "clip skip");
    // Where every layer that reads the prompt is of another width, the whole file is for another
    // checkpoint.
    let mut tensors = kohya();
    for (name, _, shape, bytes) in &mut tensors {
        if (name.contains("attn2_to_k") || name.contains("attn2_to_v")) && name.ends_with("lora_down.weight") {
            (shape[1], *bytes) = (shape[1] / 2, bytes[..bytes.len() / 2].to_vec());
        }
    }
    write_tensors(&path, &tensors);
    let message = open(&fixture("tiny-sd1"), lora(&path)).unwrap_err().to_string();
    assert!(message.contains("for another kind of checkpoint"), "{message}");
}

#[test]
fn the_warning_is_said_and_kept_with_the_run() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("style.safetensors");
    let mut tensors = kohya();
    tensors
        .iter_mut()
        .for_each(|tensor| tensor.0 = tensor.0.replace("mid_block_resnets_1_conv1", "mid_block_resnets_7_conv1"));
    write_tensors(&path, &tensors);
    let run = folder.path().join("run");
    let mut generate = Command::cargo_bin("attnmap").unwrap();
    generate
        .args(["generate", "a red apple", "--steps", "1", "--size", "64x64", "-q", "--model"])
        .arg(fixture("tiny-sd1"));
    let out = generate.arg("--lora").arg(&path).arg("--out").arg(&run).output().unwrap();
    let told = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && told.lines().count() == 1, "{told}");
    assert!(told.contains("warning: --lora ") && told.contains("resnets_7_conv1"), "{told}");
    let record: Value = serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap();
    assert!(record["warnings"][0].as_str().unwrap().contains("resnets_7_conv1"));
}

#[test]
fn a_folder_that_holds_an_adapter_is_that_adapter() {
    let folder = TempDir::new().unwrap();
    let copy = |name: &str, to: &str| fs::copy(fixture("adapters").join(name), folder.path().join(to)).unwrap();
    let open = |changes: Changes| open(&fixture("tiny-sd1"), changes);
    let refusal = |changes| open(changes).unwrap_err();
    let error = refusal(lora(folder.path()));
    assert!(error.to_string().starts_with("lora: ") && error.to_string().contains("no .safetensors file"), "{error}");
    fs::write(folder.path().join("pytorch_lora_weights.bin"), "x").unwrap();
    assert!(refusal(lora(folder.path())).to_string().contains("Python pickle"));
    copy("kohya-sd1.safetensors", "style.safetensors");
    assert_merged(&open(lora(folder.path())).unwrap(), "the only file");
    copy("peft.safetensors", "another.safetensors");
    let error = refusal(lora(folder.path()));
    let named = error.to_string();
    assert!(named.contains("name one: ") && named.contains("another.safetensors or"), "{named}");
    assert_eq!(error.exit_code(), 2);
    assert_merged(&open(lora(&folder.path().join("style.safetensors"))).unwrap(), "the way out");
    copy("kohya-sd1.safetensors", "pytorch_lora_weights.safetensors");
    assert_merged(&open(lora(folder.path())).unwrap(), "the usual name");
    // An embedding likewise, with a word or the one that the file names.
    let taught =
        |text: &str| open(Changes { embeddings: vec![text.parse::<Embedding>().unwrap()], ..Default::default() });
    let other = TempDir::new().unwrap();
    fs::copy(fixture("odd/eight-vectors.safetensors"), other.path().join("learned_embeds.safetensors")).unwrap();
    let text = other.path().display().to_string();
    assert_eq!(taught(&text).unwrap().added_words[0].word, "<x>");
    assert_eq!(taught(&format!("{text}:<y>")).unwrap().added_words[0].word, "<y>");
}

/// A layer of `tiny-sd1` with the LoRA `path`, one that `peft.safetensors` changes.
fn keys_with_lora(path: &Path) -> Vec<f32> {
    let name = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let weights = open(&fixture("tiny-sd1"), lora(path)).unwrap().weights(Part::Unet).unwrap();
    values(&weights.var_builder(DType::F32, &Device::Cpu).get_unchecked_dtype(name, DType::F32).unwrap())
}

/// PEFT's own file has no scale in it: `adapter_config.json` has. `peft.safetensors` says the same
/// in its header: 5 over 2.
#[test]
fn an_adapter_of_peft_is_scaled_by_its_config() {
    let folder = TempDir::new().unwrap();
    let (file, config) = (folder.path().join("adapter_model.safetensors"), folder.path().join("adapter_config.json"));
    let mut tensors = read_tensors(&fixture("adapters/peft.safetensors"));
    tensors.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace("unet.", "base_model.model."));
    write_tensors(&file, &tensors);
    let weight = keys_with_lora;
    let expected = weight(&fixture("adapters/peft.safetensors"));
    let write = |value: Value| fs::write(&config, value.to_string()).unwrap();
    write(json!({"peft_type": "LORA", "r": 2, "lora_alpha": 5, "target_modules": ["to_k"], "use_dora": false}));
    assert_eq!(weight(folder.path()), expected);
    assert_eq!(weight(&file), expected);
    let opened = || open(&fixture("tiny-sd1"), lora(folder.path())).unwrap();
    let scaled = opened();
    write(json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2}));
    assert_ne!(weight(folder.path()), expected);
    assert_ne!(opened().digest().unwrap(), scaled.digest().unwrap(), "another scale is another checkpoint");
    assert!(opened().warnings.is_empty(), "{:?}", opened().warnings);
    fs::remove_file(&config).unwrap();
    assert!(opened().warnings[0].contains("adapter_config.json is not beside it, so its scale counts as 1"));
    let refusal = |value: Value| {
        write(value);
        open(&fixture("tiny-sd1"), lora(folder.path())).unwrap_err().to_string()
    };
    assert!(refusal(json!({"peft_type": "LOHA"})).contains("PEFT's kind LOHA"));
    assert!(refusal(json!({"peft_type": "LORA", "use_dora": true})).contains("DoRA"));
    fs::write(&config, "{").unwrap();
    let message = open(&fixture("tiny-sd1"), lora(folder.path())).unwrap_err().to_string();
    assert!(message.contains("adapter_config.json beside it") && message.lines().count() == 1, "{message}");
}

/// `save_lora_adapter` of diffusers writes a UNet's settings into the header without its name.
#[test]
fn a_file_of_one_network_is_scaled_by_its_header() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("unet.safetensors");
    let mut tensors = read_tensors(&fixture("adapters/peft.safetensors"));
    tensors.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace("unet.", ""));
    let write = |settings: Value| {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        let header = HashMap::from([("lora_adapter_metadata".to_string(), settings.to_string())]);
        fs::write(&file, safetensors::serialize(views, Some(header)).unwrap()).unwrap();
    };
    let expected = keys_with_lora(&fixture("adapters/peft.safetensors"));
    write(json!({"peft_type": "LORA", "r": 2, "lora_alpha": 5, "use_dora": false}));
    assert_eq!(keys_with_lora(&file), expected);
    // What diffusers makes of ranks that differ.
    let whole = "^up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
    write(json!({"r": 4, "lora_alpha": 4, "alpha_pattern": {whole: 5}}));
    assert_eq!(keys_with_lora(&file), expected);
    write(json!({"r": 2, "lora_alpha": 2, "use_dora": true}));
    assert!(open(&fixture("tiny-sd1"), lora(&file)).unwrap_err().to_string().contains("DoRA"));
}

/// diffusers takes its own naming of a layer that stands there twice.
#[test]
fn a_layer_in_two_namings_is_changed_once() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("both.safetensors");
    let mut tensors = read_tensors(&fixture("adapters/peft.safetensors"));
    for tensor in &mut tensors {
        tensor.0 = tensor.0.replace("lora_A", "lora_down").replace("lora_B", "lora_up");
    }
    write_tensors(&file, &tensors);
    let expected = keys_with_lora(&file);
    let flat = |(name, dtype, shape, bytes): &(String, Dtype, Vec<usize>, Vec<u8>)| {
        let (layer, factor) = name.strip_prefix("unet.").unwrap().split_once(".lora").unwrap();
        (format!("lora_unet_{}.lora{factor}", layer.replace('.', "_")), *dtype, shape.clone(), bytes.clone())
    };
    let twice: Tensors = tensors.iter().map(flat).chain(tensors.iter().cloned()).collect();
    write_tensors(&file, &twice);
    assert_eq!(keys_with_lora(&file), expected);
    let alone: Tensors = tensors.iter().map(flat).collect();
    write_tensors(&file, &alone);
    assert_eq!(keys_with_lora(&file), expected);
}

/// Files of FLUX.1 have differences of zeros for every bias.
#[test]
fn differences_of_zeros_change_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("style.safetensors");
    let layers = |tensors: &Tensors| -> Vec<String> {
        tensors.iter().filter_map(|tensor| tensor.0.strip_suffix(".lora_up.weight")).map(String::from).collect()
    };
    let mut tensors = kohya();
    for layer in layers(&kohya()) {
        tensors.push((format!("{layer}.diff_b"), Dtype::F16, vec![2], vec![0; 4]));
    }
    tensors.push(("lora_unet_conv_norm_out.w_norm".into(), Dtype::F16, vec![2], vec![0; 4]));
    write_tensors(&path, &tensors);
    let checkpoint = open(&fixture("tiny-sd1"), lora(&path)).unwrap();
    assert_merged(&checkpoint, "zeros");
    assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
    // Others are named.
    let last = tensors.last_mut().unwrap();
    last.3 = half::f16::ONE.to_le_bytes().repeat(2);
    write_tensors(&path, &tensors);
    let checkpoint = open(&fixture("tiny-sd1"), lora(&path)).unwrap();
    assert!(checkpoint.warnings[0].contains("conv_norm_out.w_norm` (norm differences"), "{:?}", checkpoint.warnings);
}

fn eight() -> Changes {
    let file = fixture("odd/eight-vectors.safetensors");
    Changes { embeddings: vec![Embedding { file, word: None }], ..Default::default() }
}

/// As the web UI shares it out: the whole embedding begins the next chunk.
#[test]
fn an_embedding_stays_in_one_chunk() {
    let case: Value = serde_json::from_slice(&fs::read(fixture("odd/across-a-border.json")).unwrap()).unwrap();
    let expected = expected("runs.safetensors");
    let pipeline = load(&open(&fixture("tiny-sd1"), eight()).unwrap());
    let long = Syntax { long: true, emphasis: false };
    let text = case["prompt"].as_str().unwrap();
    let prompt = pipeline.read(text, long).unwrap();
    let ids: Vec<Vec<u32>> = prompt.keys().into_iter().map(|keys| prompt.ids[keys].to_vec()).collect();
    assert_eq!(json!(ids), case["ids"]);
    let states = pipeline.conditioning(&[&prompt], &pipeline.default_options()).unwrap().hidden_states;
    let off = distance(&values(&states), &values(&expected["across-a-border.states"]));
    assert!(off < 1e-4, "{off:e}");
    let off = distance(&latents(&pipeline, text, long), &values(&expected["across-a-border"]));
    assert!(off < 1e-4, "{off:e}");
    let words: Vec<_> = prompt.default_words().into_iter().filter(|word| word.text == "<x>").collect();
    assert_eq!(words.iter().map(|word| word.tokens.len()).collect::<Vec<_>>(), [8, 8]);
}

/// At every place of a chunk, with and without weights, alone and twice, after a break.
#[test]
fn an_embedding_is_whole_at_every_place() {
    let pipeline = load(&open(&fixture("tiny-sd1"), eight()).unwrap());
    let vectors = pipeline.tokenize("<x>").unwrap().ids[1..9].to_vec();
    for emphasis in [false, true] {
        let syntax = Syntax { long: true, emphasis };
        for before in 0..80 {
            for word in if emphasis { ["(<x>:1.2)", "((<x>)) [<x>]"] } else { ["<x>", "<x> <x>"] } {
                for between in ["", "BREAK "] {
                    let text = format!("{}{between}{word} frog", "a ".repeat(before));
                    let prompt = pipeline.read(&text, syntax).unwrap();
                    for word in prompt.words.iter().filter(|word| word.text == "<x>") {
                        let positions: Vec<usize> =
                            word.tokens.iter().map(|&token| prompt.tokens[token].position).collect();
                        let ids: Vec<u32> = positions.iter().map(|&position| prompt.ids[position]).collect();
                        assert_eq!(ids, vectors, "{text}");
                        assert_eq!(positions[7] - positions[0], 7, "{text}");
                        assert_eq!(positions[0] / 77, positions[7] / 77, "{text}");
                    }
                    assert!(prompt.cut_off.is_empty(), "{text}");
                }
            }
        }
    }
    // Without chunks it is cut off with what follows it, and named.
    let cut = pipeline.tokenize(&format!("{}<x> frog", "a ".repeat(70))).unwrap();
    assert_eq!(cut.cut_off, ["<x>", "frog"]);
}

#[test]
fn an_embedding_longer_than_a_chunk_is_shared_out() {
    let copy = Copy::of("tiny-sd1");
    set(&copy, "tokenizer/tokenizer_config.json", json!({"model_max_length": 8}));
    let pipeline = load(&open(copy.path(), eight()).unwrap());
    let prompt = pipeline.read("a <x> frog", Syntax { long: true, emphasis: true }).unwrap();
    assert_eq!((prompt.chunks().len(), prompt.words[1].tokens.len()), (2, 8));
    assert!(prompt.cut_off.is_empty());
}

#[test]
fn the_word_of_an_embedding_is_said() {
    let folder = TempDir::new().unwrap();
    let run = |prompt: &str, more: &[&str]| {
        let mut generate = Command::cargo_bin("attnmap").unwrap();
        generate
            .args(["generate", prompt, "--steps", "1", "--size", "64x64", "--force", "--model"])
            .arg(fixture("tiny-sd1"));
        generate.arg("--embedding").arg(fixture("odd/eight-vectors.safetensors")).args(more);
        let out = generate.arg("--out").arg(folder.path().join("run")).output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    let without = run("a red apple", &[]);
    assert!(without.contains("its word in prompts is <x> (8 vectors)"), "{without}");
    assert!(without.contains("warning: the prompt does not have <x>"), "{without}");
    let record: Value = serde_json::from_slice(&fs::read(folder.path().join("run/run.json")).unwrap()).unwrap();
    assert!(record["warnings"][0].as_str().unwrap().contains("does not have <x>"));
    let quiet = run("a red apple", &["-q"]);
    assert!(quiet.contains("warning") && !quiet.contains("its word"), "{quiet}");
    for (prompt, more) in [("a <x> frog", &[][..]), ("a frog", &["--negative", "<X>"]), ("a frog", &["--probe", "<x>"])]
    {
        assert!(!run(prompt, more).contains("warning: the prompt does not have"), "{prompt}");
    }
    let mut models = Command::cargo_bin("attnmap").unwrap();
    models.arg("models").arg(fixture("tiny-sd1")).arg("--embedding").arg(fixture("odd/eight-vectors.safetensors"));
    let page = String::from_utf8(models.output().unwrap().stdout).unwrap();
    assert!(page.contains("<x> (8 vectors), from --embedding"), "{page}");
}

#[test]
fn addresses_are_taken_or_the_form_is_named() {
    let refusal = |arguments: &[&str]| {
        let mut generate = Command::cargo_bin("attnmap").unwrap();
        generate
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", "/no/such/cache")
            .args(["generate", "a frog", "-q"])
            .args(arguments);
        let out = generate.output().unwrap();
        let told = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && told.lines().count() == 1, "{told}");
        told
    };
    let site = "https://huggingface.co/owner/name";
    for (arguments, expected) in [
        (["--model", site], "owner/name: HF_HUB_OFFLINE is set"),
        (["--model", &format!("{site}/blob/main/x.safetensors")], "does not have it"),
        (["--lora", &format!("{site}/blob/main/x.safetensors")], "owner/name: HF_HUB_OFFLINE is set"),
        (["--lora", &format!("{site}/resolve/v1/x.safetensors?download=true:0.5")], "owner/name@v1: HF_HUB_OFFLINE"),
        (["--lora", "owner/name"], "nor is there a file owner/name here"),
        (["--lora", "owner/name:0.5"], "nor is there a file owner/name here"),
        (["--embedding", "owner/name:<x>"], "nor is there a file owner/name here"),
        (["--lora", &format!("{site}/tree/main/unet")], "--lora: https"),
        (["--embedding", "https://civitai.com/api/download/models/9208"], "download the file"),
        (["--lora", "x.safetensors"], "--lora: no file x.safetensors"),
    ] {
        let told = refusal(&arguments);
        assert!(told.contains(expected), "{arguments:?}: {told}");
    }
}

#[test]
fn a_run_is_no_checkpoint_and_says_so() {
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    let mut generate = Command::cargo_bin("attnmap").unwrap();
    generate.args(["generate", "a frog", "--steps", "1", "--size", "64x64", "--model"]).arg(fixture("tiny-sd1"));
    generate.arg("--out").arg(&run).assert().success();
    let told = |arguments: &[&std::ffi::OsStr]| {
        let out = Command::cargo_bin("attnmap").unwrap().args(arguments).output().unwrap();
        let told = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(1) && told.lines().count() == 1, "{told}");
        told
    };
    let message = told(&["models".as_ref(), run.as_ref()]);
    assert!(message.contains("the folder is a run, which `attnmap view ") && message.contains("tiny-sd1"), "{message}");
    for file in ["heatmaps.safetensors", "trace.safetensors"] {
        let message = told(&["models".as_ref(), run.join(file).as_ref()]);
        assert!(message.contains("a run's maps, not a checkpoint"), "{message}");
    }
    // What people point at beside it.
    let cached = folder.path().join("models--owner--name");
    fs::create_dir_all(cached.join("snapshots/0")).unwrap();
    assert!(
        told(&["models".as_ref(), cached.as_ref()]).contains("the hub cache's copy of owner/name: give owner/name")
    );
    crate::checkpoint::copy_folder(&fixture("tiny-sd1"), &folder.path().join("above/tiny"));
    let message = told(&["models".as_ref(), folder.path().join("above").as_ref()]);
    assert!(message.contains("above/tiny is a folder in the diffusers layout"), "{message}");
}

#[test]
fn numbers_in_a_header_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("style.safetensors");
    for (value, expected) in
        [("8", "has 8 for `ss_network_dim`"), ("null", "has null for"), ("{\"a\": 1}", "has {\"a\":1} for")]
    {
        let header = format!(
            "{{\"__metadata__\": {{\"a\": \"b\", \"ss_network_dim\": {value}}}, \"x.alpha\": {{\"dtype\": \"F16\", \
            \"shape\": [], \"data_offsets\": [0, 2]}}}}"
        );
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0, 0]].concat();
        fs::write(&path, bytes).unwrap();
        let message = open(&fixture("tiny-sd1"), lora(&path)).unwrap_err().to_string();
        assert!(message.contains("`__metadata__`") && message.contains(expected), "{message}");
        assert!(!message.contains("fetch it again") && message.lines().count() == 1, "{message}");
    }
}
/// CLIP is taught words in Stable Diffusion 3 and FLUX.1 too, which read no prompts in chunks.
#[test]
fn checkpoints_that_read_no_chunks_are_taught_words_too() {
    let folder = TempDir::new().unwrap();
    let vectors =
        |name: &str, width: usize| (name.to_string(), Dtype::F16, vec![2, width], [7u8, 0x38].repeat(2 * width));
    for (model, tensors) in [
        ("tiny-flux-schnell", vec![vectors("clip_l", 32)]),
        ("tiny-sd3", vec![vectors("clip_g", 40), vectors("clip_l", 32)]),
    ] {
        let file = folder.path().join(format!("{model}.safetensors"));
        write_tensors(&file, &tensors);
        let embeddings = vec![Embedding { file, word: Some("<zat>".into()) }];
        let pipeline = load(&open(&fixture(model), Changes { embeddings, ..Default::default() }).unwrap());
        let missing = |text: &str| pipeline.words_not_in(&[text], Syntax::default()).unwrap().len();
        assert_eq!((missing("a <zat> frog"), missing("a frog")), (0, 1), "{model}");
    }
}
