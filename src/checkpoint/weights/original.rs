//! Transformers of FLUX.1 and Z-Image in their authors' own naming: where each tensor of diffusers'
//! naming lies.
//!
//! Single files and GGUF files mostly have it. Facts from diffusers' `loaders/single_file_utils.py`
//! (0.42): `convert_flux_transformer_checkpoint_to_diffusers` and
//! `convert_z_image_transformer_checkpoint_to_diffusers`.

use super::change::RowsOf;
use super::file::WeightFile;
use super::place::TensorLocation;
use std::collections::BTreeMap;

/// What some programs put before each name.
const PREFIX: &str = "model.diffusion_model.";

/// Layers of FLUX.1 outside of the blocks: original, then diffusers'.
const FLUX: [(&str, &str); 10] = [
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    ("txt_in", "context_embedder"),
    ("img_in", "x_embedder"),
    ("final_layer.linear", "proj_out"),
    ("final_layer.adaLN_modulation.1", "norm_out.linear"),
];

/// Layers of a block of two streams.
const DOUBLE: [(&str, &str); 12] = [
    ("img_mod.lin", "norm1.linear"),
    ("txt_mod.lin", "norm1_context.linear"),
    ("img_attn.proj", "attn.to_out.0"),
    ("txt_attn.proj", "attn.to_add_out"),
    ("img_attn.norm.query_norm", "attn.norm_q"),
    ("img_attn.norm.key_norm", "attn.norm_k"),
    ("txt_attn.norm.query_norm", "attn.norm_added_q"),
    ("txt_attn.norm.key_norm", "attn.norm_added_k"),
    ("img_mlp.0", "ff.net.0.proj"),
    ("img_mlp.2", "ff.net.2"),
    ("txt_mlp.0", "ff_context.net.0.proj"),
    ("txt_mlp.2", "ff_context.net.2"),
];

/// Layers of a block of one stream.
const SINGLE: [(&str, &str); 4] = [
    ("modulation.lin", "norm.linear"),
    ("linear2", "proj_out"),
    ("norm.query_norm", "attn.norm_q"),
    ("norm.key_norm", "attn.norm_k"),
];

/// Which transformer a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransformerKind {
    Flux,
    ZImage,
}

/// Tensors by which a transformer is known, in the authors' naming and in diffusers'.
const MARKS: [(&str, TransformerKind); 5] = [
    ("double_blocks.0.img_attn.qkv.weight", TransformerKind::Flux),
    ("single_transformer_blocks.0.norm.linear.weight", TransformerKind::Flux),
    ("noise_refiner.0.attention.qkv.weight", TransformerKind::ZImage),
    ("noise_refiner.0.attention.to_q.weight", TransformerKind::ZImage),
    ("layers.0.attention.norm_q.weight", TransformerKind::ZImage),
];

/// Tensors of FLUX.2 and Chroma, whose blocks are named as FLUX.1's are (diffusers'
/// `CHECKPOINT_KEY_NAMES`).
const OTHERS: [&str; 2] = ["single_stream_modulation.lin.weight", "distilled_guidance_layer.in_proj.bias"];

/// The transformer that `file` holds, if it is one of these.
pub(crate) fn transformer(file: &WeightFile) -> Option<TransformerKind> {
    let has = |name: &str| file.info(name).is_some() || file.info(&format!("{PREFIX}{name}")).is_some();
    if OTHERS.iter().any(|name| has(name)) {
        return None;
    }
    let found = MARKS.iter().find(|(mark, _)| has(mark)).map(|(_, kind)| *kind);
    // Lumina 2 names its blocks as Z-Image does, and pads without a token.
    found.filter(|kind| *kind != TransformerKind::ZImage || has("x_pad_token"))
}

