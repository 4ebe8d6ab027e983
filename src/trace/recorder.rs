//! The recorder: an observer that keeps sums over the steps and, when asked, a map per step.

use super::concepts::ConceptScores;
use super::recording::{HalfMaps, ProbeMaps, Recording, SiteMaps};
use super::self_attention::SelfAttentionSum;
use super::sums::{Check, Sums, check_probabilities, check_rows};
use super::{AttentionKind, AttentionObserver, Site, Step};
use crate::{Error, Result};
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// What a [`Recorder`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordingPlan {
    /// `T` of the prompt: start token, prompt tokens, first end token, of every chunk of a long
    /// one. All other keys are summed as padding: those from `T` on, or as [`Recorder::with_keys`]
    /// says.
    pub tokens: usize,
    /// `T` of the negative prompt when the unconditional half is wanted too.
    pub unconditional_tokens: Option<usize>,
    /// Images in the batch.
    pub images: usize,
    /// Whether to keep a head-mean map per step (f16) beside the sums.
    pub per_step: bool,
}

/// Watches the attention to the prompt in a run and keeps what a trace file holds, for every image
/// of the batch.
///
/// Memory is `heads * (T + 1) * height * width` f32 per site and image, independent of the step
/// count. Per-step maps add `(T + 1) * height * width` f16 per step.
#[derive(Debug)]
pub struct Recorder {
    plan: RecordingPlan,
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
    /// `[image][site]`, of the text's own queries; no images where they are not asked.
    text_queries: Vec<Vec<Sums>>,
    /// One per image; none without concepts.
    concepts: Vec<ConceptScores>,
    /// Self-attention, one sum per grid; empty unless it was asked for.
    self_attention: Vec<SelfAttentionSum>,
}

