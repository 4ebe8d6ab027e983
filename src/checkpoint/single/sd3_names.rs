//! The transformer of Stable Diffusion 3 in its original naming (`MMDiT` of Stability's reference
//! code): its layers beside diffusers', and its shape read from them.
//!
//! Facts from diffusers' `loaders/single_file_utils.py` (0.42,
//! `convert_sd3_transformer_checkpoint_to_diffusers`). Queries, keys and values lie on each other
//! in the original. The two layers of the continuous norms have shift before scale there.

use super::tensors::Tensors;
use crate::checkpoint::config::Sd3Config;
use serde_json::{Value, json};

/// A layer in diffusers' naming, and which rows of the original's weight are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) layer: String,
    /// Which third of the rows, where the original has three layers in one.
    pub(crate) third: Option<usize>,
    /// Whether the halves of the rows have changed places.
    pub(crate) swapped: bool,
}

impl Piece {
    fn whole(layer: impl Into<String>) -> Vec<Self> {
        vec![Self { layer: layer.into(), third: None, swapped: false }]
    }
}

/// Layers outside of the blocks: original, then diffusers'.
const OUTSIDE: [(&str, &str); 7] = [
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("context_embedder", "context_embedder"),
    ("final_layer.linear", "proj_out"),
];

/// Layers of a block: original below `x_block`, then diffusers'.
const OF_IMAGE: [(&str, &str); 10] = [
    ("attn.proj", "attn.to_out.0"),
    ("attn.ln_q", "attn.norm_q"),
    ("attn.ln_k", "attn.norm_k"),
    ("attn2.proj", "attn2.to_out.0"),
    ("attn2.ln_q", "attn2.norm_q"),
    ("attn2.ln_k", "attn2.norm_k"),
    ("mlp.fc1", "ff.net.0.proj"),
    ("mlp.fc2", "ff.net.2"),
    ("adaLN_modulation.1", "norm1.linear"),
    // Three in one.
    ("attn.qkv", "attn"),
];

/// The same below `context_block`.
const OF_TEXT: [(&str, &str); 6] = [
    ("attn.proj", "attn.to_add_out"),
    ("attn.ln_q", "attn.norm_added_q"),
    ("attn.ln_k", "attn.norm_added_k"),
    ("mlp.fc1", "ff_context.net.0.proj"),
    ("mlp.fc2", "ff_context.net.2"),
    ("adaLN_modulation.1", "norm1_context.linear"),
];

/// What the layer `original` of a transformer of `layers` blocks is in diffusers; `None` where it
/// has no such layer.
pub(crate) fn pieces(original: &str, layers: usize) -> Option<Vec<Piece>> {
    if let Some((_, layer)) = OUTSIDE.iter().find(|(known, _)| *known == original) {
        return Some(Piece::whole(*layer));
    }
    if original == "final_layer.adaLN_modulation.1" {
        return Some(vec![Piece { layer: "norm_out.linear".into(), third: None, swapped: true }]);
    }
    let (index, rest) = original.strip_prefix("joint_blocks.")?.split_once('.')?;
    let index = index.parse::<usize>().ok().filter(|index| *index < layers)?;
    let path = format!("transformer_blocks.{index}");
    let (stream, leaf) = rest.split_once('.')?;
    let three = |attention: &str, names: [&str; 3]| {
        let piece =
            |(third, name)| Piece { layer: format!("{path}.{attention}.{name}"), third: Some(third), swapped: false };
        Some(names.into_iter().enumerate().map(piece).collect())
    };
    let known =
        |table: &[(&str, &str)]| table.iter().find(|(known, _)| *known == leaf).map(|(_, name)| name.to_string());
    match (stream, leaf) {
        ("x_block", "attn.qkv") => three("attn", ["to_q", "to_k", "to_v"]),
        ("x_block", "attn2.qkv") => three("attn2", ["to_q", "to_k", "to_v"]),
        ("context_block", "attn.qkv") => three("attn", ["add_q_proj", "add_k_proj", "add_v_proj"]),
        ("x_block", _) => Some(Piece::whole(format!("{path}.{}", known(&OF_IMAGE)?))),
        ("context_block", _) => {
            let swapped = leaf == "adaLN_modulation.1" && index + 1 == layers;
            Some(vec![Piece { layer: format!("{path}.{}", known(&OF_TEXT)?), third: None, swapped }])
        }
        _ => None,
    }
}

