//! Single-file checkpoints in the original naming: names and configs against the original code and
//! diffusers, values against the folder that holds the same weights.

use crate::model_shapes::{config, read_tree, shapes};
use assert_cmd::Command;
use attnmap::checkpoint::{
    Changes, Checkpoint, OpenOptions, Part, Source, TextEncoderConfig, TokenizerFiles, UnetConfig, VaeConfig,
};
use attnmap::pipeline::{LoadOptions, Options, Pipeline};
use attnmap::prompt::Tokenizer;
use attnmap::trace::Unobserved;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(path: &Path, changes: Changes) -> attnmap::Result<Checkpoint> {
    Checkpoint::open(&Source::File(path.into()), &OpenOptions { changes, ..Default::default() })
}

/// A safetensors file of f16 zeros that takes no room on a disk, with these tensors.
pub(crate) fn sparse(path: &Path, shapes: &BTreeMap<String, Vec<usize>>) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end as u64).unwrap();
}

/// The full-size single file `name` with zeros in it, and the folder to be kept while it is used.
fn full_size(name: &str, change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>)) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut tensors = read_tree(&fixture("single").join(format!("{name}.txt")), "");
    change(&mut tensors);
    sparse(&path, &tensors);
    (folder, path)
}

#[test]
fn full_size_files_become_what_diffusers_makes_of_them() {
    for (name, prediction, prefix) in [
        ("sd15", None, "text_model."),
        ("sd21", Some("v_prediction".to_string()), "text_model."),
        ("sdxl", None, "text_model."),
    ] {
        let (_folder, path) = full_size(name, |_| {});
        let checkpoint = open(&path, Changes { prediction, ..Default::default() }).unwrap();
        for &part in checkpoint.index.parts() {
            // transformers 5 leaves the prefix out, but for the encoder with a projection.
            let prefix = if part == Part::TextEncoder { prefix } else { "" };
            let expected = shapes(name, part.folder(), prefix);
            let mut found = checkpoint.weights(part).unwrap().shapes();
            if part == Part::Vae {
                // 1x1 convolutions in the file, linear layers in diffusers.
                for (_, shape) in found.iter_mut().filter(|(name, _)| name.contains(".attentions.")) {
                    shape.truncate(2);
                }
            }
            assert_eq!(found, expected, "{name} {part:?}");
        }
        let read = |part: &str| config(name, part);
        let (json, file) = read("unet");
        assert_eq!(checkpoint.denoiser.unet(), Some(&UnetConfig::from_json(&json, &file).unwrap()));
        let (json, file) = read("vae");
        let sample_size = checkpoint.vae.sample_size;
        assert_eq!(checkpoint.vae, VaeConfig { sample_size, ..VaeConfig::from_json(&json, &file).unwrap() });
        let (json, file) = read("text_encoder");
        // Neither has an effect here: the pooled state is not used, and there is no projection.
        let TextEncoderConfig { eos_token_id, projection_dim, .. } = checkpoint.text_encoder.clone().unwrap();
        let expected = TextEncoderConfig::from_json(&json, &file).unwrap();
        assert_eq!(checkpoint.text_encoder, Some(TextEncoderConfig { eos_token_id, projection_dim, ..expected }));

        if let Some(second) = &checkpoint.second {
            let (json, file) = read("text_encoder_2");
            let expected = TextEncoderConfig::with_projection(&json, &file).unwrap();
            let eos_token_id = second.text_encoder.eos_token_id;
            assert_eq!(second.text_encoder, TextEncoderConfig { eos_token_id, ..expected });
            Tokenizer::new(&second.tokenizer).unwrap();
        }

        let description = checkpoint.describe().unwrap();
        let kinds = BTreeMap::from([("sd15", "Stable Diffusion 1"), ("sd21", "Stable Diffusion 2"), ("sdxl", "SDXL")]);
        assert_eq!(description.kind, kinds[name]);
        let schedule = if name == "sdxl" { "denoiser.sigmas" } else { "betas" }.to_string();
        assert!(description.ignored_parts.contains(&schedule), "{:?}", description.ignored_parts);
        let unused = description.ignored_parts.iter().any(|part| part.contains("resblocks.23.* (12 tensors)"));
        assert_eq!(unused, name == "sd21", "{:?}", description.ignored_parts);
        Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap()).unwrap();
    }
}

