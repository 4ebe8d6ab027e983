//! Prompts through the text encoders: what the denoiser is conditioned on, and what the encoders
//! themselves attended to.

use candle_core::{D, DType, Device, IndexOp, Tensor};

use super::generation::TextAttentions;
use super::load::Pipeline;
use super::options::Options;
use super::qwen::QWEN_TOKENS;
use crate::argument::{EMPHASIS, LONG};
use crate::checkpoint::{Family, T5_TOKENS, TIME_IDS};
use crate::model::{AddedConditions, Conditioning, PreparedPrompt, TextEncoder, TextEncoding};
use crate::prompt::{Joined, Prompt, Syntax, Tokenizer};
use crate::trace::TextAttention;
use crate::{Error, Result};

/// `[batch, tokens]`: 1 for the unconditional rows, `weights` (and 1 for what lies beyond them) for
/// the last `images` rows.
fn value_weights(weights: &[f32], context: &PreparedPrompt, images: usize) -> Result<Tensor> {
    let (batch, tokens) = (context.batch(), context.tokens());
    let weight = |row: usize, token: usize| match weights.get(token) {
        Some(&weight) if row + images >= batch => weight,
        _ => 1.0,
    };
    let all = (0..batch).flat_map(|row| (0..tokens).map(move |token| weight(row, token))).collect::<Vec<f32>>();
    Ok(Tensor::from_vec(all, (batch, tokens), &Device::Cpu)?)
}

/// What the denoiser is given of some prompts, one row per prompt, before it is put together: f32.
#[derive(Debug, Clone)]
pub struct States {
    /// The states of each text encoder, weights applied, `[prompts, tokens, channels]`. Those of
    /// two CLIP encoders stand side by side. Those of T5, the third, follow them as further keys.
    pub encoders: Vec<Tensor>,
    /// The second encoder's projection of each prompt, `[prompts, width]`; in Stable Diffusion 3
    /// both CLIP encoders', side by side.
    pub pooled: Option<Tensor>,
    /// Tokens of each prompt where they differ (Z-Image); what is behind them is zeros.
    pub lengths: Option<Vec<usize>>,
}

/// How prompts go through CLIP's encoders.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EncoderPass<'a> {
    /// On the path that keeps the encoders' self-attention.
    pub(super) watched: bool,
    /// After how many of its layers each encoder ends; after all where `None`.
    pub(super) layers: Option<&'a [usize]>,
    /// As [`Options::clip_skip`].
    pub(super) clip_skip: usize,
}

impl<'a> EncoderPass<'a> {
    /// How the prompt of a run with `options` is read, and what is compared with it.
    pub(super) fn of(options: &'a Options) -> Self {
        Self { watched: false, layers: options.text_layers.as_deref(), clip_skip: options.clip_skip }
    }
}

/// What encoding some prompts gives.
pub(super) struct EncodedPrompts {
    /// The states that cross-attention makes keys and values of, `[prompts, tokens, channels]`; of
    /// two encoders side by side.
    pub(super) hidden_states: Tensor,
    /// The second encoder's projection, `[prompts, width]`.
    pub(super) pooled: Option<Tensor>,
    /// Tokens of each prompt where they differ.
    pub(super) lengths: Option<Vec<usize>>,
    /// What each encoder gave.
    outputs: Vec<TextEncoding>,
}

impl EncodedPrompts {
    /// What each encoder gave.
    pub(super) fn outputs(&self) -> &[TextEncoding] {
        &self.outputs
    }
}

impl Pipeline {
    /// Tokens, words and padding of `text`, every character of it text, as the text encoders will
    /// see them.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`](crate::prompt::Tokenizer::encode).
    pub fn tokenize(&self, text: &str) -> Result<Prompt> {
        self.of_all(text, |tokenizer| tokenizer.encode(text))
    }

