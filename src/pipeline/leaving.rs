//! A large text encoder of a pipeline: in memory, or gone from it once it has read what is known of
//! the prompts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::free::free_memory;
use super::options::LoadOptions;
use crate::argument::{DTYPE, IGNORE_MEMORY};
use crate::checkpoint::{Checkpoint, Part, Quantised, Weights};
use crate::figures::gigabytes;
use crate::{Error, Result};

/// A text encoder that reads one prompt at a time.
pub(super) trait PromptEncoder: Sized {
    /// What it is called in messages.
    const NAME: &'static str;
    /// What its network is built from beside weights.
    type Config: Clone + fmt::Debug;

    /// Whether weights in blocks of quantised numbers stay so in the network.
    const KEEPS_BLOCKS: bool;

    /// The network with the weights that `weights` holds. Where it keeps blocks, and there are
    /// some, they are in `quantised`.
    fn build(config: &Self::Config, weights: VarBuilder, quantised: Option<Quantised>) -> Result<Self>;

    /// The states of one prompt, f32 `[1, tokens, channels]`.
    fn read(&self, ids: &[u32]) -> Result<Tensor>;
}

/// What a tokenizer makes of a text.
pub(super) type IdsOf<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>>;

/// Where a text encoder is.
#[derive(Debug)]
pub(super) enum Residence<E: PromptEncoder> {
    /// In memory.
    Here(E),
    /// It left memory once it had read some texts.
    Gone(Gone<E::Config>),
}

/// A text encoder that left memory, and what it made of the texts that it read.
#[derive(Debug)]
pub(super) struct Gone<C> {
    weights: Weights,
    config: C,
    dtype: DType,
    device: Device,
    ignore_memory: bool,
    /// By the ids: states `[1, tokens, channels]`.
    known: Mutex<HashMap<Vec<u32>, Tensor>>,
}

impl<E: PromptEncoder> Residence<E> {
    /// The encoder in `part` of `checkpoint`, its weights as `dtype`. With `first` it reads the
    /// texts of `options` and the empty one, and leaves.
    ///
    /// # Errors
    /// When a weight is missing or of another shape.
    pub(super) fn load(
        checkpoint: &Checkpoint,
        part: Part,
        config: &E::Config,
        dtype: DType,
        options: &LoadOptions,
        first: Option<IdsOf>,
    ) -> Result<Self> {
        let weights = checkpoint.weights(part)?;
        let blocks = E::KEEPS_BLOCKS && weights.is_quantised();
        let encoder = weights.load_quantised(dtype, &options.device, |weights, quantised| {
            E::build(config, weights, blocks.then_some(quantised))
        })?;
        let Some(ids_of) = first else { return Ok(Self::Here(encoder)) };
        let mut known = HashMap::new();
        for text in options.texts.iter().map(String::as_str).chain([""]) {
            if let Entry::Vacant(place) = known.entry(ids_of(text)?) {
                let states = encoder.read(place.key())?;
                place.insert(states);
            }
        }
        Ok(Self::Gone(Gone {
            weights: checkpoint.weights(part)?,
            config: config.clone(),
            dtype,
            device: options.device.clone(),
            ignore_memory: options.ignore_memory,
            known: Mutex::new(known),
        }))
    }

    /// The states of one prompt, f32 `[1, tokens, channels]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the encoder left memory and has no room to come back, and none
    /// of the texts that it read has these `ids`.
    pub(super) fn states(&self, ids: &[u32]) -> Result<Tensor> {
        let gone = match self {
            Self::Here(encoder) => return encoder.read(ids),
            Self::Gone(gone) => gone,
        };
        let known = || gone.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(states) = known().get(ids) {
            return Ok(states.clone());
        }
        let blocks = E::KEEPS_BLOCKS && gone.weights.is_quantised();
        let needed = gone.weights.bytes_in_memory(gone.dtype, blocks);
        let free = if gone.device.is_cpu() { free_memory() } else { None };
        if let Some(free) = free.filter(|free| *free < needed && !gone.ignore_memory) {
            return Err(Error::Unsupported {
                what: format!(
                    "another text for {}, which needs {} beside the denoiser where {} are free,",
                    E::NAME,
                    gigabytes(needed),
                    gigabytes(free)
                ),
                way_out: format!("take {DTYPE} bf16, or a smaller checkpoint; {IGNORE_MEMORY} tries all the same"),
            });
        }
        let weights = gone.weights.var_builder(gone.dtype, &gone.device);
        let encoder = E::build(&gone.config, weights, blocks.then(|| gone.weights.quantised()))?;
        let states = encoder.read(ids)?;
        known().insert(ids.to_vec(), states.clone());
        Ok(states)
    }
}
