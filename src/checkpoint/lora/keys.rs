//! What a tensor of a LoRA file is: which layer of which part it changes, and which factor it is. Every naming that is about is read;
//! other kinds of adapter are refused by name.

/// Which factor of a layer's change a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
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
    /// The folder of the part that it is in: `unet`, `text_encoder` or `text_encoder_2`.
    pub(super) part: &'static str,
    /// Its path in the part: with dots, or with underscores in their place (kohya), where only the part's own layers say which it is.
    pub(super) path: String,
}

/// Ends of names, longest first where one ends another.
const ENDS: [(&str, Role); 14] = [
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".alpha", Role::Alpha),
];

/// Other kinds of adapter, by what their tensors' names hold.
const OTHERS: [(&str, &str); 13] = [
    (".dora_scale", "DoRA (a scale for each weight's length)"),
    ("lora_magnitude_vector", "DoRA (a scale for each weight's length)"),
    (".hada_w", "LoHa"),
    (".hada_t", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".diff", "full weight differences (LyCORIS `full`)"),
    (".w_norm", "norm differences (LyCORIS `norm`)"),
    (".b_norm", "norm differences (LyCORIS `norm`)"),
    (".a1.weight", "GLoRA"),
    (".on_input", "IA3"),
    ("lora_B.bias", "LoRA with biases"),
    ("bundle_emb.", "embeddings bundled into a LoRA"),
];

/// The layer and role of the tensor `name`; the error says what it is instead.
pub(super) fn parse(name: &str) -> Result<(Layer, Role), String> {
    if let Some((_, kind)) = OTHERS.iter().find(|(part, _)| name.contains(part)) {
        return Err(format!(
            "tensor `{name}` is {kind}, which is not supported; plain LoRA (with or without convolutions) is"
        ));
    }
    let unknown = || format!("tensor `{name}` is no part of a LoRA that attnmap knows");
    let (path, role) =
        ENDS.iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, *role))).ok_or_else(unknown)?;
    Ok((layer(path).ok_or_else(unknown)?, role))
}

fn layer(path: &str) -> Option<Layer> {
    const PREFIXES: [(&str, &str); 8] = [
        ("lora_unet_", UNET),
        ("lora_te_", "text_encoder"),
        ("lora_te1_", "text_encoder"),
        ("lora_te2_", "text_encoder_2"),
        ("unet.", UNET),
        ("text_encoder.", "text_encoder"),
        ("text_encoder_2.", "text_encoder_2"),
        // PEFT's own files hold one model.
        ("base_model.model.", UNET),
    ];
    let found = PREFIXES.iter().find_map(|(prefix, part)| Some((*part, path.strip_prefix(prefix)?)));
    // diffusers' first files had the UNet's layers without a prefix.
    let bare = ["down_blocks.", "mid_block.", "up_blocks."].iter().any(|start| path.starts_with(start));
    let (part, path) = found.or_else(|| bare.then_some((UNET, path)))?;
    Some(Layer { part, path: current(part, path) })
}

const UNET: &str = "unet";

/// The path of today for one that diffusers' attention processors wrote (`attn1.processor.to_q`, `self_attn.to_q`), or that lacks
/// the text encoder's prefix.
fn current(part: &str, path: &str) -> String {
    let path = path.replace(".processor.", ".");
    if part == UNET {
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
    if path.starts_with("encoder.") { format!("text_model.{path}") } else { path }
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
                Role::Down,
            ),
            (
                "lora_unet_mid_block_resnets_0_conv1.lora_mid.weight",
                UNET,
                "mid_block_resnets_0_conv1".into(),
                Role::Mid,
            ),
            ("lora_te2_text_projection.alpha", "text_encoder_2", "text_projection".into(), Role::Alpha),
            (&format!("unet.{attention}.to_out.0.lora_B.weight"), UNET, format!("{attention}.to_out.0"), Role::Up),
            (
                &format!("unet.{attention}.processor.to_out_lora.up.weight"),
                UNET,
                format!("{attention}.to_out.0"),
                Role::Up,
            ),
            (&format!("{attention}.processor.to_q_lora.down.weight"), UNET, format!("{attention}.to_q"), Role::Down),
            (
                &format!("base_model.model.{attention}.to_k.lora_A.default.weight"),
                UNET,
                format!("{attention}.to_k"),
                Role::Down,
            ),
            (
                &format!("text_encoder.{text}.self_attn.to_q_lora.up.weight"),
                "text_encoder",
                format!("{text}.self_attn.q_proj"),
                Role::Up,
            ),
            (
                "text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight",
                "text_encoder",
                format!("{text}.mlp.fc1"),
                Role::Down,
            ),
        ] {
            assert_eq!(parse(name), Ok((Layer { part, path }, role)), "{name}");
        }
    }

    #[test]
    fn other_adapters_are_refused_by_name() {
        for (name, expected) in [
            ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "DoRA"),
            ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector.weight", "DoRA"),
            ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
            ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
            ("lora_unet_mid_block_attentions_0_norm.diff", "full weight differences"),
            ("lora_unet_x.other", "no part of a LoRA"),
            ("conv_in.weight", "no part of a LoRA"),
            ("prior.x.lora_A.weight", "no part of a LoRA"),
        ] {
            let message = parse(name).unwrap_err();
            assert!(message.contains(expected) && message.contains(name), "{message}");
        }
    }
}
