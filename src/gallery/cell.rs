//! One image of a gallery: everything that decides its bytes, its form in `cell.json`, and its
//! name.

use crate::argument::{EMPHASIS, INIT, STRENGTH, WEIGHT};
use crate::checkpoint::{Changes, Lora};
use crate::pipeline::{CheckpointChoice, InitFiles, LoadOptions, device_named, dtype_named};
use crate::run::Sampling;
use crate::trace::By;
use crate::{Error, Result};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// One image to be made. Everything that decides its bytes is here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Cell {
    /// The prompt, replacements made.
    pub prompt: String,
    /// The prompt as it stood in the list.
    pub base: String,
    /// What was replaced, e.g. `apple=pear`; empty where nothing was.
    pub replaced: String,
    /// Which words were given a weight, e.g. `frog 1.5`; empty where none was.
    #[serde(default)]
    pub weighted: String,
    /// What was left out of the prompt; empty where nothing was.
    #[serde(default)]
    pub without: String,
    /// The checkpoint as the user names it.
    pub model: String,
    /// What is chosen and changed of it.
    #[serde(default)]
    pub changes: Changes,
    /// Number type of the networks; `None` for f32.
    #[serde(default)]
    pub dtype: Option<String>,
    /// Where they run; `None` for the CPU.
    #[serde(default)]
    pub device: Option<String>,
    /// What is asked for of the sampling; a strength stands in `init`.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// The picture that the run sets out from.
    #[serde(default)]
    pub init: Option<InitFiles>,
    /// Words and phrases that it is asked about beside its prompt.
    #[serde(default)]
    pub probes: Vec<String>,
    /// The concepts that it keeps; nothing in it stands for its prompt's own words.
    #[serde(default)]
    pub concepts: Option<Vec<String>>,
    /// Whether what the prompt's own tokens look at is kept.
    #[serde(default)]
    pub text_queries: bool,
    /// Whether the unconditional half is recorded too.
    #[serde(default)]
    pub trace_negative: bool,
    /// Every how many steps the estimate of the image is kept; `None` for never.
    #[serde(default)]
    pub keep_steps: Option<u32>,
    /// The picture that is looked at, where none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look: Option<PictureLook>,
    /// Other ways to this image in a gallery that leaves words out: two prompts without a word may
    /// be one.
    #[serde(default)]
    pub also: Vec<Origin>,
    /// Seed of the noise.
    pub seed: u64,
    /// Place in the gallery.
    pub order: usize,
}

/// How a cell's prompt came about; each field as in [`Cell`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The prompt as it stood in the list.
    pub base: String,
    /// What was replaced.
    pub replaced: String,
    /// Which words were given a weight.
    pub weighted: String,
    /// What was left out of the prompt.
    pub without: String,
}

impl Serialize for Cell {
    /// The form of `cell.json`. The names of cells are digests of it. What is there keeps its place
    /// and its form, and what is new is written only where it is asked for.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let asked = &self.sampling;
        // The width first, and the left.
        let turned = |pair: Option<[usize; 2]>| pair.map(|[second, first]| [first, second]);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("prompt", &self.prompt)?;
        map.serialize_entry("base", &self.base)?;
        map.serialize_entry("replaced", &self.replaced)?;
        if !self.weighted.is_empty() {
            map.serialize_entry("weighted", &self.weighted)?;
        }
        if !self.without.is_empty() {
            map.serialize_entry("without", &self.without)?;
        }
        map.serialize_entry("negative", asked.negative.as_deref().unwrap_or_default())?;
        if !asked.syntax().is_plain() {
            map.serialize_entry("syntax", &asked.syntax())?;
        }
        map.serialize_entry("model", &self.model)?;
        if !self.changes.is_plain() {
            map.serialize_entry("changes", &self.changes)?;
        }
        if let Some(dtype) = &self.dtype {
            map.serialize_entry("dtype", dtype)?;
        }
        if let Some(device) = &self.device {
            map.serialize_entry("device", device)?;
        }
        map.serialize_entry("steps", &asked.steps)?;
        map.serialize_entry("guidance", &asked.guidance)?;
        map.serialize_entry("size", &turned(asked.size))?;
        map.serialize_entry("scheduler", &asked.scheduler)?;
        if let Some(spacing) = asked.spacing {
            map.serialize_entry("spacing", spacing.name())?;
        }
        if let Some(layers) = asked.clip_skip {
            map.serialize_entry("clip_skip", &layers)?;
        }
        if asked.original_size.is_some() {
            map.serialize_entry("original_size", &turned(asked.original_size))?;
        }
        if asked.crop.is_some() {
            map.serialize_entry("crop", &turned(asked.crop))?;
        }
        if let Some(init) = &self.init {
            map.serialize_entry("init", init)?;
        }
        if !self.probes.is_empty() {
            map.serialize_entry("probes", &self.probes)?;
        }
        if let Some(concepts) = &self.concepts {
            map.serialize_entry("concepts", concepts)?;
        }
        if self.text_queries {
            map.serialize_entry("text_queries", &true)?;
        }
        if self.trace_negative {
            map.serialize_entry("trace_negative", &true)?;
        }
        if let Some(every) = self.keep_steps {
            map.serialize_entry("keep_steps", &every)?;
        }
        if let Some(look) = &self.look {
            map.serialize_entry("look", look)?;
        }
        if !self.also.is_empty() {
            map.serialize_entry("also", &self.also)?;
        }
        map.serialize_entry("seed", &self.seed)?;
        map.serialize_entry("order", &self.order)?;
        map.end()
    }
}

