//! What changes when a word's influence is cut: prediction maps on the run's own trajectory.
//!
//! At some steps of the run the denoiser predicts twice from the latents that the run had there. It
//! does so with the prompt, and with a word cut out of it. The image never diverges, so that the
//! difference stays aligned with what was drawn. The map of a word is
//!
//! `causal[p] = mean over the steps of |with - without|²[p] / mean over all p' of |with|²[p']`
//!
//! where |.|² sums over the latent's channels and both are the conditional half's raw output. Each
//! step is divided by its own prediction's size, so that all steps count alike whatever the
//! checkpoint predicts (noise, velocity). The map's mean is the share of the prediction that the
//! word moved: its *effect*.

use crate::argument::CUT;
use crate::checkpoint::Family;
use crate::model::PreparedPrompt;
use crate::pipeline::{Event, Generation, Options, Pipeline};
use crate::prompt::{Joined, Prompt, Token};
use crate::trace::{TokenKind, Unobserved, WordInfo};
use crate::{Error, Result};
use candle_core::{DType, Device, IndexOp, Tensor};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::ops::{ControlFlow, Range};
use std::str::FromStr;

/// How a word is taken out. They answer different questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// The word's term is left out of every cross-attention's sum: its values count as zero, the
    /// probabilities stay. What the word itself says is gone, what other tokens learnt of it in the
    /// text encoder stays: the direct path only.
    Mask,
    /// Each of the word's tokens becomes the article `a` before the text encoder (`the` where the
    /// word is that article). This cuts the direct path and what other tokens learn of it, and
    /// keeps all positions. Every CLIP vocabulary has the article, every captioned model has seen
    /// it often, and it draws nothing. The end token is not such a token: prompts are summed up
    /// there.
    #[default]
    Substitute,
    /// The word leaves the text: all later tokens move up.
    Drop,
}

impl Cut {
    /// All of them with their names on the command line.
    pub const NAMED: [(&str, Self); 3] = [("mask", Self::Mask), ("substitute", Self::Substitute), ("drop", Self::Drop)];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, cut)| *cut == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Cut {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::NAMED.iter().find(|(name, _)| *name == text).map(|(_, cut)| *cut);
        found.ok_or_else(|| {
            Error::argument(CUT, format!("{} is unknown; choose mask, substitute or drop", crate::in_quotes(text)))
        })
    }
}

/// One row of a batch: a prompt as the text encoders are given it, and the keys whose values are
/// taken out.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    prompt: Prompt,
    without: Vec<usize>,
}

impl Row {
    /// The prompt as it is.
    pub fn whole(prompt: &Prompt) -> Self {
        Self { prompt: prompt.clone(), without: Vec::new() }
    }

    /// The prompt that the text encoders are given. Where a word was substituted, its ids alone say
    /// so.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// The keys whose values are taken out, as positions of the joined context.
    pub fn without(&self) -> &[usize] {
        &self.without
    }

