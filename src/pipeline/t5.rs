//! T5 as one of the text encoders of a pipeline, with the tokenizer that belongs to it.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use super::leaving::{IdsOf, PromptEncoder, Residence};
use super::options::LoadOptions;
use crate::Result;
use crate::checkpoint::{Checkpoint, DenoiserConfig, Quantised, T5_TOKENS, T5Config};
use crate::model::T5;
use crate::prompt::{Joined, Prompt, T5Tokenizer};

/// T5 and its tokenizer.
#[derive(Debug)]
pub(super) struct T5Reader {
    pub(super) tokenizer: T5Tokenizer,
    place: Residence<T5>,
    /// Tokens of a prompt, padding included.
    length: usize,
}

impl PromptEncoder for T5 {
    const NAME: &'static str = "T5";
    type Config = T5Config;

    const KEEPS_BLOCKS: bool = true;

    fn build(config: &T5Config, weights: VarBuilder, quantised: Option<Quantised>) -> Result<Self> {
        match quantised {
            Some(quantised) => Self::with_blocks(config, weights, quantised),
            None => Self::new(config, weights),
        }
    }

    fn read(&self, ids: &[u32]) -> Result<Tensor> {
        self.forward(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?)
    }
}

impl T5Reader {
    /// The checkpoint's, where it has one. With `first` it reads the texts of `options` and leaves.
    pub(super) fn load(checkpoint: &Checkpoint, options: &LoadOptions, first: bool) -> Result<Option<Self>> {
        let Some(t5) = &checkpoint.t5 else { return Ok(None) };
        let tokenizer = T5Tokenizer::new(&t5.tokenizer)?;
        let length = match &checkpoint.denoiser {
            DenoiserConfig::Flux(_) => checkpoint.prompt_tokens(),
            _ => T5_TOKENS,
        };
        let ids_of = |text: &str| -> Result<Vec<u32>> { Ok(tokenizer.encode(text, length)?.ids) };
        let first = first.then_some(&ids_of as IdsOf);
        let place = Residence::load(checkpoint, t5.part, &t5.config, options.dtype, options, first)?;
        Ok(Some(Self { tokenizer, place, length }))
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
    /// As [`Residence::states`].
    pub(super) fn states(&self, prompts: &[Prompt]) -> Result<Tensor> {
        let row = |prompt: &Prompt| self.place.states(&prompt.reading(Joined::Tokens).unwrap_or(prompt).ids);
        Ok(Tensor::cat(&prompts.iter().map(row).collect::<Result<Vec<_>>>()?, 0)?)
    }
}
