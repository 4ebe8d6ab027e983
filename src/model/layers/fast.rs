//! Tensors in and out of the CPU kernels: f32 values as they lie in memory.

use super::builder::{Builder, MemoryOrder};
use crate::kernels::conv::{Conv, Geometry};
use crate::kernels::gemm::{Added, Packed, Shift, linear};
use crate::{Error, Result};
use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor};
use std::sync::Arc;

/// Whether layers of this layout on this device are computed by the CPU kernels.
pub(super) fn applies(layout: MemoryOrder, device: &Device) -> bool {
    layout == MemoryOrder::Nhwc && device.is_cpu()
}

/// The contiguous f32 form of a tensor, which [`values`] can read.
pub(super) fn ready(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_dtype(DType::F32)?.contiguous()?)
}

/// Calls `read` with the values of tensors that are [`ready`].
pub(super) fn read<const N: usize, T>(tensors: [&Tensor; N], read: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let held = tensors.map(Tensor::storage_and_layout);
    let mut values: [&[f32]; N] = [&[]; N];
    for (values, (storage, layout)) in values.iter_mut().zip(&held) {
        let Storage::Cpu(CpuStorage::F32(all)) = &**storage else {
            return Err(Error::bug("a CPU kernel was given values elsewhere than in memory"));
        };
        *values = &all[layout.start_offset()..][..layout.shape().elem_count()];
    }
    Ok(read(values))
}

/// A tensor of values in memory.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}

/// A small tensor's values, e.g. a bias.
pub(super) fn to_vec(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// A linear layer with packed weights.
#[derive(Debug, Clone)]
pub(super) struct FastLinear {
    weight: Arc<Packed>,
    bias: Option<Arc<[f32]>>,
}

impl FastLinear {
    /// Packs `weight` `[out, in]` when the builder's layers are computed by the kernels.
    pub(super) fn new(weight: &Tensor, bias: Option<&Tensor>, b: &Builder) -> Result<Option<Self>> {
        if !applies(b.layout(), b.device()) {
            return Ok(None);
        }
        let (output, input) = weight.dims2()?;
        let weight = read([&ready(weight)?], |[weight]| Packed::transposed(b.format(), weight, output, input))?;
        let bias = bias.map(|bias| to_vec(bias).map(Arc::from)).transpose()?;
        Ok(Some(Self { weight: Arc::new(weight), bias }))
    }

    /// `[.., in]` to `[.., out]`, plus `residual`.
    pub(super) fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == self.weight.depth() => *last = self.weight.columns(),
            _ => return Err(mismatch("a linear layer", self.weight.depth(), x)),
        }
        let x = ready(x)?;
        let shift = self.bias.as_deref().map_or(Shift::None, Shift::All);
        let y = match residual {
            None => read([&x], |[x]| linear(x, &self.weight, Added { shift, residual: None }))?,
            Some(residual) if residual.dims() != shape => {
                return Err(mismatch("a sum", self.weight.columns(), residual));
            }
            Some(residual) => read([&x, &ready(residual)?], |[x, residual]| {
                linear(x, &self.weight, Added { shift, residual: Some(residual) })
            })?,
        };
        tensor(y, shape)
    }
}

/// A convolution with packed weights.
#[derive(Debug, Clone)]
pub(super) struct FastConv {
    conv: Arc<Conv>,
    bias: Arc<[f32]>,
}

impl FastConv {
    /// Packs `weight` `[out, in, kernel, kernel]` when the builder's layers are computed by the
    /// kernels.
    pub(super) fn new(weight: &Tensor, bias: &Tensor, geometry: Geometry, b: &Builder) -> Result<Option<Self>> {
        if !applies(b.layout(), b.device()) {
            return Ok(None);
        }
        let (output, input, ..) = weight.dims4()?;
        let conv = read([&ready(weight)?], |[weight]| Conv::new(b.format(), weight, output, input, geometry))?;
        Ok(Some(Self { conv: Arc::new(conv), bias: Arc::from(to_vec(bias)?) }))
    }

    /// The convolution of `x` `[batch, height, width, in]`, enlarged first when a size is given.
    /// Adds `shift` `[batch, out]` or `[1, out]` at every place, and `residual` of the output's
    /// shape.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        enlarged: Option<(usize, usize)>,
        shift: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        if channels != self.conv.input() {
            return Err(mismatch("a convolution", self.conv.input(), x));
        }
        let shifts: Option<Vec<f32>> = match shift {
            Some(shift) => {
                let values = to_vec(shift)?;
                // One line serves the whole batch.
                if values.len() != self.bias.len() && values.len() != batch * self.bias.len() {
                    return Err(mismatch("a shift", self.bias.len(), shift));
                }
                let plus = |line: &[f32]| line.iter().zip(&*self.bias).map(|(s, b)| s + b).collect::<Vec<_>>();
                Some(values.chunks(self.bias.len()).flat_map(plus).collect())
            }
            None => None,
        };
        let output = self.conv.outputs(enlarged.unwrap_or((height, width)));
        let values = shifts.as_deref().unwrap_or(&self.bias);
        let shift = match values.len() > self.bias.len() {
            true => Shift::PerGroup { values, rows: output.0 * output.1 },
            false => Shift::All(values),
        };
        let run = |x: &[f32], residual: Option<&[f32]>| {
            let map = crate::kernels::conv::Map { data: x, batch, height, width, channels };
            self.conv.forward(map, enlarged, Added { shift, residual })
        };
        let x = ready(x)?;
        let (values, height, width) = match residual {
            None => read([&x], |[x]| run(x, None))?,
            Some(residual) if residual.dims() != [batch, output.0, output.1, self.bias.len()] => {
                return Err(mismatch("a sum", self.bias.len(), residual));
            }
            Some(residual) => read([&x, &ready(residual)?], |[x, residual]| run(x, Some(residual)))?,
        };
        tensor(values, (batch, height, width, self.bias.len()))
    }
}

/// What a layer was given does not fit it.
pub(super) fn mismatch(layer: &str, channels: usize, given: &Tensor) -> Error {
    Error::bug(format!("{layer} of {channels} channels was given {:?}", given.dims()))
}
