//! A prompt made ready for the transformer.

use super::super::concepts::Concepts;
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
    /// Concepts, and the places of their tokens.
    pub(super) concepts: Option<(Concepts, Vec<[u32; 3]>)>,
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

    /// This prompt with concepts; see
    /// [`PreparedPrompt::with_concepts`](super::super::PreparedPrompt::with_concepts). Each stands
    /// where it stands in a prompt of its own. ConceptAttention is not published for this network.
    ///
    /// # Errors
    /// As there.
    pub fn with_concepts(self, concepts: &Self, tokens: &[Vec<usize>], rows: usize) -> Result<Self> {
        let places = tokens.iter().flatten().map(|&token| [token as u32 + 1, 0, 0]).collect();
        Ok(Self { concepts: Some((Concepts::new(&concepts.states, tokens, rows, false)?, places)), ..self })
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
