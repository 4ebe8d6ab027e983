//! 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3): 36 products per tile where the plain way
//! takes 144.
//!
//! Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks". Weights are
//! transformed on the way into the cache, a few channels at a time, and never kept. Transformed
//! weights would take four times the memory. On a small grid, reading them costs more than making
//! them.

use super::buffer::{Aligned, SharedMut, filled};
use super::gemm::{Added, Format, Packed, micro, panel_width};
use super::machine::{TILE, shape};
use super::map::Map;
use super::tile::TileOutput;
use super::{packed, threads};
use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, SimdOp};
use std::cell::RefCell;
use std::ops::Range;

/// Places of a transformed tile.
const PLACES: usize = 36;
/// Transformed maps held at a time, in values: they stay in the last-level cache.
const HELD: usize = 3 << 20;
/// Tiles that share one transform of the weights: their products stay in the second-level cache.
const TILES: usize = 128;
/// Input channels transformed at a time.
const DEPTH: usize = 64;
/// Values between the places of a tile beyond what they hold, so that the 36 do not fall into one
/// cache set.
const SKEW: usize = 16;

thread_local! {
    static MAPS: RefCell<Aligned> = RefCell::default();
    static PRODUCTS: RefCell<(Aligned, Aligned)> = RefCell::default();
}

/// The convolution with `weights` of depth `[3, 3, input]`; `sources` maps padded rows and columns
/// to those of `map`.
pub(super) fn forward(
    weights: &Packed,
    map: Map,
    sources: (&[Option<usize>], &[Option<usize>]),
    (height, width): (usize, usize),
    added: Added,
) -> Vec<f32> {
    let (down, across) = (height.div_ceil(4), width.div_ceil(4));
    let tiles = map.batch * down * across;
    let (input, output) = (map.channels, weights.columns());
    let panels = output.div_ceil(panel_width());
    let job = WinogradConv { weights, map, sources, size: (height, width), tiles: (down, across), added };
    let block = (HELD / (PLACES * input)).max(TILES).next_multiple_of(TILES).min(tiles);
    let write = |out: SharedMut| {
        MAPS.with_borrow_mut(|maps| {
            let stride = block * input + SKEW;
            let maps = SharedMut(maps.at_least(PLACES * stride).as_mut_ptr());
            for first in (0..tiles).step_by(block) {
                let count = block.min(tiles - first);
                // Some 150 vector operations for 16 channels of a tile, and as long for its memory.
                threads::ranges(count, 1, count * input * 6, |range| {
                    Scatter { job: &job, range: first + range.start..first + range.end, first, maps, stride }
                        .dispatch();
                });
                let parts = count.div_ceil(TILES);
                threads::each(panels * parts, count * input * panels * panel_width() * PLACES / 100, |task| {
                    let (panel, part) = (task / parts, task % parts);
                    let range = part * count / parts..(part + 1) * count / parts;
                    PRODUCTS.with_borrow_mut(|(weights, products)| {
                        Gather { job: &job, panel, range, first, maps, stride, weights, products, out }.dispatch();
                    });
                });
            }
        });
    };
    // SAFETY: every tile of every panel is written.
    unsafe { filled(map.batch * height * width * output, write) }
}

struct WinogradConv<'a> {
    weights: &'a Packed,
    map: Map<'a>,
    sources: (&'a [Option<usize>], &'a [Option<usize>]),
    size: (usize, usize),
    tiles: (usize, usize),
    added: Added<'a>,
}

impl WinogradConv<'_> {
    /// Batch, top and left of a tile in the output.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (down, across) = self.tiles;
        (tile / (down * across), tile / across % down * 4, tile % across * 4)
    }
}

/// Transforms input tiles: `B^T d B`.
struct Scatter<'a> {
    job: &'a WinogradConv<'a>,
    range: Range<usize>,
    first: usize,
    maps: SharedMut,
    stride: usize,
}

