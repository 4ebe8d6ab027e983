//! Checkpoints on disk: configs of every age, weights in every layout, and what is refused with
//! which words.

use attnmap::checkpoint::{
    Activation, BlockType, Changes, Checkpoint, OpenOptions, Part, SchedulerConfig, Source, TextEncoderConfig,
    TokenizerConfig, UnetConfig, VaeConfig,
};
use attnmap::model::{Conditioning, TextEncoder, Unet, Vae};
use attnmap::pipeline::{LoadOptions, Pipeline};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a fixture that a test may damage.
pub(crate) struct Copy(TempDir);

impl Copy {
    pub(crate) fn of(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        copy_folder(&fixture(name), folder.path());
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path().join(file);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
    }

    pub(crate) fn open(&self) -> attnmap::Result<Checkpoint> {
        Checkpoint::open(&Source::Folder(self.path().into()), &OpenOptions::default())
    }

    pub(crate) fn open_variant(&self, variant: &str) -> attnmap::Result<Checkpoint> {
        let options = OpenOptions {
            changes: Changes { variant: Some(variant.into()), ..Default::default() },
            ..Default::default()
        };
        Checkpoint::open(&Source::Folder(self.path().into()), &options)
    }

    /// The one-line message with which opening, or else loading `part`, fails.
    fn refusal(&self, part: Part) -> String {
        let error = match self.open() {
            Err(error) => error,
            Ok(checkpoint) => load_all(&checkpoint, part).expect_err("something is wrong with this checkpoint"),
        };
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(error.exit_code(), if matches!(error, attnmap::Error::Argument { .. }) { 2 } else { 1 });
        message
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Reads every tensor that the intact fixture has, as a network would that fits it.
fn load_all(checkpoint: &Checkpoint, part: Part) -> attnmap::Result<BTreeMap<String, Tensor>> {
    load_shapes(checkpoint, part, checkpoint.weights(part)?.shapes(), DType::F32)
}

fn load_shapes(
    checkpoint: &Checkpoint,
    part: Part,
    shapes: BTreeMap<String, Vec<usize>>,
    dtype: DType,
) -> attnmap::Result<BTreeMap<String, Tensor>> {
    checkpoint.weights(part)?.load(dtype, &Device::Cpu, |vb| {
        let mut tensors = BTreeMap::new();
        for (name, shape) in shapes {
            let tensor = vb.get(shape, &name)?;
            tensors.insert(name, tensor);
        }
        Ok(tensors)
    })
}

/// A safetensors file as (name, type, shape, bytes).
pub(crate) type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

pub(crate) fn read_tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = file
        .iter()
        .map(|(name, view)| (name.to_string(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

pub(crate) fn write_tensors(path: &Path, tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

pub(crate) const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
pub(crate) const TEXT: &str = "text_encoder/model.safetensors";

#[test]
fn a_folder_opens_and_every_tensor_is_read() {
    for (name, parts) in [("tiny-sd1", 3), ("tiny-sd2", 3), ("tiny-sdxl", 4), ("tiny-ssd", 4), ("tiny-lcm", 3)] {
        let checkpoint = Checkpoint::open(&Source::Folder(fixture(name)), &OpenOptions::default()).unwrap();
        assert_eq!(checkpoint.id, fixture(name).display().to_string());
        assert_eq!(checkpoint.index.parts().len(), parts);
        for &part in checkpoint.index.parts() {
            assert!(!load_all(&checkpoint, part).unwrap().is_empty());
        }
    }
}

#[test]
fn scalars_and_lists_mean_the_same() {
    let list = r#"{"attention_head_dim": [8, 8, 8, 8], "layers_per_block": [2, 2, 2, 2],
        "cross_attention_dim": [768, 768, 768, 768], "transformer_layers_per_block": [1, 1, 1, 1],
        "sample_size": [64, 64], "only_cross_attention": [false, false, false, false]}"#;
    let scalar = r#"{"cross_attention_dim": 768, "sample_size": 64}"#;
    let read = |json: &str| UnetConfig::from_json(json.as_bytes(), Path::new("config.json")).unwrap();
    assert_eq!(read(list), read(scalar));
}

/// `unet/config.json` as Stable Diffusion 1.5 was published (diffusers 0.6).
const SD15_UNET: &str = r#"{
  "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
  "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
  "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
  "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
}"#;

/// The same of Stable Diffusion 2.1, in the fields that differ.
const SD21_UNET: &str = r#"{
  "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.10.0.dev0", "attention_head_dim": [5, 10, 20, 20],
  "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024, "dual_cross_attention": false,
  "num_class_embeds": null, "only_cross_attention": false, "sample_size": 96, "upcast_attention": true,
  "use_linear_projection": true
}"#;

/// Fine-tunes of autumn 2022 say 32 and mean 64 (`pipeline_stable_diffusion.py`).
#[test]
fn early_fine_tunes_have_the_size_of_what_they_were_made_from() {
    let size = |version: &str, side: &str| {
        let json =
            SD15_UNET.replace("0.6.0", version).replace("\"sample_size\": 64", &format!("\"sample_size\": {side}"));
        UnetConfig::from_json(json.as_bytes(), Path::new("config.json")).unwrap().sample_size.unwrap()
    };
    assert_eq!((size("0.6.0", "32"), size("0.8.1", "[32, 32]")), ([64; 2], [64; 2]));
    assert_eq!((size("0.9.0", "32"), size("0.10.0.dev0", "32")), ([32; 2], [32; 2]));
    assert_eq!((size("0.6.0", "96"), size("0.6.0", "[48, 64]")), ([96; 2], [48, 64]));
}

#[test]
fn the_published_unets_have_the_known_shape() {
    let sd15 = UnetConfig::from_json(SD15_UNET.as_bytes(), Path::new("config.json")).unwrap();
    assert_eq!(sd15.num_attention_heads, [8, 8, 8, 8]);
    assert_eq!(sd15.sample_size, Some([64, 64]));
    assert_eq!(sd15.time_embed_dim, 1280);
    assert!(!sd15.use_linear_projection && !sd15.upcast_attention);
    let down = sd15.down_blocks();
    let channels: Vec<_> = down.iter().map(|block| (block.in_channels, block.out_channels)).collect();
    assert_eq!(channels, [(320, 320), (320, 640), (640, 1280), (1280, 1280)]);
    assert_eq!(down[3].kind, BlockType::Plain);
    assert!(down[3].transformer_layers.is_empty() && !down[3].sampler && down[2].sampler);
    let up = sd15.up_blocks();
    let channels: Vec<_> =
        up.iter().map(|block| (block.in_channels, block.out_channels, block.skip_channels)).collect();
    // diffusers' prev_output_channel, out_channels, in_channels of each up block of SD 1.5.
    assert_eq!(channels, [(1280, 1280, 1280), (1280, 1280, 640), (1280, 640, 320), (640, 320, 320)]);
    assert_eq!(up[1].transformer_layers, [1, 1, 1]);
    assert_eq!(up[0].kind, BlockType::Plain);

    let sd21 = UnetConfig::from_json(SD21_UNET.as_bytes(), Path::new("config.json")).unwrap();
    assert_eq!(sd21.num_attention_heads, [5, 10, 20, 20]);
    assert_eq!(sd21.up_blocks().iter().map(|block| block.heads).collect::<Vec<_>>(), [20, 20, 10, 5]);
    assert!(sd21.use_linear_projection && sd21.upcast_attention);
    assert_eq!(sd21.mid_block().unwrap().heads, 20);
}

#[test]
fn depths_by_layer_reach_down_mid_and_up() {
    let json = r#"{"transformer_layers_per_block": [[1, 2], [3, 4], [5, 6], 0],
        "reverse_transformer_layers_per_block": [1, [4, 3, 2], [7, 7, 7], [1, 1, 1]]}"#;
    let config = UnetConfig::from_json(json.as_bytes(), Path::new("config.json")).unwrap();
    assert_eq!(config.down_blocks()[1].transformer_layers, [3, 4]);
    assert_eq!(config.up_blocks()[1].transformer_layers, [4, 3, 2]);
    assert_eq!(config.mid_block().unwrap().transformer_layers, [0]);
}

#[test]
fn the_other_published_configs_are_read() {
    let file = Path::new("config.json");
    let vae = r#"{"_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D",
        "DownEncoderBlock2D", "DownEncoderBlock2D"], "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
        "norm_num_groups": 32, "out_channels": 3, "sample_size": 512, "up_block_types": ["UpDecoderBlock2D",
        "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
    let vae = VaeConfig::from_json(vae.as_bytes(), file).unwrap();
    assert_eq!((vae.factor(), vae.scaling_factor), (8, 0.18215));

    let text = r#"{"_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu",
        "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768,
        "torch_dtype": "float32", "transformers_version": "4.22.0.dev0", "vocab_size": 49408}"#;
    let text = TextEncoderConfig::from_json(text.as_bytes(), file).unwrap();
    assert_eq!((text.hidden_act, text.eos_token_id, text.hidden_size), (Activation::QuickGelu, 2, 768));

    let pndm = r#"{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false,
        "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null, "clip_sample": false}"#;
    let pndm = SchedulerConfig::from_json(pndm.as_bytes(), file).unwrap();
    assert_eq!(
        (pndm.class_name.as_str(), pndm.steps_offset, pndm.clip_sample),
        ("PNDMScheduler", Some(1), Some(false))
    );
    assert_eq!((pndm.prediction_type, pndm.trained_betas), (None, None));

    // Python writes an infinity that JSON does not have; a string that holds the word is left
    // alone.
    let dpm = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity,
        "solver_type": "Infinity\"", "solver_p": null}"#;
    let dpm = SchedulerConfig::from_json(dpm.as_bytes(), file).unwrap();
    assert_eq!(dpm.lambda_min_clipped.unwrap().0, f64::NEG_INFINITY);
    assert_eq!(dpm.solver_type.unwrap(), "Infinity\"");

