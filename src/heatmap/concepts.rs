//! ConceptAttention's maps (Helbling et al. 2025): what each place's attention output is most like,
//! among the concepts that a run was asked about.

use super::{Aggregate, Filter, Resampler};
use crate::argument::{AGGREGATE, CONCEPTS, HEADS, LAYERS};
use crate::trace::{ConceptMaps, Grid, PromptInfo, Site, Trace, WordInfo, whole_words};
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;

/// What stands in the way of concept maps.
fn none_kept() -> Error {
    let reason = format!("the run kept no concepts at these layers; make it again with {CONCEPTS}");
    Error::argument(AGGREGATE, reason)
}

/// The concepts' maps on the grid of the sites.
pub(super) struct ConceptShares {
    grid: Grid,
    /// `[concepts, height, width]`: the mean over the sites of each concept's share of a place,
    /// summed over the steps.
    shares: Vec<f32>,
    /// The tokens of each concept in the prompt and the probes, in the numbers of
    /// [`WordInfo::tokens`]. There is one list for each time that it stands there.
    tokens: Vec<Vec<Vec<usize>>>,
}

impl ConceptShares {
    /// Of the `chosen` sites of `trace` and the steps of `window`.
    ///
    /// At each place the softmax over the concepts is taken, per site and step, and the mean over
    /// the sites.
    ///
    /// # Errors
    /// [`Error::Argument`] where the run kept none, or heads are asked for.
    pub(super) fn new(trace: &Trace, how: &Aggregate, chosen: &[usize], window: &Range<usize>) -> Result<Self> {
        if how.heads.is_some() {
            return Err(Error::argument(HEADS, "concept maps are of all heads together; leave it out"));
        }
        let kept = trace.recording.concepts.as_ref().ok_or_else(none_kept)?;
        let of_site = |&index: &usize| Some((&trace.recording.sites[index], kept.sites[index].as_deref()?));
        let sites: Vec<(&Site, &[f32])> = chosen.iter().filter_map(of_site).collect();
        let Some((first, _)) = sites.first() else { return Err(none_kept()) };
        let grid = Grid::new(first.height, first.width);
        if sites.iter().any(|(site, _)| Grid::new(site.height, site.width) != grid) {
            return Err(Error::argument(LAYERS, "concept maps are of layers of one grid"));
        }
        let cells = grid.cells();
        let plane = kept.concepts * cells;
        let count = sites.len() as f32;
        let mut shares = vec![0.0; plane];
        for step in window.clone() {
            for (_, scores) in &sites {
                add_softmax(&scores[step * plane..][..plane], cells, 1.0 / count, &mut shares);
            }
        }
        Ok(Self { grid, shares, tokens: tokens(trace, kept) })
    }

    /// The maps of some channels, the prompt's tokens or the probes', on `latent`: each of a
    /// concept's tokens has an equal part of its map.
    pub(super) fn channels(&self, latent: Grid, channels: &Range<usize>) -> Vec<f32> {
        let resampler = Resampler::new(self.grid, latent, Filter::Bicubic);
        let mut maps = vec![0.0; channels.len() * latent.cells()];
        let large: Vec<Vec<f32>> = self
            .shares
            .par_chunks(self.grid.cells().max(1))
            .map(|share| resampler.resize(share).into_iter().map(|value| value.max(0.0)).collect())
            .collect();
        self.share_out(channels, |concept, channel, part| {
            let map = &mut maps[channel * latent.cells()..][..latent.cells()];
            map.iter_mut().zip(&large[concept]).for_each(|(map, value)| *map += value * part);
        });
        maps
    }

    /// Each channel's mean share in a region, over `steps` steps. `inside` says how much of each
    /// cell of a grid lies in it.
    pub(super) fn channel_shares(
        &self,
        channels: &Range<usize>,
        steps: usize,
        inside: &dyn Fn(Grid) -> Vec<f32>,
    ) -> Vec<f32> {
        let region = inside(self.grid);
        let covered: f32 = region.iter().sum::<f32>() * steps.max(1) as f32;
        let mean = |share: &[f32]| share.iter().zip(&region).map(|(share, part)| share * part).sum::<f32>() / covered;
        let means: Vec<f32> = self.shares.chunks_exact(self.grid.cells().max(1)).map(mean).collect();
        let mut shares = vec![0.0; channels.len()];
        self.share_out(channels, |concept, channel, part| shares[channel] += means[concept] * part);
        shares
    }