#[test]
fn an_inpainting_file_is_known_by_its_channels() {
    for name in ["sd15", "sdxl"] {
        let (_folder, path) = full_size(name, |tensors| {
            tensors.get_mut("model.diffusion_model.input_blocks.0.0.weight").unwrap()[1] = 9;
        });
        let checkpoint = open(&path, Changes::default()).unwrap();
        let unet = checkpoint.denoiser.unet().unwrap();
        assert_eq!((unet.in_channels, unet.out_channels), (9, 4), "{name}");
        let shapes = checkpoint.weights(Part::Unet).unwrap().shapes();
        assert_eq!(shapes["conv_in.weight"], [320, 9, 3, 3], "{name}");
    }
}

#[test]
fn what_the_model_predicts_is_read_or_said() {
    let kind = |checkpoint: &Checkpoint| {
        let scheduler = &checkpoint.scheduler;
        (scheduler.class_name.clone(), scheduler.prediction_type.clone().unwrap(), checkpoint.defaults.size[0])
    };
    let expected = |class: &str, prediction: &str, size| (class.to_string(), prediction.to_string(), size);
    let say = |prediction: &str| Changes { prediction: Some(prediction.into()), ..Default::default() };

    let (_folder, path) = full_size("sd15", |_| {});
    assert_eq!(kind(&open(&path, Changes::default()).unwrap()), expected("PNDMScheduler", "epsilon", 512));
    assert_eq!(kind(&open(&path, say("v_prediction")).unwrap()), expected("DDIMScheduler", "v_prediction", 512));
    let (_folder, path) = full_size("sd15", |tensors| {
        tensors.insert("v_pred".into(), vec![0]);
        tensors.insert("ztsnr".into(), vec![0]);
    });
    let marked = open(&path, Changes::default()).unwrap();
    assert_eq!(kind(&marked), expected("DDIMScheduler", "v_prediction", 512));
    assert_eq!(marked.scheduler.rescale_betas_zero_snr, Some(true));
    assert_eq!(marked.scheduler.timestep_spacing.as_deref(), Some("trailing"));

    // SD 2 shows it by the spread of one bias.
    let (_folder, path) = full_size("sd21", |_| {});
    assert_eq!(kind(&open(&path, Changes::default()).unwrap()), expected("PNDMScheduler", "epsilon", 512));
    let name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    let values: Vec<u8> =
        (0..320).flat_map(|i| half::f16::from_f32(if i % 2 == 0 { 0.1 } else { -0.1 }).to_le_bytes()).collect();
    overwrite(&path, name, &values);
    assert_eq!(kind(&open(&path, Changes::default()).unwrap()), expected("DDIMScheduler", "v_prediction", 768));
    assert_eq!(kind(&open(&path, say("epsilon")).unwrap()), expected("PNDMScheduler", "epsilon", 512));
}

/// Writes `bytes` over the tensor `name` in place.
fn overwrite(path: &Path, name: &str, bytes: &[u8]) {
    use std::io::Read;
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let mut length = [0; 8];
    file.read_exact(&mut length).unwrap();
    let length = u64::from_le_bytes(length);
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    let start = header[name]["data_offsets"][0].as_u64().unwrap();
    file.seek(SeekFrom::Start(8 + length + start)).unwrap();
    file.write_all(bytes).unwrap();
}

/// A tensor of the tiny single file: its name, its shape, and what it is made of in the diffusers
/// folder.
#[derive(Deserialize)]
struct Row(String, Vec<usize>, Vec<String>);

pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The tiny checkpoint `name` as a single file. What its folder does not have (a layer that is not
/// used, schedules) is zeros.
fn tiny(name: &str) -> Tensors {
    let mut sources = BTreeMap::new();
    for (part, file) in [
        ("unet", "unet/diffusion_pytorch_model.safetensors"),
        ("vae", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder", "text_encoder/model.safetensors"),
        ("text_encoder_2", "text_encoder_2/model.safetensors"),
    ] {
        let Ok(bytes) = fs::read(fixture(name).join(file)) else { continue };
        for (key, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
            sources.insert(format!("{part}/{key}"), (view.dtype(), view.data().to_vec()));
        }
    }
    let rows: Vec<Row> =
        serde_json::from_slice(&fs::read(fixture("single").join(format!("{name}.json"))).unwrap()).unwrap();
    let tensor = |Row(name, shape, pieces): Row| {
        let found: Vec<_> = pieces.iter().map(|piece| &sources[piece]).collect();
        let dtype = found.first().map_or(Dtype::F16, |(dtype, _)| *dtype);
        let mut bytes: Vec<u8> = found.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        if name.ends_with(".text_projection") && !pieces.is_empty() {
            let element = |index: usize| {
                let (row, column) = (index / shape[1], index % shape[1]);
                let at = 2 * (column * shape[0] + row);
                [bytes[at], bytes[at + 1]]
            };
            bytes = (0..bytes.len() / 2).flat_map(element).collect();
        }
        if pieces.is_empty() {
            bytes = vec![0; 2 * shape.iter().product::<usize>()];
        }
        (name, (dtype, shape, bytes))
    };
    let tensors: Tensors = rows.into_iter().map(tensor).collect();
    assert!(tensors.len() > 600);
    tensors
}

pub(crate) fn write(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A single file with the weights of the tiny checkpoint `name`.
pub(crate) fn tiny_file(name: &str, change: impl FnOnce(&mut Tensors)) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tiny.safetensors");
    let mut tensors = tiny(name);
    change(&mut tensors);
    write(&path, &tensors);
    (folder, path)
}

fn with_config(name: &str) -> Changes {
    Changes { config: Some(fixture(name)), ..Default::default() }
}

pub(crate) fn load(
    checkpoint: &Checkpoint,
    part: Part,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> BTreeMap<String, Vec<f32>> {
    let read = |vb: candle_nn::VarBuilder| {
        let read = |(name, shape): (&String, &Vec<usize>)| {
            let values = vb.get(shape.clone(), name)?.flatten_all()?.to_vec1()?;
            Ok((name.clone(), values))
        };
        shapes.iter().map(read).collect()
    };
    checkpoint.weights(part).unwrap().load(DType::F32, &Device::Cpu, read).unwrap()
}

#[test]
fn a_single_file_has_the_folders_tensors() {
    for name in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        let folder = Checkpoint::open(&Source::Folder(fixture(name)), &OpenOptions::default()).unwrap();
        let (_kept, path) = tiny_file(name, |_| {});
        let file = open(&path, with_config(name)).unwrap();
        for &part in folder.index.parts() {
            let shapes = folder.weights(part).unwrap().shapes();
            assert_eq!(load(&file, part, &shapes), load(&folder, part, &shapes), "{name} {part:?}");
        }
        let (description, expected) = (file.describe().unwrap(), folder.describe().unwrap());
        assert_eq!(description.parameters, expected.parameters);
        assert_eq!(description.sites, expected.sites);
        assert_ne!(description.digest, expected.digest);
        // The unused layer is not part of the encoder.
        assert!(description.bytes < fs::metadata(&path).unwrap().len());
    }
}

/// What shows in the shapes is inferred as the folder's configs have it.
#[test]
fn tiny_shapes_are_inferred() {
    for name in ["tiny-sd1", "tiny-sd2"] {
        // The folder that replaces configs has a tokenizer alone.
        let folder = TempDir::new().unwrap();
        crate::checkpoint::copy_folder(&fixture(name).join("tokenizer"), &folder.path().join("tokenizer"));
        let (_kept, path) = tiny_file(name, |_| {});
        let changes = Changes { config: Some(folder.path().into()), ..Default::default() };
        let message = open(&path, changes).unwrap_err().to_string();
        // Groups of norms show in no shape: 32, as in every published model, cannot be.
        assert!(message.contains("norm_num_groups") && message.contains("tiny.safetensors"), "{message}");
    }
}

#[test]
fn a_single_file_makes_the_folders_image() {
    let latent = |checkpoint: &Checkpoint| -> Vec<f32> {
        let pipeline = Pipeline::load(checkpoint, &LoadOptions::default()).unwrap();
        let prompt = pipeline.tokenize("a red apple").unwrap();
        let options = Options { steps: 2, height: 64, width: 64, ..pipeline.default_options() };
        let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
        let images = pipeline.generate(&prompt, &options, &mut Unobserved, quiet).unwrap().images;
        let tensor: &Tensor = &images[0].latent;
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    for name in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        let folder = Checkpoint::open(&Source::Folder(fixture(name)), &OpenOptions::default()).unwrap();
        let (_kept, path) = tiny_file(name, |_| {});
        assert_eq!(latent(&open(&path, with_config(name)).unwrap()), latent(&folder), "{name}");
    }
}

#[test]
fn tensors_that_are_in_the_way_are_named() {
    let refusal = |change: &dyn Fn(&mut Tensors)| {
        let (_kept, path) = tiny_file("tiny-sd1", |tensors| change(tensors));
        let error = match open(&path, with_config("tiny-sd1")) {
            Err(error) => error,
            Ok(checkpoint) => Pipeline::load(&checkpoint, &LoadOptions::default()).expect_err("something is wrong"),
        };
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains("tiny.safetensors"), "{message}");
        message
    };
    let empty = || (Dtype::F16, vec![1], vec![0, 0]);
    // Averages and schedules have no effect, wherever they come from.
    let (_kept, path) = tiny_file("tiny-sd1", |tensors| {
        for name in
            ["model_ema.decay", "model_ema.diffusion_modelout0bias", "first_stage_model.loss.logvar", "global_step"]
        {
            tensors.insert(name.into(), empty());
        }
        tensors.insert("cond_stage_model.transformer.text_projection.weight".into(), empty());
    });
    let ignored = open(&path, with_config("tiny-sd1")).unwrap().index.ignored_parts;
    let encoder = "cond_stage_model.transformer";
    let spare = [format!("{encoder}.text_model.embeddings.position_ids"), format!("{encoder}.text_projection.weight")];
    let others = ["first_stage_model.loss.logvar", "global_step", "model_ema.* (2 tensors)"].map(str::to_owned);
    assert_eq!(ignored, [&spare[..], &others[..]].concat());

    let add = |name: &'static str| refusal(&move |tensors| drop(tensors.insert(name.into(), empty())));
    let message = add("model.diffusion_model.input_blocks.1.0.other.weight");
    assert!(
        message.contains("1 of its tensors, such as model.diffusion_model.input_blocks.1.0.other.weight"),
        "{message}"
    );
    let message = add("cond_stage_model.transformer.text_model.other.weight");
    assert!(message.contains("cond_stage_model.transformer.text_model.other.weight"), "{message}");
    assert!(add("control_model.input_blocks.0.0.weight").contains("ControlNet"));
    assert!(add("edm_mean").contains("Playground"));
    assert!(add("edm_vpred.sigma_max").contains("CosXL"));

    let remove = |prefix: &'static str| refusal(&move |tensors| tensors.retain(|name, _| !name.starts_with(prefix)));
    assert!(remove("first_stage_model.").contains("without an autoencoder"));
    assert!(remove("cond_stage_model.").contains("without a text encoder"));
    let message = remove("model.diffusion_model.out.2.bias");
    assert!(message.contains("conv_out.bias"), "{message}");
    let message = refusal(&|tensors| {
        tensors.get_mut("model.diffusion_model.out.2.bias").unwrap().1 = vec![2, 2];
    });
    assert!(message.contains("model.diffusion_model.out.2.bias` has shape [2, 2]"), "{message}");
    // Without the folder's tokenizer, CLIP's own is meant.
    let (_kept, path) = tiny_file("tiny-sd1", |_| {});
    let message = open(&path, Changes::default()).unwrap_err().to_string();
    assert!(message.contains("1475 tokens, which are not CLIP's 49408") && message.contains("`config`"), "{message}");
}

/// Numbers of eight bits are read as what they stand for; those that need scales beside them are
/// not taken for weights.
#[test]
fn float8_files_are_read() {
    // The upper half of an f16 is a float8 of the kind e5m2.
    let truncated = |dtype: Dtype| {
        move |tensors: &mut Tensors| {
            for (kind, _, bytes) in tensors.values_mut().filter(|tensor| tensor.0 == Dtype::F16) {
                if dtype == Dtype::F16 {
                    bytes.iter_mut().step_by(2).for_each(|low| *low = 0);
                } else {
                    *bytes = bytes.iter().skip(1).step_by(2).copied().collect();
                }
                *kind = dtype;
            }
        }
    };
    let (_kept, small) = tiny_file("tiny-sd1", truncated(Dtype::F8_E5M2));
    let (_kept, large) = tiny_file("tiny-sd1", truncated(Dtype::F16));
    let [small, large] = [small, large].map(|path| open(&path, with_config("tiny-sd1")).unwrap());
    let (description, expected) = (small.describe().unwrap(), large.describe().unwrap());
    assert!(description.parts[1].dtypes.contains(&"f8_e5m2".to_string()), "{:?}", description.parts);
    assert_eq!(description.parameters, expected.parameters);
    for &part in small.index.parts() {
        let shapes = large.weights(part).unwrap().shapes();
        assert_eq!(load(&small, part, &shapes), load(&large, part, &shapes), "{part:?}");
    }
    for (name, expected) in [
        // A factor beside a weight that is no float8.
        ("model.diffusion_model.out.2.scale_weight", "with factors beside it"),
        ("model.diffusion_model.out.2.weight.absmax", "bitsandbytes"),
    ] {
        let scale = (Dtype::F16, vec![1], vec![0, 0x3c]);
        let (_kept, path) = tiny_file("tiny-sd1", |tensors| drop(tensors.insert(name.into(), scale)));
        let message = open(&path, with_config("tiny-sd1")).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("take the file in f16"), "{name}: {message}");
    }
    // Half of a weight in float8 is that weight in another file.
    let (_kept, halved) = tiny_file("tiny-sd1", |tensors| {
        truncated(Dtype::F8_E5M2)(tensors);
        let name = "model.diffusion_model.middle_block.1.proj_in";
        tensors.insert(format!("{name}.scale_weight"), (Dtype::F32, vec![], 0.5f32.to_le_bytes().to_vec()));
        tensors.insert("scaled_fp8".into(), (Dtype::F8_E5M2, vec![0], vec![]));
    });
    let halved = open(&halved, with_config("tiny-sd1")).unwrap();
    let shapes = large.weights(Part::Unet).unwrap().shapes();
    let (halved, whole) = (load(&halved, Part::Unet, &shapes), load(&large, Part::Unet, &shapes));
    for (name, values) in &whole {
        let factor = if name == "mid_block.attentions.0.proj_in.weight" { 0.5 } else { 1.0 };
        let expected: Vec<f32> = values.iter().map(|value| value * factor).collect();
        assert_eq!(halved[name], expected, "{name}");
    }
}