    /// As [`tokenize`](Self::tokenize), read by `syntax`.
    ///
    /// # Errors
    /// As [`Tokenizer::read`](crate::prompt::Tokenizer::read).
    pub fn read(&self, text: &str, syntax: Syntax) -> Result<Prompt> {
        if self.family.flows() && syntax != Syntax::default() {
            let argument = if syntax.emphasis { EMPHASIS } else { LONG };
            return Err(Error::argument(argument, "is for Stable Diffusion 1, 2 and XL; leave it out"));
        }
        self.of_all(text, |tokenizer| tokenizer.read(text, syntax))
    }

    /// The prompt of a run with `options`: `text` read by their syntax, in as many chunks as the
    /// negative prompt needs.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn prompt(&self, text: &str, options: &Options) -> Result<Prompt> {
        Ok(self.prompts(&self.read(text, options.syntax)?, options)?.0)
    }

    /// What both halves of a run are given: `prompt` and the negative prompt, the shorter one with
    /// empty chunks behind it. Without guidance the negative prompt is not read.
    ///
    /// # Errors
    /// [`Error::Argument`] when `prompt` was read by another syntax than that of `options`.
    pub(super) fn prompts(&self, prompt: &Prompt, options: &Options) -> Result<(Prompt, Option<Prompt>)> {
        if prompt.syntax != options.syntax {
            let reason = "the prompt was read by another syntax than the run's; read it with `Pipeline::prompt`";
            return Err(Error::input(format!("{EMPHASIS:#}, {LONG:#}"), reason));
        }
        if !self.guided(options) {
            return Ok((prompt.clone(), None));
        }
        let negative = self.read(&options.negative, options.syntax)?;
        let mut padded = self.padded(&[prompt, &negative]).into_iter();
        let prompt = padded.next().ok_or_else(|| Error::bug("a run without a prompt"))?;
        Ok((prompt, padded.next()))
    }

    /// The first CLIP encoder and its tokenizer, of all families but Z-Image.
    fn clip(&self) -> Result<(&Tokenizer, &TextEncoder)> {
        let both = self.tokenizer.as_ref().zip(self.text_encoder.as_ref());
        both.ok_or_else(|| Error::bug("a pipeline without CLIP"))
    }

    /// What all tokenizers make of a text: CLIP's by `read`. In FLUX.1 CLIP's tokens are no keys,
    /// and the prompt is T5's.
    fn of_all(&self, text: &str, read: impl Fn(&Tokenizer) -> Result<Prompt>) -> Result<Prompt> {
        if let (Family::Flux, Some(t5)) = (self.family, &self.t5) {
            return t5.read(text);
        }
        if let Some(qwen) = &self.qwen {
            return qwen.tokenizer.encode(text, QWEN_TOKENS);
        }
        let mut prompt = read(self.clip()?.0)?;
        if let Some(second) = &self.second {
            prompt = prompt.with_beside(read(&second.tokenizer)?);
        }
        match &self.t5 {
            Some(t5) => t5.behind(prompt),
            None => Ok(prompt),
        }
    }

    /// `prompts` with empty chunks behind them, so that all have as many for each encoder.
    fn padded(&self, prompts: &[&Prompt]) -> Vec<Prompt> {
        let Some(tokenizer) = self.tokenizer.as_ref().filter(|_| self.family != Family::Flux) else {
            return prompts.iter().map(|prompt| (*prompt).clone()).collect();
        };
        let both = |prompt: &&Prompt| {
            prompt.chunks().len().max(prompt.reading(Joined::Channels).map_or(0, |second| second.chunks().len()))
        };
        let chunks = prompts.iter().map(both).max().unwrap_or(0);
        let padded = |prompt: &&Prompt| {
            let padded = tokenizer.padded(prompt, chunks);
            match (prompt.reading(Joined::Channels), &self.second) {
                (Some(own), Some(second)) => padded.with_beside(second.tokenizer.padded(own, chunks)),
                _ => padded,
            }
        };
        prompts.iter().map(padded).collect()
    }

    /// What the denoiser is conditioned on by `prompts`, one row per prompt, in a run with
    /// `options` (of which size, guidance and `clip_skip` count). Weights are applied (see
    /// [`Prompt::weights`]); chunks of long prompts stand one after the other, and what has fewer
    /// than another gets empty ones.
    ///
    /// # Errors
    /// When there are no prompts.
    pub fn conditioning(&self, prompts: &[&Prompt], options: &Options) -> Result<Conditioning> {
        let pass = EncoderPass { layers: None, ..EncoderPass::of(options) };
        let encoding = self.encode(prompts, pass)?;
        let conditions = self.conditions(encoding.hidden_states, encoding.pooled, options);
        Ok(Conditioning { lengths: encoding.lengths, ..conditions })
    }

    /// What the text encoders make of `prompts`, one row per prompt, without their last `clip_skip`
    /// layers, as in [`conditioning`](Self::conditioning).
    ///
    /// # Errors
    /// When there are no prompts.
    pub fn states(&self, prompts: &[&Prompt], clip_skip: usize) -> Result<States> {
        let prompts = self.padded(prompts);
        let pass = EncoderPass { clip_skip, ..EncoderPass::default() };
        self.gathered(&prompts, &self.outputs(&prompts, pass)?)
    }

    /// The token embeddings of `prompts`, one tensor per text encoder: `[prompts, tokens,
    /// channels]`.
    ///
    /// # Errors
    /// When there are no prompts.
    pub fn embeddings(&self, prompts: &[&Prompt]) -> Result<Vec<Tensor>> {
        let prompts = self.padded(prompts);
        let embed = |(encoder, own): (&TextEncoder, Vec<Prompt>)| -> Result<Tensor> {
            let embedded = encoder.embed(&self.ids(&own)?)?;
            let width = embedded.dim(2)?;
            Ok(embedded.reshape((prompts.len(), (), width))?)
        };
        self.readers(&prompts).into_iter().map(embed).collect()
    }

    /// As [`states`](Self::states) of `prompt`, read from other token embeddings than its own, one
    /// tensor per text encoder: `[rows, tokens, channels]`.
    ///
    /// # Errors
    /// When the shapes are not those of [`embeddings`](Self::embeddings).
    pub fn states_of(&self, prompt: &Prompt, embeddings: &[Tensor], clip_skip: usize) -> Result<States> {
        let rows = match embeddings.first() {
            Some(first) => first.dim(0)?,
            None => return Err(Error::bug("no embeddings to read")),
        };
        let prompts = vec![prompt.clone(); rows];
        let mut outputs = Vec::new();
        for ((encoder, prompts), embedded) in self.readers(&prompts).into_iter().zip(embeddings) {
            let ids = self.ids(&prompts)?;
            let embedded = embedded.reshape((ids.dim(0)?, ids.dim(1)?, embedded.dim(2)?))?;
            let output = encoder.forward_embedded(&ids, &embedded)?;
            outputs.push(encoder.skipping(clip_skip, &ids, output)?);
        }
        self.gathered(&prompts, &outputs)
    }

    /// What the denoiser is conditioned on by `states` in a run with `options`.
    ///
    /// # Errors
    /// When the rows differ.
    pub fn conditioning_of(&self, states: &States, options: &Options) -> Result<Conditioning> {
        let conditions = self.conditions(self.side_by_side(&states.encoders)?, states.pooled.clone(), options);
        Ok(Conditioning { lengths: states.lengths.clone(), ..conditions })
    }

    /// Whether the unconditional half of a run with `options` is zeros in place of the negative
    /// prompt, as in SDXL without one.
    pub(crate) fn zero_negative(&self, options: &Options) -> bool {
        options.negative.is_empty() && self.second.as_ref().is_some_and(|second| second.force_zeros)
    }

    /// Each text encoder with what its own tokenizer makes of `prompts`.
    fn readers(&self, prompts: &[Prompt]) -> Vec<(&TextEncoder, Vec<Prompt>)> {
        let own = |prompt: &Prompt| prompt.reading(Joined::Channels).unwrap_or(prompt).clone();
        let first = self.text_encoder.iter().map(|first| (first, prompts.to_vec()));
        let second = self.second.iter().map(|second| (&second.text_encoder, prompts.iter().map(own).collect()));
        first.chain(second).collect()
    }

    /// Keys and values of every site for the whole batch of a run, and the prompt's own
    /// self-attention in the text encoders. In a guided run the negative prompt's rows come first.
    pub(super) fn context(&self, prompt: &Prompt, options: &Options) -> Result<(PreparedPrompt, TextAttentions)> {
        let images = options.seeds.len();
        let (prompt, negative) = self.prompts(prompt, options)?;
        // Where encoders stand one behind the other, a trace has no place for their own attention.
        let watched = !self.family.flows();
        let conditional = self.encode(&[&prompt], EncoderPass { watched, ..EncoderPass::of(options) })?;
        let (mut states, mut pooled) = (Vec::with_capacity(2 * images), Vec::with_capacity(2 * images));
        let mut lengths: Vec<usize> = Vec::new();
        let mut add = |hidden_states: Tensor, projection: Option<Tensor>, own: Option<Vec<usize>>| {
            states.extend(std::iter::repeat_n(hidden_states, images));
            pooled.extend(projection.into_iter().flat_map(|row| std::iter::repeat_n(row, images)));
            lengths.extend(own.into_iter().flatten().flat_map(|length| std::iter::repeat_n(length, images)));
        };
        if let Some(negative) = negative {
            if self.zero_negative(options) {
                let pooled = conditional.pooled.as_ref().map(Tensor::zeros_like).transpose()?;
                add(conditional.hidden_states.zeros_like()?, pooled, conditional.lengths.clone());
            } else {
                let negative = self.encode(&[&negative], EncoderPass::default())?;
                add(negative.hidden_states, negative.pooled, negative.lengths);
            }
        }
        add(conditional.hidden_states.clone(), conditional.pooled.clone(), conditional.lengths.clone());
        let pooled = if pooled.is_empty() { None } else { Some(Tensor::cat(&pooled, 0)?) };
        let most = states.iter().map(|states| states.dim(1)).collect::<candle_core::Result<Vec<_>>>()?;
        let most = most.into_iter().max().unwrap_or(0);
        let filled = |states: &Tensor| states.pad_with_zeros(1, 0, most - states.dim(1)?);
        let states = states.iter().map(filled).collect::<candle_core::Result<Vec<_>>>()?;
        let conditioning = Conditioning {
            lengths: Some(lengths).filter(|lengths| !lengths.is_empty()),
            ..self.conditions(Tensor::cat(&states, 0)?, pooled, options)
        };
        let mut encoders = [&prompt].into_iter().chain(prompt.reading(Joined::Channels)).zip(&conditional.outputs);
        let mut attentions = || -> Result<Vec<TextAttention>> {
            let Some((prompt, output)) = encoders.next() else { return Ok(Vec::new()) };
            if output.attentions.is_empty() {
                return Ok(Vec::new());
            }
            let tokens: Vec<usize> = prompt.keys().iter().map(ExactSizeIterator::len).collect();
            let layer = |layer: &Tensor| TextAttention::from_chunks(layer, &tokens);
            output.attentions.iter().map(layer).collect()
        };
        let attentions = TextAttentions { first: attentions()?, second: attentions()? };
        let context = self.denoiser.prepare(&conditioning)?;
        let context = match &options.value_weights {
            Some(weights) => context.weighted(&value_weights(weights, &context, images)?)?,
            None => context,
        };
        let context = match self.has_joint_attention() {
            true => self.with_concepts(context, &prompt, options)?,
            false => self.with_probes(context, &conditional, options)?,
        };
        Ok((context, attentions))
    }

    /// The conditions beside the `hidden_states` and the `pooled` prompts of SDXL, which stand in
    /// `options`.
    pub(super) fn conditions(&self, hidden_states: Tensor, pooled: Option<Tensor>, options: &Options) -> Conditioning {
        let added = pooled.map(|pooled| AddedConditions { pooled, time_ids: time_ids(options) });
        Conditioning { added, guidance: Some(options.guidance_scale), ..Conditioning::new(hidden_states) }
    }

    /// The prompts' encodings.
    pub(super) fn encode(&self, prompts: &[&Prompt], pass: EncoderPass) -> Result<EncodedPrompts> {
        let prompts = self.padded(prompts);
        let outputs = self.outputs(&prompts, pass)?;
        let States { encoders, pooled, lengths } = self.gathered(&prompts, &outputs)?;
        Ok(EncodedPrompts { hidden_states: self.side_by_side(&encoders)?, pooled, lengths, outputs })
    }

    /// What each text encoder makes of padded `prompts`; see [`encode`](Self::encode).
    fn outputs(&self, prompts: &[Prompt], pass: EncoderPass) -> Result<Vec<TextEncoding>> {
        let output = |(index, (encoder, prompts)): (usize, (&TextEncoder, Vec<Prompt>))| {
            let ids = self.ids(&prompts)?;
            let output = if pass.watched { encoder.forward_attentions(&ids)? } else { encoder.forward(&ids)? };
            match pass.layers.and_then(|layers| layers.get(index)) {
                Some(&layers) => encoder.ended_after(layers, &ids, &output),
                None => encoder.skipping(pass.clip_skip, &ids, output),
            }
        };
        if self.family == Family::Flux {
            let (tokenizer, encoder) = self.clip()?;
            let of_clip = |prompt: &Prompt| tokenizer.encode(&prompt.text);
            let prompts = prompts.iter().map(of_clip).collect::<Result<Vec<_>>>()?;
            return Ok(vec![output((0, (encoder, prompts)))?]);
        }
        self.readers(prompts).into_iter().enumerate().map(output).collect()
    }

    /// What of the encoders' `outputs` for `prompts` the denoiser is given.
    fn gathered(&self, prompts: &[Prompt], outputs: &[TextEncoding]) -> Result<States> {
        if let Some(qwen) = &self.qwen {
            let (states, lengths) = qwen.states(prompts)?;
            return Ok(States { encoders: vec![states], pooled: None, lengths: Some(lengths) });
        }
        let [first, rest @ ..] = outputs else { return Err(Error::bug("a prompt that no encoder read")) };
        if let (Family::Flux, Some(t5)) = (self.family, &self.t5) {
            let states = t5.states(prompts)?.to_device(&self.options.device)?;
            return Ok(States { encoders: vec![states], pooled: Some(first.pooled.clone()), lengths: None });
        }
        let [second, ..] = rest else {
            return Ok(States {
                encoders: vec![joined(&first.last_hidden_state, prompts)?],
                pooled: None,
                lengths: None,
            });
        };
        let own = |prompt: &Prompt| prompt.reading(Joined::Channels).unwrap_or(prompt).clone();
        let others: Vec<Prompt> = prompts.iter().map(own).collect();
        // Neither's final layer norm, and neither's last layer: as SDXL was trained.
        let mut encoders = vec![joined(first.penultimate(), prompts)?, joined(second.penultimate(), &others)?];
        if self.joint_width.is_some() {
            if let Some(t5) = &self.t5 {
                encoders.push(t5.states(prompts)?.to_device(&self.options.device)?);
            }
            let pooled = |encoder: &&TextEncoding| encoder.projected.clone().unwrap_or_else(|| encoder.pooled.clone());
            let both: Vec<Tensor> = [first, second].iter().map(pooled).collect();
            return Ok(States { encoders, pooled: Some(Tensor::cat(&both, 1)?), lengths: None });
        }
        let pooled = match &second.projected {
            // Of a long prompt the first chunk's.
            Some(rows) => Some(rows.reshape((prompts.len(), (), rows.dim(1)?))?.i((.., 0))?.contiguous()?),
            None => None,
        };
        Ok(States { encoders, pooled, lengths: None })
    }

    /// The states of all encoders as the denoiser is given them. Those of CLIP stand side by side.
    /// In Stable Diffusion 3 zeros fill their channels up, and T5's follow as further keys; without
    /// T5 these are zeros (`_get_t5_prompt_embeds` in diffusers).
    fn side_by_side(&self, encoders: &[Tensor]) -> Result<Tensor> {
        let Some(width) = self.joint_width else { return Ok(Tensor::cat(encoders, 2)?) };
        let both = Tensor::cat(&encoders[..encoders.len().min(2)], 2)?;
        let (rows, _, own) = both.dims3()?;
        let both = both.pad_with_zeros(2, 0, width.saturating_sub(own))?;
        let behind = match encoders.get(2) {
            Some(states) => states.to_dtype(both.dtype())?,
            None => Tensor::zeros((rows, T5_TOKENS, width), both.dtype(), both.device())?,
        };
        Ok(Tensor::cat(&[&both, &behind], 1)?)
    }

    /// The ids of all chunks of `prompts` as `[prompts * chunks, tokens]` where the networks run.
    fn ids(&self, prompts: &[Prompt]) -> Result<Tensor> {
        let rows = prompts.iter().flat_map(|prompt| prompt.chunks()).map(|ids| Tensor::new(ids, &self.options.device));
        Ok(Tensor::stack(&rows.collect::<Result<Vec<_>, _>>()?, 0)?)
    }
}

