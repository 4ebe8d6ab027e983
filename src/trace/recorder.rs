//! The recorder: an observer that keeps sums over the steps and, when asked, a map a step.

use super::ties::TiesSum;
use super::{Attends, AttentionObserver, Buffer, Site, Step, Ties};
use crate::Result;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Cells of the site grid that are transposed and added together: with 77 keys they are 20 KB, which stays in cache.
const BLOCK: usize = 64;

/// How far a row of a finished sum may be from the number of steps, as a share of it.
const ROW_TOLERANCE: f32 = 1e-3;

/// The two halves of the guidance batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Half {
    /// The rows that were given the prompt.
    Conditional,
    /// The rows that were given the negative (or empty) prompt.
    Unconditional,
}

/// What a [`Recorder`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// `T` of the prompt: start token, prompt tokens, first end token, of every chunk of a long one. All other keys are summed as
    /// padding: those from `T` on, or as [`Recorder::with_keys`] says.
    pub tokens: usize,
    /// `T` of the negative prompt when the unconditional half is wanted too.
    pub unconditional_tokens: Option<usize>,
    /// Images in the batch.
    pub images: usize,
    /// Whether to keep a head-mean map a step (f16) beside the sums.
    pub per_step: bool,
}

/// Watches the cross-attention of a run and keeps what a trace file holds, for every image of the batch.
///
/// Memory is `heads * (T + 1) * height * width` floats a site and image, whatever the number of steps, and half of one
/// head's share of that a step for the per-step maps.
#[derive(Debug)]
pub struct Recorder {
    plan: Plan,
    sites: Vec<Site>,
    index: HashMap<String, usize>,
    step: Option<Step>,
    timesteps: Vec<f64>,
    /// `[image][site]`
    conditional: Vec<Vec<Sums>>,
    /// `[image][site]`; no images when the unconditional half is not wanted.
    unconditional: Vec<Vec<Sums>>,
    /// `[image][site]`; no images without probes.
    probes: Vec<Vec<Sums>>,
    /// Tokens of all probes.
    probe_tokens: usize,
    /// Self-attention, a grid each; empty unless it was asked for.
    ties: Vec<TiesSum>,
}

impl Recorder {
    /// A recorder of the prompt sites among `sites` (self-attention sites are left alone).
    pub fn new(sites: &[Site], plan: Plan) -> Self {
        let sites: Vec<Site> = sites.iter().filter(|site| site.attends == Attends::Prompt).cloned().collect();
        let index = sites.iter().enumerate().map(|(index, site)| (site.path.clone(), index)).collect();
        let image = |tokens| sites.iter().map(|site| Sums::new(site, tokens + 1, plan.per_step)).collect::<Vec<_>>();
        let conditional = (0..plan.images).map(|_| image(plan.tokens)).collect();
        let unconditional = match plan.unconditional_tokens {
            Some(tokens) => (0..plan.images).map(|_| image(tokens)).collect(),
            None => Vec::new(),
        };
        Self {
            plan,
            sites,
            index,
            step: None,
            timesteps: Vec::new(),
            conditional,
            unconditional,
            probes: Vec::new(),
            probe_tokens: 0,
            ties: Vec::new(),
        }
    }

    /// The recorder of a run that is asked about probes of `tokens` tokens in all; 0 leaves it as it is.
    pub fn with_probes(mut self, tokens: usize) -> Self {
        let image = |_| self.sites.iter().map(|site| Sums::new(site, tokens, self.plan.per_step)).collect();
        self.probes = if tokens > 0 { (0..self.plan.images).map(image).collect() } else { Vec::new() };
        self.probe_tokens = tokens;
        self
    }

    /// The recorder of prompts in several chunks: the runs of keys that are tokens of the prompt, and of the negative prompt where its
    /// half is wanted, in ascending order. All other keys are padding.
    ///
    /// # Panics
    /// When the runs are not as many tokens as planned.
    pub fn with_keys(mut self, conditional: &[Range<usize>], unconditional: &[Range<usize>]) -> Self {
        for (half, keys) in [(&mut self.conditional, conditional), (&mut self.unconditional, unconditional)] {
            let keys: Arc<[Range<usize>]> = keys.into();
            for sums in half.iter_mut().flatten() {
                let tokens = keys.iter().map(ExactSizeIterator::len).sum::<usize>();
                assert_eq!(sums.channels, tokens + 1, "tokens of {keys:?}");
                sums.keys = Arc::clone(&keys);
            }
        }
        self
    }

