//! The attention sites of a UNet, which follow from its shape and the latent's size.

use super::unet::{UnetBlock, UnetConfig};
use crate::trace::{AttentionKind, Site, Stage};

/// A down, mid or up block, and where it stands.
struct PlacedBlock {
    block: UnetBlock,
    /// Its weight path, e.g. `down_blocks.1`.
    path: String,
    stage: Stage,
    /// How often the latent has been halved when it gets here.
    level: usize,
}

impl UnetConfig {
    /// The cross-attention sites in network order, with the grids that they have for a latent of
    /// `[height, width]`.
    pub fn cross_attention_sites(&self, latent: [usize; 2]) -> Vec<Site> {
        self.sites("attn2", AttentionKind::Cross, latent)
    }

    /// The self-attention sites in network order: one beside each cross-attention.
    pub fn self_attention_sites(&self, latent: [usize; 2]) -> Vec<Site> {
        self.sites("attn1", AttentionKind::SelfAttention, latent)
    }

    /// Channels of each head of [`cross_attention_sites`](Self::cross_attention_sites), in that
    /// order.
    pub(crate) fn head_dims(&self) -> Vec<usize> {
        let of_block = |PlacedBlock { block, .. }: PlacedBlock| {
            let count: usize = block.transformer_layers.iter().sum();
            std::iter::repeat_n(block.out_channels / block.heads.max(1), count)
        };
        self.placed_blocks().into_iter().flat_map(of_block).collect()
    }

    /// The grid at each level, `[height, width]`. A down-sampler rounds odd sides up, or down where
    /// its padding is on one side alone.
    pub(crate) fn grids(&self, latent: [usize; 2]) -> Vec<[usize; 2]> {
        let half = |side: usize| if self.downsample_padding == 0 { side / 2 } else { side.div_ceil(2) };
        let levels = self.block_out_channels.len();
        std::iter::successors(Some(latent), |grid| Some(grid.map(half))).take(levels).collect()
    }

    fn sites(&self, layer: &str, kind: AttentionKind, latent: [usize; 2]) -> Vec<Site> {
        let grids = self.grids(latent);
        let mut sites = Vec::new();
        for PlacedBlock { block, path, stage, level } in self.placed_blocks() {
            let [height, width] = grids[level];
            for (attention, &depth) in block.transformer_layers.iter().enumerate() {
                for index in 0..depth {
                    sites.push(Site {
                        path: format!("{path}.attentions.{attention}.transformer_blocks.{index}.{layer}"),
                        stage,
                        depth: 0.0,
                        kind,
                        index: sites.len(),
                        heads: block.heads,
                        height,
                        width,
                    });
                }
            }
        }
        Site::with_depths(sites)
    }

    /// The blocks in network order.
    fn placed_blocks(&self) -> Vec<PlacedBlock> {
        let last = self.block_out_channels.len() - 1;
        let down = self.down_blocks().into_iter().enumerate().map(|(index, block)| {
            let path = format!("down_blocks.{index}");
            PlacedBlock { block, path, stage: Stage::Down, level: index }
        });
        let mid = self.mid_block().into_iter().map(|block| {
            let path = "mid_block".to_owned();
            PlacedBlock { block, path, stage: Stage::Mid, level: last }
        });
        let up = self.up_blocks().into_iter().enumerate().map(|(index, block)| {
            let path = format!("up_blocks.{index}");
            PlacedBlock { block, path, stage: Stage::Up, level: last - index }
        });
        down.chain(mid).chain(up).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_round_as_the_down_samplers_do() {
        let mut unet = UnetConfig::default();
        assert_eq!(unet.grids([9, 1]), [[9, 1], [5, 1], [3, 1], [2, 1]]);
        unet.downsample_padding = 0;
        assert_eq!(unet.grids([9, 16]), [[9, 16], [4, 8], [2, 4], [1, 2]]);
    }
}
