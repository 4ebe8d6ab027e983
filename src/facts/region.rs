//! Which words a region of the image belongs to.

use super::compute::with_marks;
use super::lexicon;
use crate::Result;
use crate::figures::largest;
use crate::heatmap::{self, Aggregate, Shares};
use crate::trace::{Grid, PromptInfo, SelfAttention, TokenInfo, TokenKind, Trace, WordInfo};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::HashMap;

/// A part of an image, whatever grid it is looked at on.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// The box from left and top to right and bottom, in pixels of an image.
    Box([f64; 4], Grid),
    /// A pixel of an image: x and y.
    Point([f64; 2], Grid),
    /// The pixels of a mask that are in, and its size.
    Mask(Vec<bool>, Grid),
}

impl Place {
    /// The region on `grid`; `None` where the place is empty, outside of the image, or a mask is
    /// smaller than the grid.
    pub fn on(&self, grid: Grid) -> Option<Region> {
        match self {
            Self::Box(bounds, image) => Region::of_box(grid, *image, *bounds),
            Self::Point([x, y], image) => Region::of_point(grid, *image, *x, *y),
            Self::Mask(mask, size) => Region::of_mask(grid, mask, *size),
        }
    }
}

/// How much each cell of a grid belongs to a region: 0 to 1, not all 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Region(Vec<f32>);

impl Region {
    /// The box from (`left`, `top`) to (`right`, `bottom`), in pixels of `image`: each cell by the
    /// share of it that is covered. `None` when the box is empty or outside of the image.
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

    /// The pixel of `image` that holds the point (`x`, `y`), as a box of one pixel; `None` outside
    /// of the image.
    pub fn of_point(grid: Grid, image: Grid, x: f64, y: f64) -> Option<Self> {
        if !(0.0..image.width as f64).contains(&x) || !(0.0..image.height as f64).contains(&y) {
            return None;
        }
        let (left, top) = (x.floor(), y.floor());
        Self::of_box(grid, image, [left, top, left + 1.0, top + 1.0])
    }

    /// A mask of `size` (of any size of at least the grid's): each cell by the share of its pixels
    /// that are in. `None` when the mask is empty or has another number of pixels.
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

    /// `[height, width]`: how much of each cell lies in the region.
    pub fn weights(&self) -> &[f32] {
        &self.0
    }

    fn of_weights(weights: Vec<f32>) -> Option<Self> {
        weights.iter().any(|&weight| weight > 0.0).then_some(Self(weights))
    }

    /// The share of `map`'s sum that lies in the region, 0 to 1. A region within one cell, as a
    /// point is, counts as the whole cell: maps are no finer.
    pub fn share(&self, map: &[f32]) -> f64 {
        let most = f64::from(self.0.iter().copied().fold(f32::MIN_POSITIVE, f32::max));
        let total: f64 = map.iter().map(|&value| f64::from(value)).sum();
        let inside: f64 = self.0.iter().zip(map).map(|(&part, &value)| f64::from(part) / most * f64::from(value)).sum();
        if total > 0.0 { inside / total } else { 0.0 }
    }

    /// The mean of `map` over the region, each cell by how much it belongs to it.
    pub fn mean(&self, map: &[f32]) -> f64 {
        let mass: f64 = self.0.iter().map(|&part| f64::from(part)).sum();
        let inside: f64 = self.0.iter().zip(map).map(|(&part, &value)| f64::from(part) * f64::from(value)).sum();
        if mass > 0.0 { inside / mass } else { 0.0 }
    }

    /// What the region's cells are tied to at the grid of `self_attention`, which must be the
    /// region's. It is the mean of their rows by how much each belongs to the region, and sums to
    /// 1.
    pub fn tied(&self, self_attention: &SelfAttention) -> Vec<f32> {
        let mass: f32 = self.0.iter().sum();
        let mut map = vec![0.0; self_attention.grid.cells()];
        for (row, weight) in
            self_attention.mean.chunks_exact(map.len()).zip(&self.0).filter(|(_, weight)| **weight > 0.0)
        {
            map.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight / mass * value.to_f32());
        }
        map
    }
}

