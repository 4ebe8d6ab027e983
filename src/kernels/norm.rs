//! Group norm (with SiLU fused) and layer norm over channels-last values.

use super::buffer::{SharedMut, filled};
use super::map::Map;
use super::threads;
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp, SimdUnaryOp};
use rten_vecmath::Silu;

/// Weight and bias of a norm, each of one value per channel.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// Scale.
    pub weight: &'a [f32],
    /// Shift.
    pub bias: &'a [f32],
}

/// Normalises each group of channels over the whole grid of a map (Wu and He 2018), scales, shifts,
/// and applies SiLU when asked.
///
/// # Panics
/// When `groups` does not divide the channels or `affine` has another number of them.
pub fn group_norm(map: Map, groups: usize, eps: f64, affine: Affine, silu: bool) -> Vec<f32> {
    let (channels, places) = (map.channels, map.height * map.width);
    assert!(groups > 0 && channels.is_multiple_of(groups), "groups divide the channels");
    assert!(affine.weight.len() == channels && affine.bias.len() == channels, "a weight and a bias a channel");
    assert_eq!(map.data.len(), map.batch * places * channels, "a whole map");
    // Rows that one task reads; the sums of each are put together in f64.
    let block = (1 << 15) / channels.max(1) + 1;
    let blocks = places.div_ceil(block);
    let nanoseconds = map.data.len() / 4;
    let mut sums = vec![0f32; map.batch * blocks * 2 * channels];
    let shared = SharedMut(sums.as_mut_ptr());
    threads::each(map.batch * blocks, nanoseconds, |task| {
        let (batch, at) = (task / blocks, task % blocks * block);
        let rows = block.min(places - at);
        let image = &map.data[batch * places * channels..][..places * channels];
        Moments {
            pivot: &image[..channels],
            rows: &image[at * channels..][..rows * channels],
            // SAFETY: each task has its own line of sums.
            sums: unsafe { std::slice::from_raw_parts_mut(shared.get().add(task * 2 * channels), 2 * channels) },
        }
        .dispatch();
    });
    let mut scale = vec![0f32; map.batch * 2 * channels];
    for batch in 0..map.batch {
        let pivot = &map.data[batch * places * channels..][..channels];
        let lines = &sums[batch * blocks * 2 * channels..][..blocks * 2 * channels];
        let scale = &mut scale[batch * 2 * channels..][..2 * channels];
        for group in 0..groups {
            let range = group * channels / groups..(group + 1) * channels / groups;
            let (mean, variance) = moments(pivot, lines, range.clone(), places as f64);
            let inverse = 1.0 / (variance + eps).sqrt();
            for c in range {
                let factor = f64::from(affine.weight[c]) * inverse;
                scale[c] = factor as f32;
                scale[channels + c] = (f64::from(affine.bias[c]) - mean * factor) as f32;
            }
        }
    }
    let write = |out: SharedMut| {
        threads::each(map.batch * blocks, nanoseconds * if silu { 2 } else { 1 }, |task| {
            let (batch, at) = (task / blocks, task % blocks * block);
            let (start, len) = ((batch * places + at) * channels, block.min(places - at) * channels);
            Apply {
                input: &map.data[start..][..len],
                scale: &scale[batch * 2 * channels..][..2 * channels],
                // SAFETY: the rows of this task alone.
                out: unsafe { out.get().add(start) },
                silu,
            }
            .dispatch();
        });
    };
    // SAFETY: the blocks cover every row of every map.
    unsafe { filled(map.data.len(), write) }
}

/// Mean and variance of a group from the sums of its channels about their pivots.
fn moments(pivot: &[f32], lines: &[f32], range: std::ops::Range<usize>, places: f64) -> (f64, f64) {
    let channels = pivot.len();
    let of_channels: Vec<(f64, f64)> = range
        .map(|c| {
            let sum = |at: usize| lines.chunks(2 * channels).map(|line| f64::from(line[at + c])).sum::<f64>();
            let (first, second) = (sum(0), sum(channels));
            (f64::from(pivot[c]) + first / places, second - first * first / places)
        })
        .collect();
    let count = of_channels.len() as f64;
    let mean = of_channels.iter().map(|(mean, _)| mean).sum::<f64>() / count;
    let squares = of_channels.iter().map(|(m, s)| s + places * (m - mean) * (m - mean)).sum::<f64>();
    (mean, (squares / (count * places)).max(0.0))
}

