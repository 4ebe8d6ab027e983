//! Convolutions over channels-last maps: indirect products, or Winograd's transform where that is
//! cheaper.

use super::buffer::Aligned;
use super::gemm::{Added, Format, Packed, Products, Shift, multiplies, product};
pub use super::map::Map;
use super::tile::{LeftRows, Plain};
use super::winograd;

/// How a convolution walks over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Side of the square kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Rows of zeros above and columns of zeros to the left.
    pub before: usize,
    /// Rows of zeros below and columns of zeros to the right.
    pub after: usize,
}

impl Geometry {
    /// Outputs along a side of `length` inputs.
    pub fn outputs(&self, length: usize) -> usize {
        (length + self.before + self.after).checked_sub(self.kernel).map_or(0, |rest| rest / self.stride + 1)
    }
}

/// A convolution with weights packed for this machine.
#[derive(Debug, Clone)]
pub struct Conv {
    /// Depth: kernel row, kernel column, input channel.
    packed: Packed,
    input: usize,
    geometry: Geometry,
    /// What a tap outside the map reads.
    zeros: Aligned,
}

/// Which way to compute a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Taps are read in place: any geometry.
    Indirect,
    /// Winograd F(4x4, 3x3): kernel 3 and stride 1 only.
    Winograd,
}

impl Conv {
    /// Packs `weight`, `[output, input, kernel, kernel]`; weights for an odd number of input
    /// channels stay in f32.
    pub fn new(format: Format, weight: &[f32], output: usize, input: usize, geometry: Geometry) -> Self {
        let area = geometry.kernel * geometry.kernel;
        // Pairs lie within a tap.
        let format = if input.is_multiple_of(2) { format } else { Format::F32 };
        let packed = Packed::new_as(format, area * input, output, |row, column| {
            weight[(column * input + row % input) * area + row / input]
        });
        Self { packed, input, geometry, zeros: Aligned::zeros(input) }
    }

    /// Channels of the input.
    pub fn input(&self) -> usize {
        self.input
    }

    /// Rows and columns of the output for an input of this size.
    pub fn outputs(&self, (height, width): (usize, usize)) -> (usize, usize) {
        (self.geometry.outputs(height), self.geometry.outputs(width))
    }

    /// Channels of the output.
    pub fn output(&self) -> usize {
        self.packed.columns()
    }

    /// The convolution of `map`, enlarged first to the size `enlarged` by nearest neighbour (source
    /// index `floor(i * in / out)`). The enlarged map is never formed. `added` has the output's
    /// shape; its groups are maps. Returns the values `[batch, height, width, output]` with height
    /// and width.
    ///
    /// # Panics
    /// When `map` has other channels than the weights.
    pub fn forward(&self, map: Map, enlarged: Option<(usize, usize)>, added: Added) -> (Vec<f32>, usize, usize) {
        let (height, width) = enlarged.unwrap_or((map.height, map.width));
        let size = (self.geometry.outputs(height), self.geometry.outputs(width));
        (self.forward_as(self.algorithm(map.batch, size), map, enlarged, added), size.0, size.1)
    }

