//! What a run needs of memory, known before a weight is read.

use std::fmt;

use bytesize::ByteSize;
use candle_core::DType;
use serde::Serialize;

use super::free::free_memory;
use super::leaving::PromptEncoder;
use super::options::{LoadOptions, vae_dtype};
use crate::argument::{DTYPE, IGNORE_MEMORY, SIZE};
use crate::checkpoint::{Checkpoint, Part};
use crate::figures::gigabytes;
use crate::model::{Qwen3, T5};
use crate::{Error, Result};

/// Half feature maps of the decoder's second width, at the image's size, that decoding holds.
/// Measured on Stable Diffusion 1.5 at 512x512: a peak of 5.5 GB for 4.3 GB of weights, which is
/// 4.5 maps of 256 channels.
const HALF_MAPS_OF_DECODING: u64 = 9;

/// Bytes that a run with one image at a time takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// The parts in memory.
    pub parts: Vec<PartMemory>,
    /// Rows and columns of the image in pixels.
    pub size: [usize; 2],
    /// Feature maps: an estimate of the most that denoising or decoding holds.
    pub activations: u64,
    /// What this process may still use: what the system has free, and what the control group of a
    /// job or container leaves. `None` where the system does not tell, or the networks run
    /// elsewhere than on the CPU.
    pub free: Option<u64>,
    /// Whether T5 or Qwen3 reads the prompts before the other parts come, and leaves memory again.
    /// True where all parts together do not fit in `free`, and fit once it has left.
    pub text_encoder_first: bool,
    /// Which part that is, and what it is called.
    #[serde(skip)]
    large: Option<(Part, &'static str)>,
}

/// One part in memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartMemory {
    /// Which part.
    pub part: Part,
    /// Its parameters.
    pub parameters: u64,
    /// `f32`, `f16` or `bf16`, as it is kept. On a CPU it is bf16 where `--dtype` asks for it, else
    /// f32, whatever the files hold. It is `blocks` for a transformer or T5 of a GGUF file, whose
    /// blocks stay.
    pub dtype: &'static str,
    /// Bytes of its weights.
    pub bytes: u64,
}

impl MemoryPlan {
    /// The plan of a run of `checkpoint`, loaded with `options`, from the headers of its files.
    ///
    /// # Errors
    /// As [`Checkpoint::weights`].
    pub fn new(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let size = options.size.unwrap_or(checkpoint.defaults.size);
        let on_cpu = options.device.is_cpu();
        let t5_part = checkpoint.t5.as_ref().map(|t5| t5.part);
        let qwen_part = checkpoint.qwen.as_ref().map(|_| Part::TextEncoder);
        let large = t5_part.map(|part| (part, T5::NAME)).or(qwen_part.map(|part| (part, Qwen3::NAME)));
        let mut parts = Vec::new();
        for &part in checkpoint.index.parts() {
            let weights = checkpoint.weights(part)?;
            let parameters = weights.summary().parameters;
            let dtype = match part {
                Part::Vae => vae_dtype(checkpoint, options.dtype),
                _ => options.dtype,
            };
            // The CPU's kernels multiply f32 or bf16. T5's weights are converted as they are used.
            // Qwen3 is candle's, which has no product of bf16 there.
            let kept = (dtype == DType::BF16 && Some(part) != qwen_part) || Some(part) == t5_part;
            let dtype = if on_cpu && !kept { DType::F32 } else { dtype };
            // Blocks of quantised numbers stay as they are in the layers of a transformer and in
            // T5.
            let keeps = (part == Part::Transformer && !options.plain) || Some(part) == t5_part;
            let stay = keeps && weights.is_quantised();
            let bytes = weights.bytes_in_memory(dtype, stay);
            let dtype = if stay { "blocks" } else { super::names::dtype_name(dtype) };
            parts.push(PartMemory { part, parameters, dtype, bytes });
        }
        let factor = checkpoint.vae.factor();
        let activation = if on_cpu { 4 } else { options.dtype.size_in_bytes() as u64 };
        // No size that can be written on a command line may overflow.
        let maps = |[height, width]: [usize; 2], values: u64| {
            [width as u64, values, activation].iter().fold(height as u64, |all, &next| all.saturating_mul(next))
        };
        let latent = size.map(|side| side.div_ceil(factor));
        let denoising = maps(latent, checkpoint.denoiser.values_per_cell());
        let widths = &checkpoint.vae.block_out_channels;
        let decoding =
            maps(size, *widths.get(1).unwrap_or(&widths[0]) as u64).saturating_mul(HALF_MAPS_OF_DECODING) / 2;
        let free = if on_cpu { free_memory() } else { None };
        let activations = denoising.max(decoding);
        let plan = Self { parts, size, activations, free, text_encoder_first: false, large };
        Ok(match options.text_encoder_first && plan.leaving() > 0 {
            true => Self { text_encoder_first: true, ..plan },
            false => plan.ordered(),
        })
    }

