//! What GoCA's maps are made of, kept while a run goes on: which runs can, what it takes, and the
//! observer that does.

use std::collections::HashMap;
use std::ops::Range;

use bytesize::ByteSize;
use candle_core::{D, DType, Device, Tensor};
use half::f16;

use super::load::Pipeline;
use super::options::Options;
use crate::argument::{CONCEPTS, KEEP_GOCA, PROBE, SELF_MEMORY};
use crate::heatmap::{GocaSites, GocaStep};
use crate::prompt::Prompt;
use crate::trace::{AttentionKind, AttentionObserver, GocaMaps, Grid, Site, Step};
use crate::{Error, Result};

impl Pipeline {
    /// Bytes of memory that keeping GoCA's maps takes while a run with `options` goes on.
    ///
    /// # Errors
    /// [`Error::Argument`] with the numbers when it is more than `budget`; in joint attention; with
    /// probes, which have no such maps.
    pub fn plan_goca(&self, options: &Options, budget: u64) -> Result<u64> {
        let refuse = |reason: String| Err(Error::argument(KEEP_GOCA, reason));
        let latent = self.latent_grid(options);
        let self_sites = self.denoiser.self_sites(latent.height, latent.width);
        if self.has_joint_attention() || self.goca_sites(latent).is_none() {
            return refuse(format!(
                "GoCA's maps are of a UNet's layers; take a checkpoint of Stable Diffusion 1, 2 or XL, or {CONCEPTS} \
                 for a transformer"
            ));
        }
        if !options.probes.is_empty() {
            return refuse(format!(
                "words that the prompt does not have take no part in GoCA's maps; leave out {PROBE}"
            ));
        }
        let images = options.seeds.len() as u64;
        let rows = if self.guided(options) { 2 * images } else { images };
        let square = |site: &Site| ((site.height * site.width) as u64).pow(2) * 4;
        let ties: u64 = self_sites.iter().map(square).sum();
        let finest = self_sites.iter().map(square).max().unwrap_or(0);
        let formed = self_sites.iter().map(|site| square(site) * site.heads as u64 * rows).max().unwrap_or(0);
        let bytes = images * (ties + finest) + formed;
        if bytes > budget {
            let unit = |bytes: u64| ByteSize(bytes).display().iec();
            let reason = format!(
                "it keeps every layer's self-attention during a step, which takes {:.1}, more than the {:.1} that \
                 {SELF_MEMORY} allows; allow more, or take a smaller size",
                unit(bytes),
                unit(budget)
            );
            return refuse(reason);
        }
        Ok(bytes)
    }

    fn goca_sites(&self, latent: Grid) -> Option<GocaSites> {
        GocaSites::of(&self.denoiser.sites(latent.height, latent.width), latent)
    }

    /// The observer that keeps what GoCA's maps of `prompt` are made of, for `images` images of
    /// this latent grid.
    pub(super) fn goca_recorder(&self, prompt: &Prompt, latent: Grid, images: usize) -> Result<GocaRecorder> {
        let sites = self.denoiser.sites(latent.height, latent.width);
        let Some(plan) = GocaSites::of(&sites, latent) else {
            return Err(Error::argument(KEEP_GOCA, "GoCA's maps are of a UNet's layers"));
        };
        let cells = plan.grid.cells();
        let image = || ImageSums {
            shares: vec![0.0; (prompt.tokens.len() + 1) * cells],
            self_attention: vec![0.0; cells * cells],
            weights: vec![0.0; sites.len()],
        };
        Ok(GocaRecorder {
            keys: prompt.keys(),
            tokens: prompt.tokens.len(),
            kept: (0..images).map(|_| image()).collect(),
            sites,
            plan,
            step: None,
            steps: 0,
            probabilities: HashMap::new(),
            now: Now::default(),
        })
    }
}

/// Sums over the steps of one image.
#[derive(Debug)]
struct ImageSums {
    shares: Vec<f32>,
    self_attention: Vec<f32>,
    weights: Vec<f32>,
}

/// What the step that goes on has given so far, by site: a value per image.
#[derive(Debug, Default)]
struct Now {
    /// `[channels, height, width]`
    maps: HashMap<usize, Vec<Vec<f32>>>,
    /// `[cells, cells]`
    self_attention: HashMap<usize, Vec<Vec<f32>>>,
    /// `[cells, cells]`
    reference: Vec<Vec<f32>>,
}

/// Keeps what GoCA's maps are made of. Memory does not grow with the steps.
#[derive(Debug)]
pub(super) struct GocaRecorder {
    /// The runs of keys that are tokens of the prompt.
    keys: Vec<Range<usize>>,
    tokens: usize,
    /// Those that look at the prompt.
    sites: Vec<Site>,
    plan: GocaSites,
    step: Option<Step>,
    steps: usize,
    /// The prompt's half of a site's probabilities, until its heads are weighted.
    probabilities: HashMap<usize, Tensor>,
    now: Now,
    kept: Vec<ImageSums>,
}

impl GocaRecorder {
    /// What was kept of each image.
    ///
    /// # Errors
    /// When a site was not seen at every step.
    pub(super) fn finish(mut self) -> Result<Vec<GocaMaps>> {
        self.close()?;
        let steps = self.steps.max(1) as f32;
        let (plan, mean) = (self.plan, |values: Vec<f32>| values.into_iter().map(move |value| value / steps));
        let maps = self.kept.into_iter().map(|kept| GocaMaps {
            grid: plan.grid,
            shares: mean(kept.shares).collect::<Vec<_>>().into(),
            self_attention: mean(kept.self_attention).map(f16::from_f32).collect::<Vec<_>>().into(),
            weights: mean(kept.weights).collect(),
        });
        Ok(maps.collect())
    }

