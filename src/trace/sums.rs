//! The running sums of a site over the steps, and what they must keep to at the end.

use super::Site;
use super::recording::SiteMaps;
use crate::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Cells of the site grid that are transposed and added together: with 77 keys they are 20 KB,
/// which stays in cache.
const BLOCK: usize = 64;

/// How far a row of a finished sum may be from the number of steps, as a share of it.
const ROW_TOLERANCE: f32 = 1e-3;

/// The running sums of one site, in blocks of cells so that threads write apart from each other:
/// `[blocks][heads][channels][block]`. The channel behind the tokens takes all other keys together.
/// In joint attention another follows it: the image, which takes the rest of each row up to 1.
#[derive(Debug)]
pub(super) struct Sums {
    heads: usize,
    pub(super) channels: usize,
    /// The keys of the tokens' channels, which come first.
    pub(super) keys: Arc<[Range<usize>]>,
    /// Whether the last channel is the image.
    joint: bool,
    pixels: usize,
    block: usize,
    sum: Vec<f32>,
    /// `[steps][blocks][channels][block]`
    steps: Option<Vec<f16>>,
    /// Steps added.
    pub(super) observed: usize,
}

impl Sums {
    /// The sums of a prompt of `tokens` tokens.
    pub(super) fn new(site: &Site, tokens: usize, per_step: bool) -> Self {
        Self::with_channels(site, site.channels(tokens), tokens, per_step)
    }

    /// The sums of probes, of `tokens` tokens in all.
    pub(super) fn of_probes(site: &Site, tokens: usize, per_step: bool) -> Self {
        Self::with_channels(site, tokens, tokens.saturating_sub(1), per_step)
    }

    fn with_channels(site: &Site, channels: usize, tokens: usize, per_step: bool) -> Self {
        let pixels = site.height * site.width;
        let block = BLOCK.min(pixels).max(1);
        let sum = vec![0.0; pixels.div_ceil(block) * site.heads * channels * block];
        let (keys, steps) = (std::iter::once(0..tokens).collect(), per_step.then(Vec::new));
        let joint = channels == tokens + 2;
        Self { heads: site.heads, channels, keys, joint, pixels, block, sum, steps, observed: 0 }
    }

    /// Adds one step's probabilities `[heads, pixels, keys]`; `count` steps are expected in all.
    pub(super) fn add(&mut self, values: &[f32], keys: usize, count: usize) {
        self.observed += 1;
        let (channels, block) = (self.channels, self.block);
        let head_len = channels * block;
        let blocks = self.sum.par_chunks_mut(self.heads * head_len).enumerate();
        let Self { heads, pixels, joint, .. } = *self;
        let tokens = &*self.keys;
        let add_block = |index: usize, sum: &mut [f32], mean: &mut [f32]| {
            let cells = index * block..(index * block + block).min(pixels);
            for head in 0..heads {
                let values = &values[(head * pixels + cells.start) * keys..(head * pixels + cells.end) * keys];
                let mut sum = &mut sum[head * head_len..][..head_len];
                let mut mean = &mut mean[..];
                if joint {
                    let image;
                    let image_mean;
                    (sum, image) = sum.split_at_mut(head_len - block);
                    (mean, image_mean) = mean.split_at_mut(head_len - block);
                    add_rests(values, keys, image, image_mean);
                }
                add_transposed(values, keys, tokens, block, sum, mean);
            }
        };
        match &mut self.steps {
            None => blocks.for_each_init(|| vec![0.0; head_len], |mean, (index, sum)| add_block(index, sum, mean)),
            Some(steps) => {
                let (start, step_len) = (steps.len(), pixels.div_ceil(block) * head_len);
                if start == 0 {
                    steps.reserve_exact(step_len * count);
                }
                steps.resize(start + step_len, f16::ZERO);
                blocks.zip(steps[start..].par_chunks_mut(head_len)).for_each_init(
                    || vec![0.0; head_len],
                    |mean, ((index, sum), step)| {
                        mean.fill(0.0);
                        add_block(index, sum, mean);
                        mean.iter_mut().for_each(|value| *value /= heads as f32);
                        step.convert_from_f32_slice(mean);
                    },
                );
            }
        }
    }

    /// Puts the blocks in the order of the trace file and checks the sums.
    pub(super) fn finish(self, site: &Site, steps: usize, check: Check) -> Result<SiteMaps> {
        if self.observed != steps {
            return Err(Error::bug(format!("{}: observed at {} of {steps} steps", site.path, self.observed)));
        }
        let channels = self.channels;
        let sum = unblock(&self.sum, self.heads * channels, self.pixels, self.block);
        if sum.iter().any(|value| value.is_nan()) {
            return Err(Error::NotANumber { site: site.path.clone() });
        }
        check(&sum, self.heads, channels, self.pixels, steps)
            .map_err(|reason| Error::bug(format!("{}: {reason}", site.path)))?;
        let block_len = channels * self.block;
        let step_len = self.pixels.div_ceil(self.block) * block_len;
        let maps = self.steps.map(|maps| {
            let steps = maps.chunks(step_len).flat_map(|step| unblock(step, channels, self.pixels, self.block));
            steps.collect::<Vec<f16>>().into()
        });
        Ok(SiteMaps { sum: sum.into(), steps: maps })
    }
}

