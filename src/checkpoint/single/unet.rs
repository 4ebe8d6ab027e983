//! The UNet in its original naming (`UNetModel` of CompVis and SGM): its names beside diffusers',
//! and its shape read from them.
//!
//! Facts from diffusers' `loaders/single_file_utils.py` (0.42). Blocks are numbered through
//! (`input_blocks.4.1`). Samplers count as a block on the way down, and belong to the last block of
//! their level on the way up.

use super::tensors::Tensors;
use crate::checkpoint::config::{UnetBlock, UnetConfig};
use serde_json::{Value, json};

/// The same module under two names.
#[derive(Debug)]
struct NamePair {
    original: String,
    diffusers: String,
    /// Whether the layers inside are named differently too.
    resnet: bool,
}

/// Names of a UNet's modules in both namings.
#[derive(Debug)]
pub(crate) struct UnetNames(Vec<NamePair>);

/// Layers of a resnet: original, then diffusers'.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Layers outside of the blocks: original, then diffusers'.
const OUTSIDE: [(&str, &str); 7] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

impl UnetNames {
    /// The names of a UNet of this shape.
    pub(crate) fn new(config: &UnetConfig) -> Self {
        let mut pairs: Vec<NamePair> = Vec::new();
        let mut add =
            |original: String, diffusers: String, resnet: bool| pairs.push(NamePair { original, diffusers, resnet });
        for (original, diffusers) in OUTSIDE {
            add(original.into(), diffusers.into(), false);
        }
        // The first input block is the convolution.
        let mut index = 1;
        for (level, block) in config.down_blocks().iter().enumerate() {
            let path = format!("down_blocks.{level}");
            for layer in 0..block.layers {
                add(format!("input_blocks.{index}.0"), format!("{path}.resnets.{layer}"), true);
                if attends(block, layer) {
                    add(format!("input_blocks.{index}.1"), format!("{path}.attentions.{layer}"), false);
                }
                index += 1;
            }
            if block.sampler {
                add(format!("input_blocks.{index}.0.op"), format!("{path}.downsamplers.0.conv"), false);
                index += 1;
            }
        }
        if let Some(block) = config.mid_block() {
            add("middle_block.0".into(), "mid_block.resnets.0".into(), true);
            if attends(&block, 0) {
                add("middle_block.1".into(), "mid_block.attentions.0".into(), false);
                add("middle_block.2".into(), "mid_block.resnets.1".into(), true);
            }
        }
        let mut index = 0;
        for (level, block) in config.up_blocks().iter().enumerate() {
            let path = format!("up_blocks.{level}");
            for layer in 0..block.layers {
                add(format!("output_blocks.{index}.0"), format!("{path}.resnets.{layer}"), true);
                let attends = attends(block, layer);
                if attends {
                    add(format!("output_blocks.{index}.1"), format!("{path}.attentions.{layer}"), false);
                }
                if block.sampler && layer + 1 == block.layers {
                    let place = 1 + usize::from(attends);
                    let original = format!("output_blocks.{index}.{place}.conv");
                    add(original, format!("{path}.upsamplers.0.conv"), false);
                }
                index += 1;
            }
        }
        Self(pairs)
    }

    /// diffusers' name of the layer or tensor `original`; `None` where this UNet has no such block.
    pub(crate) fn diffusers(&self, original: &str) -> Option<String> {
        self.0.iter().find_map(|pair| {
            let rest = below(original, &pair.original)?;
            // An upsampler lies beside the attention of its block; a resnet's layers are all known.
            let rest = if pair.resnet { renamed(rest, |(old, new)| (old, new))? } else { rest.to_string() };
            Some(format!("{}{rest}", pair.diffusers))
        })
    }

    /// The original name of the layer or tensor that diffusers calls `diffusers`.
    pub(crate) fn original(&self, diffusers: &str) -> Option<String> {
        self.0.iter().find_map(|pair| {
            let rest = below(diffusers, &pair.diffusers)?;
            let rest = if pair.resnet { renamed(rest, |(old, new)| (new, old))? } else { rest.to_string() };
            Some(format!("{}{rest}", pair.original))
        })
    }
}

fn attends(block: &UnetBlock, layer: usize) -> bool {
    block.transformer_layers.get(layer).is_some_and(|depth| *depth > 0)
}

