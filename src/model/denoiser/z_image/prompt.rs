//! A prompt made ready for the transformer.

use super::super::conditioning::value_weights;
use crate::Result;
use candle_core::Tensor;

/// A prompt made ready for [`ZImage`](super::ZImage): the text behind its own blocks. Its keys
/// change from block to block and from step to step.
#[derive(Debug, Clone)]
pub struct ZImagePrompt {
    /// `[batch, tokens, dim]`; a row ends where [`padded`](Self::padded) says.
    pub(super) states: Tensor,
    /// Tokens of each row, with those that fill it up.
    pub(super) padded: Vec<usize>,
    /// Added to the scores of the text's keys, f32 `[batch, tokens]`.
    pub(super) key_bias: Option<Tensor>,
    /// What the values of the text's keys are multiplied by, `[batch, tokens, 1]`.
    pub(super) value_weights: Option<Tensor>,
    pub(super) batch: usize,
    pub(super) tokens: usize,
}

impl ZImagePrompt {
    /// This prompt with every token's values times its weight in `weights`, f32 `[batch, tokens]`,
    /// in every attention, for image and text alike. The probabilities of the first block stay as
    /// they are; those of later ones follow what the text has become.
    ///
    /// # Errors
    /// When `weights` has another shape.
    pub fn weighted(&self, weights: &Tensor) -> Result<Self> {
        let shape = [self.batch, self.tokens];
        let value_weights = Some(value_weights(self.value_weights.as_ref(), weights, shape, &self.states)?);
        Ok(Self { value_weights, ..self.clone() })
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Text tokens of the longest row, with those that fill it up.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}
