//! Where attention happens ([`Site`]) and who is told about it ([`AttentionObserver`]).

use crate::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// The third of the UNet that a site lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// `down_blocks.*`
    Down,
    /// `mid_block`
    Mid,
    /// `up_blocks.*`
    Up,
}

/// What the queries of a site attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attends {
    /// The prompt's tokens (`attn2` in diffusers).
    Prompt,
    /// The site's own grid (`attn1` in diffusers).
    Itself,
}

/// One attention layer of the UNet at one size of the latent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Site {
    /// The diffusers weight path, e.g. `down_blocks.0.attentions.1.transformer_blocks.0.attn2`.
    pub path: String,
    /// Which third of the network.
    pub stage: Stage,
    /// Prompt (cross-attention) or the grid itself (self-attention).
    pub attends: Attends,
    /// Position in network order, counted over the sites of the same kind.
    pub index: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Rows of the site grid.
    pub height: usize,
    /// Columns of the site grid.
    pub width: usize,
}

/// The denoising step that the following observations belong to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// 0-based UNet call; PNDM makes one call more than it was asked steps.
    pub index: usize,
    /// Number of UNet calls in the run.
    pub count: usize,
    /// The scheduler's timestep, in training steps (0 to 999 for most checkpoints).
    pub timestep: f64,
    /// Images in the batch.
    pub images: usize,
    /// Whether the batch holds an unconditional half first (classifier-free guidance).
    pub guided: bool,
}

impl Step {
    /// Rows of the batch that were given the prompt: the second half under guidance, else all.
    pub fn conditional_rows(&self) -> std::ops::Range<usize> {
        if self.guided { self.images..2 * self.images } else { 0..self.images }
    }
}

/// Someone who watches attention while the UNet runs: asked first, then told.
///
/// It is passed down the network by reference; there are no global hooks. A site that nobody wants
/// takes the fast path, which never forms its probabilities.
pub trait AttentionObserver {
    /// Whether the probabilities of `site` should be formed and passed to
    /// [`observe`](Self::observe). Asked at every call.
    fn wants(&self, site: &Site) -> bool;

    /// The attention probabilities of `site`: f32, `[batch, heads, height * width, keys]`, each row
    /// summing to 1. `batch` holds the unconditional rows first, then the conditional ones (see
    /// [`Step::conditional_rows`]).
    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> Result<()>;

    /// Called after `observe` when the run has probes: the attention that the same queries would
    /// give to words absent from the prompt
    /// ([`PreparedPrompt::with_probes`](crate::model::PreparedPrompt::with_probes)). f32
    /// `[conditional rows, heads, height * width, tokens of all probes]`. Each probe's tokens
    /// compete with the prompt's alone.
    fn observe_probes(&mut self, _site: &Site, _probabilities: &Tensor) -> Result<()> {
        Ok(())
    }

    /// A step begins: the observations until the next call of this belong to it.
    fn begin_step(&mut self, _step: &Step) -> Result<()> {
        Ok(())
    }
}

/// The observer that wants nothing: the UNet takes its fast path everywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl AttentionObserver for Unobserved {
    fn wants(&self, _site: &Site) -> bool {
        false
    }

    fn observe(&mut self, _site: &Site, _probabilities: &Tensor) -> Result<()> {
        Ok(())
    }
}
