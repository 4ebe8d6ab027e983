//! What scores are made of: the queries and keys of attention layers. They are kept where a run is
//! asked for them and they fit a budget of memory.

use super::recorder::with_f32;
use super::self_attention::in_units;
use super::{AttentionObserver, Buffer, Site, Step};
use crate::argument::{KEEP_QUERIES, QUERY_MEMORY};
use crate::{Error, Result, plural};
use candle_core::{DType, Device, Tensor};
use half::f16;
use std::ops::Range;

/// Queries and keys of the heads of one attention layer, not scaled.
#[derive(Debug, Clone)]
pub struct QueriesKeys {
    /// Number of heads.
    pub heads: usize,
    /// Channels of each head.
    pub head_dim: usize,
    /// `[heads, places, head_dim]`: what looks.
    pub queries: Buffer<f16>,
    /// `[heads, keys, head_dim]`: what is looked at.
    pub keys: Buffer<f16>,
}

impl QueriesKeys {
    /// What each channel of `head` gives to the score of place `query` and `key`, `[head_dim]`:
    /// query times key, divided by the root of `head_dim`.
    ///
    /// # Panics
    /// When the layer has no such head, place or key.
    pub fn products(&self, head: usize, query: usize, key: usize) -> Vec<f32> {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let queries = row(&self.queries, self.heads, self.head_dim, head, query);
        let keys = row(&self.keys, self.heads, self.head_dim, head, key);
        queries.iter().zip(keys).map(|(query, key)| query.to_f32() * key.to_f32() * scale).collect()
    }

    /// The score of place `query` and `key` in `head`: the sum of their
    /// [`products`](Self::products), which a soft-max over the keys makes a probability of.
    ///
    /// # Panics
    /// As [`products`](Self::products).
    pub fn score(&self, head: usize, query: usize, key: usize) -> f32 {
        self.products(head, query, key).iter().sum()
    }

    /// The logarithm of the sum of the exponentials of the scores of place `query` and all `keys`
    /// in `head`. The soft-max of a score `s` is `exp(s - this)`.
    ///
    /// # Panics
    /// As [`products`](Self::products).
    pub fn log_sum_exp(&self, head: usize, query: usize, keys: Range<usize>) -> f32 {
        let scores: Vec<f32> = keys.map(|key| self.score(head, query, key)).collect();
        let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        top + scores.iter().map(|score| (score - top).exp()).sum::<f32>().ln()
    }

    /// How many places look.
    pub fn places(&self) -> usize {
        self.queries.len() / (self.heads * self.head_dim).max(1)
    }
}

/// Row `at` of `head` in `[heads, rows, head_dim]`.
fn row(values: &[f16], heads: usize, head_dim: usize, head: usize, at: usize) -> &[f16] {
    let rows = values.len() / (heads * head_dim).max(1);
    assert!(head < heads && at < rows, "head {head} of {heads}, row {at} of {rows}");
    &values[(head * rows + at) * head_dim..][..head_dim]
}

/// The queries and keys of one cross-attention site.
#[derive(Debug, Clone)]
pub struct SiteQueries {
    /// The site. Its places are the cells of its grid, row by row.
    pub site: Site,
    /// Queries are the mean over the steps of the conditional half's. Keys are the prompt's and its
    /// padding's, which no step changes.
    pub layer: QueriesKeys,
}

/// The queries and keys of one text encoder among the prompt's tokens.
#[derive(Debug, Clone)]
pub struct EncoderQueries {
    /// `text`, or `text_2` for SDXL's second encoder.
    pub name: String,
    /// Tokens of each chunk of the prompt, from its start to its first end token.
    pub chunks: Vec<usize>,
    /// One entry per layer. Places and keys are the tokens of all chunks.
    pub layers: Vec<QueriesKeys>,
}

impl EncoderQueries {
    /// From the queries and keys of each layer, `[chunks, heads, length, head_dim]` each, of which
    /// the first `chunks` of each chunk are kept.
    ///
    /// # Errors
    /// When a tensor has another rank or number of chunks, or is shorter.
    pub fn from_chunks(name: &str, layers: &[[Tensor; 2]], chunks: &[usize]) -> Result<Self> {
        let layer = |[queries, keys]: &[Tensor; 2]| -> Result<QueriesKeys> {
            let (_, heads, _, head_dim) = queries.dims4()?;
            let own = |states: &Tensor| joined(states, chunks, name);
            Ok(QueriesKeys { heads, head_dim, queries: own(queries)?, keys: own(keys)? })
        };
        Ok(Self {
            name: name.to_owned(),
            chunks: chunks.to_vec(),
            layers: layers.iter().map(layer).collect::<Result<_>>()?,
        })
    }

