//! Bytes of a file to a tensor: copied once, converted and checked for NaN and infinity on the way,
//! on all cores.

use super::blocks::blocks;
use super::entry::Encoding;
use super::problem::Problem;
use crate::argument::DTYPE;
use candle_core::{DType, Device, Shape, Tensor, WithDType};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::sync::atomic::{AtomicBool, Ordering};

/// Elements that one task converts; large enough to keep overhead small, small enough to share a
/// tensor among cores.
const CHUNK: usize = 1 << 16;

/// The elements in `bytes`, written as `from` says (little-endian), as a tensor of `shape` and type
/// `to` on `device`. `scale` multiplies them: nothing, one factor, or one per row of the first
/// axis.
pub(super) fn to_tensor(
    bytes: &[u8],
    from: Encoding,
    scale: &[f32],
    shape: Shape,
    to: DType,
    device: &Device,
) -> Result<Tensor, Problem> {
    let from = match from {
        Encoding::Plain(dtype) => dtype,
        Encoding::Blocks(kind) => {
            let plain = blocks(bytes, kind, shape.dims(), &Device::Cpu)?.dequantize(&Device::Cpu)?;
            return finite(plain, to, device);
        }
    };
    if !scale.is_empty() {
        let plain = to_tensor(bytes, Encoding::Plain(from), &[], shape.clone(), DType::F32, &Device::Cpu)?;
        let factors = Tensor::from_slice(scale, scale.len(), &Device::Cpu)?;
        let rows = plain.reshape((scale.len(), ()))?.broadcast_mul(&factors.unsqueeze(1)?)?;
        return finite(rows.reshape(shape)?, to, device);
    }
    let tensor = match to {
        DType::F32 => make::<f32>(bytes, from, shape, device),
        DType::F16 => make::<f16>(bytes, from, shape, device),
        DType::BF16 => make::<bf16>(bytes, from, shape, device),
        DType::F64 => make::<f64>(bytes, from, shape, device),
        other => Err(Problem::Content(format!("cannot be read as {other:?}; use f32, bf16 or f16"))),
    }?;
    Ok(tensor)
}

/// An f32 tensor of the CPU as `to` on `device`, when every number of it is finite there.
fn finite(tensor: Tensor, to: DType, device: &Device) -> Result<Tensor, Problem> {
    let tensor = tensor.to_dtype(to)?;
    if !f32::all_finite(&tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?) {
        let reason =
            format!("has numbers that are not finite in {}; the file is damaged, or use {DTYPE} f32", to.as_str());
        return Err(Problem::Content(reason));
    }
    Ok(tensor.to_device(device)?)
}

fn make<T: Element>(bytes: &[u8], from: Dtype, shape: Shape, device: &Device) -> Result<Tensor, Problem> {
    let count = shape.elem_count();
    let finite = AtomicBool::new(true);
    // Zeroed memory of this size comes straight from the system; each page is touched first by the
    // task that fills it.
    let mut elements = vec![T::default(); count];
    let width = match from {
        Dtype::F16 | Dtype::BF16 => 2,
        Dtype::F32 => 4,
        Dtype::F64 => 8,
        Dtype::F8_E4M3 | Dtype::F8_E5M2 => 1,
        other => {
            return Err(Problem::Content(format!(
                "holds {} numbers, which are not supported (f32, f16, bf16, f64, f8_e4m3 and f8_e5m2 are); take a \
                file in one of those",
                dtype_name(other)
            )));
        }
    };
    if bytes.len() != count * width {
        return Err(Problem::Content(format!("has {} bytes for {count} elements", bytes.len())));
    }
    let float8: Option<[T; 256]> =
        (width == 1).then(|| std::array::from_fn(|code| T::of_f64(f64::from(f32_from_float8(code as u8, from)))));
    elements.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * width)).for_each(|(to, bytes)| {
        match from {
            Dtype::F8_E4M3 | Dtype::F8_E5M2 => {
                let values = float8.as_ref().expect("made for these types");
                fill(to, bytes, |[code]: [u8; 1]| values[usize::from(code)]);
            }
            Dtype::F16 => T::fill_from_f16(to, bytes),
            Dtype::BF16 => T::fill_from_bf16(to, bytes),
            Dtype::F32 => T::fill_from_f32(to, bytes),
            _ => fill(to, bytes, |bytes| T::of_f64(f64::from_le_bytes(bytes))),
        }
        if !T::all_finite(to) {
            finite.store(false, Ordering::Relaxed);
        }
    });
    if !finite.into_inner() {
        return Err(Problem::Content(blame(&elements, bytes, from)));
    }
    Ok(Tensor::from_vec(elements, shape, device)?)
}

/// The integer that `bytes` (little-endian `from`) are, if they are one.
pub(super) fn integer(bytes: &[u8], from: Dtype) -> Option<f64> {
    macro_rules! of {
        ($type:ty) => {
            <$type>::from_le_bytes(bytes.try_into().ok()?) as f64
        };
    }
    Some(match from {
        Dtype::BOOL | Dtype::U8 => of!(u8),
        Dtype::I8 => of!(i8),
        Dtype::U16 => of!(u16),
        Dtype::I16 => of!(i16),
        Dtype::U32 => of!(u32),
        Dtype::I32 => of!(i32),
        Dtype::U64 => of!(u64),
        Dtype::I64 => of!(i64),
        _ => return None,
    })
}