    let tokenizer = r#"{"add_prefix_space": false, "bos_token": {"__type": "AddedToken", "content": "<|startoftext|>",
        "lstrip": false, "normalized": true, "rstrip": false, "single_word": false}, "do_lower_case": true,
        "errors": "replace", "model_max_length": 77, "name_or_path": "openai/clip-vit-large-patch14",
        "special_tokens_map_file": "./special_tokens_map.json", "tokenizer_class": "CLIPTokenizer",
        "unk_token": "<|endoftext|>"}"#;
    let special = r#"{"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "!"}"#;
    let tokenizer = |special: Option<&str>, longest| {
        let special = special.map(|json| (json.as_bytes(), file));
        TokenizerConfig::from_json((tokenizer.as_bytes(), file), special, longest)
    };
    assert_eq!(tokenizer(None, 77).unwrap().pad_token, "<|endoftext|>");
    assert_eq!(tokenizer(Some(special), 77).unwrap().pad_token, "!");
    assert!(tokenizer(None, 32).unwrap_err().to_string().contains("max_position_embeddings"));
}

#[test]
fn what_a_config_asks_for_and_attnmap_does_not_do_is_refused_by_name() {
    let cases: &[(&str, &str, Value, &str)] = &[
        ("unet/config.json", "act_fn", json!("gelu"), "gelu"),
        ("unet/config.json", "dual_cross_attention", json!(true), "only false is"),
        ("unet/config.json", "only_cross_attention", json!([true, false, false]), "only false is"),
        ("unet/config.json", "class_embed_type", json!("timestep"), "timestep"),
        ("unet/config.json", "addition_embed_type", json!("image_hint"), "only \"text_time\" or null is"),
        ("unet/config.json", "addition_time_embed_dim", json!(256), "only null is"),
        ("unet/config.json", "time_cond_proj_dim", json!(0), "is 0"),
        ("unet/config.json", "resnet_time_scale_shift", json!("scale_shift"), "scale_shift"),
        ("unet/config.json", "mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn"), "or null is"),
        (
            "unet/config.json",
            "down_block_types",
            json!(["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
            "AttnDownBlock2D",
        ),
        ("unet/config.json", "num_attention_heads", json!(8), "only null is"),
        ("unet/config.json", "attention_head_dim", json!(5), "does not divide"),
        ("unet/config.json", "attention_head_dim", json!([4, 4]), "2 entries for 3 blocks"),
        ("unet/config.json", "block_out_channels", json!([12, 24]), "2 entries for 3"),
        ("unet/config.json", "norm_num_groups", json!(null), "norm_num_groups"),
        ("unet/config.json", "in_channels", json!(8), "instruction-editing"),
        ("unet/config.json", "cross_attention_dim", json!(768), "hidden_size"),
        ("unet/config.json", "layers_per_block", json!("two"), "two"),
        ("unet/config.json", "sample_size", json!(-1), "-1"),
        ("unet/config.json", "frobnicate", json!(1), "not a field that attnmap knows"),
        ("vae/config.json", "latent_channels", json!(8), "only 4 or 16 is"),
        ("vae/config.json", "shift_factor", json!(0.1), "0.1"),
        ("vae/config.json", "latents_mean", json!([0.0]), "only null is"),
        ("vae/config.json", "scaling_factor", json!(0), "not positive"),
        ("vae/config.json", "down_block_types", json!(["AttnDownEncoderBlock2D"]), "DownEncoderBlock2D"),
        ("text_encoder/config.json", "hidden_act", json!("relu"), "quick_gelu or gelu"),
        ("text_encoder/config.json", "architectures", json!(["T5EncoderModel"]), "T5EncoderModel"),
        ("text_encoder/config.json", "model_type", json!("t5"), "clip_text_model"),
        ("text_encoder/config.json", "num_attention_heads", json!(0), "out of range"),
        ("text_encoder/config.json", "quantization_config", json!({"load_in_8bit": true}), "quantised weights"),
        ("scheduler/scheduler_config.json", "beta_start", json!("low"), "low"),
        ("scheduler/scheduler_config.json", "use_magic", json!(true), "use_magic"),
        ("tokenizer/tokenizer_config.json", "padding_side", json!("left"), "left"),
        ("tokenizer/tokenizer_config.json", "do_lower_case", json!(false), "only true is"),
        ("tokenizer/tokenizer_config.json", "model_max_length", json!(512), "max_position_embeddings"),
        ("tokenizer/tokenizer_config.json", "additional_special_tokens", json!(["<cat-toy>"]), "<cat-toy>"),
        ("model_index.json", "vae", json!(["diffusers", "AutoencoderTiny"]), "AutoencoderTiny"),
        ("model_index.json", "unet", json!([null, null]), "missing"),
        ("unet/config.json", "new_field", json!(0), "`new_field` (here 0)"),
        ("tokenizer/tokenizer_config.json", "split_special_tokens", json!(true), "split_special_tokens"),
        ("model_index.json", "controlnet", json!(["diffusers", "ControlNetModel"]), "controlnet"),
    ];
    for (file, field, value, expected) in cases {
        let copy = Copy::of("tiny-sd1");
        copy.edit(file, |config| config[*field] = value.clone());
        let message = copy.refusal(Part::Unet);
        assert!(message.contains(file), "{message}");
        assert!(message.contains(field), "{message}");
        assert!(message.contains(expected), "{message} does not say {expected:?}");
    }
}

#[test]
fn other_pipelines_are_named() {
    for (class, family) in [
        ("StableDiffusionXLControlNetPipeline", "ControlNet"),
        ("AltDiffusionInpaintPipeline", "inpainting"),
        ("StableDiffusion3ControlNetPipeline", "ControlNet"),
        ("StableDiffusion3PAGPipeline", "Stable Diffusion 3 with another guidance"),
        ("FluxKontextPipeline", "FLUX.1 Kontext"),
        ("StableDiffusionControlNetPipeline", "ControlNet"),
        ("WanPipeline", "a video model"),
    ] {
        let copy = Copy::of("tiny-sd1");
        copy.edit("model_index.json", |index| index["_class_name"] = json!(class));
        let message = copy.refusal(Part::Unet);
        assert!(
            message.contains(class) && message.contains(family) && message.contains("is not supported: "),
            "{message}"
        );
    }
}

#[test]
fn what_an_sdxl_folder_lacks_or_has_too_much_is_named() {
    let refusal = |change: &dyn Fn(&Copy)| {
        let copy = Copy::of("tiny-sdxl");
        change(&copy);
        copy.refusal(Part::Unet)
    };
    let edit = |file: &'static str, field: &'static str, value: Value| {
        refusal(&|copy| copy.edit(file, |config| config[field] = value.clone()))
    };
    // The refiner: no first text encoder, and an aesthetic score among the conditions.
    let refiner = edit("model_index.json", "text_encoder", json!([null, null]));
    assert!(refiner.contains("an SDXL refiner") && refiner.contains("give the base"), "{refiner}");
    for (file, field, value, expected) in [
        ("model_index.json", "text_encoder_2", json!([null, null]), "`text_encoder_2` is missing"),
        ("model_index.json", "tokenizer_2", json!([null, null]), "`tokenizer_2` is missing"),
        ("model_index.json", "text_encoder_2", json!(["transformers", "T5EncoderModel"]), "T5EncoderModel"),
        ("model_index.json", "requires_aesthetics_score", json!(true), "requires_aesthetics_score"),
        ("unet/config.json", "cross_attention_dim", json!(40), "the text encoders' widths sum to 72"),
        ("unet/config.json", "projection_class_embeddings_input_dim", json!(64), "make 72"),
        ("unet/config.json", "addition_time_embed_dim", json!(0), "`addition_time_embed_dim` is 0"),
        ("text_encoder_2/config.json", "projection_dim", json!(0), "`projection_dim` is 0"),
        ("model_index.json", "_class_name", json!("StableDiffusionPipeline"), "force_zeros_for_empty_prompt"),
    ] {
        let message = edit(file, field, value);
        assert!(message.contains(expected), "{message}");
    }
    for folder in ["text_encoder_2", "tokenizer_2"] {
        let message = refusal(&|copy| fs::remove_dir_all(copy.path().join(folder)).unwrap());
        assert!(message.contains(folder), "{message}");
    }
    let message = refusal(&|copy| {
        copy.edit("unet/config.json", |config| {
            for field in ["addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"] {
                config[field] = Value::Null;
            }
        });
    });
    assert!(message.contains("but the pipeline is SDXL's"), "{message}");
    // The two encoders' states stand side by side, position by position.
    let copy = Copy::of("tiny-sdxl");
    copy.edit("tokenizer_2/tokenizer_config.json", |config| config["model_max_length"] = json!(64));
    let message = Pipeline::load(&copy.open().unwrap(), &LoadOptions::default()).err().unwrap().to_string();
    assert!(message.contains("tokenizer_2") && message.contains("64") && message.contains("77"), "{message}");
}

/// diffusers' pipelines' own defaults, and those of few-step models.
#[test]
fn defaults_follow_from_the_kind() {
    let defaults = |name: &str, file: &str, change: &dyn Fn(&mut Value)| {
        let copy = Copy::of(name);
        copy.edit(file, change);
        let defaults = copy.open().unwrap().defaults;
        (defaults.steps, defaults.guidance_scale)
    };
    let scheduler = "scheduler/scheduler_config.json";
    assert_eq!(defaults("tiny-sd1", scheduler, &|_| ()), (50, 7.5));
    assert_eq!(defaults("tiny-sdxl", scheduler, &|_| ()), (50, 5.0));
    assert_eq!(defaults("tiny-lcm", scheduler, &|_| ()), (4, 8.5));
    assert_eq!(defaults("tiny-ssd", scheduler, &|_| ()), (4, 0.0));
    let trailing = |config: &mut Value| config["timestep_spacing"] = json!("trailing");
    assert_eq!(defaults("tiny-sdxl", scheduler, &trailing), (4, 0.0));
    let one_step = |config: &mut Value| {
        trailing(config);
        config["prediction_type"] = json!("sample");
    };
    assert_eq!(defaults("tiny-sdxl", scheduler, &one_step), (1, 0.0));
    // What the user says of it counts as well.
    let copy = Copy::of("tiny-sdxl");
    copy.edit(scheduler, trailing);
    let changes = Changes { prediction: Some("sample".into()), ..Default::default() };
    let options = OpenOptions { changes, ..Default::default() };
    let said = Checkpoint::open(&Source::Folder(copy.path().into()), &options).unwrap();
    assert_eq!((said.defaults.steps, said.defaults.guidance_scale), (1, 0.0));
    // Trailing spacing with v-prediction is a model of zero terminal signal, not one of few steps.
    assert_eq!(defaults("tiny-sd2", scheduler, &trailing), (50, 7.5));
    // The index says which class the scheduler is of.
    let index = "model_index.json";
    let lcm = |config: &mut Value| config["scheduler"] = json!(["diffusers", "LCMScheduler"]);
    assert_eq!(defaults("tiny-sd1", index, &lcm), (4, 1.0));
    assert_eq!(defaults("tiny-sdxl", "unet/config.json", &|config| config["sample_size"] = json!(8)), (50, 5.0));
}

#[test]
fn parts_that_no_prompt_passes_through_are_ignored_knowingly() {
    let copy = Copy::of("tiny-sd1");
    copy.edit("model_index.json", |index| {
        index["safety_checker"] = json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
        index["feature_extractor"] = json!(["transformers", "CLIPImageProcessor"]);
        index["requires_safety_checker"] = json!(true);
    });
    assert_eq!(copy.open().unwrap().index.ignored_parts, ["safety_checker", "feature_extractor"]);
}

#[test]
fn a_folder_that_is_no_checkpoint_says_what_it_may_be() {
    let missing = Checkpoint::open(&Source::Folder("/no/such/folder".into()), &OpenOptions::default()).unwrap_err();
    assert_eq!(missing.exit_code(), 2);

    let copy = Copy::of("tiny-sd1");
    fs::remove_file(copy.path().join("model_index.json")).unwrap();
    let message = copy.refusal(Part::Unet);
    assert!(message.contains("model_index.json") && message.contains("diffusers layout"), "{message}");
    fs::write(copy.path().join("v1-5.ckpt"), "x").unwrap();
    assert!(copy.refusal(Part::Unet).contains("pickle"));
    fs::write(copy.path().join("v1-5.safetensors"), "x").unwrap();
    assert!(copy.refusal(Part::Unet).contains("single-file"));
    fs::write(copy.path().join("config.json"), "{}").unwrap();
    assert!(copy.refusal(Part::Unet).contains("folder above"));

    for (file, what) in [
        ("unet/config.json", "UNet"),
        ("scheduler/scheduler_config.json", "noise schedule"),
        ("tokenizer/tokenizer_config.json", "tokenizer"),
        ("tokenizer/merges.txt", "vocab.json with merges.txt"),
    ] {
        let copy = Copy::of("tiny-sd1");
        fs::remove_file(copy.path().join(file)).unwrap();
        let message = copy.refusal(Part::Unet);
        assert!(message.contains(what), "{message}");
    }
}

#[test]
fn a_pickle_is_refused_and_the_way_out_named() {
    let copy = Copy::of("tiny-sd1");
    fs::rename(copy.path().join(UNET), copy.path().join("unet/diffusion_pytorch_model.bin")).unwrap();
    let message = copy.refusal(Part::Unet);
    assert!(message.contains("pickle") && message.contains("convert"), "{message}");
    fs::remove_file(copy.path().join("unet/diffusion_pytorch_model.bin")).unwrap();
    assert!(copy.refusal(Part::Unet).contains("has no weights"));
}

#[test]
fn variants_are_found_and_named() {
    let copy = Copy::of("tiny-sd1");
    let message = copy.open_variant("fp16").unwrap_err().to_string();
    assert!(message.contains("leave `variant` out"), "{message}");
    for file in [UNET, VAE, TEXT] {
        let path = copy.path().join(file);
        fs::rename(&path, path.with_extension("fp16.safetensors")).unwrap();
    }
    let checkpoint = copy.open_variant("fp16").unwrap();
    assert!(!load_all(&checkpoint, Part::Unet).unwrap().is_empty());
    assert!(copy.open().unwrap_err().to_string().contains("give `variant` fp16"));
    assert!(copy.open_variant("ema").unwrap_err().to_string().contains("`variant` fp16 is there"));
    assert_eq!(copy.open_variant("../x").unwrap_err().exit_code(), 2);
    let options =
        OpenOptions { changes: Changes { variant: Some("fp16".into()), ..Default::default() }, ..Default::default() };
    let embedded = Checkpoint::open(&Source::Embedded, &options).unwrap_err();
    assert!(embedded.to_string().contains("leave `variant` out"), "{embedded}");
}

#[test]
fn shards_are_joined_and_their_index_is_checked() {
    let whole = Checkpoint::open(&Source::Folder(fixture("tiny-sd2")), &OpenOptions::default()).unwrap();
    for variant in [None, Some("fp16")] {
        let copy = Copy::of("tiny-sd2");
        let tensors = read_tensors(&copy.path().join(UNET));
        fs::remove_file(copy.path().join(UNET)).unwrap();
        let mut map = BTreeMap::new();
        for (number, half) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
            let name = match variant {
                None => format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", number + 1),
                Some(variant) => format!("diffusion_pytorch_model.{variant}-0000{}-of-00002.safetensors", number + 1),
            };
            write_tensors(&copy.path().join("unet").join(&name), half);
            map.extend(half.iter().map(|tensor| (tensor.0.clone(), name.clone())));
        }
        let index = match variant {
            None => "unet/diffusion_pytorch_model.safetensors.index.json".to_string(),
            Some(variant) => {
                for file in [VAE, TEXT] {
                    let path = copy.path().join(file);
                    fs::rename(&path, path.with_extension(format!("{variant}.safetensors"))).unwrap();
                }
                format!("unet/diffusion_pytorch_model.safetensors.index.{variant}.json")
            }
        };
        let index = copy.path().join(index);
        let write = |map: &BTreeMap<String, String>| {
            fs::write(&index, json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string()).unwrap();
        };
        write(&map);
        let open = || match variant {
            None => copy.open(),
            Some(variant) => copy.open_variant(variant),
        };
        let checkpoint = open().unwrap();
        let expected = load_all(&whole, Part::Unet).unwrap();
        let found = load_all(&checkpoint, Part::Unet).unwrap();
        assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        for (name, tensor) in expected {
            assert_eq!(bits(&tensor), bits(&found[&name]), "{name}");
        }

        let mut bad = map.clone();
        bad.insert("x".into(), "diffusion_pytorch_model-00003-of-00003.safetensors".into());
        write(&bad);
        assert!(open().unwrap_err().to_string().contains("00003-of-00003.safetensors, which is not there"));
        bad.insert("x".into(), "../../secret.safetensors".into());
        write(&bad);
        assert!(open().unwrap_err().to_string().contains("not a safetensors file of this folder"));
        fs::write(&index, "{}").unwrap();
        assert!(open().unwrap_err().to_string().contains("weight_map"));
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn vae_attention_of_2022_is_renamed_and_reshaped() {
    let copy = Copy::of("tiny-sd1");
    let expected = load_all(&copy.open().unwrap(), Part::Vae).unwrap();
    let mut tensors = read_tensors(&copy.path().join(VAE));
    let mut renamed = 0;
    for (name, _, shape, _) in &mut tensors {
        for (new, old) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")] {
            if name.contains(&format!(".{new}.")) {
                *name = name.replace(new, old);
                if shape.len() == 2 {
                    shape.extend([1, 1]);
                }
                renamed += 1;
            }
        }
    }
    assert_eq!(renamed, 16);
    write_tensors(&copy.path().join(VAE), &tensors);
    let checkpoint = copy.open().unwrap();
    let shapes = expected.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    let found = load_shapes(&checkpoint, Part::Vae, shapes, DType::F32).unwrap();
    for (name, tensor) in expected {
        assert_eq!(bits(&tensor), bits(&found[&name]), "{name}");
    }
}

#[test]
fn the_text_encoder_has_one_naming_whatever_the_file_has() {
    let copy = Copy::of("tiny-sd1");
    let mut tensors = read_tensors(&copy.path().join(TEXT));
    assert!(!tensors[0].0.starts_with("text_model."), "transformers 5 leaves the prefix out");
    let expected = load_all(&copy.open().unwrap(), Part::TextEncoder).unwrap();
    for tensor in &mut tensors {
        tensor.0 = format!("text_model.{}", tensor.0);
    }
    let ids: Vec<u8> = (0..77i64).flat_map(i64::to_le_bytes).collect();
    tensors.push(("text_model.embeddings.position_ids".into(), Dtype::I64, vec![1, 77], ids));
    write_tensors(&copy.path().join(TEXT), &tensors);
    let checkpoint = copy.open().unwrap();
    assert_eq!(load_all(&checkpoint, Part::TextEncoder).unwrap().len(), expected.len());
    // Either name finds the tensor.
    let weights = checkpoint.weights(Part::TextEncoder).unwrap();
    assert!(weights.contains("final_layer_norm.weight") && weights.contains("text_model.final_layer_norm.weight"));
}

#[test]
fn tensors_too_many_missing_or_misshapen_are_named() {
    let intact = Copy::of("tiny-sd1");
    let shapes = intact.open().unwrap().weights(Part::Unet).unwrap().shapes();
    let refusal = |change: &dyn Fn(&mut Tensors)| {
        let copy = Copy::of("tiny-sd1");
        let mut tensors = read_tensors(&copy.path().join(UNET));
        change(&mut tensors);
        write_tensors(&copy.path().join(UNET), &tensors);
        let error = load_shapes(&copy.open().unwrap(), Part::Unet, shapes.clone(), DType::F32).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(UNET) && message.lines().count() == 1, "{message}");
        message
    };
    let many = refusal(&|tensors| tensors.push(("lora.up.weight".into(), Dtype::F32, vec![1], vec![0; 4])));
    assert!(many.contains("1 tensor that this model does not have: lora.up.weight"), "{many}");
    let missing = refusal(&|tensors| tensors.retain(|tensor| !tensor.0.starts_with("conv_in")));
    assert!(missing.contains("2 tensors are missing: conv_in.bias, conv_in.weight"), "{missing}");
    let shape = refusal(&|tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.0 == "conv_in.bias").unwrap();
        (tensor.2, tensor.3) = (vec![1], vec![0; 2]);
    });
    assert!(shape.contains("`conv_in.bias` has shape [1] where the config makes it [12]"), "{shape}");
    let integers = refusal(&|tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.0 == "conv_in.bias").unwrap();
        (tensor.1, tensor.3) = (Dtype::I8, vec![0; 12]);
    });
    assert!(integers.contains("`conv_in.bias` holds i8 numbers"), "{integers}");
}

