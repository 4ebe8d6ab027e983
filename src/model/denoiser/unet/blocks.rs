//! Down, mid and up blocks: resnets, each followed by a transformer where the block attends.

use super::pass::Pass;
use super::transformer::{Shape, Transformer};
use crate::checkpoint::{UnetBlock, UnetConfig};
use crate::model::layers::{Builder, Downsample, FeatureMap, Upsample};
use crate::model::resnet::Resnet;
use crate::{Error, Result};

fn resnet(config: &UnetConfig, input: usize, output: usize, b: &Builder) -> Result<Resnet> {
    Resnet::new(input, output, Some(config.time_embed_dim), config.norm_num_groups, config.norm_eps, b)
}

/// `sites` counts the transformer blocks of the network so far.
fn transformers(config: &UnetConfig, block: &UnetBlock, sites: &mut usize, b: &Builder) -> Result<Vec<Transformer>> {
    let transformer = |(index, &layers): (usize, &usize)| {
        let shape = Shape {
            channels: block.out_channels,
            heads: block.heads,
            cross_attention_dim: block.cross_attention_dim,
            layers,
        };
        Transformer::new(config, &shape, sites, &b.pp("attentions").pp(index))
    };
    block.transformer_layers.iter().enumerate().map(transformer).collect()
}

/// diffusers `DownBlock2D` and `CrossAttnDownBlock2D`.
#[derive(Debug, Clone)]
pub(super) struct DownBlock {
    resnets: Vec<Resnet>,
    pub(super) attentions: Vec<Transformer>,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    pub(super) fn new(config: &UnetConfig, block: &UnetBlock, sites: &mut usize, b: &Builder) -> Result<Self> {
        let layer = |index: usize| {
            let input = if index == 0 { block.in_channels } else { block.out_channels };
            resnet(config, input, block.out_channels, &b.pp("resnets").pp(index))
        };
        let downsampler =
            || Downsample::new(block.out_channels, config.downsample_padding, &b.pp("downsamplers").pp(0));
        Ok(Self {
            resnets: (0..block.layers).map(layer).collect::<Result<_>>()?,
            attentions: transformers(config, block, sites, b)?,
            downsampler: block.sampler.then(downsampler).transpose()?,
        })
    }

    /// Pushes what each layer gives onto `skips`, for the up blocks.
    pub(super) fn forward(
        &self,
        mut x: FeatureMap,
        skips: &mut Vec<FeatureMap>,
        pass: &mut Pass,
    ) -> Result<FeatureMap> {
        for (index, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(&x, Some(pass.time))?;
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(&x, pass)?;
            }
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// diffusers `UNetMidBlock2DCrossAttn`: a resnet, then a transformer and a resnet, each `layers`
/// times.
#[derive(Debug, Clone)]
pub(super) struct MidBlock {
    resnets: Vec<Resnet>,
    pub(super) attentions: Vec<Transformer>,
}

impl MidBlock {
    pub(super) fn new(config: &UnetConfig, block: &UnetBlock, sites: &mut usize, b: &Builder) -> Result<Self> {
        let layer = |index: usize| resnet(config, block.in_channels, block.out_channels, &b.pp("resnets").pp(index));
        Ok(Self {
            resnets: (0..=block.layers).map(layer).collect::<Result<_>>()?,
            attentions: transformers(config, block, sites, b)?,
        })
    }

    pub(super) fn forward(&self, mut x: FeatureMap, pass: &mut Pass) -> Result<FeatureMap> {
        for (index, resnet) in self.resnets.iter().enumerate() {
            if index > 0 {
                x = self.attentions[index - 1].forward(&x, pass)?;
            }
            x = resnet.forward(&x, Some(pass.time))?;
        }
        Ok(x)
    }
}

/// diffusers `UpBlock2D` and `CrossAttnUpBlock2D`.
#[derive(Debug, Clone)]
pub(super) struct UpBlock {
    resnets: Vec<Resnet>,
    pub(super) attentions: Vec<Transformer>,
    upsampler: Option<Upsample>,
}

impl UpBlock {
    pub(super) fn new(config: &UnetConfig, block: &UnetBlock, sites: &mut usize, b: &Builder) -> Result<Self> {
        let layer = |index: usize| {
            let running = if index == 0 { block.in_channels } else { block.out_channels };
            let skip = if index + 1 == block.layers { block.skip_channels } else { block.out_channels };
            resnet(config, running + skip, block.out_channels, &b.pp("resnets").pp(index))
        };
        let upsampler = || Upsample::new(block.out_channels, &b.pp("upsamplers").pp(0));
        Ok(Self {
            resnets: (0..block.layers).map(layer).collect::<Result<_>>()?,
            attentions: transformers(config, block, sites, b)?,
            upsampler: block.sampler.then(upsampler).transpose()?,
        })
    }

    /// Takes one map off `skips` for each layer, then grows to the size of the map that is now on
    /// top.
    ///
    /// diffusers passes that size (`upsample_size`) only where the latent's sides are no multiple
    /// of the network's factor; elsewhere it is the double anyway.
    pub(super) fn forward(
        &self,
        mut x: FeatureMap,
        skips: &mut Vec<FeatureMap>,
        pass: &mut Pass,
    ) -> Result<FeatureMap> {
        for (index, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().ok_or_else(|| Error::bug("an up block has more layers than there are skips"))?;
            x = resnet.forward(&x.join_channels(&skip)?, Some(pass.time))?;
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(&x, pass)?;
            }
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x, skips.last().map(FeatureMap::size)),
            None => Ok(x),
        }
    }
}
