//! The channels of a map on the page: those of the prompt, then of the probes, then of the negative
//! prompt's words.

use crate::trace::{AttentionKind, Buffer, Half, HalfMaps, PromptInfo, SiteMaps, Trace, WordInfo};
use half::f16;
use half::slice::HalfFloatSliceExt;

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

/// A site's sums over the steps, `[heads, channels, height, width]`, and its means over the heads,
/// `[steps, channels, height, width]`. `None` unless all parts that stand beside each other have
/// them.
pub(super) fn of_site(
    trace: &Trace,
    negative: Option<&NegativeHalf>,
    site: usize,
) -> (Buffer<f32>, Option<Buffer<f16>>) {
    let recording = &trace.recording;
    let own = &recording.conditional;
    let every = |channels: usize| (0..channels).collect::<Vec<usize>>();
    let stored = &recording.sites[site];
    let joint = stored.kind == AttentionKind::Joint;
    let with_image = joint.then(|| merged(trace, &own.sites[site], stored.channels(own.tokens), stored.heads));
    let maps = with_image.as_ref().unwrap_or(&own.sites[site]);
    let mut parts = vec![ChannelPart { maps, channels: own.tokens + 1, taken: every(own.tokens + 1) }];
    if let Some(probes) = &recording.probes {
        parts.push(ChannelPart { maps: &probes.sites[site], channels: probes.tokens, taken: every(probes.tokens) });
    }
    if let Some(negative) = negative {
        let (maps, channels) = (&negative.maps.sites[site], stored.channels(negative.maps.tokens));
        parts.push(ChannelPart { maps, channels, taken: negative.kept.clone() });
    }
    if let [only] = &parts[..] {
        return (only.maps.sum.clone(), only.maps.steps.clone());
    }
    let sums: Vec<&[f32]> = parts.iter().map(|part| &part.maps.sum[..]).collect();
    let sum = beside(&parts, &sums, recording.sites[site].heads);
    let steps: Option<Vec<&[f16]>> = parts.iter().map(|part| part.maps.steps.as_deref()).collect();
    (sum, steps.map(|steps| beside(&parts, &steps, trace.steps())))
}

/// `maps` of `channels` channels with the last two, padding and image, as one.
fn merged(trace: &Trace, maps: &SiteMaps, channels: usize, heads: usize) -> SiteMaps {
    let steps = |steps: &Buffer<f16>| {
        let values = last_two_as_one(&steps.to_f32_vec(), channels, trace.steps());
        values.into_iter().map(f16::from_f32).collect::<Vec<_>>().into()
    };
    SiteMaps { sum: last_two_as_one(&maps.sum, channels, heads).into(), steps: maps.steps.as_ref().map(steps) }
}

/// `values` `[groups, channels, cells]` with the last two channels added.
fn last_two_as_one(values: &[f32], channels: usize, groups: usize) -> Vec<f32> {
    let group_len = values.len() / groups.max(1);
    let cells = group_len / channels;
    let mut out = Vec::with_capacity(values.len());
    for group in values.chunks_exact(group_len.max(1)) {
        let (rest, image) = group.split_at(group_len - cells);
        out.extend_from_slice(rest);
        let start = out.len() - cells;
        out[start..].iter_mut().zip(image).for_each(|(sum, value)| *sum += value);
    }
    out
}

/// Channels that stand beside others.
struct ChannelPart<'a> {
    maps: &'a SiteMaps,
    channels: usize,
    taken: Vec<usize>,
}

/// The `values` of `parts`, each of `groups` groups of channels, as groups that hold the taken
/// channels of all.
fn beside<T: Copy>(parts: &[ChannelPart], values: &[&[T]], groups: usize) -> Buffer<T> {
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