#[test]
fn a_pipeline_names_all_that_does_not_fit() {
    let refusal = |change: &dyn Fn(&mut Tensors)| {
        let copy = Copy::of("tiny-sd2");
        let mut tensors = read_tensors(&copy.path().join(VAE));
        change(&mut tensors);
        write_tensors(&copy.path().join(VAE), &tensors);
        let Err(error) = Pipeline::load(&copy.open().unwrap(), &LoadOptions::default()) else {
            panic!("these weights do not fit")
        };
        assert!(matches!(error, attnmap::Error::Weights { .. }), "{error:?}");
        error.to_string()
    };
    let missing = refusal(&|tensors| tensors.retain(|tensor| !tensor.0.contains("conv_norm_out")));
    for name in
        ["encoder.conv_norm_out.bias", "encoder.conv_norm_out.weight", "decoder.conv_norm_out.weight", "4 tensors"]
    {
        assert!(missing.contains(name) && missing.contains(VAE), "{missing}");
    }
    let many = refusal(&|tensors| tensors.push(("loss.weight".into(), Dtype::F32, vec![1], vec![0; 4])));
    assert!(many.contains("loss.weight"), "{many}");
    let nan = refusal(&|tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.0 == "quant_conv.bias").unwrap();
        tensor.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert!(nan.contains("`quant_conv.bias` has NaN at element 0"), "{nan}");
    let shape = refusal(&|tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.0 == "decoder.conv_in.weight").unwrap();
        tensor.2.reverse();
    });
    assert!(shape.contains("`decoder.conv_in.weight` has shape [3, 3, 4, 16]"), "{shape}");
}

