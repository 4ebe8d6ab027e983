//! Which model a single file is, by the names and shapes of its tensors; what is not Stable
//! Diffusion is refused by name.

use super::tensors::{Tensors, UNET, VAE};
use super::text::Naming;
use crate::Error;
use crate::argument::{EMBEDDING, LORA, MODEL};
use crate::checkpoint::weights::WeightFile;
use std::path::Path;

/// A kind of checkpoint that a single file can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SingleFileKind {
    /// Stable Diffusion 1, or its layout: a CLIP text encoder.
    Sd1,
    /// Stable Diffusion 2, or its layout: an OpenCLIP text encoder, its last layer left out.
    Sd2,
    /// SDXL: both.
    Sdxl,
}

/// A text encoder in the file.
#[derive(Debug)]
pub(super) struct FoundEncoder {
    /// Its folder in the diffusers layout.
    pub(super) folder: &'static str,
    /// What its tensors' names begin with.
    pub(super) prefix: &'static str,
    pub(super) naming: Naming,
    /// Whether its projection is used.
    pub(super) projected: bool,
}

impl FoundEncoder {
    /// transformers' class for it.
    pub(super) fn class(&self) -> &'static str {
        if self.projected { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }
    }
}

const CLIP: &str = "cond_stage_model.transformer.";
const OPEN_CLIP: &str = "cond_stage_model.model.";
/// SD 2 as Stability's generative-models saves it, and SDXL's refiner.
const SGM_OPEN_CLIP: &str = "conditioner.embedders.0.model.";
const SDXL_FIRST: &str = "conditioner.embedders.0.transformer.";
const SDXL_SECOND: &str = "conditioner.embedders.1.model.";

impl SingleFileKind {
    /// The text encoders of a file of this kind.
    pub(super) fn encoders(self, file: &WeightFile) -> Vec<FoundEncoder> {
        let encoder = |folder, prefix, naming, projected| FoundEncoder { folder, prefix, naming, projected };
        match self {
            Self::Sd1 => vec![encoder("text_encoder", CLIP, Naming::Clip, false)],
            Self::Sd2 => {
                let prefix = if has_any(file, OPEN_CLIP) { OPEN_CLIP } else { SGM_OPEN_CLIP };
                vec![encoder("text_encoder", prefix, Naming::OpenClip, false)]
            }
            Self::Sdxl => vec![
                encoder("text_encoder", SDXL_FIRST, Naming::Clip, false),
                encoder("text_encoder_2", SDXL_SECOND, Naming::OpenClip, true),
            ],
        }
    }
}

/// Why a file is not taken: what it is, and what to do.
#[derive(Debug)]
pub(super) struct Refusal {
    what: String,
    way_out: String,
}

impl Refusal {
    fn new(what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { what: what.into(), way_out: way_out.into() }
    }

    /// As the library's error about the file at `path`.
    pub(super) fn about(self, path: &Path) -> Error {
        Error::Unsupported { what: format!("{}: {}", path.display(), self.what), way_out: self.way_out }
    }
}

const CHECKPOINTS: &str = "single files of Stable Diffusion 1.x, 2.x, 3, 3.5 and SDXL in the original naming are, \
transformers of FLUX.1 and Z-Image beside the folder that has the rest, and folders in the diffusers layout";

/// The kind of the checkpoint in `file`.
pub(super) fn kind(file: &WeightFile) -> Result<SingleFileKind, Refusal> {
    let has = |prefix: &str| has_any(file, prefix);
    refuse_quantised(file)?;
    if file.info(&format!("{UNET}input_blocks.0.0.weight")).is_none() {
        return Err(other_kind(file));
    }
    if has("control_model.") {
        return Err(Refusal::new("a ControlNet", CHECKPOINTS));
    }
    if has("edm_mean") {
        return Err(Refusal::new("Playground v2.5 (an EDM schedule)", CHECKPOINTS));
    }
    if has("edm_vpred.") {
        return Err(Refusal::new("CosXL (an EDM schedule)", CHECKPOINTS));
    }
    if !has(VAE) {
        return Err(Refusal::new(
            "a file without an autoencoder (first_stage_model.*)",
            "take the checkpoint that has all parts",
        ));
    }
    let context = Tensors::new(file, UNET);
    if has(SDXL_FIRST) && has(SDXL_SECOND) {
        return Ok(SingleFileKind::Sdxl);
    }
    if has(SGM_OPEN_CLIP) && context.shape("label_emb.0.0.weight").is_some() {
        return Err(Refusal::new("SDXL's refiner", "give the base model"));
    }
    if has(OPEN_CLIP) || has(SGM_OPEN_CLIP) {
        return Ok(SingleFileKind::Sd2);
    }
    if has(CLIP) {
        return Ok(SingleFileKind::Sd1);
    }
    Err(Refusal::new(
        "a file without a text encoder (cond_stage_model.*, conditioner.*)",
        "take the checkpoint that has all parts",
    ))
}