    /// How many tokens look and are looked at.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().sum()
    }

    /// The tokens that `token` can look at: those of its own chunk, up to itself.
    pub fn seen_by(&self, token: usize) -> Range<usize> {
        let mut first = 0;
        for chunk in &self.chunks {
            if token < first + chunk {
                break;
            }
            first += chunk;
        }
        first..token + 1
    }
}

/// `[chunks, heads, length, head_dim]` as `[heads, T, head_dim]`.
fn joined(states: &Tensor, chunks: &[usize], name: &str) -> Result<Buffer<f16>> {
    if states.dim(0)? != chunks.len() {
        return Err(Error::bug(format!("{name}: {} chunks for a prompt of {}", states.dim(0)?, chunks.len())));
    }
    let parts = chunks.iter().enumerate().map(|(at, &tokens)| states.get(at)?.narrow(1, 0, tokens));
    let all = Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 1)?;
    let values = all.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    halves(values.into_iter(), name)
}

/// The queries and keys of a run.
#[derive(Debug, Clone)]
pub struct Queries {
    /// The prompt as the user wrote it.
    pub prompt: String,
    /// How many calls of the network the sites' queries are the mean of.
    pub steps: usize,
    /// Keys of every site.
    pub key_count: usize,
    /// The runs of keys that are tokens of the prompt, ascending. All others are padding.
    pub tokens: Vec<Range<usize>>,
    /// The sites in network order.
    pub sites: Vec<SiteQueries>,
    /// The text encoders.
    pub encoders: Vec<EncoderQueries>,
}

impl Queries {
    /// The key at which token `token` of the prompt stands.
    pub fn key_of(&self, token: usize) -> Option<usize> {
        self.tokens.iter().cloned().flatten().nth(token)
    }

    /// Numbers that are kept, of two bytes each.
    pub fn numbers(&self) -> usize {
        let layers = self.encoders.iter().flat_map(|encoder| &encoder.layers);
        let layers = layers.chain(self.sites.iter().map(|site| &site.layer));
        layers.map(|layer| layer.queries.len() + layer.keys.len()).sum()
    }
}

/// The sites whose queries are kept, and what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryPlan {
    /// Bytes of memory while the run goes on. They are the sums of every site and image, its keys,
    /// and those of the text encoders. One site's queries of the whole batch at a time come beside.
    pub bytes: u64,
    /// Bytes of the file of one image.
    pub file: u64,
    /// How many sites.
    pub sites: usize,
}

/// What a [`QueryPlan`] is made for.
#[derive(Debug, Clone, Copy)]
pub struct QueryNeed {
    /// Keys of every site.
    pub keys: usize,
    /// Numbers that the text encoders' queries and keys are.
    pub text: usize,
    /// Images in the batch.
    pub images: usize,
    /// Rows of the batch.
    pub rows: usize,
}

impl QueryPlan {
    /// Plans to keep `sites`, each with the channels of its heads, within `budget` bytes.
    ///
    /// # Errors
    /// [`Error::Argument`] with the numbers and the way out when they do not fit.
    pub fn new(sites: &[(Site, usize)], need: QueryNeed, budget: u64) -> Result<Self> {
        let QueryNeed { keys, text, images, rows } = need;
        let queries = |(site, head_dim): &(Site, usize)| (site.height * site.width * site.heads * head_dim) as u64;
        let keys: u64 = sites.iter().map(|(site, head_dim)| (keys * site.heads * head_dim) as u64).sum();
        let sums: u64 = sites.iter().map(queries).sum();
        let largest = sites.iter().map(queries).max().unwrap_or(0);
        let file = 2 * (sums + keys + text as u64);
        // f32 sums, f16 keys, and f32 queries of a call before and after they are split into heads.
        let bytes = images as u64 * (4 * sums + 2 * keys + 2 * text as u64) + 8 * rows as u64 * largest;
        if bytes > budget {
            let reason = format!(
                "queries of {} take {}, more than the {} that {QUERY_MEMORY} allows; keep fewer, such as \
                 {KEEP_QUERIES}={}, or allow more",
                plural(sites.len(), "layer"),
                in_units(bytes),
                in_units(budget),
                sites.iter().map(|(site, _)| site.height.min(site.width)).min().unwrap_or(8),
            );
            return Err(Error::argument(KEEP_QUERIES, reason));
        }
        Ok(Self { bytes, file, sites: sites.len() })
    }