#[test]
fn nan_and_infinity_are_found_in_every_type() {
    let nan: [(Dtype, Vec<u8>); 4] = [
        (Dtype::F16, half::f16::NAN.to_le_bytes().to_vec()),
        (Dtype::BF16, half::bf16::INFINITY.to_le_bytes().to_vec()),
        (Dtype::F32, f32::NEG_INFINITY.to_le_bytes().to_vec()),
        (Dtype::F64, f64::NAN.to_le_bytes().to_vec()),
    ];
    for (dtype, bad) in nan {
        for to in [DType::F32, DType::F16, DType::BF16] {
            let copy = Copy::of("tiny-sd1");
            let mut tensors = read_tensors(&copy.path().join(UNET));
            let tensor = tensors.iter_mut().find(|tensor| tensor.0 == "conv_in.bias").unwrap();
            tensor.1 = dtype;
            tensor.3 = vec![0; 12 * bad.len()];
            tensor.3[7 * bad.len()..8 * bad.len()].copy_from_slice(&bad);
            write_tensors(&copy.path().join(UNET), &tensors);
            let checkpoint = copy.open().unwrap();
            let shapes = checkpoint.weights(Part::Unet).unwrap().shapes();
            let message = load_shapes(&checkpoint, Part::Unet, shapes, to).unwrap_err().to_string();
            assert!(message.contains("`conv_in.bias` has"), "{message}");
            assert!(message.contains("at element 7"), "{message}");
        }
    }
}

