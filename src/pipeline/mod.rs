//! From a prompt and a checkpoint to images, while an observer watches every step.
//!
//! The order of operations is that of diffusers'
//! `pipelines/stable_diffusion/pipeline_stable_diffusion.py`, and of its siblings for SDXL and
//! latent consistency models. So the same seed gives the same image as diffusers with a CPU
//! generator.

mod choice;
mod encode;
mod given;
mod init;
mod look;
mod memory;
mod once;
mod paint;
mod probes;
mod settings;
mod traced;

pub use choice::{Choice, device_named, dtype_named};
pub use encode::TextAttentions;
pub use given::{Given, InitFiles};
pub use init::Init;
pub use look::{LookOptions, Noised};
pub(crate) use memory::MAPS_AN_IMAGE;
pub use memory::{MemoryPlan, PartMemory, free_memory};
pub use traced::{Keep, Traced};

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::{DType, Device, IndexOp, Tensor};
use encode::SecondEncoder;
use image::RgbImage;
use init::Start;

use crate::checkpoint::{AddedWord, Changes, Checkpoint, Defaults, Family, Part, SchedulerConfig};
use crate::model::{Denoiser, PreparedPrompt, TextEncoder, Vae};
use crate::prompt::{Prompt, Syntax, Tokenizer};
use crate::scheduler::{self, Scheduler, SchedulerKind, Spacing, TorchGenerator};
use crate::trace::{AttentionObserver, Grid, LARGEST_SIDE, Site, Step};
use crate::{Error, Result};

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
    /// Load what seems to need more memory than is free ([`MemoryPlan`]), which is refused
    /// otherwise.
    pub ignore_memory: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { dtype: DType::F32, device: Device::Cpu, size: None, ignore_memory: false }
    }
}

/// What a run is asked to do. Start from [`Pipeline::default_options`], which are the checkpoint's
/// own defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the image should not show; the empty text is the usual unconditional prompt.
    pub negative: String,
    /// How the prompt and the negative prompt are read.
    pub syntax: Syntax,
    /// Denoising steps, 1 or more (PNDM makes one UNet call more; Heun and DPM-Solver-2 make two a
    /// step).
    pub steps: usize,
    /// Classifier-free guidance; at 1 or below the unconditional half is not computed (as in
    /// diffusers).
    pub guidance_scale: f64,
    /// One image a seed; all of them go through the UNet in one batch.
    pub seeds: Vec<u64>,
    /// Image rows in pixels, a multiple of [`Pipeline::vae_factor`].
    pub height: usize,
    /// Image columns in pixels, a multiple of [`Pipeline::vae_factor`].
    pub width: usize,
    /// Another sampler than the checkpoint's `scheduler_config.json` names.
    pub scheduler: Option<SchedulerKind>,
    /// Words and phrases that the network is not given. We compute attention to their keys at every
    /// cross-attention, but the network never uses it (see [`PreparedPrompt::with_probes`]). Each
    /// is encoded as a prompt of its own.
    pub probes: Vec<String>,
    /// Other timesteps than `scheduler_config.json` spaces out: few-step models (Lightning, Hyper)
    /// are made for trailing ones.
    pub spacing: Option<Spacing>,
    /// SDXL: height and width in pixels that the image is said to have had before it was scaled;
    /// the image's own where `None`. Small values ask for the look of upscaled small pictures.
    pub original_size: Option<[usize; 2]>,
    /// SDXL: top and left of the crop that the image is said to be, in pixels; 0 for an object in
    /// the middle.
    pub crop: [usize; 2],
    /// Standard normal noise in place of the seeds' own, f32 `[images, channels, height / factor,
    /// width / factor]`.
    pub latents: Option<Tensor>,
    /// A picture to set out from; noise alone where there is none.
    pub init: Option<Init>,
    /// What each token's values are multiplied by in every cross-attention of the conditional half,
    /// by position in [`Prompt::ids`](crate::prompt::Prompt::ids); those beyond its end count as 1.
    /// The probabilities stay as they are. A reweighted run is an experiment: it has no place in
    /// `run.json`.
    pub value_weights: Option<Vec<f32>>,
}

/// The most guidance: far beyond what makes images, and far below what overflows.
const MOST_GUIDANCE: f64 = 1e4;

/// The most that a value of given latents may be: standard normal noise hardly goes beyond 6.
const MOST_LATENT: f32 = 1e4;

