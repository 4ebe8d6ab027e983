//! Which words a region of the image belongs to.

use super::label;
use crate::heatmap::Heatmaps;
use crate::trace::{Grid, Ties, TokenKind, WordInfo};
use serde::{Deserialize, Serialize};

/// How much each cell of the latent grid belongs to a region: 0 to 1, not all 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Region(Vec<f32>);

impl Region {
    /// The box from (`left`, `top`) to (`right`, `bottom`), in pixels of `image`: each cell by the share of it that is covered.
    /// `None` when the box is empty or outside of the image.
    pub fn of_box(grid: Grid, image: Grid, [left, top, right, bottom]: [f64; 4]) -> Option<Self> {
        let covered = |index: usize, count: usize, pixels: usize, from: f64, to: f64| {
            let cell = pixels as f64 / count as f64;
            let (start, end) = (index as f64 * cell, (index + 1) as f64 * cell);
            ((to.min(end) - from.max(start)).max(0.0) / cell) as f32
        };
        let rows: Vec<f32> = (0..grid.height).map(|row| covered(row, grid.height, image.height, top, bottom)).collect();
        let columns: Vec<f32> =
            (0..grid.width).map(|column| covered(column, grid.width, image.width, left, right)).collect();
        Self::of_weights(rows.iter().flat_map(|row| columns.iter().map(move |column| row * column)).collect())
    }

    /// The cell that the pixel (`x`, `y`) of `image` lies in; `None` outside of the image.
    pub fn of_point(grid: Grid, image: Grid, x: f64, y: f64) -> Option<Self> {
        if !(0.0..image.width as f64).contains(&x) || !(0.0..image.height as f64).contains(&y) {
            return None;
        }
        let cell = |at: f64, count: usize, pixels: usize| (at * count as f64 / pixels as f64) as usize;
        let (row, column) = (cell(y, grid.height, image.height), cell(x, grid.width, image.width));
        Self::of_weights((0..grid.cells()).map(|at| if at == row * grid.width + column { 1.0 } else { 0.0 }).collect())
    }

    /// A mask of `size` (of any size of at least the grid's): each cell by the share of its pixels that are in.
    /// `None` when the mask is empty or has another number of pixels.
    pub fn of_mask(grid: Grid, mask: &[bool], size: Grid) -> Option<Self> {
        if mask.len() != size.cells() || size.height < grid.height || size.width < grid.width {
            return None;
        }
        let (mut inside, mut all) = (vec![0.0f32; grid.cells()], vec![0.0f32; grid.cells()]);
        for (pixel, &on) in mask.iter().enumerate() {
            let (row, column) = (pixel / size.width, pixel % size.width);
            let cell = row * grid.height / size.height * grid.width + column * grid.width / size.width;
            all[cell] += 1.0;
            inside[cell] += if on { 1.0 } else { 0.0 };
        }
        Self::of_weights(inside.iter().zip(&all).map(|(inside, all)| inside / all).collect())
    }

    fn of_weights(weights: Vec<f32>) -> Option<Self> {
        weights.iter().any(|&weight| weight > 0.0).then_some(Self(weights))
    }

    /// The mean of `map` over the region.
    pub fn mean(&self, map: &[f32]) -> f64 {
        let (sum, mass) = self.sums(map);
        sum / mass
    }

    /// The share of `map`'s sum that lies in the region, 0 to 1.
    pub fn share(&self, map: &[f32]) -> f64 {
        let total: f64 = map.iter().map(|&value| f64::from(value)).sum();
        if total > 0.0 { self.sums(map).0 / total } else { 0.0 }
    }

    /// What the region's cells are tied to at the grid of `ties`, which must be the region's: the mean of their rows by how much each belongs to
    /// the region; it sums to 1.
    pub fn tied(&self, ties: &Ties) -> Vec<f32> {
        let mass: f32 = self.0.iter().sum();
        let mut map = vec![0.0; ties.grid.cells()];
        for (row, weight) in ties.mean.chunks_exact(map.len()).zip(&self.0).filter(|(_, weight)| **weight > 0.0) {
            map.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight / mass * value.to_f32());
        }
        map
    }

    fn sums(&self, map: &[f32]) -> (f64, f64) {
        let weighted = |(sum, mass): (f64, f64), (&weight, &value): (&f32, &f32)| {
            (sum + f64::from(weight) * f64::from(value), mass + f64::from(weight))
        };
        self.0.iter().zip(map).fold((0.0, 0.0), weighted)
    }
}

