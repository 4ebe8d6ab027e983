//! What a run is made with, as `run.json` and the trace record it, and the way back to the options
//! of the same run.

use super::load::Pipeline;
use super::names::{device_name, dtype_name};
use super::options::Options;
use crate::Result;
use crate::run::{Sampling, Settings, option_words, quoted};
use crate::scheduler::SchedulerKind;

impl Sampling {
    /// The options of a run of seed 0 with `pipeline`'s checkpoint; what is not asked for is the
    /// checkpoint's own. The strength is a picture's
    /// ([`LoadedInit::put_into`](super::LoadedInit::put_into)).
    pub fn resolve(&self, pipeline: &Pipeline) -> Options {
        let own = pipeline.default_options();
        let [height, width] = self.size.unwrap_or([own.height, own.width]);
        Options {
            negative: self.negative.clone().unwrap_or_default(),
            syntax: self.syntax(),
            steps: self.steps.unwrap_or(own.steps),
            guidance_scale: self.guidance.unwrap_or(own.guidance_scale),
            height,
            width,
            scheduler: self.scheduler,
            spacing: self.spacing,
            clip_skip: self.clip_skip.unwrap_or_default(),
            original_size: self.original_size,
            crop: self.crop.unwrap_or_default(),
            ..own
        }
    }
}

impl Options {
    /// What a run with these options records of its sampling. The negative prompt and the sampler
    /// are recorded apart from it.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            negative: None,
            emphasis: self.syntax.emphasis.then_some(true),
            long: self.syntax.long.then_some(true),
            steps: Some(self.steps),
            guidance: Some(self.guidance_scale),
            size: Some([self.height, self.width]),
            scheduler: None,
            spacing: self.spacing,
            clip_skip: Some(self.clip_skip).filter(|layers| *layers > 0),
            original_size: self.original_size,
            crop: Some(self.crop).filter(|crop| *crop != [0, 0]),
            strength: self.init.as_ref().map(|init| init.strength),
        }
    }
}

impl Pipeline {
    /// The settings of an image of this run, as `run.json` and the trace record them.
    pub fn settings(&self, options: &Options, seed: u64) -> Settings {
        let chosen = options.scheduler.map(|kind| kind.with(&self.scheduler));
        let scheduler = chosen.or_else(|| SchedulerKind::of_config(&self.scheduler).ok());
        let init = options.init.as_ref();
        Settings {
            seed,
            scheduler: scheduler.map_or_else(String::new, |kind| kind.name().to_owned()),
            dtype: dtype_name(self.options.dtype).to_owned(),
            device: device_name(&self.options.device).to_owned(),
            sampling: options.sampling(),
            changes: self.changes.clone(),
            max_length: Some(self.prompt_length()),
            // A variant need not have every part.
            weights: Some(self.files.clone()).filter(|files| !files.is_empty()),
            init: init.map(|init| init.name.clone()),
            masked: init.is_some_and(|init| init.mask.is_some()),
            latents: options.latents.as_ref().map(|_| "given".to_owned()),
            ..Settings::default()
        }
    }

    /// The command line that makes the image of `text` with `options`, which have one seed, but for
    /// `latents` and a mask. What is the checkpoint's own is left out.
    pub fn command(&self, text: &str, options: &Options) -> String {
        let own = self.default_options();
        let text = if text.starts_with('-') { option_words("--prompt", text) } else { quoted(text) };
        let mut words = vec!["attnmap".to_owned(), "generate".to_owned(), text];
        let mut add = |option: &str, value: Option<String>| {
            words.extend(value.map(|value| option_words(option, &value)));
        };
        add("--model", Some(self.id.clone()).filter(|id| id != "embedded"));
        for (argument, value) in self.changes.arguments() {
            add(&argument.option(), Some(value));
        }
        add("--dtype", self.options.dtype_named_unless_usual());
        add("--device", self.options.device_named_unless_usual());
        add("--negative", Some(options.negative.clone()).filter(|negative| !negative.is_empty()));
        add("--steps", Some(options.steps).filter(|steps| *steps != own.steps).map(|steps| steps.to_string()));
        let guidance = Some(options.guidance_scale).filter(|scale| *scale != own.guidance_scale);
        add("--guidance", guidance.map(|scale| scale.to_string()));
        let size = Some((options.width, options.height)).filter(|size| *size != (own.width, own.height));
        // A picture to set out from has a say in the size.
        let size = size.or(options.init.as_ref().map(|_| (options.width, options.height)));
        add("--size", size.map(|(width, height)| format!("{width}x{height}")));
        add("--scheduler", options.scheduler.map(|kind| kind.name().to_owned()));
        let sampling = options.sampling();
        for name in ["clip_skip", "crop", "original_size", "spacing"] {
            add(&format!("--{}", name.replace('_', "-")), sampling.get(name));
        }
        add("--probe", Some(options.probes.join(",")).filter(|probes| !probes.is_empty()));
        if !options.concepts.is_empty() {
            words.push(quoted(&format!("--concepts={}", options.concepts.join(","))));
        }
        let mut add = |option: &str, value: Option<String>| {
            words.extend(value.map(|value| option_words(option, &value)));
        };
        if let Some(init) = &options.init {
            add("--init", Some(init.name.clone()));
            add("--strength", Some(init.strength.to_string()));
        }
        add("--seed", options.seeds.first().map(u64::to_string));
        words.extend(options.syntax.switches().map(|name| format!("--{name}")));
        words.join(" ")
    }

    /// Builds the options of a run again from its recorded `settings` and `negative` prompt. The
    /// picture that it set out from and its probes are not restored.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a sampler that attnmap does not have.
    pub fn options_of(&self, settings: &Settings, negative: &str) -> Result<Options> {
        let kind = SchedulerKind::recorded(&settings.scheduler, &self.scheduler)?;
        let sampling = Sampling {
            negative: Some(negative.to_owned()),
            scheduler: Some(kind).filter(|kind| SchedulerKind::of_config(&self.scheduler).ok() != Some(*kind)),
            ..settings.sampling.clone()
        };
        Ok(Options { seeds: vec![settings.seed], ..sampling.resolve(self) })
    }
}
