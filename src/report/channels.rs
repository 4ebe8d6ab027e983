//! The channels of a map on the page: those of the prompt, then of the probes, then of the negative prompt's words.

use crate::trace::{Buffer, Half, HalfMaps, PromptInfo, SiteMaps, Trace, WordInfo};
use half::f16;

/// The negative prompt's words, where it has some and its half was recorded.
pub(super) struct NegativeHalf<'a> {
    /// The negative prompt.
    pub prompt: &'a PromptInfo,
    /// The tokens that its words have, in order: the channels of its half that the page holds.
    pub kept: Vec<usize>,
    maps: &'a HalfMaps,
}

impl<'a> NegativeHalf<'a> {
    pub(super) fn of(trace: &'a Trace) -> Option<Self> {
        let (maps, prompt) = trace.half(Half::Unconditional).filter(|(_, prompt)| !prompt.words.is_empty())?;
        let mut kept: Vec<usize> = prompt.words.iter().flat_map(|word| word.tokens.iter().copied()).collect();
        kept.sort_unstable();
        kept.dedup();
        Some(Self { prompt, kept, maps })
    }

    /// The positions of the word's tokens in [`kept`](Self::kept).
    pub(super) fn positions(&self, word: &WordInfo) -> Vec<usize> {
        word.tokens.iter().filter_map(|token| self.kept.binary_search(token).ok()).collect()
    }
}

/// A site's sums over the steps, `[heads, channels, height, width]`, and its means over the heads, `[steps, channels, height, width]`, where
/// all that stands beside each other has them.
pub(super) fn of_site(
    trace: &Trace,
    negative: Option<&NegativeHalf>,
    site: usize,
) -> (Buffer<f32>, Option<Buffer<f16>>) {
    let recording = &trace.recording;
    let own = &recording.conditional;
    let every = |channels: usize| (0..channels).collect::<Vec<usize>>();
    let mut parts = vec![Part { maps: &own.sites[site], channels: own.tokens + 1, taken: every(own.tokens + 1) }];
    if let Some(probes) = &recording.probes {
        parts.push(Part { maps: &probes.sites[site], channels: probes.tokens, taken: every(probes.tokens) });
    }
    if let Some(negative) = negative {
        let (maps, channels) = (&negative.maps.sites[site], negative.maps.tokens + 1);
        parts.push(Part { maps, channels, taken: negative.kept.clone() });
    }
    if let [only] = &parts[..] {
        return (only.maps.sum.clone(), only.maps.steps.clone());
    }
    let sums: Vec<&[f32]> = parts.iter().map(|part| &part.maps.sum[..]).collect();
    let sum = beside(&parts, &sums, recording.sites[site].heads);
    let steps: Option<Vec<&[f16]>> = parts.iter().map(|part| part.maps.steps.as_deref()).collect();
    (sum, steps.map(|steps| beside(&parts, &steps, trace.steps())))
}

/// Channels that stand beside others.
struct Part<'a> {
    maps: &'a SiteMaps,
    channels: usize,
    taken: Vec<usize>,
}

/// The `values` of `parts`, each of `groups` groups of channels, as groups that hold the taken channels of all.
fn beside<T: Copy>(parts: &[Part], values: &[&[T]], groups: usize) -> Buffer<T> {
    let mut out = Vec::new();
    for group in 0..groups {
        for (part, values) in parts.iter().zip(values) {
            let cells = values.len() / (groups * part.channels).max(1);
            for channel in &part.taken {
                out.extend_from_slice(&values[(group * part.channels + channel) * cells..][..cells]);
            }
        }
    }
    out.into()
}
