//! From a trace to one map per token and one per word.

use super::concepts::ConceptShares;
use super::goca::Goca;
use super::layout::Layout;
use super::places::{ConnectedRegion, places, region};
use super::{Aggregate, Encoder, Filter, Measure, OfTokens, QuerySource, Resampler};
use crate::argument::{
    AGGREGATE, ENCODER, GUIDANCE, HALF, HEADS, KEEP_GOCA, NO_STEP_MAPS, QUERIES, STEPS_WINDOW, TEXT_QUERIES,
    TRACE_NEGATIVE,
};
use crate::figures::largest;
use crate::trace::{
    AttentionKind, Grid, Half, HalfMaps, PromptInfo, Site, SiteMaps, TokenInfo, TokenKind, Trace, WordInfo,
};
use crate::{Error, Result};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Why heads and a window of steps cannot both be chosen.
pub fn heads_and_steps() -> String {
    format!(
        "cannot be combined with {HEADS}: the trace keeps every head summed over the steps, and every step averaged \
         over the heads; give one of the two"
    )
}

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

/// What the words of a prompt compete for; see [`Aggregate::compete`].
#[derive(Debug, Clone, Default)]
pub struct Competition {
    /// The exponent.
    pub power: f32,
    /// `[height, width]`: the attention to all tokens of the text together.
    pub text: Vec<f32>,
    /// `[T]`: which tokens are the text's and take part.
    pub takes_part: Vec<bool>,
}