/// Adds `values` `[cells, keys]`, transposed, to `sum` and to `mean` `[tokens + 1, block]`. Keys
/// outside of the runs of `tokens` go to the last channel together.
fn add_transposed(
    values: &[f32],
    keys: usize,
    tokens: &[Range<usize>],
    block: usize,
    sum: &mut [f32],
    mean: &mut [f32],
) {
    let padding = sum.len() - block;
    let (sum, padding_sum) = sum.split_at_mut(padding);
    let (mean, padding_mean) = mean.split_at_mut(padding);
    let channels = sum.chunks_exact_mut(block).zip(mean.chunks_exact_mut(block));
    for (token, (sum, mean)) in tokens.iter().cloned().flatten().zip(channels) {
        for ((row, sum), mean) in values.chunks_exact(keys).zip(sum).zip(mean) {
            let value = row[token];
            *sum += value;
            *mean += value;
        }
    }
    for ((row, sum), mean) in values.chunks_exact(keys).zip(padding_sum).zip(padding_mean) {
        let mut value = total(&row[..tokens.first().map_or(0, |run| run.start)]);
        for (index, run) in tokens.iter().enumerate() {
            let next = tokens.get(index + 1).map_or(keys, |next| next.start);
            value += total(&row[run.end..next]);
        }
        *sum += value;
        *mean += value;
    }
}

/// Adds what each row of `values` `[cells, keys]` lacks of 1 to `sum` and to `mean` `[block]`.
fn add_rests(values: &[f32], keys: usize, sum: &mut [f32], mean: &mut [f32]) {
    for ((row, sum), mean) in values.chunks_exact(keys).zip(sum).zip(mean) {
        let rest = (1.0 - total(row)).max(0.0);
        *sum += rest;
        *mean += rest;
    }
}

/// The sum of `values`, in eight partial sums: a single one would wait for each addition in turn.
fn total(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let mut chunks = values.chunks_exact(8);
    for chunk in &mut chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value);
    }
    lanes.iter().sum::<f32>() + chunks.remainder().iter().sum::<f32>()
}

/// `[blocks][channels][block]` to `[channels][pixels]`.
fn unblock<T: Copy + Default>(blocked: &[T], channels: usize, pixels: usize, block: usize) -> Vec<T> {
    let mut flat = vec![T::default(); channels * pixels];
    for (index, blocked) in blocked.chunks_exact(channels * block).enumerate() {
        let cells = index * block..(index * block + block).min(pixels);
        for (channel, values) in blocked.chunks_exact(block).enumerate() {
            flat[channel * pixels + cells.start..channel * pixels + cells.end].copy_from_slice(&values[..cells.len()]);
        }
    }
    flat
}

/// What a finished sum `[heads, channels, pixels]` over some steps must keep to.
pub(super) type Check = fn(&[f32], usize, usize, usize, usize) -> Result<(), String>;

/// Whether every row of `sum` `[heads, channels, pixels]` adds up to the number of steps.
pub(super) fn check_rows(
    sum: &[f32],
    heads: usize,
    channels: usize,
    pixels: usize,
    steps: usize,
) -> Result<(), String> {
    let tolerance = ROW_TOLERANCE * steps.max(1) as f32;
    let mut rows = vec![0.0f32; pixels];
    for head in 0..heads {
        rows.fill(0.0);
        for channel in sum[head * channels * pixels..].chunks_exact(pixels.max(1)).take(channels) {
            rows.iter_mut().zip(channel).for_each(|(row, value)| *row += value);
        }
        let off = |row: &f32| row.is_nan() || (row - steps as f32).abs() > tolerance;
        if let Some(row) = rows.iter().copied().find(off) {
            return Err(format!("a row of head {head} sums to {row}, not to the number of steps {steps}"));
        }
    }
    Ok(())
}

/// Whether every value of `sum` is what probabilities of `steps` steps can add up to.
pub(super) fn check_probabilities(sum: &[f32], _: usize, _: usize, _: usize, steps: usize) -> Result<(), String> {
    let most = steps as f32 * (1.0 + ROW_TOLERANCE);
    match sum.iter().find(|value| !(0.0..=most).contains(*value)) {
        Some(value) => Err(format!("a probe's sum over {steps} steps is {value}")),
        None => Ok(()),
    }
}

/// Whether every value is a probability, with what rounding adds to one.
pub(super) fn check_shares(values: &[f16]) -> Result<(), String> {
    // Floats of one sign are in the order of their bits, and NaN lies beyond the largest.
    let most = f16::from_f32(1.0 + ROW_TOLERANCE).max(f16::from_bits(f16::ONE.to_bits() + 1)).to_bits();
    match values.iter().find(|value| value.to_bits() > most && value.to_bits() != f16::NEG_ZERO.to_bits()) {
        Some(value) => Err(format!("{value} is no probability")),
        None => Ok(()),
    }
}
