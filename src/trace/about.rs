//! What a trace says about its run beside the numbers: plain serde copies of the prompt, the
//! checkpoint and the settings.

use serde::{Deserialize, Serialize};

/// What kind of token a position of the prompt holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// The start token, `<|startoftext|>`.
    Start,
    /// A piece of the prompt's text.
    Text,
    /// The first end token, `<|endoftext|>`.
    End,
    /// Anything after the first end token.
    Padding,
}

/// One token of a prompt. Its position in the sequence is its position in [`PromptInfo::tokens`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// The id in the tokenizer's vocabulary.
    pub id: u32,
    /// The vocabulary's text, e.g. `apple</w>`.
    pub text: String,
    /// Start, text, end or padding.
    pub kind: TokenKind,
    /// First byte of the prompt's text that the token covers.
    pub start: usize,
    /// One past the last byte of the prompt's text that the token covers; equal to `start` for
    /// special tokens.
    pub end: usize,
}

/// One word (or chosen phrase) of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WordInfo {
    /// The word as the user wrote it.
    pub text: String,
    /// First byte of the prompt's text that the word covers.
    pub start: usize,
    /// One past the last byte of the prompt's text that the word covers.
    pub end: usize,
    /// Positions of its tokens in [`PromptInfo::tokens`].
    pub tokens: Vec<usize>,
    /// 1 for the first time this word stands in the prompt, 2 for the second, and so on.
    pub occurrence: usize,
}

/// A prompt as the network saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptInfo {
    /// The text as the user wrote it.
    pub text: String,
    /// The start token, the prompt's tokens and the first end token: `T` of them.
    pub tokens: Vec<TokenInfo>,
    /// The words in prompt order.
    pub words: Vec<WordInfo>,
}

impl PromptInfo {
    /// Whether every token of `word` is a start, end or padding token, as for a selection like
    /// `<start>`.
    pub fn is_special(&self, word: &WordInfo) -> bool {
        !self.is_probe(word)
            && word.tokens.iter().all(|&token| self.tokens.get(token).is_none_or(|token| token.kind != TokenKind::Text))
    }

    /// The position of the first token of the second reading: T5's, behind CLIP's, in Stable
    /// Diffusion 3. `None` where the prompt has one reading.
    ///
    /// T5 has no start token. So it begins behind the end token that no chunk of CLIP's follows.
    pub fn behind(&self) -> Option<usize> {
        let begins = |pair: &[TokenInfo]| {
            pair[0].kind == TokenKind::End && matches!(pair[1].kind, TokenKind::Text | TokenKind::End)
        };
        self.tokens.windows(2).position(begins).map(|end| end + 1)
    }
}

impl WordInfo {
    /// The word's name among all words: `apple`, or `apple#2` where the prompt repeats it.
    pub fn label(&self) -> String {
        Self::label_of(&self.text, self.occurrence)
    }

    /// The [label](Self::label) of a word that reads `text`, for what holds no more of it.
    pub(crate) fn label_of(text: &str, occurrence: usize) -> String {
        if occurrence > 1 { Self::numbered(text, occurrence) } else { text.to_owned() }
    }

    /// The label with its number also where that is 1, among words that read alike.
    pub(super) fn numbered(text: &str, occurrence: usize) -> String {
        format!("{text}#{occurrence}")
    }
}

/// A word or phrase that is not given to the network: we compute attention to its keys, but the
/// network never uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeInfo {
    /// The probe as the user wrote it.
    pub text: String,
    /// Its tokens; their byte ranges are those of `text`.
    pub tokens: Vec<TokenInfo>,
}

/// A concept that a run was asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConceptInfo {
    /// The word or phrase; words of the prompt that are spelled so have its map.
    pub text: String,
    /// Its tokens where it is a probe, a word that the prompt does not have; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenInfo>,
}

/// The checkpoint that made a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// What the user named: `embedded`, a folder, or a hub id.
    pub id: String,
    /// The digest of its weights.
    pub digest: String,
}

/// One of the text encoders whose states SDXL puts side by side. The state at position `p` of the
/// sequence holds each encoder's token `p`. So attention to `p` is attention to all of these tokens
/// together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderInfo {
    /// Its folder in the checkpoint: `text_encoder` or `text_encoder_2`.
    pub name: String,
    /// How the prompt is cut by the tokenizer that belongs to it, from the start token to the first
    /// end token.
    pub tokens: Vec<TokenInfo>,
    /// Id of the token that fills the rest of the sequence; `None` where the prompt fills it all.
    pub padding: Option<u32>,
}