#[test]
fn types_are_converted_as_candle_does_it() {
    let copy = Copy::of("tiny-sd1");
    let values: Vec<f32> = (0..12).map(|i| (i as f32 - 5.5) * 1.2345e-3).collect();
    let bytes: [(Dtype, Vec<u8>); 4] = [
        (Dtype::F16, values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()),
        (Dtype::BF16, values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()),
        (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        (Dtype::F64, values.iter().flat_map(|v| (*v as f64).to_le_bytes()).collect()),
    ];
    for (from, bytes) in bytes {
        let mut tensors = read_tensors(&copy.path().join(UNET));
        let tensor = tensors.iter_mut().find(|tensor| tensor.0 == "conv_in.bias").unwrap();
        (tensor.1, tensor.3) = (from, bytes);
        write_tensors(&copy.path().join(UNET), &tensors);
        let checkpoint = copy.open().unwrap();
        let stored = candle_core::safetensors::load(copy.path().join(UNET), &Device::Cpu).unwrap();
        for to in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            let shapes = checkpoint.weights(Part::Unet).unwrap().shapes();
            let loaded = load_shapes(&checkpoint, Part::Unet, shapes, to).unwrap();
            for (name, tensor) in &loaded {
                assert_eq!(tensor.dtype(), to);
                assert_eq!(bits(tensor), bits(&stored[name].to_dtype(to).unwrap()), "{name} {from:?} {to:?}");
            }
        }
    }
    // A number that the wanted type cannot hold is not silently infinite.
    let mut tensors = read_tensors(&copy.path().join(UNET));
    let tensor = tensors.iter_mut().find(|tensor| tensor.0 == "conv_in.bias").unwrap();
    (tensor.1, tensor.3) = (Dtype::F32, [1e6f32; 12].iter().flat_map(|v| v.to_le_bytes()).collect());
    write_tensors(&copy.path().join(UNET), &tensors);
    let checkpoint = copy.open().unwrap();
    let shapes = checkpoint.weights(Part::Unet).unwrap().shapes();
    let message = load_shapes(&checkpoint, Part::Unet, shapes, DType::F16).unwrap_err().to_string();
    assert!(message.contains("1e6, which is out of range for f16"), "{message}");
}

