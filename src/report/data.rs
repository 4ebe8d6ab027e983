//! What the page shows, as plain values: no tensors, no files.

use crate::attribution::RegionAttribution;
use crate::render::Display;
use crate::trace::{Buffer, Queries, Stage};
use half::f16;
use serde::Serialize;

/// What a token of the prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PageTokenKind {
    /// The start token, which collects most of the attention.
    Start,
    /// A token of the prompt's text.
    Text,
    /// The first end token; it also carries a summary of the prompt.
    End,
}

/// One token, in the order of the maps' channels.
#[derive(Debug, Clone, Serialize)]
pub struct PageToken {
    /// The token as the vocabulary writes it, or the text that it covers.
    pub text: String,
    /// Start, text or end.
    pub kind: PageTokenKind,
}

/// One word of the prompt, in prompt order.
#[derive(Debug, Clone, Serialize)]
pub struct PageWord {
    /// The word as written.
    pub text: String,
    /// Which of the repeated words this is, from 1; 1 for a word that occurs once.
    pub occurrence: usize,
    /// Positions in [`ReportData::tokens`].
    pub tokens: Vec<usize>,
    /// What the prompt's brackets multiply it by; 1 where brackets are text.
    pub weight: f64,
    /// Which chunk of a long prompt it stands in, from 0.
    pub chunk: usize,
}

/// A stretch of the prompt: a word, or what lies between two words.
#[derive(Debug, Clone, Serialize)]
pub struct Segment {
    /// The text exactly as written.
    pub text: String,
    /// Position in [`ReportData::words`] when the stretch is a word.
    pub word: Option<usize>,
}

