//! What a run needs of memory, known before a weight is read.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use bytesize::ByteSize;
use candle_core::DType;
use serde::Serialize;

use super::options::{LoadOptions, vae_dtype};
use crate::argument::{DTYPE, IGNORE_MEMORY, SIZE};
use crate::checkpoint::{Checkpoint, Part};
use crate::{Error, Result};

/// Half feature maps of the decoder's second width, at the image's size, that decoding holds.
/// Measured on the same: a peak of 5.5 GB for 4.3 GB of weights, which is 4.5 maps of 256 channels.
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
    /// Whether T5 reads the prompts before the other parts come, and leaves memory again: where all
    /// together do not fit, and so they do.
    pub t5_first: bool,
    /// Which part is T5.
    #[serde(skip)]
    t5_part: Option<Part>,
}

/// One part in memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartMemory {
    /// Which part.
    pub part: Part,
    /// Its parameters.
    pub parameters: u64,
    /// `f32`, `f16` or `bf16`, as it is kept: on a CPU bf16 where `--dtype` asks for it, else f32,
    /// whatever the files hold; `blocks` for a transformer of a GGUF file, whose blocks stay.
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
            let qwen = part == Part::TextEncoder && checkpoint.qwen.is_some();
            let kept = (dtype == DType::BF16 && !qwen) || Some(part) == t5_part;
            let dtype = if on_cpu && !kept { DType::F32 } else { dtype };
            // Blocks of quantised numbers stay as they are in the layers of a transformer.
            let stay = part == Part::Transformer && !options.plain && weights.is_quantised();
            let (bytes, dtype) = match stay {
                true => (weights.bytes_as_quantised(dtype), "blocks"),
                false => (parameters * dtype.size_in_bytes() as u64, super::names::dtype_name(dtype)),
            };
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
        let plan = Self { parts, size, activations, free, t5_first: false, t5_part };
        Ok(match options.t5_first && plan.t5() > 0 {
            true => Self { t5_first: true, ..plan },
            false => plan.ordered(),
        })
    }

    /// With T5 first, where that makes a run fit which does not otherwise.
    fn ordered(self) -> Self {
        let first = Self { t5_first: true, ..self.clone() };
        match self.free {
            Some(free) if self.t5() > 0 && self.peak() > free && first.peak() <= free => first,
            _ => self,
        }
    }

    /// Bytes of T5's weights; 0 where there is none.
    fn t5(&self) -> u64 {
        self.parts.iter().filter(|part| Some(part.part) == self.t5_part).map(|part| part.bytes).sum()
    }

    /// Bytes of all weights.
    pub fn weights(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The most that the run holds at once.
    pub fn peak(&self) -> u64 {
        let t5 = if self.t5_first { self.t5() } else { 0 };
        (self.weights() - t5).saturating_add(self.activations).max(t5)
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
        let gigabytes = |bytes: u64| format!("{:.1} GB", ByteSize(bytes).as_gb());
        let part =
            |part: &PartMemory| format!("{} {:.1} in {}", part.part.folder(), ByteSize(part.bytes).as_gb(), part.dtype);
        let parts: Vec<String> = self.parts.iter().map(part).collect();
        let [height, width] = self.size;
        let (peak, weights, maps) = (gigabytes(self.peak()), gigabytes(self.weights()), gigabytes(self.activations));
        write!(f, "needs {peak}: weights {weights} ({}), about {maps} for {width}x{height}", parts.join(", "))?;
        if self.t5_first {
            write!(f, "; T5 reads the prompt first and leaves again")?;
        }
        match self.free {
            Some(free) => write!(f, "; {} are free", gigabytes(free)),
            None => Ok(()),
        }
    }
}

/// Bytes that may still be used: the least of what the system has free and what the control group
/// of a job or container leaves. Its cache of files does not count as used. `None` where the system
/// does not tell.
pub fn free_memory() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo").ok()?;
    let line = system.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let system = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = PathBuf::from("/sys/fs/cgroup");
    let left = [root.join(own), root].into_iter().find_map(|folder| {
        let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        let cached = text("memory.stat").and_then(|stat| {
            stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok())
        });
        let used = number("memory.current")?.saturating_sub(cached.unwrap_or(0));
        Some(number("memory.max")?.saturating_sub(used))
    });
    Some(left.map_or(system, |left| left.min(system)))
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
            t5_first: false,
            t5_part: None,
        }
    }

    #[test]
    fn t5_goes_first_where_all_together_do_not_fit() {
        let t5 = |free| {
            let (parameters, bytes) = (4_762_310_656, 9_524_621_312);
            let t5 = PartMemory { part: Part::TextEncoder3, parameters, dtype: "bf16", bytes };
            let mut plan = plan(Some(free));
            plan.parts.push(t5);
            plan.t5_part = Some(Part::TextEncoder3);
            plan.ordered()
        };
        let roomy = t5(24_000_000_000);
        assert!(!roomy.t5_first && roomy.peak() == 10_269_854_736 + 9_524_621_312 + 3_500_000_000);
        let tight = t5(14_000_000_000);
        assert!(tight.t5_first && tight.peak() == 10_269_854_736 + 3_500_000_000);
        assert!(tight.check().is_ok() && tight.to_string().contains("reads the prompt first"));
        let vain = t5(9_000_000_000);
        assert!(!vain.t5_first && vain.check().is_err());
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

    #[test]
    fn this_system_tells_how_much_is_free() {
        if cfg!(target_os = "linux") {
            assert!(free_memory().is_some_and(|free| free > 1_000_000));
        }
    }
}
