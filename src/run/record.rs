//! `run.json`: everything that a script wants to know of a run; and `heatmaps.safetensors`, its
//! maps.

use super::Settings;
use crate::facts::Facts;
use crate::facts::expect::{Expectations, Outcome};
use crate::facts::sweep::SweepInfo;
use crate::files::tensors::{self, NamedTensor};
use crate::heatmap::{Aggregate, ConnectedRegion, Heatmaps, Layout, SavedAggregate, otsu};
use crate::render::Display;
use crate::trace::{By, CheckpointInfo, EncoderInfo, Grid, PromptInfo, Site, TokenInfo, WordInfo};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The file's name in a run folder.
pub const FILE: &str = "run.json";

/// The format of `run.json` that this version writes, and the newest that it reads. In format 1 the
/// peak, centre, area and entropy of a word of several tokens were those of the mean of its tokens'
/// maps. Since 2 they are those of the sum (`docs/NUMBERS.md`).
pub const FORMAT_VERSION: u32 = 2;

/// The content of `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Version of attnmap that made the run.
    pub attnmap: String,
    /// How the image came about; runs of before this was recorded were all generated.
    #[serde(default)]
    pub kind: RunKind,
    /// The command line that makes the same run again.
    pub command: String,
    /// The prompt as the user wrote it.
    pub prompt: String,
    /// The negative prompt, if there was one.
    pub negative: Option<String>,
    /// What its words are: each word of the prompt, or each tag.
    #[serde(default, skip_serializing_if = "By::is_word")]
    pub by: By,
    /// The checkpoint.
    pub checkpoint: CheckpointInfo,
    /// What the image was made with.
    pub settings: Settings,
    /// The latent grid: the space of the maps, and of `peak.row` and `peak.column`.
    pub latent: Grid,
    /// The image in pixels.
    pub image: Grid,
    /// Start token, prompt tokens and first end token, with each one's share of attention.
    pub tokens: Vec<TokenRecord>,
    /// SDXL: the two text encoders whose states are put side by side, each with the tokens that it
    /// sees. `tokens` and `words` are positions in the sequence, which both share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encoders: Vec<EncoderInfo>,
    /// Share of attention of all padding together; with those of the tokens it sums to 1.
    pub padding_share: f32,
    /// The image's own share where attention is joint; it is the rest of the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_share: Option<f32>,
    /// The words that maps were made for, in the order of `words` in `heatmaps.safetensors`.
    pub words: Vec<WordRecord>,
    /// Words that the network was not given and was asked about, as `probes` in
    /// `heatmaps.safetensors` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<WordRecord>,
    /// Words of the prompt that did not fit into the text encoder.
    #[serde(default)]
    pub cut_off: Vec<String>,
    /// What the user was warned of.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How the maps were made, in words, e.g. `daam, heads 0-3`.
    pub aggregate: String,
    /// How the maps were made, as data. Absent in runs of versions that said it in words alone, and
    /// where another program made them in a way of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maps: Option<Aggregate>,
    /// How the pictures were drawn.
    pub display: Display,
    /// What the maps say: relations, overlap, neglected words, leaking adjectives, since when a
    /// word was placed. Absent in runs of versions that did not compute it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// What was expected of the image, and what came of it; empty where nothing was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<Outcome>,
    /// The sites that were watched, in network order.
    pub sites: Vec<Site>,
    /// The scheduler's timestep of every call of the denoiser.
    pub timesteps: Vec<f64>,
    /// Seconds by part. Left out where equal runs must be equal bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, f64>,
}

/// How the image of a run came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// The network drew it, step by step.
    #[default]
    Generate,
    /// Another program drew it and recorded the trace, as the Python package does for diffusers'
    /// pipelines.
    Record,
    /// It was there, and the network was shown it at some noise levels, which stand in place of the
    /// steps.
    Trace,
}

/// A token and its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The token.
    #[serde(flatten)]
    pub token: TokenInfo,
    /// Its share of all attention, 0 to 1.
    pub share: f32,
}

/// A word, where its attention lies, and its picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordRecord {
    /// The word.
    #[serde(flatten)]
    pub word: WordInfo,
    /// Share of attention, peak, centroid, area and so on.
    #[serde(flatten)]
    pub layout: Layout,
    /// The separate places above the threshold, largest share first; absent in runs of versions
    /// that did not tell them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<Vec<ConnectedRegion>>,
    /// Otsu's threshold of the word's map, a share of its maximum as `threshold` is: a second place
    /// to cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otsu: Option<f32>,
    /// The overlay's file, from the run folder.
    pub overlay: String,
}

