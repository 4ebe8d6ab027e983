//! What the target is attributed to: tensors with a row for each token, and whose each token is.

use candle_core::{DType, Device, Tensor};

use super::method::Input;
use crate::model::Conditioning;
use crate::pipeline::{Options, Pipeline, States};
use crate::prompt::{Joined, Prompt};
use crate::trace::{PromptInfo, TokenKind, WordInfo};
use crate::{Error, Result};

/// Whom a part of the input belongs to: a word of the prompt, or what surrounds the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The word, `apple#2` where repeated, or `<start>`, `<end>`, `<padding>`, `<other>` or
    /// `<pooled>`. `<other>` are tokens of the text that are no word's, as punctuation is; of
    /// Shapley values it is all that joins as one. `<pooled>` is SDXL's summary of the prompt.
    pub name: String,
    /// The word, where it is one.
    pub word: Option<WordInfo>,
}

/// One tensor of the input.
#[derive(Debug, Clone)]
struct InputPart {
    /// `[1, tokens, channels]`, f32.
    own: Tensor,
    /// The empty prompt's, of the same shape.
    empty: Tensor,
    /// Whose each token is, by position in [`Inputs::owners`].
    owners: Vec<usize>,
}

/// The input of a prompt beside the empty prompt's.
#[derive(Debug, Clone)]
pub struct Inputs {
    kind: Input,
    prompt: Prompt,
    parts: Vec<InputPart>,
    has_pooled: bool,
    owners: Vec<Owner>,
}

/// Names of what surrounds the words, in the order of the rows.
const AROUND: [&str; 5] = ["<start>", "<end>", "<padding>", "<other>", "<pooled>"];

impl Inputs {
    /// The input of `prompt`, which is that of a run with `options`, as [`Pipeline::prompt`] gives
    /// it.
    ///
    /// # Errors
    /// Those of the text encoders.
    pub fn new(pipeline: &Pipeline, prompt: &Prompt, kind: Input, options: &Options) -> Result<Self> {
        Self::of_words(pipeline, prompt, &PromptInfo::from(prompt).words, kind, options)
    }

    /// As [`new`](Self::new), with these `words` in the place of the prompt's single ones. A run by
    /// tags is asked about its tags.
    ///
    /// # Errors
    /// Those of the text encoders.
    pub fn of_words(
        pipeline: &Pipeline,
        prompt: &Prompt,
        words: &[WordInfo],
        kind: Input,
        options: &Options,
    ) -> Result<Self> {
        if pipeline.family().flows() {
            return Err(Error::Unsupported {
                what: "attributing places to words with a checkpoint of flow matching".into(),
                way_out: "`attnmap explain` measures what its words change".into(),
            });
        }
        let mut owners: Vec<Owner> =
            words.iter().map(|word| Owner { name: word.label(), word: Some(word.clone()) }).collect();
        owners.extend(AROUND.map(|name| Owner { name: name.into(), word: None }));
        let empty = pipeline.read("", prompt.syntax)?;
        let both = [prompt, &empty];
        let (tensors, pooled) = match kind {
            Input::States => {
                let States { encoders, pooled, .. } = pipeline.states(&both, options.clip_skip)?;
                (encoders, pooled)
            }
            Input::Tokens => (pipeline.embeddings(&both)?, None),
        };
        let readings = [prompt].into_iter().chain(prompt.reading(Joined::Channels));
        let row = |both: &Tensor, row: usize| -> Result<Tensor> {
            Ok(both.narrow(0, row, 1)?.to_dtype(DType::F32)?.contiguous()?)
        };
        let mut parts = Vec::new();
        for (both, reading) in tensors.iter().zip(readings) {
            let owners = owners_of(reading, words, both.dim(1)?);
            parts.push(InputPart { own: row(both, 0)?, empty: row(both, 1)?, owners });
        }
        if let Some(pooled) = &pooled {
            let pooled = pooled.unsqueeze(1)?;
            parts.push(InputPart { own: row(&pooled, 0)?, empty: row(&pooled, 1)?, owners: vec![owners.len() - 1] });
        }
        Ok(Self { kind, prompt: prompt.clone(), parts, has_pooled: pooled.is_some(), owners })
    }

