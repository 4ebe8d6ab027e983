//! What a denoiser is conditioned on: the text encoders' states and what goes beside them.

use crate::checkpoint::TIME_IDS;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// What the denoiser is to draw: the text encoders' states and how they may be attended to.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// `[batch, tokens, channels]`; under guidance the unconditional rows come first.
    pub hidden_states: Tensor,
    /// `[batch, tokens]`, added to the scores of every attention to the prompt before the softmax.
    /// Minus infinity removes a token from view, and the others share its attention. At least one
    /// token of each row must stay.
    pub key_bias: Option<Tensor>,
    /// What SDXL and Stable Diffusion 3 are told beside; `None` for the others.
    pub added: Option<AddedConditions>,
    /// The guidance scale, for a consistency-distilled network that was trained with one. Others do
    /// not look at it.
    pub guidance: Option<f64>,
    /// Tokens of each row that are the prompt's, for a network that is given those alone (Z-Image);
    /// all of them where `None`.
    pub lengths: Option<Vec<usize>>,
}

/// What SDXL's UNet is told beside the hidden states (diffusers `added_cond_kwargs`). Stable
/// Diffusion 3 is told the pooled prompt alone.
#[derive(Debug, Clone)]
pub struct AddedConditions {
    /// `[batch, width]`: the second text encoder's projection of each prompt (`text_embeds`); of
    /// Stable Diffusion 3 those of both CLIP encoders side by side.
    pub pooled: Tensor,
    /// Height and width of the original in pixels, top and left of the crop, height and width of
    /// the target. They hold for every row.
    pub time_ids: [f64; TIME_IDS],
}

impl Conditioning {
    /// Every token in full view, and nothing beside.
    pub fn new(hidden_states: Tensor) -> Self {
        Self { hidden_states, key_bias: None, added: None, guidance: None, lengths: None }
    }

    /// [`key_bias`](Self::key_bias), f32 `[batch, tokens]` on `device`.
    ///
    /// # Errors
    /// When it has another shape.
    pub(super) fn key_bias_on(&self, device: &Device) -> Result<Option<Tensor>> {
        let Some(bias) = &self.key_bias else { return Ok(None) };
        let (batch, tokens, _) = self.hidden_states.dims3()?;
        Ok(Some(bias.to_device(device)?.to_dtype(DType::F32)?.reshape((batch, tokens))?))
    }
}

/// Factors on the values of the text's keys, `[batch, tokens, 1]` in the format of `states` and
/// where they lie. They are those of `before` times `weights`, f32 `[batch, tokens]` as `shape`
/// says.
///
/// # Errors
/// When `weights` has another shape.
pub(super) fn value_weights(
    before: Option<&Tensor>,
    weights: &Tensor,
    shape: [usize; 2],
    states: &Tensor,
) -> Result<Tensor> {
    if weights.dims() != shape {
        return Err(Error::bug(format!("weights of {:?} for another prompt", weights.dims())));
    }
    let weights = weights.to_device(states.device())?.to_dtype(states.dtype())?.unsqueeze(2)?;
    Ok(match before {
        Some(before) => (before * weights)?,
        None => weights,
    })
}
