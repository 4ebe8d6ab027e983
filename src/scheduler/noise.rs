//! Seeded noise equal to that of torch's CPU generator, draw by draw.
//!
//! A diffusers user who passes `torch.Generator().manual_seed(seed)` must get the same image here.
//! So the generator has to agree on the first latents and on every later draw of a run. What torch
//! does (its `MT19937RNGEngine.h`, `DistributionsHelper.h` and `DistributionTemplates.h`, 2.13):
//!
//! - The engine is MT19937, seeded with the low 32 bits of the seed: seeds 7 and 7 + 2^32 give the
//!   same noise.
//! - 16 values or more: uniforms from the low 24 bits of one 32-bit word each. Then Box-Muller in
//!   blocks of 16 (radius from the first eight, angle from the last eight), in f32. Where the count
//!   is not a multiple of 16, the last 16 values are drawn anew.
//! - Fewer than 16 values: scalar Box-Muller in f64 from 53-bit uniforms of two words each. It
//!   makes two values at a time and keeps the second one for the next such draw, across larger
//!   draws in between.
//! - f16 and bf16 take the same steps in f32 (f64 for the scalar path) and round at the end, but
//!   fill block by block. The uniforms of an incomplete last block are never drawn. So the
//!   generator ends in another state than after f32.
//!
//! The block path of torch's AVX2 and AVX-512 builds calls 8-lane `log` and `sincos` made from the
//! Cephes single-precision polynomials, with fused multiply-adds. The same sequence is spelled out
//! below. So f32 noise equals torch's bit for bit on any x86-64 machine of the last decade. It is
//! the same on every machine that runs attnmap. (torch itself differs by some 1e-7 between machines
//! with and without AVX2.)

use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use rand_mt::Mt;

/// Values that torch's vectorised path makes at a time; smaller draws take the scalar path.
const BLOCK: usize = 16;

/// torch's CPU random generator: `torch.Generator().manual_seed(seed)`.
#[derive(Debug, Clone)]
pub struct TorchGenerator {
    engine: Mt,
    /// The second value of the last scalar Box-Muller pair, not yet handed out.
    spare: Option<f64>,
    seed: u64,
}

impl TorchGenerator {
    /// A generator in the state of `torch.Generator().manual_seed(seed)`. Only the low 32 bits of
    /// the seed count, as in torch.
    pub fn new(seed: u64) -> Self {
        // Truncation is torch's own rule.
        Self { engine: Mt::new(seed as u32), spare: None, seed }
    }

