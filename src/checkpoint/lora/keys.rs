//! What a tensor of a LoRA file is: which layer of which part it changes, and which factor it is.
//! Every naming that is about is read; other kinds of adapter are known by name.

/// Which factor of a layer's change a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FactorRole {
    /// The factor that reads the layer's input: `lora_down`, `lora_A`.
    Down,
    /// The factor that makes its output: `lora_up`, `lora_B`.
    Up,
    /// The core between them (LyCORIS' Tucker form).
    Mid,
    /// What the product is scaled by, times the rank.
    Alpha,
}

/// A layer as a file names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Layer {
    /// The folder of the part that it is in: `unet`, `transformer`, `text_encoder` and so on. Files
    /// also say `unet` where the denoiser is a transformer.
    pub(super) part: &'static str,
    /// Its path in the part: with dots, or with underscores in their place (kohya), where only the
    /// part's own layers say which it is.
    pub(super) path: String,
}

/// What a tensor's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A factor of a layer's change, or what it is scaled by.
    Factor(Layer, FactorRole),
    /// A part of another kind of adapter, with the layer where the name tells it.
    Other(Option<Layer>, &'static str),
    /// Nothing that attnmap knows.
    Unknown,
}

/// Ends of names, longest first where one ends another. PEFT may put an adapter's name before the
/// last step, which is taken away first.
const ENDS: [(&str, FactorRole); 12] = [
    (".lora_linear_layer.down.weight", FactorRole::Down),
    (".lora_linear_layer.up.weight", FactorRole::Up),
    (".lora_A.weight", FactorRole::Down),
    (".lora_B.weight", FactorRole::Up),
    (".lora_down.weight", FactorRole::Down),
    (".lora_up.weight", FactorRole::Up),
    (".lora_mid.weight", FactorRole::Mid),
    (".lora.down.weight", FactorRole::Down),
    (".lora.up.weight", FactorRole::Up),
    ("_lora.down.weight", FactorRole::Down),
    ("_lora.up.weight", FactorRole::Up),
    (".alpha", FactorRole::Alpha),
];

/// Other kinds of adapter, by what their tensors' names hold.
const OTHERS: [(&str, &str); 16] = [
    (".dora_scale", "DoRA (a scale for each weight's length)"),
    (".lora_magnitude_vector", "DoRA (a scale for each weight's length)"),
    (".hada_w", "LoHa"),
    (".hada_t", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".w_norm", "norm differences (LyCORIS `norm`)"),
    (".b_norm", "norm differences (LyCORIS `norm`)"),
    (".a1.weight", "GLoRA"),
    (".on_input", "IA3"),
    (".lora_A.bias", "LoRA with biases"),
    (".lora_B.bias", "LoRA with biases"),
    (".lora_down.bias", "LoRA with biases"),
    (".lora_up.bias", "LoRA with biases"),
    ("_custom_diffusion.", "Custom Diffusion"),
    ("bundle_emb.", "embeddings bundled into a LoRA"),
];

/// Ends of the names of full weight differences. `.diffusion_model` begins as they do.
const DIFFERENCES: [&str; 2] = [".diff", ".diff_b"];

/// Ends of names in XLabs' files for FLUX.1, whose attention processors hold the layers, and the
/// authors' names of these (diffusers' `_convert_xlabs_flux_lora_to_diffusers`).
const XLABS: [(&str, &str); 6] = [
    (".processor.qkv_lora1.", ".img_attn.qkv.lora_"),
    (".processor.qkv_lora2.", ".txt_attn.qkv.lora_"),
    (".processor.proj_lora1.", ".img_attn.proj.lora_"),
    (".processor.proj_lora2.", ".txt_attn.proj.lora_"),
    (".processor.qkv_lora.", ".qkv.lora_"),
    (".processor.proj_lora.", ".linear2.lora_"),
];