impl Competition {
    /// Of the words of a prompt whose tokens have the maps `tokens` `[T, height, width]` on `grid`.
    pub fn new(power: f32, tokens: &[f32], grid: Grid, takes_part: Vec<bool>) -> Self {
        let mut text = vec![0.0f32; grid.cells()];
        for (token, _) in tokens.chunks_exact(grid.cells()).zip(&takes_part).filter(|(_, takes_part)| **takes_part) {
            text.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
        }
        Self { power, text, takes_part }
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
        if let Some(Competition { power, text, takes_part }) = &self.competition {
            let probe = tokens.first().is_some_and(|&token| token > self.token_count());
            if probe {
                let total: Vec<f32> = text.iter().zip(&map).map(|(text, own)| text + own).collect();
                share_out(&mut map, &total, *power);
            } else if tokens.iter().any(|&token| takes_part.get(token) == Some(&true)) {
                share_out(&mut map, text, *power);
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

/// Makes the maps of `trace` as `how` says, and those of `words` (usually all of the prompt's, or a
/// selection).
///
/// Each chosen site is resized to the latent grid with torch's bicubic, a head at a time, clamped
/// at 0, and all are averaged. With a window of steps the heads come already averaged, since the
/// trace keeps single steps so. The clamp then acts on their mean. A word's map is made of its
/// tokens' by [`Aggregate::of_tokens`]; then the words compete where [`Aggregate::compete`] says
/// so, a probe with the prompt's text. With [`Aggregate::encoder`] the other encoder's tokens have
/// neither map nor share, and their shares are the padding's.
///
/// # Errors
/// [`Error::Argument`] when no site is left, or when heads and a window of steps are both asked
/// for. The same when one encoder is asked for and the prompt has one reading. The same when single
/// steps or the half were not recorded, or a head or step does not exist. [`Error::Trace`] when the
/// trace holds NaN.
pub fn aggregate(trace: &Trace, how: &Aggregate, words: &[WordInfo]) -> Result<Heatmaps> {
    let (maps, prompt) = half(trace, how)?;
    let (sites, grid) = (&trace.recording.sites, trace.about.latent);
    let chosen = how.choose(sites, grid)?;
    let silent = how.silent(prompt)?;
    let everywhere = |grid: Grid| vec![1.0; grid.cells()];
    let source =
        |stored, channels: &dyn Fn(&Site) -> usize| sources(trace, stored, channels, how, &chosen, &everywhere);
    let stored_channels = |site: &Site| site.channels(maps.tokens);
    let window = window(trace, how)?;
    let count = maps.tokens;
    // Shares are of the places' attention, whatever is mapped.
    let mapped = if how.is_of_places() { count } else { 0 };
    let (mut tokens, mut shares) =
        averaged(trace, &source(&maps.sites, &stored_channels)?, &window, mapped, count + 1)?;
    silence(&silent, &mut tokens, grid.cells());
    shares[count] += silence(&silent, &mut shares[..count], 1);
    let (mut probes, mut probe_shares) = match trace.probes(how.half) {
        Some((maps, _)) => averaged(trace, &source(&maps.sites, &|_| maps.tokens)?, &window, maps.tokens, maps.tokens)?,
        None => Default::default(),
    };
    let asked: usize = trace.about.probes.iter().map(|probe| probe.tokens.len()).sum();
    let mut own_shares = None;
    let takes_part = || -> Vec<bool> {
        let part = |(at, token): (usize, &TokenInfo)| token.kind == TokenKind::Text && silent.get(at) != Some(&true);
        prompt.tokens.iter().enumerate().map(part).collect()
    };
    let goca = match how.measure {
        Measure::Goca => Some(of_goca(trace, how, words, &takes_part())?),
        _ => None,
    };
    if how.measure == Measure::Concepts {
        let concepts = of_concepts(trace, how, &chosen, &window)?;
        let all = 0..count + 1 + asked;
        tokens = concepts.channels(grid, &(0..count));
        probes = concepts.channels(grid, &(count + 1..count + 1 + asked));
        let shares = concepts.channel_shares(&all, window.len(), &everywhere);
        probe_shares = shares[count + 1..].to_vec();
        own_shares = Some(shares);
    } else if let Some(goca) = &goca {
        tokens = goca.tokens(count);
        let mut shares = goca.means(&everywhere);
        shares.resize(count + 1 + asked, 0.0);
        own_shares = Some(shares);
    } else if how.queries == QuerySource::Text {
        let (mut of_text, mut means) =
            averaged(trace, &source(text_queries(trace)?, &|_| count)?, &window, count, count)?;
        silence(&silent, &mut of_text, grid.cells());
        silence(&silent, &mut means, 1);
        tokens = of_text;
        let cells = chosen.first().map_or(0, |&site| sites[site].height * sites[site].width) as f32;
        own_shares = Some(means.into_iter().map(|mean| mean * cells).collect());
    }
    let competition = how.compete.map(|power| Competition::new(power, &tokens, grid, takes_part()));
    let joint = chosen.iter().any(|&index| sites[index].kind == AttentionKind::Joint);
    let image_share = if joint { (1.0 - shares.iter().sum::<f32>()).max(0.0) } else { 0.0 };
    let mut maps = Heatmaps {
        grid,
        steps: window.len(),
        tokens,
        probes,
        words: Vec::new(),
        chosen: words.to_vec(),
        image_share,
        shares,
        probe_shares,
        sites: chosen,
        // A word's tokens look each for itself, and what they see is not shared out.
        of_tokens: if how.queries == QuerySource::Text { OfTokens::Mean } else { how.of_tokens },
        competition,
        goca,
        own_shares,
        silent,
    };
    maps.words = words.iter().flat_map(|word| maps.map_of(word)).collect();
    Ok(maps)
}

/// How the attention of a region is shared out: each token's share of what the soft-max gives out
/// there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shares {
    /// `[T + 1]`: the tokens of the prompt, and all padding last; they sum to 1, but where
    /// attention is joint.
    pub tokens: Vec<f32>,
    /// `[P]`: the tokens of the probes, which are no part of that sum.
    pub probes: Vec<f32>,
}

impl Shares {
    /// The share of a word or probe: the sum of its tokens'.
    pub fn of(&self, tokens: &[usize]) -> f32 {
        tokens.iter().filter_map(|&token| self.tokens.iter().chain(&self.probes).nth(token)).sum()
    }
}

/// The shares in a region, over the sites, heads and steps of `how`, from the probabilities as they
/// were recorded. Nothing is resized and nothing competes, so that the region of everything gives
/// [`Heatmaps::shares`]. `region` says how much of each cell of a site's grid lies in it, 0 to 1,
/// not all 0.
///
/// # Errors
/// As [`aggregate()`].
pub fn shares(trace: &Trace, how: &Aggregate, region: &dyn Fn(Grid) -> Vec<f32>) -> Result<Shares> {
    let (maps, prompt) = half(trace, how)?;
    let chosen = how.choose(&trace.recording.sites, trace.about.latent)?;
    let silent = how.silent(prompt)?;
    let window = window(trace, how)?;
    let asked: usize = trace.about.probes.iter().map(|probe| probe.tokens.len()).sum();
    if how.measure == Measure::Concepts {
        let all = 0..maps.tokens + 1 + asked;
        let mut tokens = of_concepts(trace, how, &chosen, &window)?.channel_shares(&all, window.len(), region);
        let probes = tokens.split_off(maps.tokens + 1);
        return Ok(Shares { tokens, probes });
    }
    if how.measure == Measure::Goca {
        let tokens = of_goca(trace, how, &[], &[])?.means(region);
        return Ok(Shares { tokens, probes: vec![0.0; asked] });
    }
    let of = |stored: &[SiteMaps], stored_channels: &dyn Fn(&Site) -> usize, channels: usize| -> Result<Vec<f32>> {
        Ok(averaged(trace, &sources(trace, stored, stored_channels, how, &chosen, region)?, &window, 0, channels)?.1)
    };
    if how.queries == QuerySource::Text {
        let mut tokens = of(text_queries(trace)?, &|_| maps.tokens, maps.tokens)?;
        silence(&silent, &mut tokens, 1);
        tokens.push(0.0); // padding is not asked
        return Ok(Shares { tokens, probes: vec![0.0; asked] });
    }
    let mut tokens = of(&maps.sites, &|site| site.channels(maps.tokens), maps.tokens + 1)?;
    tokens[maps.tokens] += silence(&silent, &mut tokens[..maps.tokens], 1);
    Ok(Shares {
        tokens,
        probes: trace
            .probes(how.half)
            .map_or(Ok(Vec::new()), |(maps, _)| of(&maps.sites, &|_| maps.tokens, maps.tokens))?,
    })
}

/// Makes the planes of the `silent` tokens, `[T, cells]`, 0, and returns the sum of what they held.
/// There may be no planes at all.
fn silence(silent: &[bool], planes: &mut [f32], cells: usize) -> f32 {
    let mut held = 0.0;
    for (plane, _) in planes.chunks_exact_mut(cells.max(1)).zip(silent).filter(|(_, silent)| **silent) {
        held += plane.iter().sum::<f32>();
        plane.fill(0.0);
    }
    held
}

/// The concepts' maps of the `chosen` sites.
fn of_concepts(trace: &Trace, how: &Aggregate, chosen: &[usize], window: &Range<usize>) -> Result<ConceptShares> {
    if how.queries == QuerySource::Text {
        return Err(Error::argument(QUERIES, "concept maps are of attention outputs, and not of either's queries"));
    }
    if how.encoder != Encoder::Both {
        return Err(Error::argument(ENCODER, "a concept is no token of the prompt's readings; leave it out"));
    }
    ConceptShares::new(trace, how, chosen, window)
}

/// What GoCA's maps of `words` are made of.
fn of_goca(trace: &Trace, how: &Aggregate, words: &[WordInfo], takes_part: &[bool]) -> Result<Goca> {
    how.choose(&trace.recording.sites, trace.about.latent)?;
    let count = trace.recording.conditional.tokens;
    if words.iter().any(|word| word.tokens.first().is_some_and(|&token| token > count)) {
        let reason = "words that the prompt does not have take no part in GoCA's maps; choose others";
        return Err(Error::argument(AGGREGATE, reason));
    }
    let Some(kept) = &trace.recording.goca else {
        let reason = format!("the run did not keep what GoCA's maps are made of; make it again with {KEEP_GOCA}");
        return Err(Error::argument(AGGREGATE, reason));
    };
    Ok(Goca::new(kept, trace.about.latent, trace.steps(), takes_part))
}

/// What the prompt's own tokens gave to the image, per site.
fn text_queries(trace: &Trace) -> Result<&[SiteMaps]> {
    let kept = trace.recording.text_queries.as_ref();
    let reason = format!("the run kept no queries of its text; make it again with {TEXT_QUERIES}");
    Ok(&kept.ok_or_else(|| Error::argument(QUERIES, reason))?.sites)
}

/// The recorded half that `how` asks for, with its prompt.
fn half<'a>(trace: &'a Trace, how: &Aggregate) -> Result<(&'a HalfMaps, &'a PromptInfo)> {
    if how.half == Half::Unconditional && !how.is_of_places() {
        let argument = if how.measure == Measure::Attention { QUERIES } else { AGGREGATE };
        return Err(Error::argument(argument, format!("is kept of the prompt's half alone; leave out {HALF}")));
    }
    trace.half(how.half).ok_or_else(|| {
        let guidance = trace.about.settings["guidance_scale"].as_f64();
        let reason = if trace.about.is_look() {
            "a look at a picture has no unconditional half; leave it out".to_owned()
        } else if guidance.is_some_and(|scale| scale <= 1.0) {
            format!(
                "the run had no guidance, and so no unconditional half; make it again with {GUIDANCE} above 1 and \
            {TRACE_NEGATIVE}"
            )
        } else {
            format!("the trace has no unconditional half; make the run again with {TRACE_NEGATIVE}")
        };
        Error::argument(HALF, reason)
    })
}

/// The maps of the first `mapped` channels on the latent grid, `[mapped, height, width]`. With them
/// come the shares of all `channels` in the region that the sources were made for.
fn averaged(
    trace: &Trace,
    sources: &[MapSource],
    window: &Range<usize>,
    mapped: usize,
    channels: usize,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let weight: f32 = sources.iter().map(|source| source.weight).sum();

    let cells = trace.about.latent.cells();
    let mut maps = vec![0.0f32; mapped * cells];
    let mut shares = vec![0.0f64; channels];
    let add = |token: usize, out: &mut [f32], scratch: &mut Scratch| {
        let mut share = 0.0;
        for source in sources {
            let plane = source.plane(token, window, &mut scratch.window);
            let inside = plane.iter().zip(&*source.region).map(|(&value, &part)| f64::from(value) * f64::from(part));
            share += f64::from(source.weight) * inside.sum::<f64>() / source.covered;
            if out.is_empty() {
                continue; // padding has a share and no map
            }
            source.resampler.resize_into(plane, &mut scratch.resized, &mut scratch.rows);
            for (out, value) in out.iter_mut().zip(&scratch.resized) {
                *out += source.weight * value.max(0.0);
            }
        }
        out.iter_mut().for_each(|value| *value /= weight);
        share / f64::from(weight) / window.len().max(1) as f64
    };
    let init = || Scratch { resized: vec![0.0; cells], ..Scratch::default() };
    let (drawn, rest) = shares.split_at_mut(mapped);
    let maps_and_shares = maps.par_chunks_mut(cells).zip(drawn).enumerate();
    maps_and_shares.for_each_init(init, |scratch, (token, (out, share))| *share = add(token, out, scratch));
    rest.iter_mut().enumerate().for_each(|(at, share)| *share = add(mapped + at, &mut [], &mut init()));

    // `max` above would turn NaN into 0 and hide it; the shares are sums of the raw numbers.
    if let Some(token) = shares.iter().position(|share| !share.is_finite()) {
        return Err(trace.error(format!("token {token} holds NaN or infinity; make the run again")));
    }
    Ok((maps, shares.into_iter().map(|share| share as f32).collect()))
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

/// One thing that is resized and averaged: a head of a site's sum, or a site's head mean over a
/// window of steps.
struct MapSource<'a> {
    values: Values<'a>,
    channels: usize,
    pixels: usize,
    resampler: Resampler,
    weight: f32,
    /// `[pixels]`: how much of each cell lies in the region whose share is asked for.
    region: Arc<[f32]>,
    /// The sum of that.
    covered: f64,
}

enum Values<'a> {
    /// `[channels, pixels]`
    Head(&'a [f32]),
    /// `[steps, channels, pixels]`
    Steps(&'a [half::f16]),
}

/// Buffers that a thread reuses.
#[derive(Default)]
struct Scratch {
    window: WindowSum,
    resized: Vec<f32>,
    rows: Vec<f32>,
}

/// A channel summed over a window, and one step of it.
#[derive(Default)]
struct WindowSum {
    plane: Vec<f32>,
    step: Vec<f32>,
}

impl MapSource<'_> {
    /// One channel of the source, `[pixels]`, summed over the steps.
    fn plane<'a>(&'a self, channel: usize, window: &Range<usize>, scratch: &'a mut WindowSum) -> &'a [f32] {
        match self.values {
            Values::Head(values) => &values[channel * self.pixels..][..self.pixels],
            Values::Steps(values) => {
                let WindowSum { plane, step } = scratch;
                plane.clear();
                plane.resize(self.pixels, 0.0);
                step.resize(self.pixels, 0.0);
                for index in window.clone() {
                    values[(index * self.channels + channel) * self.pixels..][..self.pixels].convert_to_f32_slice(step);
                    plane.iter_mut().zip(&*step).for_each(|(sum, value)| *sum += value);
                }
                plane
            }
        }
    }
}

/// The steps that are summed.
fn window(trace: &Trace, how: &Aggregate) -> Result<Range<usize>> {
    how.steps.as_ref().map_or(Ok(0..trace.steps()), |window| window.resolve(trace.steps()))
}

fn sources<'a>(
    trace: &'a Trace,
    stored: &'a [SiteMaps],
    channels: &dyn Fn(&Site) -> usize,
    how: &Aggregate,
    chosen: &[usize],
    region: &dyn Fn(Grid) -> Vec<f32>,
) -> Result<Vec<MapSource<'a>>> {
    let (sites, latent) = (&trace.recording.sites, trace.about.latent);
    let pixels = |site: &Site| site.height * site.width;
    let resampler = |site: &Site| Resampler::new(Grid::new(site.height, site.width), latent, Filter::Bicubic);
    let region = |site: &Site| {
        let region: Arc<[f32]> = region(Grid::new(site.height, site.width)).into();
        let covered = region.iter().map(|&part| f64::from(part)).sum::<f64>();
        (region, covered)
    };
    // The sums are exact; single steps are only read where a part of the run is asked for.
    if how.steps.is_some() && window(trace, how)? != (0..trace.steps()) {
        if how.heads.is_some() {
            return Err(Error::argument(STEPS_WINDOW, heads_and_steps()));
        }
        let source = |&index: &usize| {
            let (site, values) = (&sites[index], &stored[index]);
            let Some(steps) = &values.steps else {
                let reason = format!("the trace has no single steps; make the run again without {NO_STEP_MAPS}");
                return Err(Error::argument(STEPS_WINDOW, reason));
            };
            let (pixels, channels, weight) = (pixels(site), channels(site), site.heads as f32);
            let (region, covered) = region(site);
            Ok(MapSource {
                values: Values::Steps(steps),
                channels,
                pixels,
                resampler: resampler(site),
                weight,
                region,
                covered,
            })
        };
        return chosen.iter().map(source).collect();
    }
    if let Some(heads) = &how.heads {
        let most = chosen.iter().map(|&index| sites[index].heads).max().unwrap_or(0);
        if heads.highest() >= most {
            let reason = format!("head {} does not exist; the chosen sites have heads 0-{}", heads.highest(), most - 1);
            return Err(Error::argument(HEADS, reason));
        }
    }
    let mut sources = Vec::new();
    for &index in chosen {
        let (site, pixels, channels) = (&sites[index], pixels(&sites[index]), channels(&sites[index]));
        let (resampler, (region, covered)) = (resampler(site), region(site));
        let heads = stored[index].sum.chunks_exact(channels * pixels).enumerate();
        let wanted = heads.filter(|(head, _)| how.heads.as_ref().is_none_or(|heads| heads.contains(*head)));
        sources.extend(wanted.map(|(_, values)| MapSource {
            values: Values::Head(values),
            channels,
            pixels,
            resampler: resampler.clone(),
            weight: 1.0,
            region: region.clone(),
            covered,
        }));
    }
    if sources.is_empty() {
        let reason = format!("no chosen site has any of heads {}", how.heads.as_ref().expect("heads narrowed it"));
        return Err(Error::argument(HEADS, reason));
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{About, AttentionKind, PromptInfo, Recorder, RecordingPlan, Stage, Step, TokenInfo, TokenKind};
    use crate::trace::{AttentionObserver, Site};
    use candle_core::{Device, Tensor};

    fn trace(per_step: bool) -> Trace {
        trace_of(per_step, &[TokenKind::Start, TokenKind::Text, TokenKind::End], &[1])
    }

    /// Of a prompt of tokens of these kinds, with a word of some of them, and two keys of padding.
    fn trace_of(per_step: bool, kinds: &[TokenKind], word: &[usize]) -> Trace {
        let keys = kinds.len() + 2;
        let site = |index: usize, stage, height, width| Site {
            path: format!("site.{index}"),
            stage,
            depth: 0.0,
            kind: AttentionKind::Cross,
            index,
            heads: 2,
            height,
            width,
        };
        let sites = [site(0, Stage::Down, 4, 6), site(1, Stage::Mid, 2, 3), site(2, Stage::Up, 2, 3)];
        let plan = RecordingPlan { tokens: kinds.len(), unconditional_tokens: Some(2), images: 1, per_step };
        let mut recorder = Recorder::new(&sites, plan);
        for index in 0..4 {
            recorder.begin_step(&Step { index, count: 4, timestep: 0.0, images: 1, guided: true }).unwrap();
            for site in &sites {
                let numbers = 2 * 2 * site.height * site.width * keys;
                let logits = Tensor::arange(0f32, numbers as f32, &Device::Cpu).unwrap();
                let logits = ((logits * 0.37).unwrap() + index as f64).unwrap().sin().unwrap();
                let logits = logits.reshape((2, 2, site.height * site.width, keys)).unwrap();
                recorder.observe(site, &candle_nn::ops::softmax_last_dim(&logits).unwrap()).unwrap();
            }
        }
        let token = |kind| TokenInfo { id: 0, text: String::new(), kind, start: 0, end: 0 };
        let tokens = kinds.iter().map(|&kind| token(kind)).collect();
        let word = WordInfo { text: "a".into(), start: 0, end: 1, tokens: word.to_vec(), occurrence: 1 };
        let prompt = PromptInfo { text: "a".into(), tokens, words: vec![word] };
        let negative =
            PromptInfo { tokens: vec![token(TokenKind::Start), token(TokenKind::End)], ..PromptInfo::default() };
        let latent = Grid::new(4, 6);
        let about = About { prompt, negative: Some(negative), latent, ..About::default() };
        Trace::new(about, recorder.finish().unwrap().remove(0)).unwrap()
    }

    fn total(shares: &[f32]) -> f32 {
        shares.iter().sum()
    }

    fn maps(trace: &Trace, how: &Aggregate) -> Heatmaps {
        aggregate(trace, how, &trace.about.prompt.words).unwrap()
    }

    #[test]
    fn words_share_a_cell_and_keep_their_peak() {
        let tokens = vec![0.9, 0.1, 0.02, 0.3, 0.06, 0.1, 0.02, 0.5];
        let competition = Competition { power: 1.0, text: vec![0.08, 0.4], takes_part: vec![false, true, true, false] };
        let maps = Heatmaps {
            grid: Grid::new(1, 2),
            tokens,
            shares: vec![0.2; 5],
            competition: Some(competition),
            ..Heatmaps::default()
        };
        // The shares of the second token are 1/4 and 3/4, those of the third 3/4 and 1/4; peaks
        // stay 0.3 and 0.1.
        let expected: [(&[usize], [f32; 2]); 5] = [
            (&[0], [0.9, 0.1]),
            (&[1], [0.1, 0.3]),
            (&[2], [0.1, 0.1 / 3.0]),
            (&[3], [0.02, 0.5]),
            // Together they have all of both cells, and at most 0.4.
            (&[1, 2], [0.4, 0.4]),
        ];
        for (tokens, expected) in expected {
            for (found, expected) in maps.map_of_tokens(tokens).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{tokens:?}: {found} but {expected}");
            }
        }
    }

