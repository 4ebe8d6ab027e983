//! The maps of a run's words while it goes on: the mean of the steps so far, as the finished maps
//! are made.

use crate::Result;
use crate::heatmap::{Aggregate, Competition, Filter, Heatmaps, Resampler};
use crate::prompt::Prompt;
use crate::trace::{AttentionObserver, By, Grid, PromptInfo, Site, Step, TokenKind};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::cell::RefCell;

/// An observer that keeps what the words' maps are made of.
#[derive(Debug)]
pub(super) struct Live {
    how: Aggregate,
    latent: Grid,
    info: PromptInfo,
    /// The key of each token in cross-attention.
    keys: Vec<usize>,
    /// The sites that go in, each with its sums over the steps, `[tokens, height * width]`.
    sites: Vec<(Site, Vec<f32>)>,
    step: Option<Step>,
    steps: usize,
}

impl Live {
    /// Of a run of `prompt`, whose words are as `by` says, with these `sites`, of which `how` takes
    /// some.
    ///
    /// # Errors
    /// As [`Aggregate::choose`].
    pub fn new(prompt: &Prompt, by: By, sites: &[Site], latent: Grid, how: &Aggregate) -> Result<Self> {
        let chosen = how.choose(sites, latent)?;
        let tokens = prompt.tokens.len();
        let sums = |index: usize| {
            let site: Site = sites[index].clone();
            let sum = vec![0.0; tokens * site.height * site.width];
            (site, sum)
        };
        Ok(Self {
            how: how.clone(),
            latent,
            info: PromptInfo::from(prompt).by(by),
            keys: prompt.tokens.iter().map(|token| token.position).collect(),
            sites: chosen.into_iter().map(sums).collect(),
            step: None,
            steps: 0,
        })
    }

    /// The words' maps so far for a page: the grid, the words' names, and the mean probabilities of
    /// a step.
    pub fn json(&self) -> Value {
        let maps = self.maps();
        let steps = self.steps.max(1) as f32;
        let values: Vec<f32> =
            self.info.words.iter().flat_map(|word| maps.map_of(word)).map(|value| value / steps).collect();
        let labels: Vec<String> = self.info.words.iter().map(|word| word.label()).collect();
        json!({"grid": [self.latent.height, self.latent.width], "words": labels, "maps": map_bytes(&values)})
    }

    fn maps(&self) -> Heatmaps {
        let (tokens, cells) = (self.keys.len(), self.latent.cells());
        let mut mean = vec![0.0f32; tokens * cells];
        for (site, sum) in &self.sites {
            let resampler = Resampler::new(Grid::new(site.height, site.width), self.latent, Filter::Bicubic);
            let maps = sum.chunks_exact((site.height * site.width).max(1));
            for (mean, map) in mean.chunks_exact_mut(cells.max(1)).zip(maps) {
                let large = resampler.resize(map);
                mean.iter_mut().zip(large).for_each(|(mean, value)| *mean += value.max(0.0) / self.sites.len() as f32);
            }
        }
        let takes_part = self.info.tokens.iter().map(|token| token.kind == TokenKind::Text).collect();
        Heatmaps {
            grid: self.latent,
            steps: self.steps,
            competition: self.how.compete.map(|power| Competition::new(power, &mean, self.latent, takes_part)),
            tokens: mean,
            shares: vec![0.0; tokens + 1],
            of_tokens: self.how.of_tokens,
            ..Heatmaps::default()
        }
    }
}

/// The observer of a run that is looked at while it goes on.
pub(super) struct Watching<'a>(pub &'a RefCell<Live>);

impl AttentionObserver for Watching<'_> {
    fn wants(&self, site: &Site) -> bool {
        self.0.borrow().sites.iter().any(|(wanted, _)| wanted.path == site.path)
    }

    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        let live = &mut *self.0.borrow_mut();
        let Some(step) = live.step else { return Ok(()) };
        let Some((_, sum)) = live.sites.iter_mut().find(|(wanted, _)| wanted.path == site.path) else { return Ok(()) };
        let rows = step.conditional_rows();
        // One image: [heads, places, keys], of which the mean over the heads is taken.
        let mean = probabilities.narrow(0, rows.start, 1)?.squeeze(0)?.mean(0)?;
        let (places, keys) = mean.dims2()?;
        let mean = mean.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        for (sum, &key) in sum.chunks_exact_mut(places.max(1)).zip(&live.keys).filter(|(_, key)| **key < keys) {
            sum.iter_mut().zip(mean[key..].iter().step_by(keys)).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    fn begin_step(&mut self, step: &Step) -> Result<()> {
        let live = &mut *self.0.borrow_mut();
        live.steps = step.index + 1;
        live.step = Some(*step);
        Ok(())
    }
}

/// Numbers for a page: 32-bit floats, the lowest byte first, in base64.
pub(super) fn map_bytes(values: &[f32]) -> String {
    BASE64.encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}
