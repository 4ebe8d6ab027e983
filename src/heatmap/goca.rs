//! GoCA's maps (Meng et al. 2026, arXiv 2603.06178, and the authors' code, Darkbblue/goca). Heads
//! are weighted by what they give to a layer's output. Layers are weighted by how alike their
//! self-attention and a reference are. Words compete, and self-attention carries their maps on.

use super::{Filter, Resampler};
use crate::trace::{Buffer, GocaMaps, Grid, Site, Stage};
use half::f16;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// How often a word's map is carried along the self-attention.
const CARRIED: usize = 2;

/// Which sites have a part of their own, as positions among the sites that look at the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GocaSites {
    /// The finest grid.
    pub grid: Grid,
    /// The site whose queries, held against each other, are the reference that layers are weighted
    /// by.
    pub reference: usize,
    /// The sites whose blocks' self-attention carries the maps.
    pub carriers: Vec<usize>,
}

impl GocaSites {
    /// Of a network with these `sites` that look at the prompt, on a latent of this grid; none
    /// where it has no up blocks.
    ///
    /// The reference is `up_blocks.2.attentions.1` of Stable Diffusion 1.x: the second up block on
    /// the second finest grid. Of SDXL, which has no site on the latent's own grid, it is
    /// `up_blocks.1.attentions.0`: the first up block on the finest. Carriers are the first two up
    /// blocks and the last down block on the finest grid.
    pub fn of(sites: &[Site], latent: Grid) -> Option<Self> {
        let grid_of = |site: &Site| Grid::new(site.height, site.width);
        let finest = sites.iter().map(grid_of).max_by_key(|grid| grid.cells())?;
        let on = |stage: Stage, grid: Grid| {
            (0..sites.len()).filter(move |&index| sites[index].stage == stage && grid_of(&sites[index]) == grid)
        };
        let mut up: Vec<Grid> = sites.iter().filter(|site| site.stage == Stage::Up).map(grid_of).collect();
        up.sort_by_key(|grid| std::cmp::Reverse(grid.cells()));
        up.dedup();
        let reference = match (finest == latent, up.as_slice()) {
            (true, [_, second, ..]) => on(Stage::Up, *second).nth(1).or_else(|| on(Stage::Up, *second).next()),
            (_, [first, ..]) => on(Stage::Up, *first).next(),
            _ => None,
        }?;
        let carriers: Vec<usize> = on(Stage::Up, finest).take(2).chain(on(Stage::Down, finest).next_back()).collect();
        (!carriers.is_empty()).then_some(Self { grid: finest, reference, carriers })
    }
}

/// What one step gives of one image.
#[derive(Debug)]
pub struct GocaStep<'a> {
    /// `[channels, height, width]` per site: the heads' probabilities, weighted; tokens first, then
    /// all padding.
    pub maps: &'a [Vec<f32>],
    /// `[cells, cells]` per site: the self-attention of its block, mean over the heads.
    pub self_attention: &'a [Vec<f32>],
    /// `[cells, cells]`: the reference.
    pub reference: &'a [f32],
}

