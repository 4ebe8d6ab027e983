//! Single files of Stable Diffusion 3: the transformer in its original naming, with or without the
//! autoencoder and the text encoders.
//!
//! What the file does not have is read from the folder that `--config` names. The layout of files
//! that have all is ComfyUI's (`text_encoders.clip_l`, `clip_g`, `t5xxl`), as diffusers'
//! `loaders/single_file_utils.py` (0.42) reads it.

use super::opened::{Places, Single, refuse_variant, summarised};
use super::tensors::{Tensors, UNET, VAE};
use super::text::{self, Naming};
use super::{sd3_names, vae, vocabulary};
use crate::argument::CONFIG;
use crate::checkpoint::config::ModelIndex;
use crate::checkpoint::part::Part;
use crate::checkpoint::store::{Made, Store};
use crate::checkpoint::weights::{self, TensorLocation, WeightFile};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A tensor that every transformer of this kind has.
const MARK: &str = "joint_blocks.0.x_block.attn.qkv.weight";

/// CLIP encoders: folder, what their tensors' names begin with, and their activation.
const CLIPS: [(&str, &str, &str); 2] = [
    ("text_encoder", "text_encoders.clip_l.transformer.", "quick_gelu"),
    ("text_encoder_2", "text_encoders.clip_g.transformer.", "gelu"),
];

const T5: &str = "text_encoders.t5xxl.transformer.";

/// Whether `file` holds a transformer of Stable Diffusion 3 from its first layer on.
pub(super) fn holds(file: &WeightFile) -> bool {
    let both = |start: &str| {
        [MARK, "x_embedder.proj.weight"].iter().all(|name| file.info(&format!("{start}{name}")).is_some())
    };
    both("") || both(UNET)
}

/// What the names of the transformer's tensors begin with: nothing in files that hold it alone.
fn prefix(file: &WeightFile) -> &'static str {
    if file.info(MARK).is_some() { "" } else { UNET }
}

/// Opens `file`, which lies at `path`; `folder` is where to read what it does not have, in its
/// `variant`.
pub(super) fn open(path: &Path, file: WeightFile, folder: Option<&Path>, variant: Option<&str>) -> Result<Single> {
    let fault = |reason: String| Error::Weights { file: path.to_path_buf(), reason };
    let files = configs(&file, folder).map_err(fault)?;
    let made = Made { path: path.into(), files, folder: folder.map(Into::into) };
    for (_, prefix, _) in CLIPS {
        let own = Tensors::new(&file, prefix);
        let Ok(tokens) = text::tokens(&own, Naming::Clip) else { continue };
        if tokens < vocabulary::TOKENS && !made.replaces("tokenizer/vocab.json") {
            return Err(fault(format!(
                "its text encoder has {tokens} tokens, which are not CLIP's {}; give the folder that has its \
                 tokenizer/ with {CONFIG}",
                vocabulary::TOKENS
            )));
        }
    }
    if has(&file, T5) && !made.replaces("tokenizer_3/tokenizer.json") {
        return Err(fault(format!(
            "holds T5, whose tokenizer it cannot hold; give a folder that has tokenizer_3/tokenizer.json with \
             {CONFIG}, or take the file without T5"
        )));
    }
    let store = Store::Made(Arc::new(made));
    let index = store.read_required("model_index.json", "the pipeline")?;
    let index = ModelIndex::from_json(&index, &store.path("model_index.json"))?;
    let (places, ignored) = places(&file, index.parts())?;
    let missing: Vec<Part> = index.parts().iter().copied().filter(|part| !places.contains_key(part.folder())).collect();
    let folder = match (missing.as_slice(), folder) {
        ([], _) => {
            refuse_variant(variant)?;
            None
        }
        (missing, Some(folder)) => {
            let store = Store::Folder(folder.into());
            let files = weights::part_files(&store, missing, variant)?;
            Some((store, files))
        }
        (missing, None) => {
            let names: Vec<&str> = missing.iter().map(|part| part.folder()).collect();
            return Err(fault(format!(
                "has no {}; give a folder of Stable Diffusion 3 that has them with {CONFIG}",
                names.join(", ")
            )));
        }
    };
    Ok(Single { store, ignored, file: Arc::new(file), places, folder })
}