    /// [`forward`](Self::forward) by an algorithm of the caller's choice, values only.
    ///
    /// # Panics
    /// As `forward`, or when the algorithm cannot do this geometry.
    pub fn forward_as(
        &self,
        algorithm: Algorithm,
        map: Map,
        enlarged: Option<(usize, usize)>,
        added: Added,
    ) -> Vec<f32> {
        assert_eq!(map.channels, self.input, "channels of a convolution's input");
        assert_eq!(map.data.len(), map.batch * map.height * map.width * map.channels, "a whole map");
        let (height, width) = enlarged.unwrap_or((map.height, map.width));
        let (oh, ow) = (self.geometry.outputs(height), self.geometry.outputs(width));
        if let Shift::PerGroup { rows, .. } = added.shift {
            assert_eq!(rows, oh * ow, "a group of rows is an image");
        }
        if algorithm == Algorithm::Winograd {
            assert!(self.geometry.kernel == 3 && self.geometry.stride == 1, "Winograd F(4x4, 3x3)");
            let ys = self.sources(height, map.height);
            let xs = self.sources(width, map.width);
            return winograd::forward(&self.packed, map, (&ys, &xs), (oh, ow), added);
        }
        if self.geometry == (Geometry { kernel: 1, stride: 1, before: 0, after: 0 }) && enlarged.is_none() {
            let rows = map.batch * oh * ow;
            return product(
                &Plain { data: map.data, rows, width: self.input, stride: self.input },
                &self.packed,
                added,
            );
        }
        let taps = TapRows {
            map,
            geometry: self.geometry,
            size: (oh, ow),
            ys: &self.sources(height, map.height),
            xs: &self.sources(width, map.width),
            zeros: &self.zeros,
        };
        product(&taps, &self.packed, added)
    }

    /// How the indirect form multiplies.
    pub(super) fn products(&self) -> Products {
        multiplies(&self.packed)
    }

    /// The source index of every place along a side with its padding: `None` where there is nothing
    /// but zeros.
    fn sources(&self, length: usize, source: usize) -> Vec<Option<usize>> {
        let padded = length + self.geometry.before + self.geometry.after;
        (0..padded)
            .map(|i| i.checked_sub(self.geometry.before).filter(|&i| i < length).map(|i| i * source / length.max(1)))
            .collect()
    }

    /// The cheaper way by the operations of each, fitted to what was measured on AVX-512
    /// (benches/RESULTS.md).
    fn algorithm(&self, batch: usize, (height, width): (usize, usize)) -> Algorithm {
        if self.geometry.kernel != 3 || self.geometry.stride != 1 || self.input < 16 || self.output() < 16 {
            return Algorithm::Indirect;
        }
        let rows = batch * height * width;
        let tiles = batch * height.div_ceil(4) * width.div_ceil(4);
        // Multiplications per pair of channels. For Winograd these are its products (at a lower
        // rate), the transform of the pair's weights, and its share of the maps' transforms.
        let mut indirect = 9 * rows.next_multiple_of(4);
        if self.products() == Products::Bf16 {
            indirect /= 2;
        }
        let winograd = 36 * tiles.next_multiple_of(4) * 8 / 5 + 150 + tiles * 720 / self.input.min(self.output());
        if winograd < indirect { Algorithm::Winograd } else { Algorithm::Indirect }
    }
}

/// A convolution's input as rows of taps.
struct TapRows<'a> {
    map: Map<'a>,
    geometry: Geometry,
    size: (usize, usize),
    ys: &'a [Option<usize>],
    xs: &'a [Option<usize>],
    zeros: &'a [f32],
}