/// A picture in a format that browsers show.
#[derive(Debug, Clone)]
pub struct ImageData {
    /// `image/png`, `image/jpeg` or `image/webp`.
    pub mime: &'static str,
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

/// The model's estimate of the finished image at one step.
#[derive(Debug, Clone)]
pub struct StepImage {
    /// 0-based step.
    pub step: usize,
    /// The picture.
    pub image: ImageData,
}

/// The picture that a run set out from.
#[derive(Debug, Clone)]
pub struct StartPicture {
    /// What the run calls it, e.g. its file.
    pub name: String,
    /// Share of the steps that were taken, 0 to 1.
    pub strength: f64,
    /// The picture, perhaps smaller than the run's.
    pub picture: ImageData,
    /// White where it was drawn anew, where only a part was.
    pub mask: Option<ImageData>,
}

/// The attention of one cross-attention site.
///
/// `channels`: the tokens, then all remaining padding summed; the channels of a cell up to there
/// sum to 1. Then come the tokens of the probes, which are no part of that sum. Those of the
/// negative prompt's words come last, of the other half's own sum.
#[derive(Debug, Clone)]
pub struct SiteData {
    /// The diffusers weight path.
    pub path: String,
    /// Down, mid or up.
    pub stage: Stage,
    /// Number of heads.
    pub heads: usize,
    /// Rows of the site grid.
    pub height: usize,
    /// Columns of the site grid.
    pub width: usize,
    /// Whether the run's own aggregate uses this site.
    pub used: bool,
    /// Probabilities summed over the steps, `[heads, channels, height, width]`, as the trace has
    /// them.
    pub by_head: Buffer<f32>,
    /// Probabilities averaged over the heads, `[steps, channels, height, width]`, when single steps
    /// were kept.
    pub by_step: Option<Buffer<f16>>,
}

/// The run's own maps: what its overlays show.
#[derive(Debug, Clone)]
pub struct RunMaps {
    /// The aggregate as `run.json` has it, e.g. `compete` or `all, heads 0-3`.
    pub name: String,
    /// What it averages, in words, e.g. `up blocks, 16x16, all heads, all steps`.
    pub description: String,
    /// Rows of the grid (latent grid).
    pub height: usize,
    /// Columns of the grid.
    pub width: usize,
    /// `[words + probes, height, width]`: the map of every word and then of every probe, mean
    /// probability per step.
    pub words: Vec<f32>,
    /// `[tokens + 1]`: share of all attention, the last that of all padding; they sum to 1.
    pub shares: Vec<f32>,
    /// What the colours of its maps stand for; see
    /// [`Aggregate::colour`](crate::heatmap::Aggregate::colour).
    pub colour: &'static str,
    /// With which exponent the words compete for a cell, where they do; see
    /// [`Aggregate::compete`](crate::heatmap::Aggregate::compete).
    pub compete: Option<f32>,
    /// Whether a word's map is the mean of its tokens' instead of their sum.
    pub mean: bool,
    /// Which encoder's tokens it takes: `both`, `clip` or `t5`.
    pub encoder: &'static str,
    /// Where in [`ReportData::tokens`] those of the second encoder begin, where the page can show
    /// the maps of one encoder alone.
    pub behind: Option<usize>,
    /// The heads that it takes, where it does not take all.
    pub heads: Option<Vec<usize>>,
    /// The first and last step that it takes, from 0, where it does not take all.
    pub steps: Option<[usize; 2]>,
}

/// The words of the negative prompt, where that half was recorded. They belong to the other half of
/// the guidance batch, another soft-max, and are compared among themselves alone. Their maps by
/// site, head and step are the last channels of [`SiteData`].
#[derive(Debug, Clone)]
pub struct Negative {
    /// The negative prompt cut into words and what lies between, in order.
    pub segments: Vec<Segment>,
    /// Its words; their tokens are positions among those below.
    pub words: Vec<PageWord>,
    /// `[words, height, width]` on the latent grid: the run's own map of each, mean probability per
    /// step.
    pub maps: Vec<f32>,
    /// `[tokens]`: each one's share of all attention of its half.
    pub shares: Vec<f32>,
    /// How many of the tokens are the first encoder's, where a second one reads the prompt too.
    pub behind: Option<usize>,
}

/// A text encoder's own causal self-attention over the prompt's tokens.
#[derive(Debug, Clone)]
pub struct PromptMatrix {
    /// `text`, or `text_2` for SDXL's second encoder, as the trace names them.
    pub name: String,
    /// The tokens as this encoder's tokenizer cuts them.
    pub tokens: Vec<PageToken>,
    /// Number of layers.
    pub layers: usize,
    /// Heads per layer.
    pub heads: usize,
    /// `[layers, heads, tokens, tokens]`: row = the token that looks, column = the token looked at.
    pub values: Vec<f32>,
}

/// What each place of a grid is tied to by self-attention.
#[derive(Debug, Clone)]
pub struct SelfAttentionData {
    /// Rows of the grid.
    pub height: usize,
    /// Columns of the grid.
    pub width: usize,
    /// How many sites were averaged.
    pub sites: usize,
    /// `[cells, cells]`: a row for each place that looks; every row sums to 1.
    pub mean: Buffer<f16>,
}

/// Layout statistics of one word under the run's own aggregate; lengths as fractions of the image.
#[derive(Debug, Clone, Serialize)]
pub struct LayoutRow {
    /// Position in [`ReportData::words`].
    pub word: usize,
    /// Share of all attention, 0 to 1.
    pub share: f32,
    /// `x, y` of the centre, from the top left; `None` for an empty map.
    pub centre: Option<[f32; 2]>,
    /// Share of the image that the word's area covers.
    pub area: f32,
    /// How evenly its map lies on the image: 0 in one cell, 1 the same everywhere.
    pub entropy: f32,
    /// Whether it is a thing that was probably not drawn, as the run's facts say.
    #[serde(skip)]
    pub not_drawn: bool,
    /// Name and value of each fact, as shown.
    pub facts: Vec<(String, String)>,
}

/// What a causal test said about one word.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Position in [`ReportData::words`].
    pub word: usize,
    /// Whether it mattered: `much`, `a little`, `not at all`.
    pub mattered: &'static str,
    /// Share of the image that changes without it, 0 to 1, where the image was drawn without it.
    pub changed: Option<f64>,
    /// Share of the prediction that cutting it moves, 0 to 1.
    pub effect: f64,
    /// Whether its map shows where: `yes`, `partly`, `no`, `nothing to show`.
    pub shows: &'static str,
    /// Both in a few words.
    pub verdict: String,
    /// Both in a sentence.
    pub sentence: String,
    /// What was measured, without the answers.
    pub measured: String,
}

/// How much the prediction of each place changed when a word was cut.
#[derive(Debug, Clone)]
pub struct CausalMap {
    /// Position in [`ReportData::words`].
    pub word: usize,
    /// `[height, width]` on the latent grid, not negative; its mean is the word's effect.
    pub map: Vec<f32>,
}

/// The same seed without a word.
#[derive(Debug, Clone)]
pub struct Without {
    /// Position in [`ReportData::words`].
    pub word: usize,
    /// The image that came out.
    pub image: ImageData,
    /// Share of the image that changed, 0 to 1.
    pub area: f64,
    /// The middle of the box around what changed, in per cent of the width from the left; `None`
    /// where nothing did.
    pub middle: Option<f32>,
}

