//! Resizing one grid of numbers to another, equal to torch's `interpolate(..., align_corners=False,
//! antialias=False)`.

use crate::trace::Grid;

/// How values between the cells are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Cubic convolution with a = -0.75, as torch's `bicubic`; may undershoot 0 and overshoot the
    /// maximum.
    Bicubic,
    /// As torch's `bilinear`.
    Bilinear,
    /// The cell that a point lies in, as torch's `nearest-exact`.
    Nearest,
}

/// The resize from one grid to another, its weights computed once.
///
/// Source coordinates follow the half-pixel rule `scale * (i + 0.5) - 0.5` with `scale = from /
/// to`. Indices beyond the border are clamped, as in torch's `upsample_bicubic2d`
/// (ATen/native/UpSample.h).
#[derive(Debug, Clone)]
pub struct Resampler {
    from: Grid,
    to: Grid,
    rows: Vec<GridTap>,
    columns: Vec<GridTap>,
}

/// Where one output index reads: four source indices and their weights.
#[derive(Debug, Clone, Copy)]
struct GridTap {
    index: [usize; 4],
    weight: [f32; 4],
}

impl Resampler {
    /// A resize of grids of size `from` to size `to`.
    ///
    /// # Panics
    /// When a side is zero.
    pub fn new(from: Grid, to: Grid, filter: Filter) -> Self {
        assert!(from.cells() > 0 && to.cells() > 0, "cannot resize {from:?} to {to:?}");
        Self { from, to, rows: taps(from.height, to.height, filter), columns: taps(from.width, to.width, filter) }
    }

    /// Writes `input` (row-major, `from`) at size `to` into `output`. `scratch` is grown as needed
    /// and may be reused.
    ///
    /// # Panics
    /// When a slice has another length than its grid.
    pub fn resize_into(&self, input: &[f32], output: &mut [f32], scratch: &mut Vec<f32>) {
        assert_eq!((input.len(), output.len()), (self.from.cells(), self.to.cells()));
        if self.from == self.to {
            return output.copy_from_slice(input);
        }
        // Along the rows first, then down the columns, as torch does.
        let width = self.to.width;
        scratch.resize(self.from.height * width, 0.0);
        for (wide, row) in scratch.chunks_exact_mut(width).zip(input.chunks_exact(self.from.width)) {
            for (value, tap) in wide.iter_mut().zip(&self.columns) {
                let [a, b, c, d] = tap.index.map(|index| row[index]);
                let [wa, wb, wc, wd] = tap.weight;
                *value = a * wa + b * wb + c * wc + d * wd;
            }
        }
        for (out, tap) in output.chunks_exact_mut(width).zip(&self.rows) {
            let [a, b, c, d] = tap.index.map(|index| &scratch[index * width..][..width]);
            let [wa, wb, wc, wd] = tap.weight;
            for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *out = a * wa + b * wb + c * wc + d * wd;
            }
        }
    }

    /// `input` (row-major, `from`) at size `to`.
    pub fn resize(&self, input: &[f32]) -> Vec<f32> {
        let mut output = vec![0.0; self.to.cells()];
        self.resize_into(input, &mut output, &mut Vec::new());
        output
    }
}

fn taps(from: usize, to: usize, filter: Filter) -> Vec<GridTap> {
    let scale = from as f64 / to as f64;
    let clamp = |index: i64| index.clamp(0, from as i64 - 1) as usize;
    let tap = |out: usize| {
        let centre = scale * (out as f64 + 0.5);
        if filter == Filter::Nearest {
            let index = clamp(centre.floor() as i64);
            return GridTap { index: [index; 4], weight: [1.0, 0.0, 0.0, 0.0] };
        }
        let source = centre - 0.5;
        let (floor, t) = (source.floor() as i64, source - source.floor());
        let weight = if filter == Filter::Bicubic { cubic(t) } else { [0.0, 1.0 - t, t, 0.0] };
        GridTap { index: [-1, 0, 1, 2].map(|offset| clamp(floor + offset)), weight: weight.map(|weight| weight as f32) }
    };
    (0..to).map(tap).collect()
}

/// Weights of the four neighbours of a point `t` past the second (Keys 1981, with torch's a =
/// -0.75).
fn cubic(t: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_grids_stay_constant() {
        for filter in [Filter::Bicubic, Filter::Bilinear, Filter::Nearest] {
            let resized = Resampler::new(Grid::new(3, 5), Grid::new(11, 7), filter).resize(&[0.25; 15]);
            assert!(resized.iter().all(|value| (value - 0.25).abs() < 1e-6), "{filter:?}");
        }
    }

    #[test]
    fn same_size_is_the_identity() {
        let grid: Vec<f32> = (0..12).map(|value| value as f32).collect();
        assert_eq!(Resampler::new(Grid::new(3, 4), Grid::new(3, 4), Filter::Bicubic).resize(&grid), grid);
    }

    #[test]
    fn rows_and_columns_are_not_swapped() {
        let resized = Resampler::new(Grid::new(1, 2), Grid::new(2, 4), Filter::Nearest).resize(&[1.0, 2.0]);
        assert_eq!(resized, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
    }
}