#[test]
fn files_of_other_kinds_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    for (name, expected) in [
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA, not a checkpoint"),
        ("unet.down_blocks.0.to_q.lora_A.weight", "a LoRA, not a checkpoint"),
        ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
        ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "Stable Diffusion 3"),
        ("down_blocks.0.resnets.0.conv1.weight", "the UNet alone of a diffusers folder"),
        ("decoder.up.0.block.0.conv1.weight", "an autoencoder alone"),
        ("text_model.final_layer_norm.weight", "a text encoder alone"),
        ("emb_params", "textual-inversion"),
        ("whatever", "like no model that attnmap knows"),
    ] {
        sparse(&path, &BTreeMap::from([(name.to_string(), vec![2])]));
        let message = open(&path, Changes::default()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("model.safetensors"), "{name}: {message}");
    }
    // Their blocks are named as FLUX.1's are.
    for (mark, expected) in
        [("single_stream_modulation.lin.weight", "FLUX.2"), ("distilled_guidance_layer.in_proj.bias", "Chroma")]
    {
        for prefix in ["", "model.diffusion_model."] {
            let names = ["double_blocks.0.img_attn.qkv.weight", mark];
            sparse(&path, &BTreeMap::from(names.map(|name| (format!("{prefix}{name}"), vec![2]))));
            let message = open(&path, Changes::default()).unwrap_err().to_string();
            assert!(message.contains(&format!("{expected} is not supported")), "{message}");
        }
    }
    fs::write(&path, b"x").unwrap();
    assert!(open(&path, Changes::default()).unwrap_err().to_string().contains("truncated"));
    let missing = open(&folder.path().join("no.safetensors"), Changes::default()).unwrap_err();
    assert!(missing.to_string().contains("no file") && missing.exit_code() == 2, "{missing}");

    let options = |changes| OpenOptions { changes, ..Default::default() };
    let misplaced =
        Checkpoint::open(&Source::Folder(fixture("tiny-sd1")), &options(with_config("tiny-sd1"))).unwrap_err();
    assert!(misplaced.to_string().contains("config: only a single-file"), "{misplaced}");
    let changes = Changes { prediction: Some("flow".into()), ..Default::default() };
    let unknown = Checkpoint::open(&Source::Embedded, &options(changes)).unwrap_err();
    assert!(unknown.to_string().contains("prediction: \"flow\" is unknown"), "{unknown}");
}

