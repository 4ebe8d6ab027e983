//! Self-attention: what the UNet ties each place of a grid to. It is kept per resolution, and only
//! where it fits a budget of memory.

use super::{AttentionKind, Buffer, Grid, Site};
use crate::argument::{SELF_ATTENTION, SELF_MEMORY};
use crate::{Error, Result};
use bytesize::ByteSize;
use half::f16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How far a finished row may be from 1: f16 rounds each of its probabilities.
const ROW_TOLERANCE: f32 = 2e-3;

/// What each place of a grid is tied to: the self-attention probabilities of the prompt's half.
/// They are averaged over the heads, the sites of that grid and the steps.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// The sites' grid.
    pub grid: Grid,
    /// How many sites were averaged.
    pub sites: usize,
    /// `[cells, cells]`: a row for each place that looks, a column for each place that is looked
    /// at; every row sums to 1.
    pub mean: Buffer<f16>,
}

/// The grid and the number of sites of [`SelfAttention`], as a trace's metadata has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SelfAttentionInfo {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) sites: usize,
}

impl SelfAttentionInfo {
    pub(super) fn of(self_attention: &SelfAttention) -> Self {
        Self { height: self_attention.grid.height, width: self_attention.grid.width, sites: self_attention.sites }
    }

    /// The tensor's name in a trace file.
    pub(super) fn name(&self) -> String {
        format!("self/{}x{}", self.height, self.width)
    }
}

/// Self-attention sites to be kept, and what that takes.
#[derive(Debug, Clone, Default)]
pub struct SelfAttentionPlan {
    /// The sites whose attention is kept.
    pub sites: Vec<Site>,
    /// Bytes of memory while the run goes on: the sums of every grid and image, and one site's
    /// probabilities at a time.
    pub bytes: u64,
    /// Grids that were left out since they do not fit, with what they would take in all.
    pub left_out: Vec<(Grid, u64)>,
}

impl SelfAttentionPlan {
    /// Plans to keep the grids among `sites` (self-attention) that `wanted` takes, within `budget`
    /// bytes. The run has `images` images and `rows` rows of the batch. Without `wanted`, the
    /// finest grids are left out until the rest fits.
    ///
    /// # Errors
    /// [`Error::Argument`] with the numbers when a wanted grid does not fit or is not there, or
    /// when not even the coarsest fits.
    pub fn new(
        sites: &[Site],
        wanted: Option<&dyn Fn(&Site) -> bool>,
        images: usize,
        rows: usize,
        budget: u64,
    ) -> Result<Self> {
        let of_kind = sites.iter().filter(|site| site.kind == AttentionKind::SelfAttention);
        let chosen: Vec<Site> =
            of_kind.clone().filter(|site| wanted.is_none_or(|wanted| wanted(site))).cloned().collect();
        let grids = |sites: &[Site]| -> Vec<Grid> {
            let mut grids: Vec<Grid> = sites.iter().map(grid).collect();
            grids.sort_by_key(|grid| std::cmp::Reverse(grid.cells()));
            grids.dedup();
            grids
        };
        if chosen.is_empty() {
            let there = grids(&of_kind.cloned().collect::<Vec<_>>());
            let there: Vec<String> = there.iter().map(|grid| format!("{}x{}", grid.width, grid.height)).collect();
            let reason = format!("no self-attention of this run has that grid; it has {}", there.join(", "));
            return Err(Error::argument(SELF_ATTENTION, reason));
        }
        let mut plan = Self { bytes: bytes(&chosen, images, rows), sites: chosen, left_out: Vec::new() };
        while plan.bytes > budget {
            let finest = grids(&plan.sites)[0];
            let rest: Vec<Site> = plan.sites.iter().filter(|site| grid(site) != finest).cloned().collect();
            if wanted.is_some() || rest.is_empty() {
                let reason = format!(
                    "{}x{} takes {}, more than the {} that {SELF_MEMORY} allows; choose coarser grids or allow more",
                    finest.width,
                    finest.height,
                    in_units(plan.bytes),
                    in_units(budget),
                );
                return Err(Error::argument(SELF_ATTENTION, reason));
            }
            plan.left_out.push((finest, plan.bytes));
            plan = Self { bytes: bytes(&rest, images, rows), sites: rest, ..plan };
        }
        Ok(plan)
    }

    /// What is kept and what it takes, in a sentence.
    pub fn describe(&self) -> String {
        let mut kept: Vec<String> = Vec::new();
        for site in &self.sites {
            let name = format!("{}x{}", site.width, site.height);
            if !kept.contains(&name) {
                kept.push(name);
            }
        }
        let mut text = format!("self-attention at {} takes up to {}", kept.join(", "), in_units(self.bytes));
        for (grid, bytes) in &self.left_out {
            text += &format!("; {}x{} is left out: with it, {}", grid.width, grid.height, in_units(*bytes));
        }
        text
    }
}

/// f32 sums of every grid for every image, and the f32 probabilities of the largest site for the
/// whole batch.
fn bytes(sites: &[Site], images: usize, rows: usize) -> u64 {
    let square = |site: &Site| (grid(site).cells() as u64).pow(2) * 4;
    let mut grids: Vec<(Grid, u64)> = Vec::new();
    for site in sites {
        if !grids.iter().any(|(known, _)| *known == grid(site)) {
            grids.push((grid(site), square(site)));
        }
    }
    let sums: u64 = grids.iter().map(|(_, bytes)| bytes * images as u64).sum();
    sums + sites.iter().map(|site| square(site) * site.heads as u64 * rows as u64).max().unwrap_or(0)
}

