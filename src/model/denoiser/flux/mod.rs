//! FLUX.1's transformer (diffusers `FluxTransformer2DModel`): blocks of two streams, then blocks of
//! one.

mod attention;
mod blocks;
mod embed;
mod pass;
mod prompt;
mod redraw;

pub use prompt::FluxPrompt;

use super::Conditioning;
use super::adaptive::modulated;
use super::sequence::{PatchOrder, Sequence, latent_of, patches_of};
use crate::checkpoint::FluxConfig;
use crate::model::Interrupt;
use crate::model::layers::{Builder, LayerNorm, Linear, MemoryOrder, RotaryAxes, RotaryTables};
use crate::trace::{AttentionObserver, Site};
use crate::{Error, Result};
use blocks::{DoubleBlock, SingleBlock, Streams};
use candle_core::{DType, Device, Tensor};
use embed::TimeTextEmbed;
use pass::{EPS, Pass};

/// Base of the frequencies that places turn by.
const THETA: f64 = 10000.0;
/// Sides of a patch, in cells of the latent.
const PATCH: usize = 2;

/// The denoiser of FLUX.1 dev and schnell.
#[derive(Debug, Clone)]
pub struct Flux {
    config: FluxConfig,
    x_embedder: Linear,
    context_embedder: Linear,
    time_text_embed: TimeTextEmbed,
    transformer_blocks: Vec<DoubleBlock>,
    single_transformer_blocks: Vec<SingleBlock>,
    norm: LayerNorm,
    /// `norm_out.linear`: scale and shift.
    norm_out: Linear,
    proj_out: Linear,
    pub(super) rotary: RotaryTables,
    layout: MemoryOrder,
    device: Device,
    dtype: DType,
    interrupt: Interrupt,
}

