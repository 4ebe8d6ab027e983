//! What a folder that is no pipeline is, so that the refusal can name it and say what to do.

use super::pickle::PICKLES;
use super::store::Store;
use crate::Error;
use crate::argument::{CONFIG, EMBEDDING, LORA, MODEL};
use serde_json::Value;
use std::fs;

/// The refusal of a folder without `model_index.json`.
pub(super) fn no_index(store: &Store) -> Error {
    let names = entries(store);
    let has = |kinds: &[&str]| names.iter().find(|name| kinds.iter().any(|kind| name.ends_with(kind)));
    let pickle = |name: &&String| PICKLES.iter().any(|kind| name.ends_with(&format!(".{kind}")));
    let here = |name: &str| names.iter().any(|entry| entry == name);
    let above = store.path("model_index.json");
    let folder = above.parent().unwrap_or(&above).display().to_string();
    let reason = if here("run.json") {
        let made_with = run_checkpoint(store).map_or_else(String::new, |id| format!("; its checkpoint is {id}"));
        format!("no such file; the folder is a run, which `attnmap view {folder}` shows{made_with}")
    } else if ["sweep.json", "gallery.json", "cells"].iter().any(|name| here(name)) {
        "no such file; the folder is a gallery or a sweep, and holds no checkpoint".to_string()
    } else if let Some(id) = cached_repository(&folder).filter(|_| here("snapshots")) {
        format!("no such file; the folder is the hub cache's copy of {id}: give {id}")
    } else if let Some(part) = part(store) {
        format!("no such file; {part}")
    } else if has(&["adapter_config.json", "pytorch_lora_weights.safetensors"]).is_some() {
        format!("no such file; this folder holds a LoRA: give it with {LORA}, and its checkpoint with {MODEL}")
    } else if has(&["learned_embeds.safetensors"]).is_some() {
        format!(
            "no such file; this folder holds an embedding: give it with {EMBEDDING}, and its checkpoint with {MODEL}"
        )
    } else if let Some(name) = below(store, &names) {
        format!("no such file; {name} is a folder in the diffusers layout: give that")
    } else if let Some(name) = has(&[".mlmodelc", ".mlpackage"]) {
        format!(
            "no such file; {name} is Core ML's format, which holds compiled networks: give the safetensors weights \
            it was made of"
        )
    } else if let Some(name) = has(&[".onnx"]) {
        format!("no such file; {name} is ONNX Runtime's format: give the safetensors weights it was made of")
    } else if let Some(name) = has(&[".gguf"]) {
        let file = store.path(name);
        format!(
            "no such file; {name} holds quantised weights (GGUF): give {} with {MODEL}, and with {CONFIG} the folder \
             of its pipeline",
            file.display()
        )
    } else if let Some(name) = has(&[".safetensors"]) {
        format!("no such file; {name} may be a single-file checkpoint: give {}", store.path(name).display())
    } else if let Some(name) = names.iter().find(pickle) {
        format!(
            "no such file; {name} is a Python pickle, which can run any code when read: convert it to a diffusers \
            folder"
        )
    } else {
        "no such file; give a folder in the diffusers layout (model_index.json, unet/, vae/, text_encoder/, \
        tokenizer/, \
         scheduler/)"
            .to_string()
    };
    Error::Config { file: store.path("model_index.json"), reason }
}

/// The checkpoint that the run in this folder was made with, as its `run.json` names it.
fn run_checkpoint(store: &Store) -> Option<String> {
    let record: Value = serde_json::from_slice(&store.read("run.json").ok().flatten()?).ok()?;
    let id = record["checkpoint"]["id"].as_str()?;
    (!id.is_empty() && id.len() < 400 && !id.chars().any(char::is_control)).then(|| id.to_string())
}

/// `owner/name` for the folder `models--owner--name` of the hub's cache.
fn cached_repository(folder: &str) -> Option<String> {
    let name = folder.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next()?;
    let (owner, name) = name.strip_prefix("models--")?.split_once("--")?;
    Some(format!("{owner}/{name}"))
}

/// The first folder below that holds a pipeline.
fn below(store: &Store, names: &[String]) -> Option<String> {
    let is_pipeline = |name: &&String| store.path(name).join("model_index.json").is_file();
    let Store::Folder(_) = store else { return None };
    names.iter().find(is_pipeline).map(|name| store.path(name).display().to_string())
}

/// The names of the files and folders at the top, sorted.
fn entries(store: &Store) -> Vec<String> {
    let Store::Folder(folder) = store else { return store.list("").unwrap_or_default() };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What a folder with a `config.json` is, by the class that this names, and what to do.
fn part(store: &Store) -> Option<String> {
    let config = store.read("config.json").ok().flatten()?;
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let class = config["_class_name"].as_str().or_else(|| config["architectures"][0].as_str()).unwrap_or_default();
    const ABOVE: &str = "give the folder above it, which has model_index.json";
    const OTHER: &str = "attnmap runs whole pipelines: Stable Diffusion 1 to 3.5, SDXL, FLUX.1 and Z-Image";
    let (what, way_out) = match class {
        "UNet2DConditionModel" => ("a UNet alone", ABOVE),
        "SD3Transformer2DModel" | "FluxTransformer2DModel" | "ZImageTransformer2DModel" => {
            ("a transformer alone", ABOVE)
        }
        "AutoencoderKL" | "AutoencoderTiny" => ("an autoencoder alone", ABOVE),
        "CLIPTextModel" | "CLIPTextModelWithProjection" => ("a text encoder alone", ABOVE),
        class if class.contains("ControlNet") => {
            ("a ControlNet", "these are not supported; give the checkpoint that it steers")
        }
        class if class.contains("T2IAdapter") => {
            ("a T2I-Adapter", "these are not supported; give the checkpoint that it steers")
        }
        "T5EncoderModel" | "Qwen3Model" | "Qwen3ForCausalLM" => ("a text encoder alone", ABOVE),
        class if class.starts_with("T5") || class.starts_with("UMT5") => ("a T5 text encoder", OTHER),
        class if class.contains("Transformer") && class.contains("Model") => ("a diffusion transformer", OTHER),
        _ => return Some(format!("this folder is one part of a pipeline, {ABOVE}")),
    };
    Some(format!("this folder is {what} ({class}): {way_out}"))
}
