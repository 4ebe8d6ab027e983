//! The options that say how an image is made, shared by every command that makes some.

use attnmap::pipeline::{Options, Pipeline};
use attnmap::run::{Sampling, parse_point, parse_size};
use attnmap::scheduler::{SchedulerKind, Spacing};
use clap::Args;

use super::lists;
use super::prompt::{ProbeArgs, SyntaxArgs};

/// What a run of a prompt is made with, beside its seed.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub syntax: SyntaxArgs,

    #[command(flatten)]
    pub steps: StepsArgs,

    #[command(flatten)]
    pub sampling: SamplingArgs,

    #[command(flatten)]
    pub probe: ProbeArgs,
}

/// How many steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Args)]
#[command(next_help_heading = "Sampling")]
pub struct StepsArgs {
    /// Denoising steps [default: the checkpoint's own]
    ///
    /// 50 for most, 4 for few-step models.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
}

const SAMPLER: &str = "Sampler, e.g. ddim, euler-a, dpm++2m [default: the checkpoint's own]";

/// The long help of `--scheduler`: all samplers, as the table has them.
fn samplers() -> String {
    let [names @ .., last] = SchedulerKind::ALL.map(SchedulerKind::name);
    format!(
        "{SAMPLER}\n\nOne of {} and {last}; heun, dpm2 and dpm2-a run the network twice per step.",
        names.join(", ")
    )
}

/// What an image is made with, beside its seed and the number of steps.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// What the image should not show
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative: String,

    /// Weight of classifier-free guidance; 1 or less turns it off [default: the checkpoint's own]
    ///
    /// 7.5 for most, 5 for SDXL. In Z-Image, which counts from 0, 0 or less turns it off.
    #[arg(long, alias = "guidance-scale", value_name = "WEIGHT", allow_negative_numbers = true)]
    pub guidance: Option<f64>,

    /// Image size in pixels, WIDTHxHEIGHT [default: the checkpoint's own]
    ///
    /// With a picture to start from, a size near the checkpoint's own in the picture's shape.
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,

    #[arg(long, value_name = "NAME", help = SAMPLER, long_help = samplers())]
    pub scheduler: Option<SchedulerKind>,

    /// How the timesteps are spread: leading, trailing or linspace [default: the checkpoint's own]
    ///
    /// Few-step models are made for trailing.
    #[arg(long, value_name = "NAME")]
    pub spacing: Option<Spacing>,

    /// Last layers of CLIP that do not read the prompt, 0 or more
    ///
    /// As clip_skip in diffusers: what the web UI and civitai call clip skip 2 is 1 here. The
    /// negative prompt is read by all layers. SDXL leaves one out by itself.
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub clip_skip: Option<usize>,

    /// SDXL: the size that the image is said to have had before it was scaled [default: its own]
    #[arg(long, value_name = "WxH", value_parser = parse_size, hide_short_help = true)]
    pub original_size: Option<[usize; 2]>,

    /// SDXL: left and top of the crop that the image is said to be [default: 0,0]
    ///
    /// 0,0 puts the object in the middle.
    #[arg(long, value_name = "X,Y", value_parser = parse_point, hide_short_help = true)]
    pub crop: Option<[usize; 2]>,
}

impl RunArgs {
    /// The options of a run of one seed; what is not given is the checkpoint's own.
    pub fn options(&self, pipeline: &Pipeline, seed: u64) -> Options {
        Options {
            seeds: vec![seed],
            probes: self.probe.texts().to_vec(),
            ..self.sampling.options(pipeline, self.syntax, self.steps.steps)
        }
    }
}

impl SamplingArgs {
    /// The options of a run; what is not given is the checkpoint's own.
    pub fn options(&self, pipeline: &Pipeline, syntax: SyntaxArgs, steps: Option<usize>) -> Options {
        self.sampling(syntax, steps).resolve(pipeline)
    }

