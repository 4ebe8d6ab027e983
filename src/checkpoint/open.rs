//! A checkpoint opened: its configs read and found supported, its weights found, adapters applied.

use super::adapter;
use super::changes::Changes;
use super::config::{DenoiserConfig, ModelIndex, SchedulerConfig, TextEncoderConfig, TokenizerFiles, VaeConfig};
use super::configs::{Configs, QwenEncoder, SecondEncoderConfig, T5Encoder};
use super::defaults::{self, Defaults};
use super::embedding::{AddedWord, Embedding, EmbeddingTarget};
use super::hub::{self, HubOptions};
use super::lora::{self, Layers, Lora};
use super::part::Part;
use super::progress::Progress;
use super::single::{self, Single};
use super::source::Source;
use super::store::Store;
use super::weights::{self, Weights};
use crate::argument::{CONFIG, MODEL, PREDICTION, VARIANT};
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// How to open a checkpoint.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// What is chosen of the checkpoint, and what is different from what it says.
    pub changes: Changes,
    /// Told of downloads.
    pub progress: Option<Arc<dyn Progress>>,
    /// How to reach the hub; the environment says, unless told otherwise here.
    pub hub: HubOptions,
}

impl std::fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions").field("changes", &self.changes).finish_non_exhaustive()
    }
}

/// A checkpoint whose configs have been read and found supported. Weights are opened by
/// [`weights`](Self::weights).
#[derive(Debug)]
pub struct Checkpoint {
    /// What the user named: `embedded`, the folder, or `owner/name[@revision]`.
    pub id: String,
    /// The pipeline's index.
    pub index: ModelIndex,
    /// The denoiser's shape.
    pub denoiser: DenoiserConfig,
    /// The autoencoder's shape.
    pub vae: VaeConfig,
    /// The shape of the first CLIP text encoder; Z-Image has none.
    pub text_encoder: Option<TextEncoderConfig>,
    /// The second text encoder's shape and its tokenizer, in SDXL and Stable Diffusion 3.
    pub second: Option<SecondEncoderConfig>,
    /// T5's shape and its tokenizer, in Stable Diffusion 3 where the checkpoint has it.
    pub t5: Option<T5Encoder>,
    /// Qwen3's shape and its tokenizer, in Z-Image.
    pub qwen: Option<QwenEncoder>,
    /// The scheduler that the checkpoint was made for.
    pub scheduler: SchedulerConfig,
    /// The files and settings of its tokenizer.
    pub tokenizer: Option<TokenizerFiles>,
    /// What to generate with unless told otherwise.
    pub defaults: Defaults,
    /// What is different from what the checkpoint says.
    pub changes: Changes,
    /// Words that embeddings add to the vocabulary.
    pub added_words: Vec<AddedWord>,
    /// What the user should know of it: layers of a LoRA that were left out. One line each.
    pub warnings: Vec<String>,
    store: Store,
    /// The weight files of each part, relative to the checkpoint; none where all are in one file.
    files: BTreeMap<&'static str, Vec<String>>,
    /// Where the weights are, if all of them are in one file.
    single: Option<Single>,
    /// What adapters change of the weights.
    adapters: lora::WeightDeltas,
    /// Digests of the adapters' files and how strongly they are applied.
    adapted: Vec<Vec<u8>>,
}

impl Checkpoint {
    /// Opens the checkpoint that `source` names: reads and checks all configs, and finds the weight
    /// files.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Unsupported`], [`Error::Weights`] or [`Error::Hub`], each naming
    /// file, field and the way out.
    pub fn open(source: &Source, options: &OpenOptions) -> Result<Self> {
        options.changes.check()?;
        if *source == Source::Embedded && options.changes.variant.is_some() {
            return Err(Error::argument(
                VARIANT,
                format!("the embedded checkpoint has one set of weights; leave {VARIANT} out"),
            ));
        }
        match source {
            Source::File(path) => return Self::open_file(path, source, options),
            Source::Hub { repo, revision, file: Some(file) } => {
                let repository = hub::Repository { repo, revision: revision.as_deref() };
                let path = hub::file(repository, file, &options.hub, options.progress.clone());
                return Self::open_file(
                    &path.map_err(|error| adapter::not_here(error, &source.to_string()))?,
                    source,
                    options,
                );
            }
            _ => {}
        }
        if options.changes.config.is_some() {
            return Err(Error::argument(
                CONFIG,
                format!("only a single-file checkpoint takes other configs; leave {CONFIG} out"),
            ));
        }
        let store = match source {
            Source::File(_) => unreachable!("opened above"),
            Source::Embedded if Store::has_embedded() => Store::Embedded,
            Source::Embedded => {
                return Err(Error::Unsupported {
                    what:
                        "the embedded checkpoint in this build (made without models/default or feature default-model)"
                            .into(),
                    way_out: format!("give a folder or a hub id with {MODEL}"),
                });
            }
            Source::Folder(folder) if folder.is_dir() => Store::Folder(folder.clone()),
            Source::Folder(folder) => return Err(Error::argument(MODEL, format!("no folder {}", folder.display()))),
            Source::Hub { repo, revision, .. } => {
                let repository = hub::Repository { repo, revision: revision.as_deref() };
                let variant = options.changes.variant.as_deref();
                Store::Folder(hub::snapshot(repository, variant, &options.hub, options.progress.clone())?)
            }
        };
        let mut checkpoint = Self::new(store, source.to_string())?;
        let variant = options.changes.variant.as_deref();
        checkpoint.files = weights::part_files(&checkpoint.store, checkpoint.index.parts(), variant)?;
        checkpoint.change(options)?;
        Ok(checkpoint)
    }

