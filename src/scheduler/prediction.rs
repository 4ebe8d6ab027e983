//! What the model's output means, and how the denoised sample is kept in range.

use super::refuse::{config_error, refuse};
use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// What the model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prediction {
    /// The noise in the sample.
    Epsilon,
    /// The velocity (Salimans and Ho 2022): `alpha noise - sigma denoised`.
    Velocity,
    /// The denoised sample itself.
    Denoised,
}

impl Prediction {
    /// Reads `prediction_type`; `epsilon` and `v_prediction` are known to every class, the denoised
    /// sample to some.
    pub(super) fn new(config: &SchedulerConfig, denoised: bool) -> Result<Self> {
        match config.prediction_type.as_deref() {
            None | Some("epsilon") => Ok(Self::Epsilon),
            Some("v_prediction") => Ok(Self::Velocity),
            Some("sample") if denoised => Ok(Self::Denoised),
            Some(other) => {
                let accepted = if denoised { "epsilon, v_prediction or sample" } else { "epsilon or v_prediction" };
                Err(refuse(config, "prediction_type", other, accepted))
            }
        }
    }

    /// The denoised sample where `sample = signal denoised + noise epsilon`.
    pub(super) fn denoised(self, output: &Tensor, sample: &Tensor, signal: f32, noise: f32) -> Result<Tensor> {
        match self {
            Self::Epsilon => divide(&mix(&[(1.0, sample), (-noise, output)])?, signal),
            Self::Velocity => mix(&[(signal, sample), (-noise, output)]),
            Self::Denoised => Ok(output.clone()),
        }
    }

    /// The noise in `sample`, under the same decomposition.
    pub(super) fn epsilon(self, output: &Tensor, sample: &Tensor, signal: f32, noise: f32) -> Result<Tensor> {
        match self {
            Self::Epsilon => Ok(output.clone()),
            Self::Velocity => mix(&[(signal, output), (noise, sample)]),
            Self::Denoised => divide(&mix(&[(1.0, sample), (-signal, output)])?, noise),
        }
    }

    /// Refuses noise prediction at a timestep that holds no signal: dividing by it would give
    /// infinities.
    pub(super) fn check_signal(self, config: &SchedulerConfig, alphas: impl IntoIterator<Item = f32>) -> Result<()> {
        if self == Self::Epsilon && alphas.into_iter().any(|alpha| alpha == 0.0) {
            return Err(config_error(
                config,
                "`rescale_betas_zero_snr` with `prediction_type` epsilon divides by zero at the first step; \
                 models trained so predict velocity: set v_prediction",
            ));
        }
        Ok(())
    }
}

/// What is done to the denoised sample to keep it in range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Range {
    /// Nothing: what latent models want.
    Free,
    /// Clamped to plus and minus this.
    Clip(f64),
    /// Dynamic thresholding (Saharia et al. 2022): clamped to a quantile of its magnitude and
    /// divided by it.
    Threshold {
        /// The quantile.
        ratio: f64,
        /// The largest range.
        most: f64,
    },
}

impl Range {
    /// Reads `thresholding` and, where the class has it (`clip` is its default), `clip_sample`.
    /// Thresholding wins.
    pub(super) fn new(config: &SchedulerConfig, clip: Option<bool>) -> Result<Self> {
        if config.thresholding.unwrap_or(false) {
            let ratio = config.dynamic_thresholding_ratio.unwrap_or(0.995);
            if !(0.0..=1.0).contains(&ratio) {
                return Err(refuse(config, "dynamic_thresholding_ratio", ratio, "a quantile lies in 0 to 1"));
            }
            return Ok(Self::Threshold { ratio, most: config.sample_max_value.unwrap_or(1.0) });
        }
        clip.map_or(Ok(Self::Free), |default| Self::clipped(config, default))
    }

    /// Reads `clip_sample` (of which `default` is the class's), for a class without thresholding.
    pub(super) fn clipped(config: &SchedulerConfig, default: bool) -> Result<Self> {
        if !config.clip_sample.unwrap_or(default) {
            return Ok(Self::Free);
        }
        let range = config.clip_sample_range.unwrap_or(1.0);
        if range < 0.0 {
            return Err(refuse(config, "clip_sample_range", range, "it must be 0 or more"));
        }
        Ok(Self::Clip(range))
    }

    /// Applies it to the denoised sample `[B, ...]`.
    pub(super) fn apply(self, denoised: Tensor) -> Result<Tensor> {
        match self {
            Self::Free => Ok(denoised),
            Self::Clip(range) => Ok(denoised.clamp(-range, range)?),
            Self::Threshold { ratio, most } => threshold(&denoised, ratio as f32, most as f32),
        }
    }
}

/// Dynamic thresholding of each image of a batch on its own.
fn threshold(denoised: &Tensor, ratio: f32, most: f32) -> Result<Tensor> {
    let mut images = denoised.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    for image in &mut images {
        let mut magnitudes: Vec<f32> = image.iter().map(|value| value.abs()).collect();
        magnitudes.sort_by(f32::total_cmp);
        let range = quantile(&magnitudes, ratio).max(1.0).min(most);
        for value in image {
            *value = value.max(-range).min(range) / range;
        }
    }
    Ok(Tensor::new(images, denoised.device())?.reshape(denoised.shape())?)
}

/// `torch.quantile` of sorted values in f32, linear between them.
fn quantile(sorted: &[f32], q: f32) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = q * last as f32;
    let low = (rank as usize).min(last);
    let weight = rank - low as f32;
    let (a, b) = (sorted[low], sorted[(rank.ceil() as usize).min(last)]);
    if weight < 0.5 { a + weight * (b - a) } else { b - (b - a) * (1.0 - weight) }
}

/// The sum of `factor * tensor` over at least one term.
pub(super) fn mix(terms: &[(f32, &Tensor)]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for &(factor, tensor) in terms {
        let term = if factor == 1.0 { tensor.clone() } else { (tensor * f64::from(factor))? };
        sum = Some(match sum {
            None => term,
            Some(sum) => (sum + term)?,
        });
    }
    sum.ok_or_else(|| Error::bug("a sum of no tensors"))
}

/// `tensor / divisor`, rounded once; candle's own division by a scalar multiplies with the
/// reciprocal, which shows where large sigmas cancel.
pub(super) fn divide(tensor: &Tensor, divisor: f32) -> Result<Tensor> {
    if divisor == 1.0 {
        return Ok(tensor.clone());
    }
    Ok(tensor.broadcast_div(&Tensor::new(divisor, tensor.device())?)?)
}