    #[test]
    fn a_region_of_everything_has_the_shares_of_the_whole() {
        let trace = trace(true);
        for written in ["daam", "all, heads 1", "finest, steps 2-3", "mid", "compete"] {
            let how: Aggregate = written.parse().unwrap();
            let whole = shares(&trace, &how, &|grid| vec![1.0; grid.cells()]).unwrap();
            assert_eq!(whole.tokens, maps(&trace, &how).shares, "{written}");
            // Two halves of every grid, weighed by how large they are, make the whole.
            let side = |left: bool| {
                move |grid: Grid| -> Vec<f32> {
                    let half = grid.width as f32 / 2.0;
                    let part = |column: usize| (half - column as f32).clamp(0.0, 1.0);
                    (0..grid.cells()).map(|at| part(at % grid.width)).map(|l| if left { l } else { 1.0 - l }).collect()
                }
            };
            let halves = [true, false].map(|left| shares(&trace, &how, &side(left)).unwrap().tokens);
            for (token, whole) in whole.tokens.iter().enumerate() {
                assert!((halves[0][token] + halves[1][token] - 2.0 * whole).abs() < 1e-5, "{written}");
            }
            assert_ne!(halves[0], halves[1]);
        }
    }

    #[test]
    fn shares_sum_to_one() {
        let trace = trace(true);
        for name in ["daam", "all", "mid"] {
            let maps = maps(&trace, &Aggregate::named(name).unwrap());
            assert!((total(&maps.shares) - 1.0).abs() < 1e-5, "{name}: {:?}", maps.shares);
        }
    }