    /// Opens a single-file checkpoint.
    fn open_file(path: &Path, source: &Source, options: &OpenOptions) -> Result<Self> {
        let Changes { variant, config, prediction, .. } = &options.changes;
        let single = single::open(path, config.as_deref(), prediction.as_deref(), variant.as_deref())?;
        let mut checkpoint = Self::new(single.store.clone(), source.to_string())?;
        checkpoint.index.ignored_parts = single.ignored.clone();
        if let Some((_, files)) = &single.folder {
            checkpoint.files.clone_from(files);
        }
        checkpoint.single = Some(single);
        checkpoint.change(options)?;
        Ok(checkpoint)
    }

    /// A checkpoint with the configs in `store`; its weights are not looked at.
    fn new(store: Store, id: String) -> Result<Self> {
        let Configs { index, denoiser, vae, text_encoder, second, t5, qwen, scheduler, tokenizer, defaults } =
            Configs::read(&store)?;
        Ok(Self {
            id,
            index,
            denoiser,
            vae,
            text_encoder,
            second,
            t5,
            qwen,
            scheduler,
            tokenizer,
            defaults,
            changes: Changes::default(),
            store,
            files: BTreeMap::new(),
            added_words: Vec::new(),
            warnings: Vec::new(),
            single: None,
            adapters: lora::WeightDeltas::new(),
            adapted: Vec::new(),
        })
    }

    fn change(&mut self, options: &OpenOptions) -> Result<()> {
        let changes = &options.changes;
        if changes.prediction.is_some() {
            self.scheduler.prediction_type.clone_from(&changes.prediction);
            if self.index.family.flows() {
                return Err(Error::argument(
                    PREDICTION,
                    "a flow matching checkpoint predicts a velocity of its own kind; leave it out",
                ));
            }
            let usual = defaults::usual(&self.index, &self.denoiser, &self.vae, &self.scheduler);
            self.defaults = defaults::read(&self.store, self.factor(), usual)?;
        }
        let mut adapters = lora::WeightDeltas::new();
        let find = |kind: adapter::AdapterKind, file: &Path| kind.find(file, &options.hub, options.progress.clone());
        // A LoRA may be for any part, and the headers of all are read to tell.
        let layers = if changes.loras.is_empty() { Layers::default() } else { self.layers() };
        for lora in &changes.loras {
            let found = Lora { file: find(adapter::LORA, &lora.file)?, ..*lora };
            let applied = found.changes(&layers, &self.id, &mut adapters)?;
            self.warnings.extend(applied.warnings);
            self.adapted.push(adapter::fingerprint(&applied.file, lora.weight, &applied.settings));
        }
        for embedding in &changes.embeddings {
            let found = Embedding { file: find(adapter::EMBEDDING, &embedding.file)?, ..embedding.clone() };
            let (word, file) = found.changes(&mut self.embedding_targets(), &mut adapters)?;
            let word = AddedWord { file: embedding.file.clone(), ..word };
            self.adapted.push(adapter::fingerprint(&file, 1.0, &[]));
            if let Some(known) = &mut self.defaults.vocabulary {
                known.push(word.word.clone());
            }
            self.added_words.push(word);
        }
        self.adapters = adapters;
        self.changes = changes.clone();
        Ok(())
    }

    /// The layers that a LoRA can change.
    fn layers(&self) -> Layers {
        // What cannot be read is named when it is loaded.
        let shapes = |&part: &Part| Some((part.folder(), self.weights(part).ok()?.shapes()));
        Layers::new(&self.denoiser, self.index.parts().iter().filter_map(shapes))
    }