/// One word's part in a region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The word, `apple#2` where repeated; `<start>` and `<end>` for the special tokens.
    pub word: String,
    /// Whether it is the start or end token and no word.
    pub special: bool,
    /// Whether it is a word that the network was not given; its attention is what it would take from the prompt's tokens.
    #[serde(default)]
    pub probe: bool,
    /// Mean attention probability of a step over the region, 0 to 1. A word of several tokens has the mean of its tokens.
    pub attention: f64,
    /// That, over the same mean of the whole image: above 1 the word looks here more than elsewhere.
    pub lift: f64,
    /// Share of the word's change in prediction that lies in the region, 0 to 1, where the run has a causal test of the word.
    pub causal: Option<f64>,
}

/// The words of `maps` ranked by their attention in `region`, highest first, then the probes likewise, then the start and end tokens. `causal` gives a word's
/// causal map by its position in [`Heatmaps::chosen`]; `kinds` the kinds of the tokens.
pub fn rank<'a>(
    maps: &Heatmaps,
    region: &Region,
    kinds: &[TokenKind],
    causal: &dyn Fn(usize) -> Option<&'a [f32]>,
) -> Vec<Part> {
    let steps = maps.steps.max(1) as f64;
    let part = |word: String, special: bool, map: &[f32], causal: Option<&[f32]>| {
        let everywhere = map.iter().map(|&value| f64::from(value)).sum::<f64>() / map.len() as f64;
        let here = region.mean(map);
        let lift = if everywhere > 0.0 { here / everywhere } else { 0.0 };
        let causal = causal.map(|map| region.share(map));
        Part { word, special, probe: false, attention: here / steps, lift, causal }
    };
    let words = maps.chosen.iter().enumerate();
    let word = |(index, word): (usize, &WordInfo)| {
        let probe = maps.is_probe(word);
        Part { probe, ..part(label(word), false, maps.word(index), causal(index)) }
    };
    let mut parts: Vec<Part> = words.map(word).collect();
    parts.sort_by(|a, b| a.probe.cmp(&b.probe).then(b.attention.total_cmp(&a.attention)));
    // One of each for every chunk of a long prompt.
    let mut chunk = 0;
    for (token, kind) in kinds.iter().enumerate().take(maps.token_count()) {
        chunk += usize::from(*kind == TokenKind::Start);
        let number = if chunk > 1 { format!("#{chunk}") } else { String::new() };
        match kind {
            TokenKind::Start => parts.push(part(format!("<start>{number}"), true, maps.token(token), None)),
            TokenKind::End => parts.push(part(format!("<end>{number}"), true, maps.token(token), None)),
            TokenKind::Text | TokenKind::Padding => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { height: 2, width: 4 };
    const IMAGE: Grid = Grid { height: 16, width: 32 };

    #[test]
    fn boxes_cover_shares_of_cells() {
        let region = Region::of_box(GRID, IMAGE, [4.0, 0.0, 16.0, 4.0]).unwrap();
        assert_eq!(region.0, [0.25, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(Region::of_box(GRID, IMAGE, [40.0, 0.0, 50.0, 4.0]).is_none());
        assert!(Region::of_box(GRID, IMAGE, [4.0, 4.0, 4.0, 8.0]).is_none());
        let all = Region::of_box(GRID, IMAGE, [-5.0, -5.0, 99.0, 99.0]).unwrap();
        assert_eq!(all.share(&[0.5; 8]), 1.0);
    }

    #[test]
    fn points_and_masks() {
        let point = Region::of_point(GRID, IMAGE, 31.9, 15.9).unwrap();
        assert_eq!(point.mean(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]), 2.0);
        assert!(Region::of_point(GRID, IMAGE, 32.0, 0.0).is_none());
        assert!(Region::of_point(GRID, IMAGE, -0.1, 0.0).is_none());
        let mask: Vec<bool> = (0..512).map(|pixel| pixel % 32 < 4).collect();
        assert_eq!(Region::of_mask(GRID, &mask, IMAGE).unwrap().0, [0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]);
        assert!(Region::of_mask(GRID, &[false; 512], IMAGE).is_none());
    }
}
