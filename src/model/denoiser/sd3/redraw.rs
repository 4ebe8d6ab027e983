//! Joint attention with weights drawn anew, block by block: what a sanity check of maps compares
//! with.

use super::Sd3;
use super::attention::{Joint, shape};
use crate::Result;
use crate::model::layers::{Builder, Draw};

impl Sd3 {
    /// Draws the weights of the joint attention of `block` anew: `transformer_blocks.7`, as the
    /// paths of [`sites`](Self::sites) begin. They are N(0, 1/(3 * inputs)), the variance of
    /// `torch.nn.Linear.reset_parameters`; norms of queries and keys become 1. Returns how many
    /// attentions there were.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn redraw_joint_attention(&mut self, block: &str, draw: Draw) -> Result<usize> {
        let index = block.strip_prefix("transformer_blocks.").and_then(|index| index.parse::<usize>().ok());
        let last = index == self.config.num_layers.checked_sub(1);
        let Some(block) = index.and_then(|index| self.transformer_blocks.get_mut(index)) else { return Ok(0) };
        let weights = shape(&self.config).drawn(&Joint::names(last), draw, self.dtype, &self.device)?;
        block.attn = Joint::new(&self.config, last, &Builder::with_layout(weights, self.layout))?;
        Ok(1)
    }
}
