//! T5 as one of the text encoders of a pipeline, with the tokenizer that belongs to it.

use candle_core::Tensor;

use super::options::LoadOptions;
use crate::checkpoint::{Checkpoint, T5_TOKENS};
use crate::model::T5;
use crate::prompt::{Prompt, T5Tokenizer};
use crate::{Error, Result};

/// T5 and its tokenizer.
#[derive(Debug)]
pub(super) struct T5Reader {
    tokenizer: T5Tokenizer,
    model: T5,
}

impl T5Reader {
    /// The checkpoint's, where it has one.
    pub(super) fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Option<Self>> {
        let Some(t5) = &checkpoint.t5 else { return Ok(None) };
        let tokenizer = T5Tokenizer::new(&t5.tokenizer)?;
        let weights = checkpoint.weights(t5.part)?;
        let model = weights.load(options.dtype, &options.device, |weights| T5::new(&t5.config, weights))?;
        Ok(Some(Self { tokenizer, model }))
    }

    /// `prompt`, which the CLIP encoders read, with T5's reading of the same text behind it.
    pub(super) fn behind(&self, prompt: Prompt) -> Result<Prompt> {
        let own = self.tokenizer.encode(&prompt.text, T5_TOKENS)?;
        Ok(prompt.with_behind(own))
    }

    /// The states of what stands behind `prompts`, f32 `[prompts, tokens, channels]`.
    pub(super) fn states(&self, prompts: &[Prompt]) -> Result<Tensor> {
        let row = |prompt: &Prompt| match &prompt.behind {
            Some(own) => Ok(Tensor::new(own.ids.as_slice(), &candle_core::Device::Cpu)?),
            None => Err(Error::bug("a prompt that T5's tokenizer has not read")),
        };
        let ids = Tensor::stack(&prompts.iter().map(row).collect::<Result<Vec<_>>>()?, 0)?;
        self.model.forward(&ids)
    }
}