/// Ends of the names of tensors that are added to a bias or a norm as they are.
const ADDED: [&str; 6] = [".diff", ".diff_b", ".w_norm", ".b_norm", ".lora_B.bias", ".lora_up.bias"];

/// Whether the numbers of the tensor `name` are added as they are, so that zeros change nothing.
pub(super) fn is_added(name: &str) -> bool {
    ADDED.iter().any(|end| name.ends_with(end))
}

/// What the tensor `name` is.
pub(super) fn parse(name: &str) -> Meaning {
    if let Some((theirs, authors)) = XLABS.iter().find(|(theirs, _)| name.contains(theirs)) {
        return parse(&name.replacen(theirs, authors, 1));
    }
    if let Some(path) = DIFFERENCES.iter().find_map(|end| name.strip_suffix(*end)) {
        return Meaning::Other(layer(path), "full weight differences (LyCORIS `full`)");
    }
    if let Some((at, kind)) = OTHERS.iter().find_map(|(part, kind)| Some((name.find(part)?, *kind))) {
        return Meaning::Other(layer(&name[..at]), kind);
    }
    let name = without_adapter(name);
    let found = ENDS.iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, *role)));
    if let Some((path, role)) = found {
        let layer = layer(path).or_else(|| outside(path));
        return layer.map_or(Meaning::Unknown, |layer| Meaning::Factor(layer, role));
    }
    // What else belongs to a layer may change what its factors mean.
    match name.rsplit_once('.').and_then(|(path, _)| layer(path)) {
        Some(layer) => Meaning::Other(Some(layer), "no factor that attnmap knows"),
        None => Meaning::Unknown,
    }
}

/// `...lora_A.weight` for PEFT's `...lora_A.NAME.weight`.
fn without_adapter(name: &str) -> String {
    let factor = name.strip_suffix(".weight").and_then(|rest| rest.rsplit_once('.'));
    match factor.filter(|(rest, _)| rest.ends_with(".lora_A") || rest.ends_with(".lora_B")) {
        Some((rest, _)) => format!("{rest}.weight"),
        None => name.to_string(),
    }
}

fn layer(path: &str) -> Option<Layer> {
    const PREFIXES: [(&str, &str); 19] = [
        ("lora_unet_", UNET),
        ("lora_te_", FIRST),
        ("lora_te1_", FIRST),
        ("lora_te2_", SECOND),
        ("lora_te3_", THIRD),
        // OneTrainer's.
        ("lora_transformer_", TRANSFORMER),
        ("transformer.", TRANSFORMER),
        ("text_encoder_3.", THIRD),
        ("text_encoders.t5xxl.transformer.", THIRD),
        ("t5xxl.transformer.", THIRD),
        ("unet.", UNET),
        ("text_encoder.", FIRST),
        ("text_encoder_2.", SECOND),
        // As ComfyUI saves them.
        ("diffusion_model.", UNET),
        ("model.diffusion_model.", UNET),
        ("text_encoders.clip_l.transformer.", FIRST),
        ("text_encoders.clip_g.transformer.", SECOND),
        ("clip_l.transformer.", FIRST),
        ("clip_g.transformer.", SECOND),
    ];
    // diffusers' first files had the UNet's layers without a prefix, and PEFT's own files hold one
    // model. So do those of DiffSynth-Studio for Z-Image.
    const BARE: [(&str, &str); 16] = [
        ("down_blocks.", UNET),
        ("mid_block.", UNET),
        ("up_blocks.", UNET),
        ("input_blocks.", UNET),
        ("middle_block.", UNET),
        ("output_blocks.", UNET),
        ("transformer_blocks.", UNET),
        ("single_transformer_blocks.", UNET),
        ("layers.", UNET),
        ("noise_refiner.", UNET),
        ("context_refiner.", UNET),
        ("joint_blocks.", UNET),
        ("double_blocks.", UNET),
        ("single_blocks.", UNET),
        ("text_model.", FIRST),
        ("encoder.layers.", FIRST),
    ];
    let peft = path.strip_prefix("base_model.model.");
    let path = peft.unwrap_or(path);
    let found = PREFIXES.iter().find_map(|(prefix, part)| Some((*part, path.strip_prefix(prefix)?)));
    let bare = || BARE.iter().find(|(start, _)| path.starts_with(start)).map(|(_, part)| (*part, path));
    let (part, path) = found.or_else(bare).or(peft.map(|path| (UNET, path)))?;
    Some(Layer { part, path: current(part, path) })
}

