//! An existing picture seen by the network: encoded, noised to some levels, and traced with a
//! caption.
//!
//! The denoiser is called once per level with the caption alone; nothing is denoised and no
//! scheduler is asked. Guidance is left out: its half is given the empty prompt, and changes
//! nothing of the attention to the caption's words.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::generation::TextAttentions;
use super::goca::GocaRecorder;
use super::load::Pipeline;
use super::options::Options;
use super::traced::{RecordOptions, encoders};
use crate::argument::LEVELS;
use crate::prompt::{Prompt, Syntax};
use crate::run::{NoiseLevels, Run, Settings};
use crate::scheduler::{self, TorchGenerator};
use crate::trace::{
    About, AttentionObserver, Both, Grid, PromptInfo, Recorder, RecordingPlan, Step, Trace, Unobserved,
};
use crate::{Error, Result};

/// How a picture is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookOptions {
    /// Timesteps of training that the picture is noised to, each once; the maps are the mean over
    /// them. Low ones leave the picture clear and the caption little to say, high ones leave little
    /// of the picture.
    pub levels: Vec<usize>,
    /// The noise of level t is that of a torch CPU generator seeded with 1000 x seed + t.
    pub seed: u64,
    /// Words and phrases that the caption does not have, asked about as [`Options::probes`].
    pub probes: Vec<String>,
    /// Words and phrases whose ConceptAttention maps are kept, as [`Options::concepts`].
    pub concepts: Vec<String>,
    /// How the caption is read.
    pub syntax: Syntax,
    /// Last layers of CLIP that do not read the caption, as [`Options::clip_skip`].
    pub clip_skip: usize,
}

impl Default for LookOptions {
    /// The levels that the accuracy of the maps is measured at (`attnmap eval`).
    fn default() -> Self {
        Self {
            levels: vec![600, 450, 300],
            seed: 0,
            probes: Vec::new(),
            concepts: Vec::new(),
            syntax: Syntax::default(),
            clip_skip: 0,
        }
    }
}

impl LookOptions {
    /// How the picture of `run` was looked at, without its probes.
    ///
    /// # Errors
    /// [`Error::Trace`] when `run.json` does not say.
    pub fn of_run(run: &Run) -> Result<Self> {
        let settings = &run.record.settings;
        let levels = settings.look.as_ref().map(|look| look.levels.clone());
        let reason = || "run.json does not say which levels the picture was noised to; make the run again".to_owned();
        let levels = levels.ok_or_else(|| Error::Trace { file: run.folder.clone(), reason: reason() })?;
        let (syntax, clip_skip) = (settings.sampling.syntax(), settings.sampling.clip_skip.unwrap_or_default());
        Ok(Self { levels, seed: settings.seed, syntax, clip_skip, ..Self::default() })
    }
}

/// A picture's latent at one noise level.
#[derive(Debug, Clone)]
pub struct Noised {
    /// The timestep of training.
    pub timestep: usize,
    /// What the denoiser is shown, f32 `[1, channels, h, w]`.
    pub latent: Tensor,
}

impl Pipeline {
    /// Refuses a checkpoint that inpaints.
    pub(super) fn check_looks(&self) -> Result<()> {
        if self.inpaints() {
            return Err(Error::Unsupported {
                what: "looking at a picture with an inpainting checkpoint".into(),
                way_out: "its UNet wants a mask as well; use the checkpoint that it was made from".into(),
            });
        }
        Ok(())
    }