impl LeftRows for TapRows<'_> {
    fn rows(&self) -> usize {
        self.map.batch * self.size.0 * self.size.1
    }

    fn taps(&self) -> usize {
        self.geometry.kernel * self.geometry.kernel
    }

    #[allow(clippy::misnamed_getters)]
    fn width(&self) -> usize {
        self.map.channels
    }

    fn pieces(&self, row: usize, first_tap: usize, out: &mut [*const f32]) {
        let (height, width) = self.size;
        let (batch, place) = (row / (height * width), row % (height * width));
        let (top, left) = (place / width * self.geometry.stride, place % width * self.geometry.stride);
        let (mut ky, mut kx) = (first_tap / self.geometry.kernel, first_tap % self.geometry.kernel);
        for pointer in out {
            *pointer = match (self.ys[top + ky], self.xs[left + kx]) {
                (Some(y), Some(x)) => {
                    let pixel = (batch * self.map.height + y) * self.map.width + x;
                    self.map.data[pixel * self.map.channels..][..self.map.channels].as_ptr()
                }
                _ => self.zeros.as_ptr(),
            };
            kx += 1;
            if kx == self.geometry.kernel {
                (ky, kx) = (ky + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{noise, relative};
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    /// candle's own convolution, on the same channels-last values.
    fn reference(
        weight: &[f32],
        output: usize,
        map: Map,
        enlarged: Option<(usize, usize)>,
        geometry: Geometry,
    ) -> candle_core::Result<Vec<f32>> {
        let Geometry { kernel, stride, before, after } = geometry;
        let x = Tensor::from_slice(map.data, (map.batch, map.height, map.width, map.channels), &Device::Cpu)?;
        let mut x = x.permute((0, 3, 1, 2))?.contiguous()?;
        if let Some((height, width)) = enlarged {
            x = x.upsample_nearest2d(height, width)?;
        }
        let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        let weight = Tensor::from_slice(weight, (output, map.channels, kernel, kernel), &Device::Cpu)?;
        x.conv2d(&weight, 0, stride, 1, 1)?.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()
    }

    #[derive(Debug, Clone)]
    struct Case {
        batch: usize,
        size: (usize, usize),
        input: usize,
        output: usize,
        geometry: Geometry,
        enlarge: u8,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let geometry = prop_oneof![
            3 => Just(Geometry { kernel: 3, stride: 1, before: 1, after: 1 }),
            1 => Just(Geometry { kernel: 3, stride: 2, before: 1, after: 1 }),
            1 => Just(Geometry { kernel: 3, stride: 2, before: 0, after: 1 }),
            1 => Just(Geometry { kernel: 1, stride: 1, before: 0, after: 0 }),
        ];
        let batch = prop_oneof![Just(1usize), Just(2), Just(4)];
        (batch, (1usize..14, 1usize..14), 1usize..70, 1usize..70, geometry, 0u8..3).prop_map(
            |(batch, size, input, output, geometry, enlarge)| Case { batch, size, input, output, geometry, enlarge },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_candle(case in cases()) {
            let Case { batch, size: (height, width), input, output, geometry, enlarge } = case;
            let data = noise(batch * height * width * input, 1);
            let weight = noise(output * input * geometry.kernel * geometry.kernel, 2);
            let map = Map { data: &data, batch, height, width, channels: input };
            let enlarged = match enlarge {
                0 => None,
                1 => Some((2 * height, 2 * width)),
                _ => Some((2 * height + 1, 2 * width - 1)),
            };
            // A map too small for one output is refused before the kernels. There candle 0.11 takes
            // its size below zero, wraps around and writes out of bounds.
            let (rows, columns) = enlarged.unwrap_or((height, width));
            prop_assume!(geometry.outputs(rows) * geometry.outputs(columns) > 0);
            let want = reference(&weight, output, map, enlarged, geometry).unwrap();
            let conv = Conv::new(Format::F32, &weight, output, input, geometry);
            let (got, oh, ow) = conv.forward(map, enlarged, Added::default());
            prop_assert_eq!(got.len(), batch * oh * ow * output);
            prop_assert!(relative(&got, &want) < 1e-5, "{}", relative(&got, &want));
            if geometry.kernel == 3 && geometry.stride == 1 {
                for algorithm in [Algorithm::Indirect, Algorithm::Winograd] {
                    let got = conv.forward_as(algorithm, map, enlarged, Added::default());
                    prop_assert!(relative(&got, &want) < 1e-5, "{algorithm:?} {}", relative(&got, &want));
                }
            }
            // One value per channel of each map, and a residual.
            let shift = noise(batch * output, 3);
            let residual = noise(want.len(), 4);
            let places = oh * ow;
            let want: Vec<f32> = want.iter().zip(&residual).enumerate().map(|(i, (w, r))| {
                w + r + shift[i / (places * output) * output + i % output]
            }).collect();
            let added = Added { shift: Shift::PerGroup { values: &shift, rows: places }, residual: Some(&residual) };
            let (got, ..) = conv.forward(map, enlarged, added);
            prop_assert!(relative(&got, &want) < 1e-5, "added: {}", relative(&got, &want));
        }
    }
}