/// One word's part in a region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionWord {
    /// The word, `apple#2` where repeated; `<start>`, `<end>` and `<padding>` for what surrounds
    /// the prompt.
    pub word: String,
    /// Whether it is the start token, the end token or the padding and no word.
    pub special: bool,
    /// Whether it is a word that the network was not given; its attention is what it would take
    /// from the prompt's tokens.
    #[serde(default)]
    pub probe: bool,
    /// The share of the region's attention that goes to the word, 0 to 1. It is the probability of
    /// its tokens together, mean over the region's cells, sites, heads and steps. Those of all
    /// tokens and the padding sum to 1.
    #[serde(alias = "attention")]
    pub share: f64,
    /// That, over the word's share of the whole image: above 1 the word is looked for here more
    /// than elsewhere.
    pub lift: f64,
    /// That share among the prompt's text alone, 0 to 1: without start, end and padding, and
    /// without the image's own keys where attention is joint. Absent for these and for probes.
    #[serde(default)]
    pub of_text: Option<f64>,
    /// The share of the region that lies in the word's area, 0 to 1: where its map reaches the
    /// threshold of its top. Absent for the start token, the end token and the padding, and where
    /// the map is zero.
    #[serde(default)]
    pub in_area: Option<f64>,
    /// Share of the word's change in prediction that lies in the region, 0 to 1, where the run has
    /// a causal test of the word.
    pub causal: Option<f64>,
    /// How much cutting the word changes the prediction here, where the run has a causal test of
    /// the word. It is the mean of its causal map over the region, in shares of the mean square of
    /// the whole prediction.
    #[serde(default)]
    pub change: Option<f64>,
    /// That, over the sum of all tested words: its part in what the words cause here, 0 to 1.
    #[serde(default)]
    pub cause: Option<f64>,
}

/// Below this share of the largest change in a place, a word's change there is too faint to count
/// among the causes.
const FAINT: f64 = 0.05;

/// Orders `parts`, which are of the words of `prompt`. The order is by which share of all that
/// cutting the word changes lies in the place, the highest first. A colour or the
/// like works through its noun: it follows that, and both come where the higher share of the two
/// is. Words that change hardly anything here come after the others, and words that were not tested
/// after those, as they were.
pub fn by_cause(parts: &mut [RegionWord], prompt: &PromptInfo) {
    let words: Vec<&WordInfo> = prompt.words.iter().collect();
    let (texts, places) = with_marks(&prompt.text, &words);
    let label = |at: usize| words[places[at]].label();
    let pairs = lexicon::bindings(&texts).into_iter();
    let pairs: Vec<(String, String)> = pairs.map(|(adjective, noun)| (label(adjective), label(noun))).collect();
    let noun_of = |word: &str| pairs.iter().find(|(adjective, _)| adjective == word).map(|(_, noun)| noun.clone());
    let group = |part: &RegionWord| noun_of(&part.word).unwrap_or_else(|| part.word.clone());
    let share = |part: &RegionWord| part.causal.unwrap_or(-1.0);
    // The largest change and the highest share of each group.
    let mut most: HashMap<String, [f64; 2]> = HashMap::new();
    for part in parts.iter() {
        let own = most.entry(group(part)).or_insert([-1.0; 2]);
        *own = [own[0].max(part.change.unwrap_or(-1.0)), own[1].max(share(part))];
    }
    let largest = largest(most.values().map(|own| own[0]));
    // Counted, faint, not tested; and the share.
    let of_group = |part: &RegionWord| match most.get(&group(part)) {
        Some(&[change, share]) if share >= 0.0 => (u8::from(change < FAINT * largest), share),
        _ => (2, -1.0),
    };
    parts.sort_by(|a, b| {
        let ((kind_a, share_a), (kind_b, share_b)) = (of_group(a), of_group(b));
        let groups = kind_a.cmp(&kind_b).then(share_b.total_cmp(&share_a));
        // Groups of one and the same share are kept apart, and a noun stands before what belongs to
        // it.
        let nouns = group(a).cmp(&group(b)).then(noun_of(&a.word).is_some().cmp(&noun_of(&b.word).is_some()));
        let tested = if kind_a < 2 { nouns } else { Ordering::Equal };
        groups.then(tested).then(share(b).total_cmp(&share(a)))
    });
}