fn has(file: &WeightFile, prefix: &str) -> bool {
    file.names().any(|name| name.starts_with(prefix))
}

/// The JSON files of the folder that this file stands for, for the parts that it has.
fn configs(file: &WeightFile, folder: Option<&Path>) -> Result<BTreeMap<String, Cow<'static, [u8]>>, String> {
    let mut files = BTreeMap::new();
    let mut add = |name: String, value: Value| files.insert(name, Cow::Owned(value.to_string().into_bytes()));
    let mut index = json!({
        "_class_name": "StableDiffusion3Pipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    for ((folder, prefix, activation), suffix) in CLIPS.into_iter().zip(["", "_2"]) {
        let tensors = Tensors::new(file, prefix);
        index[format!("tokenizer{suffix}")] = json!(["transformers", "CLIPTokenizer"]);
        let projected = tensors.shape("text_projection.weight");
        // diffusers gives the first encoder, where the file has no projection of it, one that
        // changes nothing.
        let class =
            if has(file, prefix) && projected.is_none() { "CLIPTextModel" } else { "CLIPTextModelWithProjection" };
        index[folder] = json!(["transformers", class]);
        let naming = if suffix.is_empty() { Naming::Clip } else { Naming::OpenClip };
        add(format!("tokenizer{suffix}/tokenizer_config.json"), text::tokenizer(naming));
        if has(file, prefix) {
            let mut config = text::config(&tensors, Naming::Clip, false)?;
            config["hidden_act"] = json!(activation);
            if let Some(width) = projected.and_then(|shape| shape.first()) {
                config["projection_dim"] = json!(width);
            }
            add(format!("{folder}/config.json"), config);
        }
    }
    let t5 = has(file, T5) || folder.is_some_and(|folder| folder.join("text_encoder_3").is_dir());
    if t5 {
        index["text_encoder_3"] = json!(["transformers", "T5EncoderModel"]);
        index["tokenizer_3"] = json!(["transformers", "T5TokenizerFast"]);
    }
    if has(file, T5) {
        add("text_encoder_3/config.json".into(), t5_config(&Tensors::new(file, T5))?);
    }
    add("model_index.json".into(), index);
    add("transformer/config.json".into(), sd3_names::config(&Tensors::new(file, prefix(file)))?);
    if has(file, VAE) {
        let mut config = vae::config(&Tensors::new(file, VAE), 1.5305)?;
        config["shift_factor"] = json!(0.0609);
        add("vae/config.json".into(), config);
    }
    let scheduler =
        json!({ "num_train_timesteps": 1000, "shift": 3.0, "_class_name": "FlowMatchEulerDiscreteScheduler" });
    add("scheduler/scheduler_config.json".into(), scheduler);
    for suffix in ["", "_2"] {
        files.insert(format!("tokenizer{suffix}/vocab.json"), vocabulary::vocab_json());
        files.insert(format!("tokenizer{suffix}/merges.txt"), vocabulary::merges_txt());
    }
    Ok(files)
}

