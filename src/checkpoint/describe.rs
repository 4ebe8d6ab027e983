//! What a checkpoint is, in numbers: for `attnmap models` and scripts. Read from configs and
//! headers alone.

use super::config::{DenoiserConfig, Family, UnetConfig};
use super::configs::T5_TOKENS;
use super::embedding::AddedWord;
use super::open::Checkpoint;
use super::part::Part;
use crate::Result;
use crate::trace::Site;
use serde::Serialize;
use std::collections::BTreeMap;

/// A checkpoint in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// What to give to `--model`.
    pub id: String,
    /// `Stable Diffusion 1`, `Stable Diffusion 2`, or another shape of the same layout.
    pub kind: String,
    /// The checkpoint's own line about itself.
    pub about: Option<String>,
    /// Parameters of all parts.
    pub parameters: u64,
    /// Bytes on disk of all parts' weights (of this variant).
    pub bytes: u64,
    /// Each part with weights.
    pub parts: Vec<PartDescription>,
    /// Height and width in pixels that images have unless told otherwise.
    pub size: [usize; 2],
    /// Image pixels per latent pixel and side: sizes must be multiples of it.
    pub factor: usize,
    /// Tokens of a prompt, start and end included.
    pub prompt_tokens: usize,
    /// Tokens of T5, where it reads the prompt too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t5_tokens: Option<usize>,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// The words that the model knows, where it was trained on a small world.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_words: Option<Vec<String>>,
    /// The same words by their kind, where the checkpoint says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<BTreeMap<String, Vec<String>>>,
    /// The scheduler's class.
    pub scheduler: String,
    /// What the denoiser predicts: `epsilon`, `v_prediction`, `sample` or `flow`.
    pub prediction_type: String,
    /// Steps unless told otherwise.
    pub steps: usize,
    /// Guidance scale unless told otherwise.
    pub guidance_scale: f64,
    /// Cross-attention sites at that size, in network order.
    pub sites: Vec<Site>,
    /// Parts in the folder that are not used; of a single file, its tensors that are not.
    pub ignored_parts: Vec<String>,
    /// Words that `--embedding` adds.
    pub words: Vec<WordDescription>,
    /// See [`Checkpoint::warnings`].
    pub warnings: Vec<String>,
    /// See [`Checkpoint::digest`].
    pub digest: String,
}

/// A word that an embedding adds.
#[derive(Debug, Clone, Serialize)]
pub struct WordDescription {
    /// As it is written in prompts.
    pub word: String,
    /// Its vectors: as many tokens of a prompt.
    pub vectors: usize,
    /// The file, as the user named it.
    pub file: String,
}

/// One part with weights.
#[derive(Debug, Clone, Serialize)]
pub struct PartDescription {
    /// Which part.
    pub part: Part,
    /// Its parameters.
    pub parameters: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Element types in the files, e.g. `f16`.
    pub dtypes: Vec<String>,
    /// Weight files, relative to the checkpoint.
    pub files: Vec<String>,
    /// Tensors in those files that are knowingly left out, those of one place together.
    pub spare: Vec<String>,
}

impl Checkpoint {
    /// What this checkpoint is, from configs and headers; no weight is read but for the digest's
    /// samples.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn describe(&self) -> Result<Description> {
        let mut parts = Vec::new();
        for &part in self.index.parts() {
            let weights = self.weights(part)?;
            let summary = weights.summary();
            parts.push(PartDescription {
                part,
                parameters: summary.parameters,
                bytes: summary.bytes,
                dtypes: summary.dtypes.iter().map(|dtype| dtype.to_lowercase()).collect(),
                files: summary.files.iter().map(|file| file.display().to_string()).collect(),
                spare: weights.spare(),
            });
        }
        let word = |added: &AddedWord| WordDescription {
            word: added.word.clone(),
            vectors: added.ids.len(),
            file: added.file.display().to_string(),
        };
        let size = self.defaults.size;
        let factor = self.factor();
        Ok(Description {
            id: self.id.clone(),
            kind: kind(&self.denoiser).to_string(),
            about: self.defaults.description.clone(),
            parameters: parts.iter().map(|part| part.parameters).sum(),
            bytes: parts.iter().map(|part| part.bytes).sum(),
            parts,
            size,
            factor,
            prompt_tokens: self.prompt_tokens(),
            t5_tokens: self.t5.as_ref().filter(|_| self.index.family == Family::StableDiffusion3).map(|_| T5_TOKENS),
            vocabulary: self.vocabulary(),
            known_words: self.defaults.vocabulary.clone(),
            kinds: self.defaults.kinds.clone(),
            scheduler: self.scheduler.class_name.clone(),
            // Every scheduler's default.
            prediction_type: match self.index.family.flows() {
                true => "flow".into(),
                false => self.scheduler.prediction_type.clone().unwrap_or_else(|| "epsilon".into()),
            },
            steps: self.defaults.steps,
            guidance_scale: self.defaults.guidance_scale,
            sites: self.denoiser.sites(size.map(|side| side / self.vae.factor())),
            ignored_parts: self.index.ignored_parts.clone(),
            words: self.added_words.iter().map(word).collect(),
            warnings: self.warnings.clone(),
            digest: self.digest()?,
        })
    }
}