/// Sums of the values and of their squares per channel, after `pivot` is taken off: exact also
/// where the mean is far from zero.
struct Moments<'a> {
    pivot: &'a [f32],
    rows: &'a [f32],
    sums: &'a mut [f32],
}

impl SimdOp for Moments<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (lanes, channels) = (ops.len(), self.pivot.len());
        let rows = self.rows.len() / channels;
        for channel in (0..channels).step_by(lanes) {
            let mask = ops.first_n_mask(lanes.min(channels - channel));
            // SAFETY: masks stop at the last channel.
            unsafe {
                let pivot = ops.load_ptr_mask(self.pivot.as_ptr().add(channel), mask);
                let (mut first, mut second) = (ops.zero(), ops.zero());
                let mut at = self.rows.as_ptr().add(channel);
                for _ in 0..rows {
                    let value = ops.sub(ops.load_ptr_mask(at, mask), pivot);
                    first = ops.add(first, value);
                    second = ops.mul_add(value, value, second);
                    at = at.wrapping_add(channels);
                }
                ops.store_ptr_mask(first, self.sums.as_mut_ptr().add(channel), mask);
                ops.store_ptr_mask(second, self.sums.as_mut_ptr().add(channels + channel), mask);
            }
        }
    }
}

/// `x * scale + shift`, then SiLU when asked.
struct Apply<'a> {
    input: &'a [f32],
    scale: &'a [f32],
    out: *mut f32,
    silu: bool,
}

impl SimdOp for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (lanes, channels) = (ops.len(), self.scale.len() / 2);
        for row in (0..self.input.len()).step_by(channels) {
            for channel in (0..channels).step_by(lanes) {
                let mask = ops.first_n_mask(lanes.min(channels - channel));
                // SAFETY: masks stop at the last channel.
                unsafe {
                    let scale = ops.load_ptr_mask(self.scale.as_ptr().add(channel), mask);
                    let shift = ops.load_ptr_mask(self.scale.as_ptr().add(channels + channel), mask);
                    let value = ops.load_ptr_mask(self.input.as_ptr().add(row + channel), mask);
                    let mut value = ops.mul_add(value, scale, shift);
                    if self.silu {
                        value = Silu {}.eval(isa, value);
                    }
                    ops.store_ptr_mask(value, self.out.add(row + channel), mask);
                }
            }
        }
    }
}

/// Normalises each row of `data` (`[rows, channels]`, channels as many as `affine` has; Ba et al.
/// 2016), scales and shifts.
///
/// # Panics
/// When `data` is not whole rows.
pub fn layer_norm(data: &[f32], eps: f64, affine: Affine) -> Vec<f32> {
    let channels = affine.weight.len();
    assert!(affine.bias.len() == channels && data.len().is_multiple_of(channels.max(1)), "whole rows");
    let rows = data.len() / channels.max(1);
    let write = |out: SharedMut| {
        threads::ranges(rows, 1, data.len() / 3, |range| {
            NormRows {
                input: &data[range.start * channels..range.end * channels],
                affine,
                eps: eps as f32,
                // SAFETY: the rows of this task alone.
                out: unsafe { out.get().add(range.start * channels) },
            }
            .dispatch();
        });
    };
    // SAFETY: the ranges cover every row.
    unsafe { filled(data.len(), write) }
}

struct NormRows<'a> {
    input: &'a [f32],
    affine: Affine<'a>,
    eps: f32,
    out: *mut f32,
}

