//! Concepts of a run in a transformer of joint attention: words that read the image and are not
//! read (ConceptAttention).

use super::encode::EncoderPass;
use super::load::Pipeline;
use super::options::Options;
use crate::argument::{CONCEPTS, PROBE, TEXT_QUERIES};
use crate::model::{AddedConditions, Conditioning, PreparedPrompt};
use crate::prompt::Prompt;
use crate::trace::{ConceptInfo, PromptInfo, TokenKind, normalized};
use crate::{Error, Result};

impl Pipeline {
    /// Whether the denoiser can be asked about concepts, and about what the text's own tokens look
    /// at. It can where text and image are keys of one softmax.
    pub fn has_joint_attention(&self) -> bool {
        self.family.flows()
    }

    /// The concepts of a run of `prompt` with `options`, each once. They are those asked for, or
    /// all words of the prompt where there are probes alone, and then the probes.
    ///
    /// # Errors
    /// As [`probe_infos`](Self::probe_infos).
    pub fn concepts(&self, prompt: &Prompt, options: &Options) -> Result<Vec<ConceptInfo>> {
        if !self.has_joint_attention() || (options.concepts.is_empty() && options.probes.is_empty()) {
            return Ok(Vec::new());
        }
        let mut texts = options.concepts.clone();
        if texts.is_empty() {
            texts = prompt.default_words().into_iter().map(|word| word.text).collect();
        }
        let mut concepts: Vec<ConceptInfo> = Vec::new();
        let known = |concepts: &[ConceptInfo], text: &str| {
            concepts.iter().any(|concept| normalized(&concept.text) == normalized(text))
        };
        for text in texts {
            if !known(&concepts, &text) {
                concepts.push(ConceptInfo { text, tokens: Vec::new() });
            }
        }
        // A probe that the prompt has too is mapped as the probe, and the word with it.
        let probes = self.probe_infos(&options.probes)?;
        concepts.retain(|concept| !probes.iter().any(|probe| normalized(&probe.text) == normalized(&concept.text)));
        concepts.extend(probes.into_iter().map(|probe| ConceptInfo { text: probe.text, tokens: probe.tokens }));
        Ok(concepts)
    }

    /// As [`check_joint`], of this checkpoint.
    ///
    /// # Errors
    /// As there.
    pub fn check_joint(&self, concepts: bool, text_queries: bool) -> Result<()> {
        check_joint(self.has_joint_attention(), concepts, text_queries)
    }

    /// `context` with the concepts of `options`, asked of the rows that are given `prompt`.
    pub(super) fn with_concepts(
        &self,
        context: PreparedPrompt,
        prompt: &Prompt,
        options: &Options,
    ) -> Result<PreparedPrompt> {
        let concepts = self.concepts(prompt, options)?;
        if concepts.is_empty() {
            return Ok(context);
        }
        let prompts = concepts.iter().map(|concept| self.tokenize(&concept.text)).collect::<Result<Vec<_>>>()?;
        let encoding = self.encode(&prompts.iter().collect::<Vec<_>>(), EncoderPass::of(options))?;
        let added = match &encoding.pooled {
            // What FLUX.1's concepts are told; Stable Diffusion 3 tells them the prompt's own.
            Some(pooled) => Some(AddedConditions { pooled: pooled.zeros_like()?, time_ids: Default::default() }),
            None => None,
        };
        let conditioning = Conditioning {
            added,
            lengths: encoding.lengths,
            guidance: Some(options.guidance_scale),
            ..Conditioning::new(encoding.hidden_states)
        };
        let own = |prompt: &Prompt| -> Vec<usize> {
            // Where T5's reading stands behind CLIP's, CLIP's alone, as in the authors' code.
            let text = prompt.own_tokens().iter().filter(|token| token.kind == TokenKind::Text);
            text.map(|token| token.position).collect()
        };
        let tokens: Vec<Vec<usize>> = prompts.iter().map(own).collect();
        if let Some((concept, _)) = concepts.iter().zip(&tokens).find(|(_, tokens)| tokens.is_empty()) {
            let reason = format!("{} holds no word; give words like \"apple,frog\"", crate::in_quotes(&concept.text));
            return Err(Error::argument(CONCEPTS, reason));
        }
        context.with_concepts(&self.denoiser.prepare(&conditioning)?, &tokens, options.seeds.len())
    }
}

/// Refuses `concepts` and the text's own queries where attention is not `joint`.
///
/// # Errors
/// [`Error::Argument`] on `concepts` or `text_queries`.
pub fn check_joint(joint: bool, concepts: bool, text_queries: bool) -> Result<()> {
    let (argument, why) = match (joint, concepts, text_queries) {
        (false, true, _) => (CONCEPTS, format!("every word has a map, and {PROBE} asks about others")),
        (false, false, true) => (TEXT_QUERIES, "text does not look at the image".to_owned()),
        _ => return Ok(()),
    };
    Err(Error::argument(argument, format!("is for Stable Diffusion 3, FLUX.1 and Z-Image; here {why}")))
}

/// The concepts that `about` was asked for beside its probes: what makes them again.
pub fn concepts_asked(concepts: &[ConceptInfo]) -> Vec<String> {
    concepts.iter().filter(|concept| concept.tokens.is_empty()).map(|concept| concept.text.clone()).collect()
}

/// `words` of a prompt as concepts, by what they are spelled; each has to stand in `prompt`.
///
/// # Errors
/// [`Error::Argument`] on `concepts` for a word that the prompt does not have.
pub fn concepts_of(prompt: &PromptInfo, words: &[String]) -> Result<Vec<String>> {
    for word in words {
        prompt.select(word).map_err(|_| {
            let way_out = format!("ask about words that it does not have with {PROBE}");
            Error::argument(CONCEPTS, format!("the prompt has no {}; {way_out}", crate::in_quotes(word)))
        })?;
    }
    Ok(words.to_vec())
}
