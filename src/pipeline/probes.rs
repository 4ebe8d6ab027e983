//! Words that are not in the prompt: how their keys are made, so that a run can be asked about them
//! without being changed.

use super::encode::{EncodedPrompts, EncoderPass};
use super::load::Pipeline;
use super::options::Options;
use crate::argument::PROBE;
use crate::model::PreparedPrompt;
use crate::prompt::Prompt;
use crate::trace::{ProbeInfo, PromptInfo, TokenKind};
use crate::{Error, Result};
use candle_core::Tensor;

impl Pipeline {
    /// The tokens of a probe, which the text encoder is given as a prompt of its own. So the word
    /// means what it means alone, whatever the run's prompt says around it.
    ///
    /// # Errors
    /// [`Error::Argument`] on `probe` when the text has no token, or more than the text encoder
    /// takes.
    pub fn probe(&self, text: &str) -> Result<Prompt> {
        let probe = self.tokenize(text)?;
        if !probe.tokens.iter().any(|token| token.kind == TokenKind::Text) {
            return Err(Error::argument(
                PROBE,
                format!("{} holds no word; give words like \"shadow,tail\"", crate::in_quotes(text)),
            ));
        }
        if !probe.cut_off.is_empty() {
            let most = self.prompt_length();
            let reason = format!(
                "a probe is a word or a phrase of at most {most} tokens; this one is longer: {}",
                crate::in_quotes(text)
            );
            return Err(Error::argument(PROBE, reason));
        }
        Ok(probe)
    }

    /// What a trace says of the probes `texts`.
    ///
    /// # Errors
    /// As [`probe`](Self::probe).
    pub fn probe_infos(&self, texts: &[String]) -> Result<Vec<ProbeInfo>> {
        let info = |text: &String| {
            let PromptInfo { text, mut tokens, .. } = PromptInfo::from(&self.probe(text)?);
            tokens.retain(|token| token.kind == TokenKind::Text);
            Ok(ProbeInfo { text, tokens })
        };
        texts.iter().map(info).collect()
    }

    /// Tokens of `probes` that are keys beside the prompt's: none where attention is joint, and
    /// probes are concepts.
    pub(super) fn key_probes(&self, probes: &[ProbeInfo]) -> usize {
        if self.has_joint_attention() { 0 } else { probes.iter().map(|probe| probe.tokens.len()).sum() }
    }

    /// `context` with the probes of `options`, asked of the rows that are given `prompt`, the
    /// encoding of one.
    pub(super) fn with_probes(
        &self,
        context: PreparedPrompt,
        prompt: &EncodedPrompts,
        options: &Options,
    ) -> Result<PreparedPrompt> {
        let images = options.seeds.len();
        let beside = |text: &String| {
            let probe = self.probe(text)?;
            let states =
                self.encode(&[&probe], EncoderPass { layers: None, ..EncoderPass::of(options) })?.hidden_states;
            let own = probe.tokens.iter().filter(|token| token.kind == TokenKind::Text).map(|token| token.index as u32);
            let own = Tensor::from_iter(own, states.device())?;
            let tokens = own.elem_count();
            let states = Tensor::cat(&[&prompt.hidden_states, &states.index_select(&own, 1)?], 1)?;
            let pooled = prompt.pooled.as_ref().map(|pooled| Tensor::cat(&vec![pooled; images], 0)).transpose()?;
            let conditioning = self.conditions(Tensor::cat(&vec![states; images], 0)?, pooled, options);
            Ok((self.denoiser.prepare(&conditioning)?, tokens))
        };
        context.with_probes(options.probes.iter().map(beside).collect::<Result<_>>()?)
    }
}
