//! The options that say how an image is made, shared by every command that makes some.

use attnmap::pipeline::{Options, Pipeline};
use attnmap::scheduler::{SchedulerKind, Spacing};
use clap::Args;

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

/// What an image is made with, beside its seed and the number of steps.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// What the image should not show
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative: String,

    /// Weight of classifier-free guidance; 1 or less turns it off [default: the checkpoint's own]
    ///
    /// 7.5 for most, 5 for SDXL.
    #[arg(long, alias = "guidance-scale", value_name = "WEIGHT", allow_negative_numbers = true)]
    pub guidance: Option<f64>,

    /// Image size in pixels, WIDTHxHEIGHT [default: the checkpoint's own]
    ///
    /// With a picture to start from, a size near the checkpoint's own in the picture's shape.
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub size: Option<(usize, usize)>,

    /// Sampler, e.g. ddim, euler-a, dpm++2m [default: the checkpoint's own]
    ///
    /// One of ddim, pndm, euler, euler-a, dpm++2m, dpm++2m-karras, dpm++2m-sde, dpm++2m-sde-karras, dpm++2s, deis, unipc, lms, heun,
    /// dpm2, dpm2-a, ddpm, lcm and tcd; heun, dpm2 and dpm2-a run the UNet twice per step.
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<SchedulerKind>,

    /// How the timesteps are spread: leading, trailing or linspace [default: the checkpoint's own]
    ///
    /// Few-step models are made for trailing.
    #[arg(long, value_name = "NAME")]
    pub spacing: Option<Spacing>,

    /// SDXL: the size that the image is said to have had before it was scaled [default: its own]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    pub original_size: Option<(usize, usize)>,

    /// SDXL: left and top of the crop that the image is said to be [default: 0,0]
    ///
    /// 0,0 puts the object in the middle.
    #[arg(long, value_name = "X,Y", value_parser = parse_point)]
    pub crop: Option<(usize, usize)>,
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
        let own = pipeline.default_options();
        let (width, height) = self.size.unwrap_or((own.width, own.height));
        let (left, top) = self.crop.unwrap_or_default();
        Options {
            negative: self.negative.clone(),
            syntax: syntax.syntax(),
            steps: steps.unwrap_or(own.steps),
            guidance_scale: self.guidance.unwrap_or(own.guidance_scale),
            height,
            width,
            scheduler: self.scheduler,
            spacing: self.spacing,
            original_size: self.original_size.map(|(width, height)| [height, width]),
            crop: [top, left],
            ..own
        }
    }
}

/// Reads WIDTHxHEIGHT.
pub fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let (width, height) = text.split_once(['x', 'X']).ok_or("write WIDTHxHEIGHT, e.g. 512x512")?;
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| "write WIDTHxHEIGHT, e.g. 512x512".to_owned());
    Ok((number(width)?, number(height)?))
}

fn parse_point(text: &str) -> Result<(usize, usize), String> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let point = text.split_once(',').and_then(|(x, y)| number(x).zip(number(y)));
    point.ok_or_else(|| "write X,Y in pixels, e.g. 0,128".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_width_by_height() {
        assert_eq!(parse_size("640x512"), Ok((640, 512)));
        for wrong in ["", "640", "x", "640x", "-1x2", "axb", "1x2x3"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