    /// What is kept and what it takes, in a sentence.
    pub fn describe(&self) -> String {
        let (sites, bytes, file) = (plural(self.sites, "layer"), in_units(self.bytes), in_units(self.file));
        format!("queries and keys of {sites} take up to {bytes}, and {file} in the run's folder")
    }
}

/// Watches the queries of some sites in a run. Keys of a prompt do not change over the steps, so
/// the mean of the queries has the mean of the scores. Memory does not grow with the steps.
#[derive(Debug)]
pub struct QueryRecorder {
    images: usize,
    step: Option<Step>,
    steps: usize,
    sites: Vec<Summed>,
}

/// The running sums of one site.
#[derive(Debug)]
struct Summed {
    site: Site,
    head_dim: usize,
    seen: usize,
    /// `[image][heads * cells * head_dim]`
    sums: Vec<Vec<f32>>,
    /// `[image]`, of the first call.
    keys: Vec<Buffer<f16>>,
}

impl QueryRecorder {
    /// A recorder of `sites`, each with the channels of its heads, for `images` images of a batch.
    pub fn new(sites: &[(Site, usize)], images: usize) -> Self {
        let summed = |(site, head_dim): &(Site, usize)| Summed {
            site: site.clone(),
            head_dim: *head_dim,
            seen: 0,
            sums: vec![vec![0.0; site.heads * site.height * site.width * head_dim]; images],
            keys: Vec::with_capacity(images),
        };
        Self { images, step: None, steps: 0, sites: sites.iter().map(summed).collect() }
    }

    /// Ends the recording: what was kept of each image of the batch. `tokens` are the runs of keys
    /// that are tokens of `prompt`.
    ///
    /// # Errors
    /// When a site was not seen at every step; [`Error::Unsupported`] when a number is beyond what
    /// f16 holds.
    pub fn finish(self, prompt: &str, tokens: &[Range<usize>], encoders: &[EncoderQueries]) -> Result<Vec<Queries>> {
        let steps = self.steps;
        let mut all: Vec<Queries> = (0..self.images)
            .map(|_| Queries {
                prompt: prompt.to_owned(),
                steps,
                key_count: 0,
                tokens: tokens.to_vec(),
                sites: Vec::with_capacity(self.sites.len()),
                encoders: encoders.to_vec(),
            })
            .collect();
        for Summed { site, head_dim, seen, sums, keys } in self.sites {
            if seen != steps || keys.len() != sums.len() {
                return Err(Error::bug(format!("{}: queries of {seen} calls of {steps}", site.path)));
            }
            for ((queries, sum), keys) in all.iter_mut().zip(sums).zip(keys) {
                queries.key_count = keys.len() / (site.heads * head_dim).max(1);
                let mean = sum.into_iter().map(|value| value / steps.max(1) as f32);
                let layer = QueriesKeys { heads: site.heads, head_dim, queries: halves(mean, &site.path)?, keys };
                queries.sites.push(SiteQueries { site: site.clone(), layer });
            }
        }
        Ok(all)
    }
}

/// f16 of each value.
fn halves(values: impl Iterator<Item = f32>, place: &str) -> Result<Buffer<f16>> {
    let halves: Vec<f16> = values.map(f16::from_f32).collect();
    match halves.iter().all(|value| value.is_finite()) {
        true => Ok(halves.into()),
        false => Err(Error::Unsupported {
            what: format!("queries or keys beyond 65504 ({place}), which is all that f16 holds"),
            way_out: format!("leave out {KEEP_QUERIES}"),
        }),
    }
}

impl AttentionObserver for QueryRecorder {
    fn wants(&self, _site: &Site) -> bool {
        false
    }

    fn observe(&mut self, _site: &Site, _probabilities: &Tensor) -> Result<()> {
        Ok(())
    }

    fn wants_queries(&self, site: &Site) -> bool {
        self.sites.iter().any(|known| known.site.path == site.path)
    }

