//! Attention with weights drawn anew, layer by layer: what a sanity check of maps compares with.

use super::super::joint::OWN;
use super::ZImage;
use super::block::{Attention, shape};
use crate::Result;
use crate::model::layers::{Builder, Draw};

impl ZImage {
    /// Draws the weights of the attention of `block` anew: `layers.7`, as the paths of
    /// [`sites`](Self::sites) begin. They are N(0, 1/(3 * inputs)), the variance of
    /// `torch.nn.Linear.reset_parameters`; norms of queries and keys become 1. Returns how many
    /// attentions there were.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn redraw_joint_attention(&mut self, block: &str, draw: Draw) -> Result<usize> {
        let index = block.strip_prefix("layers.").and_then(|index| index.parse::<usize>().ok());
        let Some(block) = index.and_then(|index| self.layers.get_mut(index)) else { return Ok(0) };
        let layers = [&OWN[..], &["to_out.0"]].concat();
        let weights = shape(&self.config).drawn(&layers, draw, self.dtype, &self.device)?;
        block.attention = Attention::new(&self.config, &Builder::with_layout(weights, self.layout))?;
        Ok(1)
    }
}
