//! The maps of every token and word of a prompt, and what words take from each other in them.

use super::OfTokens;
use super::goca::Goca;
use super::layout::Layout;
use super::places::{ConnectedRegion, places, region};
use crate::figures::largest;
use crate::trace::{Grid, WordInfo};

/// Maps of every token and of the chosen words, on the latent grid.
///
/// Unit: attention probability summed over the steps, as DAAM has it and as `heatmaps.safetensors`
/// stores it. Divide by [`steps`](Self::steps) for the mean per step. `docs/NUMBERS.md` defines
/// every quantity.
#[derive(Debug, Clone, Default)]
pub struct Heatmaps {
    /// The latent grid.
    pub grid: Grid,
    /// Number of steps that were summed.
    pub steps: usize,
    /// `[T, height, width]`: the attention to the start token, the prompt tokens and the first end
    /// token, before the words compete.
    pub tokens: Vec<f32>,
    /// `[P, height, width]`: the same of the tokens of words that are not in the prompt, where the
    /// run was asked about any. [`WordInfo::tokens`] numbers them after the tokens and the padding
    /// (see [`probe_words`](crate::trace::probe_words)).
    pub probes: Vec<f32>,
    /// `[W, height, width]`: one map per word of [`chosen`](Self::chosen), as
    /// [`map_of`](Self::map_of) makes it.
    pub words: Vec<f32>,
    /// The words, in the order of [`words`](Self::words).
    pub chosen: Vec<WordInfo>,
    /// `[T + 1]`: every token's share of all attention (0 to 1), before any resizing; the last is
    /// all padding. They sum to 1, but where attention is joint.
    pub shares: Vec<f32>,
    /// The image's own share of all attention where attention is joint, else 0; with `shares` it
    /// sums to 1.
    pub image_share: f32,
    /// `[P]`: the mean probability of each probe's token, which is no part of the shares above.
    pub probe_shares: Vec<f32>,
    /// The sites that went in, by position in the trace.
    pub sites: Vec<usize>,
    /// What the maps of a word's tokens make together.
    pub of_tokens: OfTokens,
    /// How the words compete, where they do.
    pub competition: Option<Competition>,
    /// What makes the words' maps, where they are GoCA's.
    pub goca: Option<Goca>,
    /// `[T + 1 + P]`, the padding between tokens and probes: what stands for a token's share where
    /// the maps are not of the places' attention. Of concepts it is the mean of the token's part of
    /// the map. Of the text's own queries it is what the token gives to the image in all.
    pub own_shares: Option<Vec<f32>>,
    /// `[T]`: which tokens are another encoder's than the chosen one; empty where both count. Their
    /// maps and shares are 0, and what they got is in the padding's share.
    pub silent: Vec<bool>,
}

/// What the words of a prompt compete for; see [`Aggregate::compete`](super::Aggregate::compete).
#[derive(Debug, Clone, Default)]
pub struct Competition {
    /// The exponent.
    pub power: f32,
    /// `[height, width]`: the attention to all tokens of the text together, and in each cell as
    /// much again as they have in a cell on average. That part goes to no word. Without it a cell
    /// that hardly looks at the text would be shared out whole. A prompt's only word would get all
    /// of every cell.
    pub total: Vec<f32>,
    /// `[T]`: which tokens are the text's and take part.
    pub takes_part: Vec<bool>,
}

impl Competition {
    /// Of the words of a prompt whose tokens have the maps `tokens` `[T, height, width]` on `grid`.
    pub fn new(power: f32, tokens: &[f32], grid: Grid, takes_part: Vec<bool>) -> Self {
        let mut total = vec![0.0f32; grid.cells()];
        for (token, _) in tokens.chunks_exact(grid.cells()).zip(&takes_part).filter(|(_, takes_part)| **takes_part) {
            total.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
        }
        let mean = total.iter().sum::<f32>() / grid.cells().max(1) as f32;
        total.iter_mut().for_each(|sum| *sum += mean);
        Self { power, total, takes_part }
    }
}

impl Heatmaps {
    /// The attention to one token, `[height, width]`, before the words compete.
    pub fn token(&self, token: usize) -> &[f32] {
        &self.tokens[token * self.grid.cells()..][..self.grid.cells()]
    }

    /// The map of one chosen word, `[height, width]`.
    pub fn word(&self, word: usize) -> &[f32] {
        &self.words[word * self.grid.cells()..][..self.grid.cells()]
    }

    /// `[W, height, width]`: the maps of all chosen words, mean over the steps.
    pub fn words_per_step(&self) -> Vec<f32> {
        let steps = self.steps.max(1) as f32;
        self.words.iter().map(|value| value / steps).collect()
    }

