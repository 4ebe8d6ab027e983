//! T5 as one of the text encoders of a pipeline, with the tokenizer that belongs to it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use bytesize::ByteSize;
use candle_core::{DType, Device, Tensor};

use super::memory::free_memory;
use super::options::LoadOptions;
use crate::argument::{DTYPE, IGNORE_MEMORY};
use crate::checkpoint::{Checkpoint, DenoiserConfig, T5_TOKENS, T5Config, Weights};
use crate::model::T5;
use crate::prompt::{Joined, Prompt, T5Tokenizer};
use crate::{Error, Result};

/// T5 and its tokenizer.
#[derive(Debug)]
pub(super) struct T5Reader {
    pub(super) tokenizer: T5Tokenizer,
    place: Place,
    /// Tokens of a prompt, padding included.
    length: usize,
}

/// Where the network is.
#[derive(Debug)]
enum Place {
    /// In memory.
    Here(T5),
    /// It left memory once it had read some texts.
    Gone(Gone),
}

/// A network that left memory, and what it made of the texts that it read.
#[derive(Debug)]
struct Gone {
    weights: Weights,
    config: T5Config,
    dtype: DType,
    device: Device,
    ignore_memory: bool,
    /// By the ids: states `[1, tokens, channels]`.
    known: Mutex<HashMap<Vec<u32>, Tensor>>,
}

impl T5Reader {
    /// The checkpoint's, where it has one. With `first` it reads the texts of `options` and leaves.
    pub(super) fn load(checkpoint: &Checkpoint, options: &LoadOptions, first: bool) -> Result<Option<Self>> {
        let Some(t5) = &checkpoint.t5 else { return Ok(None) };
        let tokenizer = T5Tokenizer::new(&t5.tokenizer)?;
        let weights = checkpoint.weights(t5.part)?;
        let model = weights.load(options.dtype, &options.device, |weights| T5::new(&t5.config, weights))?;
        let length = match &checkpoint.denoiser {
            DenoiserConfig::Flux(_) => checkpoint.prompt_tokens(),
            _ => T5_TOKENS,
        };
        if !first {
            return Ok(Some(Self { tokenizer, place: Place::Here(model), length }));
        }
        let mut known = HashMap::new();
        for text in options.texts.iter().map(String::as_str).chain([""]) {
            let ids = tokenizer.encode(text, length)?.ids;
            if let Entry::Vacant(place) = known.entry(ids) {
                let states = read(&model, place.key())?;
                place.insert(states);
            }
        }
        let gone = Gone {
            weights: checkpoint.weights(t5.part)?,
            config: t5.config.clone(),
            dtype: options.dtype,
            device: options.device.clone(),
            ignore_memory: options.ignore_memory,
            known: Mutex::new(known),
        };
        Ok(Some(Self { tokenizer, place: Place::Gone(gone), length }))
    }

    /// `prompt`, which the CLIP encoders read, with T5's reading of the same text behind it.
    pub(super) fn behind(&self, prompt: Prompt) -> Result<Prompt> {
        let own = self.tokenizer.encode(&prompt.text, self.length)?;
        Ok(prompt.with_behind(own))
    }

    /// What T5's tokenizer alone makes of `text`.
    pub(super) fn read(&self, text: &str) -> Result<Prompt> {
        self.tokenizer.encode(text, self.length)
    }

    /// Tokens of a prompt, padding included.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// The states of what stands behind `prompts`, or of themselves where nothing does: f32
    /// `[prompts, tokens, channels]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the network left memory, none of the texts that it read is a
    /// prompt's, and there is no room for it to come back.
    pub(super) fn states(&self, prompts: &[Prompt]) -> Result<Tensor> {
        let row = |prompt: &Prompt| {
            let own = prompt.reading(Joined::Tokens).unwrap_or(prompt);
            match &self.place {
                Place::Here(model) => read(model, &own.ids),
                Place::Gone(gone) => gone.states(&own.ids),
            }
        };
        Ok(Tensor::cat(&prompts.iter().map(row).collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// The states of one prompt, `[1, tokens, channels]`.
fn read(model: &T5, ids: &[u32]) -> Result<Tensor> {
    model.forward(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?)
}

impl Gone {
    fn states(&self, ids: &[u32]) -> Result<Tensor> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(states) = known().get(ids) {
            return Ok(states.clone());
        }
        let needed = self.weights.summary().parameters * self.dtype.size_in_bytes() as u64;
        let free = if self.device.is_cpu() { free_memory() } else { None };
        if let Some(free) = free.filter(|free| *free < needed && !self.ignore_memory) {
            let gigabytes = |bytes: u64| format!("{:.1} GB", ByteSize(bytes).as_gb());
            return Err(Error::Unsupported {
                what: format!(
                    "another text for T5, which needs {} beside the denoiser where {} are free,",
                    gigabytes(needed),
                    gigabytes(free)
                ),
                way_out: format!("take {DTYPE} bf16, or a checkpoint without T5; {IGNORE_MEMORY} tries all the same"),
            });
        }
        let model = T5::new(&self.config, self.weights.var_builder(self.dtype, &self.device))?;
        let states = read(&model, ids)?;
        known().insert(ids.to_vec(), states.clone());
        Ok(states)
    }
}