/// The `text_encoder_3/config.json` that T5's tensors stand for. Heads are 64 channels wide.
fn t5_config(tensors: &Tensors) -> Result<Value, String> {
    let table = match tensors.shape("shared.weight") {
        Some(_) => "shared.weight",
        None => "encoder.embed_tokens.weight",
    };
    let block = |index: usize, leaf: &str| format!("encoder.block.{index}.layer.{leaf}");
    let layers = (0..).take_while(|&index| tensors.shape(&block(index, "0.SelfAttention.q.weight")).is_some()).count();
    let bias = "0.SelfAttention.relative_attention_bias.weight";
    let heads = tensors.dim(&block(0, bias), 1)?;
    Ok(json!({
        "model_type": "t5",
        "vocab_size": tensors.dim(table, 0)?,
        "d_model": tensors.dim(table, 1)?,
        "d_kv": tensors.dim(&block(0, "0.SelfAttention.q.weight"), 0)? / heads.max(1),
        "d_ff": tensors.dim(&block(0, "1.DenseReluDense.wo.weight"), 1)?,
        "num_layers": layers,
        "num_heads": heads,
        "relative_attention_num_buckets": tensors.dim(&block(0, bias), 0)?,
        "feed_forward_proj": match tensors.shape(&block(0, "1.DenseReluDense.wi_0.weight")) {
            Some(_) => "gated-gelu",
            None => "relu",
        },
    }))
}

/// Where the tensors of those of `parts` are that the file has, and what else it has, in words.
fn places(file: &WeightFile, parts: &[Part]) -> Result<(Places, Vec<String>)> {
    let mut places = Places::new();
    let (mut strange, mut ignored) = (Vec::new(), Vec::new());
    let own = prefix(file);
    let transformer = Tensors::new(file, own);
    let (layers, levels) = (sd3_names::layers(&transformer), vae::levels(&Tensors::new(file, VAE)));
    let wanted = |part: Part| parts.contains(&part);
    let encoders = [(Part::TextEncoder, CLIPS[0].1), (Part::TextEncoder2, CLIPS[1].1)];
    for name in file.names() {
        let mut add = |part: Part, current: Option<String>, place: TensorLocation| match current {
            Some(current) if wanted(part) => drop(places.entry(part.folder()).or_default().insert(current, place)),
            Some(_) => ignored.push(name.to_string()),
            None => strange.push(name.to_string()),
        };
        let plain = TensorLocation::new(0, name);
        let encoder = encoders.iter().find_map(|(part, prefix)| Some((*part, name.strip_prefix(prefix)?)));
        if let Some((part, rest)) = encoder {
            match text::is_inert(rest, true) {
                true => ignored.push(name.to_string()),
                false => add(part, weights::text_encoder_name(rest), plain),
            }
        } else if let Some(rest) = name.strip_prefix(T5) {
            match rest == "logit_scale" {
                true => ignored.push(name.to_string()),
                false => add(Part::TextEncoder3, Some(rest.to_string()), plain),
            }
        } else if let Some(rest) = name.strip_prefix(VAE) {
            match rest.starts_with("loss.") || rest.starts_with("model_ema.") {
                true => ignored.push(name.to_string()),
                false => add(Part::Vae, vae::diffusers_name(rest, levels), plain),
            }
        } else if let Some(rest) = name.strip_prefix(own).filter(|_| !name.starts_with("text_encoders.")) {
            if rest == "pos_embed" {
                add(Part::Transformer, Some("pos_embed.pos_embed".into()), plain);
                continue;
            }
            let Some((layer, leaf)) = rest.rsplit_once('.') else {
                ignored.push(name.to_string());
                continue;
            };
            match sd3_names::pieces(layer, layers) {
                None => add(Part::Transformer, None, plain),
                Some(pieces) => {
                    for piece in pieces {
                        let place = TensorLocation::new(0, name).third(piece.third).swapped(piece.swapped);
                        add(Part::Transformer, Some(format!("{}.{leaf}", piece.layer)), place);
                    }
                }
            }
        } else {
            ignored.push(name.to_string());
        }
    }
    match strange.first() {
        None => Ok((places, summarised(&ignored))),
        Some(first) => Err(file.fault(format!(
            "{} of its tensors, such as {first}, {} no part of Stable Diffusion 3; the file is of another kind",
            strange.len(),
            if strange.len() == 1 { "is" } else { "are" },
        ))),
    }
}
