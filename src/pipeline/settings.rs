//! What a run is made with, as `run.json` and the trace record it, and the way back to the options
//! of the same run.

use std::collections::BTreeMap;

use serde_json::Value;

use super::choice::{device_name, dtype_name};
use super::load::Pipeline;
use super::options::Options;
use crate::Result;
use crate::prompt::Syntax;
use crate::run::{Settings, quoted};
use crate::scheduler::SchedulerKind;

impl Pipeline {
    /// The settings of an image of this run, as `run.json` and the trace record them.
    pub fn settings(&self, options: &Options, seed: u64) -> Settings {
        let switches = options.syntax.switches().map(|name| (name.to_owned(), true.into()));
        let mut more = self.changes.record();
        more.extend(switches.chain([("max_length".to_owned(), self.tokenizer.length().into())]));
        more.extend(size_settings(options));
        // A variant need not have every part.
        more.extend((!self.files.is_empty()).then(|| ("weights".to_owned(), self.files.clone().into())));
        let chosen = options.scheduler.map(|kind| kind.with(&self.scheduler));
        let scheduler = chosen.or_else(|| SchedulerKind::of_config(&self.scheduler).ok());
        let mut settings = Settings {
            seed,
            steps: options.steps,
            guidance_scale: options.guidance_scale,
            scheduler: scheduler.map_or_else(String::new, |kind| kind.name().to_owned()),
            width: options.width,
            height: options.height,
            dtype: dtype_name(self.options.dtype).to_owned(),
            device: device_name(&self.options.device).to_owned(),
            more,
        };
        if let Some(init) = &options.init {
            init.describe(&mut settings);
        }
        if options.latents.is_some() {
            settings.more.insert("latents".into(), "given".into());
        }
        settings
    }

    /// The command line that makes the image of `text` with `options`, which have one seed, but for
    /// `latents` and a mask. What is the checkpoint's own is left out.
    pub fn command(&self, text: &str, options: &Options) -> String {
        let own = self.default_options();
        // What begins with a dash would be taken for an option.
        let bound = |option: &str, value: &str| match value.starts_with('-') {
            true => quoted(&format!("{option}={value}")),
            false => format!("{option} {}", quoted(value)),
        };
        let text = if text.starts_with('-') { bound("--prompt", text) } else { quoted(text) };
        let mut words = vec!["attnmap".to_owned(), "generate".to_owned(), text];
        let mut add = |option: &str, value: Option<String>| {
            words.extend(value.map(|value| bound(option, &value)));
        };
        add("--model", Some(self.id.clone()).filter(|id| id != "embedded"));
        for (option, value) in self.changes.arguments() {
            add(option, Some(value));
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
        for (name, value) in size_settings(options) {
            add(&format!("--{}", name.replace('_', "-")), value.as_str().map(str::to_owned));
        }
        add("--probe", Some(options.probes.join(",")).filter(|probes| !probes.is_empty()));
        if let Some(init) = &options.init {
            add("--init", Some(init.name.clone()));
            add("--strength", Some(init.strength.to_string()));
        }
        add("--seed", options.seeds.first().map(u64::to_string));
        words.extend(options.syntax.switches().map(|name| format!("--{name}")));
        words.join(" ")
    }

    /// The options of the run that `settings` and the `negative` prompt are of, but for a picture
    /// that it set out from and probes.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for a setting that is not written as this version
    /// writes it.
    pub fn options_of(&self, settings: &Settings, negative: &str) -> Result<Options> {
        let text = |name: &str| settings.more.get(name).and_then(Value::as_str);
        let pair =
            |name: &str| -> Result<Option<[usize; 2]>> { text(name).map(|text| parse_pair(name, text)).transpose() };
        let kind = settings.scheduler.parse::<SchedulerKind>()?;
        Ok(Options {
            negative: negative.to_owned(),
            syntax: Syntax::of_settings(&settings.more),
            steps: settings.steps,
            guidance_scale: settings.guidance_scale,
            seeds: vec![settings.seed],
            height: settings.height,
            width: settings.width,
            scheduler: Some(kind).filter(|kind| SchedulerKind::of_config(&self.scheduler).ok() != Some(*kind)),
            spacing: text("spacing").map(str::parse).transpose()?,
            original_size: pair("original_size")?.map(|[width, height]| [height, width]),
            crop: pair("crop")?.map_or([0, 0], |[left, top]| [top, left]),
            ..self.default_options()
        })
    }
}

/// Settings that few runs have, by the name of their option and as it is written on a command line.
fn size_settings(options: &Options) -> BTreeMap<String, Value> {
    let mut more = BTreeMap::new();
    if let Some(spacing) = options.spacing {
        more.insert("spacing".to_owned(), spacing.name().into());
    }
    if let Some([height, width]) = options.original_size {
        more.insert("original_size".to_owned(), format!("{width}x{height}").into());
    }
    if options.crop != [0, 0] {
        let [top, left] = options.crop;
        more.insert("crop".to_owned(), format!("{left},{top}").into());
    }
    more
}

/// Two numbers, as `WIDTHxHEIGHT` or `X,Y`.
fn parse_pair(name: &str, text: &str) -> Result<[usize; 2]> {
    let numbers: Option<Vec<usize>> = text.split(['x', ',']).map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[first, second]) => Ok([first, second]),
        _ => Err(crate::Error::option(
            name,
            format!("{} in the run's settings is not a pair of numbers", crate::in_quotes(text)),
        )),
    }
}
