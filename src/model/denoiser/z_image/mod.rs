//! Z-Image's transformer (diffusers `ZImageTransformer2DModel`): text and image in one stream.
//!
//! Image and text are each filled up to a multiple of 32 tokens, and go through some blocks of
//! their own first. Keys are those of the image, then those of the text.

mod block;
mod embed;
mod prompt;
mod redraw;

pub use prompt::ZImagePrompt;

use super::Conditioning;
use super::sequence::{PatchOrder, Sequence, Watch, latent_of, patches_of};
use crate::checkpoint::ZImageConfig;
use crate::model::Interrupt;
use crate::model::layers::{Builder, LayerNorm, Linear, MemoryOrder, RmsNorm, RotaryAxes, RotaryTables};
use crate::trace::{AttentionObserver, Site};
use crate::{Error, Result};
use block::{Beside, Block, PlacedConcepts};
use candle_core::{D, DType, Device, Tensor};
use embed::TimestepEmbedder;

/// Text and image are each filled up to a multiple of so many tokens.
const MULTIPLE: usize = 32;
/// Epsilon of the norm behind the last block.
const FINAL_EPS: f64 = 1e-6;
/// Tables of places that one step needs: of the image, of image and text, of concepts.
const TABLES: usize = 3;

/// The denoiser of Z-Image and Z-Image-Turbo.
#[derive(Debug, Clone)]
pub struct ZImage {
    config: ZImageConfig,
    x_embedder: Linear,
    t_embedder: TimestepEmbedder,
    cap_norm: RmsNorm,
    cap_embedder: Linear,
    /// `[1, dim]`, what the image and the text are filled up with.
    x_pad_token: Tensor,
    cap_pad_token: Tensor,
    noise_refiner: Vec<Block>,
    context_refiner: Vec<Block>,
    layers: Vec<Block>,
    norm_final: LayerNorm,
    /// `all_final_layer.*.adaLN_modulation.1`: a scale.
    final_scale: Linear,
    final_linear: Linear,
    pub(super) rotary: RotaryTables,
    layout: MemoryOrder,
    device: Device,
    dtype: DType,
    interrupt: Interrupt,
}