/// A look at a picture that is there already, as a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureLook {
    /// The picture's file.
    #[serde(serialize_with = "crate::files::as_shown")]
    pub picture: PathBuf,
    /// The first 8 bytes of the SHA-256 of its pixels, in hex, so that another picture of that
    /// name is another cell.
    pub sha256: String,
    /// Timesteps of training that it is noised to.
    pub levels: Vec<usize>,
    /// What the words of its caption are.
    #[serde(default, skip_serializing_if = "By::is_word")]
    pub by: By,
}

impl Cell {
    /// This cell with the settings `asked` for, setting out from `init` where there is a picture.
    pub(super) fn sampled(&self, asked: Sampling, init: Option<&InitFiles>) -> Result<Self> {
        let strength = asked.strength;
        // A word's weight is written with brackets, which must be read then; other brackets would
        // be, too, those of the negative prompt among them.
        let weighted = !self.weighted.is_empty();
        let texts = [self.base.as_str(), self.replaced.as_str(), asked.negative.as_deref().unwrap_or_default()];
        let plain = texts.into_iter().find(|text| text.contains(['(', ')', '[', ']', '\\']));
        if let Some(plain) = plain.filter(|_| weighted && asked.emphasis != Some(true)) {
            let reason = format!(
                "writes a weight in brackets, and {} has brackets that are text; read all as weights with {EMPHASIS}",
                crate::in_quotes(plain)
            );
            return Err(Error::argument(WEIGHT, reason));
        }
        let emphasis = if weighted { Some(true) } else { asked.emphasis };
        if strength.is_some() && init.is_none() {
            return Err(Error::argument(STRENGTH, format!("is of a picture to start from; give one with {INIT}")));
        }
        let init = init.map(|files| InitFiles { strength: strength.or(files.strength), ..files.clone() });
        Ok(Self { sampling: Sampling { strength: None, emphasis, ..asked }, init, ..self.clone() })
    }

    /// The name of its folder: prompt and seed to be read by people, and a digest of everything
    /// else.
    pub fn name(&self) -> String {
        let identity = self.unplaced();
        let text = serde_json::to_string(&identity).expect("plain data has a JSON form");
        let digest = Sha256::digest(text.as_bytes());
        let hex = crate::text::hex(&digest[..4]);
        format!("{}-{hex}", crate::run::run_name(&self.prompt, self.seed))
    }

    /// The checkpoint that makes it.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is none.
    pub fn choice(&self) -> Result<CheckpointChoice> {
        let dtype = self.dtype.as_deref().map(dtype_named).transpose()?;
        let device = self.device.as_deref().map(device_named).transpose()?;
        let own = LoadOptions::default();
        let (dtype, device) = (dtype.unwrap_or(own.dtype), device.unwrap_or(own.device));
        let load = LoadOptions { dtype, device, size: self.sampling.size, ..own };
        Ok(CheckpointChoice { source: self.model.parse()?, changes: self.changes.clone(), load })
    }

    /// Whether the same checkpoint makes `other`, changes included.
    pub(super) fn same_checkpoint(&self, other: &Self) -> bool {
        (&self.model, &self.changes, &self.dtype, &self.device)
            == (&other.model, &other.changes, &other.dtype, &other.device)
    }