/// Says which element is not finite, and whether the file or the conversion made it so.
fn blame<T: Element>(elements: &[T], bytes: &[u8], from: Dtype) -> String {
    let at = elements.iter().position(|element| !T::all_finite(std::slice::from_ref(element))).unwrap_or(0);
    let source = match from {
        Dtype::F16 => f16::from_le_bytes(element(bytes, at)).to_f64(),
        Dtype::BF16 => bf16::from_le_bytes(element(bytes, at)).to_f64(),
        Dtype::F32 => f32::from_le_bytes(element(bytes, at)) as f64,
        Dtype::F8_E4M3 | Dtype::F8_E5M2 => f64::from(f32_from_float8(bytes[at], from)),
        _ => f64::from_le_bytes(element(bytes, at)),
    };
    if source.is_finite() {
        format!("has {source:e}, which is out of range for {}; use {DTYPE} f32", T::DTYPE.as_str())
    } else {
        format!("has {source} at element {at}; the file is damaged, or its training failed")
    }
}

/// The `N` bytes of element `at`.
fn element<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut element = [0; N];
    element.copy_from_slice(&bytes[at * N..(at + 1) * N]);
    element
}

/// Fills `to` element by element. The source need not be aligned: a safetensors header may have any
/// length.
#[inline]
fn fill<T, const N: usize>(to: &mut [T], bytes: &[u8], convert: impl Fn([u8; N]) -> T) {
    // Arrays and not slices: with a length known to the compiler this loop becomes a vector loop.
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
        *to = convert(*bytes);
    }
}

/// The f32 that equals the f16 with these bits (IEEE 754 binary16; a NaN stays one).
///
/// Most published weights are f16. There are no branches, and no instructions that not every CPU
/// has, so that the compiler makes a vector loop of it.
#[inline]
fn f32_from_f16_bits(bits: u16) -> f32 {
    const MAGNITUDE: u16 = 0x7fff;
    const LEAST_NORMAL: u32 = 0x0400;
    const INFINITY: u32 = 0x7c00;
    /// The difference of the two exponent biases, 127 - 15, in its place.
    const REBIAS: u32 = 112 << 23;
    /// 2^-14 as f32: one step of its mantissa's upper ten bits is an f16's smallest step.
    const SUBNORMAL: u32 = 113 << 23;
    let mask = |condition: bool| 0u32.wrapping_sub(condition as u32);
    let magnitude = (bits & MAGNITUDE) as u32;
    let shifted = magnitude << 13;
    let normal = shifted.wrapping_add(REBIAS) | (mask(magnitude >= INFINITY) & 0x7f80_0000);
    let subnormal = (f32::from_bits(SUBNORMAL + shifted) - f32::from_bits(SUBNORMAL)).to_bits();
    let is_subnormal = mask(magnitude < LEAST_NORMAL);
    let sign = ((bits & !MAGNITUDE) as u32) << 16;
    f32::from_bits((subnormal & is_subnormal) | (normal & !is_subnormal) | sign)
}