    /// The prompt with `words` cut.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn cut(pipeline: &Pipeline, prompt: &Prompt, words: &[&WordInfo], cut: Cut) -> Result<Self> {
        let mut row = Self::whole(prompt);
        let tokens = words.iter().flat_map(|word| &word.tokens).filter_map(|&token| prompt.tokens.get(token));
        let positions = tokens.map(|token| token.position);
        match cut {
            Cut::Mask => {
                // Where SDXL's second tokenizer cuts the text in other places, the word has keys
                // there too.
                let second =
                    prompt.reading(Joined::Channels).into_iter().flat_map(|second| own_positions(second, words));
                row.without = positions.chain(second).collect();
            }
            Cut::Substitute => {
                let article = |text: &str| -> Result<u32> {
                    // Those of the first reading: what follows are another vocabulary's.
                    let read = pipeline.tokenize(text)?;
                    let own = read.tokens.iter().filter(|token| token.position < read.ids.len());
                    let (text, around): (Vec<&Token>, Vec<&Token>) =
                        own.partition(|token| token.kind == TokenKind::Text);
                    match (&text[..], around.last()) {
                        ([article], _) => Ok(article.id),
                        // The end token where a vocabulary writes the article in pieces.
                        (_, Some(end)) => Ok(end.id),
                        _ => Err(Error::bug("a text without an end token")),
                    }
                };
                // With a space before it, as within a sentence. Some vocabularies tell the two
                // apart.
                let (a, the, first) = (article(" a")?, article(" the")?, article("a")?);
                let substitute = |ids: &mut [u32], position: usize| {
                    if let Some(id) = ids.get_mut(position) {
                        *id = if [a, first].contains(id) { the } else { a };
                    }
                };
                positions.for_each(|position| substitute(&mut row.prompt.ids, position));
                if let Some(second) = row.prompt.reading_mut(Joined::Channels) {
                    own_positions(second, words).into_iter().for_each(|position| substitute(&mut second.ids, position));
                }
                // In FLUX.1 CLIP reads the text itself, for its summary of the prompt.
                if pipeline.family() == Family::Flux {
                    let mut ranges: Vec<Range<usize>> = words.iter().map(|word| word.start..word.end).collect();
                    ranges.sort_by_key(|range| Reverse(range.start));
                    for range in ranges {
                        let Some(own) = row.prompt.text.get(range.clone()) else { continue };
                        let article = if own.eq_ignore_ascii_case("a") { "the" } else { "a" };
                        row.prompt.text.replace_range(range, article);
                    }
                }
                if let Some(behind) = row.prompt.reading_mut(Joined::Tokens) {
                    // Articles as T5's tokenizer writes them.
                    let article = |text: &str| -> Result<Option<u32>> {
                        Ok(pipeline.tokenize(text)?.reading(Joined::Tokens).and_then(|own| own.ids.first().copied()))
                    };
                    let (a, the) = (article("a")?, article("the")?);
                    for position in own_positions(behind, words) {
                        if let (Some(id), Some(a), Some(the)) = (behind.ids.get_mut(position), a, the) {
                            *id = if *id == a { the } else { a };
                        }
                    }
                }
            }
            Cut::Drop => {
                let gone = |at: usize| words.iter().any(|word| (word.start..word.end).contains(&at));
                let text: String =
                    prompt.text.char_indices().filter(|(at, _)| !gone(*at)).map(|(_, character)| character).collect();
                row.prompt = pipeline.read(&text, prompt.syntax)?;
            }
        }
        Ok(row)
    }
}

/// Keys of the tokens of `prompt` that stand for a part of one of `words`.
fn own_positions(prompt: &Prompt, words: &[&WordInfo]) -> Vec<usize> {
    let within = |token: &&Token| words.iter().any(|word| token.range.start < word.end && word.start < token.range.end);
    prompt.tokens.iter().filter(within).map(|token| token.position).collect()
}

/// Keys and values for a batch of rows, in a run with `options`.
///
/// # Errors
/// Those of the networks.
pub fn context(pipeline: &Pipeline, rows: &[Row], options: &Options) -> Result<PreparedPrompt> {
    let prompts: Vec<&Prompt> = rows.iter().map(Row::prompt).collect();
    let conditioning = pipeline.conditioning(&prompts, options)?;
    let context = pipeline.denoiser().prepare(&conditioning)?;
    if rows.iter().all(|row| row.without.is_empty()) {
        return Ok(context);
    }
    // A network may fill the text up: Z-Image has more keys than the encoder has states.
    let (batch, tokens) = (context.batch(), context.tokens());
    let weight = |row: &Row, token: usize| if row.without.contains(&token) { 0f32 } else { 1.0 };
    let weights = rows.iter().flat_map(|row| (0..tokens).map(move |token| weight(row, token))).collect();
    context.weighted(&Tensor::from_vec(weights, (batch, tokens), &Device::Cpu)?)
}

/// The latents of a run at each step, made again from its seed.
#[derive(Debug, Clone)]
pub struct Trajectory {
    /// What the denoiser was shown at each step, f32 `[1, channels, h, w]`.
    pub inputs: Vec<Tensor>,
    /// The timestep of each step.
    pub timesteps: Vec<f64>,
    /// What the run ended in: equal to the run's own image, or it was another run.
    pub generation: Generation,
}

