//! From a trace to one map per token and one per word.

use super::concepts::ConceptShares;
use super::goca::Goca;
use super::maps::{Competition, Heatmaps};
use super::source::{averaged, sources, window};
use super::{Aggregate, Encoder, Measure, OfTokens, QuerySource};
use crate::argument::{AGGREGATE, ENCODER, GUIDANCE, HALF, KEEP_GOCA, QUERIES, TEXT_QUERIES, TRACE_NEGATIVE};
use crate::trace::{
    AttentionKind, Grid, Half, HalfMaps, PromptInfo, Site, SiteMaps, TokenInfo, TokenKind, Trace, WordInfo,
};
use crate::{Error, Result};
use std::ops::Range;

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
        let reason = format!("is kept of the prompt's half alone; choose another, or leave out {HALF}");
        return Err(Error::argument(argument, reason));
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
        let takes_part = vec![false, true, true, false];
        let competition = Competition::new(1.0, &tokens, Grid::new(1, 2), takes_part);
        let maps = Heatmaps {
            grid: Grid::new(1, 2),
            tokens,
            shares: vec![0.2; 5],
            competition: Some(competition),
            ..Heatmaps::default()
        };
        // The text has 0.08 and 0.4, 0.24 on average, so that 0.32 and 0.64 are shared out. The
        // second token has 1/16 and 15/32 of that, the third 3/16 and 5/32. Peaks stay 0.3 and 0.1.
        let expected: [(&[usize], [f32; 2]); 5] = [
            (&[0], [0.9, 0.1]),
            (&[1], [0.04, 0.3]),
            (&[2], [0.1, 0.1 / 1.2]),
            (&[3], [0.02, 0.5]),
            // Together they have 1/4 and 5/8, and at most 0.4.
            (&[1, 2], [0.16, 0.4]),
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