/// Where the tensors of diffusers' naming lie in `file`, which is number `index`. Beside them the
/// names of tensors of no use: other parts, and what the original keeps beside. Tensors in
/// diffusers' naming are taken as they are.
pub(crate) fn places(
    kind: TransformerKind,
    index: usize,
    file: &WeightFile,
) -> (BTreeMap<String, TensorLocation>, Vec<String>) {
    let prefixed = file.names().any(|name| name.starts_with(PREFIX));
    let (mut places, mut left) = (BTreeMap::new(), Vec::new());
    for full in file.names() {
        let own = match prefixed {
            true => full.strip_prefix(PREFIX),
            false => Some(full),
        };
        let Some(name) = own.filter(|name| *name != "norm_final.weight") else {
            left.push(full.to_string());
            continue;
        };
        let rows = file.info(full).and_then(|entry| entry.shape.first().copied()).unwrap_or(0);
        let place = TensorLocation::new(index, full);
        let found = match kind {
            TransformerKind::Flux => flux(name, rows, place),
            TransformerKind::ZImage => z_image(name, place),
        };
        places.extend(found);
    }
    (places, left)
}

/// Layers of a block of one stream that lie in `linear1`, with their shares of its rows. Queries,
/// keys and values have one width each, the feed-forward four.
const LINEAR1: [(&str, usize, usize); 4] =
    [("attn.to_q", 0, 1), ("attn.to_k", 1, 1), ("attn.to_v", 2, 1), ("proj_mlp", 3, 4)];

/// The layers of diffusers that a layer of the authors' is made of, with their rows of it.
pub(crate) type Pieces = Vec<(String, Option<RowsOf>)>;

