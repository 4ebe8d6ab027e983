//! Whether maps depend on what was learnt: they must fall apart when the weights of cross-attention
//! are drawn anew.
//!
//! The cascading randomisation test of Adebayo et al., *Sanity Checks for Saliency Maps* (2018).
//! From the output of the network back to its input, block after block loses its weights and stays
//! without them. A map that stays the same shows the picture, not the model.

use super::causal::{Row, changes};
use super::scores::{TOP, iou, spearman, top};
use crate::heatmap::{Aggregate, aggregate};
use crate::pipeline::{Options, Pipeline};
use crate::prompt::Prompt;
use crate::scheduler::TorchGenerator;
use crate::trace::{Site, Stage, WordInfo};
use crate::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Seed of the random weights.
pub const SEED: u64 = 0;

/// What the test found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sanity {
    /// Seed of the random weights.
    pub seed: u64,
    /// Block after block, from the output back to the input; each has lost its weights in all that
    /// follow too.
    pub levels: Vec<Level>,
}

/// How alike the maps are to those of the untouched network once a block (and all before it in the
/// list) has lost its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// The block, as weight paths begin.
    pub block: String,
    /// The attention maps.
    pub attention: Likeness,
    /// The causal maps.
    pub causal: Likeness,
}

/// Means over the tested words.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Likeness {
    /// Spearman's correlation of all cells, -1 to 1; absent when every map is flat.
    pub spearman: Option<f64>,
    /// IoU of the highest fifths, 0 to 1; two random fifths share 0.11.
    pub iou_top: f64,
}

impl Likeness {
    /// Of `maps` to `originals`, word by word.
    pub fn of(maps: &[Vec<f32>], originals: &[Vec<f32>]) -> Self {
        let pairs = || maps.iter().zip(originals);
        let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        Self {
            spearman: mean(pairs().filter_map(|(map, original)| spearman(map, original)).collect()),
            iou_top: mean(pairs().map(|(map, original)| iou(&top(map, TOP), &top(original, TOP))).collect())
                .unwrap_or(0.0),
        }
    }
}

impl Sanity {
    /// Whether attention and causal maps have fallen apart at the end: their highest fifths share
    /// less than `least`. Attention maps that are the same everywhere do not count.
    pub fn passes(&self, least: f64) -> bool {
        let attention = |level: &Level| if self.is_flat() { 0.0 } else { level.attention.iou_top };
        self.levels.last().is_some_and(|level| attention(level).max(level.causal.iou_top) < least)
    }

    /// Whether the attention maps are the same everywhere, as those of a prompt's only word are
    /// once the words compete.
    fn is_flat(&self) -> bool {
        self.levels.iter().all(|level| level.attention.spearman.is_none())
    }
}

impl Sanity {
    /// What was found, one line per finding; `least` as in [`passes`](Self::passes).
    pub fn sentences(&self, least: f64) -> Vec<String> {
        let says = match (self.passes(least), self.is_flat()) {
            (true, false) => "the maps have fallen apart at the end, as they must",
            (true, true) => {
                "the causal maps have fallen apart at the end, as they must; the attention maps are the same \
                everywhere and tell nothing"
            }
            (false, _) => "THE MAPS DO NOT FALL APART",
        };
        let head = format!(
            "Sanity: with random cross-attention weights, block by block from the output, {says} (likeness to the \
            real maps):"
        );
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_string(), |value| format!("{value:.2}"));
        let line = |level: &Level| {
            let likeness =
                |found: &Likeness| format!("overlap {:.2}, Spearman {}", found.iou_top, number(found.spearman));
            format!("{}: attention {}; causal {}", level.block, likeness(&level.attention), likeness(&level.causal))
        };
        std::iter::once(head).chain(self.levels.iter().map(line)).collect()
    }
}

/// The blocks with `sites`, from the output of the network back to its input: `up_blocks.2`, ...,
/// `mid_block`, ..., `down_blocks.0`.
pub fn blocks(sites: &[Site]) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for site in sites.iter().rev() {
        let names = if site.stage == Stage::Mid { 1 } else { 2 };
        let block = site.path.split('.').take(names).collect::<Vec<_>>().join(".");
        if !blocks.contains(&block) {
            blocks.push(block);
        }
    }
    blocks
}

