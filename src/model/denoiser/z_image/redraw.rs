//! Attention with weights drawn anew, layer by layer: what a sanity check of maps compares with.

use super::ZImage;
use super::block::{Attention, LAYERS};
use crate::Result;
use crate::model::layers::{Builder, Draw};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;

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
        let (dim, head) = (self.config.dim, self.config.dim / self.config.n_heads);
        let deviation = 1.0 / (3.0 * dim as f32).sqrt();
        let mut weights = HashMap::new();
        for name in LAYERS {
            let drawn = draw(dim * dim).into_iter().map(|value| value * deviation);
            weights.insert(format!("{name}.weight"), Tensor::from_iter(drawn, &self.device)?.reshape((dim, dim))?);
        }
        for name in ["norm_q", "norm_k"] {
            weights.insert(format!("{name}.weight"), Tensor::ones(head, DType::F32, &self.device)?);
        }
        let weights = VarBuilder::from_tensors(weights, self.dtype, &self.device);
        block.attention = Attention::new(&self.config, &Builder::with_layout(weights, self.layout))?;
        Ok(1)
    }
}
