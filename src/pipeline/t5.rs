//! T5 as one of the text encoders of a pipeline, with the tokenizer that belongs to it.

use candle_core::Tensor;

use super::options::LoadOptions;
use crate::Result;
use crate::checkpoint::{Checkpoint, DenoiserConfig, T5_TOKENS};
use crate::model::T5;
use crate::prompt::{Prompt, T5Tokenizer};

/// T5 and its tokenizer.
#[derive(Debug)]
pub(super) struct T5Reader {
    pub(super) tokenizer: T5Tokenizer,
    model: T5,
    /// Tokens of a prompt, padding included.
    length: usize,
}

impl T5Reader {
    /// The checkpoint's, where it has one.
    pub(super) fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Option<Self>> {
        let Some(t5) = &checkpoint.t5 else { return Ok(None) };
        let tokenizer = T5Tokenizer::new(&t5.tokenizer)?;
        let weights = checkpoint.weights(t5.part)?;
        let model = weights.load(options.dtype, &options.device, |weights| T5::new(&t5.config, weights))?;
        let length = match &checkpoint.denoiser {
            DenoiserConfig::Flux(_) => checkpoint.prompt_tokens(),
            _ => T5_TOKENS,
        };
        Ok(Some(Self { tokenizer, model, length }))
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
    pub(super) fn states(&self, prompts: &[Prompt]) -> Result<Tensor> {
        let row = |prompt: &Prompt| {
            let own = prompt.behind.as_deref().unwrap_or(prompt);
            Ok(Tensor::new(own.ids.as_slice(), &candle_core::Device::Cpu)?)
        };
        let ids = Tensor::stack(&prompts.iter().map(row).collect::<Result<Vec<_>>>()?, 0)?;
        self.model.forward(&ids)
    }
}