/// FLUX.1's layers that a LoRA may change, by the authors' names: of `double` blocks of two streams
/// and `single` of one. The one whose halves lie the other way round, the last norm's, is not among
/// them.
pub(crate) fn flux_layers(double: usize, single: usize) -> Vec<(String, Pieces)> {
    let outside = FLUX.iter().filter(|(original, _)| !original.ends_with("adaLN_modulation.1"));
    let mut layers: Vec<(String, Pieces)> =
        outside.map(|(original, own)| (original.to_string(), vec![(own.to_string(), None)])).collect();
    for block in 0..double {
        let (from, to) = (format!("double_blocks.{block}"), format!("transformer_blocks.{block}"));
        let whole = DOUBLE.iter().filter(|(original, _)| !original.ends_with("_norm"));
        layers.extend(whole.map(|(original, own)| (format!("{from}.{original}"), vec![(format!("{to}.{own}"), None)])));
        for (original, own) in [
            ("img_attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
            ("txt_attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
        ] {
            layers.push((format!("{from}.{original}"), thirds(&to, own)));
        }
    }
    for block in 0..single {
        let (from, to) = (format!("single_blocks.{block}"), format!("single_transformer_blocks.{block}"));
        let whole = SINGLE.iter().filter(|(original, _)| !original.ends_with("_norm"));
        layers.extend(whole.map(|(original, own)| (format!("{from}.{original}"), vec![(format!("{to}.{own}"), None)])));
        let share =
            |&(own, first, count): &(&str, usize, usize)| (format!("{to}.{own}"), Some(RowsOf { first, count, of: 7 }));
        // What XLabs trains of `linear1`.
        layers.push((format!("{from}.qkv"), thirds(&to, ["attn.to_q", "attn.to_k", "attn.to_v"])));
        layers.push((format!("{from}.linear1"), LINEAR1.iter().map(share).collect()));
    }
    layers
}

/// Z-Image's layers whose names in the authors' naming are others than diffusers', in its `layers`
/// blocks and so many of each refiner.
pub(crate) fn z_image_layers(layers: usize, refiners: usize) -> Vec<(String, Pieces)> {
    let blocks = [("layers", layers), ("noise_refiner", refiners), ("context_refiner", refiners)];
    let paths = blocks.into_iter().flat_map(|(name, count)| (0..count).map(move |index| format!("{name}.{index}")));
    let of_block = |path: String| {
        let attention = format!("{path}.attention");
        [
            (format!("{attention}.qkv"), thirds(&attention, ["to_q", "to_k", "to_v"])),
            (format!("{attention}.out"), vec![(format!("{attention}.to_out.0"), None)]),
        ]
    };
    paths.flat_map(of_block).collect()
}

/// `layers` below `path`, each a third of one layer.
fn thirds(path: &str, layers: [&str; 3]) -> Pieces {
    let third = |(index, layer): (usize, &str)| (format!("{path}.{layer}"), Some(RowsOf::third(index)));
    layers.into_iter().enumerate().map(third).collect()
}

/// What the tensor `name` of FLUX.1, with so many rows, is in diffusers' naming.
fn flux(name: &str, rows: usize, place: TensorLocation) -> Vec<(String, TensorLocation)> {
    let as_it_is = |place: TensorLocation| vec![(name.to_string(), place)];
    let Some((layer, leaf)) = name.rsplit_once('.') else { return as_it_is(place) };
    // The scale of a norm is its weight.
    let leaf = if leaf == "scale" { "weight" } else { leaf };
    if let Some((_, own)) = FLUX.iter().find(|(original, _)| *original == layer) {
        // The original has shift before scale.
        let swapped = layer.ends_with("adaLN_modulation.1");
        return vec![(format!("{own}.{leaf}"), place.swapped(swapped))];
    }
    let block = |prefix: &str| layer.strip_prefix(prefix)?.split_once('.');
    if let Some((number, rest)) = block("double_blocks.") {
        let path = format!("transformer_blocks.{number}");
        let thirds = match rest {
            "img_attn.qkv" => Some(["attn.to_q", "attn.to_k", "attn.to_v"]),
            "txt_attn.qkv" => Some(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
            _ => None,
        };
        if let Some(layers) = thirds {
            let third =
                |(third, own): (usize, &str)| (format!("{path}.{own}.{leaf}"), place.clone().third(Some(third)));
            return layers.into_iter().enumerate().map(third).collect();
        }
        if let Some((_, own)) = DOUBLE.iter().find(|(original, _)| *original == rest) {
            return vec![(format!("{path}.{own}.{leaf}"), place)];
        }
    }
    if let Some((number, rest)) = block("single_blocks.") {
        let path = format!("single_transformer_blocks.{number}");
        if rest == "linear1" {
            let width = rows / 7;
            let part = |(own, first, count): (&str, usize, usize)| {
                let rows = first * width..(first + count) * width;
                (format!("{path}.{own}.{leaf}"), place.clone().rows(rows))
            };
            return LINEAR1.into_iter().map(part).collect();
        }
        if let Some((_, own)) = SINGLE.iter().find(|(original, _)| *original == rest) {
            return vec![(format!("{path}.{own}.{leaf}"), place)];
        }
    }
    as_it_is(place)
}

/// What the tensor `name` of Z-Image is in diffusers' naming.
fn z_image(name: &str, place: TensorLocation) -> Vec<(String, TensorLocation)> {
    if let Some(path) = name.strip_suffix(".attention.qkv.weight") {
        let third = |(third, own)| (format!("{path}.attention.{own}.weight"), place.clone().third(Some(third)));
        return ["to_q", "to_k", "to_v"].into_iter().enumerate().map(third).collect();
    }
    const ENDS: [(&str, &str); 3] = [
        (".attention.out.weight", ".attention.to_out.0.weight"),
        (".attention.q_norm.weight", ".attention.norm_q.weight"),
        (".attention.k_norm.weight", ".attention.norm_k.weight"),
    ];
    const STARTS: [(&str, &str); 2] =
        [("x_embedder.", "all_x_embedder.2-1."), ("final_layer.", "all_final_layer.2-1.")];
    let ended = ENDS.iter().find_map(|(original, own)| Some(format!("{}{own}", name.strip_suffix(original)?)));
    let started = STARTS.iter().find_map(|(original, own)| Some(format!("{own}{}", name.strip_prefix(original)?)));
    vec![(ended.or(started).unwrap_or_else(|| name.to_string()), place)]
}
