//! From a trace to one map a token and one a word.

use super::layout::Layout;
use super::{Aggregate, Filter, Resampler};
use crate::trace::{Grid, Site, SiteMaps, TokenKind, Trace, WordInfo};
use crate::{Error, Result};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;

/// Why heads and a window of steps cannot both be chosen.
pub const HEADS_AND_STEPS: &str = "cannot be combined with --heads: the trace keeps every head summed over the steps, and every \
                                   step averaged over the heads; give one of the two";

/// Maps of every token and of the chosen words, on the latent grid.
///
/// Unit: attention probability summed over the steps, as DAAM has it and as `heatmaps.safetensors` stores it; divide by
/// [`steps`](Self::steps) for the mean probability of a step.
#[derive(Debug, Clone)]
pub struct Heatmaps {
    /// The latent grid.
    pub grid: Grid,
    /// Number of steps that were summed.
    pub steps: usize,
    /// `[T, height, width]`: start token, prompt tokens, first end token.
    pub tokens: Vec<f32>,
    /// `[P, height, width]`: the tokens of words that are not in the prompt, where the run was asked about any; numbered on after the
    /// tokens and the padding in [`WordInfo::tokens`] (see [`probe_words`](crate::trace::probe_words)).
    pub probes: Vec<f32>,
    /// `[W, height, width]`: one map a word of [`chosen`](Self::chosen), the mean of its tokens' maps.
    pub words: Vec<f32>,
    /// The words, in the order of [`words`](Self::words).
    pub chosen: Vec<WordInfo>,
    /// `[T + 1]`: every token's share of all attention (0 to 1), before any resizing; the last is all padding, so that
    /// they sum to 1.
    pub shares: Vec<f32>,
    /// `[P]`: the mean probability of each probe's token, which is no part of the shares above.
    pub probe_shares: Vec<f32>,
    /// The sites that went in, by position in the trace.
    pub sites: Vec<usize>,
}

impl Heatmaps {
    /// The map of one token, `[height, width]`.
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

    /// A word's share of all attention: the sum of its tokens' shares. For a probe, what it would take of the prompt's.
    pub fn share(&self, word: &WordInfo) -> f32 {
        let shares = || self.shares.iter().chain(&self.probe_shares);
        word.tokens.iter().filter_map(|&token| shares().nth(token)).sum()
    }

    /// Whether `word` is a probe and no word of the prompt.
    pub fn is_probe(&self, word: &WordInfo) -> bool {
        word.tokens.first().is_some_and(|&token| token > self.token_count())
    }

    /// The map of any word of the prompt or probe, `[height, width]`: the mean of its tokens' maps.
    pub fn map_of(&self, word: &WordInfo) -> Vec<f32> {
        mean_map(self.grid, word.tokens.iter().filter_map(|&token| self.channel(token)))
    }

    /// The map of a channel: a token, or a probe's token; the padding between them has none.
    fn channel(&self, channel: usize) -> Option<&[f32]> {
        let (cells, count) = (self.grid.cells(), self.token_count());
        match channel.checked_sub(count + 1) {
            Some(probe) => self.probes.chunks_exact(cells).nth(probe),
            None => self.tokens.chunks_exact(cells).nth(channel),
        }
    }

    /// Layout statistics of one chosen word; see [`Layout`] for `threshold`.
    pub fn layout(&self, word: usize, threshold: f32) -> Layout {
        let share = self.share(&self.chosen[word]);
        Layout::of(self.word(word), self.grid, self.steps.max(1) as f32, share, threshold)
    }
}