impl SimdOp for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (lanes, channels) = (ops.len(), self.job.map.channels);
        for tile in self.range.clone() {
            let pixels = self.pixels(tile);
            // SAFETY: `maps` holds `PLACES` planes of `stride`, and this task alone writes this
            // tile's rows; pixels hold `channels` values and masks stop at the last.
            unsafe {
                let out = self.maps.get().add((tile - self.first) * channels);
                let mut channel = 0;
                while channel < channels {
                    let mask = ops.first_n_mask(lanes.min(channels - channel));
                    let whole = channels - channel >= lanes;
                    let mut d = [[ops.zero(); 6]; 6];
                    for y in 0..6 {
                        for x in 0..6 {
                            let pixel = pixels[y][x];
                            if pixel.is_null() {
                                continue;
                            }
                            d[y][x] = if whole {
                                ops.load_ptr(pixel.add(channel))
                            } else {
                                ops.load_ptr_mask(pixel.add(channel), mask)
                            };
                        }
                    }
                    let v = input_transform(isa, d);
                    for y in 0..6 {
                        for x in 0..6 {
                            let out = out.add((y * 6 + x) * self.stride + channel);
                            if whole { ops.store_ptr(v[y][x], out) } else { ops.store_ptr_mask(v[y][x], out, mask) }
                        }
                    }
                    channel += lanes;
                }
            }
        }
    }
}

impl Scatter<'_> {
    /// Where the 36 pixels under a tile lie; null for those of the padding.
    fn pixels(&self, tile: usize) -> [[*const f32; 6]; 6] {
        let (map, (ys, xs)) = (&self.job.map, self.job.sources);
        let (batch, top, left) = self.job.place(tile);
        std::array::from_fn(|y| {
            let y = ys.get(top + y).copied().flatten();
            std::array::from_fn(|x| {
                let x = xs.get(left + x).copied().flatten();
                let pixel = y.zip(x).map(|(y, x)| (batch * map.height + y) * map.width + x);
                pixel.map_or(std::ptr::null(), |pixel| map.data[pixel * map.channels..][..map.channels].as_ptr())
            })
        })
    }
}

/// The 36 products of some tiles with one panel of outputs, and their way back: `A^T m A`.
struct Gather<'a> {
    job: &'a WinogradConv<'a>,
    panel: usize,
    range: Range<usize>,
    first: usize,
    maps: SharedMut,
    stride: usize,
    weights: &'a mut Aligned,
    products: &'a mut Aligned,
    out: SharedMut,
}

impl SimdOp for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let width = 2 * isa.f32().len();
        let count = self.range.len();
        let plane = count * width + SKEW;
        let weights = self.weights.at_least(PLACES * (DEPTH * width + SKEW)).as_mut_ptr();
        let products = self.products.at_least(PLACES * plane).as_mut_ptr();
        let input = self.job.map.channels;
        let (_, tile) = shape();
        let is_halved = self.job.weights.format() == Format::Bf16;
        let mut halved = Aligned::zeros(if is_halved { 9 * DEPTH * width } else { 0 });
        for channel in (0..input).step_by(DEPTH) {
            let depth = DEPTH.min(input - channel);
            let from = self.weights(channel, depth, width, &mut halved);
            // SAFETY: `weights` holds 36 planes of `depth` lines, and each of the nine taps as
            // many.
            unsafe { from.transform(isa, weights) };
            for place in 0..PLACES {
                // SAFETY: rows of this task's tiles in plane `place`, all written by `Scatter`
                // before.
                let rows = unsafe { self.maps.get().add(place * self.stride + self.range.start * input + channel) };
                for row in (0..count).step_by(tile) {
                    let mut a = [std::ptr::null::<f32>(); TILE];
                    for (r, pointer) in a.iter_mut().enumerate() {
                        // SAFETY: within the rows above; those beyond the last repeat it.
                        *pointer = unsafe { rows.add((row + r).min(count - 1) * input) };
                    }
                    let store = TileOutput {
                        // SAFETY: inside `products`.
                        out: unsafe { products.add(place * plane + row * width) },
                        stride: width,
                        rows: tile.min(count - row),
                        columns: width,
                        accumulate: channel > 0,
                        added: None,
                    };
                    // SAFETY: `depth` values at each row pointer and as many lines of transformed
                    // weights.
                    unsafe { micro(isa, &[a], 0, depth, weights.add(place * (depth * width + SKEW)), store) };
                }
            }
        }
        let back = Back { job: self.job, column: self.panel * width, plane, out: self.out.get() };
        for tile in 0..count {
            // SAFETY: the products of this tile are complete, and no other task writes these
            // columns of it.
            unsafe { back.write(isa, self.first + self.range.start + tile, products.add(tile * width)) };
        }
    }
}