#[derive(Deserialize)]
struct Entry {
    text: String,
    ids: Vec<u32>,
    openai: bool,
}

static CLIP: LazyLock<TokenizerFiles> = LazyLock::new(|| {
    let (_folder, path) = full_size("sd15", |_| {});
    open(&path, Changes::default()).unwrap().tokenizer.unwrap()
});

#[test]
fn the_built_in_vocabulary_gives_clips_tokens() {
    let tokenizer = Tokenizer::new(&CLIP).unwrap();
    let entries: Vec<Entry> = serde_json::from_str(include_str!("../fixtures/clip-tokens.json")).unwrap();
    assert!(entries.iter().filter(|entry| entry.openai).count() > 40);
    for Entry { text, ids, .. } in entries {
        let prompt = tokenizer.encode(&text).unwrap();
        assert_eq!(prompt.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), ids, "{text:?}");
    }
}

#[test]
fn the_command_line_reads_single_files() {
    let (_kept, path) = tiny_file("tiny-sd2", |_| {});
    let config = fixture("tiny-sd2");
    let mut models = Command::cargo_bin("attnmap").unwrap();
    let output = models.arg("models").arg(&path).arg("--config").arg(&config).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let description: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(description["prediction_type"], "v_prediction");
    assert_eq!(description["parts"][1]["files"][0], "tiny.safetensors");

    let out = TempDir::new().unwrap();
    let run = out.path().join("run");
    let mut generate = Command::cargo_bin("attnmap").unwrap();
    generate.args(["generate", "a red apple", "--steps", "2", "--size", "64x64", "--prediction", "epsilon", "--model"]);
    generate.arg(&path).arg("--config").arg(&config).arg("--out").arg(&run);
    generate.assert().success();
    let record: Value = serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap();
    assert_eq!(record["settings"]["prediction"], "epsilon");
    assert_eq!(record["settings"]["config"], config.to_str().unwrap());
    // The run is made again by what it recorded.
    let mut explain = Command::cargo_bin("attnmap").unwrap();
    explain.arg("explain").arg(&run).args(["--words", "apple"]).assert().success();

    let pickle = out.path().join("model.ckpt");
    fs::write(&pickle, b"x").unwrap();
    let mut refused = Command::cargo_bin("attnmap").unwrap();
    let output = refused.args(["generate", "x", "--model"]).arg(&pickle).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("Python pickle") && output.status.code() == Some(2), "{message}");
}
