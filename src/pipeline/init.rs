//! The picture that a run sets out from, and how a run's folder keeps it.

use crate::Result;
use crate::picture;
use crate::render::write_png;
use crate::run::Run;
use image::{DynamicImage, GrayImage, RgbImage};
use std::path::Path;

/// The picture's file in the folder of a run that set out from it.
pub(super) const INIT_FILE: &str = "init.png";

/// The mask's file there.
pub(super) const MASK_FILE: &str = "mask.png";

/// The picture that a run sets out from.
#[derive(Debug, Clone, PartialEq)]
pub struct Init {
    /// The picture, of exactly the run's size ([`resize`](crate::picture::resize) makes it so as
    /// diffusers does).
    pub image: RgbImage,
    /// What records call it, e.g. its file's name.
    pub name: String,
    /// Share of the steps that are taken, above 0 and at most 1: how far the picture may change. At
    /// 1 all steps run; the first timestep's noise still leaves a trace of the picture. Latent
    /// consistency models take all steps, from this share of their schedule.
    pub strength: f64,
    /// Only where this is white (128 and above) the picture is drawn anew (inpainting), of the
    /// run's size; [`mask`](crate::picture::mask()) makes it as diffusers does. Needed for
    /// checkpoints that [inpaint](super::Pipeline::inpaints).
    pub mask: Option<GrayImage>,
}

impl Init {
    /// What [`Options::init`](super::Options::init) was in the run that `run` holds; `None` for a
    /// run that set out from noise.
    ///
    /// # Errors
    /// [`Error::Trace`](crate::Error::Trace) or [`Error::Io`](crate::Error::Io) when the picture
    /// that the folder keeps is missing or damaged.
    pub fn of_run(run: &Run) -> Result<Option<Self>> {
        let settings = &run.record.settings;
        let Some(strength) = settings.sampling.strength else { return Ok(None) };
        let name = settings.init.clone().unwrap_or_default();
        let image = run.picture(INIT_FILE)?;
        let mask = match settings.masked {
            true => Some(picture::mask(&run.picture(MASK_FILE)?, image.width(), image.height())),
            false => None,
        };
        Ok(Some(Self { image, name, strength, mask }))
    }

    /// Keeps the picture, and its mask, in a run's folder, where [`of_run`](Self::of_run) finds it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn save(&self, folder: &Path) -> Result<()> {
        if let Some(mask) = &self.mask {
            let mask = DynamicImage::from(mask.clone()).to_rgb8();
            write_png(&folder.join(MASK_FILE), &mask, &[], true)?;
        }
        write_png(&folder.join(INIT_FILE), &self.image, &[("Title", &self.name)], false)
    }
}