/// Runs `prompt` again and keeps the latents of every step.
///
/// # Errors
/// As [`Pipeline::generate`].
pub fn replay(
    pipeline: &Pipeline,
    prompt: &Prompt,
    options: &Options,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Trajectory> {
    let mut inputs = Vec::new();
    let mut done = pipeline.generate(prompt, options, &mut Unobserved, &mut |event| {
        if let Event::Stepped { input, .. } = event {
            inputs.push(input.clone());
            return progress();
        }
        ControlFlow::Continue(())
    })?;
    Ok(Trajectory { inputs, timesteps: done.timesteps, generation: done.images.swap_remove(0) })
}

/// `count` steps of `steps`, spread over the run: the middles of as many equal parts, each step
/// once.
pub fn spread_steps(count: usize, steps: usize) -> Vec<usize> {
    let count = count.clamp(1, steps.max(1));
    (0..count).map(|part| ((2 * part + 1) * steps) / (2 * count)).collect()
}

/// Where a word's cut changes the prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// `[h, w]` on the latent grid, in shares of the prediction's mean square.
    pub map: Vec<f32>,
    /// The mean of the map: the share of the prediction that the cut moved.
    pub effect: f64,
}

/// The changes that `rows` make against `whole` at the given `(input, timestep)`s of a run with
/// `options`. At most `batch` rows go through the denoiser at once.
///
/// # Errors
/// [`Error::Interrupted`] when `progress`, told of every call, breaks; those of the networks.
pub fn changes(
    pipeline: &Pipeline,
    options: &Options,
    whole: &Row,
    rows: &[Row],
    steps: &[(&Tensor, f64)],
    batch: usize,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Vec<Change>> {
    let mut maps: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    let batch = batch.max(2);
    for (first, some) in rows.chunks(batch - 1).enumerate() {
        // The whole prompt is a row of every batch, so that both sides of a difference come from
        // one and the same call.
        let all: Vec<Row> = std::iter::once(whole.clone()).chain(some.iter().cloned()).collect();
        let context = context(pipeline, &all, options)?;
        for (input, timestep) in steps {
            let latents = Tensor::cat(&vec![*input; all.len()], 0)?;
            let output = pipeline.predict_once(&latents, *timestep, &context, &mut Unobserved)?;
            let output = output.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            let with = output.i(0..1)?;
            let size = with.sqr()?.sum(1)?.mean_all()?.to_scalar::<f64>()?;
            let change = output.broadcast_sub(&with)?.sqr()?.sum(1)?.flatten_from(1)?.to_vec2::<f64>()?;
            for (index, change) in change.into_iter().skip(1).enumerate() {
                let map = &mut maps[first * (batch - 1) + index];
                map.resize(change.len(), 0.0);
                let weight = if size > 0.0 { 1.0 / size / steps.len() as f64 } else { 0.0 };
                map.iter_mut().zip(change).for_each(|(sum, value)| *sum += value * weight);
            }
            if progress().is_break() {
                return Err(Error::Interrupted);
            }
        }
    }
    let change = |map: Vec<f64>| Change {
        effect: map.iter().sum::<f64>() / map.len().max(1) as f64,
        map: map.into_iter().map(|value| value as f32).collect(),
    };
    Ok(maps.into_iter().map(change).collect())
}

/// How many calls of the denoiser [`changes`] makes.
pub fn calls(rows: usize, steps: usize, batch: usize) -> usize {
    rows.div_ceil(batch.max(2) - 1) * steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_spread_and_never_repeat() {
        assert_eq!(spread_steps(8, 25), [1, 4, 7, 10, 14, 17, 20, 23]);
        assert_eq!(spread_steps(8, 3), [0, 1, 2]);
        assert_eq!(spread_steps(1, 9), [4]);
        assert_eq!(spread_steps(0, 9), [4]);
    }

    #[test]
    fn cuts_are_named() {
        for (name, cut) in Cut::NAMED {
            assert_eq!((name.parse::<Cut>().unwrap(), cut.name()), (cut, name));
        }
        assert!("ablate".parse::<Cut>().is_err());
    }

    #[test]
    fn calls_are_counted() {
        assert_eq!((calls(3, 8, 16), calls(15, 8, 16), calls(16, 8, 16), calls(2, 8, 0)), (8, 8, 16, 16));
    }
}