#[test]
fn a_header_of_odd_length_is_read() {
    // The format pads headers to 8 bytes, but early writers did not: elements then lie at odd
    // addresses.
    let copy = Copy::of("tiny-sd1");
    let expected = load_all(&copy.open().unwrap(), Part::Unet).unwrap();
    let path = copy.path().join(UNET);
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut odd = ((length + 3) as u64).to_le_bytes().to_vec();
    odd.extend_from_slice(&bytes[8..8 + length]);
    odd.extend_from_slice(b"   ");
    odd.extend_from_slice(&bytes[8 + length..]);
    fs::write(&path, odd).unwrap();
    for (name, tensor) in load_all(&copy.open().unwrap(), Part::Unet).unwrap() {
        assert_eq!(bits(&tensor), bits(&expected[&name]), "{name}");
    }
}

#[test]
fn damaged_weight_files_are_recognised() {
    let copy = Copy::of("tiny-sd1");
    let path = copy.path().join(UNET);
    let bytes = fs::read(&path).unwrap();
    let refusal = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let message = copy.refusal(Part::Unet);
        assert!(message.contains(UNET), "{message}");
        message
    };
    let whole = bytes.len();
    let message = refusal(&bytes[..whole - 1]);
    assert!(message.contains(&format!("is truncated ({} of {whole} bytes are there)", whole - 1)), "{message}");
    for length in [0, 4, 8, 100] {
        assert!(refusal(&bytes[..length]).contains("is truncated"));
    }
    let mut long = bytes.clone();
    long.push(0);
    assert!(refusal(&long).contains("1 bytes after its last tensor"));
    assert!(refusal(b"<html><body>not found</body></html>").contains("not a safetensors file"));
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    assert!(refusal(pointer.as_bytes()).contains("git-lfs pointer"));
}