    /// The seed it was made with, all 64 bits.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// `torch.randn(shape, generator=self)` in f32, row-major; equal to torch bit for bit (on AVX2
    /// machines, see the module).
    pub fn randn(&mut self, shape: &[usize]) -> Vec<f32> {
        let count = shape.iter().product();
        let mut values = vec![0f32; count];
        if count < BLOCK {
            values.fill_with(|| self.scalar_normal() as f32);
            return values;
        }
        values.fill_with(|| self.uniform());
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller);
        if !rest.is_empty() {
            self.redraw_last_block(&mut values);
        }
        values
    }

    /// `torch.randn(shape, generator=self, dtype=dtype)` as a tensor of `dtype` on `device`, drawn
    /// on the CPU whatever the device.
    ///
    /// f16 and bf16 leave the generator in the state that torch's draw of that dtype leaves it in
    /// (see the module). Errors: a dtype other than f32, f16 or bf16, or a device that is out of
    /// memory.
    pub fn randn_tensor(&mut self, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values = match dtype {
            DType::F32 => self.randn(shape.dims()),
            DType::F16 | DType::BF16 => self.randn_halves(shape.elem_count()),
            other => {
                return Err(Error::bug(format!("noise can be f32, f16 or bf16, not {other:?}")));
            }
        };
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
    }

    /// The draw of a half-precision tensor, not yet rounded to it.
    fn randn_halves(&mut self, count: usize) -> Vec<f32> {
        let mut values = vec![0f32; count];
        if count < BLOCK {
            values.fill_with(|| self.scalar_normal() as f32);
            return values;
        }
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        for block in blocks {
            block.fill_with(|| self.uniform());
            box_muller(block);
        }
        if !rest.is_empty() {
            self.redraw_last_block(&mut values);
        }
        values
    }

    /// Draws the last 16 values again: what torch does when the count is not a multiple of 16.
    fn redraw_last_block(&mut self, values: &mut [f32]) {
        if let Some(block) = values.last_chunk_mut::<BLOCK>() {
            block.fill_with(|| self.uniform());
            box_muller(block);
        }
    }

    /// A float in [0, 1) from the low 24 bits of one word.
    fn uniform(&mut self) -> f32 {
        (self.engine.next_u32() & 0x00ff_ffff) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// A double in [0, 1) from the low 53 bits of two words, the high word first.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.engine.next_u32());
        let low = u64::from(self.engine.next_u32());
        let word = (high << 32) | low;
        (word & ((1 << 53) - 1)) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// One normal value of the scalar path.
    fn scalar_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = 2.0 * std::f64::consts::PI * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Noise for a batch, as diffusers' `randn_tensor`: one generator draws the whole `shape`. As many
/// generators as rows of the first dimension draw one row each. Then a row does not depend on what
/// else is in the batch.
///
/// # Errors
/// For any other number of generators, or a dtype other than f32, f16 and bf16.
pub fn randn_tensor(
    shape: impl Into<Shape>,
    generators: &mut [TorchGenerator],
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    let rows = shape.dims().first().copied().unwrap_or(0);
    match generators {
        [generator] => generator.randn_tensor(shape, dtype, device),
        many if many.len() == rows => {
            let mut row = shape.dims().to_vec();
            row[0] = 1;
            let rows = many
                .iter_mut()
                .map(|generator| generator.randn_tensor(row.clone(), dtype, device))
                .collect::<Result<Vec<_>>>()?;
            Ok(Tensor::cat(&rows, 0)?)
        }
        other => {
            let message = format!("{} noise generators given for a batch of {rows}: one, or one each", other.len());
            Err(Error::bug(message))
        }
    }
}

/// Turns 16 uniforms into 16 normals in place.
fn box_muller(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * cephes_ln(1.0 - *first)).sqrt();
        let (sin, cos) = cephes_sin_cos(std::f32::consts::TAU * *second);
        // Adding torch's mean of 0 turns -0 into +0.
        *first = radius * cos + 0.0;
        *second = radius * sin + 0.0;
    }
}

/// Natural logarithm of a normal positive `x`: the Cephes `logf` polynomial, fused where torch's
/// build fuses.
fn cephes_ln(x: f32) -> f32 {
    const POLYNOMIAL: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // ln 2 in two parts, the large one exact in few bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    // x = m 2^e with m in [sqrt(1/2), sqrt(2)).
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        m = (m - 1.0) + m;
    } else {
        m -= 1.0;
    }
    let e = exponent as f32;
    let square = m * m;
    let series = POLYNOMIAL[1..].iter().fold(POLYNOMIAL[0], |sum, &c| sum.mul_add(m, c)) * m;
    let correction = square.mul_add(-0.5, series.mul_add(square, e * LN_2_LOW));
    e.mul_add(LN_2_HIGH, m + correction)
}

/// Sine and cosine of `x` in [0, 2 pi]: the Cephes `sinf` and `cosf` polynomials, fused where
/// torch's build fuses.
fn cephes_sin_cos(x: f32) -> (f32, f32) {
    const FOUR_OVER_PI: f32 = 4.0 * std::f32::consts::FRAC_1_PI;
    // pi / 4 in three parts.
    const PI_4_PARTS: [f32; 3] = [0.785_156_25, 2.418_756_5e-4, 3.774_895e-8];

    // The octant, rounded up to an even one, is taken off.
    let octant = ((x * FOUR_OVER_PI) as i32 + 1) & !1;
    let turns = octant as f32;
    let x = PI_4_PARTS.iter().fold(x, |x, &part| turns.mul_add(-part, x));
    let square = x * x;

    let near_one = 2.443_315_7e-5f32.mul_add(square, -1.388_731_6e-3).mul_add(square, 4.166_664_6e-2) * square;
    let near_one = near_one.mul_add(square, -(square * 0.5)) + 1.0;
    let near_zero = (-1.951_529_6e-4f32).mul_add(square, 8.332_161e-3).mul_add(square, -1.666_665_5e-1) * square;
    let near_zero = near_zero.mul_add(x, x);

    let (sin, cos) = if octant & 2 == 0 { (near_zero, near_one) } else { (near_one, near_zero) };
    let sin = if octant & 4 == 0 { sin } else { -sin };
    // Cosine is negative in the octants 2 to 5.
    let cos = if (octant - 2) & 4 == 0 { -cos } else { cos };
    (sin, cos)
}