/// Why a thing lies where it does, as `attnmap why` answered.
#[derive(Debug, Clone)]
pub struct WhyAnswer {
    /// The word.
    pub word: String,
    /// The answer.
    pub sentence: String,
    /// The experiments: what was done, how many images, how far the thing moved, and more.
    pub rows: Vec<[String; 4]>,
    /// What is to be said beside it.
    pub notes: Vec<String>,
    /// A strip of pictures for each experiment, with captions.
    pub figures: Vec<(String, ImageData)>,
}

/// Many seeds of the run's prompt that were looked at together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepLink {
    /// Address of its page, from the run's page.
    pub href: String,
    /// How many seeds.
    pub seeds: usize,
}

/// Everything that the page shows.
#[derive(Debug, Clone)]
pub struct ReportData {
    /// Name of the run (its folder).
    pub name: String,
    /// The prompt exactly as typed.
    pub prompt: String,
    /// The prompt cut into words and what lies between, in order; their texts concatenate to the
    /// part that was read.
    pub segments: Vec<Segment>,
    /// Words beyond the tokenizer's length that the model never read.
    pub cut_off: Vec<String>,
    /// Start token, prompt tokens, first end token.
    pub tokens: Vec<PageToken>,
    /// Number of padding tokens behind the first end token (the maps' last channel).
    pub padding: usize,
    /// Whether attention is joint: the maps' last channel then holds the image's own attention
    /// beside the padding's.
    pub joint: bool,
    /// Words in prompt order.
    pub words: Vec<PageWord>,
    /// Words that are not in the prompt and that the run was asked about; their tokens are
    /// positions among the channels of the maps.
    pub probes: Vec<PageWord>,
    /// The finished image.
    pub image: ImageData,
    /// How the run's own pictures are drawn, and the page's before anything else is chosen.
    pub display: Display,
    /// The share of a map's own maximum above which a place belongs to a word's area.
    pub threshold: f32,
    /// The words and their maps side by side, for readers whose browser runs no script.
    pub sheet: Option<ImageData>,
    /// Estimates of the image at some steps.
    pub estimates: Vec<StepImage>,
    /// The picture that the run set out from.
    pub start: Option<StartPicture>,
    /// Rows and columns of the latent grid.
    pub latent: (usize, usize),
    /// Timestep of every step (call of the denoiser).
    pub timesteps: Vec<f64>,
    /// The share of noise at each, 0 to 1, where the steps are noise levels that an existing
    /// picture was shown at. None where it was not recorded.
    pub noise: Option<Vec<f64>>,
    /// Sites in network order.
    pub sites: Vec<SiteData>,
    /// The run's own maps.
    pub official: Option<RunMaps>,
    /// The negative prompt's words, where they were recorded.
    pub negative_words: Option<Negative>,
    /// Self-attention, the coarsest grid first, where the run kept it.
    pub self_attention: Vec<SelfAttentionData>,
    /// Queries and keys, where the run kept them.
    pub queries: Option<Queries>,
    /// The self-attention of each text encoder that was recorded.
    pub matrices: Vec<PromptMatrix>,
    /// Layout statistics, one row per word.
    pub layout: Vec<LayoutRow>,
    /// What stands out in the layout, one sentence per finding.
    pub remarks: Vec<String>,
    /// Verdicts of the causal test, where the run has one.
    pub verdicts: Vec<Verdict>,
    /// The causal map of each tested word.
    pub causal: Vec<CausalMap>,
    /// The same seed without each word that was left out.
    pub without: Vec<Without>,
    /// A sweep of the same prompt that lies beside the run.
    pub sweep: Option<SweepLink>,
    /// What else the causal test found, one sentence per finding.
    pub checks: Vec<String>,
    /// Pictures that the causal test made, with captions.
    pub figures: Vec<(String, ImageData)>,
    /// Why things lie where they do, where it was asked.
    pub why: Vec<WhyAnswer>,
    /// The components of the attention, as the page's script takes them.
    pub components: Option<serde_json::Value>,
    /// What places of the image depend on, as `attnmap attribute` found it.
    pub attributions: Vec<RegionAttribution>,
    /// The command that makes the causal test.
    pub explain_command: String,
    /// Settings and provenance: name and value, in the order shown.
    pub settings: Vec<(String, String)>,
    /// The name of the cell that the run is, where it lies in a gallery.
    pub cell: Option<String>,
    /// The command line that reproduces the run.
    pub command: String,
}

impl ReportData {
    /// Channels of a map: the tokens, the rest of the padding, the tokens of the probes, and those
    /// of the negative prompt's words.
    pub fn channels(&self) -> usize {
        let negative = self.negative_words.as_ref().map_or(0, |negative| negative.shares.len());
        self.tokens.len() + 1 + self.probes.iter().map(|probe| probe.tokens.len()).sum::<usize>() + negative
    }
}
