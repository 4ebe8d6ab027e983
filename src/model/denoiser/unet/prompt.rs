//! A prompt made ready for the UNet, with the words that its queries are asked about.

use crate::model::layers::KeysValues;
use crate::{Error, Result};
use candle_core::Tensor;

/// A prompt made ready for the UNet: keys and values of every cross-attention. Made once
/// ([`Unet::prepare`](super::Unet::prepare)), used at every step.
#[derive(Debug, Clone)]
pub struct UnetPrompt {
    pub(super) keys_values: Vec<KeysValues>,
    pub(super) key_bias: Option<Tensor>,
    /// Added to the timestep's embedding, `[batch, time_embed_dim]`.
    pub(super) added: Option<Tensor>,
    /// Added to the timestep's waves, `[1, channels]`.
    pub(super) guidance: Option<Tensor>,
    pub(super) batch: usize,
    pub(super) tokens: usize,
    pub(super) probes: Vec<Probe>,
}

/// Other words that a prompt's queries are asked about.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// The prompt's tokens and, last, the probe's.
    pub(super) beside: UnetPrompt,
    /// How many tokens are the probe's.
    pub(super) tokens: usize,
}

impl UnetPrompt {
    /// This prompt with every token's values times its weight in `weights`, f32 `[batch, tokens]`.
    /// A weight of 0 takes a token's term out of every cross-attention's sum. All probabilities
    /// stay as they are.
    ///
    /// # Errors
    /// When `weights` has another shape.
    pub fn weighted(&self, weights: &Tensor) -> Result<Self> {
        let weighted = |known: &KeysValues| known.weighted(weights);
        Ok(Self { keys_values: self.keys_values.iter().map(weighted).collect::<Result<_>>()?, ..self.clone() })
    }

    /// This prompt with other words to ask about. Each entry of `probes` is `(prompt, n)`: a
    /// prepared prompt for the conditional rows, whose keys are the run's prompt followed by the
    /// probe's `n`.
    ///
    /// At each cross-attention that the observer wants, it is also given the attention to the
    /// probe's tokens. It is what the same queries would pay to them among the prompt's. With the
    /// scores `s` of a head and place this is `exp(s_i - logsumexp(s of the prompt's tokens and of
    /// this probe's))`. Each probe competes with the prompt alone and not with other probes. What
    /// the network computes does not depend on them.
    ///
    /// # Errors
    /// When a probe has no token, more than its context has, or more rows than the batch.
    pub fn with_probes(mut self, probes: Vec<(UnetPrompt, usize)>) -> Result<Self> {
        let rows = probes.first().map_or(0, |(beside, _)| beside.batch);
        let fits = |(beside, tokens): &(UnetPrompt, usize)| {
            (1..=beside.tokens).contains(tokens) && beside.batch == rows && rows <= self.batch
        };
        if !probes.iter().all(fits) {
            return Err(Error::bug(format!("probes of other rows or tokens than a batch of {} has", self.batch)));
        }
        self.probes = probes.into_iter().map(|(beside, tokens)| Probe { beside, tokens }).collect();
        Ok(self)
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens of each row: the keys of every cross-attention.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}
