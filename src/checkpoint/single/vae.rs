//! The autoencoder in its original naming (`AutoencoderKL` of CompVis): its names beside
//! diffusers', and its shape read from them.

use super::tensors::Tensors;
use serde_json::{Value, json};

/// Layers of the mid block's attention (1x1 convolutions in these files): original, then
/// diffusers'.
const ATTENTION: [(&str, &str); 5] =
    [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];

/// diffusers' name of the tensor `original` of an autoencoder of `levels` levels; `None` where it
/// has no such tensor.
///
/// The decoder's levels are counted from the image in the original and from the latent in diffusers
/// (`loaders/single_file_utils.py`, 0.42).
pub(super) fn diffusers_name(original: &str, levels: usize) -> Option<String> {
    let steps: Vec<&str> = original.split('.').collect();
    let from_latent = |level: &str| levels.checked_sub(level.parse::<usize>().ok()? + 1);
    Some(match steps.as_slice() {
        ["quant_conv" | "post_quant_conv", _] | ["encoder" | "decoder", "conv_in" | "conv_out", _] => {
            original.to_string()
        }
        [half @ ("encoder" | "decoder"), "norm_out", kind] => format!("{half}.conv_norm_out.{kind}"),
        ["encoder", "down", level, "block", layer, leaf, kind] => {
            format!("encoder.down_blocks.{level}.resnets.{layer}.{}.{kind}", resnet(leaf))
        }
        ["encoder", "down", level, "downsample", "conv", kind] => {
            format!("encoder.down_blocks.{level}.downsamplers.0.conv.{kind}")
        }
        ["decoder", "up", level, "block", layer, leaf, kind] => {
            format!("decoder.up_blocks.{}.resnets.{layer}.{}.{kind}", from_latent(level)?, resnet(leaf))
        }
        ["decoder", "up", level, "upsample", "conv", kind] => {
            format!("decoder.up_blocks.{}.upsamplers.0.conv.{kind}", from_latent(level)?)
        }
        [half, "mid", "attn_1", leaf, kind] => {
            let (_, leaf) = ATTENTION.iter().find(|(known, _)| known == leaf)?;
            format!("{half}.mid_block.attentions.0.{leaf}.{kind}")
        }
        [half, "mid", block @ ("block_1" | "block_2"), leaf, kind] => {
            let layer = usize::from(*block == "block_2");
            format!("{half}.mid_block.resnets.{layer}.{}.{kind}", resnet(leaf))
        }
        _ => return None,
    })
}

fn resnet(leaf: &str) -> &str {
    if leaf == "nin_shortcut" { "conv_shortcut" } else { leaf }
}

/// Levels of the autoencoder below `first_stage_model.`.
pub(super) fn levels(tensors: &Tensors) -> usize {
    (0..).take_while(|level| tensors.shape(&format!("encoder.down.{level}.block.0.conv1.weight")).is_some()).count()
}

/// The `vae/config.json` that the tensors below `first_stage_model.` stand for; the error is what
/// cannot be read from them.
pub(super) fn config(tensors: &Tensors, scaling_factor: f64) -> Result<Value, String> {
    let levels = levels(tensors);
    let channels = (0..levels)
        .map(|level| tensors.dim(&format!("encoder.down.{level}.block.0.conv1.weight"), 0))
        .collect::<Result<Vec<_>, _>>()?;
    let layers = (0..)
        .take_while(|layer| tensors.shape(&format!("encoder.down.0.block.{layer}.conv1.weight")).is_some())
        .count();
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "in_channels": tensors.dim("encoder.conv_in.weight", 1)?,
        "out_channels": tensors.dim("decoder.conv_out.weight", 0)?,
        "latent_channels": tensors.dim("decoder.conv_in.weight", 1)?,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "scaling_factor": scaling_factor,
        "use_quant_conv": tensors.shape("quant_conv.weight").is_some(),
        "use_post_quant_conv": tensors.shape("post_quant_conv.weight").is_some(),
        "mid_block_add_attention": tensors.shape("decoder.mid.attn_1.q.weight").is_some(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decoder_counts_its_levels_from_the_other_end() {
        for (original, diffusers) in [
            ("decoder.up.0.block.1.norm2.bias", Some("decoder.up_blocks.3.resnets.1.norm2.bias")),
            ("decoder.up.3.upsample.conv.weight", Some("decoder.up_blocks.0.upsamplers.0.conv.weight")),
            (
                "encoder.down.2.block.0.nin_shortcut.weight",
                Some("encoder.down_blocks.2.resnets.0.conv_shortcut.weight"),
            ),
            ("decoder.mid.attn_1.proj_out.weight", Some("decoder.mid_block.attentions.0.to_out.0.weight")),
            ("encoder.mid.block_2.conv1.weight", Some("encoder.mid_block.resnets.1.conv1.weight")),
            ("post_quant_conv.bias", Some("post_quant_conv.bias")),
            ("decoder.up.4.block.1.norm2.bias", None),
            ("loss.logvar", None),
        ] {
            assert_eq!(diffusers_name(original, 4).as_deref(), diffusers, "{original}");
        }
    }
}