#[test]
fn the_digest_tells_checkpoints_apart() {
    let digest = |copy: &Copy| copy.open().unwrap().digest().unwrap();
    let (one, two) = (Copy::of("tiny-sd1"), Copy::of("tiny-sd2"));
    assert_eq!(digest(&one), digest(&Copy::of("tiny-sd1")));
    assert_ne!(digest(&one), digest(&two));
    let mut tensors = read_tensors(&one.path().join(UNET));
    let before = digest(&one);
    tensors[3].3[0] ^= 1;
    write_tensors(&one.path().join(UNET), &tensors);
    assert_ne!(before, digest(&one));
}

#[test]
fn attnmap_json_gives_the_defaults() {
    let copy = Copy::of("tiny-sd1");
    let path = copy.path().join("attnmap.json");
    let write = |value: Value| fs::write(&path, value.to_string()).unwrap();
    write(
        json!({"steps": 20, "guidance_scale": 3.0, "size": [64, 96], "vocabulary": ["a", "frog"], "description": "x"}),
    );
    let defaults = copy.open().unwrap().defaults;
    assert_eq!((defaults.steps, defaults.guidance_scale, defaults.size), (20, 3.0, [64, 96]));
    assert_eq!(defaults.vocabulary.unwrap(), ["a", "frog"]);
    for (bad, expected) in [
        (json!({"steps": 0}), "`steps` is 0"),
        (json!({"size": [63, 64]}), "not a multiple of 4"),
        (json!({"size": [0, 64]}), "not a multiple"),
        (json!({"colour": 1}), "colour"),
    ] {
        write(bad);
        let message = copy.refusal(Part::Unet);
        assert!(message.contains("attnmap.json") && message.contains(expected), "{message}");
    }
}

#[test]
fn sites_follow_from_the_config_alone() {
    for (name, latents) in [("tiny-sd1", [[16, 16], [9, 14]]), ("tiny-sd2", [[16, 16], [5, 23]])] {
        let checkpoint = Checkpoint::open(&Source::Folder(fixture(name)), &OpenOptions::default()).unwrap();
        let weights = checkpoint.weights(Part::Unet).unwrap();
        let unet =
            weights.load(DType::F32, &Device::Cpu, |vb| Unet::new(checkpoint.denoiser.unet().unwrap(), vb)).unwrap();
        for latent in latents {
            assert_eq!(checkpoint.denoiser.sites(latent), unet.sites(latent[0], latent[1]));
        }
    }
    let sd15 = UnetConfig::from_json(SD15_UNET.as_bytes(), Path::new("config.json")).unwrap();
    let sites = sd15.cross_attention_sites([64, 64]);
    assert_eq!(sites.len(), 16);
    assert_eq!(sites[6].path, "mid_block.attentions.0.transformer_blocks.0.attn2");
}

