//! The gate between the two products of a transformer's feed-forward.

use super::buffer::{SharedMut, filled};
use super::threads;
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp, SimdUnaryOp};
use rten_vecmath::Gelu;

/// `a * gelu(g)` of rows `[a, g]`, `width` values each, with the exact (error function) GELU
/// (Shazeer 2020).
///
/// # Panics
/// When `data` is not whole rows of `2 * width`.
pub fn geglu(data: &[f32], width: usize) -> Vec<f32> {
    assert!(data.len().is_multiple_of((2 * width).max(1)), "whole rows");
    let rows = data.len() / (2 * width).max(1);
    let write = |out: SharedMut| {
        threads::ranges(rows, 1, data.len() * 2 / 3, |range| {
            Gate {
                input: &data[range.start * 2 * width..range.end * 2 * width],
                width,
                // SAFETY: the rows of this task alone.
                out: unsafe { out.get().add(range.start * width) },
            }
            .dispatch();
        });
    };
    // SAFETY: the ranges cover every row.
    unsafe { filled(rows * width, write) }
}

struct Gate<'a> {
    input: &'a [f32],
    width: usize,
    out: *mut f32,
}

impl SimdOp for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let lanes = ops.len();
        for (row, line) in self.input.chunks_exact(2 * self.width).enumerate() {
            for at in (0..self.width).step_by(lanes) {
                let mask = ops.first_n_mask(lanes.min(self.width - at));
                // SAFETY: masks stop at the end of each half.
                unsafe {
                    let value = ops.load_ptr_mask(line.as_ptr().add(at), mask);
                    let gate = ops.load_ptr_mask(line.as_ptr().add(self.width + at), mask);
                    let gated = ops.mul(value, Gelu {}.eval(isa, gate));
                    ops.store_ptr_mask(gated, self.out.add(row * self.width + at), mask);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{noise, relative};
    use candle_core::{D, Device, Tensor};
    use proptest::prelude::*;

    proptest! {
           #![proptest_config(ProptestConfig::with_cases(32))]
           #[test]
           fn equals_candle(rows in 1usize..30, width in 1usize..70) {
               let data: Vec<f32> = noise(rows * 2 * width, 1).iter().map(|v| v * 3.0).collect();
               let both = Tensor::from_slice(&data, (rows, 2 * width), &Device::Cpu).unwrap();
               let gate = both.narrow(D::Minus1, width, width).unwrap().contiguous().unwrap().gelu_erf().unwrap();
               let product = (both.narrow(D::Minus1, 0, width).unwrap() * gate).unwrap();
    let want = product.flatten_all().unwrap().to_vec1().unwrap();
               let got = geglu(&data, width);
               prop_assert!(relative(&got, &want) < 2e-6, "{}", relative(&got, &want));
           }
       }
}
