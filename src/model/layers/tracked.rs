//! Gradients of the plain layers for candle's automatic differentiation.
//!
//! candle's own backward pass forms the gradient of every weight too, and keeps it. Only the
//! gradient of what goes through is asked for here: half of the work, and far less memory.
//! A result is linked to a gradient only where its input is tracked, so that a run costs nothing.

use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, Error, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};

/// The input's gradient from the input, the result and the result's gradient, none of them tracked.
type Backward = Box<dyn Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync>;

/// A result that is there already, as an operation that candle can go back through.
struct Linked {
    name: &'static str,
    /// Given away by the forward pass, so that the graph does not hold it twice.
    result: Mutex<Option<Tensor>>,
    backward: Backward,
}

impl Linked {
    fn take<S>(&self, pick: impl Fn(&Storage, &Layout) -> Result<Option<S>>) -> Result<(S, Shape)> {
        let result = self.result.lock().map_err(|_| Error::Msg("a poisoned result".into()))?.take();
        let Some(result) = result else { bail!("{} is run twice", self.name) };
        let (storage, layout) = result.storage_and_layout();
        match pick(&storage, layout)? {
            Some(own) => Ok((own, layout.shape().clone())),
            None => bail!("{} has a result on another device", self.name),
        }
    }
}

impl CustomOp1 for Linked {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take(|storage, layout| match storage {
            Storage::Cpu(own) => own.try_clone(layout).map(Some),
            _ => Ok(None),
        })
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.take(|storage, layout| match storage {
            Storage::Cuda(own) => own.try_clone(layout).map(Some),
            _ => Ok(None),
        })
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.take(|storage, layout| match storage {
            Storage::Metal(own) => own.try_clone(layout).map(Some),
            _ => Ok(None),
        })
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        let (arg, res, grad) = (arg.detach(), res.detach(), grad_res.detach().contiguous()?);
        (self.backward)(&arg, &res, &grad).map(Some)
    }
}

/// `result`, computed from `input` untracked, as a function of `input` whose gradient `backward`
/// gives. Where `input` is not tracked it is `result` itself.
///
/// # Errors
/// When the device is out of memory.
pub(super) fn linked(
    name: &'static str,
    input: &Tensor,
    result: Tensor,
    backward: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !input.track_op() {
        return Ok(result);
    }
    let result = result.detach();
    // A storage is taken over whole, and so must hold nothing but the result.
    let whole = result.is_contiguous() && result.layout().start_offset() == 0;
    let result = if whole { result } else { result.force_contiguous()? };
    input.apply_op1(Linked { name, result: Mutex::new(Some(result)), backward: Box::new(backward) })
}

/// `x` `[rows, in]` times the transpose of `weight` `[out, in]`.
///
/// # Errors
/// When the shapes do not meet.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let result = x.detach().matmul(&weight.t()?)?;
    let weight = weight.clone();
    linked("linear", x, result, move |_, _, grad| grad.matmul(&weight))
}

/// Softmax over the last dimension.
///
/// # Errors
/// When the device is out of memory.
pub(super) fn softmax(scores: &Tensor) -> Result<Tensor> {
    let result = candle_nn::ops::softmax_last_dim(&scores.detach())?;
    linked("softmax", scores, result, |_, probabilities, grad| {
        let weighted = (grad * probabilities)?;
        let sum = weighted.sum_keepdim(D::Minus1)?;
        &weighted - probabilities.broadcast_mul(&sum)?
    })
}

