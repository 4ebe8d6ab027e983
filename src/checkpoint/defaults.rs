//! What a checkpoint is used with unless the user says otherwise: its own word, or the habits of
//! its kind.

use super::config::{DenoiserConfig, Family, Fields, ModelIndex, SchedulerConfig, VaeConfig};
use super::store::Store;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What to generate with unless told otherwise: from the checkpoint's `attnmap.json`, else Stable
/// Diffusion's habits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Defaults {
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance scale.
    pub guidance_scale: f64,
    /// Height and width of the image in pixels.
    pub size: [usize; 2],
    /// The words that the model knows, where it was trained on a small world; else `None`.
    pub vocabulary: Option<Vec<String>>,
    /// The same words by their kind (`animal`, `colour`, ...), where the checkpoint says so.
    pub kinds: Option<BTreeMap<String, Vec<String>>>,
    /// Words that people may type in place of one that it knows, with the known one: `kitten`,
    /// `cat`.
    pub near: BTreeMap<String, String>,
    /// One line on what the model is.
    pub description: Option<String>,
}

/// Steps, guidance and size that the model's kind is used with: diffusers' pipelines' own defaults,
/// or a few-step model's.
pub(super) fn usual(
    index: &ModelIndex,
    denoiser: &DenoiserConfig,
    vae: &VaeConfig,
    scheduler: &SchedulerConfig,
) -> Defaults {
    // 64 latent pixels (SDXL: 128) is what the pipelines assume of a config that does not say.
    let side = if index.family == Family::StableDiffusionXl { 128 } else { 64 };
    let size = denoiser.sample_size().unwrap_or([side; 2]).map(|side| side * vae.factor());
    let is = |class: &str| scheduler.class_name == class;
    let predicts = scheduler.prediction_type.as_deref().unwrap_or("epsilon");
    let trailing = scheduler.timestep_spacing.as_deref() == Some("trailing")
        && (is("EulerDiscreteScheduler") || is("EulerAncestralDiscreteScheduler"));
    let (steps, guidance_scale) = match index.family {
        Family::StableDiffusion3 => (28, 7.0),
        // Turbo has half of the base model's shift, and was distilled without guidance.
        Family::ZImage if scheduler.shift == Some(3.0) => (9, 0.0),
        Family::ZImage => (50, 5.0),
        // As the authors say: dev embeds the guidance scale, schnell was distilled without.
        Family::Flux => match denoiser {
            DenoiserConfig::Flux(flux) if flux.guidance_embeds => (28, 3.5),
            _ => (4, 0.0),
        },
        _ if index.family == Family::LatentConsistency => (4, 8.5),
        _ if denoiser.unet().is_some_and(|unet| unet.time_cond_proj_dim.is_some()) => (4, 8.5),
        // Distilled without a guidance embedding (an LCM or TCD LoRA that was merged in).
        _ if is("LCMScheduler") || is("TCDScheduler") => (4, 1.0),
        // SD-Turbo, SDXL-Turbo, and Lightning and Hyper as their authors say to use them: guidance
        // is trained in.
        _ if trailing && predicts == "epsilon" => (4, 0.0),
        // Lightning's model of one step.
        _ if trailing && predicts == "sample" => (1, 0.0),
        Family::StableDiffusionXl => (50, 5.0),
        _ => (50, 7.5),
    };
    Defaults { steps, guidance_scale, size, vocabulary: None, kinds: None, near: BTreeMap::new(), description: None }
}

/// What `attnmap.json` says beyond the `defaults` of the model's kind.
/// Sides are multiples of `factor`.
pub(super) fn read(store: &Store, factor: usize, mut defaults: Defaults) -> Result<Defaults> {
    let Some(json) = store.read("attnmap.json")? else { return Ok(defaults) };
    let file = store.path("attnmap.json");
    let mut fields = Fields::parse(&file, &json)?;
    defaults = Defaults {
        steps: fields.take("steps", defaults.steps)?,
        guidance_scale: fields.take("guidance_scale", defaults.guidance_scale)?,
        size: fields.take("size", defaults.size)?,
        vocabulary: fields.take("vocabulary", None)?,
        kinds: fields.take("kinds", None)?,
        near: fields.take("near", BTreeMap::new())?,
        description: fields.take("description", None)?,
    };
    check(&defaults, factor, &file)?;
    fields.finish()?;
    Ok(defaults)
}

fn check(defaults: &Defaults, factor: usize, file: &Path) -> Result<()> {
    let refuse = |reason: String| Err(Error::Config { file: file.to_path_buf(), reason });
    if defaults.steps == 0 {
        return refuse("`steps` is 0".into());
    }
    if !defaults.guidance_scale.is_finite() {
        return refuse("`guidance_scale` is not a number".into());
    }
    if defaults.size.iter().any(|side| *side == 0 || side % factor != 0) {
        return refuse(format!("`size` is {:?}, which is not a multiple of {factor}", defaults.size));
    }
    Ok(())
}
