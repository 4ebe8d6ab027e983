//! Qwen3 as the text encoder of a pipeline, with the tokenizer that belongs to it.

use candle_core::{DType, Tensor};

use super::options::LoadOptions;
use crate::checkpoint::{Checkpoint, Part};
use crate::model::Qwen3;
use crate::prompt::{Prompt, QwenTokenizer};
use crate::{Error, Result};

/// Qwen3 and its tokenizer.
#[derive(Debug)]
pub(super) struct QwenReader {
    pub(super) tokenizer: QwenTokenizer,
    model: Qwen3,
}

impl QwenReader {
    /// The checkpoint's, where it has one.
    pub(super) fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Option<Self>> {
        let Some(qwen) = &checkpoint.qwen else { return Ok(None) };
        let tokenizer = QwenTokenizer::new(&qwen.tokenizer)?;
        let weights = checkpoint.weights(Part::TextEncoder)?;
        // candle multiplies no bf16 on a CPU.
        let dtype = if options.device.is_cpu() { DType::F32 } else { options.dtype };
        let model = weights.load(dtype, &options.device, |weights| Qwen3::new(&qwen.config, weights))?;
        Ok(Some(Self { tokenizer, model }))
    }

    /// The states of `prompts`, f32 `[prompts, tokens, channels]`, filled up with zeros to the
    /// longest, and how many tokens each has.
    pub(super) fn states(&self, prompts: &[Prompt]) -> Result<(Tensor, Vec<usize>)> {
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.ids.len()).collect();
        let most = lengths.iter().copied().max().ok_or_else(|| Error::bug("no prompt"))?;
        let row = |prompt: &Prompt| -> Result<Tensor> {
            let states = self.model.forward(&prompt.ids)?;
            Ok(states.pad_with_zeros(1, 0, most - prompt.ids.len())?)
        };
        let rows = prompts.iter().map(row).collect::<Result<Vec<_>>>()?;
        Ok((Tensor::cat(&rows, 0)?, lengths))
    }
}
