//! What GoCA's maps are made of: every token's share of a place, with heads and layers weighted,
//! and the self-attention that carries words' maps.

use super::self_attention::check_self_attention;
use super::{Buffer, Grid};
use half::f16;
use serde::{Deserialize, Serialize};

/// The tensors' names in a trace file.
pub(super) const SHARES: &str = "goca/shares";
pub(super) const SELF_ATTENTION: &str = "goca/self";

/// How far the shares of a place may be from 1.
const SUM_TOLERANCE: f32 = 1e-3;

/// What was kept of one image for GoCA's maps (Meng et al. 2026, arXiv 2603.06178). Each step is a
/// pass of theirs, and this is the mean over the steps.
#[derive(Debug, Clone)]
pub struct GocaMaps {
    /// The finest grid of the sites.
    pub grid: Grid,
    /// `[T + 1, height, width]`: each token's share of a place, the last that of all padding. A
    /// place's shares sum to 1.
    pub shares: Buffer<f32>,
    /// `[cells, cells]`: self-attention of the finest grid's first two up blocks and last down
    /// block, mean over the heads: rows look at columns.
    pub self_attention: Buffer<f16>,
    /// The weight of each recorded site, 0 to 1; they sum to 1.
    pub weights: Vec<f32>,
}

/// The grid and the weights of [`GocaMaps`], as a trace's metadata has them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct GocaInfo {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) weights: Vec<f32>,
}

impl GocaInfo {
    pub(super) fn of(maps: &GocaMaps) -> Self {
        Self { height: maps.grid.height, width: maps.grid.width, weights: maps.weights.clone() }
    }
}

/// What is wrong with the numbers of `maps`, where anything is.
pub(super) fn check_goca(maps: &GocaMaps) -> Result<(), String> {
    let cells = maps.grid.cells();
    let mut sums = vec![0.0f32; cells];
    for plane in maps.shares.chunks_exact(cells.max(1)) {
        sums.iter_mut().zip(plane).for_each(|(sum, share)| *sum += share);
    }
    if let Some(sum) = sums.iter().find(|sum| sum.is_nan() || (**sum - 1.0).abs() > SUM_TOLERANCE) {
        return Err(format!("{SHARES}: the shares of a place sum to {sum}, not to 1"));
    }
    if let Some(share) = maps.shares.iter().find(|share| !(0.0..=1.0 + SUM_TOLERANCE).contains(*share)) {
        return Err(format!("{SHARES}: a share is {share}"));
    }
    if let Some(weight) = maps.weights.iter().find(|weight| !(0.0..=1.0 + SUM_TOLERANCE).contains(*weight)) {
        return Err(format!("goca: a layer's weight is {weight}"));
    }
    check_self_attention(&maps.self_attention, maps.grid).map_err(|reason| format!("{SELF_ATTENTION}: {reason}"))
}