/// A layer outside of the denoiser's blocks, in a file of its layers without a prefix. Such names
/// are too plain to be known by but on a factor.
fn outside(path: &str) -> Option<Layer> {
    const LAYERS: [&str; 24] = [
        // The UNet's.
        "conv_in",
        "conv_out",
        "time_embedding",
        "add_embedding",
        "time_embed",
        "label_emb",
        "out",
        // Those of transformers, in diffusers' naming and in the authors'.
        "x_embedder",
        "context_embedder",
        "time_text_embed",
        "pos_embed",
        "norm_out",
        "proj_out",
        "cap_embedder",
        "t_embedder",
        "y_embedder",
        "all_x_embedder",
        "all_final_layer",
        "final_layer",
        "img_in",
        "txt_in",
        "time_in",
        "vector_in",
        "guidance_in",
    ];
    let first = path.split('.').next()?;
    LAYERS.contains(&first).then(|| Layer { part: UNET, path: path.to_string() })
}

const FIRST: &str = "text_encoder";
pub(super) const SECOND: &str = "text_encoder_2";
pub(super) const THIRD: &str = "text_encoder_3";
const TRANSFORMER: &str = "transformer";

pub(super) const UNET: &str = "unet";

/// The path of today for one that diffusers' attention processors wrote (`attn1.processor.to_q`,
/// `self_attn.to_q`), or that lacks the text encoder's prefix.
fn current(part: &str, path: &str) -> String {
    let path = path.replace(".processor.", ".");
    if part == THIRD {
        return path;
    }
    if part == UNET || part == TRANSFORMER {
        return match path.strip_suffix(".to_out") {
            Some(rest) => format!("{rest}.to_out.0"),
            None => path,
        };
    }
    let (attention, leaf) = path.rsplit_once('.').unwrap_or(("", &path));
    let path = match leaf {
        "to_q" | "to_k" | "to_v" => format!("{attention}.{}_proj", &leaf[3..]),
        "to_out" => format!("{attention}.out_proj"),
        _ => path,
    };
    // T5's encoder has blocks, and no such prefix.
    if path.starts_with("encoder.layers.") { format!("text_model.{path}") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_naming_is_read() {
        let attention = "down_blocks.0.attentions.1.transformer_blocks.0.attn1";
        let text = "text_model.encoder.layers.0";
        for (name, part, path, role) in [
            (
                "lora_unet_mid_block_resnets_0_conv1.lora_down.weight",
                UNET,
                "mid_block_resnets_0_conv1".into(),
                FactorRole::Down,
            ),
            (
                "lora_unet_mid_block_resnets_0_conv1.lora_mid.weight",
                UNET,
                "mid_block_resnets_0_conv1".into(),
                FactorRole::Mid,
            ),
            ("lora_te2_text_projection.alpha", "text_encoder_2", "text_projection".into(), FactorRole::Alpha),
            (
                &format!("unet.{attention}.to_out.0.lora_B.weight"),
                UNET,
                format!("{attention}.to_out.0"),
                FactorRole::Up,
            ),
            (
                &format!("unet.{attention}.processor.to_out_lora.up.weight"),
                UNET,
                format!("{attention}.to_out.0"),
                FactorRole::Up,
            ),
            (
                &format!("{attention}.processor.to_q_lora.down.weight"),
                UNET,
                format!("{attention}.to_q"),
                FactorRole::Down,
            ),
            (
                &format!("base_model.model.{attention}.to_k.lora_A.default.weight"),
                UNET,
                format!("{attention}.to_k"),
                FactorRole::Down,
            ),
            (
                &format!("text_encoder.{text}.self_attn.to_q_lora.up.weight"),
                "text_encoder",
                format!("{text}.self_attn.q_proj"),
                FactorRole::Up,
            ),
            (
                &format!("base_model.model.{attention}.to_k.lora_B.style.weight"),
                UNET,
                format!("{attention}.to_k"),
                FactorRole::Up,
            ),
            (
                "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
                "text_encoder",
                format!("{text}.self_attn.q_proj"),
                FactorRole::Down,
            ),
            (
                "diffusion_model.input_blocks.1.1.proj_in.lora_up.weight",
                UNET,
                "input_blocks.1.1.proj_in".into(),
                FactorRole::Up,
            ),
            (
                "model.diffusion_model.output_blocks.1.1.proj_in.lora_down.weight",
                UNET,
                "output_blocks.1.1.proj_in".into(),
                FactorRole::Down,
            ),
            (
                "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.lora_down.weight",
                "text_encoder_2",
                format!("{text}.mlp.fc1"),
                FactorRole::Down,
            ),
            (
                "double_blocks.3.processor.proj_lora2.up.weight",
                UNET,
                "double_blocks.3.txt_attn.proj".into(),
                FactorRole::Up,
            ),
            (
                "diffusion_model.single_blocks.3.processor.qkv_lora.down.weight",
                UNET,
                "single_blocks.3.qkv".into(),
                FactorRole::Down,
            ),
            ("layers.3.attention.to_q.lora_A.default.weight", UNET, "layers.3.attention.to_q".into(), FactorRole::Down),
            ("conv_in.lora_A.weight", UNET, "conv_in".into(), FactorRole::Down),
            ("time_in.in_layer.lora_B.weight", UNET, "time_in.in_layer".into(), FactorRole::Up),
            (
                "lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight",
                TRANSFORMER,
                "transformer_blocks_0_attn_to_q".into(),
                FactorRole::Down,
            ),
            (
                "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
                "text_encoder_2",
                "encoder.block.0.layer.0.SelfAttention.q".into(),
                FactorRole::Down,
            ),
            (
                "text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight",
                "text_encoder",
                format!("{text}.mlp.fc1"),
                FactorRole::Down,
            ),
        ] {
            assert_eq!(parse(name), Meaning::Factor(Layer { part, path }, role), "{name}");
        }
    }

    #[test]
    fn other_adapters_are_known_by_name() {
        let projection = |path: &str| Some(Layer { part: UNET, path: path.into() });
        let flat = || projection("mid_block_attentions_0_proj_in");
        for (name, layer, expected) in [
            ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", flat(), "DoRA"),
            (
                "unet.mid_block.attentions.0.proj_in.lora_magnitude_vector.weight",
                projection("mid_block.attentions.0.proj_in"),
                "DoRA",
            ),
            ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", flat(), "LoHa"),
            ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", flat(), "LoKr"),
            ("lora_unet_mid_block_attentions_0_proj_in.diff_b", flat(), "full weight differences"),
            (
                "model.diffusion_model.mid_block.attentions.0.proj_in.diff",
                projection("mid_block.attentions.0.proj_in"),
                "full weight differences",
            ),
            ("lora_unet_mid_block_attentions_0_proj_in.scalar", flat(), "no factor that attnmap knows"),
            ("bundle_emb.cat.string_to_param.*", None, "embeddings bundled"),
        ] {
            match parse(name) {
                Meaning::Other(found, kind) => assert!(found == layer && kind.contains(expected), "{name}: {kind}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        for name in ["other", "conv_in.weight", "prior.x.lora_A.weight"] {
            assert_eq!(parse(name), Meaning::Unknown, "{name}");
        }
    }
}