/// Refuses a file whose weights mean nothing without what bitsandbytes keeps beside them.
pub(super) fn refuse_quantised(file: &WeightFile) -> Result<(), Refusal> {
    match quantised(file) {
        Some(quantised) => Err(Refusal::new(quantised, "take the file in f16, bf16, float8 or GGUF")),
        None => Ok(()),
    }
}

/// Weights that mean nothing without what bitsandbytes keeps beside them.
fn quantised(file: &WeightFile) -> Option<&'static str> {
    let kind = |name: &str| match name {
        name if name.ends_with(".absmax") || name.contains(".quant_state.") => {
            Some("a file that bitsandbytes quantised")
        }
        _ => None,
    };
    file.names().find_map(kind)
}

fn has_any(file: &WeightFile, prefix: &str) -> bool {
    file.names().any(|name| name.starts_with(prefix))
}

/// What a file without a Stable Diffusion UNet in its original naming is.
fn other_kind(file: &WeightFile) -> Refusal {
    let any = |part: &str| file.names().any(|name| name.contains(part));
    let starts = |part: &str| has_any(file, part);
    let folder = "give the folder that holds model_index.json";
    if any("lora_down.") || any("lora_A.") || any(".lora.down.") || any("hada_w1") || any("lokr_w1") {
        Refusal::new(
            "a LoRA, not a checkpoint,",
            format!("give it with {LORA}, and with {MODEL} the checkpoint that it changes"),
        )
    } else if file.metadata("format_version").is_some()
        || (file.info("tokens").is_some() && file.info("words").is_some())
    {
        Refusal::new("a run's maps, not a checkpoint,", "`attnmap view` shows the folder that the file lies in")
    } else if any("single_stream_modulation.") {
        Refusal::new("FLUX.2", CHECKPOINTS)
    } else if any("distilled_guidance_layer.") {
        Refusal::new("Chroma", CHECKPOINTS)
    } else if any("noise_refiner.") {
        Refusal::new("Lumina 2, or Z-Image without its `x_pad_token`", CHECKPOINTS)
    } else if any("double_blocks.") {
        Refusal::new("Flux", CHECKPOINTS)
    } else if any("joint_blocks.") {
        Refusal::new("a part of Stable Diffusion 3's transformer", CHECKPOINTS)
    } else if starts("controlnet_cond_embedding.") || starts("control_model.") || starts("input_hint_block.") {
        Refusal::new("a ControlNet", CHECKPOINTS)
    } else if any("ip_adapter.") || starts("image_proj.") {
        Refusal::new("an IP-Adapter", CHECKPOINTS)
    } else if any(".SelfAttention.") {
        Refusal::new("a T5 text encoder", CHECKPOINTS)
    } else if any("adaln_single.") || any("scale_shift_table") || starts("caption_projection.") {
        Refusal::new("PixArt, or another diffusion transformer", CHECKPOINTS)
    } else if starts("transformer_blocks.") || starts("single_transformer_blocks.") {
        Refusal::new("a diffusion transformer (Stable Diffusion 3, Flux or another)", CHECKPOINTS)
    } else if starts("input_blocks.") || starts("time_embed.") {
        Refusal::new(
            "a UNet alone (a `diffusion_models` file)",
            "take the checkpoint that has text encoder and autoencoder too",
        )
    } else if starts("emb_params") || (starts("clip_l") || starts("clip_g")) && file.names().count() <= 2 {
        Refusal::new(
            "a textual-inversion embedding, not a checkpoint,",
            format!("give it with {EMBEDDING}, and with {MODEL} the checkpoint that it is for"),
        )
    } else if starts("down_blocks.") || starts("conv_in.") {
        Refusal::new("the UNet alone of a diffusers folder", folder)
    } else if starts("encoder.down") || starts("decoder.up") {
        Refusal::new("an autoencoder alone", folder)
    } else if starts("text_model.") || starts("embeddings.") {
        Refusal::new("a text encoder alone", folder)
    } else {
        Refusal::new("a file whose tensors are named like no model that attnmap knows", CHECKPOINTS)
    }
}
