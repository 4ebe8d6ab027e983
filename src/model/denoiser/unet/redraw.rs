//! Cross-attention with weights drawn anew, block by block: what a sanity check of maps compares
//! with.

use super::Unet;
use super::transformer::Transformer;
use crate::Result;
use crate::model::layers::Draw;

impl Unet {
    /// Draws the weights of every cross-attention in `block` anew
    /// ([`Attention::redraw`](crate::model::layers::Attention::redraw)). `block` is
    /// `down_blocks.0`, `mid_block`, `up_blocks.2` and so on, as the paths of
    /// [`sites`](Self::sites) begin. Contexts that were prepared before belong to the old weights.
    /// Returns how many there were.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn redraw_cross_attention(&mut self, block: &str, draw: Draw) -> Result<usize> {
        let (layout, dtype, device) = (self.layout, self.dtype, self.device.clone());
        let number = |prefix: &str| block.strip_prefix(prefix)?.parse::<usize>().ok();
        let transformers: &mut [Transformer] = match (number("down_blocks."), number("up_blocks.")) {
            (Some(index), _) => self.down_blocks.get_mut(index).map_or(&mut [], |block| &mut block.attentions),
            (_, Some(index)) => self.up_blocks.get_mut(index).map_or(&mut [], |block| &mut block.attentions),
            _ if block == "mid_block" => self.mid_block.as_mut().map_or(&mut [], |block| &mut block.attentions),
            _ => &mut [],
        };
        let mut count = 0;
        for attention in transformers.iter_mut().flat_map(Transformer::cross_attentions) {
            attention.redraw(draw, layout, dtype, &device)?;
            count += 1;
        }
        Ok(count)
    }
}
