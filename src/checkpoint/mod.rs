//! Where weights and configs come from: embedded, a diffusers folder, a single file, or the hub.
//!
//! [`Checkpoint::open`] reads every JSON file and refuses what cannot be run before a single weight is touched;
//! [`Checkpoint::weights`] then gives one part's tensors as a candle `VarBuilder`.

mod changes;
mod config;
mod defaults;
mod describe;
mod embedding;
mod foreign;
mod hub;
mod lora;
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
pub use describe::{Description, PartDescription};
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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Store;
use weights::WeightFile;

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
    /// `done` of `total` bytes of `file` have arrived; `done == total` once at its end. `total` is 0 where unknown.
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

/// A checkpoint whose configs have been read and found supported. Weights are opened by [`weights`](Self::weights).
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
    store: Store,
    variant: Option<String>,
    /// Where the weights are, if all of them are in one file.
    single: Option<Single>,
    /// What adapters change of the weights.
    adapters: lora::Changes,
    /// Digests of the adapters' files and how strongly they are applied.
    adapted: Vec<Vec<u8>>,
}

impl Checkpoint {
    /// Opens the checkpoint that `source` names: reads and checks all configs, and finds the weight files.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Unsupported`], [`Error::Weights`] or [`Error::Hub`], each naming file, field and the
    /// way out.
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
                return Self::open_file(&path.map_err(|error| not_here(error, &source.to_string()))?, source, options);
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
        let mut checkpoint = Self::read_configs(store, source.to_string(), options.changes.variant.clone())?;
        checkpoint.change(options)?;
        for &part in checkpoint.index.parts() {
            weights::weight_files(&checkpoint.store, part, checkpoint.variant.as_deref())?;
        }
        Ok(checkpoint)
    }

    /// Opens a single-file checkpoint.
    fn open_file(path: &Path, source: &Source, options: &OpenOptions) -> Result<Self> {
        if options.changes.variant.is_some() {
            return Err(Error::option("--variant", "a single file has one set of weights; leave --variant out"));
        }
        let single = Single::open(path, options.changes.config.as_deref(), options.changes.prediction.as_deref())?;
        let mut checkpoint = Self::read_configs(single.store.clone(), source.to_string(), None)?;
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
            let found = Lora { file: adapter_path(&lora.file, options)?, ..*lora };
            let file = found.changes(self, &mut adapters)?;
            self.adapted.push(fingerprint(&file, lora.weight));
        }
        for embedding in &changes.embeddings {
            let found = Embedding { file: adapter_path(&embedding.file, options)?, ..embedding.clone() };
            let (word, file) = found.changes(&mut self.embedding_targets(), &mut adapters)?;
            self.adapted.push(fingerprint(&file, 1.0));
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
                // 2 stands for the highest id of a prompt, which would be an added word's: the end token is the vocabulary's last.
                if config.eos_token_id == 2 {
                    config.eos_token_id = config.vocab_size as u32 - 1;
                }
                Target { folder, width: config.hidden_size, vocab_size: &mut config.vocab_size }
            })
            .collect()
    }

    /// Reads every JSON file and checks that the parts fit each other; weights are not looked at.
    fn read_configs(store: Store, id: String, variant: Option<String>) -> Result<Self> {
        let Some(index) = store.read("model_index.json")? else { return Err(foreign::no_index(&store)) };
        let index = ModelIndex::from_json(&index, &store.path("model_index.json"))?;
        let json = |name: &str, role: &str| Ok::<_, Error>((store.read_required(name, role)?, store.path(name)));

        let (bytes, file) = json("unet/config.json", "the UNet's shape")?;
        let unet = UnetConfig::from_json(&bytes, &file)?;
        let (bytes, file) = json("text_encoder/config.json", "the text encoder's shape")?;
        let text_encoder = TextEncoderConfig::from_json(&bytes, &file)?;
        let second = match index.parts().contains(&Part::TextEncoder2) {
            true => Some(SecondEncoder::read(&store)?),
            false => None,
        };
        let (bytes, file) = json("vae/config.json", "the autoencoder's shape")?;
        let vae = VaeConfig::from_json(&bytes, &file)?;
        let (bytes, file) = json("scheduler/scheduler_config.json", "the noise schedule")?;
        let scheduler = SchedulerConfig::from_json(&bytes, &file)?;
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
            variant,
            added_words: Vec::new(),
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
            None => Weights::open(&self.store, part, self.variant.as_deref())?,
        };
        Ok(match self.adapters.get(part.folder()) {
            Some(changes) => weights.changed(changes.clone()),
            None => weights,
        })
    }

    /// Sixteen hexadecimal digits that tell checkpoints apart: SHA-256 over names, types, shapes and a few sampled
    /// bytes of every tensor, adapters included. It is cheap (a few pages per tensor are read) and no guard against forgery.
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

/// The file that the user names by `path`: itself, or, where that is not there, one of a repository on the hub, fetched if need be.
fn adapter_path(path: &Path, options: &OpenOptions) -> Result<PathBuf> {
    let named = path.to_str().filter(|_| !path.is_file());
    let Some((text, file)) = named.and_then(|text| Some((text, source::HubFile::parse(text)?))) else {
        return Ok(path.to_path_buf());
    };
    let repository = hub::Repository { repo: &file.repo, revision: file.revision.as_deref() };
    hub::file(repository, &file.file, &options.hub, options.progress.clone()).map_err(|error| not_here(error, text))
}

/// Adds that what could not be had from the hub is not on disk either: a path may have been meant.
fn not_here(error: Error, path: &str) -> Error {
    match error {
        Error::Hub { repo, reason } => {
            Error::Hub { repo, reason: format!("{reason} (nor is there a file {path} here)") }
        }
        other => other,
    }
}

/// Maps a small file that the user gives with `option` to change a checkpoint.
fn adapter_file(path: &Path, option: &str) -> Result<Arc<WeightFile>> {
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default().to_ascii_lowercase();
    if source::PICKLES.contains(&kind.as_str()) {
        return Err(Error::option(option, source::pickle(&path.display().to_string())));
    }
    if !path.is_file() {
        return Err(Error::option(option, format!("no file {}", path.display())));
    }
    let folder = Store::Folder(path.parent().unwrap_or(Path::new("")).into());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Arc::new(WeightFile::open(&folder, &name)?))
}

/// What tells adapters apart in a digest.
fn fingerprint(file: &WeightFile, weight: f64) -> Vec<u8> {
    let mut hash = Sha256::new();
    file.fingerprint(file.names(), &mut |bytes| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    });
    hash.update(weight.to_le_bytes());
    hash.finalize().to_vec()
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

/// Numbers in SDXL's size condition: height and width of the original, top and left of the crop, height and width of the target.
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