/// Rows and columns of a grid or picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grid {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Grid {
    /// A grid of `height` rows and `width` columns.
    pub fn new(height: usize, width: usize) -> Self {
        Self { height, width }
    }

    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.height * self.width
    }

    /// The cell or pixel that a point lies in, across and down from 0. The point is given in shares
    /// of the sides.
    pub fn pixel(&self, x: f32, y: f32) -> [f32; 2] {
        [(x * self.width as f32).floor(), (y * self.height as f32).floor()]
    }
}

/// What a trace says about its run beside the recorded numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The prompt that the conditional half was given.
    pub prompt: PromptInfo,
    /// The prompt that the unconditional half was given, when that half was recorded.
    pub negative: Option<PromptInfo>,
    /// Words that the network was not given and was asked about.
    #[serde(default)]
    pub probes: Vec<ProbeInfo>,
    /// Concepts that read the image beside the prompt, in the order of `concept/` in the trace
    /// file. Those with tokens are among the probes.
    #[serde(default)]
    pub concepts: Vec<ConceptInfo>,
    /// The text encoders, where there are two; empty for one, whose tokens are the prompt's.
    #[serde(default)]
    pub encoders: Vec<EncoderInfo>,
    /// The latent grid: the space of every heat map.
    pub latent: Grid,
    /// The image in pixels.
    pub image: Grid,
    /// The checkpoint.
    pub checkpoint: CheckpointInfo,
    /// The settings of the run, as `run.json` holds them.
    pub settings: serde_json::Value,
}

/// The key in a run's settings under which a look at a picture has its noise levels.
pub const LEVELS_KEY: &str = "levels";

/// The key beside it under which it has the share of noise at each.
pub const NOISE_KEY: &str = "noise";

impl About {
    /// Tokens of the prompt as the second encoder sees it; 0 where there is one encoder.
    pub fn second_tokens(&self) -> usize {
        self.encoders.get(1).map_or(0, |encoder| encoder.tokens.len())
    }

    /// Whether the steps are noise levels that a picture was shown at, with no order in time.
    pub fn is_look(&self) -> bool {
        self.settings.get(LEVELS_KEY).is_some()
    }

    /// The noise levels of a look in few words: `t = 700, 200; noise 92, 25 %`; `None` for other
    /// runs.
    pub fn levels(&self) -> Option<String> {
        let list = |values: Vec<String>| values.join(", ");
        let levels = self.settings.get(LEVELS_KEY)?.as_array()?.iter().map(ToString::to_string).collect();
        let noise = list(self.noise()?.iter().map(|share| format!("{:.0}", 100.0 * share)).collect());
        let noise = if noise.is_empty() { noise } else { format!("; noise {noise}\u{a0}%") };
        Some(format!("t\u{a0}=\u{a0}{}{noise}", list(levels)))
    }

    /// The share of noise at each level of a look, 0 to 1: its part of the variance, 1 - alpha_bar.
    /// `None` for other runs, and empty for looks of versions that did not record it.
    pub fn noise(&self) -> Option<Vec<f64>> {
        let shares = self.settings.get(NOISE_KEY).and_then(serde_json::Value::as_array);
        self.is_look().then(|| shares.into_iter().flatten().filter_map(serde_json::Value::as_f64).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t5_begins_behind_the_last_chunk_of_clip() {
        // `s` start, `t` text, `e` end, `p` padding.
        let behind = |kinds: &str| {
            let kind = |letter: char| match letter {
                's' => TokenKind::Start,
                't' => TokenKind::Text,
                'e' => TokenKind::End,
                _ => TokenKind::Padding,
            };
            let token = |letter| TokenInfo { id: 0, text: String::new(), kind: kind(letter), start: 0, end: 0 };
            PromptInfo { tokens: kinds.chars().map(token).collect(), ..PromptInfo::default() }.behind()
        };
        for one in ["", "se", "stte", "stesttese", "tte", "e", "stepp"] {
            assert_eq!(behind(one), None, "{one}");
        }
        for (two, first) in [("stettte", 3), ("see", 2), ("stestesete", 8), ("stesee", 5)] {
            assert_eq!(behind(two), Some(first), "{two}");
        }
    }
}
