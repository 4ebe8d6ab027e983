//! Prompts through the text encoder: what the UNet is conditioned on, and what the encoder itself attended to.

use candle_core::{D, DType, IndexOp, Tensor};

use super::{Options, Pipeline};
use crate::model::{Conditioning, Context};
use crate::prompt::{Prompt, Syntax};
use crate::trace::TextAttention;
use crate::{Error, Result};

/// What encoding one prompt gives.
pub(super) struct Encoding {
    /// The states that cross-attention makes keys and values of, `[1, tokens, channels]`.
    pub(super) hidden_states: Tensor,
    /// The encoder's self-attention among the prompt's own tokens, a layer each; empty unless it was asked for.
    attentions: Vec<TextAttention>,
}

impl Pipeline {
    /// Tokens, words and padding of `text`, every character of it text, as the text encoder will see them.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`](crate::prompt::Tokenizer::encode).
    pub fn tokenize(&self, text: &str) -> Result<Prompt> {
        self.tokenizer.encode(text)
    }

    /// As [`tokenize`](Self::tokenize), read by `syntax`.
    ///
    /// # Errors
    /// As [`Tokenizer::read`](crate::prompt::Tokenizer::read).
    pub fn read(&self, text: &str, syntax: Syntax) -> Result<Prompt> {
        self.tokenizer.read(text, syntax)
    }

    /// The prompt of a run with `options`: `text` read by their syntax, in as many chunks as the negative prompt needs.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn prompt(&self, text: &str, options: &Options) -> Result<Prompt> {
        Ok(self.prompts(&self.read(text, options.syntax)?, options)?.0)
    }

    /// What both halves of a run are given: `prompt` and the negative prompt, the shorter one with empty chunks behind it. Without guidance
    /// the negative prompt is not read.
    ///
    /// # Errors
    /// [`Error::Option`] when `prompt` was read by another syntax than that of `options`.
    pub(super) fn prompts(&self, prompt: &Prompt, options: &Options) -> Result<(Prompt, Option<Prompt>)> {
        if prompt.syntax != options.syntax {
            let reason = "the prompt was read by another syntax than the run's; read it with `Pipeline::prompt`";
            return Err(Error::option("--emphasis, --long", reason));
        }
        if !options.guided() {
            return Ok((prompt.clone(), None));
        }
        let negative = self.read(&options.negative, options.syntax)?;
        let chunks = prompt.chunks().len().max(negative.chunks().len());
        Ok((self.tokenizer.padded(prompt, chunks), Some(self.tokenizer.padded(&negative, chunks))))
    }

    /// The text encoder's last hidden states, `[prompts, tokens, channels]`, weighted where the prompts are (see [`Prompt::weights`]). Chunks
    /// of long prompts stand one after the other; what has fewer than another gets empty ones.
    ///
    /// # Errors
    /// When there are no prompts.
    pub fn hidden_states(&self, prompts: &[&Prompt]) -> Result<Tensor> {
        let chunks = prompts.iter().map(|prompt| prompt.chunks().len()).max().unwrap_or(0);
        let prompts: Vec<Prompt> = prompts.iter().map(|prompt| self.tokenizer.padded(prompt, chunks)).collect();
        let states = self.text_encoder.forward(&self.ids(&prompts)?)?.last_hidden_state;
        joined(&states, &prompts)
    }

    /// Keys and values of every site for the whole batch of a run (the negative prompt's rows first where it is guided), and the prompt's
    /// own self-attention in the text encoder.
    pub(super) fn context(&self, prompt: &Prompt, options: &Options) -> Result<(Context, Vec<TextAttention>)> {
        let images = options.seeds.len();
        let (prompt, negative) = self.prompts(prompt, options)?;
        let conditional = self.encode_watched(&prompt)?;
        let mut rows = Vec::with_capacity(2 * images);
        if let Some(negative) = negative {
            rows.extend(std::iter::repeat_n(self.encode(&negative)?.hidden_states, images));
        }
        rows.extend(std::iter::repeat_n(conditional.hidden_states.clone(), images));
        let context = self.unet.prepare(&Conditioning::new(Tensor::cat(&rows, 0)?))?;
        Ok((self.with_probes(context, &conditional.hidden_states, options)?, conditional.attentions))
    }

    /// One prompt's encoding, on the path that forms no probabilities.
    pub(super) fn encode(&self, prompt: &Prompt) -> Result<Encoding> {
        Ok(Encoding { hidden_states: self.hidden_states(&[prompt])?, attentions: Vec::new() })
    }

    /// One prompt's encoding with the encoder's self-attention.
    fn encode_watched(&self, prompt: &Prompt) -> Result<Encoding> {
        let prompts = std::slice::from_ref(prompt);
        let output = self.text_encoder.forward_attentions(&self.ids(prompts)?)?;
        let tokens: Vec<usize> = prompt.keys().iter().map(ExactSizeIterator::len).collect();
        let attention = |layer: &Tensor| TextAttention::from_chunks(layer, &tokens);
        let attentions = output.attentions.iter().map(attention).collect::<Result<_>>()?;
        Ok(Encoding { hidden_states: joined(&output.last_hidden_state, prompts)?, attentions })
    }

    /// The ids of all chunks of `prompts` as `[prompts * chunks, tokens]` where the networks run.
    fn ids(&self, prompts: &[Prompt]) -> Result<Tensor> {
        let rows = prompts.iter().flat_map(|prompt| prompt.chunks()).map(|ids| Tensor::new(ids, &self.options.device));
        Ok(Tensor::stack(&rows.collect::<Result<Vec<_>, _>>()?, 0)?)
    }
}

/// Weighted states `[prompts * chunks, tokens, channels]` of `prompts` with equally many chunks, as `[prompts, chunks * tokens, channels]`.
///
/// Weights are applied as AUTOMATIC1111's web UI does (`modules/sd_emphasis.py`, "Original"): each state is multiplied by its token's weight,
/// then the chunk as a whole by what brings the mean of all its numbers back to where it was. A chunk without weights stays as it is.
fn joined(states: &Tensor, prompts: &[Prompt]) -> Result<Tensor> {
    let (rows, tokens, channels) = states.dims3()?;
    let weighted = if prompts.iter().any(|prompt| !prompt.weights.is_empty()) {
        let ones = vec![1f32; rows * tokens / prompts.len().max(1)];
        let weights: Vec<f32> = prompts
            .iter()
            .flat_map(|prompt| if prompt.weights.is_empty() { &ones } else { &prompt.weights })
            .copied()
            .collect();
        let weights = Tensor::from_vec(weights, (rows, tokens, 1), states.device())?;
        let scaled = states.broadcast_mul(&weights.to_dtype(states.dtype())?)?;
        // The means are near 0 beside the numbers that they are means of.
        let mean =
            |states: &Tensor| states.to_dtype(DType::F64)?.flatten_from(1)?.mean_keepdim(D::Minus1)?.unsqueeze(1);
        let restore = (mean(states)? / mean(&scaled)?)?.to_dtype(states.dtype())?;
        let restored = scaled.broadcast_mul(&restore)?;
        let plain =
            |row: usize| weights.i(row)?.flatten_all()?.to_vec1::<f32>().map(|row| row.iter().all(|&w| w == 1.0));
        let pick = |row| Ok(if plain(row)? { states.i(row)? } else { restored.i(row)? });
        Tensor::stack(&(0..rows).map(pick).collect::<Result<Vec<_>>>()?, 0)?
    } else {
        states.clone()
    };
    Ok(weighted.reshape((prompts.len(), rows * tokens / prompts.len().max(1), channels))?)
}
