//! Attention with weights drawn anew, block by block: what a sanity check of maps compares with.

use super::super::joint::{ADDED, OWN};
use super::Flux;
use super::attention::{DoubleAttention, SingleAttention, shape};
use crate::Result;
use crate::model::layers::{Builder, Draw};

impl Flux {
    /// Draws the weights of the attention of `block` anew: `transformer_blocks.7`, as the paths of
    /// [`sites`](Self::sites) begin. They are N(0, 1/(3 * inputs)), the variance of
    /// `torch.nn.Linear.reset_parameters`; norms of queries and keys become 1. Returns how many
    /// attentions there were.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn redraw_joint_attention(&mut self, block: &str, draw: Draw) -> Result<usize> {
        let Some((kind, index)) = block.rsplit_once('.') else { return Ok(0) };
        let Ok(index) = index.parse::<usize>() else { return Ok(0) };
        let double = match kind {
            "transformer_blocks" if index < self.transformer_blocks.len() => true,
            "single_transformer_blocks" if index < self.single_transformer_blocks.len() => false,
            _ => return Ok(0),
        };
        let mut layers = OWN.to_vec();
        if double {
            layers.extend(ADDED.iter().chain(&["to_out.0", "to_add_out"]));
        }
        let weights = shape(&self.config).drawn(&layers, draw, self.dtype, &self.device)?;
        let b = Builder::with_layout(weights, self.layout);
        match double {
            true => self.transformer_blocks[index].attn = DoubleAttention::new(&self.config, &b)?,
            false => self.single_transformer_blocks[index].attn = SingleAttention::new(&self.config, &b)?,
        }
        Ok(1)
    }
}
