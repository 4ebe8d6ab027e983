//! A checkpoint in memory: its networks, and what they say of themselves.

use super::memory::MemoryPlan;
use super::options::{LoadOptions, Options, check_size, vae_dtype};
use super::qwen::{QWEN_TOKENS, QwenReader};
use super::second::SecondEncoder;
use super::t5::T5Reader;
use crate::argument::SIZE;
use crate::checkpoint::{AddedWord, Changes, Checkpoint, Defaults, DenoiserConfig, Family, Part, SchedulerConfig};
use crate::model::layers::Builder;
use crate::model::{Denoiser, Interrupt, TextEncoder, Vae};
use crate::prompt::{Reader, Syntax, Tokenizer};
use crate::trace::{Grid, Site};
use crate::{Error, Result};
use std::fmt;

/// A checkpoint in memory, ready to generate.
pub struct Pipeline {
    /// CLIP's, which Z-Image has not.
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) text_encoder: Option<TextEncoder>,
    pub(super) second: Option<SecondEncoder>,
    /// T5, whose states stand behind those of the CLIP encoders, or are FLUX.1's prompt.
    pub(super) t5: Option<T5Reader>,
    /// Qwen3, the text encoder of Z-Image.
    pub(super) qwen: Option<QwenReader>,
    /// Channels of the text states, where they are joined by tokens (Stable Diffusion 3).
    pub(super) joint_width: Option<usize>,
    pub(super) denoiser: Denoiser,
    pub(super) vae: Vae,
    pub(super) scheduler: SchedulerConfig,
    pub(super) family: Family,
    pub(super) defaults: Defaults,
    pub(super) id: String,
    pub(super) digest: String,
    pub(super) changes: Changes,
    /// The weight files, where a variant was chosen among several.
    pub(super) files: Vec<String>,
    pub(super) added_words: Vec<AddedWord>,
    pub(super) warnings: Vec<String>,
    pub(super) vae_factor: usize,
    /// Image pixels that each side is a multiple of.
    pub(super) size_factor: usize,
    /// Cells of the latent's largest side, where there is one.
    pub(super) largest_side: Option<usize>,
    pub(super) latent_channels: usize,
    pub(super) options: LoadOptions,
}

impl fmt::Debug for Pipeline {
    /// Its name alone: the networks hold millions of numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("id", &self.id).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Reads every part of `checkpoint`, after its [`MemoryPlan`] was found to fit. Errors name the
    /// file and the tensor that is missing, left over or of the wrong shape.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let LoadOptions { dtype, device, plain, .. } = options;
        let plan = MemoryPlan::new(checkpoint, options)?;
        if !options.ignore_memory {
            plan.check()?;
        }
        let t5 = T5Reader::load(checkpoint, options, plan.text_encoder_first)?;
        let qwen = QwenReader::load(checkpoint, options, plan.text_encoder_first)?;
        let tokenizer = match &checkpoint.tokenizer {
            Some(files) => Some(Tokenizer::new(files)?.with_words(&checkpoint.added_words)?),
            None => None,
        };
        let text_encoder = match &checkpoint.text_encoder {
            Some(config) => {
                let weights = checkpoint.weights(Part::TextEncoder)?;
                Some(weights.load(*dtype, device, |vb| match plain {
                    false => TextEncoder::new(config, vb),
                    true => TextEncoder::plain(config, vb),
                })?)
            }
            None => None,
        };
        let second = match &tokenizer {
            Some(tokenizer) => SecondEncoder::load(checkpoint, tokenizer, options)?,
            None => None,
        };
        let part = match &checkpoint.denoiser {
            DenoiserConfig::Unet(_) => Part::Unet,
            _ => Part::Transformer,
        };
        let weights = checkpoint.weights(part)?;
        let denoiser = weights.load_quantised(*dtype, device, |vb, quantised| match plain {
            false => Denoiser::build(&checkpoint.denoiser, &Builder::new(vb).with_quantised(quantised)),
            true => Denoiser::plain(&checkpoint.denoiser, vb),
        })?;
        let weights = checkpoint.weights(Part::Vae)?;
        let vae = weights.load(vae_dtype(checkpoint, *dtype), device, |vb| Vae::new(&checkpoint.vae, vb))?;