    /// With the large text encoder first, where that makes a run fit which does not otherwise.
    fn ordered(self) -> Self {
        let first = Self { text_encoder_first: true, ..self.clone() };
        match self.free {
            Some(free) if self.leaving() > 0 && self.peak() > free && first.peak() <= free => first,
            _ => self,
        }
    }

    /// Bytes of the weights of what may leave memory; 0 where nothing may.
    fn leaving(&self) -> u64 {
        let may_leave = |part: &&PartMemory| self.large.is_some_and(|(large, _)| part.part == large);
        self.parts.iter().filter(may_leave).map(|part| part.bytes).sum()
    }

    /// T5 or Qwen3, where the checkpoint has one. With it the most that the run holds at once,
    /// where the encoder reads the prompts first and leaves memory again.
    pub fn encoder_first(&self) -> Option<(&'static str, u64)> {
        let (_, name) = self.large?;
        Some((name, Self { text_encoder_first: true, ..self.clone() }.peak()))
    }

    /// Bytes of all weights.
    pub fn weights(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The most that the run holds at once.
    pub fn peak(&self) -> u64 {
        let gone = if self.text_encoder_first { self.leaving() } else { 0 };
        (self.weights() - gone).saturating_add(self.activations).max(gone)
    }

    /// Refuses a run that does not fit into the memory that this process may use.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the numbers and the way out.
    pub fn check(&self) -> Result<()> {
        let Some(free) = self.free.filter(|free| self.peak() > *free) else { return Ok(()) };
        let way_out = match self.weights() > free {
            true => {
                format!(
                    "the weights alone are more; take a smaller checkpoint, {DTYPE} bf16 or a machine with more \
                    memory; {IGNORE_MEMORY} tries all the same"
                )
            }
            false => {
                format!("choose a smaller {SIZE}, or end what else uses memory; {IGNORE_MEMORY} tries all the same")
            }
        };
        Err(Error::Unsupported { what: format!("a run that needs more memory than there is ({self})"), way_out })
    }
}

impl fmt::Display for MemoryPlan {
    /// `needs 18.6 GB: weights 13.9 GB (text_encoder 0.5, unet 10.3, vae 0.3; f32), about 4.7 GB
    /// for 1024x1024; 19.0 GB are free`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part =
            |part: &PartMemory| format!("{} {:.1} in {}", part.part.folder(), ByteSize(part.bytes).as_gb(), part.dtype);
        let parts: Vec<String> = self.parts.iter().map(part).collect();
        let [height, width] = self.size;
        let (peak, weights, maps) = (gigabytes(self.peak()), gigabytes(self.weights()), gigabytes(self.activations));
        write!(f, "needs {peak}: weights {weights} ({}), about {maps} for {width}x{height}", parts.join(", "))?;
        if let Some((_, name)) = self.large.filter(|_| self.text_encoder_first) {
            write!(f, "; {name} reads the prompt first and leaves again")?;
        }
        match self.free {
            Some(free) => write!(f, "; {} are free", gigabytes(free)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(free: Option<u64>) -> MemoryPlan {
        let unet = PartMemory { part: Part::Unet, parameters: 2_567_463_684, dtype: "f32", bytes: 10_269_854_736 };
        MemoryPlan {
            parts: vec![unet],
            size: [1024, 768],
            activations: 3_500_000_000,
            free,
            text_encoder_first: false,
            large: None,
        }
    }

    #[test]
    fn a_large_text_encoder_goes_first_where_all_together_do_not_fit() {
        for (part, name, parameters, bytes) in [
            (Part::TextEncoder3, T5::NAME, 4_762_310_656, 9_524_621_312),
            (Part::TextEncoder, Qwen3::NAME, 4_022_468_096, 16_089_872_384),
        ] {
            let large = |free| {
                let mut plan = plan(Some(free));
                plan.parts.push(PartMemory { part, parameters, dtype: "bf16", bytes });
                plan.large = Some((part, name));
                plan.ordered()
            };
            let rest = 10_269_854_736 + 3_500_000_000;
            let roomy = large(rest + bytes);
            assert!(!roomy.text_encoder_first && roomy.peak() == rest + bytes, "{roomy}");
            let tight = large(rest.max(bytes));
            assert!(tight.text_encoder_first && tight.peak() == rest.max(bytes) && tight.check().is_ok(), "{tight}");
            assert!(tight.to_string().contains(&format!("; {name} reads the prompt first")), "{tight}");
            let vain = large(rest.max(bytes) - 1);
            assert!(!vain.text_encoder_first && vain.check().is_err(), "{vain}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        plan(None).check().unwrap();
        plan(Some(13_800_000_000)).check().unwrap();
        let refusal = |free| plan(Some(free)).check().unwrap_err().to_string();
        let error = refusal(12_000_000_000);
        assert!(
            error.contains(
                "needs 13.8 GB: weights 10.3 GB (unet 10.3 in f32), about 3.5 GB for 768x1024; 12.0 GB are free"
            ),
            "{error}"
        );
        assert!(error.contains("`size`"), "{error}");
        assert!(refusal(9_000_000_000).contains("the weights alone are more"));
    }
}
