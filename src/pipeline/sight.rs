//! Whether a thing can be seen in a picture: the network undoes noise better where it is told of
//! what is there.

use candle_core::{D, DType, Device, Tensor};
use image::RgbImage;

use super::load::Pipeline;
use super::look::LookOptions;
use crate::Result;
use crate::facts::expect::Sighting;
use crate::model::PreparedPrompt;
use crate::prompt::Prompt;
use crate::scheduler::{self, TorchGenerator};
use crate::trace::{Grid, Unobserved};

/// Timesteps of training that the picture is noised to: where a thing's shape is decided.
/// ACCURACY.md has how these and the other numbers here were chosen.
const LEVELS: [usize; 3] = [700, 600, 500];

/// Noises of each level; one alone leaves much to chance.
const NOISES: u64 = 4;

/// Side of the window that the thing is looked for in, as a share of the image's sides.
const WINDOW: f64 = 0.3125;

/// Captions that go through the network at once, that without a thing among them.
const ROWS: usize = 8;

impl Pipeline {
    /// How much better the network knows `image` again from its noised latent with the caption `a
    /// THING` than with `a` alone. It is the [gain](Sighting::gain) for each of `things`, in the
    /// window of the image where it is highest. (That the error of a diffusion model's prediction
    /// tells captions apart: Li et al., 2023, "Your Diffusion Model is Secretly a Zero-Shot
    /// Classifier".) The image's sides are multiples of the VAE's factor. The network is called 12
    /// times for up to seven things.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a checkpoint that inpaints; those of
    /// the networks.
    pub fn look_for(&self, image: &RgbImage, things: &[String]) -> Result<Vec<Sighting>> {
        if things.is_empty() {
            return Ok(Vec::new());
        }
        self.check_looks()?;
        let size = Grid::new(image.height() as usize, image.width() as usize);
        let run = self.look_run(size, &LookOptions::default());
        let latent = self.encode_image(image)?;
        let mut found = Vec::new();
        for some in things.chunks(ROWS - 1) {
            let mut prompts = vec![self.prompt("a", &run)?];
            for thing in some {
                let article = if thing.to_lowercase().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
                prompts.push(self.prompt(&format!("{article} {thing}"), &run)?);
            }
            let prompts: Vec<&Prompt> = prompts.iter().collect();
            let context = self.denoiser().prepare(&self.conditioning(&prompts, &run)?)?;
            let gains = self.gains(&latent, &context, prompts.len())?;
            let (.., height, width) = latent.dims4()?;
            let grid = Grid::new(height, width);
            found.extend(
                some.iter()
                    .zip(gains)
                    .map(|(thing, gain)| Sighting { thing: thing.clone(), gain: highest_window(&gain, grid) as f32 }),
            );
        }
        Ok(found)
    }

    /// For each but the first of `rows` captions in `context`, a map `[h, w]`. It is by how much
    /// the error of the prediction is lower than with the first caption. The unit is the first's
    /// mean error over the image. Levels and noises are averaged.
    fn gains(&self, latent: &Tensor, context: &PreparedPrompt, rows: usize) -> Result<Vec<Vec<f64>>> {
        let (.., height, width) = latent.dims4()?;
        let mut gains = vec![vec![0.0; height * width]; rows - 1];
        let count = LEVELS.len() as f64 * NOISES as f64;
        for level in LEVELS {
            for draw in 0..NOISES {
                let seed = 1000 * draw + level as u64;
                let noise = TorchGenerator::new(seed).randn_tensor(latent.shape(), DType::F32, &Device::Cpu)?;
                let noise = noise.to_device(latent.device())?;
                let noised = self.noised(latent, &noise, level)?;
                let told =
                    self.predict_once(&Tensor::cat(&vec![&noised; rows], 0)?, level as f64, context, &mut Unobserved)?;
                let errors = told.broadcast_sub(&self.target(latent, &noise, level)?)?.sqr()?.sum(1)?;
                let errors = errors.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten(1, D::Minus1)?;
                let errors = errors.to_vec2::<f64>()?;
                let Some((without, with)) = errors.split_first() else { continue };
                let mean = without.iter().sum::<f64>() / without.len().max(1) as f64;
                let weight = if mean > 0.0 { 1.0 / mean / count } else { 0.0 };
                for (gain, with) in gains.iter_mut().zip(with) {
                    let cells = gain.iter_mut().zip(without.iter().zip(with));
                    cells.for_each(|(gain, (without, with))| *gain += weight * (without - with));
                }
            }
        }
        Ok(gains)
    }

