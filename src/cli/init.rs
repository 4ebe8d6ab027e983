//! The options for a picture that a run sets out from, read before the checkpoint is loaded.

use std::path::PathBuf;

use attnmap::Result;
use attnmap::picture;
use attnmap::pipeline::{Init, Options, Pipeline};
use attnmap::trace::Grid;
use clap::Args;
use image::RgbImage;

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

/// The picture as it was given.
#[derive(Debug)]
pub struct Given {
    image: RgbImage,
    name: String,
    strength: f64,
    mask: Option<RgbImage>,
}

impl InitArgs {
    /// Reads the picture, if there is to be one.
    pub fn read(&self) -> Result<Option<Given>> {
        let Some(path) = &self.init else { return Ok(None) };
        let image = picture::read(path, "--init")?;
        let mask = self.mask.as_deref().map(|path| picture::read(path, "--mask")).transpose()?;
        if let Some(mask) = &mask {
            picture::check_shape(mask, grid(&image), "--mask")?;
        }
        let strength = self.strength.unwrap_or(if mask.is_some() { 1.0 } else { 0.8 });
        Ok(Some(Given { image, name: path.display().to_string(), strength, mask }))
    }
}

impl Given {
    /// Lets the run of `options` set out from the picture: at `size` (width, height) where that is given, else at one near the checkpoint's
    /// own in the picture's shape.
    pub fn put_into(&self, options: &mut Options, size: Option<(usize, usize)>, pipeline: &Pipeline) -> Result<()> {
        if size.is_none() {
            let Grid { height, width } = fitted(&self.image, pipeline, "--init")?;
            (options.height, options.width) = (height, width);
        }
        pipeline.check_size(Grid::new(options.height, options.width))?;
        let (width, height) = (options.width as u32, options.height as u32);
        options.init = Some(Init {
            image: picture::resize(&self.image, width, height),
            name: self.name.clone(),
            strength: self.strength,
            mask: self.mask.as_ref().map(|mask| picture::mask(mask, width, height)),
        });
        Ok(())
    }
}

/// The size at which `pipeline` takes a picture whole; `option` named it.
pub fn fitted(image: &RgbImage, pipeline: &Pipeline, option: &str) -> Result<Grid> {
    let [height, width] = pipeline.defaults().size;
    picture::fit(grid(image), Grid::new(height, width), pipeline.vae_factor(), option)
}

fn grid(image: &RgbImage) -> Grid {
    Grid::new(image.height() as usize, image.width() as usize)
}
