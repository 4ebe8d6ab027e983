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

/// Timesteps of training that the picture is noised to, on latents of at most [`COARSE`] cells a
/// side: where a thing is told from others. ACCURACY.md has how these and the other numbers here
/// were chosen.
const LEVELS: [usize; 4] = [400, 300, 200, 100];

/// The same on finer latents, whose noise hides less at a timestep. (Li et al., 2023, found
/// captions told apart best near 500 on Stable Diffusion.) These were measured on no released
/// weights.
const LEVELS_FINE: [usize; 4] = [700, 600, 500, 400];

/// The longest short side of a latent, in cells, that [`LEVELS`] are for.
const COARSE: usize = 32;

/// Noises of each level; one alone leaves much to chance.
const NOISES: u64 = 3;

/// Side of the window that the thing is looked for in, as a share of the image's sides.
const WINDOW: f64 = 0.1875;

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
            let ratios = self.error_ratios(&latent, &context, prompts.len())?;
            let (.., height, width) = latent.dims4()?;
            let grid = Grid::new(height, width);
            let sighting = |(thing, ratios): (&String, Vec<f64>)| Sighting {
                thing: thing.clone(),
                gain: gain(highest_window(&ratios, grid)),
            };
            found.extend(some.iter().zip(ratios).map(sighting));
        }
        Ok(found)
    }

    /// For each but the first of `rows` captions in `context`, a map `[h, w]`: the logarithm of how
    /// many times higher the error of the prediction is with the first caption. Errors are averaged
    /// over levels and noises, each in shares of the first's mean over the image.
    fn error_ratios(&self, latent: &Tensor, context: &PreparedPrompt, rows: usize) -> Result<Vec<Vec<f64>>> {
        let (.., height, width) = latent.dims4()?;
        let mut sums = vec![vec![0.0; height * width]; rows];
        let levels = if height.min(width) > COARSE { LEVELS_FINE } else { LEVELS };
        for level in levels {
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
                let Some(without) = errors.first() else { continue };
                let mean = without.iter().sum::<f64>() / without.len().max(1) as f64;
                let weight = if mean > 0.0 { 1.0 / mean } else { 0.0 };
                for (sum, error) in sums.iter_mut().zip(&errors) {
                    sum.iter_mut().zip(error).for_each(|(sum, error)| *sum += weight * error);
                }
            }
        }
        let without = sums.remove(0);
        let ratio = |(without, with): (&f64, &f64)| match *without > 0.0 && *with > 0.0 {
            true => (without / with).ln(),
            false => 0.0,
        };
        Ok(sums.iter().map(|with| without.iter().zip(with).map(ratio).collect()).collect())
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

/// By how much an error is lower whose ratio has this logarithm.
fn gain(ratio: f64) -> f32 {
    (1.0 - (-ratio).exp()) as f32
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
        // 3 cells high and 6 wide, in the lower right corner.
        for row in 13..16 {
            map[row * 32 + 26..row * 32 + 32].fill(3.0);
        }
        assert_eq!(highest_window(&map, grid), 3.0);
        assert_eq!(highest_window(&[2.0], Grid::new(1, 1)), 2.0);
        assert_eq!(highest_window(&[-2.0; 4], Grid::new(2, 2)), -2.0);
        // An error of a half is lower by a half, one of twice as much higher by all of it.
        assert!((gain(2f64.ln()) - 0.5).abs() < 1e-6 && (gain(-(2f64.ln())) + 1.0).abs() < 1e-6);
    }
}