    /// What the network was trained to say of `latent` with `noise` at a timestep of training. It
    /// is the noise, the velocity (Salimans and Ho, 2022) or the latent itself. In flow matching it
    /// is the way from the latent to the noise.
    fn target(&self, latent: &Tensor, noise: &Tensor, timestep: usize) -> Result<Tensor> {
        if self.family.flows() {
            return Ok((noise - latent)?);
        }
        let alpha = scheduler::alpha_bar(&self.scheduler, timestep)?.unwrap_or(1.0);
        match self.scheduler.prediction_type.as_deref() {
            Some("v_prediction") => Ok(((noise * alpha.sqrt())? - (latent * (1.0 - alpha).sqrt())?)?),
            Some("sample") => Ok(latent.clone()),
            _ => Ok(noise.clone()),
        }
    }
}

/// The highest mean of `map` in a window within the image, [`WINDOW`] of its sides high and wide.
fn highest_window(map: &[f64], grid: Grid) -> f64 {
    let side = |cells: usize| ((cells as f64 * WINDOW).round() as usize).clamp(1, cells.max(1));
    let (height, width) = (side(grid.height), side(grid.width));
    let mut highest = f64::NEG_INFINITY;
    for top in 0..=grid.height.saturating_sub(height) {
        for left in 0..=grid.width.saturating_sub(width) {
            let rows = (top..top + height).map(|row| row * grid.width + left);
            let sum: f64 = rows.filter_map(|start| map.get(start..start + width)).flatten().sum();
            highest = highest.max(sum / (height * width) as f64);
        }
    }
    if highest.is_finite() { highest } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, OpenOptions, Source};
    use crate::pipeline::options::LoadOptions;
    use std::path::Path;

    /// The target, taken as the network's output, gives the picture's latent back.
    #[test]
    fn the_target_leads_from_the_noised_latent_to_the_latent() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for name in ["tiny-sd1", "tiny-sd2", "tiny-sd3"] {
            let checkpoint = Checkpoint::open(&Source::Folder(fixtures.join(name)), &OpenOptions::default()).unwrap();
            let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
            let latent = Tensor::new(&[[[[0.5f32, -1.25], [2.0, 0.0]]]], &Device::Cpu).unwrap();
            let noise = Tensor::new(&[[[[-0.75f32, 1.5], [0.25, 1.0]]]], &Device::Cpu).unwrap();
            let noised = pipeline.noised(&latent, &noise, 600).unwrap();
            let target = pipeline.target(&latent, &noise, 600).unwrap();
            let level = scheduler::level(&pipeline.scheduler, pipeline.family.flows(), 600).unwrap().unwrap();
            // As the samplers take an output: DDIM in both of its predictions, and Euler's flow.
            let (scaled, away) = match name {
                "tiny-sd1" => (1.0 / level.signal, level.noise / level.signal),
                "tiny-sd2" => (level.signal, level.noise),
                _ => (1.0, level.noise),
            };
            let back = ((noised * scaled).unwrap() - (target * away).unwrap()).unwrap();
            let off = (back - latent).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(off.iter().all(|off| *off < 1e-4), "{name}: {off:?}");
        }
    }

    #[test]
    fn the_window_is_the_best_place_within_the_image() {
        let grid = Grid::new(16, 32);
        let mut map = vec![-1.0; grid.cells()];
        // 5 cells high and 10 wide, in the lower right corner.
        for row in 11..16 {
            map[row * 32 + 22..row * 32 + 32].fill(3.0);
        }
        assert_eq!(highest_window(&map, grid), 3.0);
        assert_eq!(highest_window(&[2.0], Grid::new(1, 1)), 2.0);
        assert_eq!(highest_window(&[-2.0; 4], Grid::new(2, 2)), -2.0);
    }
}
