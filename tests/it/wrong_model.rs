//! What people give with `--model` that is none: `generate` answers each with one line, the cause
//! and the way out.

use crate::checkpoint::Copy;
use crate::cli::{attnmap, refused};
use crate::single::sparse;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

#[track_caller]
fn generate(model: &Path, code: i32, parts: &[&str]) {
    let out = TempDir::new().unwrap();
    let run = out.path().join("run").display().to_string();
    refused(&attnmap(&["generate", "a frog", "--model", &model.display().to_string(), "--out", &run]), code, parts);
    assert!(!Path::new(&run).exists());
}

#[test]
fn files() {
    let folder = TempDir::new().unwrap();
    // By its ending alone.
    for (name, parts) in [
        ("v1-5.ckpt", &["Python pickle", "convert it to safetensors"][..]),
        ("model.pt", &["Python pickle"]),
        ("unet.onnx", &[".onnx files are not supported", "diffusers folder"]),
        ("picture.png", &["not a .safetensors one"]),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, "x").unwrap();
        generate(&path, 2, parts);
    }
    fs::write(folder.path().join("flux-q4.gguf"), "x").unwrap();
    generate(&folder.path().join("flux-q4.gguf"), 1, &["flux-q4.gguf", "truncated"]);
    generate(&folder.path().join("none.safetensors"), 2, &["no file", "none.safetensors"]);
    // By what is in it.
    let unet = "model.diffusion_model.input_blocks.0.0.weight";
    let vae = "first_stage_model.decoder.conv_in.weight";
    const PARTS: &str = "take the checkpoint that has";
    let cases: [(&[&str], &[&str]); 18] = [
        (
            &["lora_unet_down_blocks_0.lora_down.weight"],
            &["a LoRA, not a checkpoint", "--lora", "--model the checkpoint"],
        ),
        (&["emb_params"], &["textual-inversion", "--embedding"]),
        (&["double_blocks.0.img_attn.qkv.weight"], &["FLUX.1", "--config"]),
        (&["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], &["Stable Diffusion 3", "SDXL"]),
        (&["transformer_blocks.0.attn.to_q.weight"], &["diffusion transformer", "SDXL"]),
        (&["adaln_single.linear.weight", "transformer_blocks.0.attn1.to_q.weight"], &["PixArt", "SDXL"]),
        (&["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], &["T5 text encoder", "SDXL"]),
        (&["text_model.embeddings.token_embedding.weight"], &["a text encoder alone", "model_index.json"]),
        (&["decoder.up_blocks.0.resnets.0.conv1.weight"], &["an autoencoder alone", "model_index.json"]),
        (&["decoder.up.0.block.0.conv1.weight"], &["an autoencoder alone", "model_index.json"]),
        (&["input_blocks.0.0.weight", "time_embed.0.weight"], &["UNet alone", PARTS]),
        (&["down_blocks.0.resnets.0.conv1.weight"], &["the UNet alone of a diffusers folder", "model_index.json"]),
        (&[unet], &["without an autoencoder", PARTS]),
        (&[unet, vae], &["without a text encoder", PARTS]),
        (
            &[unet, vae, "conditioner.embedders.0.model.ln_final.weight", "model.diffusion_model.label_emb.0.0.weight"],
            &["refiner", "give the base model"],
        ),
        (&["control_model.input_hint_block.0.weight"], &["ControlNet", "SDXL"]),
        (&["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], &["IP-Adapter", "SDXL"]),
        (&["model.layers.0.weight"], &["named like no model"]),
    ];
    let path = folder.path().join("model.safetensors");
    for (names, parts) in cases {
        sparse(&path, &names.iter().map(|name| (name.to_string(), vec![2])).collect::<BTreeMap<_, _>>());
        generate(&path, 1, &[&["model.safetensors"], parts].concat());
    }
    fs::write(&path, "x").unwrap();
    generate(&path, 1, &["model.safetensors", "truncated"]);
}

#[test]
fn folders() {
    // Whole pipelines of other kinds, by their index.
    for (class, kind) in [
        ("StableDiffusion3ControlNetPipeline", "ControlNet"),
        ("FluxKontextPipeline", "FLUX.1 Kontext"),
        ("PixArtSigmaPipeline", "PixArt"),
        ("StableDiffusionControlNetPipeline", "ControlNet"),
        ("OnnxStableDiffusionPipeline", "ONNX Runtime"),
        ("ORTStableDiffusionXLPipeline", "ONNX Runtime"),
        ("OVStableDiffusionPipeline", "OpenVINO"),
    ] {
        let copy = Copy::of("tiny-sd1");
        let index = copy.path().join("model_index.json");
        let text = fs::read_to_string(&index).unwrap();
        fs::write(&index, text.replace("StableDiffusionPipeline", class)).unwrap();
        generate(copy.path(), 1, &[kind, class, "stable-diffusion-v1-5/stable-diffusion-v1-5"]);
    }
    let refiner = Copy::of("tiny-sdxl");
    let index = refiner.path().join("model_index.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    value["text_encoder"] = serde_json::json!([null, null]);
    fs::write(&index, value.to_string()).unwrap();
    generate(refiner.path(), 1, &["refiner", "stable-diffusion-xl-base-1.0"]);

    // Parts, adapters and other programs' formats, by what lies in them.
    let config = |class: &str| format!("{{\"_class_name\": \"{class}\"}}");
    let architecture = |class: &str| format!("{{\"architectures\": [\"{class}\"]}}");
    const ABOVE: &str = "the folder above it";
    let cases: [(&str, String, &[&str]); 13] = [
        ("config.json", config("ControlNetModel"), &["a ControlNet", "the checkpoint that it steers"]),
        ("config.json", config("AutoencoderKL"), &["an autoencoder alone", ABOVE]),
        ("config.json", config("UNet2DConditionModel"), &["a UNet alone", ABOVE]),
        ("config.json", config("FluxTransformer2DModel"), &["a transformer alone", ABOVE]),
        ("config.json", config("PixArtTransformer2DModel"), &["diffusion transformer", "SDXL", "Z-Image"]),
        ("config.json", architecture("T5EncoderModel"), &["a text encoder alone", ABOVE]),
        ("config.json", architecture("CLIPTextModel"), &["a text encoder alone", ABOVE]),
        ("pytorch_lora_weights.safetensors", String::new(), &["holds a LoRA", "--lora"]),
        ("Unet.mlmodelc/model.mil", String::new(), &["Unet.mlmodelc", "Core ML", "safetensors"]),
        ("model.onnx", String::new(), &["model.onnx", "ONNX Runtime", "safetensors"]),
        ("sd-q4.gguf", String::new(), &["sd-q4.gguf", "GGUF", "--config"]),
        ("v1-5.ckpt", String::new(), &["v1-5.ckpt", "Python pickle"]),
        ("notes.txt", String::new(), &["diffusers layout"]),
    ];
    for (file, content, parts) in cases {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        generate(folder.path(), 1, &[&["model_index.json"], parts].concat());
    }
    // A pipeline's own layout with another program's weights.
    for (file, program) in [("model.onnx", "ONNX Runtime"), ("openvino_model.xml", "OpenVINO"), ("x.msgpack", "Flax")] {
        let copy = Copy::of("tiny-sd1");
        let weights = copy.path().join("unet/diffusion_pytorch_model.safetensors");
        fs::rename(&weights, copy.path().join("unet").join(file)).unwrap();
        fs::write(copy.path().join("unet/openvino_model.bin"), "x").unwrap();
        generate(copy.path(), 1, &["unet", file, program, "safetensors"]);
    }
    generate(Path::new("./no-such-folder"), 2, &["no folder"]);
    generate(Path::new("mistyped"), 2, &["neither a folder nor a hub id"]);
}
