//! The options for a picture that runs set out from.

use std::path::{Path, PathBuf};

use attnmap::Result;
use attnmap::pipeline::{InitFiles, LoadedInit};
use clap::Args;

use super::print;

/// A picture that runs set out from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Picture to start from")]
pub struct PictureArgs {
    /// Start from this picture (png, jpeg or webp) with noise added; kept in the run as init.png
    #[arg(long, value_name = "IMAGE")]
    init: Option<PathBuf>,

    /// Draw anew only where this picture is white (inpainting); kept in the run as mask.png
    #[arg(long, value_name = "MASK", requires = "init")]
    mask: Option<PathBuf>,
}

/// What a run sets out from beside noise.
#[derive(Debug, Args)]
#[command(next_help_heading = "Picture to start from")]
pub struct InitArgs {
    #[command(flatten)]
    picture: PictureArgs,

    /// Share of the steps that are taken, above 0 and at most 1: how far the picture may change
    /// [default: that of diffusers' pipeline]
    ///
    /// 0.8 for Stable Diffusion 1 and 2, 0.3 for SDXL, 0.6 for the others; with --mask 1, but
    /// 0.9999 for SDXL and 0.6 for Stable Diffusion 3 and FLUX.1. Steps and guidance stay those of
    /// runs from noise, where some of diffusers' pipelines have others (FLUX.1: guidance 7).
    #[arg(long, value_name = "SHARE", requires = "init", allow_negative_numbers = true)]
    strength: Option<f64>,
}

/// What the runs of a gallery set out from beside noise.
#[derive(Debug, Args)]
#[command(next_help_heading = "Picture to start from")]
pub struct InitAxes {
    #[command(flatten)]
    picture: PictureArgs,

    /// Shares of the steps that are taken, e.g. 0.4,0.7: how far the picture may change [default:
    /// that of generate]
    #[arg(long, value_name = "SHARE,SHARE", value_delimiter = ',', requires = "init", allow_negative_numbers = true)]
    pub strength: Vec<f64>,
}

impl PictureArgs {
    fn files(&self, strength: Option<f64>) -> Option<InitFiles> {
        Some(InitFiles { init: self.init.clone()?, mask: self.mask.clone(), strength })
    }
}

impl InitAxes {
    /// The files, if there is to be a picture, found to be pictures.
    pub fn files(&self) -> Result<Option<InitFiles>> {
        let files = self.picture.files(None);
        read(files.as_ref())?;
        Ok(files)
    }
}

fn read(files: Option<&InitFiles>) -> Result<Option<LoadedInit>> {
    let given = files.map(InitFiles::read).transpose()?;
    given.iter().flat_map(LoadedInit::warnings).for_each(print::warn);
    Ok(given)
}

impl InitArgs {
    /// The picture, read, if there is to be one.
    pub fn read(&self) -> Result<Option<LoadedInit>> {
        read(self.picture.files(self.strength).as_ref())
    }

    /// The mask's file.
    pub fn mask(&self) -> Option<&Path> {
        self.picture.mask.as_deref()
    }
}
