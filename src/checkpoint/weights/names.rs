//! Names that changed over the years: what a file may call a tensor, and what attnmap calls it.

use crate::checkpoint::part::Part;
use std::collections::BTreeMap;

/// The current name of the tensor that a file of `part` calls `name`; `None` for buffers that hold
/// no weight.
pub(super) fn current_name(part: Part, name: &str) -> Option<String> {
    match part {
        Part::Unet | Part::Transformer => Some(name.to_string()),
        Part::Vae => Some(vae_name(name)),
        Part::TextEncoder3 => Some(llama_name(name).unwrap_or_else(|| name.to_string())),
        Part::TextEncoder | Part::TextEncoder2 => llama_name(name).map_or_else(|| text_encoder_name(name), Some),
    }
}

/// What transformers calls the tensor that llama.cpp calls `name` in a T5 encoder (`t5encoder` in
/// its `gguf-py/gguf/constants.py`); `None` for all other names.
fn llama_name(name: &str) -> Option<String> {
    const LAYERS: [(&str, &str); 10] = [
        ("attn_q", "layer.0.SelfAttention.q"),
        ("attn_k", "layer.0.SelfAttention.k"),
        ("attn_v", "layer.0.SelfAttention.v"),
        ("attn_o", "layer.0.SelfAttention.o"),
        ("attn_rel_b", "layer.0.SelfAttention.relative_attention_bias"),
        ("attn_norm", "layer.0.layer_norm"),
        ("ffn_gate", "layer.1.DenseReluDense.wi_0"),
        ("ffn_up", "layer.1.DenseReluDense.wi_1"),
        ("ffn_down", "layer.1.DenseReluDense.wo"),
        ("ffn_norm", "layer.1.layer_norm"),
    ];
    match name {
        "token_embd.weight" => return Some("shared.weight".into()),
        "enc.output_norm.weight" => return Some("encoder.final_layer_norm.weight".into()),
        _ => {}
    }
    let (block, layer) = name.strip_prefix("enc.blk.")?.strip_suffix(".weight")?.split_once('.')?;
    let (_, own) = LAYERS.iter().find(|(llama, _)| *llama == layer)?;
    Some(format!("encoder.block.{}.{own}.weight", block.parse::<usize>().ok()?))
}

/// diffusers before 0.15 called the VAE's attention layers `query`, `key`, `value` and `proj_attn`
/// (see `_convert_deprecated_attention_blocks` in diffusers' `models/modeling_utils.py`).
fn vae_name(name: &str) -> String {
    const RENAMED: [(&str, &str); 4] =
        [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    if name.contains(".mid_block.attentions.")
        && let Some((path, kind)) = name.rsplit_once('.')
        && let Some((path, old)) = path.rsplit_once('.')
        && let Some((_, new)) = RENAMED.iter().find(|(known, _)| *known == old)
    {
        return format!("{path}.{new}.{kind}");
    }
    name.to_string()
}

/// transformers' `CLIPTextModel` has all its weights below `text_model.`, from version 5 on no
/// longer; attnmap's names have the prefix. `position_ids` is a buffer (0, 1, 2, ...) that older
/// versions saved. T5's encoder, the second one of FLUX.1, has blocks and no layers.
pub(crate) fn text_encoder_name(name: &str) -> Option<String> {
    if name.ends_with("embeddings.position_ids") {
        return None;
    }
    // Qwen3's, saved without its head.
    if ["embed_tokens.", "layers.", "norm."].iter().any(|start| name.starts_with(start)) {
        return Some(format!("model.{name}"));
    }
    let bare = ["embeddings.", "encoder.layers.", "final_layer_norm."].iter().any(|start| name.starts_with(start));
    Some(if bare { format!("text_model.{name}") } else { name.to_string() })
}

/// Whether `found` in the file can serve as `expected`. They are equal, or one is a linear layer's
/// `[out, in]` and the other a 1x1 convolution's `[out, in, 1, 1]` (VAE attention of 2022).
pub(super) fn same_shape(name: &str, expected: &[usize], found: &[usize]) -> bool {
    let without_ones = |shape: &[usize]| match shape {
        [rest @ .., 1, 1] if rest.len() == 2 => rest.to_vec(),
        shape => shape.to_vec(),
    };
    expected == found
        || (name.contains(".mid_block.attentions.")
            && expected.len() + found.len() == 6
            && without_ones(expected) == without_ones(found))
}

/// Names of tensors, those that agree in their first `depth` steps together: `vision_model.* (197
/// tensors)`.
pub(crate) fn grouped(names: &[String], depth: &dyn Fn(&str) -> usize) -> Vec<String> {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        let group = name.split('.').take(depth(name)).collect::<Vec<_>>().join(".");
        groups.entry(group).or_default().push(name);
    }
    let line = |(group, names): (String, Vec<&str>)| match names.as_slice() {
        [only] => only.to_string(),
        names => format!("{group}.* ({} tensors)", names.len()),
    };
    groups.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_vae_attention_gets_its_current_names() {
        let rename = |name: &str| current_name(Part::Vae, name).unwrap();
        let path = "decoder.mid_block.attentions.0";
        assert_eq!(rename(&format!("{path}.query.weight")), format!("{path}.to_q.weight"));
        assert_eq!(rename(&format!("{path}.key.bias")), format!("{path}.to_k.bias"));
        assert_eq!(rename(&format!("{path}.value.weight")), format!("{path}.to_v.weight"));
        assert_eq!(rename(&format!("{path}.proj_attn.weight")), format!("{path}.to_out.0.weight"));
        assert_eq!(rename(&format!("{path}.group_norm.weight")), format!("{path}.group_norm.weight"));
        assert_eq!(rename(&format!("{path}.to_out.0.weight")), format!("{path}.to_out.0.weight"));
        assert_eq!(rename("decoder.conv_in.weight"), "decoder.conv_in.weight");
    }

    #[test]
    fn text_encoder_names_have_one_prefix_and_no_buffers() {
        let rename = |name: &str| current_name(Part::TextEncoder, name);
        let norm = Some("text_model.final_layer_norm.weight".to_string());
        assert_eq!(rename("text_model.final_layer_norm.weight"), norm);
        assert_eq!(rename("final_layer_norm.weight"), norm);
        assert_eq!(rename("text_model.embeddings.position_ids"), None);
        assert_eq!(rename("embeddings.position_ids"), None);
        assert_eq!(rename("text_projection.weight"), Some("text_projection.weight".into()));
    }

    #[test]
    fn only_vae_attention_may_differ_by_ones() {
        let name = "decoder.mid_block.attentions.0.to_q.weight";
        assert!(same_shape(name, &[8, 8], &[8, 8, 1, 1]));
        assert!(same_shape(name, &[8, 8], &[8, 8]));
        assert!(!same_shape(name, &[8, 8], &[8, 4, 1, 1]));
        assert!(!same_shape("conv_in.weight", &[8, 8], &[8, 8, 1, 1]));
    }
}