    /// Image pixels that each side must be a multiple of.
    pub fn factor(&self) -> usize {
        self.vae.factor() * self.denoiser.patch()
    }

    /// Layers of each CLIP encoder, the first one's first.
    pub(crate) fn clip_layers(&self) -> Vec<usize> {
        let second = self.second.iter().map(|second| &second.text_encoder);
        self.text_encoder.iter().chain(second).map(|encoder| encoder.num_hidden_layers).collect()
    }

    /// The text encoders that embeddings add rows to.
    fn embedding_targets(&mut self) -> Vec<EmbeddingTarget<'_>> {
        let second = self.second.as_mut().map(|second| (Part::TextEncoder2.folder(), &mut second.text_encoder));
        let first = self.text_encoder.as_mut().map(|clip| (Part::TextEncoder.folder(), clip));
        first
            .into_iter()
            .chain(second)
            .map(|(folder, config)| {
                // 2 stands for the highest id of a prompt, which would be an added word's: the end
                // token is the vocabulary's last.
                if config.eos_token_id == 2 {
                    config.eos_token_id = config.vocab_size as u32 - 1;
                }
                EmbeddingTarget { folder, width: config.hidden_size, vocab_size: &mut config.vocab_size }
            })
            .collect()
    }

    /// Opens the weights of `part`.
    ///
    /// # Errors
    /// [`Error::Weights`] for files that are missing, truncated or malformed.
    pub fn weights(&self, part: Part) -> Result<Weights> {
        let weights = match &self.single {
            Some(single) => single.weights(part, &|name| self.is_spare(part, name))?,
            None => {
                let files = self.files.get(part.folder()).map(Vec::as_slice).unwrap_or_default();
                Weights::open(&self.store, part, files, &|name| self.is_spare(part, name))?
            }
        };
        Ok(match self.adapters.get(part.folder()) {
            Some(changes) => weights.changed(changes.clone()),
            None => weights,
        })
    }

    /// Whether the tensor `name` of `part` is known to be more than the configs ask for. Such are
    /// CLIP's image encoder and its projections, the text encoder's last layers under clip skip,
    /// and averages that were kept in training.
    fn is_spare(&self, part: Part, name: &str) -> bool {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let encoder = match part {
            Part::TextEncoder => match &self.text_encoder {
                Some(clip) => clip,
                // Qwen3's states are taken before its end.
                None => return starts(&["lm_head.", "model.norm."]),
            },
            Part::TextEncoder2 => match &self.second {
                Some(second) => &second.text_encoder,
                // FLUX.1's is T5.
                None => return starts(&["decoder.", "lm_head."]),
            },
            Part::Unet | Part::Transformer | Part::Vae => return starts(&["model_ema.", "ema_model."]),
            // The other half of a whole T5.
            Part::TextEncoder3 => return starts(&["decoder.", "lm_head."]),
        };
        let layer =
            name.strip_prefix("text_model.encoder.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
        layer.is_some_and(|layer: usize| layer >= encoder.num_hidden_layers)
            || starts(&["vision_model.", "visual_projection."])
            || name == "logit_scale"
            || (name == "text_projection.weight" && !encoder.with_projection)
    }

    /// The weight files of all parts, relative to the checkpoint: the file itself, where that is
    /// one.
    pub fn weight_files(&self) -> Vec<String> {
        self.files.values().flatten().cloned().collect()
    }

    /// Sixteen hexadecimal digits that tell checkpoints apart: SHA-256 over names, types, shapes
    /// and a few sampled bytes of every tensor, adapters included. It is cheap (a few pages per
    /// tensor are read) and no guard against forgery.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for &part in self.index.parts() {
            hash.update(part.folder().as_bytes());
            self.weights(part)?.fingerprint(&mut |bytes| {
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            });
        }
        self.adapted.iter().for_each(|adapter| hash.update(adapter));
        Ok(crate::text::hex(&hash.finalize()[..8]))
    }

    /// The path by which errors name the file `name` (relative, with `/`) of this checkpoint.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.store.path(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn the_embedded_checkpoint_opens_and_its_tensors_are_read() {
        if !Store::has_embedded() {
            return;
        }
        let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default()).unwrap();
        for &part in checkpoint.index.parts() {
            let weights = checkpoint.weights(part).unwrap();
            let shapes = weights.shapes();
            weights
                .load(DType::F32, &Device::Cpu, |vb| {
                    for (name, shape) in &shapes {
                        vb.get(shape.clone(), name)?;
                    }
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(checkpoint.digest().unwrap().len(), 16);
    }
}
