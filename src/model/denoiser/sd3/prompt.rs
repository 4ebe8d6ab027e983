//! A prompt made ready for the transformer.

use super::super::concepts::Concepts;
use super::super::conditioning::value_weights;
use crate::Result;
use candle_core::Tensor;

/// A prompt made ready for [`Sd3`](super::Sd3): the text's first hidden states. Its keys change
/// from block to block and from step to step.
#[derive(Debug, Clone)]
pub struct Sd3Prompt {
    /// `[batch, tokens, width]`
    pub(super) states: Tensor,
    /// Added to the timestep's embedding, `[batch, width]`.
    pub(super) pooled: Tensor,
    /// Added to the scores of the text's keys, f32 `[batch, tokens]`.
    pub(super) key_bias: Option<Tensor>,
    /// What the values of the text's keys are multiplied by, f32 `[batch, tokens, 1]`.
    pub(super) value_weights: Option<Tensor>,
    pub(super) concepts: Option<Concepts>,
    pub(super) batch: usize,
    pub(super) tokens: usize,
}

impl Sd3Prompt {
    /// This prompt with every token's values times its weight in `weights`, f32 `[batch, tokens]`,
    /// in every joint attention, for image and text alike. The probabilities of the first block
    /// stay as they are; those of later ones follow what the text has become.
    ///
    /// # Errors
    /// When `weights` has another shape.
    pub fn weighted(&self, weights: &Tensor) -> Result<Self> {
        let shape = [self.batch, self.tokens];
        let value_weights = Some(value_weights(self.value_weights.as_ref(), weights, shape, &self.states)?);
        Ok(Self { value_weights, ..self.clone() })
    }

    /// This prompt with concepts; see
    /// [`PreparedPrompt::with_concepts`](super::super::PreparedPrompt::with_concepts). They are
    /// told the prompt's own pooled states, and their outputs are brought to length 1, as in the
    /// authors' code for Stable Diffusion 3.
    ///
    /// # Errors
    /// As there.
    pub fn with_concepts(self, concepts: &Self, tokens: &[Vec<usize>], rows: usize) -> Result<Self> {
        Ok(Self { concepts: Some(Concepts::new(&concepts.states, tokens, rows, true)?), ..self })
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Text tokens of each row.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}