impl GocaStep<'_> {
    /// The weight of each of `sites`; they sum to 1.
    pub fn weights(&self, sites: &[Site], plan: &GocaSites) -> Vec<f32> {
        let of_reference = &sites[plan.reference];
        let raw: Vec<f64> = sites
            .iter()
            .zip(self.self_attention)
            .map(|(site, own)| agreement((of_reference, self.reference), (site, own), plan.grid).max(0.0))
            .collect();
        let sum: f64 = raw.iter().sum();
        let equal = 1.0 / sites.len().max(1) as f64;
        raw.into_iter().map(|weight| if sum > 0.0 { weight / sum } else { equal } as f32).collect()
    }

    /// `[channels, height, width]` on the plan's grid: each channel's share of a place.
    pub fn shares(&self, sites: &[Site], plan: &GocaSites, weights: &[f32]) -> Vec<f32> {
        let cells = plan.grid.cells();
        let channels = sites.first().map_or(0, |site| self.maps[0].len() / (site.height * site.width).max(1));
        let mut shares = vec![0.0f32; channels * cells];
        for ((site, maps), &weight) in sites.iter().zip(self.maps).zip(weights) {
            let own = Grid::new(site.height, site.width);
            let resampler = Resampler::new(own, plan.grid, Filter::Bilinear);
            let planes = shares.par_chunks_mut(cells).zip(maps.par_chunks(own.cells().max(1)));
            planes.for_each_init(Vec::new, |scratch, (out, plane)| {
                let mut resized = vec![0.0; cells];
                resampler.resize_into(plane, &mut resized, scratch);
                out.iter_mut().zip(resized).for_each(|(out, value)| *out += weight * value);
            });
        }
        // A head may be weighted below 0.
        shares.iter_mut().for_each(|share| *share = share.max(0.0));
        let mut sums = vec![0.0f32; cells];
        for plane in shares.chunks_exact(cells.max(1)) {
            sums.iter_mut().zip(plane).for_each(|(sum, share)| *sum += share);
        }
        for plane in shares.chunks_exact_mut(cells.max(1)) {
            plane.iter_mut().zip(&sums).for_each(|(share, sum)| *share /= sum.max(f32::MIN_POSITIVE));
        }
        shares
    }
}

