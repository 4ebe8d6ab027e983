//! Where weights and configs come from: embedded, a diffusers folder, a single file, or the hub.
//!
//! [`Checkpoint::open`] reads every JSON file and refuses what cannot be run before a single weight
//! is touched. [`Checkpoint::weights`] then gives one part's tensors as a candle `VarBuilder`.

mod adapter;
mod address;
mod changes;
mod config;
mod defaults;
mod describe;
mod embedding;
mod foreign;
mod hub;
mod hub_name;
mod lora;
mod pickle;
mod single;
mod source;
mod store;
mod weights;

pub use changes::{Changes, PREDICTIONS};
pub use config::{
    Activation, Addition, BlockType, Family, ModelIndex, Number, SchedulerConfig, TextEncoderConfig, TokenizerConfig,
    TokenizerFiles, UnetBlock, UnetConfig, VaeConfig,
};
pub use defaults::Defaults;
pub use describe::{Description, PartDescription, WordDescription};
pub use embedding::{AddedWord, Embedding};
pub use hub::{CachedPipeline, HubOptions, cached_pipelines};
pub use lora::Lora;
pub use source::Source;
pub use weights::{Weights, WeightsSummary};

use crate::{Error, Result};
use embedding::Target;
use serde::Serialize;
use sha2::{Digest, Sha256};
use single::Single;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use store::Store;

/// A part of a checkpoint that has weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// `text_encoder/`
    TextEncoder,
    /// `text_encoder_2/`, SDXL alone.
    TextEncoder2,
    /// `unet/`
    Unet,
    /// `vae/`
    Vae,
}

impl Part {
    /// All parts; a checkpoint may have fewer ([`ModelIndex::parts`]).
    pub const ALL: [Self; 4] = [Self::TextEncoder, Self::TextEncoder2, Self::Unet, Self::Vae];

    /// The part's folder in the diffusers layout.
    pub fn folder(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::Unet => "unet",
            Self::Vae => "vae",
        }
    }

    /// The beginning of the part's weight file names: transformers' convention, or diffusers'.
    pub(crate) fn weight_stem(self) -> &'static str {
        match self {
            Self::TextEncoder | Self::TextEncoder2 => "model",
            Self::Unet | Self::Vae => "diffusion_pytorch_model",
        }
    }
}

/// Told how a download goes. Calls may come from other threads.
pub trait Progress: Send + Sync {
    /// `done` of `total` bytes of `file` have arrived; `done == total` once at its end. `total` is
    /// 0 where unknown.
    fn download(&self, file: &str, done: u64, total: u64);
}

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

/// SDXL's second text encoder. Its tokenizer differs from the first in the padding token alone.
#[derive(Debug)]
pub struct SecondEncoder {
    /// Its shape.
    pub text_encoder: TextEncoderConfig,
    /// Its tokenizer's files and settings.
    pub tokenizer: TokenizerFiles,
}

