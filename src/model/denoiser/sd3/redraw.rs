//! Joint attention with weights drawn anew, block by block: what a sanity check of maps compares
//! with.

use super::Sd3;
use super::attention::Joint;
use crate::Result;
use crate::model::layers::{Builder, Draw};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use std::collections::HashMap;

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
        let (width, head) = (self.config.width(), self.config.attention_head_dim);
        let deviation = 1.0 / (3.0 * width as f32).sqrt();
        let mut weights = HashMap::new();
        for name in Joint::names(last) {
            for (leaf, shape) in [("weight", vec![width, width]), ("bias", vec![width])] {
                let drawn = draw(shape.iter().product()).into_iter().map(|value| value * deviation);
                let tensor = Tensor::from_iter(drawn, &self.device)?.reshape(shape)?;
                weights.insert(format!("{name}.{leaf}"), tensor);
            }
        }
        for name in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            weights.insert(format!("{name}.weight"), Tensor::ones(head, candle_core::DType::F32, &self.device)?);
        }
        let vb = VarBuilder::from_tensors(weights, self.dtype, &self.device);
        block.attn = Joint::new(&self.config, last, &Builder::with_layout(vb, self.layout))?;
        Ok(1)
    }
}
