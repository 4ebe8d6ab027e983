//! Qwen3 as the text encoder of a pipeline, with the tokenizer that belongs to it.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::leaving::{IdsOf, PromptEncoder, Residence};
use super::options::LoadOptions;
use crate::checkpoint::{Checkpoint, Part, Quantised, Qwen3Config};
use crate::model::Qwen3;
use crate::prompt::{Prompt, QwenTokenizer};
use crate::{Error, Result};

/// Tokens of a prompt in Z-Image, the chat template's among them: `max_sequence_length` of its
/// pipeline in diffusers.
pub(super) const QWEN_TOKENS: usize = 512;

/// Qwen3 and its tokenizer.
#[derive(Debug)]
pub(super) struct QwenReader {
    pub(super) tokenizer: QwenTokenizer,
    place: Residence<Qwen3>,
}

impl PromptEncoder for Qwen3 {
    const NAME: &'static str = "Qwen3";
    type Config = Qwen3Config;

    const KEEPS_BLOCKS: bool = false;

    fn build(config: &Qwen3Config, weights: VarBuilder, _: Option<Quantised>) -> Result<Self> {
        Self::new(config, weights)
    }

    fn read(&self, ids: &[u32]) -> Result<Tensor> {
        self.forward(ids)
    }
}

impl QwenReader {
    /// The checkpoint's, where it has one. With `first` it reads the texts of `options` and leaves.
    pub(super) fn load(checkpoint: &Checkpoint, options: &LoadOptions, first: bool) -> Result<Option<Self>> {
        let Some(qwen) = &checkpoint.qwen else { return Ok(None) };
        let tokenizer = QwenTokenizer::new(&qwen.tokenizer)?;
        // candle multiplies no bf16 on a CPU.
        let dtype = if options.device.is_cpu() { DType::F32 } else { options.dtype };
        let ids_of = |text: &str| -> Result<Vec<u32>> { Ok(tokenizer.encode(text, QWEN_TOKENS)?.ids) };
        let first = first.then_some(&ids_of as IdsOf);
        let place = Residence::load(checkpoint, Part::TextEncoder, &qwen.config, dtype, options, first)?;
        Ok(Some(Self { tokenizer, place }))
    }

    /// The states of `prompts`, f32 `[prompts, tokens, channels]`, filled up with zeros to the
    /// longest, and how many tokens each has.
    ///
    /// # Errors
    /// As [`Residence::states`].
    pub(super) fn states(&self, prompts: &[Prompt]) -> Result<(Tensor, Vec<usize>)> {
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.ids.len()).collect();
        let most = lengths.iter().copied().max().ok_or_else(|| Error::bug("no prompt"))?;
        let row = |prompt: &Prompt| -> Result<Tensor> {
            let states = self.place.states(&prompt.ids)?;
            Ok(states.pad_with_zeros(1, 0, most - prompt.ids.len())?)
        };
        let rows = prompts.iter().map(row).collect::<Result<Vec<_>>>()?;
        Ok((Tensor::cat(&rows, 0)?, lengths))
    }
}