/// A checkpoint whose configs have been read and found supported. Weights are opened by
/// [`weights`](Self::weights).
#[derive(Debug)]
pub struct Checkpoint {
    /// What the user named: `embedded`, the folder, or `owner/name[@revision]`.
    pub id: String,
    /// The pipeline's index.
    pub index: ModelIndex,
    /// The UNet's shape.
    pub unet: UnetConfig,
    /// The autoencoder's shape.
    pub vae: VaeConfig,
    /// The text encoder's shape.
    pub text_encoder: TextEncoderConfig,
    /// The second text encoder's shape and its tokenizer, in SDXL.
    pub second: Option<SecondEncoder>,
    /// The scheduler that the checkpoint was made for.
    pub scheduler: SchedulerConfig,
    /// The tokenizer's files and settings.
    pub tokenizer: TokenizerFiles,
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
    adapters: lora::Changes,
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
            return Err(Error::option(
                "--variant",
                "the embedded checkpoint has one set of weights; leave --variant out",
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
            return Err(Error::option(
                "--config",
                "only a single-file checkpoint takes other configs; leave --config out",
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
                    way_out: "give a folder or a hub id with --model".into(),
                });
            }
            Source::Folder(folder) if folder.is_dir() => Store::Folder(folder.clone()),
            Source::Folder(folder) => return Err(Error::option("--model", format!("no folder {}", folder.display()))),
            Source::Hub { repo, revision, .. } => {
                let repository = hub::Repository { repo, revision: revision.as_deref() };
                let variant = options.changes.variant.as_deref();
                Store::Folder(hub::snapshot(repository, variant, &options.hub, options.progress.clone())?)
            }
        };
        let mut checkpoint = Self::read_configs(store, source.to_string())?;
        let variant = options.changes.variant.as_deref();
        checkpoint.files = weights::part_files(&checkpoint.store, checkpoint.index.parts(), variant)?;
        checkpoint.change(options)?;
        Ok(checkpoint)
    }

    /// Opens a single-file checkpoint.
    fn open_file(path: &Path, source: &Source, options: &OpenOptions) -> Result<Self> {
        if options.changes.variant.is_some() {
            return Err(Error::option("--variant", "a single file has one set of weights; leave --variant out"));
        }
        let single = Single::open(path, options.changes.config.as_deref(), options.changes.prediction.as_deref())?;
        let mut checkpoint = Self::read_configs(single.store.clone(), source.to_string())?;
        checkpoint.index.ignored_parts = single.ignored.clone();
        checkpoint.single = Some(single);
        checkpoint.change(options)?;
        Ok(checkpoint)
    }

    fn change(&mut self, options: &OpenOptions) -> Result<()> {
        let changes = &options.changes;
        if changes.prediction.is_some() {
            self.scheduler.prediction_type.clone_from(&changes.prediction);
            let usual = defaults::usual(&self.index, &self.unet, &self.vae, &self.scheduler);
            self.defaults = defaults::read(&self.store, &self.vae, usual)?;
        }
        let mut adapters = lora::Changes::new();
        for lora in &changes.loras {
            let found = Lora { file: adapter::LORA.find(&lora.file, options)?, ..*lora };
            let (file, warning) = found.changes(self, &mut adapters)?;
            self.warnings.extend(warning);
            self.adapted.push(adapter::fingerprint(&file, lora.weight));
        }
        for embedding in &changes.embeddings {
            let found = Embedding { file: adapter::EMBEDDING.find(&embedding.file, options)?, ..embedding.clone() };
            let (word, file) = found.changes(&mut self.embedding_targets(), &mut adapters)?;
            let word = AddedWord { file: embedding.file.clone(), ..word };
            self.adapted.push(adapter::fingerprint(&file, 1.0));
            if let Some(known) = &mut self.defaults.vocabulary {
                known.push(word.word.clone());
            }
            self.added_words.push(word);
        }
        self.adapters = adapters;
        self.changes = changes.clone();
        Ok(())
    }

    /// The text encoders that embeddings add rows to.
    fn embedding_targets(&mut self) -> Vec<Target<'_>> {
        let second = self.second.as_mut().map(|second| (Part::TextEncoder2.folder(), &mut second.text_encoder));
        [(Part::TextEncoder.folder(), &mut self.text_encoder)]
            .into_iter()
            .chain(second)
            .map(|(folder, config)| {
                // 2 stands for the highest id of a prompt, which would be an added word's: the end
                // token is the vocabulary's last.
                if config.eos_token_id == 2 {
                    config.eos_token_id = config.vocab_size as u32 - 1;
                }
                Target { folder, width: config.hidden_size, vocab_size: &mut config.vocab_size }
            })
            .collect()
    }

    /// Reads every JSON file and checks that the parts fit each other; weights are not looked at.
    fn read_configs(store: Store, id: String) -> Result<Self> {
        let index_file = store.path("model_index.json");
        let Some(index) = store.read("model_index.json")? else { return Err(foreign::no_index(&store)) };
        let index = ModelIndex::from_json(&index, &index_file)?;
        let json = |name: &str, role: &str| Ok::<_, Error>((store.read_required(name, role)?, store.path(name)));

        let (bytes, file) = json("unet/config.json", "the UNet's shape")?;
        let unet = UnetConfig::from_json(&bytes, &file)?;
        let (bytes, file) = json("text_encoder/config.json", "the text encoder's shape")?;
        // The index says which class it is (`CLIPTextModel`), whatever the config once was.
        let text_encoder = TextEncoderConfig { with_projection: false, ..TextEncoderConfig::from_json(&bytes, &file)? };
        let second = match index.parts().contains(&Part::TextEncoder2) {
            true => Some(SecondEncoder::read(&store)?),
            false => None,
        };
        let (bytes, file) = json("vae/config.json", "the autoencoder's shape")?;
        let vae = VaeConfig::from_json(&bytes, &file)?;
        let (bytes, file) = json("scheduler/scheduler_config.json", "the noise schedule")?;
        let scheduler = SchedulerConfig::from_json_as(&bytes, &file, &index.scheduler_class, &index_file)?;
        let tokenizer = read_tokenizer(&store, "tokenizer", text_encoder.max_position_embeddings)?;

        check_conditions(&unet, &text_encoder, second.as_ref())
            .map_err(|reason| Error::Config { file: store.path("unet/config.json"), reason })?;
        // An inpainting UNet is shown a mask and the masked picture's latent too.
        if ![vae.latent_channels, 2 * vae.latent_channels + 1].contains(&unet.in_channels) {
            return Err(Error::Config {
                file: store.path("unet/config.json"),
                reason: format!(
                    "`in_channels` is {}, but the autoencoder's `latent_channels` is {}",
                    unet.in_channels, vae.latent_channels
                ),
            });
        }
        let defaults = defaults::read(&store, &vae, defaults::usual(&index, &unet, &vae, &scheduler))?;
        Ok(Self {
            id,
            index,
            unet,
            vae,
            text_encoder,
            second,
            scheduler,
            tokenizer,
            defaults,
            changes: Changes::default(),
            store,
            files: BTreeMap::new(),
            added_words: Vec::new(),
            warnings: Vec::new(),
            single: None,
            adapters: lora::Changes::new(),
            adapted: Vec::new(),
        })
    }

    /// Opens the weights of `part`.
    ///
    /// # Errors
    /// [`Error::Weights`] for files that are missing, truncated or malformed.
    pub fn weights(&self, part: Part) -> Result<Weights> {
        let weights = match &self.single {
            Some(single) => single.weights(part),
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
            Part::TextEncoder => &self.text_encoder,
            Part::TextEncoder2 => match &self.second {
                Some(second) => &second.text_encoder,
                None => return false,
            },
            Part::Unet | Part::Vae => return starts(&["model_ema.", "ema_model."]),
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
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// The path by which errors name the file `name` (relative, with `/`) of this checkpoint.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.store.path(name)
    }
}

impl SecondEncoder {
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
    second: Option<&SecondEncoder>,
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
                "`projection_class_embeddings_input_dim` is {}, but the second text encoder's projection of {pooled} and {TIME_IDS} \
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