/// What is looked at with each set of weights.
#[derive(Debug)]
pub struct Looked<'a> {
    /// The run's options.
    pub options: &'a Options,
    /// The prompt.
    pub prompt: &'a Prompt,
    /// The words, each with its cut in `rows`.
    pub words: &'a [WordInfo],
    /// The prompt without each word.
    pub rows: &'a [Row],
    /// `(latent as the scheduler scales it, timestep)` of the tested steps.
    pub steps: &'a [(&'a Tensor, f64)],
    /// How attention maps are made; a window of steps counts for nothing here.
    pub aggregate: &'a Aggregate,
    /// At most so many rows go through the denoiser at once.
    pub batch: usize,
}

impl Looked<'_> {
    /// Attention maps and causal maps of the words.
    fn maps(&self, pipeline: &Pipeline, progress: &mut dyn FnMut() -> ControlFlow<()>) -> Result<[Vec<Vec<f32>>; 2]> {
        let trace = pipeline.observe(self.prompt, self.options, self.steps)?;
        if progress().is_break() {
            return Err(Error::Interrupted);
        }
        let how = Aggregate { steps: None, ..self.aggregate.clone() };
        let maps = aggregate(&trace, &how, self.words)?;
        let attention = (0..self.words.len()).map(|word| maps.word(word).to_vec()).collect();
        let whole = Row::whole(self.prompt);
        let found = changes(pipeline, self.options, &whole, self.rows, self.steps, self.batch, progress)?;
        Ok([attention, found.into_iter().map(|change| change.map).collect()])
    }
}

/// Runs the test; the pipeline's own weights are back in place when it returns.
///
/// # Errors
/// [`Error::Interrupted`] when `progress`, told of every call but those of a trace, which count as
/// one, breaks; those of the networks.
pub fn cascade(
    pipeline: &mut Pipeline,
    looked: &Looked,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Sanity> {
    let [attention, causal] = looked.maps(pipeline, progress)?;
    let mut denoiser = pipeline.denoiser().clone();
    let (.., height, width) = looked.steps.first().map_or(Ok((0, 0, 0, 0)), |(latent, _)| latent.dims4())?;
    let blocks = blocks(&denoiser.sites(height, width));
    let mut generator = TorchGenerator::new(SEED);
    let mut level = |pipeline: &mut Pipeline, block: String| -> Result<Level> {
        denoiser.redraw_cross_attention(&block, &mut |count| generator.randn(&[count]))?;
        let own = pipeline.replace_denoiser(denoiser.clone());
        let maps = looked.maps(pipeline, progress);
        pipeline.replace_denoiser(own);
        let [found, changed] = maps?;
        Ok(Level { block, attention: Likeness::of(&found, &attention), causal: Likeness::of(&changed, &causal) })
    };
    let levels = blocks.into_iter().map(|block| level(pipeline, block)).collect::<Result<_>>()?;
    Ok(Sanity { seed: SEED, levels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_like_themselves_and_unlike_others() {
        let ramp: Vec<f32> = (0..25).map(|cell| cell as f32).collect();
        let falling: Vec<f32> = ramp.iter().rev().copied().collect();
        let same = Likeness::of(std::slice::from_ref(&ramp), std::slice::from_ref(&ramp));
        assert_eq!((same.spearman.map(|value| (value * 1e9).round()), same.iou_top), (Some(1e9), 1.0));
        let other = Likeness::of(&[falling, vec![0.0; 25]], &[ramp.clone(), ramp]);
        assert_eq!((other.spearman.map(|value| (value * 1e9).round()), other.iou_top), (Some(-1e9), 0.0));
    }

    #[test]
    fn maps_that_are_the_same_everywhere_have_nothing_to_lose() {
        let likeness = |spearman, iou_top| Likeness { spearman, iou_top };
        let of = |attention, causal| {
            let level = Level { block: "mid_block".into(), attention, causal };
            Sanity { seed: SEED, levels: vec![level] }
        };
        let flat = of(likeness(None, 1.0), likeness(Some(0.1), 0.1));
        assert!(flat.passes(0.38) && flat.sentences(0.38)[0].contains("the attention maps are the same everywhere"));
        assert!(!of(likeness(None, 1.0), likeness(Some(0.9), 0.9)).passes(0.38));
        assert!(!of(likeness(Some(0.9), 0.9), likeness(Some(0.1), 0.1)).passes(0.38));
    }
}