/// Weighted states `[prompts * chunks, tokens, channels]` of `prompts` with equally many chunks, as
/// `[prompts, chunks * tokens, channels]`.
///
/// Weights are applied as AUTOMATIC1111's web UI does (`modules/sd_emphasis.py`, "Original"). Each
/// state is multiplied by its token's weight. Then the whole chunk is multiplied so that the mean
/// of all its numbers is what it was. A chunk without weights stays as it is.
fn joined(states: &Tensor, prompts: &[Prompt]) -> Result<Tensor> {
    let (rows, tokens, channels) = states.dims3()?;
    let weighted = if prompts.iter().any(|prompt| !prompt.weights.is_empty()) {
        let ones = vec![1f32; rows * tokens / prompts.len().max(1)];
        let weights: Vec<f32> = prompts
            .iter()
            .flat_map(|prompt| if prompt.weights.is_empty() { &ones } else { &prompt.weights })
            .copied()
            .collect();
        let weights = Tensor::from_vec(weights, (rows, tokens, 1), states.device())?;
        let scaled = states.broadcast_mul(&weights.to_dtype(states.dtype())?)?;
        // The means are near 0 beside the numbers that they are means of. Metal has no f64.
        let mean = |states: &Tensor| {
            let states = states.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            states.flatten_from(1)?.mean_keepdim(D::Minus1)?.unsqueeze(1)
        };
        let restore = (mean(states)? / mean(&scaled)?)?.to_dtype(states.dtype())?.to_device(states.device())?;
        let restored = scaled.broadcast_mul(&restore)?;
        let plain =
            |row: usize| weights.i(row)?.flatten_all()?.to_vec1::<f32>().map(|row| row.iter().all(|&w| w == 1.0));
        let pick = |row| Ok(if plain(row)? { states.i(row)? } else { restored.i(row)? });
        Tensor::stack(&(0..rows).map(pick).collect::<Result<Vec<_>>>()?, 0)?
    } else {
        states.clone()
    };
    Ok(weighted.reshape((prompts.len(), rows * tokens / prompts.len().max(1), channels))?)
}

/// SDXL's size condition: original size, top left corner of the crop, size of the image; height
/// before width (`_get_add_time_ids` in diffusers).
fn time_ids(options: &Options) -> [f64; TIME_IDS] {
    let [height, width] = options.original_size.unwrap_or([options.height, options.width]);
    let [top, left] = options.crop;
    [height, width, top, left, options.height, options.width].map(|pixels| pixels as f64)
}