impl RunRecord {
    /// What a sweep of the same prompt and settings says that it was made of, with maps made as
    /// `how` says.
    pub fn about(&self, how: SavedAggregate) -> SweepInfo {
        SweepInfo {
            prompt: self.prompt.clone(),
            checkpoint: self.checkpoint.clone(),
            how,
            negative: self.negative.clone().unwrap_or_default(),
            settings: serde_json::to_value(&self.settings).ok(),
        }
    }

    /// What stands out of `facts` of this run, one line per finding.
    pub fn sentences(&self, facts: &Facts) -> Vec<String> {
        match self.kind {
            RunKind::Trace => facts.sentences_of_picture(),
            RunKind::Generate | RunKind::Record => facts.sentences(),
        }
    }

    /// How the maps were made.
    ///
    /// # Errors
    /// [`Error::Argument`] for maps of a version that knows other aggregates.
    pub fn how(&self) -> Result<Aggregate> {
        self.saved_aggregate().how()
    }

    /// How the maps were made, as files about this run's maps say it.
    pub fn saved_aggregate(&self) -> SavedAggregate {
        SavedAggregate { aggregate: self.aggregate.clone(), maps: self.maps.clone() }
    }

    /// What was expected of the image; `None` where nothing was, or another version wrote what this
    /// one cannot read.
    pub fn expected(&self) -> Option<Expectations> {
        let texts: Vec<&str> = self.expectations.iter().map(|outcome| outcome.expectation.as_str()).collect();
        texts.join(", ").parse().ok()
    }

    /// Reads `run.json` in `folder`.
    ///
    /// # Errors
    /// [`Error::Trace`] when the folder is no run, the file is damaged, or a newer attnmap wrote
    /// it.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        let error = |reason: String| Error::Trace { file: file.clone(), reason };
        let bytes = match crate::files::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let reason = "no run here (no run.json); give a folder that `attnmap generate` made";
                return Err(Error::Trace { file: folder.to_path_buf(), reason: reason.into() });
            }
            Err(io) => return Err(Error::io(&file)(io)),
        };
        let value: Value = serde_json::from_slice(&bytes).map_err(|json| error(format!("not JSON: {json}")))?;
        // The version first: a newer file may lack or have other fields, and that must not be the
        // message.
        match value.get("format_version").and_then(Value::as_u64) {
            Some(version) if version > u64::from(FORMAT_VERSION) => Err(error(format!(
                "format {version} is newer than this attnmap reads ({FORMAT_VERSION}); update attnmap or make the \
                run again"
            ))),
            Some(_) => serde_json::from_value(value)
                .map(|record: Self| Self { sites: Site::with_depths(record.sites), ..record })
                .map_err(|json| error(format!("not a run of attnmap: {json}"))),
            None => Err(error("not a run of attnmap: no format_version".into())),
        }
    }

    /// Writes `run.json` into `folder`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        crate::files::write_json(&folder.join(FILE), self)
    }

    /// The share of a map's maximum from which a place counts to the word's area, in this run.
    pub fn threshold(&self) -> f32 {
        self.words.first().map_or(self.display.threshold, |word| word.layout.threshold)
    }

    /// Puts in what `heatmaps`, made as `how` says, tell. That is the aggregate's name, shares and
    /// the words with their layout at `threshold`. `overlay_file` names their overlays.
    pub fn describe(&mut self, heatmaps: &Heatmaps, how: &Aggregate, prompt: &PromptInfo, threshold: f32) {
        (self.aggregate, self.maps) = (how.to_string(), Some(how.clone()));
        let shares = heatmaps.shares.iter().copied();
        self.tokens =
            prompt.tokens.iter().cloned().zip(shares).map(|(token, share)| TokenRecord { token, share }).collect();
        self.padding_share = heatmaps.shares.last().copied().unwrap_or(0.0);
        self.image_share = Some(heatmaps.image_share).filter(|share| *share > 0.0);
        let word = |(index, word): (usize, &WordInfo)| WordRecord {
            word: word.clone(),
            layout: heatmaps.layout(index, threshold),
            places: Some(heatmaps.places(index, threshold)),
            otsu: Some(otsu(heatmaps.word(index))),
            overlay: overlay_file(index, heatmaps.chosen.len(), &word.label()),
        };
        let all = heatmaps.chosen.iter().enumerate().map(word);
        (self.probes, self.words) = all.partition(|record| prompt.is_probe(&record.word));
    }
}