    /// Calls `add` with each concept, each of its channels within `channels` (counted from there),
    /// and the part of the concept that it has.
    fn share_out(&self, channels: &Range<usize>, mut add: impl FnMut(usize, usize, f32)) {
        for (concept, places) in self.tokens.iter().enumerate() {
            for tokens in places {
                for token in tokens.iter().filter(|token| channels.contains(token)) {
                    add(concept, token - channels.start, 1.0 / tokens.len() as f32);
                }
            }
        }
    }
}

/// Adds `weight` times the softmax over the concepts of `scores` `[concepts, cells]` to `sum`.
fn add_softmax(scores: &[f32], cells: usize, weight: f32, sum: &mut [f32]) {
    for cell in 0..cells {
        let column = || scores[cell..].iter().step_by(cells);
        let most = column().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = column().map(|score| (score - most).exp()).sum();
        for (sum, score) in sum[cell..].iter_mut().step_by(cells).zip(column()) {
            *sum += weight * (score - most).exp() / total;
        }
    }
}

/// The tokens of `text` for each time that it stands in `prompt`, also within a word that is a
/// whole tag.
fn standing(prompt: &PromptInfo, text: &str) -> Vec<Vec<usize>> {
    let words = prompt.select(text).unwrap_or_default();
    let mut found: Vec<Vec<usize>> = words.into_iter().map(|word| word.tokens).collect();
    let none = found.is_empty();
    for range in whole_words(&prompt.text, text) {
        let in_tag = |word: &WordInfo| {
            word.start <= range.start && range.end <= word.end && word.text.contains(char::is_whitespace)
        };
        let tokens = prompt.tokens_within(&range);
        // What is a word of its own was found as one.
        let is_new = !tokens.iter().any(|token| found.iter().any(|other| other.contains(token)));
        if !tokens.is_empty() && is_new && (none || prompt.words.iter().any(in_tag)) {
            found.push(tokens);
        }
    }
    found
}

/// Where each concept stands in the prompt or among the probes.
fn tokens(trace: &Trace, kept: &ConceptMaps) -> Vec<Vec<Vec<usize>>> {
    let about = &trace.about;
    let probes = trace.probe_words(crate::trace::Half::Conditional);
    let of = |index: usize| -> Vec<Vec<usize>> {
        let Some(concept) = about.concepts.get(index) else { return Vec::new() };
        let mut asked = about.probes.iter().zip(&probes);
        let probe = asked.find(|(probe, _)| !concept.tokens.is_empty() && probe.text == concept.text);
        standing(&about.prompt, &concept.text).into_iter().chain(probe.map(|(_, word)| word.tokens.clone())).collect()
    };
    (0..kept.concepts).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::{add_softmax, standing};
    use crate::trace::{PromptInfo, TokenInfo, TokenKind, WordInfo};

    #[test]
    fn concepts_share_each_cell_out() {
        // Two concepts over three cells, the second of which has a large lead.
        let scores = [0.0, 1000.0, 2.0f32.ln(), 0.0, -1000.0, 0.0];
        let mut sum = vec![0.0; 6];
        add_softmax(&scores, 3, 0.5, &mut sum);
        let expected = [0.25, 0.5, 1.0 / 3.0, 0.25, 0.0, 1.0 / 6.0];
        assert!(sum.iter().zip(expected).all(|(sum, expected)| (sum - expected).abs() < 1e-6), "{sum:?}");
    }

    /// In whatever case it is typed, and beside a tag that is the concept alone.
    #[test]
    fn a_concept_stands_in_every_tag_that_has_it() {
        let text = "frog, a green Frog, a bullfrog";
        let token = |start, end| TokenInfo { id: 1, text: String::new(), kind: TokenKind::Text, start, end };
        let tokens = vec![token(0, 4), token(6, 7), token(8, 13), token(14, 18), token(20, 21), token(22, 30)];
        let word = |range: std::ops::Range<usize>, tokens: &[usize]| WordInfo {
            text: text[range.clone()].into(),
            start: range.start,
            end: range.end,
            tokens: tokens.to_vec(),
            occurrence: 1,
        };
        let tags = vec![word(0..4, &[0]), word(6..18, &[1, 2, 3]), word(20..30, &[4, 5])];
        let prompt = PromptInfo { text: text.into(), tokens, words: tags };
        assert_eq!(standing(&prompt, "frog"), [vec![0], vec![3]]);
        assert_eq!(standing(&prompt, "GREEN  frog"), [vec![2, 3]]);
        assert_eq!(standing(&prompt, "Bullfrog"), [vec![5]]);
        assert!(standing(&prompt, "bull").is_empty());
    }
}
