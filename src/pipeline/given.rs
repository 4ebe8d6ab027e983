//! What runs set out from, as files: pictures, which are read before a checkpoint is loaded and
//! brought to a run's size, and latents.

use std::io;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, safetensors};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::init::Init;
use super::init::{INIT_FILE, MASK_FILE};
use super::load::Pipeline;
use super::options::Options;
use crate::argument::{Argument, INIT, LATENTS, MASK};
use crate::checkpoint::Family;
use crate::trace::Grid;
use crate::{Error, Result, files, picture};

/// The files of [`Options::init`], as a user names them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InitFiles {
    /// The picture: png, jpeg or webp.
    #[serde(serialize_with = "files::as_shown")]
    pub init: PathBuf,
    /// Only where this picture is white it is drawn anew.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "files::any_as_shown")]
    pub mask: Option<PathBuf>,
    /// See [`Init::strength`]; that of diffusers' pipeline where `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
}

/// A picture to set out from, as it was given.
#[derive(Debug, Clone)]
pub struct LoadedInit {
    image: RgbImage,
    name: String,
    strength: Option<f64>,
    mask: Option<RgbImage>,
    warnings: Vec<String>,
}

impl InitFiles {
    /// Reads the pictures.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) on `init` or `mask` for what is no picture, or a
    /// mask of another shape.
    pub fn read(&self) -> Result<LoadedInit> {
        let (image, warning) = picture::read_opaque(&self.init, INIT)?;
        let mask = self.mask.as_deref().map(|path| picture::read_mask(path, grid(&image), MASK)).transpose()?;
        let mut warnings: Vec<String> = warning.into_iter().collect();
        let mask = mask.map(|mask| {
            warnings.extend(mask.warning);
            mask.picture
        });
        let name = self.init.display().to_string();
        Ok(LoadedInit { image, name, strength: self.strength, mask, warnings })
    }
}

impl LoadedInit {
    /// What the user may not expect of the pictures, one line per caution.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Lets the run of `options` set out from the picture. The size is the run's where that was
    /// requested (`sized`), else one near the checkpoint's own in the picture's shape.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a size that has no latent grid.
    pub fn put_into(&self, options: &mut Options, sized: bool, pipeline: &Pipeline) -> Result<()> {
        if !sized {
            let Grid { height, width } = pipeline.fit_picture(&self.image, INIT)?;
            (options.height, options.width) = (height, width);
        }
        pipeline.check_size(Grid::new(options.height, options.width))?;
        let (width, height) = (options.width as u32, options.height as u32);
        options.init = Some(Init {
            image: picture::resize(&self.image, width, height),
            name: self.name.clone(),
            strength: self.strength.unwrap_or_else(|| usual_strength(pipeline.family, self.mask.is_some())),
            mask: self.mask.as_ref().map(|mask| picture::mask(mask, width, height)),
        });
        Ok(())
    }
}

/// The strength that diffusers' pipeline of a family has where none is given: that of pictures, or
/// with `masked` of inpainting.
fn usual_strength(family: Family, masked: bool) -> f64 {
    match (family, masked) {
        (Family::StableDiffusionXl, false) => 0.3,
        (Family::StableDiffusionXl, true) => 0.9999,
        (Family::StableDiffusion3 | Family::Flux, _) | (Family::ZImage, false) => 0.6,
        (_, false) => 0.8,
        (_, true) => 1.0,
    }
}

impl LoadedInit {
    /// Which of `init`, `mask` differs from the picture stored in `run`, compared at that run's
    /// size. `None` if both match, or the folder keeps none.
    pub fn changed_since(&self, run: &Path) -> Option<Argument> {
        let kept = picture::read(&run.join(INIT_FILE), INIT).ok()?;
        let (width, height) = kept.dimensions();
        if picture::resize(&self.image, width, height) != kept {
            return Some(INIT);
        }
        let mask = picture::mask(self.mask.as_ref()?, width, height);
        let kept = picture::read(&run.join(MASK_FILE), MASK).ok()?;
        (picture::mask(&kept, width, height) != mask).then_some(MASK)
    }
}

impl Pipeline {
    /// The size in pixels at which a picture is taken whole, near the checkpoint's own; `argument`
    /// named the picture.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a picture that is too long and thin.
    pub fn fit_picture(&self, image: &RgbImage, argument: Argument) -> Result<Grid> {
        let [height, width] = self.defaults.size;
        picture::fit(grid(image), Grid::new(height, width), self.size_factor, argument)
    }
}

/// The tensor `latents` of the safetensors file at `path`, with or without the leading dimension
/// of 1: for [`Options::latents`].
///
/// # Errors
/// [`Error::Argument`] on `latents` for a file that cannot be read or has no such tensor.
pub fn read_latents(path: &Path) -> Result<Tensor> {
    let refuse = |reason: String| Error::argument(LATENTS, format!("{}: {reason}", path.display()));
    // First: to open a pipe would wait for its other end.
    files::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refuse("no such file".into()),
        _ => refuse(error.to_string()),
    })?;
    let tensors =
        safetensors::load(path, &Device::Cpu).map_err(|error| refuse(format!("not a safetensors file ({error})")))?;
    let latents = tensors.get("latents").ok_or_else(|| refuse("it has no tensor named `latents`".into()))?;
    Ok(if latents.rank() == 3 { latents.unsqueeze(0)? } else { latents.clone() })
}

fn grid(image: &RgbImage) -> Grid {
    Grid::new(image.height() as usize, image.width() as usize)
}