impl Checkpoint {
    /// Tokens of a prompt, or of a chunk of one, in the tokenizer whose tokens are keys.
    pub fn prompt_tokens(&self) -> usize {
        match &self.denoiser {
            // As the pages of dev and schnell say.
            DenoiserConfig::Flux(flux) if flux.guidance_embeds => 512,
            DenoiserConfig::Flux(_) => 256,
            DenoiserConfig::ZImage(_) => 512,
            _ => self.tokenizer.as_ref().map_or(0, |tokenizer| tokenizer.config.model_max_length),
        }
    }

    /// Tokens that the same tokenizer's text encoder knows.
    fn vocabulary(&self) -> usize {
        match (&self.denoiser, &self.t5, &self.qwen) {
            (DenoiserConfig::Flux(_), Some(t5), _) => t5.config.vocab_size,
            (_, _, Some(qwen)) => qwen.config.vocab_size,
            _ => self.text_encoder.as_ref().map_or(0, |clip| clip.vocab_size),
        }
    }
}

/// The release that a denoiser's shape is known from.
fn kind(denoiser: &DenoiserConfig) -> &'static str {
    match denoiser {
        DenoiserConfig::Unet(unet) => kind_of_unet(unet),
        DenoiserConfig::Flux(flux) => match (flux.num_layers, flux.num_single_layers, flux.width()) {
            (19, 38, 3072) if flux.guidance_embeds => "FLUX.1 dev",
            (19, 38, 3072) => "FLUX.1 schnell",
            _ => "FLUX.1 layout, own shape",
        },
        DenoiserConfig::ZImage(z_image) => match (z_image.n_layers, z_image.dim) {
            (30, 3840) => "Z-Image",
            _ => "Z-Image layout, own shape",
        },
        DenoiserConfig::Sd3(sd3) => match (sd3.num_layers, sd3.width(), sd3.dual_attention_layers.len()) {
            (24, 1536, 0) => "Stable Diffusion 3 medium",
            (24, 1536, 13) => "Stable Diffusion 3.5 medium",
            (38, 2432, 0) => "Stable Diffusion 3.5 large",
            _ => "Stable Diffusion 3 layout, own shape",
        },
    }
}

fn kind_of_unet(unet: &UnetConfig) -> &'static str {
    let standard = unet.block_out_channels == [320, 640, 1280, 1280] && unet.layers_per_block == [2; 4];
    let large = unet.block_out_channels == [320, 640, 1280] && unet.addition.is_some();
    let depth: usize = unet.transformer_layers_per_block.iter().flatten().sum();
    match unet.cross_attention_dim[0] {
        768 if standard && unet.time_cond_proj_dim.is_some() => "Stable Diffusion 1, LCM",
        768 if standard => "Stable Diffusion 1",
        1024 if standard => "Stable Diffusion 2",
        // 1 (not used by a block without attention), 2 and 10 blocks in each of two layers.
        2048 if large && depth >= 2 * (2 + 10) && unet.time_cond_proj_dim.is_some() => "SDXL, LCM",
        2048 if large && depth >= 2 * (2 + 10) => "SDXL",
        2048 if large => "SDXL, fewer transformer blocks (SSD-1B, Vega, KOALA)",
        _ if unet.addition.is_some() => "SDXL layout, own shape",
        _ => "Stable Diffusion layout, own shape",
    }
}