        Ok(Self {
            tokenizer,
            text_encoder,
            second,
            t5,
            qwen,
            joint_width: match &checkpoint.denoiser {
                DenoiserConfig::Unet(_) | DenoiserConfig::Flux(_) | DenoiserConfig::ZImage(_) => None,
                DenoiserConfig::Sd3(sd3) => Some(sd3.joint_attention_dim),
            },
            denoiser,
            vae,
            scheduler: checkpoint.scheduler.clone(),
            family: checkpoint.index.family,
            defaults: checkpoint.defaults.clone(),
            id: checkpoint.id.clone(),
            digest: checkpoint.digest()?,
            changes: checkpoint.changes.clone(),
            files: checkpoint.changes.variant.as_ref().map(|_| checkpoint.weight_files()).unwrap_or_default(),
            added_words: checkpoint.added_words.clone(),
            warnings: checkpoint.warnings.clone(),
            vae_factor: checkpoint.vae.factor(),
            size_factor: checkpoint.factor(),
            largest_side: checkpoint.denoiser.largest_side(),
            latent_channels: checkpoint.vae.latent_channels,
            options: options.clone(),
        })
    }

    /// The checkpoint's own steps, guidance and size, with seed 0 and no negative prompt.
    pub fn default_options(&self) -> Options {
        let [height, width] = self.defaults.size;
        Options {
            negative: String::new(),
            syntax: Syntax::default(),
            steps: self.defaults.steps,
            guidance_scale: self.defaults.guidance_scale,
            seeds: vec![0],
            height,
            width,
            scheduler: None,
            probes: Vec::new(),
            concepts: Vec::new(),
            spacing: None,
            clip_skip: 0,
            original_size: None,
            crop: [0, 0],
            latents: None,
            latents_as_drawn: false,
            init: None,
            value_weights: None,
            fork: None,
            text_layers: None,
        }
    }

    /// What the checkpoint calls itself: `embedded`, the folder, the single file, or on the hub
    /// `owner/name@revision` or `owner/name/file.safetensors@revision`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A short digest of the weights (see [`Checkpoint::digest`]).
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What was chosen and changed of the checkpoint.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The checkpoint's defaults, with the words that it knows where it says so.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The words that embeddings added to the vocabulary.
    pub fn added_words(&self) -> &[AddedWord] {
        &self.added_words
    }

    /// Those of the [`added_words`](Self::added_words) that none of `texts` has, each read by
    /// `syntax`; what is cut off counts as there.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn words_not_in(&self, texts: &[&str], syntax: Syntax) -> Result<Vec<&AddedWord>> {
        // CLIP alone is taught words, and its tokenizer reads chunks whatever the denoiser takes.
        let Some(tokenizer) = self.tokenizer.as_ref().filter(|_| !self.added_words.is_empty()) else {
            return Ok(Vec::new());
        };
        let syntax = Syntax { long: true, ..syntax };
        let prompts = texts.iter().map(|text| tokenizer.read(text, syntax)).collect::<Result<Vec<_>>>()?;
        let has = |word: &&AddedWord| prompts.iter().flat_map(|prompt| &prompt.ids).any(|id| word.ids.contains(id));
        Ok(self.added_words.iter().filter(|word| !has(word)).collect())
    }

    /// What the user should know of the checkpoint (see [`Checkpoint::warnings`]).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What ends a run within a step, from any thread: the run's result is then
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn interrupt(&self) -> &Interrupt {
        self.denoiser.interrupt()
    }

    /// The tokenizer whose tokens are a prompt's keys; in Stable Diffusion 3 that of the first of
    /// two.
    ///
    /// # Errors
    /// When the pipeline has none, which no checkpoint leads to.
    pub fn reader(&self) -> Result<Reader> {
        let reader = match (self.family, &self.t5, &self.qwen, &self.tokenizer) {
            (Family::Flux, Some(t5), ..) => Reader::T5(t5.tokenizer.clone(), t5.length()),
            (_, _, Some(qwen), _) => Reader::Qwen(qwen.tokenizer.clone(), QWEN_TOKENS),
            (_, _, None, Some(clip)) => Reader::Clip(clip.clone()),
            _ => return Err(Error::bug("a pipeline without a tokenizer")),
        };
        Ok(reader)
    }

    /// Tokens of a prompt, or of a chunk of one: CLIP's, T5's in FLUX.1, Qwen's in Z-Image.
    pub fn prompt_length(&self) -> usize {
        match (self.family, &self.t5, &self.tokenizer) {
            (Family::Flux, Some(t5), _) => t5.length(),
            (_, _, Some(clip)) => clip.length(),
            (_, _, None) => QWEN_TOKENS,
        }
    }

    /// Image pixels per latent cell, in each direction (8 for Stable Diffusion).
    pub fn vae_factor(&self) -> usize {
        self.vae_factor
    }

    /// Each side of an image is a multiple of this many pixels. They are those of a latent cell,
    /// times the cells of a patch where the denoiser takes patches.
    pub fn size_factor(&self) -> usize {
        self.size_factor
    }

    /// Whether a run with `options` has an unconditional half: with guidance, where the denoiser
    /// was not trained to take the scale as an input.
    pub fn guided(&self, options: &Options) -> bool {
        options.guidance_scale > self.no_guidance() && !self.denoiser.embeds_guidance()
    }

    /// The largest scale at which there is no guidance. In Z-Image, where the prompt's half has the
    /// difference of both added, it is 0, and 1 in all others, as in diffusers.
    pub fn no_guidance(&self) -> f64 {
        if self.family == Family::ZImage { 0.0 } else { 1.0 }
    }

    /// Whether the checkpoint takes the guidance scale as an input, and so has no unconditional
    /// half at any.
    pub fn embeds_guidance(&self) -> bool {
        self.denoiser.embeds_guidance()
    }

    /// The family of the checkpoint's pipeline.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The cross-attention sites of an image of `height` x `width` pixels, in network order.
    pub fn sites(&self, height: usize, width: usize) -> Vec<Site> {
        self.denoiser.sites(height / self.vae_factor, width / self.vae_factor)
    }

    /// The latent grid of a run with `options`.
    pub fn latent_grid(&self, options: &Options) -> Grid {
        Grid::new(options.height / self.vae_factor, options.width / self.vae_factor)
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// Refuses an image size in pixels that has no latent grid.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for such a size.
    pub fn check_size(&self, size: Grid) -> Result<()> {
        check_size(size, self.size_factor)?;
        let most = self.largest_side.map(|side| side * self.vae_factor);
        match most.filter(|most| size.height.max(size.width) > *most) {
            Some(most) => Err(Error::argument(SIZE, format!("this checkpoint has places for {most} pixels a side"))),
            None => Ok(()),
        }
    }
}