    /// Adds the step that has ended to the sums.
    fn close(&mut self) -> Result<()> {
        if self.step.take().is_none() {
            return Ok(());
        }
        self.steps += 1;
        let now = std::mem::take(&mut self.now);
        let of_image = |by_site: &HashMap<usize, Vec<Vec<f32>>>, image: usize| -> Option<Vec<Vec<f32>>> {
            (0..self.sites.len()).map(|site| Some(by_site.get(&site)?.get(image)?.clone())).collect()
        };
        for (image, kept) in self.kept.iter_mut().enumerate() {
            let (maps, ties) = (of_image(&now.maps, image), of_image(&now.self_attention, image));
            let (Some(maps), Some(ties), Some(reference)) = (maps, ties, now.reference.get(image)) else {
                return Err(Error::bug("a layer that GoCA's maps need was not seen"));
            };
            let step = GocaStep { maps: &maps, self_attention: &ties, reference };
            let weights = step.weights(&self.sites, &self.plan);
            let shares = step.shares(&self.sites, &self.plan, &weights);
            kept.shares.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share);
            kept.weights.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight);
            let carriers = self.plan.carriers.len() as f32;
            for &carrier in &self.plan.carriers {
                let tied = kept.self_attention.iter_mut().zip(&ties[carrier]);
                tied.for_each(|(sum, tied)| *sum += tied / carriers);
            }
        }
        Ok(())
    }

    /// The rows of `tensor` that were given the prompt, in f32.
    fn conditional(&self, tensor: &Tensor) -> Result<Tensor> {
        let step = self.step.ok_or_else(|| Error::bug("observed before a step began"))?;
        let rows = step.conditional_rows();
        Ok(tensor.narrow(0, rows.start, rows.len())?.to_dtype(DType::F32)?)
    }

    /// The position of the site of this index, where it is one of them.
    fn position(&self, site: &Site) -> Option<usize> {
        self.sites.iter().position(|own| own.index == site.index)
    }
}

/// A row per image of `[images, ...]`.
fn per_image(tensor: &Tensor) -> Result<Vec<Vec<f32>>> {
    let images = tensor.dim(0)?;
    let of = |image| Ok(tensor.get(image)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?);
    (0..images).map(of).collect()
}

impl AttentionObserver for GocaRecorder {
    fn wants(&self, site: &Site) -> bool {
        site.kind != AttentionKind::Joint && self.position(site).is_some()
    }

    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        let Some(position) = self.position(site) else { return Ok(()) };
        let own = self.conditional(probabilities)?;
        match site.kind {
            AttentionKind::SelfAttention => {
                self.now.self_attention.insert(position, per_image(&own.mean(1)?)?);
            }
            _ => {
                self.probabilities.insert(position, own);
            }
        }
        Ok(())
    }

    fn wants_head_shares(&self, site: &Site) -> bool {
        self.position(site).is_some()
    }

    fn observe_head_shares(&mut self, site: &Site, shares: &Tensor) -> Result<()> {
        let Some(position) = self.position(site) else { return Ok(()) };
        let Some(probabilities) = self.probabilities.remove(&position) else {
            return Err(Error::bug(format!("{}: heads weighted before they were seen", site.path)));
        };
        let weights = self.conditional(shares)?.unsqueeze(D::Minus1)?;
        // [images, keys, cells]
        let by_key = probabilities.broadcast_mul(&weights)?.sum(1)?.transpose(1, 2)?.contiguous()?;
        let (_, keys, cells) = by_key.dims3()?;
        let channels = |values: Vec<f32>| {
            let mut maps = vec![0.0f32; (self.tokens + 1) * cells];
            let tokens: Vec<usize> = self.keys.iter().cloned().flatten().collect();
            for (key, plane) in values.chunks_exact(cells).enumerate().take(keys) {
                let channel = tokens.iter().position(|&token| token == key).unwrap_or(self.tokens);
                let map = &mut maps[channel * cells..][..cells];
                map.iter_mut().zip(plane).for_each(|(sum, value)| *sum += value);
            }
            maps
        };
        let maps = per_image(&by_key)?.into_iter().map(channels).collect();
        self.now.maps.insert(position, maps);
        Ok(())
    }

    fn wants_queries(&self, site: &Site) -> bool {
        self.position(site) == Some(self.plan.reference)
    }

    fn observe_queries(&mut self, _site: &Site, queries: &Tensor, _keys: &Tensor) -> Result<()> {
        let own = self.conditional(queries)?;
        let (images, heads, cells, width) = own.dims4()?;
        let side_by_side = own.transpose(1, 2)?.reshape((images, cells, heads * width))?.contiguous()?;
        let scale = 1.0 / ((heads * width) as f64).sqrt();
        let scores = (side_by_side.matmul(&side_by_side.t()?.contiguous()?)? * scale)?;
        self.now.reference = per_image(&candle_nn::ops::softmax_last_dim(&scores)?)?;
        Ok(())
    }

    fn begin_step(&mut self, step: &Step) -> Result<()> {
        self.close()?;
        self.step = Some(*step);
        Ok(())
    }
}