    const BOTH: [TokenKind; 6] =
        [TokenKind::Start, TokenKind::Text, TokenKind::Text, TokenKind::End, TokenKind::Text, TokenKind::End];

    #[test]
    fn the_readings_of_a_prompt_are_shown_apart_and_together() {
        let trace = trace_of(true, &BOTH, &[1, 2, 4]);
        let word = &trace.about.prompt.words[0];
        let apart = |written: &str| {
            let how: Aggregate = written.parse().unwrap();
            [Encoder::Both, Encoder::Clip, Encoder::T5].map(|encoder| {
                let how = Aggregate { encoder, ..how.clone() };
                let found = maps(&trace, &how);
                // Single steps are kept in half precision.
                assert!((total(&found.shares) - 1.0).abs() < 1e-3, "{how}: {:?}", found.shares);
                let whole = shares(&trace, &how, &|grid| vec![1.0; grid.cells()]).unwrap();
                assert_eq!(whole.tokens, found.shares, "{how}");
                found
            })
        };
        for written in ["all", "all, heads 1", "finest, steps 2-3", "compete"] {
            let [both, clip, t5] = apart(written);
            assert!(both.silent.is_empty(), "{written}");
            let share = clip.share(word) + t5.share(word);
            assert!((share - both.share(word)).abs() < 1e-6, "{written}: {share} and {}", both.share(word));
            assert!(clip.share(word) > 0.0 && t5.share(word) > 0.0, "{written}");
            assert_eq!(clip.shares[4..6], [0.0; 2], "{written}");
            assert_eq!(t5.shares[..4], [0.0; 4], "{written}");
            let [both, clip, t5] = [both, clip, t5].map(|maps| maps.attention(&word.tokens));
            for ((both, clip), t5) in both.iter().zip(&clip).zip(&t5) {
                assert!((both - clip - t5).abs() < 1e-5, "{written}: {clip} and {t5} make {both}");
            }
        }
        // Without competition a word's map is that sum. With it the chosen reading's text competes.
        let [_, clip, t5] = apart("all");
        assert_eq!((clip.word(0), t5.word(0)), (&*clip.attention(&word.tokens), &*t5.attention(&word.tokens)));
        let [_, clip, _] = apart("compete");
        let takes_part = &clip.competition.as_ref().unwrap().takes_part;
        assert_eq!(*takes_part, [false, true, true, false, false, false]);
        assert!(clip.map_of_tokens(&[4]).iter().all(|value| *value == 0.0));
        // DAAM's mean is of the tokens that are left.
        let [both, _, t5] = apart("daam");
        assert_eq!(t5.word(0), both.token(4));
    }

