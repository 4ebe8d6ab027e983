//! All configs of a checkpoint: read from its store, and whether the parts fit each other.

use super::config::{
    self, DenoiserConfig, Family, FluxConfig, ModelIndex, Qwen3Config, SchedulerConfig, Sd3Config, T5Config,
    T5TokenizerFiles, TextEncoderConfig, TokenizerConfig, TokenizerFiles, UnetConfig, VaeConfig, ZImageConfig,
};
use super::defaults::{self, Defaults};
use super::foreign;
use super::part::Part;
use super::store::Store;
use crate::{Error, Result};

/// SDXL's second text encoder. Its tokenizer differs from the first in the padding token alone.
#[derive(Debug)]
pub struct SecondEncoderConfig {
    /// Its shape.
    pub text_encoder: TextEncoderConfig,
    /// Its tokenizer's files and settings.
    pub tokenizer: TokenizerFiles,
}

/// Tokens of T5 that Stable Diffusion 3 is given, padding included: `max_sequence_length` of its
/// pipeline in diffusers. Without T5 so many zeros stand in their place.
pub const T5_TOKENS: usize = 256;

/// T5, whose states follow those of the CLIP encoders, and its tokenizer.
#[derive(Debug)]
pub struct T5Encoder {
    /// Which part it is.
    pub part: Part,
    /// Its shape.
    pub config: T5Config,
    /// Its tokenizer's files.
    pub tokenizer: T5TokenizerFiles,
}

/// Qwen3, the text encoder of Z-Image, and its tokenizer.
#[derive(Debug)]
pub struct QwenEncoder {
    /// Its shape.
    pub config: Qwen3Config,
    /// Its tokenizer's files.
    pub tokenizer: T5TokenizerFiles,
}

/// What the JSON files of a checkpoint say.
pub(super) struct Configs {
    pub(super) index: ModelIndex,
    pub(super) denoiser: DenoiserConfig,
    pub(super) vae: VaeConfig,
    pub(super) text_encoder: Option<TextEncoderConfig>,
    pub(super) second: Option<SecondEncoderConfig>,
    pub(super) t5: Option<T5Encoder>,
    pub(super) qwen: Option<QwenEncoder>,
    pub(super) scheduler: SchedulerConfig,
    pub(super) tokenizer: Option<TokenizerFiles>,
    pub(super) defaults: Defaults,
}

impl Configs {
    /// Reads every JSON file and checks that the parts fit each other; weights are not looked at.
    pub(super) fn read(store: &Store) -> Result<Self> {
        let index_file = store.path("model_index.json");
        let Some(index) = store.read("model_index.json")? else { return Err(foreign::no_index(store)) };
        let index = ModelIndex::from_json(&index, &index_file)?;
        let json = |name: &str, role: &str| Ok::<_, Error>((store.read_required(name, role)?, store.path(name)));

        let (denoiser_file, role) = match index.family {
            Family::StableDiffusion3 | Family::Flux | Family::ZImage => {
                ("transformer/config.json", "the transformer's shape")
            }
            _ => ("unet/config.json", "the UNet's shape"),
        };
        let (bytes, file) = json(denoiser_file, role)?;
        let denoiser = match index.family {
            Family::StableDiffusion3 => DenoiserConfig::Sd3(Sd3Config::from_json(&bytes, &file)?),
            Family::Flux => DenoiserConfig::Flux(FluxConfig::from_json(&bytes, &file)?),
            Family::ZImage => DenoiserConfig::ZImage(ZImageConfig::from_json(&bytes, &file)?),
            _ => DenoiserConfig::Unet(UnetConfig::from_json(&bytes, &file)?),
        };
        let (bytes, file) = json("text_encoder/config.json", "the text encoder's shape")?;
        // The index says which class it is (`CLIPTextModel`), whatever the config once was.
        let text_encoder = match index.family {
            Family::ZImage => None,
            _ if index.first_projects => Some(TextEncoderConfig::with_projection(&bytes, &file)?),
            _ => Some(TextEncoderConfig { with_projection: false, ..TextEncoderConfig::from_json(&bytes, &file)? }),
        };
        let qwen = match index.family {
            Family::ZImage => Some(QwenEncoder::read(store, &bytes, &file)?),
            _ => None,
        };
        let has = |part: Part| index.parts().contains(&part);
        let (second, t5) = match index.family {
            Family::Flux => (None, Some(T5Encoder::read(store, Part::TextEncoder2, "tokenizer_2")?)),
            _ => (
                has(Part::TextEncoder2).then(|| SecondEncoderConfig::read(store)).transpose()?,
                has(Part::TextEncoder3)
                    .then(|| T5Encoder::read(store, Part::TextEncoder3, "tokenizer_3"))
                    .transpose()?,
            ),
        };
        let (bytes, file) = json("vae/config.json", "the autoencoder's shape")?;
        let vae = VaeConfig::from_json(&bytes, &file)?;
        if !index.family.flows() && vae.shift_factor != 0.0 {
            // Their pipelines in diffusers pass over it.
            let reason = format!("`shift_factor` is {}, which pipelines of this kind do not know", vae.shift_factor);
            return Err(Error::Config { file, reason });
        }
        let (bytes, file) = json("scheduler/scheduler_config.json", "the noise schedule")?;
        let scheduler = SchedulerConfig::from_json_as(&bytes, &file, &index.scheduler_class, &index_file)?;
        let tokenizer = match &text_encoder {
            Some(clip) => Some(read_tokenizer(store, "tokenizer", clip.max_position_embeddings)?),
            None => None,
        };

        let fits = match (&denoiser, &text_encoder) {
            (DenoiserConfig::Unet(unet), Some(clip)) => check_conditions(unet, clip, second.as_ref()),
            (DenoiserConfig::Sd3(sd3), Some(clip)) => check_joint(sd3, clip, second.as_ref(), t5.as_ref()),
            (DenoiserConfig::Flux(flux), Some(clip)) => check_flux(flux, clip, t5.as_ref()),
            (DenoiserConfig::ZImage(z_image), _) => check_z_image(z_image, qwen.as_ref()),
            (_, None) => Err("the pipeline has no CLIP".into()),
        };
        fits.map_err(|reason| Error::Config { file: store.path(denoiser_file), reason })?;
        // An inpainting UNet is shown a mask and the masked picture's latent too.
        let (taken, latent) = (denoiser.in_channels(), vae.latent_channels);
        let inpaints = denoiser.unet().is_some() && taken == 2 * latent + 1;
        if taken != latent && !inpaints {
            return Err(Error::Config {
                file: store.path(denoiser_file),
                reason: format!("`in_channels` is {taken}, but the autoencoder's `latent_channels` is {latent}"),
            });
        }
        let factor = vae.factor() * denoiser.patch();
        let defaults = defaults::read(store, factor, defaults::usual(&index, &denoiser, &vae, &scheduler))?;
        Ok(Self { index, denoiser, vae, text_encoder, second, t5, qwen, scheduler, tokenizer, defaults })
    }
}

