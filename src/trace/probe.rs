//! Words that a run was asked about and not given: their names, and how they are told from the prompt's words.

use super::{PromptInfo, TokenInfo, WordInfo};
use serde::{Deserialize, Serialize};

/// What stands before a probe's text wherever it is named, so that it is never taken for a word of the prompt.
pub const PROBE_PREFIX: &str = "probe:";

/// A word or phrase that is not given to the network: its keys are read against the queries that the prompt's are read against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeInfo {
    /// The probe as the user wrote it.
    pub text: String,
    /// Its tokens; their byte ranges are those of `text`.
    pub tokens: Vec<TokenInfo>,
}

/// `probes` as words that can be chosen, mapped and drawn beside those of `prompt`: named [`PROBE_PREFIX`] and the text. The prompt's `T`
/// tokens and the padding are channels 0 to `T` of its maps; the tokens of the probes, one after the other, are numbered on from there.
pub fn probe_words(prompt: &PromptInfo, probes: &[ProbeInfo]) -> Vec<WordInfo> {
    let mut next = prompt.tokens.len() + 1;
    let word = |probe: &ProbeInfo| {
        let tokens: Vec<usize> = (next..next + probe.tokens.len()).collect();
        next += probe.tokens.len();
        WordInfo { text: format!("{PROBE_PREFIX}{}", probe.text), start: 0, end: 0, tokens, occurrence: 1 }
    };
    probes.iter().map(word).collect()
}

impl PromptInfo {
    /// Whether `word` is a probe and no word of this prompt.
    pub fn is_probe(&self, word: &WordInfo) -> bool {
        word.tokens.first().is_some_and(|&token| token > self.tokens.len())
    }
}