/// What follows `path` in `name` (empty, or beginning with a dot), where `name` lies below it.
fn below<'a>(name: &'a str, path: &str) -> Option<&'a str> {
    name.strip_prefix(path).filter(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// `.layer.rest` of a resnet with the layer's other name.
fn renamed(
    rest: &str,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Option<String> {
    let inner = rest.strip_prefix('.')?;
    RESNET.iter().map(|pair| direction(*pair)).find_map(|(from, to)| Some(format!(".{to}{}", below(inner, from)?)))
}

/// What a level of the UNet is seen to have.
#[derive(Debug, Default)]
struct UnetLevel {
    channels: usize,
    /// Transformer blocks in each layer; 0 for a resnet alone.
    depths: Vec<usize>,
}

impl UnetLevel {
    fn attends(&self) -> bool {
        self.depths.iter().any(|depth| *depth > 0)
    }
}

/// The `unet/config.json` that the tensors below `model.diffusion_model.` stand for; the error is
/// what cannot be read from them.
///
/// The number of heads shows in no shape. It is 8 where the transformers' projections are
/// convolutions (SD 1). Else a head has 64 channels (SD 2 and SDXL), as in the configs that the
/// original code ships. `sample_size` is the side of the latent, in latent pixels; the class
/// embedding of `sdxl` is its size condition.
pub(super) fn config(tensors: &Tensors, sample_size: usize, sdxl: bool) -> Result<Value, String> {
    let (down, up) = (down_levels(tensors)?, up_levels(tensors)?);
    let same = |(down, up): (&UnetLevel, &UnetLevel)| down.channels == up.channels && down.attends() == up.attends();
    if down.len() != up.len() || !down.iter().zip(up.iter().rev()).all(same) {
        return Err("its UNet has blocks in an order that diffusers' UNet2DConditionModel does not have".into());
    }
    let channels: Vec<usize> = down.iter().map(|level| level.channels).collect();
    let mid = depth(tensors, "middle_block.1");
    let attention = down
        .iter()
        .position(UnetLevel::attends)
        .and_then(|level| first_attention(&down, level))
        .or_else(|| (mid > 0).then(|| "middle_block.1".into()))
        .ok_or("its UNet has no cross-attention: there are no words to trace")?;
    let projection = tensors.shape(&format!("{attention}.proj_in.weight")).map(<[usize]>::len);
    let keys = format!("{attention}.transformer_blocks.0.attn2.to_k.weight");
    let context = tensors.dim(&keys, 1)?;
    let linear = projection == Some(2);
    let heads: Vec<usize> = channels.iter().map(|c| if linear { (c / 64).max(1) } else { 8 }).collect();
    let kind =
        |level: &UnetLevel, attends: &'static str, plain: &'static str| if level.attends() { attends } else { plain };
    let down_types: Vec<&str> = down.iter().map(|l| kind(l, "CrossAttnDownBlock2D", "DownBlock2D")).collect();
    let up_types: Vec<&str> = up.iter().map(|l| kind(l, "CrossAttnUpBlock2D", "UpBlock2D")).collect();
    // A level without attention still needs numbers; those of the deepest one are the mid block's.
    let depths = |(index, level): (usize, &UnetLevel)| match level.attends() {
        true => level.depths.clone(),
        false if index + 1 == down.len() => vec![mid.max(1); level.depths.len()],
        false => vec![1; level.depths.len()],
    };
    let mid_type = match tensors.shape("middle_block.0.in_layers.0.weight") {
        None => Value::Null,
        Some(_) if mid > 0 => json!("UNetMidBlock2DCrossAttn"),
        Some(_) => json!("UNetMidBlock2D"),
    };
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": tensors.dim("input_blocks.0.0.weight", 1)?,
        "out_channels": tensors.dim("out.2.weight", 0)?,
        "down_block_types": down_types,
        "mid_block_type": mid_type,
        "up_block_types": up_types,
        "block_out_channels": channels,
        "layers_per_block": down.iter().map(|level| level.depths.len()).collect::<Vec<_>>(),
        "transformer_layers_per_block": down.iter().enumerate().map(depths).collect::<Vec<_>>(),
        "reverse_transformer_layers_per_block": (0..up.len()).rev().zip(&up).map(depths).collect::<Vec<_>>(),
        "cross_attention_dim": context,
        "attention_head_dim": heads,
        "use_linear_projection": linear,
        // Scores of SD 2 overflow in f16.
        "upcast_attention": context == 1024,
        "time_embedding_dim": tensors.dim("time_embed.0.weight", 0)?,
    });
    if tensors.shape("label_emb.0.0.weight").is_some() {
        let width = tensors.dim("label_emb.0.0.weight", 1)?;
        config["projection_class_embeddings_input_dim"] = json!(width);
        if sdxl {
            config["addition_embed_type"] = json!("text_time");
            config["addition_time_embed_dim"] = json!(256);
        } else {
            config["class_embed_type"] = json!("projection");
        }
    }
    Ok(config)
}

