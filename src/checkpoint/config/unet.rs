//! `unet/config.json`: the shape of a `UNet2DConditionModel`.
//!
//! Field names, defaults and meaning follow diffusers' `models/unets/unet_2d_condition.py` (0.42).

use super::fields::Fields;
use super::lists::{PerBlock, pair};
use crate::Result;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// A UNet in diffusers' terms, every per-block field given once per block.
///
/// [`Default`] gives diffusers' defaults, which are Stable Diffusion 1's shape but for
/// `cross_attention_dim`. Lists are in the order of the down blocks, finest first, unless their
/// name says `up`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnetConfig {
    /// The latent's height and width that the model was trained at, in latent pixels.
    pub sample_size: Option<[usize; 2]>,
    /// Channels of the input latent.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether the timestep embedding has cosines first.
    pub flip_sin_to_cos: bool,
    /// Offset in the timestep embedding's frequencies (diffusers' `downscale_freq_shift`).
    pub freq_shift: f64,
    /// Kinds of the down blocks.
    pub down_block_types: Vec<BlockType>,
    /// Kind of the mid block: with cross-attention, or a single resnet (`UNetMidBlock2D`: SSD-1B,
    /// Vega); a few distilled models have none at all (KOALA-700M).
    pub mid_block: Option<BlockType>,
    /// Kinds of the up blocks, coarsest first.
    pub up_block_types: Vec<BlockType>,
    /// Output channels of each down block.
    pub block_out_channels: Vec<usize>,
    /// Resnets in each down block; the matching up block has one more.
    pub layers_per_block: Vec<usize>,
    /// Padding of the down-sampling convolutions.
    pub downsample_padding: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Epsilon of the group norms in resnets and at the output (transformers use 1e-6).
    pub norm_eps: f64,
    /// Width of the prompt's hidden states, per block.
    pub cross_attention_dim: Vec<usize>,
    /// Transformer blocks in each attention of the down blocks, `[block][layer]`.
    pub transformer_layers_per_block: Vec<Vec<usize>>,
    /// Transformer blocks in each attention of the up blocks, coarsest first, `[block][layer]`.
    pub up_transformer_layers_per_block: Vec<Vec<usize>>,
    /// Transformer blocks in the mid block's attention.
    pub mid_transformer_layers: usize,
    /// Attention heads per block. The file calls this `attention_head_dim`, a known misnomer that
    /// diffusers keeps.
    pub num_attention_heads: Vec<usize>,
    /// Whether the transformers' projections in and out are linear layers (SD 2) or 1x1
    /// convolutions (SD 1).
    pub use_linear_projection: bool,
    /// Whether attention scores are to be formed in f32 whatever the model's dtype.
    pub upcast_attention: bool,
    /// Width of the timestep embedding.
    pub time_embed_dim: usize,
    /// What is embedded beside the timestep; `None` in SD 1 and 2.
    pub addition: Option<Addition>,
    /// Width of the embedding of the guidance scale that a consistency-distilled (LCM) UNet was
    /// trained with; `None` elsewhere.
    pub time_cond_proj_dim: Option<usize>,
}

/// SDXL's embedding beside the timestep (`addition_embed_type` `text_time`): the pooled prompt, and
/// size and crop as sinusoids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Addition {
    /// Waves for each number of the size and crop conditions.
    pub time_embed_dim: usize,
    /// Width of all that is embedded: the pooled prompt and the waves of all numbers.
    pub input_dim: usize,
}

/// The kind of a down or up block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum BlockType {
    /// Resnets, each followed by a transformer (`CrossAttnDownBlock2D`, `CrossAttnUpBlock2D`).
    CrossAttention,
    /// Resnets alone (`DownBlock2D`, `UpBlock2D`).
    Plain,
}

/// One down, mid or up block with everything resolved; channels of single resnets follow from
/// these.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnetBlock {
    /// With or without attention.
    pub kind: BlockType,
    /// Channels that come in: from the block before.
    pub in_channels: usize,
    /// Channels that go out.
    pub out_channels: usize,
    /// Channels of the skip connection that the last resnet of an up block sees; equal to
    /// `in_channels` elsewhere.
    pub skip_channels: usize,
    /// Number of resnets (the mid block has one more than this).
    pub layers: usize,
    /// Transformer blocks in each attention; as many entries as attentions, empty for a plain
    /// block.
    pub transformer_layers: Vec<usize>,
    /// Attention heads.
    pub heads: usize,
    /// Width of the prompt's hidden states.
    pub cross_attention_dim: usize,
    /// Whether a down- or up-sampler follows.
    pub sampler: bool,
}