    /// A recorder that keeps the self-attention of `sites` too.
    pub fn with_ties(self, sites: &[Site]) -> Self {
        Self { ties: TiesSum::of(sites, self.plan.images), ..self }
    }

    /// Ends the recording: one [`Recording`] an image of the batch, in batch order. The unconditional half is missing
    /// where the run was not guided.
    ///
    /// # Errors
    /// When a site was not seen at every step, or its rows do not sum to the number of steps (the self-check).
    pub fn finish(self) -> Result<Vec<Recording>> {
        let steps = self.timesteps.len();
        let Self { sites, timesteps, conditional, unconditional, probes, probe_tokens, ties, plan, .. } = self;
        let mut tied = vec![Vec::new(); plan.images];
        for sum in ties {
            let images = sum.finish(steps).map_err(bug)?;
            tied.iter_mut().zip(images).for_each(|(tied, ties)| tied.push(ties));
        }
        let maps = |sums: Vec<Sums>, check: Check| -> Result<Vec<SiteMaps>> {
            sites.iter().zip(sums).map(|(site, sums)| sums.finish(site, steps, check)).collect()
        };
        let finish = |images: Vec<Vec<Sums>>, tokens| -> Result<Vec<HalfMaps>> {
            let image = |sums: Vec<Sums>| Ok(HalfMaps { tokens, sites: maps(sums, check_rows)? });
            images.into_iter().map(image).collect()
        };
        let unguided = unconditional.iter().flatten().all(|sums| sums.observed == 0);
        let conditional = finish(conditional, plan.tokens)?;
        let unconditional = match plan.unconditional_tokens {
            Some(tokens) if !unguided => finish(unconditional, tokens)?.into_iter().map(Some).collect(),
            _ => vec![None; plan.images],
        };
        let probes = probes
            .into_iter()
            .map(|sums| Ok(Some(ProbeMaps { tokens: probe_tokens, sites: maps(sums, check_probabilities)? })));
        let mut probes = probes.collect::<Result<Vec<_>>>()?;
        probes.resize(plan.images, None);
        let halves = conditional.into_iter().zip(unconditional).zip(probes).zip(tied);
        let recordings = halves.map(|(((conditional, unconditional), probes), ties)| Recording {
            sites: sites.clone(),
            timesteps: timesteps.clone(),
            conditional,
            unconditional,
            probes,
            ties,
            text: Vec::new(),
            text_2: Vec::new(),
        });
        Ok(recordings.collect())
    }
}

impl AttentionObserver for Recorder {
    fn wants(&self, site: &Site) -> bool {
        match site.attends {
            Attends::Prompt => self.index.contains_key(&site.path),
            Attends::Itself => self.ties.iter().any(|ties| ties.is_of(site)),
        }
    }

    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        let Some(step) = self.step else { return Err(bug(format!("{}: observed before a step began", site.path))) };
        if site.attends == Attends::Itself {
            let Some(ties) = self.ties.iter_mut().find(|ties| ties.is_of(site)) else { return Ok(()) };
            let (cells, first) = (site.height * site.width, step.conditional_rows());
            if probabilities.dims() != [first.end, site.heads, cells, cells] {
                let shape = probabilities.dims();
                return Err(bug(format!("{}: probabilities of shape {shape:?} do not fit the site", site.path)));
            }
            return with_f32(probabilities, |values| ties.add(values, site.heads, first.start));
        }
        let Some(&index) = self.index.get(&site.path) else { return Ok(()) };
        let known = &self.sites[index];
        let (batch, heads, pixels, keys) = probabilities.dims4()?;
        let rows = if step.guided { 2 * self.plan.images } else { self.plan.images };
        let sums = [self.conditional.first(), self.unconditional.first()].into_iter().flatten();
        let tokens = sums.filter_map(|sites| sites[index].keys.last()).map(|run| run.end).max().unwrap_or(0);
        if (batch, heads, pixels) != (rows, known.heads, known.height * known.width) || keys < tokens {
            let shape = (batch, heads, pixels, keys);
            return Err(bug(format!("{}: probabilities of shape {shape:?} do not fit the site", site.path)));
        }
        with_f32(probabilities, |values| {
            let row = |row: usize| &values[row * heads * pixels * keys..][..heads * pixels * keys];
            for (image, conditional) in step.conditional_rows().enumerate() {
                self.conditional[image][index].add(row(conditional), keys, step.count);
                if step.guided && !self.unconditional.is_empty() {
                    self.unconditional[image][index].add(row(image), keys, step.count);
                }
            }
        })
    }

    fn observe_probes(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        let (Some(&index), false) = (self.index.get(&site.path), self.probes.is_empty()) else { return Ok(()) };
        let Some(step) = self.step else { return Err(bug(format!("{}: probed before a step began", site.path))) };
        let known = &self.sites[index];
        let shape = (self.plan.images, known.heads, known.height * known.width, self.probe_tokens);
        if probabilities.dims4()? != shape {
            let found = probabilities.dims();
            return Err(bug(format!("{}: probes of shape {found:?} do not fit the site's {shape:?}", site.path)));
        }
        with_f32(probabilities, |values| {
            let image = values.len() / self.plan.images.max(1);
            for (sums, values) in self.probes.iter_mut().zip(values.chunks_exact(image.max(1))) {
                sums[index].add(values, self.probe_tokens, step.count);
            }
        })
    }

    fn begin_step(&mut self, step: &Step) -> Result<()> {
        if step.images != self.plan.images {
            return Err(bug(format!("{} images in the step, {} planned", step.images, self.plan.images)));
        }
        self.step = Some(*step);
        self.timesteps.push(step.timestep);
        Ok(())
    }
}