impl T5Encoder {
    /// The T5 that is `part`, with the tokenizer in `folder`.
    fn read(store: &Store, part: Part, folder: &str) -> Result<Self> {
        let name = format!("{}/config.json", part.folder());
        let bytes = store.read_required(&name, "the shape of T5")?;
        let config = T5Config::from_json(&bytes, &store.path(&name))?;
        let settings = format!("{folder}/tokenizer_config.json");
        let bytes = store.read(&settings)?;
        let path = store.path(&settings);
        let tokenizer = T5TokenizerFiles::new(
            store.path(folder),
            store.read(&format!("{folder}/tokenizer.json"))?,
            bytes.as_deref().map(|json| (json, path.as_path())),
            store.list(folder)?.iter().any(|file| file == "spiece.model"),
        )?;
        Ok(Self { part, config, tokenizer })
    }
}

/// Whether the transformer takes what the text encoders give; the error is what does not fit.
fn check_joint(
    transformer: &Sd3Config,
    text_encoder: &TextEncoderConfig,
    second: Option<&SecondEncoderConfig>,
    t5: Option<&T5Encoder>,
) -> Result<(), String> {
    let width = text_encoder.hidden_size + second.map_or(0, |second| second.text_encoder.hidden_size);
    let first = if text_encoder.with_projection { text_encoder.projection_dim } else { text_encoder.hidden_size };
    let pooled = first + second.map_or(0, |second| second.text_encoder.projection_dim);
    let joint = transformer.joint_attention_dim;
    if let Some(other) = t5.map(|t5| t5.config.d_model).filter(|other| *other != joint) {
        return Err(format!("`joint_attention_dim` is {joint}, but the `d_model` of T5 is {other}"));
    }
    // The states of the two are filled up with zeros to the width of T5's.
    if width > joint {
        return Err(format!("`joint_attention_dim` is {joint}, but the widths of the CLIP encoders sum to {width}"));
    }
    if pooled != transformer.pooled_projection_dim {
        let expected = transformer.pooled_projection_dim;
        return Err(format!("`pooled_projection_dim` is {expected}, but the CLIP projections sum to {pooled}"));
    }
    Ok(())
}

impl QwenEncoder {
    /// The Qwen3 whose config is in `bytes`, with the tokenizer in `tokenizer/`.
    fn read(store: &Store, bytes: &[u8], file: &std::path::Path) -> Result<Self> {
        let config = Qwen3Config::from_json(bytes, file)?;
        let json = store.read("tokenizer/tokenizer.json")?;
        let tokenizer = T5TokenizerFiles::new(store.path("tokenizer"), json, None, false)?;
        Ok(Self { config, tokenizer })
    }
}