/// Makes the maps of `trace` as `how` says, and those of `words` (usually all of the prompt's, or a selection).
///
/// Each chosen site is resized to the latent grid with torch's bicubic, a head at a time, clamped at 0, and all are
/// averaged. With a window of steps the heads come already averaged (that is how the trace keeps single steps), so that the
/// clamp acts on their mean. Probes are averaged in the same way; where the tokens compete for a cell, a probe's token competes with the
/// prompt's text and its own probe.
///
/// # Errors
/// [`Error::Option`] when no site is left, when heads and a window of steps are both asked for, when single steps or the
/// half were not recorded, or when a head or step does not exist; [`Error::Trace`] when the trace holds NaN.
pub fn aggregate(trace: &Trace, how: &Aggregate, words: &[WordInfo]) -> Result<Heatmaps> {
    let Some((maps, prompt)) = trace.half(how.half) else {
        let reason = "the trace has no unconditional half; make the run again with it traced";
        return Err(Error::option("--half", reason));
    };
    let (sites, grid) = (&trace.recording.sites, trace.about.latent);
    let chosen = how.choose(sites, grid)?;
    let (mut tokens, shares) = averaged(trace, &maps.sites, maps.tokens + 1, maps.tokens, how, &chosen)?;
    let (probe_maps, probe_words) = trace.probes(how.half).unzip();
    let (mut probes, probe_shares) = match probe_maps {
        Some(maps) => averaged(trace, &maps.sites, maps.tokens, maps.tokens, how, &chosen)?,
        None => Default::default(),
    };
    if let Some(power) = how.compete {
        let text: Vec<bool> = prompt.tokens.iter().map(|token| token.kind == TokenKind::Text).collect();
        let total = compete(&mut tokens, grid.cells(), &text, power);
        let of = probe_words.iter().flatten().flat_map(|probe: &WordInfo| vec![probe.tokens.len(); probe.tokens.len()]);
        compete_probes(&mut probes, grid.cells(), &of.collect::<Vec<_>>(), &total, power);
    }
    let mut maps = Heatmaps {
        grid,
        steps: window(trace, how)?.len(),
        tokens,
        probes,
        words: Vec::new(),
        chosen: words.to_vec(),
        shares,
        probe_shares,
        sites: chosen,
    };
    maps.words = words.iter().flat_map(|word| maps.map_of(word)).collect();
    Ok(maps)
}

