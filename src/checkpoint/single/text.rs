//! Text encoders in their original naming: CLIP as transformers saves it, and OpenCLIP with
//! queries, keys and values in one tensor.

use super::tensors::Tensors;
use serde_json::{Value, json};

/// How a single file names a text encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// transformers' `CLIPTextModel`: SD 1, and the first encoder of SDXL.
    Clip,
    /// OpenCLIP's text tower: SD 2, and the second encoder of SDXL.
    OpenClip,
}

/// A tensor's name in transformers, and which third of the file's tensor it is.
type TensorPiece = (String, Option<usize>);

/// What the tensor `original` of OpenCLIP's text tower is in transformers: one tensor, or three
/// that lie on each other. `None` where the encoder has no such tensor.
///
/// As `convert_open_clip_checkpoint` in diffusers' `loaders/single_file_utils.py` (0.42).
/// `text_projection` is transposed there.
pub(super) fn open_clip_pieces(original: &str) -> Option<Vec<TensorPiece>> {
    let whole = |name: &str| Some(vec![(name.to_string(), None)]);
    match original {
        "positional_embedding" => return whole("text_model.embeddings.position_embedding.weight"),
        "token_embedding.weight" => return whole("text_model.embeddings.token_embedding.weight"),
        "ln_final.weight" | "ln_final.bias" => {
            return whole(&original.replace("ln_final", "text_model.final_layer_norm"));
        }
        "text_projection" => return whole("text_projection.weight"),
        _ => {}
    }
    let (layer, rest) = original.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    let path = format!("text_model.encoder.layers.{}", layer.parse::<usize>().ok()?);
    let leaf = match rest {
        "attn.in_proj_weight" | "attn.in_proj_bias" => {
            let kind = rest.trim_start_matches("attn.in_proj_");
            let third = |(index, name)| (format!("{path}.self_attn.{name}_proj.{kind}"), Some(index));
            return Some(["q", "k", "v"].into_iter().enumerate().map(third).collect());
        }
        _ => {
            let (layer, kind) = rest.rsplit_once('.')?;
            let layer = match layer {
                "ln_1" => "layer_norm1",
                "ln_2" => "layer_norm2",
                "mlp.c_fc" => "mlp.fc1",
                "mlp.c_proj" => "mlp.fc2",
                "attn.out_proj" => "self_attn.out_proj",
                _ => return None,
            };
            format!("{layer}.{kind}")
        }
    };
    whole(&format!("{path}.{leaf}"))
}

/// Settings of CLIP's tokenizer; OpenCLIP pads with `!`, whose id is 0.
pub(super) fn tokenizer(naming: Naming) -> Value {
    let end = "<|endoftext|>";
    json!({
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": end,
        "unk_token": end,
        "pad_token": if naming == Naming::OpenClip { "!" } else { end },
    })
}

/// Whether a tensor is known and without effect: positions counted up, the temperature and
/// projection that compare texts with images, and the reader of images.
pub(super) fn is_inert(original: &str, projected: bool) -> bool {
    original.ends_with("embeddings.position_ids")
        || ["vision_model.", "visual_projection.", "visual."].iter().any(|start| original.starts_with(start))
        || ["logit_scale", "attn_mask"].contains(&original)
        || (!projected && ["text_projection", "text_projection.weight"].contains(&original))
}

/// The layer of transformers' encoder that the tensor `name` belongs to.
pub(super) fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("text_model.encoder.layers.")?.split('.').next()?.parse().ok()
}

/// Names of the token embedding, of the position embedding, and of the first layer of the MLP of
/// layer `{}`.
fn names(tensors: &Tensors, naming: Naming) -> [String; 3] {
    // CLIP's names of 2022 may lack the prefix.
    let root = if tensors.shape("text_model.embeddings.token_embedding.weight").is_some() { "text_model." } else { "" };
    match naming {
        Naming::Clip => [
            format!("{root}embeddings.token_embedding.weight"),
            format!("{root}embeddings.position_embedding.weight"),
            format!("{root}encoder.layers.{{}}.mlp.fc1.weight"),
        ],
        Naming::OpenClip => [
            "token_embedding.weight".into(),
            "positional_embedding".into(),
            "transformer.resblocks.{}.mlp.c_fc.weight".into(),
        ],
    }
}

/// Tokens that a text encoder knows.
pub(super) fn tokens(tensors: &Tensors, naming: Naming) -> Result<usize, String> {
    tensors.dim(&names(tensors, naming)[0], 0)
}

/// The `config.json` that the tensors of a text encoder stand for; the error is what cannot be read
/// from them.
///
/// Heads are 64 channels wide in every encoder of Stable Diffusion. `penultimate` leaves out the
/// last layer, whose output SD 2 does not use; files that were converted back from diffusers lack
/// it.
pub(super) fn config(tensors: &Tensors, naming: Naming, penultimate: bool) -> Result<Value, String> {
    let [tokens, positions, inner] = names(tensors, naming);
    let at = |layer: usize| inner.replace("{}", &layer.to_string());
    let found = (0..).take_while(|&layer| tensors.shape(&at(layer)).is_some()).count();
    /// Layers of OpenCLIP ViT-H that SD 2 uses, of 24.
    const USED: usize = 23;
    let layers = if penultimate && found != USED { found.saturating_sub(1) } else { found };
    let width = tensors.dim(&tokens, 1)?;
    let projection = tensors.shape("text_projection").and_then(|shape| shape.get(1)).copied();
    Ok(json!({
        "model_type": "clip_text_model",
        "vocab_size": tensors.dim(&tokens, 0)?,
        "hidden_size": width,
        "intermediate_size": tensors.dim(&at(0), 0)?,
        "projection_dim": projection.unwrap_or(width),
        "num_hidden_layers": layers,
        "num_attention_heads": (width / 64).max(1),
        "max_position_embeddings": tensors.dim(&positions, 0)?,
        "hidden_act": if naming == Naming::Clip { "quick_gelu" } else { "gelu" },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_clip_has_three_in_one() {
        let names = |original: &str| open_clip_pieces(original).unwrap();
        let path = "text_model.encoder.layers.3";
        assert_eq!(
            names("transformer.resblocks.3.attn.in_proj_bias"),
            ["q", "k", "v"]
                .map(|name| format!("{path}.self_attn.{name}_proj.bias"))
                .into_iter()
                .zip([Some(0), Some(1), Some(2)])
                .collect::<Vec<_>>()
        );
        assert_eq!(names("transformer.resblocks.3.mlp.c_proj.weight"), [(format!("{path}.mlp.fc2.weight"), None)]);
        assert_eq!(names("ln_final.bias"), [("text_model.final_layer_norm.bias".into(), None)]);
        assert_eq!(open_clip_pieces("transformer.resblocks.3.other.weight"), None);
        assert_eq!(open_clip_pieces("visual.proj"), None);
        assert_eq!((layer(&format!("{path}.mlp.fc2.weight")), layer("text_projection.weight")), (Some(3), None));
    }
}
