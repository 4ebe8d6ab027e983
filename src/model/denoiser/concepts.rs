//! Words that read the image beside the prompt and are not read: the concepts of ConceptAttention
//! (Helbling et al. 2025, arXiv 2502.04320).
//!
//! A concept goes through the text's layers. Its queries attend to the image and to all concepts;
//! nothing attends to it, so that the image does not know of it. Its map is the dot product of what
//! it saw and what each place saw, both before the output's projection.

use crate::model::layers::JointAttention;
use crate::{Error, Result};
use candle_core::{D, DType, Tensor};

/// Concepts made ready for a transformer.
#[derive(Debug, Clone)]
pub(super) struct Concepts {
    /// First hidden states of all concepts' tokens, one concept after the other, `[1, tokens,
    /// width]`.
    pub(super) states: Tensor,
    /// `[concepts, tokens]`, f32: what each token counts in its concept; rows sum to 1.
    shares: Tensor,
    /// Rows of the batch that have them: the last ones.
    pub(super) rows: usize,
    /// Whether a concept's output is brought to length 1 first.
    unit: bool,
}

/// What the concepts saw at one attention.
pub(super) struct Seen {
    /// `[rows, tokens, width]`, before the output's projection.
    pub(super) output: Tensor,
    /// f32 `[rows, concepts, cells]`.
    pub(super) scores: Tensor,
}

impl Concepts {
    /// Of prompts that each hold one concept, with first hidden `states` `[concepts, keys, width]`
    /// and the positions of its tokens. They are asked of the last `rows` rows of a batch.
    ///
    /// # Errors
    /// When a concept has no token, or one that is not there.
    pub(super) fn new(states: &Tensor, tokens: &[Vec<usize>], rows: usize, unit: bool) -> Result<Self> {
        let count: usize = tokens.iter().map(Vec::len).sum();
        let keys = states.dim(1)?;
        let fits = |own: &Vec<usize>| !own.is_empty() && own.iter().all(|&token| token < keys);
        if tokens.is_empty() || tokens.len() != states.dim(0)? || !tokens.iter().all(fits) {
            return Err(Error::bug(format!("concepts of tokens {tokens:?} in states of {:?}", states.dims())));
        }
        let mut shares = vec![0f32; tokens.len() * count];
        let (mut own_states, mut first) = (Vec::with_capacity(count), 0);
        for (concept, own) in tokens.iter().enumerate() {
            for &token in own {
                own_states.push(states.narrow(0, concept, 1)?.narrow(1, token, 1)?);
            }
            shares[concept * count + first..][..own.len()].fill(1.0 / own.len() as f32);
            first += own.len();
        }
        let shares = Tensor::from_vec(shares, (tokens.len(), count), states.device())?;
        Ok(Self { states: Tensor::cat(&own_states, 1)?, shares, rows, unit })
    }

    /// The first hidden states for each row, `[rows, tokens, width]`.
    pub(super) fn first(&self) -> Result<Tensor> {
        Ok(Tensor::cat(&vec![&self.states; self.rows], 0)?)
    }

    /// The last rows of `x` `[batch, ..]`, those that have concepts; all of them where it has one.
    pub(super) fn rows_of(&self, x: &Tensor) -> Result<Tensor> {
        let batch = x.dim(0)?;
        Ok(if batch <= self.rows { x.clone() } else { x.narrow(0, batch - self.rows, self.rows)?.contiguous()? })
    }

    /// What the concepts see, whose `[queries, keys, values]` are `[rows, tokens, width]`, of
    /// themselves and of the image. `image` is the keys, the values and the outputs of its places
    /// in the whole batch, `[batch, cells, width]` each.
    pub(super) fn attend(
        &self,
        attention: &JointAttention,
        [queries, keys, values]: [&Tensor; 3],
        image: [&Tensor; 3],
    ) -> Result<Seen> {
        let [image_keys, image_values, image_seen] = image;
        let keys = Tensor::cat(&[keys, &self.rows_of(image_keys)?], 1)?;
        let values = Tensor::cat(&[values, &self.rows_of(image_values)?], 1)?;
        let keys = attention.keys(&keys, &values)?;
        let output = attention.attend(&queries.contiguous()?, &keys, None, None)?;
        let wide = output.to_dtype(DType::F32)?;
        let shares =
            self.shares.unsqueeze(0)?.broadcast_as((wide.dim(0)?, self.shares.dim(0)?, self.shares.dim(1)?))?;
        let mut vectors = shares.contiguous()?.matmul(&wide)?;
        if self.unit {
            let length = vectors.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
            vectors = vectors.broadcast_div(&(length + 1e-8)?)?;
        }
        let places = self.rows_of(image_seen)?.to_dtype(DType::F32)?;
        let scores = vectors.matmul(&places.t()?.contiguous()?)?;
        Ok(Seen { output, scores })
    }
}
