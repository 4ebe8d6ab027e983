//! A prompt made ready for the transformer.

use super::super::concepts::Concepts;
use super::super::conditioning::value_weights;
use crate::Result;
use candle_core::Tensor;

/// A prompt made ready for [`Flux`](super::Flux): the text's first hidden states. Its keys change
/// from block to block and from step to step.
#[derive(Debug, Clone)]
pub struct FluxPrompt {
    /// `[batch, tokens, width]`
    pub(super) states: Tensor,
    /// Added to the timestep's embedding, `[batch, width]`: pooled prompt and guidance.
    pub(super) told: Tensor,
    /// Added to the scores of the text's keys, f32 `[batch, tokens]`.
    pub(super) key_bias: Option<Tensor>,
    /// What the values of the text's keys are multiplied by, `[batch, tokens, 1]`.
    pub(super) value_weights: Option<Tensor>,
    /// Concepts, and what they are told in place of [`told`](Self::told), `[1, width]`.
    pub(super) concepts: Option<(Concepts, Tensor)>,
    pub(super) batch: usize,
    pub(super) tokens: usize,
}

impl FluxPrompt {
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

    /// This prompt with concepts; see
    /// [`PreparedPrompt::with_concepts`](super::super::PreparedPrompt::with_concepts). They are
    /// told what `concepts` is, for which the authors' code takes a pooled prompt of zeros. They go
    /// through the blocks of two streams alone.
    ///
    /// # Errors
    /// As there.
    pub fn with_concepts(self, concepts: &Self, tokens: &[Vec<usize>], rows: usize) -> Result<Self> {
        let told = concepts.told.narrow(0, 0, 1)?;
        Ok(Self { concepts: Some((Concepts::new(&concepts.states, tokens, rows, false)?, told)), ..self })
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