/// The numbers of one image of a finished recording.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The recorded sites in network order.
    pub sites: Vec<Site>,
    /// The scheduler's timestep of every UNet call.
    pub timesteps: Vec<f64>,
    /// The half that was given the prompt.
    pub conditional: HalfMaps,
    /// The half that was given the negative prompt, when it was asked for and the run was guided.
    pub unconditional: Option<HalfMaps>,
    /// What words that are not in the prompt were given, where the run was asked about any.
    pub probes: Option<ProbeMaps>,
    /// What each place is tied to by self-attention, a grid each, the coarsest first; empty unless it was asked for.
    pub ties: Vec<Ties>,
    /// The text encoder's own self-attention, a layer each; empty when it was not kept.
    pub text: Vec<TextAttention>,
    /// The same of SDXL's second text encoder, among its own tokens ([`EncoderInfo`](super::EncoderInfo)).
    pub text_2: Vec<TextAttention>,
}

/// What was recorded of one half of the batch.
#[derive(Debug, Clone)]
pub struct HalfMaps {
    /// `T`: tokens of this half's prompt from the start token to the first end token.
    pub tokens: usize,
    /// One entry a site, in the order of [`Recording::sites`].
    pub sites: Vec<SiteMaps>,
}

/// What was recorded of the probes: how the conditional half's queries would attend to each of their tokens beside the prompt's.
#[derive(Debug, Clone)]
pub struct ProbeMaps {
    /// `P`: tokens of all probes, one probe after the other.
    pub tokens: usize,
    /// One entry a site, in the order of [`Recording::sites`], of `P` channels.
    pub sites: Vec<SiteMaps>,
}

/// What was recorded at one site: `T + 1` channels of a half, the last of them all padding, or `P` channels of the probes.
#[derive(Debug, Clone)]
pub struct SiteMaps {
    /// Probabilities summed over the steps, `[heads, channels, height, width]`.
    pub sum: Buffer<f32>,
    /// Probabilities averaged over the heads, `[steps, channels, height, width]`, when they were kept.
    pub steps: Option<Buffer<f16>>,
}

/// The self-attention of one layer of the text encoder among the prompt's `T` tokens. It is causal, so that the rows still
/// sum to 1 without the padding; tokens of different chunks do not see each other.
#[derive(Debug, Clone)]
pub struct TextAttention {
    /// Attention heads.
    pub heads: usize,
    /// Probabilities `[heads, T (query), T (key)]`.
    pub probabilities: Buffer<f16>,
}

impl TextAttention {
    /// A layer's probabilities `[chunks, heads, length, length]` (any float type), of which each chunk's first `tokens` are kept.
    ///
    /// # Errors
    /// When the tensor has another rank, another number of chunks, is not square, or is shorter than a chunk's tokens.
    pub fn from_chunks(probabilities: &Tensor, tokens: &[usize]) -> Result<Self> {
        let (chunks, heads, _, _) = probabilities.dims4()?;
        if chunks != tokens.len() {
            return Err(bug(format!("text attention of {chunks} chunks for a prompt of {}", tokens.len())));
        }
        let all: usize = tokens.iter().sum();
        let mut joined = vec![f16::ZERO; heads * all * all];
        let mut first = 0;
        for (chunk, &count) in tokens.iter().enumerate() {
            let part = probabilities.get(chunk)?.narrow(1, 0, count)?.narrow(2, 0, count)?.to_dtype(DType::F16)?;
            let part = part.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f16>()?;
            for (row, values) in part.chunks_exact(count).enumerate() {
                let (head, query) = (row / count, first + row % count);
                joined[(head * all + query) * all + first..][..count].copy_from_slice(values);
            }
            first += count;
        }
        Ok(Self { heads, probabilities: joined.into() })
    }
}