impl SimdOp for NormRows<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (lanes, channels) = (ops.len(), self.affine.weight.len());
        let count = 1.0 / channels as f32;
        for start in (0..self.input.len()).step_by(channels) {
            // SAFETY: masks stop at the last channel.
            unsafe {
                let row = self.input.as_ptr().add(start);
                let mut sum = ops.zero();
                for channel in (0..channels).step_by(lanes) {
                    let mask = ops.first_n_mask(lanes.min(channels - channel));
                    sum = ops.add(sum, ops.load_ptr_mask(row.add(channel), mask));
                }
                let mean = ops.splat(ops.sum(sum) * count);
                let mut squares = ops.zero();
                for channel in (0..channels).step_by(lanes) {
                    let mask = ops.first_n_mask(lanes.min(channels - channel));
                    let centred = ops.sub(ops.load_ptr_mask(row.add(channel), mask), mean);
                    let centred = ops.select(centred, ops.zero(), mask);
                    squares = ops.mul_add(centred, centred, squares);
                }
                let inverse = ops.splat(1.0 / (ops.sum(squares) * count + self.eps).sqrt());
                for channel in (0..channels).step_by(lanes) {
                    let mask = ops.first_n_mask(lanes.min(channels - channel));
                    let centred = ops.sub(ops.load_ptr_mask(row.add(channel), mask), mean);
                    let weight = ops.load_ptr_mask(self.affine.weight.as_ptr().add(channel), mask);
                    let bias = ops.load_ptr_mask(self.affine.bias.as_ptr().add(channel), mask);
                    let value = ops.mul_add(ops.mul(centred, inverse), weight, bias);
                    ops.store_ptr_mask(value, self.out.add(start + channel), mask);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{noise, relative};
    use proptest::prelude::*;

    /// The definition, in f64.
    fn reference(values: &[f64], eps: f64) -> Vec<f64> {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        values.iter().map(|v| (v - mean) / (variance + eps).sqrt()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn group_norm_equals_its_definition(
            batch in 1usize..4, height in 1usize..40, width in 1usize..20,
            groups in 1usize..9, size in 1usize..20, silu: bool,
            offset in -100f32..100.0,
        ) {
            let channels = groups * size;
            prop_assume!(height * width * size > 1);
            let mut data = noise(batch * height * width * channels, 1);
            data.iter_mut().for_each(|v| *v += offset);
            let (weight, bias) = (noise(channels, 2), noise(channels, 3));
            let map = Map { data: &data, batch, height, width, channels };
            let got = group_norm(map, groups, 1e-5, Affine { weight: &weight, bias: &bias }, silu);
            let mut want = vec![0f32; data.len()];
            for b in 0..batch {
                for group in 0..groups {
                    let index = |i: usize| (b * height * width + i / size) * channels + group * size + i % size;
                    let values: Vec<f64> = (0..height * width * size).map(|i| f64::from(data[index(i)])).collect();
                    for (i, v) in reference(&values, 1e-5).into_iter().enumerate() {
                        let c = group * size + i % size;
                        let v = v * f64::from(weight[c]) + f64::from(bias[c]);
                        want[index(i)] = if silu { v / (1.0 + (-v).exp()) } else { v } as f32;
                    }
                }
            }
            prop_assert!(relative(&got, &want) < 3e-5, "{}", relative(&got, &want));
        }

        #[test]
        fn layer_norm_equals_its_definition(rows in 1usize..40, channels in 2usize..100) {
            let data = noise(rows * channels, 1);
            let (weight, bias) = (noise(channels, 2), noise(channels, 3));
            let got = layer_norm(&data, 1e-5, Affine { weight: &weight, bias: &bias });
            let want: Vec<f32> = data.chunks(channels).flat_map(|row| {
                let row: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
                let line = reference(&row, 1e-5).into_iter().zip(&weight).zip(&bias);
                line.map(|((v, w), b)| (v * f64::from(*w) + f64::from(*b)) as f32).collect::<Vec<_>>()
            }).collect();
            prop_assert!(relative(&got, &want) < 1e-5, "{}", relative(&got, &want));
        }
    }
}