/// The last dimension of `x` with mean 0 and variance 1: `(x - mean) / sqrt(variance + eps)`.
///
/// # Errors
/// When the device is out of memory.
pub(super) fn normalised(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = |x: &Tensor| x.broadcast_sub(&x.mean_keepdim(D::Minus1)?);
    let deviation = move |centred: &Tensor| (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt();
    let around = centred(&x.detach())?;
    let result = around.broadcast_div(&deviation(&around)?)?;
    linked("normalise", x, result, move |x, normed, grad| {
        // The gradient loses its part along the mean and along the normed values.
        let along = (grad * normed)?.mean_keepdim(D::Minus1)?;
        let left = (centred(grad)? - normed.broadcast_mul(&along)?)?;
        left.broadcast_div(&deviation(&centred(x)?)?)
    })
}

/// The convolution of `x` `[batch, in, height, width]` with `weight` `[out, in, kernel, kernel]`.
///
/// # Errors
/// When the shapes do not meet.
pub(super) fn conv2d(x: &Tensor, weight: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
    let result = x.detach().conv2d(weight, padding, stride, 1, 1)?;
    let weight = weight.clone();
    linked("conv2d", x, result, move |x, _, grad| {
        let (.., height, width) = x.dims4()?;
        let kernel = weight.dim(2)?;
        let spread = spread(&spread(grad, 2, stride)?, 3, stride)?;
        let spread = reach(&spread, 2, kernel - 1 - padding, height + padding)?;
        let spread = reach(&spread, 3, kernel - 1 - padding, width + padding)?;
        let turned = weight.flip(&[2, 3])?.transpose(0, 1)?.contiguous()?;
        spread.contiguous()?.conv2d(&turned, 0, 1, 1, 1)
    })
}

/// `x` with `stride - 1` zeros after each entry of `dim`.
fn spread(x: &Tensor, dim: usize, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let mut shape = x.dims().to_vec();
    let apart = x.unsqueeze(dim + 1)?.pad_with_zeros(dim + 1, 0, stride - 1)?;
    shape[dim] *= stride;
    apart.reshape(shape)
}

/// `x` with `before` zeros before the entries of `dim`, and cut or filled with zeros so that there
/// are `count` behind those.
fn reach(x: &Tensor, dim: usize, before: usize, count: usize) -> Result<Tensor> {
    let has = x.dim(dim)?;
    let x = if has > count { x.narrow(dim, 0, count)? } else { x.pad_with_zeros(dim, 0, count - has)? };
    x.pad_with_zeros(dim, before, 0)
}

/// `x` `[batch, channels, height, width]` at another size by nearest neighbour, whose source index
/// is `floor(i * in / out)`. It is here because candle's own has no gradient at sizes that are no
/// multiples.
///
/// # Errors
/// When the device is out of memory.
pub(super) fn nearest(x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    if !x.track_op() {
        return x.upsample_nearest2d(height, width);
    }
    let sources = |from: usize, to: usize| {
        let indices: Vec<u32> = (0..to).map(|index| (index * from / to) as u32).collect();
        Tensor::from_vec(indices, to, x.device())
    };
    let (.., rows, columns) = x.dims4()?;
    x.index_select(&sources(rows, height)?, 2)?.index_select(&sources(columns, width)?, 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    /// The largest difference between the gradient of `f` and that of `reference`, over the largest
    /// entry. `reference` is made of candle's own operations. Each output weighs another amount.
    fn off(
        shape: &[usize],
        f: impl Fn(&Tensor) -> Result<Tensor>,
        reference: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> f32 {
        let x = Var::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let gradient = |y: Tensor| {
            let count = y.elem_count();
            let weights = Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap().reshape(y.shape()).unwrap();
            let loss = (y.sqr().unwrap() * (weights * 0.37).unwrap().sin().unwrap()).unwrap().sum_all().unwrap();
            loss.backward().unwrap().get(&x).unwrap().clone()
        };
        let (ours, theirs) = (gradient(f(x.as_tensor()).unwrap()), gradient(reference(x.as_tensor()).unwrap()));
        let most = |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        most((&ours - &theirs).unwrap()) / most(theirs)
    }

    #[test]
    fn gradients_are_candles_own() {
        let weight = Tensor::randn(0f32, 1.0, (5, 7), &Device::Cpu).unwrap();
        assert!(off(&[3, 7], |x| product(x, &weight), |x| x.matmul(&weight.t()?)) < 1e-5);
        let slow = |x: &Tensor| candle_nn::ops::softmax(x, D::Minus1);
        assert!(off(&[2, 3, 9], softmax, slow) < 1e-5);
        let composed = |x: &Tensor| {
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            centred.broadcast_div(&(centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-3)?.sqrt()?)
        };
        assert!(off(&[4, 11], |x| normalised(x, 1e-3), composed) < 1e-5);
        let twice = |x: &Tensor| x.upsample_nearest2d(6, 10);
        assert!(off(&[1, 2, 3, 5], |x| nearest(x, (6, 10)), twice) < 1e-5);
    }

    #[test]
    fn convolutions_of_any_stride_and_odd_sides() {
        for (kernel, padding, stride) in [(3, 1, 1), (3, 1, 2), (1, 0, 1), (3, 0, 2)] {
            let weight = Tensor::randn(0f32, 1.0, (4, 3, kernel, kernel), &Device::Cpu).unwrap();
            // Both sides alike, as candle's own backward pass needs with a stride.
            for side in [6, 7] {
                let ours = |x: &Tensor| conv2d(x, &weight, padding, stride);
                let theirs = |x: &Tensor| x.conv2d(&weight, padding, stride, 1, 1);
                let off = off(&[2, 3, side, side], ours, theirs);
                assert!(off < 1e-5, "kernel {kernel}, stride {stride}, side {side}: {off}");
            }
        }
        // An odd and an even side: against the columns one by one.
        let weight = Tensor::randn(0f32, 1.0, (2, 1, 3, 3), &Device::Cpu).unwrap();
        let x = Var::randn(0f32, 1.0, (1, 1, 4, 5), &Device::Cpu).unwrap();
        let sum = conv2d(x.as_tensor(), &weight, 1, 2).unwrap().sum_all().unwrap();
        let gradient = sum.backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (place, found) in gradient.iter().enumerate() {
            let one: Vec<f32> = (0..20).map(|other| if other == place { 1.0 } else { 0.0 }).collect();
            let one = Tensor::from_vec(one, (1, 1, 4, 5), &Device::Cpu).unwrap();
            let own = one.conv2d(&weight, 1, 2, 1, 1).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!((found - own).abs() < 1e-4, "place {place}: {found}, {own}");
        }
    }

    #[test]
    fn an_odd_size_is_no_obstacle_and_untracked_results_stay_so() {
        let x = Var::randn(0f32, 1.0, (1, 1, 2, 3), &Device::Cpu).unwrap();
        let sum = nearest(x.as_tensor(), (3, 5)).unwrap().sum_all().unwrap();
        let counts = sum.backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(counts, [4.0, 4.0, 2.0, 2.0, 2.0, 1.0]);
        let plain = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(!softmax(&plain).unwrap().track_op());
    }
}