    /// Number of tokens, `T`.
    pub fn token_count(&self) -> usize {
        self.shares.len() - 1
    }

    /// A word's share of all attention: the sum of its tokens' shares. For a probe, what it would
    /// take of the prompt's. Where the maps are of something else, see
    /// [`own_shares`](Self::own_shares).
    pub fn share(&self, word: &WordInfo) -> f32 {
        if let Some(own) = &self.own_shares {
            let heard = || word.tokens.iter().filter(|&&token| !self.is_silent(token));
            let sum: f32 = heard().filter_map(|&token| own.get(token)).sum();
            return match self.of_tokens {
                OfTokens::Sum => sum,
                OfTokens::Mean => sum / heard().count().max(1) as f32,
            };
        }
        let shares = || self.shares.iter().chain(&self.probe_shares);
        word.tokens.iter().filter_map(|&token| shares().nth(token)).sum()
    }

    /// Whether `token` is another encoder's than the chosen one, so that it has no map.
    pub fn is_silent(&self, token: usize) -> bool {
        self.silent.get(token) == Some(&true)
    }

    /// Whether `word` is a probe and no word of the prompt.
    pub fn is_probe(&self, word: &WordInfo) -> bool {
        word.tokens.first().is_some_and(|&token| token > self.token_count())
    }

    /// The map of any word of the prompt or probe, `[height, width]`: the attention to its tokens
    /// together. Where words compete it is the word's part. A probe competes with the prompt's
    /// text.
    pub fn map_of(&self, word: &WordInfo) -> Vec<f32> {
        self.map_of_tokens(&word.tokens)
    }

    /// As [`map_of`](Self::map_of), of any tokens as if they were a word.
    pub fn map_of_tokens(&self, tokens: &[usize]) -> Vec<f32> {
        if let Some(goca) = &self.goca {
            return goca.map(tokens);
        }
        let mut map = self.attention(tokens);
        if let Some(Competition { power, total, takes_part }) = &self.competition {
            let probe = tokens.first().is_some_and(|&token| token > self.token_count());
            if probe {
                let total: Vec<f32> = total.iter().zip(&map).map(|(total, own)| total + own).collect();
                share_out(&mut map, &total, *power);
            } else if tokens.iter().any(|&token| takes_part.get(token) == Some(&true)) {
                share_out(&mut map, total, *power);
            }
        }
        map
    }

    /// The attention to `tokens` together, `[height, width]`, before the words compete; tokens that
    /// have no map are left out.
    pub fn attention(&self, tokens: &[usize]) -> Vec<f32> {
        let mut sum = vec![0.0; self.grid.cells()];
        let mut count = 0;
        for map in tokens.iter().filter_map(|&token| self.channel(token)) {
            sum.iter_mut().zip(map).for_each(|(sum, value)| *sum += value);
            count += 1;
        }
        if self.of_tokens == OfTokens::Mean {
            sum.iter_mut().for_each(|value| *value /= count.max(1) as f32);
        }
        sum
    }

    /// The map of a channel: a token, or a probe's token. The padding between them has none, nor
    /// has a silent token.
    fn channel(&self, channel: usize) -> Option<&[f32]> {
        let (cells, count) = (self.grid.cells(), self.token_count());
        match channel.checked_sub(count + 1) {
            Some(probe) => self.probes.chunks_exact(cells).nth(probe),
            None => self.tokens.chunks_exact(cells).nth(channel).filter(|_| !self.is_silent(channel)),
        }
    }

    /// The separate places where one chosen word reaches `threshold` times its maximum, largest
    /// share first.
    pub fn places(&self, word: usize, threshold: f32) -> Vec<ConnectedRegion> {
        let map = self.word(word);
        places(&region(map, self.grid, threshold), map)
    }

    /// Layout statistics of one chosen word; see [`Layout`] for `threshold`.
    pub fn layout(&self, word: usize, threshold: f32) -> Layout {
        let share = self.share(&self.chosen[word]);
        Layout::of(self.word(word), self.grid, self.steps.max(1) as f32, share, threshold)
    }
}

/// `map` as its share of `total` to a power, scaled so that its highest value is what it was.
fn share_out(map: &mut [f32], total: &[f32], power: f32) {
    let highest = largest(map.iter().copied());
    let shared =
        |(value, total): (&mut f32, &f32)| *value = if *total > 0.0 { (*value / total).powf(power) } else { 0.0 };
    map.iter_mut().zip(total).for_each(shared);
    let top = largest(map.iter().copied());
    if top > 0.0 {
        map.iter_mut().for_each(|value| *value *= highest / top);
    }
}