impl Recorder {
    /// A recorder of the prompt sites among `sites` (self-attention sites are left alone).
    pub fn new(sites: &[Site], plan: RecordingPlan) -> Self {
        let sees_text = |site: &&Site| site.kind != AttentionKind::SelfAttention;
        let sites: Vec<Site> = sites.iter().filter(sees_text).cloned().collect();
        let index = sites.iter().enumerate().map(|(index, site)| (site.path.clone(), index)).collect();
        let image = |tokens| sites.iter().map(|site| Sums::new(site, tokens, plan.per_step)).collect::<Vec<_>>();
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
            text_queries: Vec::new(),
            concepts: Vec::new(),
            self_attention: Vec::new(),
        }
    }

    /// The recorder of a run that is asked about probes of `tokens` tokens in all; 0 leaves it as
    /// it is.
    pub fn with_probes(mut self, tokens: usize) -> Self {
        let image = |_| self.sites.iter().map(|site| Sums::of_probes(site, tokens, self.plan.per_step)).collect();
        self.probes = if tokens > 0 { (0..self.plan.images).map(image).collect() } else { Vec::new() };
        self.probe_tokens = tokens;
        self
    }

    /// A recorder that also keeps what the prompt's own tokens look at in the image, at joint
    /// sites.
    pub fn with_text_queries(mut self) -> Self {
        let sums = |site| Sums::of_probes(site, self.plan.tokens, self.plan.per_step);
        self.text_queries = (0..self.plan.images).map(|_| self.sites.iter().map(sums).collect()).collect();
        self
    }

    /// The recorder of a run with so many concepts; 0 leaves it as it is.
    ///
    /// They take `concepts * height * width` f32 per step, site and image.
    pub fn with_concepts(mut self, concepts: usize) -> Self {
        let image = |_| ConceptScores::new(concepts, self.sites.len());
        self.concepts = if concepts > 0 { (0..self.plan.images).map(image).collect() } else { Vec::new() };
        self
    }

    /// The recorder of prompts in several chunks. `keys` are the runs of keys that are tokens of
    /// the prompt, and `unconditional` those of the negative prompt where its half is wanted. Both
    /// ascend. All other keys are padding.
    ///
    /// # Panics
    /// When the runs are not as many tokens as planned.
    pub fn with_keys(mut self, conditional: &[Range<usize>], unconditional: &[Range<usize>]) -> Self {
        for (half, keys) in [(&mut self.conditional, conditional), (&mut self.unconditional, unconditional)] {
            let keys: Arc<[Range<usize>]> = keys.into();
            let tokens = keys.iter().map(ExactSizeIterator::len).sum::<usize>();
            for (sums, site) in half.iter_mut().flat_map(|image| image.iter_mut().zip(&self.sites)) {
                assert_eq!(sums.channels, site.channels(tokens), "tokens of {keys:?}");
                sums.keys = Arc::clone(&keys);
            }
        }
        self
    }

    /// A recorder that keeps the self-attention of `sites` too.
    pub fn with_self_attention(self, sites: &[Site]) -> Self {
        Self { self_attention: SelfAttentionSum::of(sites, self.plan.images), ..self }
    }

    /// Ends the recording: one [`Recording`] per image of the batch, in batch order. The
    /// unconditional half is missing where the run was not guided.
    ///
    /// # Errors
    /// When a site was not seen at every step, or its rows do not sum to the number of steps (the
    /// self-check).
    pub fn finish(self) -> Result<Vec<Recording>> {
        let steps = self.timesteps.len();
        let Self { sites, timesteps, conditional, unconditional, probes, probe_tokens, self_attention, plan, .. } =
            self;
        let (text_queries, concepts) = (self.text_queries, self.concepts);
        let mut tied = vec![Vec::new(); plan.images];
        for sum in self_attention {
            let images = sum.finish(steps).map_err(Error::bug)?;
            tied.iter_mut().zip(images).for_each(|(tied, grid)| tied.push(grid));
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
        let of_text = |sums| Ok(Some(HalfMaps { tokens: plan.tokens, sites: maps(sums, check_probabilities)? }));
        let mut of_text = text_queries.into_iter().map(of_text).collect::<Result<Vec<_>>>()?;
        of_text.resize(plan.images, None);
        let concepts = concepts.into_iter().map(|scores| scores.finish(&sites, steps).map(Some));
        let mut concepts = concepts.collect::<Result<Vec<_>>>()?;
        concepts.resize(plan.images, None);
        let halves = conditional.into_iter().zip(unconditional).zip(probes).zip(tied).zip(of_text).zip(concepts);
        let recordings =
            halves.map(|(((((conditional, unconditional), probes), self_attention), text_queries), concepts)| {
                Recording {
                    sites: sites.clone(),
                    timesteps: timesteps.clone(),
                    conditional,
                    unconditional,
                    probes,
                    text_queries,
                    concepts,
                    goca: None,
                    self_attention,
                    text: Vec::new(),
                    text_2: Vec::new(),
                }
            });
        Ok(recordings.collect())
    }
}