/// `word` as a word of a POSIX command line, for [`RunRecord::command`].
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// `--name value` as words of a POSIX command line, or `--name=value` where the value begins with
/// a dash and would be taken for an option.
pub fn option_words(name: &str, value: &str) -> String {
    match value.starts_with('-') {
        true => quoted(&format!("{name}={value}")),
        false => format!("{name} {}", quoted(value)),
    }
}

/// The overlay of word `index` of `count`, from the run folder: `overlays/NN-word.png` with as many
/// digits as `count` needs.
pub fn overlay_file(index: usize, count: usize, label: &str) -> String {
    format!("overlays/{}.png", numbered(index, count, label))
}

/// The name of the file of word `index` of `count`, without its kind: `NN-word`.
pub(super) fn numbered(index: usize, count: usize, label: &str) -> String {
    let digits = count.saturating_sub(1).to_string().len().max(2);
    format!("{index:0digits$}-{}", super::slug(label))
}

/// Writes `heatmaps.safetensors`. `words` f32 `[W, h, w]` is the map of each chosen word. `tokens`
/// f32 `[T, h, w]` is the attention to each token before the words compete. Both are on the latent
/// grid, in attention probability summed over the steps. The metadata has `format_version`,
/// `aggregate`, `steps`, `prompt`, `tokens` and `words` (JSON). Words that are not in the prompt
/// are apart: `probe_tokens` f32 `[P, h, w]`, and those chosen as `probes` f32 `[N, h, w]`.
/// `probes` (JSON) in the metadata names them. In format 1 `tokens` held each token's own part of
/// the competition, and a word's map was their mean.
///
/// # Errors
/// [`Error::Io`].
pub fn save_heatmaps(path: &Path, heatmaps: &Heatmaps, aggregate: &str, prompt: &PromptInfo) -> Result<()> {
    let json = |value: serde_json::Result<String>| value.expect("plain data has a JSON form");
    let (probes, words): (Vec<usize>, Vec<usize>) =
        (0..heatmaps.chosen.len()).partition(|&index| prompt.is_probe(&heatmaps.chosen[index]));
    let infos =
        |indices: &[usize]| -> Vec<&WordInfo> { indices.iter().map(|&index| &heatmaps.chosen[index]).collect() };
    let maps =
        |indices: &[usize]| -> Vec<f32> { indices.iter().flat_map(|&index| heatmaps.word(index)).copied().collect() };
    let mut metadata = vec![
        ("format_version", "2".to_string()),
        ("aggregate", aggregate.to_string()),
        ("steps", heatmaps.steps.to_string()),
        ("prompt", prompt.text.clone()),
        ("tokens", json(serde_json::to_string(&prompt.tokens))),
        ("words", json(serde_json::to_string(&infos(&words)))),
    ];
    if !probes.is_empty() {
        metadata.push(("probes", json(serde_json::to_string(&infos(&probes)))));
    }
    let Grid { height, width } = heatmaps.grid;
    let (word_maps, probe_maps) = (maps(&words), maps(&probes));
    let mut tensors = vec![
        NamedTensor::f32("tokens", &[heatmaps.token_count(), height, width], &heatmaps.tokens),
        NamedTensor::f32("words", &[words.len(), height, width], &word_maps),
    ];
    if !heatmaps.probes.is_empty() {
        let count = heatmaps.probe_shares.len();
        tensors.push(NamedTensor::f32("probe_tokens", &[count, height, width], &heatmaps.probes));
    }
    // Also where the aggregate has nothing of their tokens, as in joint attention.
    if !probes.is_empty() || !heatmaps.probes.is_empty() {
        tensors.push(NamedTensor::f32("probes", &[probes.len(), height, width], &probe_maps));
    }
    tensors::write(path, &metadata, &tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_command_line_are_quoted_for_a_shell() {
        assert_eq!(quoted("--size=64x64"), "--size=64x64");
        assert_eq!(quoted("it's $5"), "'it'\\''s $5'");
        assert_eq!(quoted(""), "''");
        for word in ["a b", "it's", "\"$5\"", "a\nb", "`x`", "~", "*", "#", "a\\b", "\u{e9}!", "x=y", "-"] {
            assert_eq!(shlex::split(&quoted(word)), Some(vec![word.to_owned()]), "{word}");
        }
    }
}