/// Bytes as people read them.
pub(super) fn in_units(bytes: u64) -> String {
    let text = ByteSize(bytes).display().iec();
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x4000_0000 => format!("{text:.1}"),
        _ => format!("{text:.2}"),
    }
}

fn grid(site: &Site) -> Grid {
    Grid::new(site.height, site.width)
}

/// The running sum of one grid for every image.
#[derive(Debug)]
pub(super) struct SelfAttentionSum {
    grid: Grid,
    sites: usize,
    observed: usize,
    /// `[image][cells * cells]`
    sums: Vec<Vec<f32>>,
}

impl SelfAttentionSum {
    /// One for each grid among `sites`, the coarsest first.
    pub(super) fn of(sites: &[Site], images: usize) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for site in sites {
            match all.iter_mut().find(|sum| sum.grid == grid(site)) {
                Some(sum) => sum.sites += 1,
                None => {
                    let sums = vec![vec![0.0; grid(site).cells().pow(2)]; images];
                    all.push(Self { grid: grid(site), sites: 1, observed: 0, sums });
                }
            }
        }
        all.sort_by_key(|sum| sum.grid.cells());
        all
    }

    pub(super) fn is_of(&self, site: &Site) -> bool {
        self.grid == grid(site)
    }

    /// Adds the probabilities `[rows, heads, cells, cells]` of a site, of which the rows from
    /// `first` on are the images'.
    pub(super) fn add(&mut self, values: &[f32], heads: usize, first: usize) {
        self.observed += 1;
        let cells = self.grid.cells();
        let head_len = cells * cells;
        for (image, sum) in self.sums.iter_mut().enumerate() {
            let values = &values[(first + image) * heads * head_len..][..heads * head_len];
            sum.par_chunks_mut(cells).enumerate().for_each(|(query, sum)| {
                for head in values.chunks_exact(head_len) {
                    let row = &head[query * cells..][..cells];
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / heads as f32);
                }
            });
        }
    }

    /// The means of every image, in order.
    pub(super) fn finish(self, steps: usize) -> Result<Vec<SelfAttention>, String> {
        let (grid, sites, seen) = (self.grid, self.sites, self.observed);
        if seen != steps * sites {
            return Err(format!("self-attention at {grid:?}: observed {seen} times of {}", steps * sites));
        }
        let finish = |sum: Vec<f32>| {
            let mean: Vec<f16> = sum.iter().map(|value| f16::from_f32(value / seen.max(1) as f32)).collect();
            check_self_attention(&mean, grid)?;
            Ok(SelfAttention { grid, sites, mean: mean.into() })
        };
        self.sums.into_iter().map(finish).collect()
    }
}

/// Whether every row of `mean` `[cells, cells]` sums to 1.
pub(super) fn check_self_attention(mean: &[f16], grid: Grid) -> Result<(), String> {
    let sum = |row: &[f16]| row.iter().map(|value| value.to_f32()).sum::<f32>();
    let off = |sum: &f32| sum.is_nan() || (sum - 1.0).abs() > ROW_TOLERANCE;
    match mean.chunks_exact(grid.cells().max(1)).map(sum).find(off) {
        Some(sum) => Err(format!("a row of the self-attention at {grid:?} sums to {sum}, not to 1")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Stage;

    fn sites() -> Vec<Site> {
        let site = |index, kind, height, width| Site {
            path: format!("{index}"),
            stage: Stage::Down,
            depth: 0.0,
            kind,
            index,
            heads: 8,
            height,
            width,
        };
        let (own, prompt) = (AttentionKind::SelfAttention, AttentionKind::Cross);
        vec![
            site(0, own, 64, 64),
            site(1, prompt, 64, 64),
            site(2, own, 32, 32),
            site(3, own, 32, 32),
            site(4, own, 8, 8),
        ]
    }

    #[test]
    fn the_budget_is_kept_and_named() {
        let plan =
            |wanted: Option<&dyn Fn(&Site) -> bool>, budget| SelfAttentionPlan::new(&sites(), wanted, 1, 2, budget);
        // 4096^2 f32 sums are 64 MiB, two rows of 8 heads of it 1 GiB.
        let all = plan(None, u64::MAX).unwrap();
        let cells = |side: u64| side.pow(4) * 4;
        assert_eq!(all.bytes, cells(64) + cells(32) + cells(8) + 16 * cells(64));
        assert!(all.left_out.is_empty() && all.sites.len() == 4);
        let some = plan(None, 1 << 30).unwrap();
        assert_eq!((some.bytes, some.sites.len()), (cells(32) + cells(8) + 16 * cells(32), 3));
        assert_eq!(some.left_out, [(Grid::new(64, 64), all.bytes)]);
        assert_eq!(
            some.describe(),
            "self-attention at 32x32, 8x8 takes up to 68.0 MiB; 64x64 is left out: with it, 1.07 GiB"
        );
        let finest = |site: &Site| site.height == 64;
        let error = plan(Some(&finest), 1 << 30).unwrap_err().to_string();
        assert_eq!(
            error,
            "self_attention: 64x64 takes 1.06 GiB, more than the 1.00 GiB that `self_memory` allows; choose \
            coarser grids or allow more"
        );
        assert!(plan(None, 1000).unwrap_err().to_string().contains("8x8 takes 272.0 KiB, more than the 1000 bytes"));
        let none = |site: &Site| site.height == 7;
        assert!(plan(Some(&none), 1 << 30).unwrap_err().to_string().contains("it has 64x64, 32x32, 8x8"));
    }
}
