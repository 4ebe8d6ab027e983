//! Prompts through the text encoder: what the UNet is conditioned on, and what the encoder itself attended to.

use candle_core::{IndexOp, Tensor};

use super::{Options, Pipeline};
use crate::Result;
use crate::model::{Conditioning, Context};
use crate::prompt::Prompt;
use crate::trace::TextAttention;

/// What encoding one prompt gives.
pub(super) struct Encoding {
    /// The states that cross-attention makes keys and values of, `[1, tokens, channels]`.
    pub(super) hidden_states: Tensor,
    /// The encoder's self-attention among the prompt's own tokens, a layer each; empty unless it was asked for.
    attentions: Vec<TextAttention>,
}

impl Pipeline {
    /// The text encoder's last hidden states for prompts given as padded token ids: `[prompts, tokens, channels]`.
    ///
    /// # Errors
    /// When the rows differ in length, or there are none.
    pub fn hidden_states(&self, ids: &[&[u32]]) -> Result<Tensor> {
        Ok(self.text_encoder.forward(&self.ids(ids)?)?.last_hidden_state)
    }

    /// Keys and values of every site for the whole batch of a run (the negative prompt's rows first where it is `guided`), and the
    /// prompt's own self-attention in the text encoder.
    pub(super) fn context(
        &self,
        prompt: &Prompt,
        options: &Options,
        guided: bool,
    ) -> Result<(Context, Vec<TextAttention>)> {
        let images = options.seeds.len();
        let conditional = self.encode_watched(prompt)?;
        let mut rows = Vec::with_capacity(2 * images);
        if guided {
            let negative = self.encode(&self.tokenize(&options.negative)?)?;
            rows.extend(std::iter::repeat_n(negative.hidden_states, images));
        }
        rows.extend(std::iter::repeat_n(conditional.hidden_states.clone(), images));
        let context = self.unet.prepare(&Conditioning::new(Tensor::cat(&rows, 0)?))?;
        Ok((self.with_probes(context, &conditional.hidden_states, options)?, conditional.attentions))
    }

    /// One prompt's encoding, on the path that forms no probabilities.
    pub(super) fn encode(&self, prompt: &Prompt) -> Result<Encoding> {
        Ok(Encoding { hidden_states: self.hidden_states(&[&prompt.ids])?, attentions: Vec::new() })
    }

    /// One prompt's encoding with the encoder's self-attention.
    fn encode_watched(&self, prompt: &Prompt) -> Result<Encoding> {
        let output = self.text_encoder.forward_attentions(&self.ids(&[&prompt.ids])?)?;
        let attention = |layer: &Tensor| TextAttention::from_layer(&layer.i(0)?, prompt.tokens.len());
        let attentions = output.attentions.iter().map(attention).collect::<Result<_>>()?;
        Ok(Encoding { hidden_states: output.last_hidden_state, attentions })
    }

    /// Rows of token ids as `[rows, tokens]` where the networks run.
    fn ids(&self, rows: &[&[u32]]) -> Result<Tensor> {
        let rows = rows.iter().map(|ids| Tensor::new(*ids, &self.options.device)).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::stack(&rows, 0)?)
    }
}