impl ZImage {
    /// The network with the weights that `b` holds at its root.
    ///
    /// # Errors
    /// When a weight is not there in the shape that `config` gives it.
    pub fn build(config: &ZImageConfig, b: &Builder) -> Result<Self> {
        let (dim, patch) = (config.dim, config.patch_size);
        let values = patch * patch * config.in_channels;
        let kind = format!("{patch}-1");
        let end = b.pp("all_final_layer").pp(&kind);
        let axes = RotaryAxes { theta: config.rope_theta, channels: config.axes_dims.clone(), rounded: true };
        let blocks = |name: &str, count, modulated| -> Result<Vec<Block>> {
            (0..count).map(|index| Block::new(config, modulated, &b.pp(name).pp(index))).collect()
        };
        Ok(Self {
            x_embedder: Linear::new(values, dim, &b.pp("all_x_embedder").pp(&kind))?,
            t_embedder: TimestepEmbedder::new(config, &b.pp("t_embedder"))?,
            cap_norm: RmsNorm::new(config.cap_feat_dim, config.norm_eps, &b.pp("cap_embedder").pp(0))?,
            cap_embedder: Linear::new(config.cap_feat_dim, dim, &b.pp("cap_embedder").pp(1))?,
            x_pad_token: b.get((1, dim), "x_pad_token")?.to_dtype(b.activations())?,
            cap_pad_token: b.get((1, dim), "cap_pad_token")?.to_dtype(b.activations())?,
            noise_refiner: blocks("noise_refiner", config.n_refiner_layers, true)?,
            context_refiner: blocks("context_refiner", config.n_refiner_layers, false)?,
            layers: blocks("layers", config.n_layers, true)?,
            norm_final: LayerNorm::without_affine(dim, FINAL_EPS, b)?,
            final_scale: Linear::new(config.time_width(), dim, &end.pp("adaLN_modulation").pp(1))?,
            final_linear: Linear::new(dim, values, &end.pp("linear"))?,
            rotary: RotaryTables::new(axes, config.n_heads, b.device(), TABLES),
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
        self.config.in_channels
    }

    /// The joint attention sites in network order, for a latent of this size.
    pub fn sites(&self, latent_height: usize, latent_width: usize) -> Vec<Site> {
        self.config.joint_sites([latent_height, latent_width])
    }

    /// Text states through their own blocks. [`Conditioning::lengths`] says how many of each row
    /// are the prompt's; the tokens behind them are dropped.
    ///
    /// # Errors
    /// When the width is not the network's, or a row is longer than its places reach.
    pub fn prepare(&self, conditioning: &Conditioning) -> Result<ZImagePrompt> {
        let (batch, given, width) = conditioning.hidden_states.dims3()?;
        if width != self.config.cap_feat_dim {
            return Err(Error::Unsupported {
                what: format!("text states of width {width} with a transformer for width {}", self.config.cap_feat_dim),
                way_out: "use the text encoder that belongs to this transformer".into(),
            });
        }
        let whole = vec![given; batch];
        let lengths = conditioning.lengths.as_ref().unwrap_or(&whole);
        if lengths.len() != batch || lengths.iter().any(|length| !(1..=given).contains(length)) {
            return Err(Error::bug(format!("{lengths:?} tokens of {batch} rows of {given}")));
        }
        let padded: Vec<usize> = lengths.iter().map(|length| length.next_multiple_of(MULTIPLE)).collect();
        let tokens = padded.iter().copied().max().unwrap_or(MULTIPLE);
        let most = self.config.axes_lens.first().copied().unwrap_or(0);
        // The image stands one place behind the text.
        if tokens + 2 > most {
            return Err(Error::Unsupported {
                what: format!("a prompt of {tokens} tokens, and this transformer has {most} places"),
                way_out: "shorten the prompt".into(),
            });
        }
        let states = conditioning.hidden_states.to_device(&self.device)?.to_dtype(self.dtype)?;
        let states = self.cap_embedder.forward(&self.cap_norm.forward(&states)?)?;
        let mut rows = Vec::with_capacity(batch);
        for (row, length) in lengths.iter().enumerate() {
            let own = states.narrow(0, row, 1)?.narrow(1, 0, *length)?;
            let fill = self.cap_pad_token.unsqueeze(0)?.broadcast_as((1, tokens - length, self.config.dim))?;
            rows.push(Tensor::cat(&[&own, &fill.contiguous()?], 1)?);
        }
        let mut states = Tensor::cat(&rows, 0)?;
        let key_bias = match conditioning.key_bias_on(&self.device)? {
            Some(bias) => {
                let kept = bias.narrow(1, 0, given.min(tokens))?;
                Some(kept.pad_with_zeros(1, 0, tokens - given.min(tokens))?)
            }
            None => None,
        };
        let hidden = hidden(&padded, tokens, &self.device)?;
        let places: Vec<Vec<[u32; 3]>> =
            padded.iter().map(|count| (1..=*count as u32).map(|at| [at, 0, 0]).collect()).collect();
        let rotary = self.rotary.of(places)?;
        for block in &self.context_refiner {
            self.interrupt.check()?;
            let sequence = Sequence::unseen(hidden.as_ref());
            let beside = Beside { time: None, rotary: &rotary, sequence: &sequence };
            (states, _) = block.forward(&states, &beside, None, None)?;
        }
        let key_bias = match (key_bias, hidden) {
            (Some(bias), Some(hidden)) => Some((bias + hidden)?),
            (bias, hidden) => bias.or(hidden),
        };
        Ok(ZImagePrompt { states, padded, key_bias, value_weights: None, concepts: None, batch, tokens })
    }

    /// The velocity for `latent` `[batch, channels, height, width]` at `timestep` (0 to 1000): f32
    /// of the same shape.
    ///
    /// At each attention of text and image `observer` is asked first. It is then told what the
    /// image's queries give to the text's keys and, behind those, to what fills up the image.
    ///
    /// # Errors
    /// When the batch of `latent` is not the prompt's, or the observer's own;
    /// [`Error::Interrupted`] where its [`interrupt`](Self::interrupt) asks for the end.
    pub fn forward(
        &self,
        latent: &Tensor,
        timestep: f64,
        prompt: &ZImagePrompt,
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
        let (patch, dim) = (self.config.patch_size, self.config.dim);
        let latent = latent.to_device(&self.device)?.to_dtype(self.dtype)?;
        let mut image = self.x_embedder.forward(&patches_of(&latent, patch, PatchOrder::ChannelsLast)?)?;
        let grid = [height / patch, width / patch];
        if grid.iter().zip(self.config.axes_lens.iter().skip(1)).any(|(side, most)| side > most) {
            let most: Vec<usize> = self.config.axes_lens[1..].iter().map(|side| side * patch).collect();
            return Err(Error::Unsupported {
                what: format!("a latent of {width}x{height} cells"),
                way_out: format!("at most {}x{} are possible", most[1], most[0]),
            });
        }
        let cells = image.dim(1)?;
        let filled = cells.next_multiple_of(MULTIPLE);
        if filled > cells {
            let fill = self.x_pad_token.unsqueeze(0)?.broadcast_as((batch, filled - cells, dim))?;
            image = Tensor::cat(&[&image, &fill.contiguous()?], 1)?;
        }
        let time = self.t_embedder.forward(timestep)?;
        let image_places: Vec<_> = prompt.padded.iter().map(|count| image_places(*count, grid, filled)).collect();
        let rotary = self.rotary.of(image_places.clone())?;
        for block in &self.noise_refiner {
            self.interrupt.check()?;
            let sequence = Sequence::unseen(None);
            let beside = Beside { time: Some(&time), rotary: &rotary, sequence: &sequence };
            (image, _) = block.forward(&image, &beside, None, None)?;
        }

        let places: Vec<Vec<[u32; 3]>> = image_places
            .into_iter()
            .zip(&prompt.padded)
            .map(|(image, count)| image.into_iter().chain((1..=*count as u32).map(|at| [at, 0, 0])).collect())
            .collect();
        let rotary = self.rotary.of(places)?;
        let bias = prompt.key_bias.as_ref().map(|bias| bias.pad_with_zeros(1, filled, 0)).transpose()?;
        let mut both = Tensor::cat(&[&image, &prompt.states], 1)?;
        let keys = filled + prompt.tokens;
        let sequence = Sequence {
            cells: 0..cells,
            others: cells..keys,
            text: filled..keys,
            bias: bias.as_ref(),
            value_weights: prompt.value_weights.as_ref(),
        };
        let beside = Beside { time: Some(&time), rotary: &rotary, sequence: &sequence };
        let own_rotary = match &prompt.concepts {
            Some((_, places)) => Some(self.rotary.of(vec![places.clone()])?),
            None => None,
        };
        let asked = match (&prompt.concepts, &own_rotary) {
            (Some((concepts, _)), Some(rotary)) => Some(PlacedConcepts { concepts, rotary }),
            _ => None,
        };
        let mut concepts = asked.as_ref().map(|asked| asked.concepts.first()).transpose()?;
        for (block, site) in self.layers.iter().zip(&self.sites(height, width)) {
            self.interrupt.check()?;
            let mut watch = Watch::of(observer, site);
            let given = asked.as_ref().zip(concepts.as_ref());
            let (behind, of_concepts) = block.forward(&both, &beside, watch.as_mut(), given)?;
            if let Some(mut watch) = watch {
                // The text's keys come first in what is told, as in the prompt.
                watch.replace(|shown| {
                    let fill = shown.narrow(D::Minus1, 0, filled - cells)?;
                    let text = shown.narrow(D::Minus1, filled - cells, prompt.tokens)?;
                    Ok(Tensor::cat(&[&text, &fill], D::Minus1)?)
                })?;
                watch.tell(site, observer)?;
            }
            both = behind;
            concepts = match of_concepts {
                Some((states, scores)) => {
                    observer.observe_concepts(site, &scores)?;
                    Some(states)
                }
                None => None,
            };
        }
        let image = both.narrow(1, 0, cells)?.contiguous()?;
        let scale = (self.final_scale.forward(&time.silu()?)? + 1.0)?;
        let image = self.norm_final.forward(&image)?.broadcast_mul(&scale.unsqueeze(1)?)?;
        let latent = latent_of(&self.final_linear.forward(&image)?, patch, PatchOrder::ChannelsLast, [height, width])?;
        // It was trained to predict image less noise.
        Ok(latent.neg()?)
    }
}

/// Where the image's tokens stand behind a text of `text` tokens; what fills it up stands at 0.
fn image_places(text: usize, [rows, columns]: [usize; 2], filled: usize) -> Vec<[u32; 3]> {
    let first = text as u32 + 1;
    let cells = (0..rows as u32).flat_map(|row| (0..columns as u32).map(move |column| [first, row, column]));
    let mut places: Vec<[u32; 3]> = cells.collect();
    places.resize(filled, [0; 3]);
    places
}

/// Minus infinity at tokens that a row of the batch does not have; `None` where all have as many.
fn hidden(padded: &[usize], tokens: usize, device: &Device) -> Result<Option<Tensor>> {
    if padded.iter().all(|count| *count == tokens) {
        return Ok(None);
    }
    let row =
        |count: &usize| (0..tokens).map(|at| if at < *count { 0.0 } else { f32::NEG_INFINITY }).collect::<Vec<_>>();
    Ok(Some(Tensor::from_vec(padded.iter().flat_map(row).collect(), (padded.len(), tokens), device)?))
}
