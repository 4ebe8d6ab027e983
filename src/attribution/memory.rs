//! What a gradient takes of memory, known before it is taken.

use crate::argument::{IGNORE_MEMORY, METHOD, SIZE};
use crate::checkpoint::{UnetBlock, UnetConfig};
use crate::figures::gigabytes;
use crate::pipeline::free_memory;
use crate::trace::Grid;
use crate::{Error, Result};

/// Feature maps of its width that a resnet's results take in the graph: two norms, two activations,
/// two convolutions, each with what stands between.
const OF_A_RESNET: u64 = 14;

/// The same of a transformer block, attention's scores aside; the gated MLP is 20 of them.
const OF_A_BLOCK: u64 = 56;

/// Matrices of scores that an attention keeps: the scores and the probabilities.
const OF_SCORES: u64 = 3;

/// Bytes that the graph of one call of the UNet takes while its gradient is formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradientPlan {
    /// Of each row of the batch.
    pub bytes_a_row: u64,
    /// What this process may still use; `None` where the system does not tell.
    pub free: Option<u64>,
}

impl GradientPlan {
    /// The plan for a latent grid and so many `tokens` of text. An estimate from the sizes of all
    /// results that a gradient goes back through.
    pub fn new(config: &UnetConfig, latent: Grid, tokens: usize) -> Self {
        let levels = config.block_out_channels.len();
        let cells = |level: usize| (latent.height.div_ceil(1 << level) * latent.width.div_ceil(1 << level)) as u64;
        let of_block = |block: &UnetBlock, level: usize| {
            let (cells, width) = (cells(level), block.out_channels as u64);
            let layers: u64 = block.transformer_layers.iter().map(|&layers| layers as u64).sum();
            let scores = block.heads as u64 * cells * (cells + tokens as u64) * OF_SCORES;
            cells * width * (block.layers as u64 * OF_A_RESNET + layers * OF_A_BLOCK) + layers * scores
        };
        let down = config.down_blocks();
        let up = config.up_blocks();
        let sum: u64 = down.iter().enumerate().map(|(level, block)| of_block(block, level)).sum::<u64>()
            + up.iter().enumerate().map(|(index, block)| of_block(block, levels - 1 - index)).sum::<u64>()
            + config.mid_block().map_or(0, |block| of_block(&block, levels - 1));
        Self { bytes_a_row: 4 * sum, free: free_memory() }
    }

    /// The most rows of a batch, up to `asked`, that fit into three quarters of what is free.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the numbers and the way out when not one does.
    pub fn rows(&self, asked: usize) -> Result<usize> {
        let Some(free) = self.free else { return Ok(asked.max(1)) };
        let fit = free / 4 * 3 / self.bytes_a_row.max(1);
        if fit == 0 {
            let (needs, free) = (gigabytes(self.bytes_a_row / 3 * 4), gigabytes(free));
            return Err(Error::Unsupported {
                what: format!("a gradient that needs about {needs} of memory beside the weights ({free} are free)"),
                way_out: format!(
                    "{METHOD} occlusion needs no gradient; or make the run in a smaller {SIZE}; \
                          {IGNORE_MEMORY} tries all the same"
                ),
            });
        }
        Ok(asked.clamp(1, usize::try_from(fit).unwrap_or(usize::MAX)))
    }
}