impl Default for UnetConfig {
    fn default() -> Self {
        Self::from_json(b"{}", Path::new("config.json")).expect("diffusers' defaults are a supported config")
    }
}

impl UnetConfig {
    /// Reads the bytes of a `unet/config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field for anything malformed, unknown, or
    /// asking for what attnmap does not do.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        let config = Self::read(&mut fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn read(fields: &mut Fields) -> Result<Self> {
        refuse_unsupported(fields)?;
        // Dropout and the head count of an absent text embedding have no effect when generating.
        fields.inert(&["dropout", "addition_embed_type_num_heads"]);

        let down_block_types = block_types(
            fields,
            "down_block_types",
            ["CrossAttnDownBlock2D", "DownBlock2D"],
            &["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        )?;
        let up_block_types = block_types(
            fields,
            "up_block_types",
            ["CrossAttnUpBlock2D", "UpBlock2D"],
            &["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        )?;
        let blocks = down_block_types.len();
        if blocks == 0 {
            return Err(fields.refuse("`down_block_types` is empty"));
        }
        if up_block_types.len() != blocks {
            return Err(fields
                .refuse(format!("`up_block_types` has {} entries for {blocks} down blocks", up_block_types.len())));
        }
        let block_out_channels: Vec<usize> = fields.take("block_out_channels", vec![320, 640, 1280, 1280])?;
        if block_out_channels.len() != blocks {
            return Err(fields.refuse(format!(
                "`block_out_channels` has {} entries for {blocks} down blocks",
                block_out_channels.len()
            )));
        }
        let mid_block = match fields.take("mid_block_type", Some("UNetMidBlock2DCrossAttn".to_string()))?.as_deref() {
            None => None,
            Some("UNetMidBlock2DCrossAttn") => Some(BlockType::CrossAttention),
            Some("UNetMidBlock2D") => Some(BlockType::Plain),
            Some(name) => {
                let supported = "UNetMidBlock2DCrossAttn, UNetMidBlock2D or null";
                return Err(fields.unsupported("mid_block_type", &json!(name), supported));
            }
        };
        let layers_per_block = PerBlock::take(fields, "layers_per_block", 2)?.expand(fields, blocks)?;
        let (transformer_layers_per_block, up_transformer_layers_per_block) =
            transformer_layers(fields, &layers_per_block)?;
        // diffusers hands the last down block's entry to the mid block, whose single attention
        // takes the first of it.
        let mid_transformer_layers = transformer_layers_per_block
            .last()
            .and_then(|layers| layers.first())
            .copied()
            .ok_or_else(|| fields.refuse("`transformer_layers_per_block` gives the last block no layer"))?;
        let num_attention_heads = PerBlock::take(fields, "attention_head_dim", 8)?.expand(fields, blocks)?;
        let cross_attention_dim = PerBlock::take(fields, "cross_attention_dim", 1280)?.expand(fields, blocks)?;
        let time_embed_dim = fields.take::<Option<usize>>("time_embedding_dim", None)?;
        let norm_num_groups = fields.take("norm_num_groups", Some(32usize))?;

        let config = Self {
            sample_size: trained_size(fields)?,
            in_channels: fields.take("in_channels", 4)?,
            out_channels: fields.take("out_channels", 4)?,
            flip_sin_to_cos: fields.take("flip_sin_to_cos", true)?,
            freq_shift: fields.take("freq_shift", 0.0)?,
            downsample_padding: fields.take("downsample_padding", 1)?,
            norm_num_groups: norm_num_groups
                .ok_or_else(|| fields.unsupported("norm_num_groups", &Value::Null, "a number of groups"))?,
            norm_eps: fields.take("norm_eps", 1e-5)?,
            use_linear_projection: fields.take("use_linear_projection", false)?,
            // SDXL's config has null here.
            upcast_attention: fields.take("upcast_attention", Some(false))?.unwrap_or(false),
            time_embed_dim: time_embed_dim.unwrap_or_else(|| block_out_channels[0].saturating_mul(4)),
            down_block_types,
            mid_block,
            up_block_types,
            block_out_channels,
            layers_per_block,
            cross_attention_dim,
            transformer_layers_per_block,
            up_transformer_layers_per_block,
            mid_transformer_layers,
            num_attention_heads,
            addition: addition(fields)?,
            time_cond_proj_dim: fields.take("time_cond_proj_dim", None)?,
        };
        config.check(fields)?;
        Ok(config)
    }

    /// Numbers that cannot make a network.
    fn check(&self, fields: &Fields) -> Result<()> {
        if ![4, 9].contains(&self.in_channels) {
            return Err(fields.refuse(format!(
                "`in_channels` is {}, which is not supported (only 4 is, and 9 of an inpainting checkpoint; 8 is an \
                 instruction-editing one)",
                self.in_channels
            )));
        }
        if self.out_channels != 4 {
            return Err(fields.unsupported("out_channels", &json!(self.out_channels), "4"));
        }
        if self.norm_num_groups == 0 {
            return Err(fields.refuse("`norm_num_groups` is 0"));
        }
        if self.time_embed_dim == 0 || self.time_embed_dim > MAX_WIDTH {
            return Err(fields.refuse(format!("`time_embedding_dim` is {}", self.time_embed_dim)));
        }
        if let Some(width) = self.time_cond_proj_dim.filter(|width| !(4..=MAX_WIDTH).contains(width)) {
            return Err(fields.refuse(format!("`time_cond_proj_dim` is {width}")));
        }
        if self.downsample_padding > 1 {
            return Err(fields.unsupported("downsample_padding", &json!(self.downsample_padding), "0 or 1"));
        }
        let attends = |index: usize| {
            let up = self.up_block_types.len() - 1 - index;
            self.down_block_types[index] == BlockType::CrossAttention
                || self.up_block_types[up] == BlockType::CrossAttention
                || (self.mid_block == Some(BlockType::CrossAttention) && index + 1 == self.down_block_types.len())
        };
        for (index, &channels) in self.block_out_channels.iter().enumerate() {
            if channels == 0 || channels > MAX_WIDTH || channels % self.norm_num_groups != 0 {
                return Err(fields.refuse(format!(
                    "`block_out_channels` has {channels}, which is not a multiple of `norm_num_groups` ({})",
                    self.norm_num_groups
                )));
            }
            let heads = self.num_attention_heads[index];
            if attends(index) && (heads == 0 || channels % heads != 0) {
                return Err(fields.refuse(format!(
                    "`attention_head_dim` (the number of heads) is {heads}, which does not divide {channels} channels"
                )));
            }
            if !(1..=MAX_DEPTH).contains(&self.layers_per_block[index]) {
                return Err(fields.refuse(format!("`layers_per_block` has {}", self.layers_per_block[index])));
            }
            if !(1..=MAX_WIDTH).contains(&self.cross_attention_dim[index]) {
                return Err(fields.refuse(format!("`cross_attention_dim` has {}", self.cross_attention_dim[index])));
            }
        }
        Ok(())
    }

    /// The down blocks, finest first.
    pub fn down_blocks(&self) -> Vec<UnetBlock> {
        let count = self.down_block_types.len();
        (0..count)
            .map(|index| {
                let in_channels = self.block_out_channels[index.saturating_sub(1)];
                let kind = self.down_block_types[index];
                UnetBlock {
                    kind,
                    in_channels,
                    out_channels: self.block_out_channels[index],
                    skip_channels: in_channels,
                    layers: self.layers_per_block[index],
                    transformer_layers: attentions(kind, &self.transformer_layers_per_block[index]),
                    heads: self.num_attention_heads[index],
                    cross_attention_dim: self.cross_attention_dim[index],
                    sampler: index + 1 != count,
                }
            })
            .collect()
    }

    /// The mid block: resnet, then `layers` times (none in a plain block) a transformer and a
    /// resnet. `None` where the model has none.
    pub fn mid_block(&self) -> Option<UnetBlock> {
        let last = self.block_out_channels.len() - 1;
        let channels = self.block_out_channels[last];
        self.mid_block.map(|kind| UnetBlock {
            kind,
            in_channels: channels,
            out_channels: channels,
            skip_channels: channels,
            layers: usize::from(kind == BlockType::CrossAttention),
            transformer_layers: attentions(kind, &[self.mid_transformer_layers]),
            heads: self.num_attention_heads[last],
            cross_attention_dim: self.cross_attention_dim[last],
            sampler: false,
        })
    }

    /// The up blocks, coarsest first. Resnet `i` takes the running tensor (`in_channels` for the
    /// first, else `out_channels`) joined with a skip connection of `out_channels` (`skip_channels`
    /// for the last).
    pub fn up_blocks(&self) -> Vec<UnetBlock> {
        let count = self.up_block_types.len();
        (0..count)
            .map(|index| {
                let mirror = count - 1 - index;
                let kind = self.up_block_types[index];
                UnetBlock {
                    kind,
                    in_channels: self.block_out_channels[(mirror + 1).min(count - 1)],
                    out_channels: self.block_out_channels[mirror],
                    skip_channels: self.block_out_channels[mirror.saturating_sub(1)],
                    layers: self.layers_per_block[mirror] + 1,
                    transformer_layers: attentions(kind, &self.up_transformer_layers_per_block[index]),
                    heads: self.num_attention_heads[mirror],
                    cross_attention_dim: self.cross_attention_dim[mirror],
                    sampler: index + 1 != count,
                }
            })
            .collect()
    }
}

/// Wider than any network that exists; keeps products of sizes from a hostile file within range.
const MAX_WIDTH: usize = 1 << 16;
/// Deeper than any network that exists.
pub(super) const MAX_DEPTH: usize = 1 << 8;

fn attentions(kind: BlockType, layers: &[usize]) -> Vec<usize> {
    if kind == BlockType::CrossAttention { layers.to_vec() } else { Vec::new() }
}

/// SDXL's fields, all or none.
fn addition(fields: &mut Fields) -> Result<Option<Addition>> {
    const TIME: &str = "addition_time_embed_dim";
    const INPUT: &str = "projection_class_embeddings_input_dim";
    match fields.take_value("addition_embed_type") {
        None => {
            fields.only(TIME, &[Value::Null])?;
            fields.only(INPUT, &[Value::Null])?;
            return Ok(None);
        }
        Some(value) if value == json!("text_time") => {}
        Some(value) => return Err(fields.unsupported("addition_embed_type", &value, "\"text_time\" or null")),
    }
    let addition = Addition { time_embed_dim: fields.required(TIME)?, input_dim: fields.required(INPUT)? };
    for (name, width) in [(TIME, addition.time_embed_dim), (INPUT, addition.input_dim)] {
        if !(1..=MAX_WIDTH).contains(&width) {
            return Err(fields.refuse(format!("`{name}` is {width}")));
        }
    }
    Ok(Some(addition))
}

/// Takes the fields of which only one value is supported.
fn refuse_unsupported(fields: &mut Fields) -> Result<()> {
    if let Some(value) = fields.take_value("only_cross_attention") {
        let all_false = match &value {
            Value::Array(items) => items.iter().all(|item| item == &json!(false)),
            value => value == &json!(false),
        };
        if !all_false {
            return Err(fields.unsupported("only_cross_attention", &value, "false"));
        }
    }
    for name in [
        "num_attention_heads",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "class_embed_type",
        "num_class_embeds",
        "time_embedding_act_fn",
        "timestep_post_act",
        "cross_attention_norm",
    ] {
        fields.only(name, &[Value::Null])?;
    }
    for name in ["center_input_sample", "dual_cross_attention", "resnet_skip_time_act", "class_embeddings_concat"] {
        fields.only(name, &[json!(false)])?;
    }
    fields.only("mid_block_only_cross_attention", &[Value::Null, json!(false)])?;
    fields.only("act_fn", &[json!("silu"), json!("swish")])?;
    fields.only("time_embedding_type", &[json!("positional")])?;
    fields.only("attention_type", &[json!("default")])?;
    fields.only("resnet_time_scale_shift", &[json!("default")])?;
    for name in ["mid_block_scale_factor", "resnet_out_scale_factor"] {
        fields.only(name, &[json!(1)])?;
    }
    for name in ["conv_in_kernel", "conv_out_kernel"] {
        fields.only(name, &[json!(3)])?;
    }
    Ok(())
}

/// Reads a list of block names; `[attention, plain]` are the supported ones.
fn block_types(fields: &mut Fields, name: &str, supported: [&str; 2], default: &[&str]) -> Result<Vec<BlockType>> {
    let names: Vec<String> = fields.take(name, default.iter().map(|name| name.to_string()).collect())?;
    names
        .iter()
        .map(|block| {
            // Configs of 2022 may carry this prefix, which diffusers strips too (`get_down_block`).
            let block = block.strip_prefix("UNetRes").unwrap_or(block);
            match supported.iter().position(|supported| *supported == block) {
                Some(0) => Ok(BlockType::CrossAttention),
                Some(_) => Ok(BlockType::Plain),
                None => Err(fields.unsupported(name, &json!(block), &supported.join(" or "))),
            }
        })
        .collect()
}

/// Transformer blocks by `[block][layer]`.
type Depths = Vec<Vec<usize>>;

/// `transformer_layers_per_block` and its reverse, as `[block][layer]` for the down and for the up
/// blocks.
fn transformer_layers(fields: &mut Fields, layers: &[usize]) -> Result<(Depths, Depths)> {
    let blocks = layers.len();
    let down = fields.take("transformer_layers_per_block", PerBlock::All(PerBlock::All(1usize)))?;
    let reverse = fields.take::<Option<Vec<PerBlock<usize>>>>("reverse_transformer_layers_per_block", None)?;
    let down: Vec<PerBlock<usize>> = match down {
        PerBlock::All(count) => vec![count; blocks],
        PerBlock::Each(list) => list,
    };
    let up = match reverse {
        Some(list) => list,
        None if down.iter().any(|count| matches!(count, PerBlock::Each(_))) => {
            return Err(fields.refuse(
                "`transformer_layers_per_block` has nested lists, so `reverse_transformer_layers_per_block` is needed",
            ));
        }
        None => down.iter().rev().cloned().collect(),
    };
    let expand = |list: Vec<PerBlock<usize>>, name: &str, counts: Vec<usize>| -> Result<Vec<Vec<usize>>> {
        if list.len() != blocks {
            return Err(fields.refuse(format!("`{name}` has {} entries for {blocks} blocks", list.len())));
        }
        list.into_iter()
            .zip(counts)
            .map(|(entry, count)| {
                let entry = match entry {
                    PerBlock::All(depth) if count <= MAX_DEPTH + 1 => vec![depth; count],
                    PerBlock::All(_) => return Err(fields.refuse(format!("`layers_per_block` has {count}"))),
                    PerBlock::Each(depths) => depths,
                };
                match entry.iter().find(|depth| **depth > MAX_DEPTH) {
                    Some(depth) => Err(fields.refuse(format!("`{name}` has {depth}"))),
                    None if entry.len() != count => {
                        Err(fields.refuse(format!("`{name}` has a list of {} for {count} layers", entry.len())))
                    }
                    None => Ok(entry),
                }
            })
            .collect()
    };
    let down_counts = layers.to_vec();
    let up_counts = layers.iter().rev().map(|count| count.saturating_add(1)).collect();
    let down = expand(down, "transformer_layers_per_block", down_counts)?;
    let up = expand(up, "reverse_transformer_layers_per_block", up_counts)?;
    Ok((down, up))
}

/// `sample_size`, but for fine-tunes of Stable Diffusion 1 by diffusers before 0.9. Their configs
/// say less than 64, as the original ones did, and the pipelines take 64
/// (`pipeline_stable_diffusion.py`).
fn trained_size(fields: &mut Fields) -> Result<Option<[usize; 2]>> {
    const TRAINED: usize = 64;
    let version: Option<String> = fields.take("_diffusers_version", None)?;
    let mut parts = version.iter().flat_map(|version| version.split('.')).map(str::parse::<usize>);
    let early = matches!((parts.next(), parts.next()), (Some(Ok(0)), Some(Ok(..9))));
    let size = pair(fields, "sample_size")?;
    Ok(size.map(|size| match size {
        [height, width] if early && height == width && height < TRAINED => [TRAINED; 2],
        other => other,
    }))
}