impl Flux {
    /// The network with the weights that `b` holds at its root.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn build(config: &FluxConfig, b: &Builder) -> Result<Self> {
        let width = config.width();
        let axes = RotaryAxes { theta: THETA, channels: config.axes_dims_rope.clone(), rounded: false };
        let double = |index| DoubleBlock::new(config, &b.pp("transformer_blocks").pp(index));
        let single = |index| SingleBlock::new(config, &b.pp("single_transformer_blocks").pp(index));
        Ok(Self {
            x_embedder: Linear::new(config.in_channels, width, &b.pp("x_embedder"))?,
            context_embedder: Linear::new(config.joint_attention_dim, width, &b.pp("context_embedder"))?,
            time_text_embed: TimeTextEmbed::new(config, &b.pp("time_text_embed"))?,
            transformer_blocks: (0..config.num_layers).map(double).collect::<Result<_>>()?,
            single_transformer_blocks: (0..config.num_single_layers).map(single).collect::<Result<_>>()?,
            norm: LayerNorm::without_affine(width, EPS, b)?,
            norm_out: Linear::new(width, 2 * width, &b.pp("norm_out").pp("linear"))?,
            proj_out: Linear::new(width, config.in_channels, &b.pp("proj_out"))?,
            rotary: RotaryTables::new(axes, config.num_attention_heads, b.device(), 1),
            layout: b.layout(),
            device: b.device().clone(),
            dtype: b.activations(),
            interrupt: Interrupt::default(),
            config: config.clone(),
        })
    }

    /// What ends a pass through the network, from any thread.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Channels of the latent that it takes.
    pub fn channels(&self) -> usize {
        self.config.latent_channels()
    }

    /// Whether the guidance scale is an input of the network.
    pub fn embeds_guidance(&self) -> bool {
        self.config.guidance_embeds
    }

    /// The joint attention sites in network order, for a latent of this size.
    pub fn sites(&self, latent_height: usize, latent_width: usize) -> Vec<Site> {
        self.config.joint_sites([latent_height, latent_width])
    }

    /// Text states and pooled prompt through their first layers.
    ///
    /// # Errors
    /// When a width is not the network's, or the pooled prompt is missing.
    pub fn prepare(&self, conditioning: &Conditioning) -> Result<FluxPrompt> {
        let (batch, tokens, width) = conditioning.hidden_states.dims3()?;
        if width != self.config.joint_attention_dim {
            return Err(Error::Unsupported {
                what: format!(
                    "text states of width {width} with a transformer for width {}",
                    self.config.joint_attention_dim
                ),
                way_out: "use the T5 that belongs to this transformer".into(),
            });
        }
        let Some(added) = &conditioning.added else {
            return Err(Error::Unsupported {
                what: "FLUX.1 without a pooled prompt".into(),
                way_out: "give Conditioning::added".into(),
            });
        };
        let states = conditioning.hidden_states.to_device(&self.device)?.to_dtype(self.dtype)?;
        let key_bias = conditioning.key_bias_on(&self.device)?;
        let told = self.time_text_embed.told(&added.pooled, conditioning.guidance)?;
        let states = self.context_embedder.forward(&states)?;
        Ok(FluxPrompt { states, told, key_bias, value_weights: None, concepts: None, batch, tokens })
    }

    /// The velocity for `latent` `[batch, channels, height, width]` at `timestep` (0 to 1000): f32
    /// of the same shape. Sides must be even.
    ///
    /// At each attention `observer` is asked first, then told what the image's queries give to the
    /// text's keys.
    ///
    /// # Errors
    /// When the batch of `latent` is not the prompt's, or the observer's own;
    /// [`Error::Interrupted`] where its [`interrupt`](Self::interrupt) asks for the end.
    pub fn forward(
        &self,
        latent: &Tensor,
        timestep: f64,
        prompt: &FluxPrompt,
        observer: &mut dyn AttentionObserver,
    ) -> Result<Tensor> {
        let (batch, channels, height, width) = latent.dims4()?;
        if batch != prompt.batch || channels != self.channels() {
            return Err(Error::bug(format!(
                "a latent of shape {:?} for a transformer of {} channels and a prompt of {} rows",
                latent.dims(),
                self.channels(),
                prompt.batch
            )));
        }
        let latent = latent.to_device(&self.device)?.to_dtype(self.dtype)?;
        let image = self.x_embedder.forward(&patches_of(&latent, PATCH, PatchOrder::ChannelsFirst)?)?;
        let (cells, tokens) = (image.dim(1)?, prompt.tokens);
        let time = self.time_text_embed.time(timestep)?.broadcast_add(&prompt.told)?.silu()?;
        let key_bias = prompt.key_bias.as_ref().map(|bias| bias.pad_with_zeros(1, 0, cells)).transpose()?;
        let concepts = match &prompt.concepts {
            Some((concepts, told)) => {
                Some((concepts, self.time_text_embed.time(timestep)?.broadcast_add(told)?.silu()?))
            }
            None => None,
        };
        let rotary = self.rotary.of(vec![places(tokens, [height / PATCH, width / PATCH])])?;
        let sites = self.sites(height, width);
        let mut pass = Pass {
            time: &time,
            rotary: &rotary,
            sequence: Sequence {
                cells: tokens..tokens + cells,
                others: 0..tokens,
                text: 0..tokens,
                bias: key_bias.as_ref(),
                value_weights: prompt.value_weights.as_ref(),
            },
            concepts: concepts.as_ref().map(|(concepts, time)| (*concepts, time)),
            sites: &sites,
            observer,
            interrupt: &self.interrupt,
        };
        let concepts = prompt.concepts.as_ref().map(|(concepts, _)| concepts.first()).transpose()?;
        let mut streams = Streams { text: prompt.states.clone(), image, concepts };
        for (index, block) in self.transformer_blocks.iter().enumerate() {
            streams = block.forward(&streams, index, &mut pass)?;
        }
        let mut both = Tensor::cat(&[&streams.text, &streams.image], 1)?;
        for (index, block) in self.single_transformer_blocks.iter().enumerate() {
            both = block.forward(&both, self.transformer_blocks.len() + index, &mut pass)?;
        }
        let image = both.narrow(1, tokens, cells)?.contiguous()?;
        let shift = self.norm_out.forward(&time)?.chunk(2, 1)?;
        let image = modulated(&self.norm.forward(&image)?, &shift[0], &shift[1])?;
        latent_of(&self.proj_out.forward(&image)?, PATCH, PatchOrder::ChannelsFirst, [height, width])
    }
}

/// Where text and image stand: all text at 0, the image at its rows and columns.
fn places(text: usize, [rows, columns]: [usize; 2]) -> Vec<[u32; 3]> {
    let cells = (0..rows as u32).flat_map(|row| (0..columns as u32).map(move |column| [0, row, column]));
    std::iter::repeat_n([0; 3], text).chain(cells).collect()
}