    /// What is asked for.
    fn sampling(&self, syntax: SyntaxArgs, steps: Option<usize>) -> Sampling {
        let Self { negative, guidance, size, scheduler, spacing, clip_skip, original_size, crop } = self.clone();
        Sampling {
            negative: Some(negative),
            emphasis: Some(syntax.emphasis),
            long: Some(syntax.long),
            steps,
            guidance,
            size,
            scheduler,
            spacing,
            clip_skip,
            original_size,
            crop,
            strength: None,
        }
    }
}

/// What the images of a gallery are made with. Every option with several values is an axis.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling (several values of an option are an axis)")]
pub struct AxesArgs {
    /// What the images should not show; may be given several times
    #[arg(long, value_name = "TEXT")]
    negative: Vec<String>,

    /// Numbers of steps, separated by commas [default: the checkpoint's own]
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    steps: Vec<u64>,

    /// Weights of classifier-free guidance, e.g. 3,5; 1 or less turns it off [default: the
    /// checkpoint's own]
    #[arg(long, alias = "guidance-scale", value_name = "W,W", value_delimiter = ',', allow_negative_numbers = true)]
    guidance: Vec<f64>,

    /// Image sizes in pixels, e.g. 512x512,640x512 [default: the checkpoint's own]
    #[arg(long, value_name = "WxH,WxH", value_delimiter = ',', value_parser = parse_size)]
    size: Vec<[usize; 2]>,

    /// Samplers, e.g. ddim,euler-a [default: the checkpoint's own]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    scheduler: Vec<SchedulerKind>,

    /// How the timesteps are spread: leading, trailing or linspace [default: the checkpoint's own]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', hide_short_help = true)]
    spacing: Vec<Spacing>,

    /// Numbers of CLIP's last layers that do not read the prompt, e.g. 0,1
    #[arg(long, value_name = "N,N", value_delimiter = ',', hide_short_help = true)]
    clip_skip: Vec<usize>,

    /// SDXL: the sizes that the images are said to have had before they were scaled [default: their
    /// own]
    #[arg(long, value_name = "WxH,WxH", value_delimiter = ',', value_parser = parse_size, hide_short_help = true)]
    original_size: Vec<[usize; 2]>,

    /// SDXL: left and top of the crop that the images are said to be; may be given several times
    /// [default: 0,0]
    #[arg(long, value_name = "X,Y", value_parser = parse_point, hide_short_help = true)]
    crop: Vec<[usize; 2]>,
}

impl AxesArgs {
    /// The values of each option, one after the other, those of `strengths` and one way of reading
    /// prompts among them.
    pub fn axes(&self, syntax: SyntaxArgs, strengths: &[f64]) -> Vec<Vec<Sampling>> {
        /// The values of one option, each once.
        fn axis<T: Clone>(option: &str, list: &[T], set: impl Fn(T) -> Sampling) -> Vec<Sampling> {
            let name = option.trim_start_matches('-').replace('-', "_");
            let told = |asked: &Sampling| asked.get(&name).unwrap_or_default();
            lists::once(option, list.iter().cloned().map(set).collect(), told)
        }
        let none = Sampling::default;
        let read = Sampling { emphasis: Some(syntax.emphasis), long: Some(syntax.long), ..none() };
        vec![
            axis("--steps", &self.steps, |steps| Sampling { steps: Some(steps as usize), ..none() }),
            axis("--guidance", &self.guidance, |scale| Sampling { guidance: Some(scale), ..none() }),
            axis("--scheduler", &self.scheduler, |kind| Sampling { scheduler: Some(kind), ..none() }),
            axis("--size", &self.size, |size| Sampling { size: Some(size), ..none() }),
            axis("--strength", strengths, |share| Sampling { strength: Some(share), ..none() }),
            axis("--spacing", &self.spacing, |spacing| Sampling { spacing: Some(spacing), ..none() }),
            axis("--clip-skip", &self.clip_skip, |layers| Sampling { clip_skip: Some(layers), ..none() }),
            axis("--original-size", &self.original_size, |size| Sampling { original_size: Some(size), ..none() }),
            axis("--crop", &self.crop, |crop| Sampling { crop: Some(crop), ..none() }),
            axis("--negative", &self.negative, |text| Sampling { negative: Some(text), ..none() }),
            vec![read],
        ]
    }
}