    /// The checkpoint in words, without its LoRAs: its name, and what else is chosen of it.
    pub fn checkpoint_label(&self) -> String {
        let Changes { variant, config, prediction, loras: _, embeddings } = &self.changes;
        let mut chosen: Vec<String> =
            [variant, prediction, &self.dtype, &self.device].into_iter().flatten().cloned().collect();
        chosen.extend(config.iter().map(|folder| folder.display().to_string()));
        chosen.extend(embeddings.iter().map(ToString::to_string));
        if chosen.is_empty() { self.model.clone() } else { format!("{} ({})", self.model, chosen.join(", ")) }
    }

    /// Its LoRAs in words, such as `style:0.8`; empty where it has none.
    pub fn lora_label(&self) -> String {
        let name = |lora: &Lora| lora.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let label = |lora: &Lora| format!("{}:{}", name(lora), lora.weight);
        self.changes.loras.iter().map(label).collect::<Vec<_>>().join(" + ")
    }

    /// How its prompts are read, in words: the names of the options; empty for plain text.
    pub fn syntax_label(&self) -> String {
        self.sampling.syntax().switches().collect::<Vec<_>>().join(", ")
    }

    /// Whether one pass can make this cell and `other` together: all but the seed is equal.
    pub(super) fn same_pass(&self, other: &Self) -> bool {
        let plain = |cell: &Self| Self { seed: 0, ..cell.unplaced() };
        plain(self) == plain(other)
    }

    /// Without what says only how it came into the gallery.
    fn unplaced(&self) -> Self {
        self.come_by(Origin::default(), 0, Vec::new())
    }

    /// This cell with other ways into the gallery.
    fn come_by(&self, origin: Origin, order: usize, also: Vec<Origin>) -> Self {
        let Origin { base, replaced, weighted, without } = origin;
        Self { base, replaced, weighted, without, order, also, ..self.clone() }
    }

    fn origin(&self) -> Origin {
        let Self { base, replaced, weighted, without, .. } = self.clone();
        Origin { base, replaced, weighted, without }
    }

    /// Whether it is a prompt with a word or tag left out.
    pub fn leaves_out(&self) -> bool {
        self.origins().iter().any(|origin| !origin.without.is_empty())
    }

    /// Every way in which it came into the gallery, its own first.
    pub(super) fn origins(&self) -> Vec<Origin> {
        std::iter::once(self.origin()).chain(self.also.iter().cloned()).collect()
    }

    /// Takes in how `other`, the same image, came into the gallery.
    pub(super) fn came_also_as(&mut self, other: &Self) {
        for origin in other.origins() {
            if !self.origins().contains(&origin) {
                self.also.push(origin);
            }
        }
    }

    /// This cell, come into the gallery as `other` did.
    pub(super) fn placed_as(&self, other: &Self) -> Self {
        self.come_by(other.origin(), other.order, other.also.clone())
    }

    /// Whether this cell, come into the gallery as `origin` says, is `whole` with something left
    /// out of its prompt.
    pub(super) fn is_part_of(&self, origin: &Origin, whole: &Self) -> bool {
        let of_whole = Origin { without: String::new(), ..origin.clone() };
        // Named concepts are those that its prompt still has.
        let plain = |cell: &Self| {
            let concepts = cell.concepts.as_ref().map(|_| Vec::new());
            Self { prompt: String::new(), concepts, ..cell.unplaced() }
        };
        !origin.without.is_empty() && whole.origins().contains(&of_whole) && plain(self) == plain(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells as version 0.1 wrote them, and the names of their folders: a gallery of it goes on.
    #[test]
    fn cells_keep_their_form_and_their_names() {
        for (text, name) in [
            (
                r#"{"prompt":"a frog","base":"a frog","replaced":"","negative":"","model":"embedded","steps":null,"guidance":null,"size":null,"scheduler":null,"seed":7,"order":3}"#,
                "a-frog-7-6230b8f6",
            ),
            (
                r#"{"prompt":"a (red:1.4) frog","base":"a (red:1.4) frog","replaced":"","negative":"rain","syntax":{"emphasis":true},"model":"m","changes":{"variant":"fp16","loras":[{"file":"style.safetensors","weight":0.5}]},"dtype":"bf16","steps":8,"guidance":3.5,"size":[640,512],"scheduler":"euler-a","spacing":"trailing","original_size":[1024,768],"crop":[40,16],"init":{"init":"a.png","mask":"m.png","strength":0.4},"seed":0,"order":0}"#,
                "a-red-1-4-frog-0-86d972b1",
            ),
        ] {
            let cell: Cell = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&cell).unwrap(), text);
            assert_eq!(cell.name(), name);
        }
    }
}