/// The running sums of one site, in blocks of cells so that threads write apart from each other:
/// `[blocks][heads][channels][block]`. The last channel takes all other keys together.
#[derive(Debug)]
struct Sums {
    heads: usize,
    channels: usize,
    /// The keys of all channels but the last.
    keys: Arc<[Range<usize>]>,
    pixels: usize,
    block: usize,
    sum: Vec<f32>,
    /// `[steps][blocks][channels][block]`
    steps: Option<Vec<f16>>,
    observed: usize,
}

impl Sums {
    fn new(site: &Site, channels: usize, per_step: bool) -> Self {
        let pixels = site.height * site.width;
        let block = BLOCK.min(pixels).max(1);
        let sum = vec![0.0; pixels.div_ceil(block) * site.heads * channels * block];
        let (keys, steps) = (std::iter::once(0..channels - 1).collect(), per_step.then(Vec::new));
        Self { heads: site.heads, channels, keys, pixels, block, sum, steps, observed: 0 }
    }

    /// Adds one step's probabilities `[heads, pixels, keys]`; `count` steps are expected in all.
    fn add(&mut self, values: &[f32], keys: usize, count: usize) {
        self.observed += 1;
        let (channels, block) = (self.channels, self.block);
        let head_len = channels * block;
        let blocks = self.sum.par_chunks_mut(self.heads * head_len).enumerate();
        let Self { heads, pixels, .. } = *self;
        let tokens = &*self.keys;
        let add_block = |index: usize, sum: &mut [f32], mean: &mut [f32]| {
            let cells = index * block..(index * block + block).min(pixels);
            for head in 0..heads {
                let values = &values[(head * pixels + cells.start) * keys..(head * pixels + cells.end) * keys];
                add_transposed(values, keys, tokens, block, &mut sum[head * head_len..][..head_len], mean);
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
    fn finish(self, site: &Site, steps: usize, check: Check) -> Result<SiteMaps> {
        if self.observed != steps {
            return Err(bug(format!("{}: observed at {} of {steps} steps", site.path, self.observed)));
        }
        let channels = self.channels;
        let sum = unblock(&self.sum, self.heads * channels, self.pixels, self.block);
        check(&sum, self.heads, channels, self.pixels, steps)
            .map_err(|reason| bug(format!("{}: {reason}", site.path)))?;
        let block_len = channels * self.block;
        let step_len = self.pixels.div_ceil(self.block) * block_len;
        let maps = self.steps.map(|maps| {
            let steps = maps.chunks(step_len).flat_map(|step| unblock(step, channels, self.pixels, self.block));
            steps.collect::<Vec<f16>>().into()
        });
        Ok(SiteMaps { sum: sum.into(), steps: maps })
    }
}

/// Adds `values` `[cells, keys]` to `sum` and to `mean` `[tokens + 1, block]`, transposed; keys outside of the runs of `tokens` go to
/// the last channel together.
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
        let mut value = 0.0;
        for (index, run) in tokens.iter().enumerate() {
            let next = tokens.get(index + 1).map_or(keys, |next| next.start);
            // Eight partial sums: a single one would wait for each addition in turn.
            let mut lanes = [0.0f32; 8];
            let mut chunks = row[run.end..next].chunks_exact(8);
            for chunk in &mut chunks {
                lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value);
            }
            value += lanes.iter().sum::<f32>() + chunks.remainder().iter().sum::<f32>();
        }
        *sum += value;
        *mean += value;
    }
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
type Check = fn(&[f32], usize, usize, usize, usize) -> Result<(), String>;

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

/// Calls `body` with the tensor's values in row-major order, without a copy when it is a contiguous f32 tensor on the CPU.
fn with_f32(tensor: &Tensor, body: impl FnOnce(&[f32])) -> Result<()> {
    let plain;
    let tensor = if tensor.device().is_cpu() && tensor.dtype() == DType::F32 && tensor.is_contiguous() {
        tensor
    } else {
        plain = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        &plain
    };
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => body(&values[layout.start_offset()..][..tensor.elem_count()]),
        _ => return Err(bug("probabilities are not f32 on the CPU".into())),
    }
    Ok(())
}

fn bug(message: String) -> crate::Error {
    candle_core::Error::Msg(message).into()
}
