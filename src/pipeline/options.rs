//! What a run is asked to do, and how a checkpoint is brought into memory.

use super::init::Init;
use crate::argument::{CLIP_SKIP, CROP, GUIDANCE, ORIGINAL_SIZE, SIZE, STRENGTH};
use crate::checkpoint::{Checkpoint, Family};
use crate::prompt::Syntax;
use crate::scheduler::{SchedulerKind, Spacing};
use crate::trace::{Grid, LARGEST_SIDE};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// The most guidance: far beyond what makes images, and far below what overflows.
const MOST_GUIDANCE: f64 = 1e4;

/// How a checkpoint is brought into memory.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Element type of weights and activations; latents and schedulers stay in f32.
    pub dtype: DType,
    /// Where the networks run.
    pub device: Device,
    /// Rows and columns in pixels of the largest image to come, which memory is planned for; the
    /// checkpoint's own size where `None`.
    pub size: Option<[usize; 2]>,
    /// Load what seems to need more memory than is free ([`MemoryPlan`](super::MemoryPlan)), which
    /// is refused otherwise.
    pub ignore_memory: bool,
    /// Make text encoders and denoiser of plain layers, which candle can differentiate, in place of
    /// the faster ones. On a GPU they are plain anyway.
    pub plain: bool,
    /// Texts that the run will read. Where T5 or Qwen3 does not fit beside the denoiser, it reads
    /// these (and the empty text) first and leaves memory again.
    pub texts: Vec<String>,
    /// Let T5 or Qwen3 go first and leave again where it would fit, too.
    pub text_encoder_first: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            device: Device::Cpu,
            size: None,
            ignore_memory: false,
            plain: false,
            texts: Vec::new(),
            text_encoder_first: false,
        }
    }
}

/// Where a run goes on from.
#[derive(Debug, Clone)]
pub struct Fork {
    /// The estimate of the finished latent (`denoised` of
    /// [`Event::Stepped`](super::Event::Stepped)) before the call, f32 `[1, channels, h, w]`.
    pub denoised: Tensor,
    /// The call that is made first, from 0.
    pub call: usize,
}

/// What a run is asked to do. Start from
/// [`Pipeline::default_options`](super::Pipeline::default_options), which are the checkpoint's own
/// defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the image should not show; the empty text is the usual unconditional prompt.
    pub negative: String,
    /// How the prompt and the negative prompt are read.
    pub syntax: Syntax,
    /// Denoising steps, 1 or more (PNDM makes one denoiser call more; Heun and DPM-Solver-2 make
    /// two per step).
    pub steps: usize,
    /// Classifier-free guidance; at 1 or below (Z-Image: at 0 or below) the unconditional half is
    /// not computed (as in diffusers).
    pub guidance_scale: f64,
    /// One image per seed; all of them go through the denoiser in one batch.
    pub seeds: Vec<u64>,
    /// Image rows in pixels, a multiple of [`Pipeline::size_factor`](super::Pipeline::size_factor).
    pub height: usize,
    /// Image columns in pixels, a multiple of
    /// [`Pipeline::size_factor`](super::Pipeline::size_factor).
    pub width: usize,
    /// Another sampler than the checkpoint's `scheduler_config.json` names.
    pub scheduler: Option<SchedulerKind>,
    /// Words and phrases that the network is not given. We compute attention to their keys at every
    /// cross-attention, but the network never uses it (see
    /// [`PreparedPrompt::with_probes`](crate::model::PreparedPrompt::with_probes)). Each is encoded
    /// as a prompt of its own.
    pub probes: Vec<String>,
    /// Words and phrases whose ConceptAttention maps are kept, in a transformer of joint attention
    /// (see [`PreparedPrompt::with_concepts`](crate::model::PreparedPrompt::with_concepts)). The
    /// probes are concepts there too, beside these, or beside all words of the prompt where there
    /// are none. Each is encoded as a prompt of its own.
    pub concepts: Vec<String>,
    /// Other timesteps than `scheduler_config.json` spaces out: few-step models (Lightning, Hyper)
    /// are made for trailing ones.
    pub spacing: Option<Spacing>,
    /// So many of CLIP's last layers do not read the prompt, as `clip_skip` in diffusers; the
    /// negative prompt is read by all, and so is what the pooled state is of. SDXL and Stable
    /// Diffusion 3 leave one more out by themselves. The web UI and civitai count from 1, which is
    /// 0 here.
    pub clip_skip: usize,
    /// SDXL: height and width in pixels that the image is said to have had before it was scaled;
    /// the image's own where `None`. Small values ask for the look of upscaled small pictures.
    pub original_size: Option<[usize; 2]>,
    /// SDXL: top and left of the crop that the image is said to be, in pixels; 0 for an object in
    /// the middle.
    pub crop: [usize; 2],
    /// Standard normal noise in place of the seeds' own, f32 `[images, channels, height / factor,
    /// width / factor]`.
    pub latents: Option<Tensor>,
    /// Whether samplers that draw noise in their steps go on as if the seeds had drawn the given
    /// latents. In diffusers, and by default, such a run draws its first noise anew.
    pub latents_as_drawn: bool,
    /// A picture to set out from; noise alone where there is none.
    pub init: Option<Init>,
    /// What each token's values are multiplied by in every cross-attention of the conditional half,
    /// by position in [`Prompt::ids`](crate::prompt::Prompt::ids); those beyond its end count as 1.
    /// The probabilities stay as they are. A reweighted run is an experiment: it has no place in
    /// `run.json`.
    pub value_weights: Option<Vec<f32>>,
    /// An estimate of the image that the run goes on from at a later call, with fresh noise. A
    /// forked run is an experiment: it has no place in `run.json`.
    pub fork: Option<Fork>,
    /// After how many of its layers each text encoder ends for the conditional half; after all
    /// where `None` (see [`Pipeline::lens_stops`](super::Pipeline::lens_stops)). An experiment too.
    pub text_layers: Option<Vec<usize>>,
}

