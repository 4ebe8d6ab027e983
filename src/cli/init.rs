//! The options for a picture that runs set out from.

use std::path::PathBuf;

use attnmap::Result;
use attnmap::pipeline::{Given, InitFiles};
use clap::Args;

use super::print;

/// What a run sets out from beside noise.
#[derive(Debug, Args)]
#[command(next_help_heading = "Picture to start from")]
pub struct InitArgs {
    /// Start from this picture (png, jpeg or webp) with noise added; kept in the run as init.png
    #[arg(long, value_name = "IMAGE")]
    init: Option<PathBuf>,

    /// Draw anew only where this picture is white (inpainting); kept in the run as mask.png
    #[arg(long, value_name = "MASK", requires = "init")]
    mask: Option<PathBuf>,

    /// Share of the steps that are taken, above 0 and at most 1: how far the picture may change [default: 0.8; 1 with --mask]
    #[arg(long, value_name = "SHARE", requires = "init", allow_negative_numbers = true)]
    strength: Option<f64>,
}

impl InitArgs {
    /// The files, if there is to be a picture.
    pub fn files(&self) -> Option<InitFiles> {
        let init = self.init.clone()?;
        Some(InitFiles { init, mask: self.mask.clone(), strength: self.strength })
    }

    /// The picture, read, if there is to be one.
    pub fn read(&self) -> Result<Option<Given>> {
        let given = self.files().map(|files| files.read()).transpose()?;
        given.iter().flat_map(Given::warnings).for_each(print::warn);
        Ok(given)
    }
}
