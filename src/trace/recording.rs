//! What a recorder hands over: the numbers of one image, by half, site, head and step.

use super::{Buffer, ConceptMaps, GocaMaps, SelfAttention, Site};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use half::f16;

/// The two halves of the guidance batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Half {
    /// The rows that were given the prompt.
    Conditional,
    /// The rows that were given the negative (or empty) prompt.
    Unconditional,
}

/// The numbers of one image of a finished recording.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The recorded sites in network order.
    pub sites: Vec<Site>,
    /// The scheduler's timestep of every call of the denoiser.
    pub timesteps: Vec<f64>,
    /// The half that was given the prompt.
    pub conditional: HalfMaps,
    /// The half that was given the negative prompt, when it was asked for and the run was guided.
    pub unconditional: Option<HalfMaps>,
    /// What words that are not in the prompt were given, where the run was asked about any.
    pub probes: Option<ProbeMaps>,
    /// What the queries of the prompt's own tokens give to the image's places, where that was asked
    /// for. Its channels are the `T` tokens of the conditional half.
    pub text_queries: Option<HalfMaps>,
    /// How alike concepts and places are, where the run was asked about any.
    pub concepts: Option<ConceptMaps>,
    /// What GoCA's maps are made of, where it was asked for.
    pub goca: Option<GocaMaps>,
    /// What each place is tied to by self-attention, one map per grid, the coarsest first; empty
    /// unless it was asked for.
    pub self_attention: Vec<SelfAttention>,
    /// The text encoder's own self-attention per layer; empty when it was not kept.
    pub text: Vec<TextAttention>,
    /// The same of SDXL's second text encoder, among its own tokens
    /// ([`EncoderInfo`](super::EncoderInfo)).
    pub text_2: Vec<TextAttention>,
}

/// What was recorded of one half of the batch.
#[derive(Debug, Clone)]
pub struct HalfMaps {
    /// `T`: tokens of this half's prompt from the start token to the first end token.
    pub tokens: usize,
    /// One entry per site, in the order of [`Recording::sites`].
    pub sites: Vec<SiteMaps>,
}

/// What was recorded of the probes: how the conditional half's queries would attend to each of
/// their tokens beside the prompt's.
#[derive(Debug, Clone)]
pub struct ProbeMaps {
    /// `P`: tokens of all probes, one probe after the other.
    pub tokens: usize,
    /// One entry per site, in the order of [`Recording::sites`], of `P` channels.
    pub sites: Vec<SiteMaps>,
}

/// What was recorded at one site. A half has `T + 1` channels, the last of them all padding. Joint
/// attention has one more, the image ([`Site::channels`]). Probes have `P` channels.
#[derive(Debug, Clone)]
pub struct SiteMaps {
    /// Probabilities summed over the steps, `[heads, channels, height, width]`.
    pub sum: Buffer<f32>,
    /// Probabilities averaged over the heads, `[steps, channels, height, width]`, when they were
    /// kept.
    pub steps: Option<Buffer<f16>>,
}

/// The self-attention of one layer of the text encoder among the prompt's `T` tokens. It is causal,
/// so that the rows still sum to 1 without the padding; tokens of different chunks do not see each
/// other.
#[derive(Debug, Clone)]
pub struct TextAttention {
    /// Attention heads.
    pub heads: usize,
    /// Probabilities `[heads, T (query), T (key)]`.
    pub probabilities: Buffer<f16>,
}

impl TextAttention {
    /// A layer's probabilities `[chunks, heads, length, length]` (any float type), of which each
    /// chunk's first `tokens` are kept.
    ///
    /// # Errors
    /// When the tensor has another rank, another number of chunks, is not square, or is shorter
    /// than a chunk's tokens.
    pub fn from_chunks(probabilities: &Tensor, tokens: &[usize]) -> Result<Self> {
        let (chunks, heads, _, _) = probabilities.dims4()?;
        if chunks != tokens.len() {
            return Err(Error::bug(format!("text attention of {chunks} chunks for a prompt of {}", tokens.len())));
        }
        let all: usize = tokens.iter().sum();
        let mut joined = vec![f16::ZERO; heads * all * all];
        let mut first = 0;
        for (chunk, &count) in tokens.iter().enumerate() {
            let part = probabilities.get(chunk)?.narrow(1, 0, count)?.narrow(2, 0, count)?.to_dtype(DType::F16)?;
            let part = part.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f16>()?;
            for (row, values) in part.chunks_exact(count).enumerate() {
                let (head, query) = (row / count, first + row % count);
                joined[(head * all + query) * all + first..][..count].copy_from_slice(values);
            }
            first += count;
        }
        Ok(Self { heads, probabilities: joined.into() })
    }
}