#[test]
fn a_description_has_the_numbers_of_the_files() {
    let description = Copy::of("tiny-sd2").open().unwrap().describe().unwrap();
    let counted = |file: &str| {
        let tensors = read_tensors(&fixture("tiny-sd2").join(file));
        tensors.iter().map(|(_, _, shape, _)| shape.iter().product::<usize>() as u64).sum::<u64>()
    };
    assert_eq!(description.parameters, counted(UNET) + counted(VAE) + counted(TEXT));
    let bytes: u64 = [UNET, VAE, TEXT].iter().map(|f| fs::metadata(fixture("tiny-sd2").join(f)).unwrap().len()).sum();
    assert_eq!(description.bytes, bytes);
    assert_eq!((description.size, description.factor, description.prompt_tokens), ([128, 128], 8, 77));
    assert_eq!(
        (description.scheduler.as_str(), description.prediction_type.as_str()),
        ("DDIMScheduler", "v_prediction")
    );
    assert_eq!(description.parts[2].dtypes, ["f32"]);
}

/// Loads and runs a full-size checkpoint made by `tests/fixtures/make_full_size.py`; says how long
/// each part takes.
#[test]
#[ignore = "needs a folder with a full-size checkpoint in ATTNMAP_FULL_SIZE"]
fn a_full_size_checkpoint_loads() {
    let folder = std::env::var("ATTNMAP_FULL_SIZE").expect("ATTNMAP_FULL_SIZE names a folder");
    let checkpoint = Checkpoint::open(&Source::Folder(folder.into()), &OpenOptions::default()).unwrap();
    for &part in checkpoint.index.parts() {
        let summary = checkpoint.weights(part).unwrap().summary();
        let start = std::time::Instant::now();
        load_all(&checkpoint, part).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let rate = summary.bytes as f64 / 1e9 / seconds;
        let (parameters, dtypes) = (summary.parameters, &summary.dtypes);
        println!("{part:?}: {parameters} parameters, {dtypes:?} as f32 in {seconds:.2} s ({rate:.2} GB/s of file)");
    }
    let start = std::time::Instant::now();
    let device = Device::Cpu;
    let text_encoder = checkpoint
        .weights(Part::TextEncoder)
        .unwrap()
        .load(DType::F32, &device, |vb| TextEncoder::new(checkpoint.text_encoder.as_ref().unwrap(), vb))
        .unwrap();
    let ids = Tensor::zeros((1, 77), DType::U32, &device).unwrap();
    let states = text_encoder.forward(&ids).unwrap().last_hidden_state;
    drop(text_encoder);
    let unet = checkpoint.weights(Part::Unet).unwrap();
    let unet = unet.load(DType::F32, &device, |vb| Unet::new(checkpoint.denoiser.unet().unwrap(), vb)).unwrap();
    let context = unet.prepare(&Conditioning::new(states)).unwrap();
    let latent = Tensor::ones((1, 4, 8, 8), DType::F32, &device).unwrap();
    let output = unet.forward(&latent, 500.0, &context, &mut attnmap::trace::Unobserved).unwrap();
    drop(unet);
    let vae = checkpoint.weights(Part::Vae).unwrap();
    let vae = vae.load(DType::F32, &device, |vb| Vae::new(&checkpoint.vae, vb)).unwrap();
    let image = vae.decode(&output).unwrap();
    assert_eq!(image.dims(), [1, 3, 64, 64]);
    assert!(image.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|value| value.is_finite()));
    println!("loaded as networks and ran once at 64x64 in {:.2} s", start.elapsed().as_secs_f64());
}

/// A JSON object whose keys are mostly real fields, with values that are mostly wrong.
fn config_json() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::collection::vec(any::<u32>().prop_map(Value::from), 0..5).prop_map(Value::from),
        prop::collection::vec(prop::collection::vec(any::<u16>(), 0..4), 0..5).prop_map(|v| json!(v)),
        "[A-Za-z0-9]{0,12}".prop_map(Value::from),
        Just(json!(["CrossAttnDownBlock2D", "DownBlock2D"])),
    ];
    let key = prop_oneof![
        Just("block_out_channels"),
        Just("attention_head_dim"),
        Just("layers_per_block"),
        Just("transformer_layers_per_block"),
        Just("reverse_transformer_layers_per_block"),
        Just("cross_attention_dim"),
        Just("down_block_types"),
        Just("up_block_types"),
        Just("norm_num_groups"),
        Just("sample_size"),
        Just("time_embedding_dim"),
        Just("hidden_size"),
        Just("num_attention_heads"),
        Just("model_max_length"),
        Just("pad_token"),
        Just("added_tokens_decoder"),
        Just("trained_betas"),
        Just("lambda_min_clipped"),
        Just("_class_name"),
    ];
    prop::collection::btree_map(key, value, 0..6).prop_map(|map| json!(map).to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn parsers_never_panic(
        json in prop_oneof![config_json().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..200)],
    ) {
        let file = Path::new("config.json");
        if let Ok(config) = UnetConfig::from_json(&json, file) {
            // What is accepted can be laid out.
            prop_assert_eq!(config.down_blocks().len(), config.up_blocks().len());
            config.mid_block();
        }
        if let Ok(config) = VaeConfig::from_json(&json, file) {
            prop_assert!(config.factor() > 0);
        }
        let _ = TextEncoderConfig::from_json(&json, file);
        let _ = SchedulerConfig::from_json(&json, file);
        let _ = TokenizerConfig::from_json((&json, file), Some((&json, file)), 77);
        let _ = attnmap::checkpoint::ModelIndex::from_json(&json, file);
    }

    #[test]
    fn a_source_never_panics(text in ".{0,40}") {
        let _ = text.parse::<Source>();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_weights_never_panic(cut in 0usize..150_000, at in 0usize..12_000, byte: u8) {
        let copy = Copy::of("tiny-sd1");
        let path = copy.path().join(VAE);
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        fs::write(&path, bytes).unwrap();
        if let Ok(checkpoint) = copy.open() {
            let _ = checkpoint.digest();
            let _ = load_all(&checkpoint, Part::Vae);
        }
    }
}