/// The path of the first attention on the way down; levels before it have one block per layer and a
/// sampler.
fn first_attention(down: &[UnetLevel], level: usize) -> Option<String> {
    let before: usize = down[..level].iter().map(|level| level.depths.len() + 1).sum();
    let layer = down[level].depths.iter().position(|depth| *depth > 0)?;
    Some(format!("input_blocks.{}.1", 1 + before + layer))
}

fn depth(tensors: &Tensors, path: &str) -> usize {
    (0..)
        .take_while(|block| tensors.shape(&format!("{path}.transformer_blocks.{block}.norm1.weight")).is_some())
        .count()
}

fn down_levels(tensors: &Tensors) -> Result<Vec<UnetLevel>, String> {
    let mut levels = vec![UnetLevel::default()];
    for index in 1.. {
        let path = format!("input_blocks.{index}");
        let level = levels.last_mut().expect("one from the start");
        if tensors.shape(&format!("{path}.0.op.weight")).is_some() {
            levels.push(UnetLevel::default());
        } else if tensors.shape(&format!("{path}.0.out_layers.3.weight")).is_some() {
            level.channels = tensors.dim(&format!("{path}.0.out_layers.3.weight"), 0)?;
            level.depths.push(depth(tensors, &format!("{path}.1")));
        } else {
            break;
        }
    }
    check(levels)
}

fn up_levels(tensors: &Tensors) -> Result<Vec<UnetLevel>, String> {
    let mut levels = vec![UnetLevel::default()];
    for index in 0.. {
        let path = format!("output_blocks.{index}");
        let weight = format!("{path}.0.out_layers.3.weight");
        if tensors.shape(&weight).is_none() {
            break;
        }
        let level = levels.last_mut().expect("one from the start");
        level.channels = tensors.dim(&weight, 0)?;
        level.depths.push(depth(tensors, &format!("{path}.1")));
        if [1, 2].iter().any(|place| tensors.shape(&format!("{path}.{place}.conv.weight")).is_some()) {
            levels.push(UnetLevel::default());
        }
    }
    check(levels)
}

fn check(levels: Vec<UnetLevel>) -> Result<Vec<UnetLevel>, String> {
    match levels.iter().any(|level| level.depths.is_empty()) {
        true => Err("its UNet lacks blocks (input_blocks, output_blocks)".into()),
        false => Ok(levels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let names = UnetNames::new(&UnetConfig { cross_attention_dim: vec![768; 4], ..UnetConfig::default() });
        for (original, diffusers) in [
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.3.0.op.bias", "down_blocks.0.downsamplers.0.conv.bias"),
            ("input_blocks.4.0.skip_connection.weight", "down_blocks.1.resnets.0.conv_shortcut.weight"),
            ("input_blocks.4.1.proj_in.weight", "down_blocks.1.attentions.0.proj_in.weight"),
            ("middle_block.2.emb_layers.1.bias", "mid_block.resnets.1.time_emb_proj.bias"),
            // Without attention the sampler follows the resnet at once.
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.5.2.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"),
            (
                "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight",
                "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight",
            ),
            ("out.0.weight", "conv_norm_out.weight"),
        ] {
            assert_eq!(names.diffusers(original).as_deref(), Some(diffusers));
            assert_eq!(names.original(diffusers).as_deref(), Some(original));
        }
        for unknown in
            ["input_blocks.12.0.in_layers.0.weight", "input_blocks.4.0.other.weight", "input_blocks.10.1.norm.weight"]
        {
            assert_eq!(names.diffusers(unknown), None, "{unknown}");
        }
    }
}