/// The maps of the first `mapped` channels on the latent grid, `[mapped, height, width]`, and the shares of all `channels` that `stored` has at
/// each site.
fn averaged(
    trace: &Trace,
    stored: &[SiteMaps],
    channels: usize,
    mapped: usize,
    how: &Aggregate,
    chosen: &[usize],
) -> Result<(Vec<f32>, Vec<f32>)> {
    let sources = sources(trace, stored, channels, how, chosen)?;
    let weight: f32 = sources.iter().map(|source| source.weight).sum();
    let window = window(trace, how)?;

    let cells = trace.about.latent.cells();
    let mut maps = vec![0.0f32; mapped * cells];
    let mut shares = vec![0.0f64; channels];
    let add = |token: usize, out: &mut [f32], scratch: &mut Scratch| {
        let mut share = 0.0;
        for source in &sources {
            let plane = source.plane(token, channels, &window, &mut scratch.window);
            share += f64::from(source.weight) * plane.iter().map(|&value| f64::from(value)).sum::<f64>()
                / plane.len() as f64;
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

/// See [`Aggregate::compete`]: `tokens` is `[T, cells]`, `text` says which of them are the text's; the others stay as they are. Returns what
/// those of the text had in each cell together.
fn compete(tokens: &mut [f32], cells: usize, text: &[bool], power: f32) -> Vec<f32> {
    let mut total = vec![0.0f32; cells];
    for (token, _) in tokens.chunks_exact(cells).zip(text).filter(|(_, text)| **text) {
        total.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
    }
    for (token, _) in tokens.chunks_exact_mut(cells).zip(text).filter(|(_, text)| **text) {
        share_out(token, &total, power);
    }
    total
}

/// The same of `probes` `[P, cells]`: each token among the text's (`total`) and those of its own probe, of which there are `of` for each.
fn compete_probes(probes: &mut [f32], cells: usize, of: &[usize], total: &[f32], power: f32) {
    let mut at = 0;
    while let Some(&tokens) = of.get(at) {
        let own = &mut probes[at * cells..(at + tokens) * cells];
        let mut total = total.to_vec();
        own.chunks_exact(cells).for_each(|token| total.iter_mut().zip(token).for_each(|(sum, value)| *sum += value));
        own.chunks_exact_mut(cells).for_each(|token| share_out(token, &total, power));
        at += tokens;
    }
}

/// `map` as its share of `total` to a power, scaled so that its highest cell is as high as it was.
fn share_out(map: &mut [f32], total: &[f32], power: f32) {
    let highest = map.iter().copied().fold(0.0, f32::max);
    let shared =
        |(value, total): (&mut f32, &f32)| *value = if *total > 0.0 { (*value / total).powf(power) } else { 0.0 };
    map.iter_mut().zip(total).for_each(shared);
    let top = map.iter().copied().fold(0.0, f32::max);
    if top > 0.0 {
        map.iter_mut().for_each(|value| *value *= highest / top);
    }
}

/// The map of a word: the mean of its tokens' maps in `tokens` `[T, height, width]`. Tokens that are not there are left out.
pub fn word_map(tokens: &[f32], grid: Grid, word: &WordInfo) -> Vec<f32> {
    mean_map(grid, word.tokens.iter().filter_map(|&token| tokens.chunks_exact(grid.cells()).nth(token)))
}

fn mean_map<'a>(grid: Grid, maps: impl Iterator<Item = &'a [f32]>) -> Vec<f32> {
    let (mut mean, mut count) = (vec![0.0; grid.cells()], 0);
    for map in maps {
        mean.iter_mut().zip(map).for_each(|(sum, value)| *sum += value);
        count += 1;
    }
    mean.iter_mut().for_each(|value| *value /= count.max(1) as f32);
    mean
}

/// One thing that is resized and averaged: a head of a site's sum, or a site's head mean over a window of steps.
struct Source<'a> {
    values: Values<'a>,
    pixels: usize,
    resampler: Resampler,
    weight: f32,
}

enum Values<'a> {
    /// `[T + 1, pixels]`
    Head(&'a [f32]),
    /// `[steps, T + 1, pixels]`
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

impl Source<'_> {
    /// One channel of the source, `[pixels]`, summed over the steps.
    fn plane<'a>(
        &'a self,
        channel: usize,
        channels: usize,
        window: &Range<usize>,
        scratch: &'a mut WindowSum,
    ) -> &'a [f32] {
        match self.values {
            Values::Head(values) => &values[channel * self.pixels..][..self.pixels],
            Values::Steps(values) => {
                let WindowSum { plane, step } = scratch;
                plane.clear();
                plane.resize(self.pixels, 0.0);
                step.resize(self.pixels, 0.0);
                for index in window.clone() {
                    values[(index * channels + channel) * self.pixels..][..self.pixels].convert_to_f32_slice(step);
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
    channels: usize,
    how: &Aggregate,
    chosen: &[usize],
) -> Result<Vec<Source<'a>>> {
    let (sites, latent) = (&trace.recording.sites, trace.about.latent);
    let pixels = |site: &Site| site.height * site.width;
    let resampler = |site: &Site| Resampler::new(Grid::new(site.height, site.width), latent, Filter::Bicubic);
    // The sums are exact; single steps are only read where a part of the run is asked for.
    if how.steps.is_some() && window(trace, how)? != (0..trace.steps()) {
        if how.heads.is_some() {
            return Err(Error::option("--steps-window", HEADS_AND_STEPS));
        }
        let source = |&index: &usize| {
            let (site, values) = (&sites[index], &stored[index]);
            let Some(steps) = &values.steps else {
                let reason = "the trace has no single steps; make the run again with per-step maps";
                return Err(Error::option("--steps-window", reason));
            };
            let (pixels, weight) = (pixels(site), site.heads as f32);
            Ok(Source { values: Values::Steps(steps), pixels, resampler: resampler(site), weight })
        };
        return chosen.iter().map(source).collect();
    }
    if let Some(heads) = &how.heads {
        let most = chosen.iter().map(|&index| sites[index].heads).max().unwrap_or(0);
        if heads.highest() >= most {
            let reason = format!("head {} does not exist; the chosen sites have heads 0-{}", heads.highest(), most - 1);
            return Err(Error::option("--heads", reason));
        }
    }
    let mut sources = Vec::new();
    for &index in chosen {
        let (site, pixels) = (&sites[index], pixels(&sites[index]));
        let resampler = resampler(site);
        let heads = stored[index].sum.chunks_exact(channels * pixels).enumerate();
        let wanted = heads.filter(|(head, _)| how.heads.as_ref().is_none_or(|heads| heads.contains(*head)));
        sources.extend(wanted.map(|(_, values)| Source {
            values: Values::Head(values),
            pixels,
            resampler: resampler.clone(),
            weight: 1.0,
        }));
    }
    if sources.is_empty() {
        let reason = format!("no chosen site has any of heads {}", how.heads.as_ref().expect("heads narrowed it"));
        return Err(Error::option("--heads", reason));
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{About, Attends, Half, Plan, PromptInfo, Recorder, Stage, Step, TokenInfo, TokenKind};
    use crate::trace::{AttentionObserver, Site};
    use candle_core::{Device, Tensor};

    fn trace(per_step: bool) -> Trace {
        let site = |index: usize, stage, height, width| Site {
            path: format!("site.{index}"),
            stage,
            attends: Attends::Prompt,
            index,
            heads: 2,
            height,
            width,
        };
        let sites = [site(0, Stage::Down, 4, 6), site(1, Stage::Mid, 2, 3), site(2, Stage::Up, 2, 3)];
        let plan = Plan { tokens: 3, unconditional_tokens: Some(2), images: 1, per_step };
        let mut recorder = Recorder::new(&sites, plan);
        for index in 0..4 {
            recorder.begin_step(&Step { index, count: 4, timestep: 0.0, images: 1, guided: true }).unwrap();
            for site in &sites {
                let logits = Tensor::arange(0f32, (2 * 2 * site.height * site.width * 5) as f32, &Device::Cpu).unwrap();
                let logits = ((logits * 0.37).unwrap() + index as f64).unwrap().sin().unwrap();
                let logits = logits.reshape((2, 2, site.height * site.width, 5)).unwrap();
                recorder.observe(site, &candle_nn::ops::softmax_last_dim(&logits).unwrap()).unwrap();
            }
        }
        let token = |kind| TokenInfo { id: 0, text: String::new(), kind, start: 0, end: 0 };
        let tokens = vec![token(TokenKind::Start), token(TokenKind::Text), token(TokenKind::End)];
        let word = WordInfo { text: "a".into(), start: 0, end: 1, tokens: vec![1], occurrence: 1 };
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
    fn tokens_share_a_cell_and_keep_their_peak() {
        let mut tokens = [0.9, 0.1, 0.02, 0.3, 0.06, 0.1, 0.02, 0.5];
        compete(&mut tokens, 2, &[false, true, true, false], 1.0);
        // The shares of the second token are 1/4 and 3/4, those of the third 3/4 and 1/4; peaks stay 0.3 and 0.1.
        for (found, expected) in tokens.iter().zip([0.9, 0.1, 0.1, 0.3, 0.1, 0.1 / 3.0, 0.02, 0.5]) {
            assert!((found - expected).abs() < 1e-6, "{tokens:?}");
        }
        let mut zero = [0.0; 4];
        compete(&mut zero, 2, &[true, true], 0.8);
        assert_eq!(zero, [0.0; 4]);
    }

    #[test]
    fn shares_sum_to_one() {
        let trace = trace(true);
        for name in ["daam", "all", "mid"] {
            let maps = maps(&trace, &Aggregate::named(name).unwrap());
            assert!((total(&maps.shares) - 1.0).abs() < 1e-5, "{name}: {:?}", maps.shares);
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
        // The finest grid is the latent grid, so that nothing is resized and halves add up to f16's precision.
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