/// What happens while [`Pipeline::generate`] runs; the callback may end the run with
/// [`ControlFlow::Break`].
#[derive(Debug)]
pub enum Event<'a> {
    /// The prompts, and a picture to set out from, are encoded; the steps begin.
    Encoded {
        /// Number of UNet calls to come.
        calls: usize,
    },
    /// One UNet call and scheduler step are done.
    Stepped {
        /// Which one.
        step: Step,
        /// The present estimate of the final latents (`pred_original_sample`), f32 `[images,
        /// channels, h, w]`.
        denoised: &'a Tensor,
        /// What the UNet was shown at this step: the latents as the scheduler scales them, f32
        /// `[images, channels, h, w]`. Where the checkpoint [inpaints](Pipeline::inpaints), mask
        /// and masked picture are among 9 channels.
        input: &'a Tensor,
    },
    /// One image is decoded.
    Decoded {
        /// Its place in [`Options::seeds`].
        image: usize,
    },
}

/// One finished image.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The seed of its noise.
    pub seed: u64,
    /// The decoded image.
    pub image: RgbImage,
    /// The final latent as the denoiser sees it, f32 `[1, channels, h, w]`.
    pub latent: Tensor,
}

/// All that [`Pipeline::generate`] returns beside what the observer kept.
#[derive(Debug, Clone)]
pub struct Generations {
    /// One for each of [`Options::seeds`], in order.
    pub images: Vec<Generation>,
    /// The timestep of each UNet call.
    pub timesteps: Vec<f64>,
    /// The text encoders' own self-attention on the prompt.
    pub text: TextAttentions,
    /// Time spent on the prompts, the steps and the decoding.
    pub timings: Timings,
}

/// Where the time of a run went.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Timings {
    /// Seconds in the text encoder, and in the VAE for a picture to set out from.
    pub encode: f64,
    /// Seconds in the UNet and the scheduler.
    pub steps: f64,
    /// Seconds in the VAE.
    pub decode: f64,
}

/// A checkpoint in memory, ready to generate.
pub struct Pipeline {
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    second: Option<SecondEncoder>,
    denoiser: Denoiser,
    vae: Vae,
    scheduler: SchedulerConfig,
    family: Family,
    defaults: Defaults,
    id: String,
    digest: String,
    changes: Changes,
    /// The weight files, where a variant was chosen among several.
    files: Vec<String>,
    added_words: Vec<AddedWord>,
    warnings: Vec<String>,
    vae_factor: usize,
    latent_channels: usize,
    options: LoadOptions,
}

impl Pipeline {
    /// Reads every part of `checkpoint`, after its [`MemoryPlan`] was found to fit. Errors name the
    /// file and the tensor that is missing, left over or of the wrong shape.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let LoadOptions { dtype, device, .. } = options;
        if !options.ignore_memory {
            MemoryPlan::new(checkpoint, options)?.check()?;
        }
        let tokenizer = Tokenizer::new(&checkpoint.tokenizer)?.with_words(&checkpoint.added_words)?;

        let weights = checkpoint.weights(Part::TextEncoder)?;
        let text_encoder = weights.load(*dtype, device, |vb| TextEncoder::new(&checkpoint.text_encoder, vb))?;
        let second = SecondEncoder::load(checkpoint, &tokenizer, options)?;
        let weights = checkpoint.weights(Part::Unet)?;
        let denoiser = weights.load(*dtype, device, |vb| Denoiser::new(&checkpoint.unet, vb))?;
        let weights = checkpoint.weights(Part::Vae)?;
        let vae = weights.load(vae_dtype(checkpoint, *dtype), device, |vb| Vae::new(&checkpoint.vae, vb))?;