impl AttentionObserver for Recorder {
    fn wants(&self, site: &Site) -> bool {
        match site.kind {
            AttentionKind::Cross | AttentionKind::Joint => self.index.contains_key(&site.path),
            AttentionKind::SelfAttention => self.self_attention.iter().any(|sum| sum.is_of(site)),
        }
    }

    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        let Some(step) = self.step else {
            return Err(Error::bug(format!("{}: observed before a step began", site.path)));
        };
        if site.kind == AttentionKind::SelfAttention {
            let Some(sum) = self.self_attention.iter_mut().find(|sum| sum.is_of(site)) else { return Ok(()) };
            let (cells, first) = (site.height * site.width, step.conditional_rows());
            if probabilities.dims() != [first.end, site.heads, cells, cells] {
                let shape = probabilities.dims();
                return Err(Error::bug(format!("{}: probabilities of shape {shape:?} do not fit the site", site.path)));
            }
            return with_f32(probabilities, |values| sum.add(values, site.heads, first.start));
        }
        let Some(&index) = self.index.get(&site.path) else { return Ok(()) };
        let known = &self.sites[index];
        let (batch, heads, pixels, keys) = probabilities.dims4()?;
        let rows = if step.guided { 2 * self.plan.images } else { self.plan.images };
        let sums = [self.conditional.first(), self.unconditional.first()].into_iter().flatten();
        let tokens = sums.filter_map(|sites| sites[index].keys.last()).map(|run| run.end).max().unwrap_or(0);
        if (batch, heads, pixels) != (rows, known.heads, known.height * known.width) || keys < tokens {
            let shape = (batch, heads, pixels, keys);
            return Err(Error::bug(format!("{}: probabilities of shape {shape:?} do not fit the site", site.path)));
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
        let Some(step) = self.step else {
            return Err(Error::bug(format!("{}: probed before a step began", site.path)));
        };
        let known = &self.sites[index];
        let shape = (self.plan.images, known.heads, known.height * known.width, self.probe_tokens);
        if probabilities.dims4()? != shape {
            let found = probabilities.dims();
            return Err(Error::bug(format!(
                "{}: probes of shape {found:?} do not fit the site's {shape:?}",
                site.path
            )));
        }
        with_f32(probabilities, |values| {
            let image = values.len() / self.plan.images.max(1);
            for (sums, values) in self.probes.iter_mut().zip(values.chunks_exact(image.max(1))) {
                sums[index].add(values, self.probe_tokens, step.count);
            }
        })
    }

    fn text_queries(&self, site: &Site) -> Vec<Range<usize>> {
        let (Some(&index), Some(first)) = (self.index.get(&site.path), self.conditional.first()) else {
            return Vec::new();
        };
        let asked = site.kind == AttentionKind::Joint && !self.text_queries.is_empty();
        if asked { first[index].keys.to_vec() } else { Vec::new() }
    }

    fn observe_text(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        let (Some(&index), Some(step)) = (self.index.get(&site.path), self.step) else { return Ok(()) };
        let known = &self.sites[index];
        let (batch, heads, tokens, cells) = probabilities.dims4()?;
        let rows = step.conditional_rows();
        if (batch, heads, tokens, cells) != (rows.end, known.heads, self.plan.tokens, known.height * known.width) {
            let found = probabilities.dims();
            return Err(Error::bug(format!("{}: what {found:?} queries of text see does not fit", site.path)));
        }
        // Sums are of places that look at tokens.
        let turned = probabilities.narrow(0, rows.start, rows.len())?.transpose(2, 3)?.contiguous()?;
        with_f32(&turned, |values| {
            let image = heads * tokens * cells;
            for (sums, values) in self.text_queries.iter_mut().zip(values.chunks_exact(image.max(1))) {
                sums[index].add(values, tokens, step.count);
            }
        })
    }

    fn observe_concepts(&mut self, site: &Site, scores: &Tensor) -> Result<()> {
        let (Some(&index), Some(step)) = (self.index.get(&site.path), self.step) else { return Ok(()) };
        with_f32(scores, |values| {
            let image = values.len() / self.plan.images.max(1);
            for (concepts, values) in self.concepts.iter_mut().zip(values.chunks_exact(image.max(1))) {
                concepts.add(index, values, step.count);
            }
        })
    }

    fn begin_step(&mut self, step: &Step) -> Result<()> {
        if step.images != self.plan.images {
            return Err(Error::bug(format!("{} images in the step, {} planned", step.images, self.plan.images)));
        }
        self.step = Some(*step);
        self.timesteps.push(step.timestep);
        Ok(())
    }
}

/// Calls `body` with the tensor's values in row-major order, without a copy when it is a contiguous
/// f32 tensor on the CPU.
pub(super) fn with_f32(tensor: &Tensor, body: impl FnOnce(&[f32])) -> Result<()> {
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
        _ => return Err(Error::bug("probabilities are not f32 on the CPU")),
    }
    Ok(())
}
