//! What was found in a picture's metadata, whichever program wrote it.

use crate::argument::{CLIP_SKIP, EMBEDDING, LORA};
use crate::prompt::Syntax;
use crate::scheduler::SchedulerKind;
use serde::{Deserialize, Serialize};

/// Bytes of a prompt beyond which it is not taken: no text encoder reads so much.
pub(super) const LONGEST: usize = 1 << 16;

/// The key in a run's settings under which a look at a picture has its [`Metadata`].
pub const METADATA_KEY: &str = "metadata";

/// What a picture's metadata says of how the picture was made.
///
/// What the metadata does not say, or says in a way that cannot be taken, is `None`;
/// [`not_taken`](Self::not_taken) tells both apart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The program that wrote it: `attnmap`, `AUTOMATIC1111`, `Forge`, `Fooocus`, `ComfyUI` or
    /// `InvokeAI`.
    pub program: String,
    /// The prompt, never empty; without what the program itself takes out of it before the text
    /// encoder, such as `<lora:NAME:WEIGHT>`.
    pub prompt: String,
    /// The negative prompt, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative: Option<String>,
    /// Seed of the noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Denoising steps, 1 or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Weight of classifier-free guidance, finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    /// The sampler, where attnmap has the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerKind>,
    /// Width and height in pixels that the picture was drawn at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(usize, usize)>,
    /// How the program reads its prompts, as near as attnmap can.
    #[serde(default, skip_serializing_if = "Syntax::is_plain")]
    pub syntax: Syntax,
    /// Last layers of CLIP that did not read the prompt, where attnmap counted them. Other programs
    /// leave out none in some networks whatever they write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// The checkpoint by the program's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What the metadata says and attnmap does not take, each in some words. The last one may say
    /// how many more there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_taken: Vec<String>,
}

impl Metadata {
    /// The settings that it has beside prompt and seed, each in a word or two.
    pub fn settings(&self) -> Vec<String> {
        let mut all = Vec::new();
        all.extend(self.negative.as_ref().map(|text| format!("the negative prompt {}", crate::in_quotes(text))));
        all.extend(self.steps.map(|steps| format!("{steps} steps")));
        all.extend(self.guidance.map(|guidance| format!("guidance {guidance}")));
        all.extend(self.scheduler.map(|kind| format!("scheduler {}", kind.name())));
        all.extend(self.size.map(|(width, height)| format!("size {width}x{height}")));
        all.extend(self.model.as_ref().map(|name| format!("checkpoint {name}")));
        all
    }
}

/// `text` in one line of a message, and no longer than one.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 160;
    let line = crate::printable(text);
    match line.char_indices().nth(MOST) {
        None => line,
        Some((at, _)) => format!("{}...", &line[..at]),
    }
}

/// The guidance of a picture, and what of it is not taken. FLUX is told its guidance (`distilled`);
/// a `cfg` of 1 beside it does nothing. `name` is what the program calls that one.
pub(super) fn guidance(cfg: Option<f64>, distilled: Option<f64>, name: &str) -> (Option<f64>, Option<String>) {
    let second = cfg.filter(|cfg| distilled.is_some() && *cfg != 1.0);
    (distilled.or(cfg), second.map(|cfg| format!("the guidance by a negative prompt ({name} {cfg})")))
}

/// What is said of a picture whose noise was drawn on a GPU.
pub(super) const GPU_NOISE: &str = "the noise of the GPU's generator (the same seed gives another one here)";

/// What is said of a LoRA that the picture was drawn with.
pub(super) fn lora(name: &str, weight: Option<f64>) -> String {
    let weight = weight.map_or_else(String::new, |weight| format!(":{weight}"));
    format!("LoRA {name} (give it with {LORA} FILE{weight})")
}

/// What is said of a clip skip that the program writes as `written`, and that leaves out `layers`.
/// In SDXL the web UI leaves out no more than SDXL does by itself, and ComfyUI one less.
pub(super) fn clip_skip(written: f64, layers: f64) -> String {
    format!("clip skip {written} (for Stable Diffusion 1 and 2 give it with {CLIP_SKIP} {layers})")
}

/// What is said of a textual inversion that the picture was drawn with.
pub(super) fn embedding(name: &str) -> String {
    format!("textual inversion {name} (give it with {EMBEDDING} FILE)")
}
