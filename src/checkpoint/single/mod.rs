//! Single-file checkpoints in the naming of CompVis and SGM, read as if they were a folder in the
//! diffusers layout.
//!
//! Names are mapped and tensors stay where they are in the mapped file; configs are inferred from
//! names and shapes. The kinds, names and defaults are those of diffusers'
//! `loaders/single_file_utils.py` (0.42).

mod opened;
mod recognise;
mod sd3;
mod sd3_names;
mod tensors;
mod text;
mod transformer;
mod unet;
mod vae;
mod vocabulary;

pub(super) use opened::Single;
pub(super) use sd3_names::{Piece, originals as sd3_originals};
pub(super) use unet::UnetNames;

use super::config::{TextEncoderConfig, UnetConfig};
use super::store::{Made, Store};
use super::weights;
use super::weights::{TensorLocation, WeightFile};
use crate::argument::{CONFIG, MODEL};
use crate::{Error, Result};
use opened::{Places, refuse_variant, summarised};
use recognise::{FoundEncoder, SingleFileKind};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tensors::{Tensors, UNET, VAE};

/// Opens the file at `path`. A part whose folder `config` has (`unet/`, `text_encoder/`,
/// `scheduler/`, `tokenizer/` ...) takes its configs from there. `prediction` is what the UNet
/// predicts, if the user says so. `variant` is which weights to take of the parts that the file
/// lacks, and that folder has.
pub(super) fn open(
    path: &Path,
    config: Option<&Path>,
    prediction: Option<&str>,
    variant: Option<&str>,
) -> Result<Single> {
    if !path.is_file() {
        return Err(Error::argument(MODEL, format!("no file {}", path.display())));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = WeightFile::open(&Store::Folder(path.parent().unwrap_or(Path::new("")).into()), &name)?;
    if sd3::holds(&file) {
        recognise::refuse_quantised(&file).map_err(|refusal| refusal.about(path))?;
        return sd3::open(path, file, config, variant);
    }
    if let Some(kind) = weights::original_transformer(&file) {
        return transformer::open(path, file, kind, config, variant);
    }
    let fault = |reason: String| Error::Weights { file: path.to_path_buf(), reason };
    let kind = recognise::kind(&file).map_err(|refusal| refusal.about(path))?;
    refuse_variant(variant)?;
    let prediction = match prediction {
        Some(prediction) => prediction,
        None if predicts_velocity(&file, &kind)? => "v_prediction",
        None => "epsilon",
    };
    let files = configs(&file, &kind, prediction).map_err(fault)?;
    let made = Made { path: path.into(), files, folder: config.map(Into::into) };
    for encoder in kind.encoders(&file) {
        let tokens = text::tokens(&Tensors::new(&file, encoder.prefix), encoder.naming).map_err(fault)?;
        if tokens < vocabulary::TOKENS && !made.replaces("tokenizer/vocab.json") {
            return Err(fault(format!(
                "its text encoder has {tokens} tokens, which are not CLIP's {}; give the folder that has its \
                tokenizer/ with {CONFIG}",
                vocabulary::TOKENS
            )));
        }
    }
    let store = Store::Made(Arc::new(made));
    let file = Arc::new(file);
    let (places, ignored) = places(&file, &kind, &store)?;
    Ok(Single { store, ignored, file, places, folder: None })
}

/// Whether the UNet was trained to predict velocity.
///
/// Newer files say so with an empty tensor `v_pred`. SD 2 does not say: the 768-pixel models
/// predict velocity, the 512-pixel ones noise. ComfyUI's `supported_models.py` tells them apart by
/// the spread of one bias, and so does this.
fn predicts_velocity(file: &WeightFile, kind: &SingleFileKind) -> Result<bool> {
    if file.info("v_pred").is_some() {
        return Ok(true);
    }
    if *kind != SingleFileKind::Sd2 {
        return Ok(false);
    }
    let last =
        (0..).take_while(|index| file.info(&format!("{UNET}output_blocks.{index}.0.out_layers.3.weight")).is_some());
    let Some(last) = last.last() else { return Ok(false) };
    let name = format!("{UNET}output_blocks.{last}.1.transformer_blocks.0.norm1.bias");
    let Some(values) = weights::values(file, &name)? else { return Ok(false) };
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32;
    Ok(variance.sqrt() > 0.09)
}

/// The JSON files of the folder that this file stands for.
fn configs(
    file: &WeightFile,
    kind: &SingleFileKind,
    prediction: &str,
) -> Result<BTreeMap<String, Cow<'static, [u8]>>, String> {
    let velocity = prediction == "v_prediction";
    // Sides of the latent that the published models were trained at.
    let (side, scaling) = match kind {
        SingleFileKind::Sdxl => (128, 0.13025),
        SingleFileKind::Sd2 if velocity => (96, 0.18215),
        SingleFileKind::Sd1 | SingleFileKind::Sd2 => (64, 0.18215),
    };
    let encoders = kind.encoders(file);
    let class = if *kind == SingleFileKind::Sdxl { "StableDiffusionXLPipeline" } else { "StableDiffusionPipeline" };
    let mut index = json!({
        "_class_name": class,
        "scheduler": ["diffusers", scheduler(kind, velocity)],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    if *kind == SingleFileKind::Sdxl {
        index["force_zeros_for_empty_prompt"] = json!(true);
    }
    let mut files = BTreeMap::new();
    let mut add = |name: String, value: Value| files.insert(name, Cow::Owned(value.to_string().into_bytes()));
    for encoder in &encoders {
        let FoundEncoder { folder, prefix, naming, .. } = encoder;
        let config = text::config(&Tensors::new(file, prefix), *naming, *kind == SingleFileKind::Sd2)?;
        let suffix = folder.trim_start_matches("text_encoder");
        index[format!("tokenizer{suffix}")] = json!(["transformers", "CLIPTokenizer"]);
        index[*folder] = json!(["transformers", encoder.class()]);
        add(format!("tokenizer{suffix}/tokenizer_config.json"), text::tokenizer(*naming));
        add(format!("{folder}/config.json"), config);
    }
    add("model_index.json".into(), index);
    add("unet/config.json".into(), unet::config(&Tensors::new(file, UNET), side, *kind == SingleFileKind::Sdxl)?);
    add("vae/config.json".into(), vae::config(&Tensors::new(file, VAE), scaling)?);
    add("scheduler/scheduler_config.json".into(), scheduler_config(kind, prediction, file.info("ztsnr").is_some()));
    for encoder in &encoders {
        let suffix = encoder.folder.trim_start_matches("text_encoder");
        files.insert(format!("tokenizer{suffix}/vocab.json"), vocabulary::vocab_json());
        files.insert(format!("tokenizer{suffix}/merges.txt"), vocabulary::merges_txt());
    }
    Ok(files)
}

fn scheduler(kind: &SingleFileKind, velocity: bool) -> &'static str {
    match kind {
        SingleFileKind::Sdxl => "EulerDiscreteScheduler",
        SingleFileKind::Sd1 | SingleFileKind::Sd2 if velocity => "DDIMScheduler",
        SingleFileKind::Sd1 | SingleFileKind::Sd2 => "PNDMScheduler",
    }
}

/// What the repositories of SD 1.5, 2.1 and SDXL have in `scheduler_config.json`. `zero_snr` is the
/// mark `ztsnr` of models that were trained to the last timestep without any signal (Lin et al.
/// 2024). They need timesteps that begin there.
fn scheduler_config(kind: &SingleFileKind, prediction: &str, zero_snr: bool) -> Value {
    let velocity = prediction == "v_prediction";
    let mut config = json!({
        "_class_name": scheduler(kind, velocity),
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "steps_offset": 1,
        "clip_sample": false,
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "prediction_type": prediction,
        "timestep_spacing": "leading",
    });
    if zero_snr && velocity {
        config["rescale_betas_zero_snr"] = json!(true);
        config["timestep_spacing"] = json!("trailing");
    }
    config
}

/// Where each part's tensors are, and what else the file has, in words.
fn places(file: &WeightFile, kind: &SingleFileKind, store: &Store) -> Result<(Places, Vec<String>)> {
    let config = |name: &str| Ok::<_, Error>((store.read_required(name, "the shape")?, store.path(name)));
    let mut places = Places::new();
    let mut strange: Vec<String> = Vec::new();
    let mut ignored = Vec::new();

    let (bytes, path) = config("unet/config.json")?;
    let names = UnetNames::new(&UnetConfig::from_json(&bytes, &path)?);
    let levels = vae::levels(&Tensors::new(file, VAE));
    let mut add = |part: &'static str, original: String, pieces: Option<Vec<(String, Option<usize>)>>| match pieces {
        None => strange.push(original),
        Some(pieces) => {
            for (name, third) in pieces {
                let place = TensorLocation::new(0, &original).third(third).transposed(name == "text_projection.weight");
                places.entry(part).or_default().insert(name, place);
            }
        }
    };
    let whole = |name: Option<String>| name.map(|name| vec![(name, None)]);
    for name in Tensors::new(file, UNET).names() {
        add("unet", format!("{UNET}{name}"), whole(names.diffusers(name)));
    }
    for name in Tensors::new(file, VAE).names() {
        // The discriminator of the autoencoder's training, and averages kept for it.
        if name.starts_with("loss.") || name.starts_with("model_ema.") {
            ignored.push(format!("{VAE}{name}"));
        } else {
            add("vae", format!("{VAE}{name}"), whole(vae::diffusers_name(name, levels)));
        }
    }
    let encoders = kind.encoders(file);
    for encoder in &encoders {
        let (bytes, path) = config(&format!("{}/config.json", encoder.folder))?;
        let used = TextEncoderConfig::from_json(&bytes, &path)?.num_hidden_layers;
        for name in Tensors::new(file, encoder.prefix).names() {
            if text::is_inert(name, encoder.projected) {
                ignored.push(format!("{}{name}", encoder.prefix));
                continue;
            }
            let pieces = match encoder.naming {
                text::Naming::OpenClip => text::open_clip_pieces(name),
                text::Naming::Clip => whole(weights::text_encoder_name(name)),
            };
            let layer = pieces.as_ref().and_then(|pieces| text::layer(&pieces.first()?.0));
            if layer.is_some_and(|layer| layer >= used) {
                ignored.push(format!("{}{name}", encoder.prefix));
                continue;
            }
            add(encoder.folder, format!("{}{name}", encoder.prefix), pieces);
        }
    }
    if let Some(first) = strange.first() {
        return Err(file.fault(format!(
            "{} of its tensors, such as {first}, {} no part of Stable Diffusion; the file is of another kind of model",
            strange.len(),
            if strange.len() == 1 { "is" } else { "are" },
        )));
    }
    let read = |name: &str| {
        name.starts_with(UNET) || name.starts_with(VAE) || encoders.iter().any(|e| name.starts_with(e.prefix))
    };
    ignored.extend(file.names().filter(|name| !read(name)).map(String::from));
    Ok((places, summarised(&ignored)))
}