/// Every layer of a transformer of this shape by its original name, with its pieces.
pub(crate) fn originals(config: &Sd3Config) -> Vec<(String, Vec<Piece>)> {
    let outside = OUTSIDE.iter().map(|(name, _)| name.to_string()).chain(["final_layer.adaLN_modulation.1".into()]);
    let of_block = |index: usize| {
        let image = OF_IMAGE.iter().map(move |(name, _)| format!("joint_blocks.{index}.x_block.{name}"));
        let text = OF_TEXT.iter().map(move |(name, _)| format!("joint_blocks.{index}.context_block.{name}"));
        let threes = ["x_block.attn2.qkv", "context_block.attn.qkv"];
        image.chain(text).chain(threes.map(|name| format!("joint_blocks.{index}.{name}")))
    };
    let names = outside.chain((0..config.num_layers).flat_map(of_block));
    names.filter_map(|name| Some((name.clone(), pieces(&name, config.num_layers)?))).collect()
}

/// Blocks of the transformer.
pub(super) fn layers(tensors: &Tensors) -> usize {
    (0..).take_while(|index| tensors.shape(&format!("joint_blocks.{index}.x_block.attn.qkv.weight")).is_some()).count()
}

/// The `transformer/config.json` that the tensors stand for; the error is what cannot be read from
/// them. Heads are 64 channels wide in every release.
pub(super) fn config(tensors: &Tensors) -> Result<Value, String> {
    let layers = layers(tensors);
    let (width, patch) = (tensors.dim("x_embedder.proj.weight", 0)?, tensors.dim("x_embedder.proj.weight", 2)?);
    let has = |name: String| tensors.shape(&name).is_some();
    let dual: Vec<usize> =
        (0..layers).filter(|index| has(format!("joint_blocks.{index}.x_block.attn2.qkv.weight"))).collect();
    let normed = has("joint_blocks.0.x_block.attn.ln_q.weight".into());
    let places = tensors.dim("pos_embed", 1)?;
    Ok(json!({
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": tensors.dim("x_embedder.proj.weight", 1)?,
        "out_channels": tensors.dim("final_layer.linear.weight", 0)? / (patch * patch).max(1),
        "num_layers": layers,
        "attention_head_dim": 64,
        "num_attention_heads": width / 64,
        "caption_projection_dim": width,
        "joint_attention_dim": tensors.dim("context_embedder.weight", 1)?,
        "pooled_projection_dim": tensors.dim("y_embedder.mlp.0.weight", 1)?,
        "pos_embed_max_size": places.isqrt(),
        "dual_attention_layers": dual,
        "qk_norm": if normed { json!("rms_norm") } else { Value::Null },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_their_names_in_diffusers() {
        let name = |original: &str| {
            let found = pieces(original, 3)?;
            Some(found.into_iter().map(|piece| (piece.layer, piece.third, piece.swapped)).collect::<Vec<_>>())
        };
        let one = |layer: &str, swapped| Some(vec![(layer.to_string(), None, swapped)]);
        assert_eq!(name("final_layer.adaLN_modulation.1"), one("norm_out.linear", true));
        let text = "joint_blocks.1.context_block";
        assert_eq!(
            name(&format!("{text}.adaLN_modulation.1")),
            one("transformer_blocks.1.norm1_context.linear", false)
        );
        let last = "joint_blocks.2.context_block.adaLN_modulation.1";
        assert_eq!(name(last), one("transformer_blocks.2.norm1_context.linear", true));
        let of_text = name(&format!("{text}.attn.qkv")).unwrap();
        assert_eq!(of_text[1], ("transformer_blocks.1.attn.add_k_proj".into(), Some(1), false));
        assert_eq!(name("joint_blocks.0.x_block.attn2.qkv").unwrap()[2].0, "transformer_blocks.0.attn2.to_v");
        assert_eq!(name("joint_blocks.3.x_block.attn.qkv"), None);
        assert_eq!(name("joint_blocks.0.x_block.other"), None);
    }
}