/// Shares of the attention in `place`. A layer on whose grid it has no region ([`Place::on`])
/// counts with its whole grid.
///
/// # Errors
/// As [`heatmap::shares`].
pub(super) fn shares_in(trace: &Trace, how: &Aggregate, place: &Place) -> Result<Shares> {
    heatmap::shares(trace, how, &|grid| place.on(grid).map_or_else(|| vec![1.0; grid.cells()], |on| on.0))
}

/// `words` ranked by their share of the attention in `place`, highest first, then the probes
/// likewise, then the start and end tokens and the padding. An area begins at `threshold` times a
/// map's top. `causal` gives the causal map of a word, on the latent grid, by its position in
/// `words`.
///
/// # Errors
/// As [`heatmap::shares`] and [`heatmap::aggregate`].
pub fn rank<'a>(
    trace: &Trace,
    how: &Aggregate,
    words: &[WordInfo],
    place: &Place,
    threshold: f32,
    causal: &dyn Fn(usize) -> Option<&'a [f32]>,
) -> Result<Vec<RegionWord>> {
    let here = shares_in(trace, how, place)?;
    let whole = heatmap::shares(trace, how, &|grid| vec![1.0; grid.cells()])?;
    let prompt = trace.half(how.half).map_or(&trace.about.prompt, |(_, prompt)| prompt);
    let region = place.on(trace.about.latent);
    let maps = heatmap::aggregate(trace, how, words)?;
    let in_area = |index: usize| {
        let (map, region) = (maps.word(index), region.as_ref()?);
        let top = largest(map.iter().copied());
        let area: Vec<f32> = map.iter().map(|&value| f32::from(u8::from(value >= threshold * top))).collect();
        (top > 0.0).then(|| region.mean(&area))
    };
    let part = |word: String, special: bool, tokens: &[usize]| {
        let (share, everywhere) = (f64::from(here.of(tokens)), f64::from(whole.of(tokens)));
        let lift = if everywhere > 0.0 { share / everywhere } else { 0.0 };
        let (of_text, in_area) = (None, None);
        RegionWord {
            word,
            special,
            probe: false,
            share,
            lift,
            of_text,
            in_area,
            causal: None,
            change: None,
            cause: None,
        }
    };
    let is_text = |(at, token): (usize, &TokenInfo)| (token.kind == TokenKind::Text).then_some(at);
    let text: Vec<usize> = prompt.tokens.iter().enumerate().filter_map(is_text).collect();
    let all_text = f64::from(here.of(&text));
    let of_text = |word: &WordInfo| {
        let is_own = !prompt.is_special(word) && !prompt.is_probe(word) && all_text > 0.0;
        is_own.then(|| f64::from(here.of(&word.tokens)) / all_text)
    };
    let cut = |index: usize| causal(index).zip(region.as_ref());
    let changes: f64 = (0..words.len()).filter_map(cut).map(|(map, region)| region.mean(map)).sum();
    let word = |(index, word): (usize, &WordInfo)| RegionWord {
        probe: prompt.is_probe(word),
        special: prompt.is_special(word),
        of_text: of_text(word),
        in_area: in_area(index).filter(|_| !prompt.is_special(word)),
        causal: cut(index).map(|(map, region)| region.share(map)),
        change: cut(index).map(|(map, region)| region.mean(map)),
        cause: cut(index).filter(|_| changes > 0.0).map(|(map, region)| region.mean(map) / changes),
        ..part(word.label(), false, &word.tokens)
    };
    let mut parts: Vec<RegionWord> = words.iter().enumerate().map(word).collect();
    parts.sort_by(|a, b| (a.special, a.probe).cmp(&(b.special, b.probe)).then(b.share.total_cmp(&a.share)));
    // One of each for every chunk of a long prompt, and for each encoder's reading; they are
    // numbered as they can be chosen.
    let (mut starts, mut ends) = (0, 0);
    for (token, TokenInfo { kind, .. }) in prompt.tokens.iter().enumerate() {
        let (name, number) = match kind {
            TokenKind::Start => ("<start>", &mut starts),
            TokenKind::End => ("<end>", &mut ends),
            TokenKind::Text | TokenKind::Padding => continue,
        };
        *number += 1;
        let name = WordInfo::label_of(name, *number);
        if !maps.is_silent(token) && !parts.iter().any(|part| part.special && part.word == name) {
            parts.push(part(name, true, &[token]));
        }
    }
    parts.push(part("<padding>".into(), true, &[prompt.tokens.len()]));
    Ok(parts)
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
    fn a_colour_follows_its_noun_and_both_rank_by_the_higher_share() {
        let prompt = |text: &str| {
            let start = |word: &str| text.find(word).unwrap();
            let word = |word: &str| WordInfo {
                text: word.into(),
                start: start(word),
                end: start(word) + word.len(),
                tokens: Vec::new(),
                occurrence: 1,
            };
            let words = text.split([' ', ',']).filter(|word| !word.is_empty()).map(word).collect();
            PromptInfo { text: text.into(), words, ..PromptInfo::default() }
        };
        let order_of = |text: &str, found: [Option<(f64, f64)>; 5]| -> Vec<String> {
            let part = |(word, found): (&WordInfo, Option<(f64, f64)>)| RegionWord {
                word: word.text.clone(),
                special: false,
                probe: false,
                share: 0.0,
                lift: 0.0,
                of_text: None,
                in_area: None,
                causal: found.map(|(share, _)| share),
                change: found.map(|(_, change)| change),
                cause: None,
            };
            let prompt = prompt(text);
            let mut parts: Vec<RegionWord> = prompt.words.iter().zip(found).map(part).collect();
            by_cause(&mut parts, &prompt);
            parts.into_iter().map(|part| part.word).collect()
        };
        let order = |found| order_of("a red apple and frog", found);
        let even = |shares: [Option<f64>; 5]| order(shares.map(|share| share.map(|share| (share, 0.2))));
        assert_eq!(even([None, Some(0.5), Some(0.3), None, Some(0.4)]), ["apple", "red", "frog", "a", "and"]);
        assert_eq!(even([None, Some(0.1), Some(0.3), None, Some(0.4)]), ["frog", "apple", "red", "a", "and"]);
        assert_eq!(even([None, Some(0.1), None, None, Some(0.4)]), ["frog", "apple", "red", "a", "and"]);
        // What changes next to nothing here is no cause, however much of that lies here; a colour
        // speaks for its noun.
        let frog = Some((0.9, 0.004));
        assert_eq!(order([None, None, Some((0.3, 0.1)), None, frog]), ["apple", "red", "frog", "a", "and"]);
        let apple = Some((0.9, 0.004));
        let red = Some((0.2, 0.1));
        assert_eq!(order([None, red, apple, None, Some((0.4, 0.1))]), ["apple", "red", "frog", "a", "and"]);
        // Behind a comma it is another's.
        let apart = [Some((0.1, 0.1)), Some((0.2, 0.1)), None, Some((0.3, 0.1)), Some((0.6, 0.1))];
        assert_eq!(order_of("blue, frog, a red apple", apart), ["apple", "red", "frog", "blue", "a"]);
    }

    #[test]
    fn points_and_masks() {
        let point = Region::of_point(GRID, IMAGE, 31.9, 15.9).unwrap();
        // A pixel of the last cell alone, which has 8 x 8 of them.
        assert_eq!(point.weights(), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0 / 64.0]);
        assert!(Region::of_point(GRID, IMAGE, 32.0, 0.0).is_none());
        assert!(Region::of_point(GRID, IMAGE, -0.1, 0.0).is_none());
        let mask: Vec<bool> = (0..512).map(|pixel| pixel % 32 < 4).collect();
        assert_eq!(Region::of_mask(GRID, &mask, IMAGE).unwrap().0, [0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]);
        assert!(Region::of_mask(GRID, &[false; 512], IMAGE).is_none());
    }
}