        Ok(Self {
            tokenizer,
            text_encoder,
            second,
            denoiser,
            vae,
            scheduler: checkpoint.scheduler.clone(),
            family: checkpoint.index.family,
            defaults: checkpoint.defaults.clone(),
            id: checkpoint.id.clone(),
            digest: checkpoint.digest()?,
            changes: checkpoint.changes.clone(),
            files: checkpoint.changes.variant.as_ref().map(|_| checkpoint.weight_files()).unwrap_or_default(),
            added_words: checkpoint.added_words.clone(),
            warnings: checkpoint.warnings.clone(),
            vae_factor: checkpoint.vae.factor(),
            latent_channels: checkpoint.vae.latent_channels,
            options: options.clone(),
        })
    }

    /// The checkpoint's own steps, guidance and size, with seed 0 and no negative prompt.
    pub fn default_options(&self) -> Options {
        let [height, width] = self.defaults.size;
        Options {
            negative: String::new(),
            syntax: Syntax::default(),
            steps: self.defaults.steps,
            guidance_scale: self.defaults.guidance_scale,
            seeds: vec![0],
            height,
            width,
            scheduler: None,
            probes: Vec::new(),
            spacing: None,
            original_size: None,
            crop: [0, 0],
            latents: None,
            init: None,
            value_weights: None,
        }
    }

    /// What the checkpoint calls itself: `embedded`, the folder, the single file, or on the hub
    /// `owner/name@revision` or `owner/name/file.safetensors@revision`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A short digest of the weights (see [`Checkpoint::digest`]).
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What was chosen and changed of the checkpoint.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The checkpoint's defaults, with the words that it knows where it says so.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The words that embeddings added to the vocabulary.
    pub fn added_words(&self) -> &[AddedWord] {
        &self.added_words
    }

    /// Those of the [`added_words`](Self::added_words) that none of `texts` has, each read by
    /// `syntax`; what is cut off counts as there.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn words_not_in(&self, texts: &[&str], syntax: Syntax) -> Result<Vec<&AddedWord>> {
        if self.added_words.is_empty() {
            return Ok(Vec::new());
        }
        let syntax = Syntax { long: true, ..syntax };
        let prompts = texts.iter().map(|text| self.read(text, syntax)).collect::<Result<Vec<_>>>()?;
        let has = |word: &&AddedWord| prompts.iter().flat_map(|prompt| &prompt.ids).any(|id| word.ids.contains(id));
        Ok(self.added_words.iter().filter(|word| !has(word)).collect())
    }

    /// What the user should know of the checkpoint (see [`Checkpoint::warnings`]).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Image pixels per latent cell, in each direction (8 for Stable Diffusion).
    pub fn vae_factor(&self) -> usize {
        self.vae_factor
    }

    /// Whether a run with `options` has an unconditional half: with guidance, where the UNet was
    /// not trained to take the scale as an input.
    pub fn guided(&self, options: &Options) -> bool {
        options.guidance_scale > 1.0 && !self.denoiser.embeds_guidance()
    }

    /// The sampler of a run with `options`: the chosen one, or the checkpoint's own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a class of the checkpoint that attnmap does not have.
    pub fn sampler_kind(&self, options: &Options) -> Result<SchedulerKind> {
        match options.scheduler {
            Some(kind) => Ok(kind.with(&self.scheduler)),
            None => SchedulerKind::of_config(&self.scheduler),
        }
    }

    /// The timesteps of the calls of a run with `options`, without those that a picture to start from leaves out.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn timesteps(&self, options: &Options) -> Result<Vec<f64>> {
        let sampler = self.sampler(options)?;
        let skipped = options.init.as_ref().map_or(0, |init| self.skipped(init, options));
        let first = skipped * sampler.calls_per_step();
        Ok(sampler.timesteps()[first..].to_vec())
    }

    /// Whether the checkpoint takes the guidance scale as an input, and so has no unconditional half at any.
    pub fn embeds_guidance(&self) -> bool {
        self.denoiser.embeds_guidance()
    }

    /// The family of the checkpoint's pipeline.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The cross-attention sites of an image of `height` x `width` pixels, in network order.
    pub fn sites(&self, height: usize, width: usize) -> Vec<Site> {
        self.denoiser.sites(height / self.vae_factor, width / self.vae_factor)
    }

    /// The latent grid of a run with `options`.
    pub fn latent_grid(&self, options: &Options) -> Grid {
        Grid::new(options.height / self.vae_factor, options.width / self.vae_factor)
    }

    /// Refuses an image size in pixels that has no latent grid; errors are [`Error::Option`].
    pub fn check_size(&self, size: Grid) -> Result<()> {
        check_size(size, self.vae_factor)
    }

    /// Refuses what cannot be run, before any work is done; errors are [`Error::Option`].
    pub fn check(&self, options: &Options) -> Result<()> {
        self.check_size(Grid::new(options.height, options.width))?;
        if options.seeds.is_empty() {
            return Err(Error::option("--images", "must be 1 or more"));
        }
        if !options.guidance_scale.is_finite() {
            return Err(Error::option("--guidance", "must be a finite number"));
        }
        if options.guidance_scale.abs() > MOST_GUIDANCE {
            let reason = format!(
                "{:?} is beyond what numbers hold in a run; 1 to 20 are usual, {MOST_GUIDANCE} is the most",
                options.guidance_scale
            );
            return Err(Error::option("--guidance", reason));
        }
        options.probes.iter().try_for_each(|probe| self.probe(probe).map(drop))?;
        check_conditions(options.original_size.is_some(), options.crop != [0, 0], self.second.is_some())?;
        if let Some(latents) = &options.latents {
            let expected = self.latent_shape(options);
            if latents.dims() != expected {
                return Err(Error::option(
                    "--latents",
                    format!("the tensor has shape {:?}; this run needs {expected:?}", latents.dims()),
                ));
            }
            let largest = latents.to_dtype(DType::F32)?.abs()?.flatten_all()?.to_vec1::<f32>()?;
            // A comparison with NaN is false.
            if let Some(value) = largest.into_iter().find(|&value| !(0.0..=MOST_LATENT).contains(&value)) {
                let reason = format!("the tensor holds {value}; standard normal noise is asked for");
                return Err(Error::option("--latents", reason));
            }
        }
        self.check_init(options)?;
        self.sampler(options).map(|_| ())
    }

    /// The scheduler of a run, its config as the family's pipeline in diffusers takes it.
    fn sampler(&self, options: &Options) -> Result<Box<dyn Scheduler>> {
        let mut config = match self.family {
            Family::StableDiffusion if options.init.as_ref().is_some_and(|init| init.mask.is_some()) => {
                scheduler::as_inpainting(&self.scheduler, options.scheduler)
            }
            Family::StableDiffusion => scheduler::as_stable_diffusion(&self.scheduler, options.scheduler),
            Family::LatentConsistency | Family::StableDiffusionXl => self.scheduler.clone(),
        };
        if let Some(spacing) = options.spacing {
            config.timestep_spacing = Some(spacing.name().into());
        }
        let build = |config: &SchedulerConfig| match &options.init {
            Some(init) if self.shortens_schedule(options) => {
                scheduler::build_lcm_part(config, options.steps, init.strength)
            }
            _ => scheduler::build(config, options.scheduler, options.steps),
        };
        let built = build(&config);
        let (Err(error @ Error::Config { .. }), Some(prediction)) = (&built, &self.changes.prediction) else {
            return built;
        };
        // The file says nothing of what the user said: blame it only where it would be refused
        // without that too.
        config.prediction_type = None;
        if build(&config).is_err() {
            return built;
        }
        let with = options.scheduler.map_or(config.class_name, |kind| format!("--scheduler {kind}"));
        let reason = format!("{prediction} does not go with {with}; choose another of either ({error})");
        Err(Error::option("--prediction", reason))
    }

    /// Generates one image a seed from a [`prompt`](Self::prompt) of `options`. `observer` is told
    /// of every attention site it wants; `progress` of every [`Event`].
    ///
    /// # Errors
    /// [`Error::Option`] for what [`check`](Self::check) refuses, [`Error::Interrupted`] when
    /// `progress` breaks.
    pub fn generate(
        &self,
        prompt: &Prompt,
        options: &Options,
        observer: &mut dyn AttentionObserver,
        progress: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generations> {
        self.check(options)?;
        let mut tell = |event: Event| match progress(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        };
        let mut timings = Timings::default();
        let images = options.seeds.len();
        let guided = self.guided(options);

        let start = Instant::now();
        let (context, text) = self.context(prompt, options)?;
        let mut sampler = self.sampler(options)?;
        let mut noise: Vec<_> = options.seeds.iter().map(|&seed| TorchGenerator::new(seed)).collect();
        let Start { mut latents, first_call, paint } = self.start(options, &*sampler, &mut noise)?;
        timings.encode = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let timesteps = sampler.timesteps()[first_call..].to_vec();
        tell(Event::Encoded { calls: timesteps.len() })?;
        for (index, &timestep) in timesteps.iter().enumerate() {
            let step = Step { index, count: timesteps.len(), timestep, images, guided };
            observer.begin_step(&step)?;
            let call = first_call + index;
            let mut input = sampler.scale_model_input(&latents, call)?;
            if let Some(paint) = &paint {
                input = paint.shown(input)?;
            }
            let output = self.predict(&input, &step, &context, options.guidance_scale, observer)?;
            let stepped = sampler.step(&output, call, &latents, &mut noise)?;
            latents = match &paint {
                Some(paint) => {
                    let next = (index + 1 < timesteps.len()).then_some(call + 1);
                    paint.keep(stepped.previous, &*sampler, next)?
                }
                None => stepped.previous,
            };
            tell(Event::Stepped { step, denoised: &stepped.denoised, input: &input })?;
        }
        timings.steps = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut done = Vec::with_capacity(images);
        for (image, &seed) in options.seeds.iter().enumerate() {
            let latent = latents.i(image..image + 1)?;
            done.push(Generation { seed, image: self.decode(&latent)?, latent });
            tell(Event::Decoded { image })?;
        }
        timings.decode = start.elapsed().as_secs_f64();
        Ok(Generations { images: done, timesteps, text, timings })
    }

    /// Decodes a latent `[1, channels, h, w]` (as the UNet sees it) into an image of `h * factor` x
    /// `w * factor` pixels.
    pub fn decode(&self, latent: &Tensor) -> Result<RgbImage> {
        let pixels = self.vae.pixels_of(latent)?.to_device(&Device::Cpu)?;
        rgb_from_tensor(&pixels.i(0)?)
    }

    /// Standard normal noise, `[images, channels, h, w]`, drawn for each image from its own
    /// generator as diffusers does with a list.
    fn initial_noise(&self, options: &Options, noise: &mut [TorchGenerator]) -> Result<Tensor> {
        let device = &self.options.device;
        if let Some(given) = &options.latents {
            return Ok(given.to_dtype(DType::F32)?.to_device(device)?);
        }
        let shape = self.latent_shape(options);
        scheduler::randn_tensor(&shape, noise, DType::F32, device)
    }

    fn latent_shape(&self, options: &Options) -> [usize; 4] {
        let factor = self.vae_factor;
        [options.seeds.len(), self.latent_channels, options.height / factor, options.width / factor]
    }

    /// The guided prediction for `input` `[images, channels, h, w]`, f32.
    fn predict(
        &self,
        input: &Tensor,
        step: &Step,
        context: &PreparedPrompt,
        guidance_scale: f64,
        observer: &mut dyn AttentionObserver,
    ) -> Result<Tensor> {
        let batch = if step.guided { Tensor::cat(&[input, input], 0)? } else { input.clone() };
        let output = self.denoiser.forward(&batch, step.timestep, context, observer)?;
        let conditional = output.i(step.conditional_rows())?;
        if !step.guided {
            return Ok(conditional);
        }
        let unconditional = output.i(..step.images)?;
        Ok((&unconditional + ((conditional - &unconditional)? * guidance_scale)?)?)
    }
}