/// Refuses a size that has no latent grid, where a cell of it is `factor` pixels wide and high, or
/// one that no trace holds.
pub(crate) fn check_size(size: Grid, factor: usize) -> Result<()> {
    for (name, pixels) in [("width", size.width), ("height", size.height)] {
        let most = LARGEST_SIDE * factor;
        if pixels > most {
            return Err(Error::argument(SIZE, format!("the {name} can be {most} pixels at most; {pixels} given")));
        }
        if pixels == 0 || pixels % factor != 0 {
            let below = (pixels / factor).max(1) * factor;
            return Err(Error::argument(
                SIZE,
                format!("the {name} must be a multiple of {factor} pixels; {pixels} given, try {below}"),
            ));
        }
    }
    Ok(())
}

/// Refuses a guidance that no image can be made with.
pub(crate) fn check_guidance(scale: f64) -> Result<()> {
    if !scale.is_finite() {
        return Err(Error::argument(GUIDANCE, "must be a finite number"));
    }
    if scale.abs() > MOST_GUIDANCE {
        let reason =
            format!("{scale:?} is beyond what numbers hold in a run; 1 to 20 are usual, {MOST_GUIDANCE} is the most");
        return Err(Error::argument(GUIDANCE, reason));
    }
    Ok(())
}

/// Refuses what is no share of the steps.
pub(crate) fn check_strength(share: f64) -> Result<()> {
    match share > 0.0 && share <= 1.0 {
        true => Ok(()),
        false => Err(Error::argument(STRENGTH, format!("must be above 0 and at most 1; {share} given"))),
    }
}

/// Refuses SDXL's conditions for checkpoints that do not take them.
pub(crate) fn check_conditions(original_size: bool, crop: bool, taken: bool) -> Result<()> {
    for (name, asked) in [(ORIGINAL_SIZE, original_size), (CROP, crop)] {
        if asked && !taken {
            return Err(Error::argument(name, "only SDXL checkpoints are told sizes and crops; leave it out"));
        }
    }
    Ok(())
}

/// Refuses to leave out layers of CLIP that are not there or whose states condition nothing.
/// `layers` are those of each CLIP encoder.
pub(crate) fn check_clip_skip(skipped: usize, family: Family, layers: &[usize]) -> Result<()> {
    if skipped == 0 {
        return Ok(());
    }
    if matches!(family, Family::Flux | Family::ZImage) {
        let reason = "the prompt is not read by CLIP in this checkpoint; leave it out";
        return Err(Error::argument(CLIP_SKIP, reason));
    }
    let fewest = layers.iter().copied().min().unwrap_or_default();
    if skipped >= fewest {
        let most = fewest.saturating_sub(1);
        let reason = format!("{skipped} given; CLIP has {fewest} layers here, of which {most} can be left out at most");
        return Err(Error::argument(CLIP_SKIP, reason));
    }
    Ok(())
}

/// The number format of the VAE's weights. SDXL's overflows in half precision, as its config says
/// (`force_upcast`); the other families' pipelines do not look at that field.
pub(super) fn vae_dtype(checkpoint: &Checkpoint, dtype: DType) -> DType {
    let upcast = checkpoint.index.family == Family::StableDiffusionXl && checkpoint.vae.force_upcast;
    if upcast { DType::F32 } else { dtype }
}
