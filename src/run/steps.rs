//! The image's estimates that a run keeps at some of its steps, in its folder `steps/`.

use super::Run;
use super::folder::read_png;
use crate::render::write_png;
use crate::{Error, Result};
use image::RgbImage;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The image estimates that a run kept, `steps/NN.png` counted from 1, as 0-based step and picture;
/// none where there are none.
///
/// # Errors
/// [`Error::Trace`] when a file there is no whole picture.
pub fn kept_steps(run: &Run) -> Result<Vec<(usize, RgbImage)>> {
    let decode = |(step, path): (usize, PathBuf)| Ok((step, read_png(&path)?.0));
    kept_step_files(&run.folder).into_iter().map(decode).collect()
}

/// Pixels of an image whose estimates are kept unless said otherwise: decoding one takes a
/// hundredth of the run, or less.
const SMALL: usize = 256 * 256;

/// How many estimates are kept, about.
const ESTIMATES: usize = 8;

/// At every how many of `steps` the estimate of an image of `height` x `width` pixels is kept
/// unless said otherwise. It is about eight times, and never for a large image. Eight of the
/// default run's 128x128 take 0.15 s and 0.2 MB.
pub fn kept_by_default(height: usize, width: usize, steps: usize) -> Option<u32> {
    let every = u32::try_from((steps / ESTIMATES).max(1)).ok()?;
    (height * width <= SMALL).then_some(every)
}

/// Writes `images`, each with its 0-based step, where [`kept_steps`] finds them: `steps/NN.png`,
/// numbered from 1.
///
/// # Errors
/// [`Error::Io`].
pub fn save_steps(run: &Path, images: &[(usize, RgbImage)]) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let folder = run.join("steps");
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    images
        .par_iter()
        .try_for_each(|(step, image)| write_png(&folder.join(format!("{:02}.png", step + 1)), image, &[], true))
}

/// The files that [`kept_steps`] reads, in step order; other files in the folder are left alone.
pub(crate) fn kept_step_files(run: &Path) -> Vec<(usize, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(run.join("steps")) else { return Vec::new() };
    let number = |path: &Path| -> Option<usize> {
        (path.extension()? == "png").then_some(())?;
        path.file_stem()?.to_str()?.parse::<usize>().ok()?.checked_sub(1)
    };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut steps: Vec<(usize, PathBuf)> = files.filter_map(|path| Some((number(&path)?, path))).collect();
    steps.sort();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_eight_estimates_of_small_images_are_kept() {
        let kept = |steps: usize| steps / kept_by_default(128, 128, steps).unwrap() as usize;
        assert_eq!([1, 4, 8, 15, 25, 50, 100].map(kept), [1, 4, 8, 15, 8, 8, 8]);
        assert_eq!((kept_by_default(256, 256, 25), kept_by_default(264, 256, 25)), (Some(3), None));
    }
}
