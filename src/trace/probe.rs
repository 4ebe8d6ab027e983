//! Words that a run was asked about and not given: their names, and how they are told from the
//! prompt's words.

use super::about::{ProbeInfo, PromptInfo, WordInfo};

/// What stands before a probe's text wherever it is named, so that it is never taken for a word of
/// the prompt.
pub const PROBE_PREFIX: &str = "probe:";

/// `probes` as words that can be chosen, mapped and drawn beside those of `prompt`: named
/// [`PROBE_PREFIX`] and the text. The prompt's `T` tokens and the padding are channels 0 to `T` of
/// its maps. The tokens of the probes, one after the other, are numbered on from there.
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