/// The value of an eight-bit float (Micikevicius et al. 2022, FP8 Formats for Deep Learning). E5M2
/// is the upper half of an f16. E4M3 has no infinity, and all ones for NaN, which leaves it 448 as
/// its largest (torch's `float8_e4m3fn`).
fn f32_from_float8(code: u8, kind: Dtype) -> f32 {
    if kind == Dtype::F8_E5M2 {
        return f16::from_bits(u16::from(code) << 8).to_f32();
    }
    let (exponent, mantissa) = (i32::from(code >> 3 & 0xf), f32::from(code & 7) / 8.0);
    let magnitude = match (exponent, code & 7) {
        (0xf, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// A type that weights can be read as.
trait Element: WithDType + Default {
    fn of_f64(value: f64) -> Self;
    fn all_finite(elements: &[Self]) -> bool;
    fn fill_from_f16(to: &mut [Self], bytes: &[u8]);
    fn fill_from_bf16(to: &mut [Self], bytes: &[u8]);
    fn fill_from_f32(to: &mut [Self], bytes: &[u8]);
}

impl Element for f32 {
    fn of_f64(value: f64) -> Self {
        value as f32
    }

    fn all_finite(elements: &[Self]) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        !elements.iter().fold(false, |bad, element| bad | (element.to_bits() & EXPONENT == EXPONENT))
    }

    fn fill_from_f16(to: &mut [Self], bytes: &[u8]) {
        fill(to, bytes, |bytes| f32_from_f16_bits(u16::from_le_bytes(bytes)));
    }

    fn fill_from_bf16(to: &mut [Self], bytes: &[u8]) {
        fill(to, bytes, |bytes| f32::from_bits((u16::from_le_bytes(bytes) as u32) << 16));
    }

    fn fill_from_f32(to: &mut [Self], bytes: &[u8]) {
        fill(to, bytes, f32::from_le_bytes);
    }
}

impl Element for f64 {
    fn of_f64(value: f64) -> Self {
        value
    }

    fn all_finite(elements: &[Self]) -> bool {
        elements.iter().all(|element| element.is_finite())
    }

    fn fill_from_f16(to: &mut [Self], bytes: &[u8]) {
        fill(to, bytes, |bytes| f16::from_le_bytes(bytes).to_f64());
    }

    fn fill_from_bf16(to: &mut [Self], bytes: &[u8]) {
        fill(to, bytes, |bytes| bf16::from_le_bytes(bytes).to_f64());
    }

    fn fill_from_f32(to: &mut [Self], bytes: &[u8]) {
        fill(to, bytes, |bytes| f32::from_le_bytes(bytes) as f64);
    }
}

/// The two 16-bit types differ only in their names and their exponent's bits.
macro_rules! half_element {
    ($type:ty, $exponent:expr, $same:ident, $other:ident, $other_type:ty) => {
        impl Element for $type {
            fn of_f64(value: f64) -> Self {
                Self::from_f64(value)
            }

            fn all_finite(elements: &[Self]) -> bool {
                !elements.iter().fold(false, |bad, element| bad | (element.to_bits() & $exponent == $exponent))
            }

            fn $same(to: &mut [Self], bytes: &[u8]) {
                fill(to, bytes, Self::from_le_bytes);
            }

            fn $other(to: &mut [Self], bytes: &[u8]) {
                fill(to, bytes, |bytes| Self::from_f32(<$other_type>::from_le_bytes(bytes).to_f32()));
            }

            fn fill_from_f32(to: &mut [Self], bytes: &[u8]) {
                let mut buffer = [0f32; 1024];
                for (to, bytes) in to.chunks_mut(buffer.len()).zip(bytes.chunks(4 * buffer.len())) {
                    let buffer = &mut buffer[..to.len()];
                    fill(buffer, bytes, f32::from_le_bytes);
                    to.convert_from_f32_slice(buffer);
                }
            }
        }
    };
}

half_element!(f16, 0x7c00, fill_from_f16, fill_from_bf16, bf16);
half_element!(bf16, 0x7f80, fill_from_bf16, fill_from_f16, f16);

/// Name of an element type as attnmap's messages write it.
pub(super) fn dtype_name(dtype: Dtype) -> String {
    format!("{dtype:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/fixtures/make_float8.py` has what torch makes of every code.
    #[test]
    fn float8_is_what_torch_makes_of_it() {
        let file = include_bytes!("../../../tests/fixtures/float8.safetensors");
        let tensors = safetensors::SafeTensors::deserialize(file).unwrap();
        for (kind, dtype, count, nan) in [("e4m3", Dtype::F8_E4M3, 254, 0x7f), ("e5m2", Dtype::F8_E5M2, 248, 0x7e)] {
            let codes = tensors.tensor(kind).unwrap().data().to_vec();
            let expected = tensors.tensor(&format!("{kind}.f32")).unwrap().data().to_vec();
            let expected: Vec<f32> = expected.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            assert_eq!(expected.len(), count);
            let read = |bytes: &[u8], to| {
                to_tensor(bytes, Encoding::Plain(dtype), &[], Shape::from(bytes.len()), to, &Device::Cpu)
            };
            // Every one of these has a bf16 and an f16 of the same value.
            for to in [DType::F32, DType::BF16, DType::F16, DType::F64] {
                let Ok(found) = read(&codes, to) else { panic!("{kind} as {to:?}") };
                let found: Vec<f32> = found.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{kind} as {to:?}");
            }
            match read(&[codes[0], nan], DType::F32) {
                Err(Problem::Content(reason)) => assert!(reason.contains("has NaN at element 1"), "{reason}"),
                _ => panic!("{kind}: NaN is no weight"),
            }
        }
    }

    #[test]
    fn integers_of_every_width_are_one_number() {
        for (bytes, from, expected) in [
            (&[8][..], Dtype::U8, Some(8.0)),
            (&[0xf8], Dtype::I8, Some(-8.0)),
            (&[8, 1], Dtype::I16, Some(264.0)),
            (&[8, 0, 0, 0], Dtype::I32, Some(8.0)),
            (&[255, 255, 255, 255], Dtype::U32, Some(4294967295.0)),
            (&[8, 0, 0, 0, 0, 0, 0, 0], Dtype::I64, Some(8.0)),
            (&[8, 0, 0, 0, 0, 0, 0, 0], Dtype::U64, Some(8.0)),
            (&[1], Dtype::BOOL, Some(1.0)),
            (&[8, 0], Dtype::I32, None),
            (&[0, 0x48], Dtype::F16, None),
        ] {
            assert_eq!(integer(bytes, from), expected, "{from:?}");
        }
    }

    #[test]
    fn every_f16_becomes_the_f32_of_the_same_value() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f32_from_f16_bits(bits), f16::from_bits(bits).to_f32());
            if expected.is_nan() {
                assert!(found.is_nan(), "{bits:#06x}");
            } else {
                assert_eq!(found.to_bits(), expected.to_bits(), "{bits:#06x}");
            }
        }
    }
}