/// The number format of the VAE's weights. SDXL's overflows in half precision, as its config says
/// (`force_upcast`); the other families' pipelines do not look at that field.
fn vae_dtype(checkpoint: &Checkpoint, dtype: DType) -> DType {
    let upcast = checkpoint.index.family == Family::StableDiffusionXl && checkpoint.vae.force_upcast;
    if upcast { DType::F32 } else { dtype }
}

/// `[3, H, W]` in -1..1 to 8 bits, rounding halves to even as diffusers' `VaeImageProcessor`
/// (numpy) does.
fn rgb_from_tensor(pixels: &Tensor) -> Result<RgbImage> {
    let (_, height, width) = pixels.dims3()?;
    let values = pixels.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
    let bytes = values.iter().map(|v| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect();
    Ok(RgbImage::from_raw(width as u32, height as u32, bytes).expect("three bytes a pixel"))
}

/// Refuses a size that has no latent grid, where a cell of it is `factor` pixels wide and high, or one that no trace holds.
pub(crate) fn check_size(size: Grid, factor: usize) -> Result<()> {
    for (name, pixels) in [("width", size.width), ("height", size.height)] {
        let most = LARGEST_SIDE * factor;
        if pixels > most {
            return Err(Error::option("--size", format!("the {name} can be {most} pixels at most; {pixels} given")));
        }
        if pixels == 0 || pixels % factor != 0 {
            let below = (pixels / factor).max(1) * factor;
            return Err(Error::option(
                "--size",
                format!("the {name} must be a multiple of {factor} pixels; {pixels} given, try {below}"),
            ));
        }
    }
    Ok(())
}

/// Refuses SDXL's conditions for checkpoints that do not take them.
pub(crate) fn check_conditions(original_size: bool, crop: bool, taken: bool) -> Result<()> {
    for (name, asked) in [("--original-size", original_size), ("--crop", crop)] {
        if asked && !taken {
            return Err(Error::option(name, "only SDXL checkpoints are told sizes and crops; leave it out"));
        }
    }
    Ok(())
}