impl Gather<'_> {
    /// `depth` channels of the panel's weights from `channel` on; through `unpacked` where they lie
    /// in bf16.
    #[inline(always)]
    fn weights(&self, channel: usize, depth: usize, width: usize, unpacked: &mut Aligned) -> PanelWeights {
        let (packed, input) = (self.job.weights, self.job.map.channels);
        if packed.format() == Format::F32 {
            return PanelWeights { taps: packed.panel(self.panel, channel), stride: input, depth };
        }
        let taps = unpacked.as_mut_ptr();
        for tap in 0..9 {
            // SAFETY: `channel + depth` is within the input's channels, an even number of them as
            // `DEPTH` is.
            unsafe {
                packed::unpack(
                    packed.panel(self.panel, tap * input + channel),
                    depth,
                    width,
                    taps.add(tap * depth * width),
                );
            }
        }
        PanelWeights { taps, stride: depth, depth }
    }
}

/// Some channels of a panel of weights: nine taps, `stride` lines apart.
struct PanelWeights {
    taps: *const f32,
    stride: usize,
    depth: usize,
}

impl PanelWeights {
    /// `G g G^T`, to `[place][channel][column]`.
    #[inline(always)]
    unsafe fn transform<I: Isa>(&self, isa: I, out: *mut f32) {
        let ops = isa.f32();
        let width = 2 * ops.len();
        for c in 0..self.depth {
            for column in [0, ops.len()] {
                unsafe {
                    let mut g = [[ops.zero(); 3]; 3];
                    for y in 0..3 {
                        for x in 0..3 {
                            let row = (y * 3 + x) * self.stride + c;
                            g[y][x] = ops.load_ptr(self.taps.add(row * width + column));
                        }
                    }
                    let u = weight_transform(isa, g);
                    for y in 0..6 {
                        for x in 0..6 {
                            ops.store_ptr(
                                u[y][x],
                                out.add((y * 6 + x) * (self.depth * width + SKEW) + c * width + column),
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The way back from products to outputs for the columns of one panel.
struct Back<'a> {
    job: &'a WinogradConv<'a>,
    column: usize,
    plane: usize,
    out: *mut f32,
}

impl Back<'_> {
    /// The 4x4 outputs of a tile.
    #[inline(always)]
    unsafe fn write<I: Isa>(&self, isa: I, tile: usize, products: *const f32) {
        let ops = isa.f32();
        let lanes = ops.len();
        let output = self.job.weights.columns();
        let (height, across) = self.job.size;
        let (batch, top, left) = self.job.place(tile);
        let added = &self.job.added;
        let line = added.shift.line(batch * height * across);
        for column in [0, lanes] {
            let at = self.column + column;
            if at >= output {
                break;
            }
            let mask = ops.first_n_mask(lanes.min(output - at));
            unsafe {
                let mut m = [[ops.zero(); 6]; 6];
                for y in 0..6 {
                    for x in 0..6 {
                        m[y][x] = ops.load_ptr(products.add((y * 6 + x) * self.plane + column));
                    }
                }
                let values = output_transform(isa, m);
                let shift = match added.shift.values() {
                    Some(values) => ops.load_ptr_mask(values.as_ptr().add(line * output + at), mask),
                    None => ops.zero(),
                };
                for y in 0..4 {
                    for x in 0..4 {
                        if top + y >= height || left + x >= across {
                            continue;
                        }
                        let index = ((batch * height + top + y) * across + left + x) * output + at;
                        let mut value = ops.add(values[y][x], shift);
                        if let Some(residual) = added.residual {
                            value = ops.add(value, ops.load_ptr_mask(residual.as_ptr().add(index), mask));
                        }
                        ops.store_ptr_mask(value, self.out.add(index), mask);
                    }
                }
            }
        }
    }
}

/// `B^T d B`.
#[inline(always)]
fn input_transform<I: Isa>(isa: I, d: [[I::F32; 6]; 6]) -> [[I::F32; 6]; 6] {
    let zero = isa.f32().zero();
    let mut columns = [[zero; 6]; 6];
    for x in 0..6 {
        columns[x] = input_line(isa, [d[0][x], d[1][x], d[2][x], d[3][x], d[4][x], d[5][x]]);
    }
    let mut out = [[zero; 6]; 6];
    for y in 0..6 {
        let line = [columns[0][y], columns[1][y], columns[2][y], columns[3][y], columns[4][y], columns[5][y]];
        out[y] = input_line(isa, line);
    }
    out
}

/// `B^T d`.
#[inline(always)]
fn input_line<I: Isa>(isa: I, d: [I::F32; 6]) -> [I::F32; 6] {
    let ops = isa.f32();
    let (two, four, five) = (ops.splat(2.0), ops.splat(4.0), ops.splat(5.0));
    let even = ops.mul_sub_from(four, d[2], d[4]);
    let odd = ops.mul_sub_from(four, d[1], d[3]);
    let inner = ops.sub(d[4], d[2]);
    let outer = ops.mul(two, ops.sub(d[3], d[1]));
    [
        ops.mul_add(four, d[0], ops.mul_sub_from(five, d[2], d[4])),
        ops.add(even, odd),
        ops.sub(even, odd),
        ops.add(inner, outer),
        ops.sub(inner, outer),
        ops.mul_add(four, d[1], ops.mul_sub_from(five, d[3], d[5])),
    ]
}

/// `G g G^T`.
#[inline(always)]
fn weight_transform<I: Isa>(isa: I, g: [[I::F32; 3]; 3]) -> [[I::F32; 6]; 6] {
    let zero = isa.f32().zero();
    let mut columns = [[zero; 6]; 3];
    for x in 0..3 {
        columns[x] = weight_line(isa, [g[0][x], g[1][x], g[2][x]]);
    }
    let mut out = [[zero; 6]; 6];
    for y in 0..6 {
        out[y] = weight_line(isa, [columns[0][y], columns[1][y], columns[2][y]]);
    }
    out
}

/// `G g`.
#[inline(always)]
fn weight_line<I: Isa>(isa: I, g: [I::F32; 3]) -> [I::F32; 6] {
    let ops = isa.f32();
    let ends = ops.mul(ops.splat(-1.0 / 6.0), ops.add(g[0], g[2]));
    let middle = ops.mul(ops.splat(-1.0 / 6.0), g[1]);
    let far = ops.mul_add(ops.splat(1.0 / 24.0), g[0], ops.mul(ops.splat(1.0 / 6.0), g[2]));
    let near = ops.mul(ops.splat(1.0 / 12.0), g[1]);
    [
        ops.mul(ops.splat(0.25), g[0]),
        ops.add(ends, middle),
        ops.sub(ends, middle),
        ops.add(far, near),
        ops.sub(far, near),
        g[2],
    ]
}

/// `A^T m A`.
#[inline(always)]
fn output_transform<I: Isa>(isa: I, m: [[I::F32; 6]; 6]) -> [[I::F32; 4]; 4] {
    let zero = isa.f32().zero();
    let mut columns = [[zero; 4]; 6];
    for x in 0..6 {
        columns[x] = output_line(isa, [m[0][x], m[1][x], m[2][x], m[3][x], m[4][x], m[5][x]]);
    }
    let mut out = [[zero; 4]; 4];
    for y in 0..4 {
        let line = [columns[0][y], columns[1][y], columns[2][y], columns[3][y], columns[4][y], columns[5][y]];
        out[y] = output_line(isa, line);
    }
    out
}

/// `A^T m`.
#[inline(always)]
fn output_line<I: Isa>(isa: I, m: [I::F32; 6]) -> [I::F32; 4] {
    let ops = isa.f32();
    let (s12, d12) = (ops.add(m[1], m[2]), ops.sub(m[1], m[2]));
    let (s34, d34) = (ops.add(m[3], m[4]), ops.sub(m[3], m[4]));
    [
        ops.add(ops.add(m[0], s12), s34),
        ops.mul_add(ops.splat(2.0), d34, d12),
        ops.mul_add(ops.splat(4.0), s34, s12),
        ops.mul_add(ops.splat(8.0), d34, ops.add(d12, m[5])),
    ]
}