/// The sum over all pairs of places of the product of two attentions of places to places. Each is
/// brought to `grid`: bilinearly in what is looked at, by repetition in what looks.
fn agreement(one: (&Site, &[f32]), other: (&Site, &[f32]), grid: Grid) -> f64 {
    let sized = |(site, values): (&Site, &[f32])| (Grid::new(site.height, site.width), values.to_vec());
    let (one, other) = (sized(one), sized(other));
    // Where several places of the grid repeat the same two rows, their product counts as often.
    let mut pairs: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let row_of = |own: Grid, at: usize| {
        let (y, x) = (at / grid.width, at % grid.width);
        let near = |at: usize, from: usize, to: usize| ((2 * at + 1) * from / (2 * to)).min(from - 1);
        near(y, own.height, grid.height) * own.width + near(x, own.width, grid.width)
    };
    for at in 0..grid.cells() {
        *pairs.entry((row_of(one.0, at), row_of(other.0, at))).or_default() += 1;
    }
    let pairs: Vec<_> = pairs.into_iter().collect();
    let resamplers = [&one, &other].map(|(own, _)| Resampler::new(*own, grid, Filter::Bilinear));
    let init = || (vec![0.0f32; grid.cells()], vec![0.0f32; grid.cells()], Vec::new());
    let product = |(a, b, scratch): &mut (Vec<f32>, Vec<f32>, Vec<f32>),
                   ((row, column), times): &((usize, usize), _)| {
        let cells = [one.0.cells(), other.0.cells()];
        resamplers[0].resize_into(&one.1[row * cells[0]..][..cells[0]], a, scratch);
        resamplers[1].resize_into(&other.1[column * cells[1]..][..cells[1]], b, scratch);
        let dot: f64 = a.iter().zip(&*b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        dot * *times as f64
    };
    // Collected, so that the sum is the same however many threads there are.
    let products: Vec<f64> = pairs.par_iter().map_init(init, product).collect();
    products.iter().sum()
}

/// Words' maps of what a run kept.
#[derive(Debug, Clone)]
pub struct Goca {
    grid: Grid,
    latent: Grid,
    steps: usize,
    /// `[T + 1, height, width]`
    shares: Buffer<f32>,
    self_attention: Buffer<f16>,
    /// `[height, width]`: the shares of the text's tokens together.
    text: Vec<f32>,
}

impl Goca {
    /// Of `kept`, for maps on `latent` in the unit of a sum over `steps`. `takes_part` says which
    /// tokens are the text's.
    pub(super) fn new(kept: &GocaMaps, latent: Grid, steps: usize, takes_part: &[bool]) -> Self {
        let cells = kept.grid.cells();
        let mut text = vec![0.0f32; cells];
        for (plane, _) in kept.shares.chunks_exact(cells).zip(takes_part).filter(|(_, takes_part)| **takes_part) {
            text.iter_mut().zip(plane).for_each(|(sum, share)| *sum += share);
        }
        let (shares, self_attention) = (kept.shares.clone(), kept.self_attention.clone());
        Self { grid: kept.grid, latent, steps, shares, self_attention, text }
    }

    /// The map of the word of `tokens`, `[height, width]` on the latent grid: 0 to the number of
    /// steps. Tokens that have no map are left out.
    ///
    /// The mean over the tokens is divided by what the text has in all, blurred by 5x5 and
    /// stretched from 0 to 1. Then it is carried along the self-attention twice and stretched
    /// again.
    pub fn map(&self, tokens: &[usize]) -> Vec<f32> {
        let cells = self.grid.cells();
        let planes: Vec<&[f32]> =
            tokens.iter().filter_map(|&token| self.shares.chunks_exact(cells.max(1)).nth(token)).collect();
        if planes.is_empty() {
            return vec![0.0; self.latent.cells()];
        }
        let mut map = vec![0.0f32; cells];
        for plane in &planes {
            map.iter_mut().zip(*plane).for_each(|(sum, share)| *sum += share / planes.len() as f32);
        }
        map.iter_mut().zip(&self.text).for_each(|(share, text)| *share /= text.max(f32::MIN_POSITIVE));
        let mut map = blurred(&map, self.grid);
        stretch(&mut map);
        for _ in 0..CARRIED {
            let along = |row: &[f16]| row.iter().zip(&map).map(|(tied, value)| tied.to_f32() * value).sum::<f32>();
            map = self.self_attention.par_chunks(cells.max(1)).map(along).collect();
        }
        stretch(&mut map);
        let steps = self.steps as f32;
        let resized = Resampler::new(self.grid, self.latent, Filter::Bilinear).resize(&map);
        resized.into_iter().map(|value| value * steps).collect()
    }

    /// `[T, height, width]` on the latent grid: each token's share of a place, times the steps.
    pub(super) fn tokens(&self, count: usize) -> Vec<f32> {
        let (cells, steps) = (self.grid.cells(), self.steps as f32);
        let resampler = Resampler::new(self.grid, self.latent, Filter::Bilinear);
        let planes = self.shares.par_chunks(cells.max(1)).take(count);
        planes.flat_map_iter(|plane| resampler.resize(plane).into_iter().map(move |share| share * steps)).collect()
    }

    /// `[T + 1]`: each token's mean share in a region, and all padding's. `inside` says how much of
    /// each cell of a grid lies in it.
    pub(super) fn means(&self, inside: &dyn Fn(Grid) -> Vec<f32>) -> Vec<f32> {
        let region = inside(self.grid);
        let covered: f64 = region.iter().map(|&part| f64::from(part)).sum();
        let mean = |plane: &[f32]| {
            let sum: f64 = plane.iter().zip(&region).map(|(&share, &part)| f64::from(share) * f64::from(part)).sum();
            (sum / covered) as f32
        };
        self.shares.chunks_exact(self.grid.cells().max(1)).map(mean).collect()
    }
}

/// `map` from 0 at its lowest to 1 at its highest; all 0 where it is flat.
fn stretch(map: &mut [f32]) {
    let lowest = map.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = highest - lowest;
    map.iter_mut().for_each(|value| *value = if range > 0.0 { (*value - lowest) / range } else { 0.0 });
}

/// A Gaussian blur of 5x5 with the spread that OpenCV and torchvision give it, 1.1; beyond the
/// border the map is mirrored.
fn blurred(map: &[f32], grid: Grid) -> Vec<f32> {
    const SPREAD: f32 = 1.1;
    let raw = [-2i64, -1, 0, 1, 2].map(|at| (-((at * at) as f32) / (2.0 * SPREAD * SPREAD)).exp());
    let sum: f32 = raw.iter().sum();
    let kernel = raw.map(|weight| weight / sum);
    let mirrored = |at: i64, length: usize| -> usize {
        let period = (2 * (length as i64 - 1)).max(1);
        let at = at.rem_euclid(period);
        at.min(period - at).clamp(0, length as i64 - 1) as usize
    };
    let Grid { height, width } = grid;
    let along_rows = |index: usize| -> f32 {
        let (y, x) = (index / width, (index % width) as i64);
        kernel.iter().zip(-2..).map(|(weight, by)| weight * map[y * width + mirrored(x + by, width)]).sum()
    };
    let wide: Vec<f32> = (0..grid.cells()).map(along_rows).collect();
    let down_columns = |index: usize| -> f32 {
        let (y, x) = ((index / width) as i64, index % width);
        kernel.iter().zip(-2..).map(|(weight, by)| weight * wide[mirrored(y + by, height) * width + x]).sum()
    };
    (0..grid.cells()).map(down_columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::AttentionKind;

    fn site(path: &str, stage: Stage, side: usize) -> Site {
        let (height, width) = (side, side);
        Site { path: path.into(), stage, depth: 0.0, kind: AttentionKind::Cross, index: 0, heads: 1, height, width }
    }

    #[test]
    fn parts_are_those_of_the_authors_configurations() {
        let sd1: Vec<Site> = [
            ("down.0.0", Stage::Down, 64),
            ("down.0.1", Stage::Down, 64),
            ("down.1.0", Stage::Down, 32),
            ("mid", Stage::Mid, 8),
            ("up.1.0", Stage::Up, 16),
            ("up.2.0", Stage::Up, 32),
            ("up.2.1", Stage::Up, 32),
            ("up.2.2", Stage::Up, 32),
            ("up.3.0", Stage::Up, 64),
            ("up.3.1", Stage::Up, 64),
            ("up.3.2", Stage::Up, 64),
        ]
        .map(|(path, stage, side)| site(path, stage, side))
        .into();
        let names = |sites: &[Site], latent: usize| {
            let plan = GocaSites::of(sites, Grid::new(latent, latent)).unwrap();
            let name = |index: &usize| sites[*index].path.clone();
            (plan.grid.width, name(&plan.reference), plan.carriers.iter().map(name).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names(&sd1, 64), (64, "up.2.1".into(), "up.3.0 up.3.1 down.0.1".into()));
        let sdxl = [
            ("down.1", Stage::Down, 64),
            ("down.2", Stage::Down, 32),
            ("up.0", Stage::Up, 32),
            ("up.1", Stage::Up, 64),
        ];
        let sdxl = sdxl.map(|(path, stage, side)| site(path, stage, side));
        assert_eq!(names(&sdxl, 128), (64, "up.1".into(), "up.1 down.1".into()));
        assert_eq!(GocaSites::of(&[site("mid", Stage::Mid, 8)], Grid::new(8, 8)), None);
    }

    #[test]
    fn a_blur_keeps_what_is_flat_and_mirrors_at_the_border() {
        let flat = blurred(&[0.5; 12], Grid::new(3, 4));
        assert!(flat.iter().all(|value| (value - 0.5).abs() < 1e-6), "{flat:?}");
        assert!(blurred(&[0.25], Grid::new(1, 1)).iter().all(|value| (value - 0.25).abs() < 1e-6));
        let mut map = vec![0.0; 25];
        map[0] = 1.0;
        let spread = blurred(&map, Grid::new(5, 5));
        // The corner is read once, its neighbour's mirror image is the neighbour on the other side.
        assert!(spread[0] > spread[1] && spread[1] > spread[2] && spread[3] == 0.0, "{spread:?}");
        assert_eq!(spread[1], spread[5]);
    }

    #[test]
    fn rows_that_are_repeated_count_as_often() {
        // Uniform attention: every product is that of the two grids' shares of a cell.
        let (coarse, fine) = (site("a", Stage::Up, 2), site("b", Stage::Up, 4));
        let found = agreement((&coarse, &[0.25; 16]), (&fine, &[1.0 / 16.0; 256]), Grid::new(4, 4));
        assert!((found - 16.0 * 16.0 * 0.25 / 16.0).abs() < 1e-6, "{found}");
    }
}