/// Whether Z-Image's transformer takes what the text encoder gives; the error is what does not fit.
fn check_z_image(transformer: &ZImageConfig, qwen: Option<&QwenEncoder>) -> Result<(), String> {
    let (taken, given) = (transformer.cap_feat_dim, qwen.map_or(0, |qwen| qwen.config.hidden_size));
    match taken == given {
        true => Ok(()),
        false => Err(format!("`cap_feat_dim` is {taken}, but the text encoder's `hidden_size` is {given}")),
    }
}

/// Whether FLUX.1's transformer takes what the text encoders give; the error is what does not fit.
fn check_flux(
    transformer: &FluxConfig,
    text_encoder: &TextEncoderConfig,
    t5: Option<&T5Encoder>,
) -> Result<(), String> {
    let (joint, pooled) = (transformer.joint_attention_dim, transformer.pooled_projection_dim);
    if let Some(other) = t5.map(|t5| t5.config.d_model).filter(|other| *other != joint) {
        return Err(format!("`joint_attention_dim` is {joint}, but the `d_model` of T5 is {other}"));
    }
    let given = text_encoder.hidden_size;
    match given == pooled {
        true => Ok(()),
        false => Err(format!("`pooled_projection_dim` is {pooled}, but the text encoder's `hidden_size` is {given}")),
    }
}

impl SecondEncoderConfig {
    fn read(store: &Store) -> Result<Self> {
        let name = "text_encoder_2/config.json";
        let bytes = store.read_required(name, "the second text encoder's shape")?;
        // The index says which class it is (`CLIPTextModelWithProjection`); the config need not.
        let text_encoder = TextEncoderConfig::with_projection(&bytes, &store.path(name))?;
        let tokenizer = read_tokenizer(store, "tokenizer_2", text_encoder.max_position_embeddings)?;
        Ok(Self { text_encoder, tokenizer })
    }
}

/// Whether the UNet takes what the text encoders give; the error is what does not fit.
fn check_conditions(
    unet: &UnetConfig,
    text_encoder: &TextEncoderConfig,
    second: Option<&SecondEncoderConfig>,
) -> Result<(), String> {
    let width = text_encoder.hidden_size + second.map_or(0, |second| second.text_encoder.hidden_size);
    for &expected in &unet.cross_attention_dim {
        if expected != width {
            let encoders = if second.is_some() {
                "the text encoders' widths sum to"
            } else {
                "the text encoder's `hidden_size` is"
            };
            return Err(format!("`cross_attention_dim` is {expected}, but {encoders} {width}"));
        }
    }
    match (&unet.addition, second) {
        (None, None) => Ok(()),
        (Some(addition), Some(second)) => {
            let pooled = second.text_encoder.projection_dim;
            let expected = pooled + TIME_IDS * addition.time_embed_dim;
            if addition.input_dim == expected {
                return Ok(());
            }
            Err(format!(
                "`projection_class_embeddings_input_dim` is {}, but the second text encoder's projection of \
                {pooled} and {TIME_IDS} \
                 size conditions of {} make {expected}",
                addition.input_dim, addition.time_embed_dim
            ))
        }
        (Some(_), None) => {
            Err("`addition_embed_type` is \"text_time\" (an SDXL UNet), but the pipeline is not SDXL's".into())
        }
        (None, Some(_)) => Err("`addition_embed_type` is null, but the pipeline is SDXL's".into()),
    }
}

/// Numbers in SDXL's size condition: height and width of the original, top and left of the crop,
/// height and width of the target.
pub const TIME_IDS: usize = 6;

fn read_tokenizer(store: &Store, folder: &str, longest: usize) -> Result<TokenizerFiles> {
    let name = |file: &str| format!("{folder}/{file}");
    let vocab_json = store.read(&name("vocab.json"))?;
    let merges_txt = store.read(&name("merges.txt"))?;
    let tokenizer_json = store.read(&name("tokenizer.json"))?;
    if tokenizer_json.is_none() && (vocab_json.is_none() || merges_txt.is_none()) {
        return Err(config::missing_vocabulary(store.path(folder)));
    }
    let added_name = name("added_tokens.json");
    if let Some(added) = store.read(&added_name)? {
        config::refuse_added_tokens_file(&added, &store.path(&added_name))?;
    }
    let config_name = name("tokenizer_config.json");
    let config = store.read_required(&config_name, "the tokenizer's settings")?;
    let special_name = name("special_tokens_map.json");
    let special = store.read(&special_name)?;
    let special_path = store.path(&special_name);
    let special = special.as_deref().map(|json| (json, special_path.as_path()));
    let config = TokenizerConfig::from_json((&config, &store.path(&config_name)), special, longest)?;
    Ok(TokenizerFiles { folder: store.path(folder), vocab_json, merges_txt, tokenizer_json, config })
}