    /// Refuses levels that training did not have, before any work is done.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check_look(&self, options: &LookOptions) -> Result<()> {
        let refuse = |reason: String| Err(Error::argument(LEVELS, reason));
        if options.levels.is_empty() {
            return refuse("give one timestep of training or more, e.g. 300,450,600".into());
        }
        for (index, &level) in options.levels.iter().enumerate() {
            if self.scheduler.num_train_timesteps.unwrap_or(1000) <= level {
                return refuse(format!("{level} is beyond the last timestep of training"));
            }
            if options.levels[..index].contains(&level) {
                return refuse(format!("{level} is given twice"));
            }
        }
        self.check_clip_skip(options.clip_skip)
    }

    /// The picture's latent, the mean of the VAE's distribution, noised to each level. The
    /// distribution is so narrow beside the noise that a draw from it would differ in nothing but
    /// the seed it needs.
    ///
    /// # Errors
    /// [`Error::Argument`] when a side of the picture is no multiple of the VAE's factor, or
    /// training had no such timestep.
    pub fn noise_picture(&self, image: &RgbImage, options: &LookOptions) -> Result<Vec<Noised>> {
        self.check_looks()?;
        let latent = self.encode_image(image)?;
        let noised = |&timestep: &usize| -> Result<Noised> {
            let seed = options.seed.wrapping_mul(1000).wrapping_add(timestep as u64);
            let noise = TorchGenerator::new(seed).randn_tensor(latent.shape(), DType::F32, &Device::Cpu)?;
            let latent = self.noised(&latent, &noise.to_device(latent.device())?, timestep)?;
            Ok(Noised { timestep, latent })
        };
        options.levels.iter().map(noised).collect()
    }

    /// Shows each of `noised` to the denoiser with `prompt`, as in `run` (of
    /// [`look_run`](Self::look_run)), and records every cross-attention site. Of `keep`, single
    /// steps and GoCA's maps are kept. The trace's steps are the levels, in the order given.
    /// `progress` is told of every call.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `progress` breaks; those of the networks.
    pub fn trace_noised(
        &self,
        prompt: &Prompt,
        noised: &[Noised],
        run: &Options,
        keep: &RecordOptions,
        progress: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Trace> {
        let (context, TextAttentions { first: text, second: text_2 }) = self.context(prompt, run)?;
        let (probes, concepts) = (self.probe_infos(&run.probes)?, self.concepts(prompt, run)?);
        let Some(first) = noised.first() else {
            return Err(Error::argument(LEVELS, "none given"));
        };
        let (.., height, width) = first.latent.dims4()?;
        let plan = RecordingPlan {
            tokens: prompt.tokens.len(),
            unconditional_tokens: None,
            images: 1,
            per_step: keep.per_step,
        };
        let mut recorder = Recorder::new(&self.denoiser.sites(height, width), plan)
            .with_keys(&prompt.keys(), &[])
            .with_probes(self.key_probes(&probes))
            .with_concepts(concepts.len());
        let mut goca = keep.goca.then(|| self.goca_recorder(prompt, Grid::new(height, width), 1)).transpose()?;
        for (index, Noised { timestep, latent }) in noised.iter().enumerate() {
            let timestep = *timestep as f64;
            let mut nobody = Unobserved;
            let of_goca: &mut dyn AttentionObserver = match &mut goca {
                Some(goca) => goca,
                None => &mut nobody,
            };
            let mut both = Both(&mut recorder, of_goca);
            both.begin_step(&Step { index, count: noised.len(), timestep, images: 1, guided: false })?;
            self.predict_once(latent, timestep, &context, &mut both)?;
            if progress().is_break() {
                return Err(Error::Interrupted);
            }
        }
        let mut recording = recorder.finish()?.swap_remove(0);
        (recording.text, recording.text_2) = (text, text_2);
        recording.goca = goca.map(GocaRecorder::finish).transpose()?.and_then(|mut images| images.pop());
        let about = About {
            prompt: PromptInfo::from(prompt),
            probes,
            concepts,
            encoders: encoders(prompt),
            latent: Grid::new(height, width),
            image: Grid::new(height * self.vae_factor, width * self.vae_factor),
            checkpoint: self.checkpoint_info(),
            ..About::default()
        };
        Trace::new(about, recording)
    }

    /// A picture traced with a caption: [`noise_picture`](Self::noise_picture) and
    /// [`trace_noised`](Self::trace_noised), with the settings of the look in the trace.
    ///
    /// # Errors
    /// As those two and [`check_look`](Self::check_look).
    pub fn trace_picture(
        &self,
        image: &RgbImage,
        prompt: &Prompt,
        options: &LookOptions,
        keep: &RecordOptions,
        progress: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Trace> {
        self.check_look(options)?;
        let noised = self.noise_picture(image, options)?;
        let size = Grid::new(image.height() as usize, image.width() as usize);
        let run = self.look_run(size, options);
        let traced = self.trace_noised(prompt, &noised, &run, keep, progress);
        let mut trace = traced.map_err(|error| self.blame(error, prompt, &run))?;
        trace.about.settings = serde_json::to_value(self.look_settings(options, size)).unwrap_or_default();
        Ok(trace)
    }

    /// The options of a run whose single calls are like those of a look at a picture of `size`
    /// pixels: one image, without guidance.
    pub fn look_run(&self, size: Grid, options: &LookOptions) -> Options {
        let own = self.default_options();
        // A network that embeds guidance was never shown less than its own.
        let guidance_scale = if self.guided(&own) { self.no_guidance() } else { own.guidance_scale };
        let Grid { height, width } = size;
        let LookOptions { seed, ref probes, ref concepts, syntax, clip_skip, .. } = *options;
        let (probes, concepts) = (probes.clone(), concepts.clone());
        Options { seeds: vec![seed], probes, concepts, syntax, clip_skip, guidance_scale, height, width, ..own }
    }

    /// What `run.json` and the trace record of a look at a picture of `size` pixels.
    pub fn look_settings(&self, options: &LookOptions, size: Grid) -> Settings {
        let mut settings = self.settings(&self.look_run(size, options), options.seed);
        settings.sampling.steps = Some(options.levels.len());
        settings.scheduler = String::new();
        let flows = self.family.flows();
        let level = |&level: &usize| scheduler::level(&self.scheduler, flows, level).ok().flatten();
        let noise: Option<Vec<f64>> = options.levels.iter().map(|of| Some(level(of)?.noise_share())).collect();
        settings.look = Some(NoiseLevels { levels: options.levels.clone(), noise });
        settings
    }
}