    #[test]
    fn an_encoder_is_refused_where_it_cannot_be_chosen() {
        let refused = |trace: &Trace, how: &Aggregate, part: &str| {
            let everywhere = |grid: Grid| vec![1.0; grid.cells()];
            for error in [aggregate(trace, how, &[]).unwrap_err(), shares(trace, how, &everywhere).unwrap_err()] {
                let error = error.to_string();
                assert!(error.starts_with("encoder: ") && error.contains(part), "{error}");
            }
        };
        let of = |name: &str, encoder| Aggregate { encoder, ..Aggregate::named(name).unwrap() };
        let (one, two) = (trace(false), trace_of(false, &BOTH, &[1, 2, 4]));
        for encoder in [Encoder::Clip, Encoder::T5] {
            refused(&one, &of("all", encoder), "one reading");
            refused(&two, &of("goca", encoder), "leave it out");
            refused(&two, &Aggregate { measure: Measure::Concepts, ..of("all", encoder) }, "leave it out");
        }
    }

    #[test]
    fn the_whole_window_is_the_sum_and_windows_add_up() {
        let trace = trace(true);
        let how =
            |steps: &str| Aggregate { steps: Some(steps.parse().unwrap()), ..Aggregate::named("finest").unwrap() };
        let whole = maps(&trace, &Aggregate::named("finest").unwrap());
        assert_eq!(whole.tokens, maps(&trace, &how("1-4")).tokens);
        let (first, last) = (maps(&trace, &how("1-2")), maps(&trace, &how("0.5..1")));
        assert_eq!((whole.steps, first.steps, last.steps), (4, 2, 2));
        // The finest grid is the latent grid, so that nothing is resized and halves add up to f16's
        // precision.
        for ((whole, first), last) in whole.tokens.iter().zip(&first.tokens).zip(&last.tokens) {
            assert!((whole - first - last).abs() < 2e-3, "{whole} {first} {last}");
        }
    }