    /// Whom the input belongs to: the words of the prompt in order, then what surrounds them.
    pub fn owners(&self) -> &[Owner] {
        &self.owners
    }

    /// Whether any token is the owner's of this position.
    pub fn has(&self, owner: usize) -> bool {
        self.parts.iter().any(|part| part.owners.contains(&owner))
    }

    /// The input between the empty prompt's and the prompt's own, a row for each of `shares`. They
    /// say for every owner how much of the way its tokens have gone, 0 to 1. There is one tensor
    /// per part, `[rows, tokens, channels]`.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub(super) fn mixed(&self, shares: &[Vec<f32>]) -> Result<Vec<Tensor>> {
        let mixed = |part: &InputPart| -> Result<Tensor> {
            let of_row = |share: &Vec<f32>| part.owners.iter().map(|&owner| share[owner]).collect::<Vec<f32>>();
            let all: Vec<f32> = shares.iter().flat_map(of_row).collect();
            let all = Tensor::from_vec(all, (shares.len(), part.owners.len(), 1), part.own.device())?;
            // At 0 and 1 exactly the one and the other.
            let rest = (1.0 - &all)?;
            Ok((part.own.broadcast_mul(&all)? + part.empty.broadcast_mul(&rest)?)?)
        };
        self.parts.iter().map(mixed).collect()
    }

    /// What the denoiser is conditioned on by tensors as [`mixed`](Self::mixed) gives them.
    ///
    /// # Errors
    /// Those of the text encoders.
    pub(super) fn conditioning(
        &self,
        pipeline: &Pipeline,
        options: &Options,
        tensors: &[Tensor],
    ) -> Result<Conditioning> {
        let states = match self.kind {
            Input::Tokens => pipeline.states_of(&self.prompt, tensors, options.clip_skip)?,
            Input::States => {
                let (pooled, encoders) = match tensors {
                    [encoders @ .., pooled] if self.has_pooled => (Some(pooled.squeeze(1)?), encoders),
                    encoders => (None, encoders),
                };
                States { encoders: encoders.to_vec(), pooled, lengths: None }
            }
        };
        pipeline.conditioning_of(&states, options)
    }

    /// `gradients` (one `[tokens, channels]` per part) times the prompt's input, summed over the
    /// channels. With `from_empty` it is times the input's difference to the empty prompt's. There
    /// is a value for each token of each part.
    ///
    /// # Errors
    /// When the shapes differ.
    pub(super) fn times(&self, gradients: &[Tensor], from_empty: bool) -> Result<Vec<Vec<f64>>> {
        let times = |(part, gradient): (&InputPart, &Tensor)| -> Result<Vec<f64>> {
            let way = if from_empty { (&part.own - &part.empty)? } else { part.own.clone() };
            // Metal has no f64.
            let exact = |values: &Tensor| values.to_device(&Device::Cpu)?.to_dtype(DType::F64);
            let values = (exact(&way.squeeze(0)?)? * exact(gradient)?)?;
            Ok(values.sum(1)?.to_vec1()?)
        };
        self.parts.iter().zip(gradients).map(times).collect()
    }

    /// Values of the tokens of each part, summed for every owner.
    pub(super) fn by_owner(&self, values: &[Vec<f64>]) -> Vec<f64> {
        let mut sums = vec![0.0; self.owners.len()];
        for (part, values) in self.parts.iter().zip(values) {
            part.owners.iter().zip(values).for_each(|(&owner, value)| sums[owner] += value);
        }
        sums
    }
}

/// Whose each of `count` positions of `reading` is: a word's where a token overlaps its bytes.
fn owners_of(reading: &Prompt, words: &[WordInfo], count: usize) -> Vec<usize> {
    let [start, end, padding, other, _] = std::array::from_fn(|around| words.len() + around);
    let mut owners = vec![padding; count];
    for token in &reading.tokens {
        let within = |word: &WordInfo| token.range.start < word.end && word.start < token.range.end;
        let owner = match token.kind {
            TokenKind::Start => start,
            TokenKind::End => end,
            TokenKind::Padding => padding,
            TokenKind::Text => words.iter().position(within).unwrap_or(other),
        };
        if let Some(place) = owners.get_mut(token.position) {
            *place = owner;
        }
    }
    owners
}
