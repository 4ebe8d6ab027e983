//! One tensor of a weight file: how its elements are written, its shape, and where they lie.

use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use std::ops::Range;

/// How the elements of a tensor are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// One number after the other.
    Plain(Dtype),
    /// Blocks of small integers with their scales among them, as GGML quantises.
    Blocks(GgmlDType),
}

impl Encoding {
    /// The usual name: `F16`, `F8_E4M3`, `Q8_0`, `Q5_K`.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Plain(dtype) => format!("{dtype:?}"),
            Self::Blocks(kind) => blocks_name(kind).to_string(),
        }
    }
}

/// GGML's name of a kind of block.
fn blocks_name(kind: GgmlDType) -> &'static str {
    match kind {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}

/// What a file's header says of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Vec<usize>,
    /// Its bytes, counted from the start of the file and known to lie within it.
    pub(super) range: Range<usize>,
    /// What the numbers are to be multiplied by: nothing, one factor, or one per row of the first
    /// axis.
    pub(super) scale: Vec<f32>,
}