    fn observe_queries(&mut self, site: &Site, queries: &Tensor, keys: &Tensor) -> Result<()> {
        let Some(step) = self.step else {
            return Err(Error::bug(format!("{}: queries before a step began", site.path)));
        };
        let Some(known) = self.sites.iter_mut().find(|known| known.site.path == site.path) else { return Ok(()) };
        let (rows, own) = (step.conditional_rows(), &known.site);
        let wanted = [rows.end, own.heads, own.height * own.width, known.head_dim];
        if queries.dims() != wanted || keys.dim(0)? != rows.end {
            let shape = queries.dims();
            return Err(Error::bug(format!("{}: queries of shape {shape:?} do not fit the site", site.path)));
        }
        for (image, row) in rows.enumerate() {
            if known.keys.len() == image {
                let mut own = Vec::new();
                with_f32(&keys.get(row)?, |values| own = values.to_vec())?;
                known.keys.push(halves(own.into_iter(), &site.path)?);
            }
            with_f32(&queries.get(row)?, |values| {
                known.sums[image].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            })?;
        }
        known.seen += 1;
        Ok(())
    }

    fn begin_step(&mut self, step: &Step) -> Result<()> {
        self.step = Some(*step);
        self.steps += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{AttentionKind, Stage};

    fn site(side: usize) -> (Site, usize) {
        let site = Site {
            path: format!("{side}"),
            stage: Stage::Up,
            depth: 0.5,
            kind: AttentionKind::Cross,
            index: 0,
            heads: 8,
            height: side,
            width: side,
        };
        (site, 320 * 64 / side / 8)
    }

    #[test]
    fn the_budget_is_kept_and_named() {
        // The five sites of Stable Diffusion 1.5 at each of three grids at 512x512, and the middle.
        let mut sites: Vec<_> = [64, 32, 16].into_iter().flat_map(|side| vec![site(side); 5]).collect();
        sites.push((Site { height: 8, width: 8, ..site(16).0 }, 160));
        let need = QueryNeed { keys: 77, text: 12 * 20 * 768 * 2, images: 1, rows: 2 };
        let plan = QueryPlan::new(&sites, need, 1 << 30).unwrap();
        let queries = 5 * (4096 * 320 + 1024 * 640 + 256 * 1280) + 64 * 1280;
        let keys = 77 * (5 * (320 + 640 + 1280) + 1280);
        assert_eq!(plan.file, 2 * (queries + keys + 368_640));
        assert_eq!(plan.bytes, 4 * queries + 2 * (keys + 368_640) + 16 * 4096 * 320);
        let said = "queries and keys of 16 layers take up to 66.6 MiB, and 24.6 MiB in the run's folder";
        assert_eq!(plan.describe(), said);
        let error = QueryPlan::new(&sites, need, 1 << 20).unwrap_err().to_string();
        assert_eq!(
            error,
            "keep_queries: queries of 16 layers take 66.6 MiB, more than the 1.0 MiB that `query_memory` allows; \
             keep fewer, such as `keep_queries`=8, or allow more"
        );
    }

    #[test]
    fn a_token_sees_its_own_chunk_up_to_itself() {
        let encoder = EncoderQueries { name: "text".into(), chunks: vec![3, 4], layers: Vec::new() };
        assert_eq!([0, 2, 3, 6].map(|token| encoder.seen_by(token)), [0..1, 0..3, 3..4, 3..7]);
    }

    #[test]
    fn products_sum_to_the_score_and_the_soft_max_to_one() {
        let numbers = |count: usize, by: usize| -> Buffer<f16> {
            (0..count).map(|at| f16::from_f32((at * by % 17) as f32 / 5.0 - 1.5)).collect::<Vec<_>>().into()
        };
        let layer = QueriesKeys { heads: 2, head_dim: 4, queries: numbers(2 * 3 * 4, 7), keys: numbers(2 * 5 * 4, 11) };
        assert_eq!(layer.places(), 3);
        let products = layer.products(1, 2, 3);
        let at = |values: &[f16], index: usize| values[index].to_f32();
        let third = at(&layer.queries, (3 + 2) * 4 + 3) * at(&layer.keys, (5 + 3) * 4 + 3) / 2.0;
        assert!((products[3] - third).abs() < 1e-6, "{products:?}");
        assert!((layer.score(1, 2, 3) - products.iter().sum::<f32>()).abs() < 1e-6);
        let all = layer.log_sum_exp(1, 2, 0..5);
        let sum: f32 = (0..5).map(|key| (layer.score(1, 2, key) - all).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
}