    #[test]
    fn heads_average_to_the_whole() {
        let trace = trace(false);
        let how = |heads: &str| Aggregate { heads: Some(heads.parse().unwrap()), ..Aggregate::named("daam").unwrap() };
        let whole = maps(&trace, &Aggregate::named("daam").unwrap());
        let (first, second) = (maps(&trace, &how("0")), maps(&trace, &how("1")));
        for ((whole, first), second) in whole.tokens.iter().zip(&first.tokens).zip(&second.tokens) {
            assert!((whole - (first + second) / 2.0).abs() < 1e-5);
        }
    }

    #[test]
    fn what_the_trace_cannot_tell_is_refused() {
        let refuse = |trace: &Trace, heads: Option<&str>, steps: Option<&str>| {
            let heads = heads.map(|heads| heads.parse().unwrap());
            let steps = steps.map(|steps| steps.parse().unwrap());
            aggregate(trace, &Aggregate { heads, steps, ..Aggregate::named("daam").unwrap() }, &[])
                .unwrap_err()
                .to_string()
        };
        assert!(refuse(&trace(true), Some("0"), Some("1-2")).contains("cannot be combined"));
        assert!(refuse(&trace(false), None, Some("1-2")).contains("no single steps"));
        assert!(refuse(&trace(true), Some("2"), None).contains("heads 0-1"));
        assert!(refuse(&trace(true), None, Some("3-9")).contains("steps 1-4"));
    }

    #[test]
    fn the_unconditional_half_has_its_own_tokens() {
        let trace = trace(true);
        let how = Aggregate { half: Half::Unconditional, ..Aggregate::named("daam").unwrap() };
        let maps = aggregate(&trace, &how, &[]).unwrap();
        assert_eq!(maps.token_count(), 2);
        assert!((total(&maps.shares) - 1.0).abs() < 1e-5);
    }
}
