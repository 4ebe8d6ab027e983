//! Linear layers and the activations between them.

use super::Builder;
use super::fast::{self, FastLinear};
use super::tracked;
use crate::Result;
use crate::kernels::activation::geglu;
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{D, DType, Module, Tensor};
use std::sync::Arc;

/// `x W^T + b` over the last dimension: weight `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear(LinearForm);

#[derive(Debug, Clone)]
enum LinearForm {
    Plain {
        weight: Tensor,
        bias: Option<Tensor>,
    },
    Fast(FastLinear),
    /// Weights in blocks of quantised numbers: candle's products round `x` to blocks too.
    Quantised {
        weight: QMatMul,
        bias: Option<Tensor>,
    },
}

impl Linear {
    /// With a bias.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn new(input: usize, output: usize, b: &Builder) -> Result<Self> {
        if let Some(weight) = b.quantised((output, input), "weight")? {
            return Self::from_blocks(weight, Some(b.get_f32(output, "bias")?));
        }
        Self::from_weights(b.get((output, input), "weight")?, Some(b.get(output, "bias")?), b)
    }

    /// Without a bias.
    ///
    /// # Errors
    /// When the weight is not there in this shape.
    pub fn without_bias(input: usize, output: usize, b: &Builder) -> Result<Self> {
        if let Some(weight) = b.quantised((output, input), "weight")? {
            return Self::from_blocks(weight, None);
        }
        Self::from_weights(b.get((output, input), "weight")?, None, b)
    }

    fn from_blocks(weight: Arc<QTensor>, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self(LinearForm::Quantised { weight: QMatMul::from_arc(weight)?, bias }))
    }

    /// A 1x1 convolution, stored as `[out, in, 1, 1]`, that is applied to tokens.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn from_conv(input: usize, output: usize, b: &Builder) -> Result<Self> {
        let weight = b.get((output, input, 1, 1), "weight")?.squeeze(3)?.squeeze(2)?;
        Self::from_weights(weight, Some(b.get(output, "bias")?), b)
    }

    /// A convolution of `patch` x `patch` cells that moves by whole patches. It is stored as `[out,
    /// in, patch, patch]`. It is applied to one token per patch, of `in * patch * patch` values.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn from_patches(input: usize, output: usize, patch: usize, b: &Builder) -> Result<Self> {
        let weight = b.get((output, input, patch, patch), "weight")?.flatten_from(1)?;
        Self::from_weights(weight, Some(b.get(output, "bias")?), b)
    }

    fn from_weights(weight: Tensor, bias: Option<Tensor>, b: &Builder) -> Result<Self> {
        Ok(Self(match FastLinear::new(&weight, bias.as_ref(), b)? {
            Some(fast) => LinearForm::Fast(fast),
            None => LinearForm::Plain { weight, bias },
        }))
    }

    /// `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// When the last dimension of `x` is not the layer's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = match &self.0 {
            LinearForm::Fast(fast) => return fast.forward(x, None),
            LinearForm::Quantised { weight, bias } => {
                // candle's CUDA products of blocks take f32 alone.
                let y = weight.forward(&x.to_dtype(DType::F32)?.contiguous()?)?;
                let y = match bias {
                    Some(bias) => y.broadcast_add(bias)?,
                    None => y,
                };
                return Ok(y.to_dtype(x.dtype())?);
            }
            LinearForm::Plain { weight, bias } => (weight, bias),
        };
        let weight = weight.to_dtype(x.dtype())?;
        let rows = x.elem_count() / x.dim(D::Minus1)?.max(1);
        let mut shape = x.dims().to_vec();
        let y = tracked::product(&x.reshape((rows, ()))?, &weight)?;
        let y = match bias {
            Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?)?,
            None => y,
        };
        if let Some(last) = shape.last_mut() {
            *last = y.dim(1)?;
        }
        Ok(y.reshape(shape)?)
    }

    /// `[.., in]` to `[.., out]`, plus `residual`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or when `residual` has another shape.
    pub fn forward_plus(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.0 {
            LinearForm::Fast(fast) => fast.forward(x, Some(residual)),
            LinearForm::Plain { .. } | LinearForm::Quantised { .. } => Ok((self.forward(x)? + residual)?),
        }
    }
}

/// `a * gelu(g)` where `[a, g] = x W^T + b`, with the exact (error function) GELU (Shazeer 2020;
/// diffusers `GEGLU`).
#[derive(Debug, Clone)]
pub struct GeGlu {
    proj: Linear,
}

impl GeGlu {
    /// Weights under `proj`, `[2 * output, input]`.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn new(input: usize, output: usize, b: &Builder) -> Result<Self> {
        Ok(Self { proj: Linear::new(input, 2 * output, &b.pp("proj"))? })
    }

    /// `[.., input]` to `[.., output]`.
    ///
    /// # Errors
    /// When the last dimension of `x` is not the layer's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let both = self.proj.forward(x)?;
        let half = both.dim(D::Minus1)? / 2;
        if let LinearForm::Fast(_) = self.proj.0 {
            let shape: Vec<usize> = both.dims()[..both.rank() - 1].iter().copied().chain([half]).collect();
            return fast::tensor(fast::read([&both], |[both]| geglu(both, half))?, shape);
        }
        let value = both.narrow(D::Minus1, 0, half)?;
        let gate = both.narrow(D::Minus1, half, half)?.contiguous()?.gelu_erf()?;
        Ok((value * gate)?)
    }
}

/// `x * sigmoid(1.702 x)`: the activation of OpenAI's CLIP encoders.
///
/// # Errors
/// When the device is out of memory.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    Ok((x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Part, Weights};
    use crate::model::layers::MemoryOrder;
    use candle_core::Device;

    /// candle's products round what goes in to 8 bits per number, and so are off by about a
    /// hundredth; plain layers are exact.
    #[test]
    fn blocks_are_multiplied_as_they_lie() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/quantised");
        let truth = candle_core::safetensors::load(format!("{folder}/kinds.safetensors"), &Device::Cpu).unwrap();
        let x = Tensor::randn(0f32, 1.0, (3, 5, 256), &Device::Cpu).unwrap();
        for (layout, limit) in [(MemoryOrder::Nhwc, 0.02), (MemoryOrder::Nchw, 1e-5)] {
            for (name, weight) in truth.iter().filter(|(name, _)| name.ends_with(".weight")) {
                let weights = Weights::of_folder(folder.as_ref(), Part::Unet, "kinds.gguf").unwrap();
                let (builder, quantised) = weights.parts(DType::F32, &Device::Cpu);
                let b = Builder::with_layout(builder, layout).with_quantised(quantised);
                let layer = Linear::without_bias(256, 6, &b.pp(name.trim_end_matches(".weight"))).unwrap();
                assert_eq!(matches!(layer.0, LinearForm::Quantised { .. }), layout == MemoryOrder::Nhwc, "{name}");
                let y = layer.forward(&x).unwrap();
                assert_eq!(y.dims(), [3, 5, 6]);
                let exact = x.reshape((15, 256)).unwrap().matmul(&weight.t().unwrap()).unwrap();
                let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
                let error = norm(&(y.reshape((15, 6)).unwrap() - &exact).unwrap()) / norm(&exact);
                println!("{name} {layout:?}: {error:.1e}");
                assert!(error < limit, "{name} {layout:?}: {error:e}");
            }
        }
    }
}
