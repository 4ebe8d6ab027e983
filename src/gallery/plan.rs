//! Which cells a gallery has, in which order, and who makes them.

use super::prompts::Line;
use super::seeds::MOST_CELLS;
use crate::argument::{
    CONCEPTS, EMPHASIS, INIT, LORA, PROBE, PROMPT, PROMPTS, REPLACE, SEEDS, SHARD, STRENGTH, WEIGHT,
};
use crate::checkpoint::{Changes, Checkpoint, Lora};
use crate::facts::expect::Expectations;
use crate::facts::lexicon::{Role, role};
use crate::maker::texts_of_run;
use crate::pipeline::{CheckpointChoice, InitFiles, LoadOptions, device_named, dtype_named};
use crate::prompt::{Syntax, WordWeights, word_ranges};
use crate::run::Sampling;
use crate::trace::{By, WordInfo, normalized, tags, without_tags, without_word};
use crate::{Error, Result};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use unicode_normalization::char::is_combining_mark;

/// What is multiplied.
#[derive(Debug, Clone, Default)]
pub struct Axes {
    /// The prompts, each with settings of its own where it has some.
    pub lines: Vec<Line>,
    /// The seeds for lines that name none.
    pub seeds: Vec<u64>,
    /// Words to replace; every prompt is kept as it is too.
    pub replacements: Vec<Replacement>,
    /// Words to emphasise more or less; every prompt is kept as it is too.
    pub weights: Vec<WordWeights>,
    /// Every prompt also without each of its words, or tags, that could be drawn, one at a time.
    pub without: Option<By>,
    /// Settings of the sampling, one list per axis. All combinations are made, and the last list
    /// varies first. What a line names itself comes before them.
    pub sampling: Vec<Vec<Sampling>>,
    /// Checkpoints as the user names them.
    pub models: Vec<String>,
    /// What is chosen of all of them; its LoRAs go with each of `loras`.
    pub changes: Changes,
    /// LoRAs that are merged into each checkpoint, one set after the other. The empty set is the
    /// checkpoint without any, and is what an empty list stands for.
    pub loras: Vec<Vec<Lora>>,
    /// How all checkpoints are loaded.
    pub load: LoadOptions,
    /// The picture that all runs set out from; noise alone where there is none.
    pub init: Option<InitFiles>,
    /// Words and phrases that all runs are asked about beside their prompts.
    pub probes: Vec<String>,
    /// Words whose ConceptAttention maps runs keep where prompts have them. An empty list stands
    /// for each prompt's own words, `None` for no concepts.
    pub concepts: Option<Vec<String>>,
    /// Whether all runs keep what the prompt's own tokens look at.
    pub text_queries: bool,
    /// Whether all runs record the unconditional half too.
    pub trace_negative: bool,
    /// All runs keep the estimate of the image at every so many steps; `None` for none.
    pub keep_steps: Option<u32>,
}

/// LoRAs as an axis takes them: `none`, or `FILE[:WEIGHT]` as often as wanted with `+` between
/// them.
///
/// # Errors
/// [`Error::Argument`] on `lora`.
pub fn parse_loras(text: &str) -> Result<Vec<Lora>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let lora = |part: &str| part.trim().parse::<Lora>().map_err(|reason| Error::argument(LORA, reason));
    // A file may have the sign in its name.
    match lora(text) {
        Ok(whole) if whole.file.is_file() => Ok(vec![whole]),
        _ => text.split('+').map(lora).collect(),
    }
}

/// A word of the prompts and what stands in its place, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The word, upper and lower case alike.
    pub word: String,
    /// Its replacements.
    pub by: Vec<String>,
}

impl FromStr for Replacement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::argument(REPLACE, format!("{} is no replacement; write apple=pear,lemon", crate::in_quotes(text)))
        };
        let (word, by) = text.split_once('=').ok_or_else(wrong)?;
        let by: Vec<String> = by.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_string).collect();
        let word = word.trim().to_string();
        if word.is_empty() || by.is_empty() { Err(wrong()) } else { Ok(Self { word, by }) }
    }
}

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
    /// Seed of the noise.
    pub seed: u64,
    /// Place in the gallery.
    pub order: usize,
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
        map.serialize_entry("seed", &self.seed)?;
        map.serialize_entry("order", &self.order)?;
        map.end()
    }
}

/// A look at a picture that is there already, as a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureLook {
    /// The picture's file.
    pub picture: PathBuf,
    /// The first half of the SHA-256 of its pixels, so that another picture of that name is another
    /// cell.
    pub sha256: String,
    /// Timesteps of training that it is noised to.
    pub levels: Vec<usize>,
    /// What the words of its caption are.
    #[serde(default, skip_serializing_if = "By::is_word")]
    pub by: By,
}

impl Cell {
    /// This cell with the settings `asked` for, setting out from `init` where there is a picture.
    fn sampled(&self, asked: Sampling, init: Option<&InitFiles>) -> Result<Self> {
        let strength = asked.strength;
        // A word's weight is written with brackets, which must be read then; other brackets would
        // be, too.
        let weighted = !self.weighted.is_empty();
        if weighted && asked.emphasis != Some(true) && self.base.contains(['(', ')', '[', ']', '\\']) {
            let reason = format!(
                "writes a weight in brackets, and {} has brackets that are text; read all as weights with {EMPHASIS}",
                crate::in_quotes(&self.base)
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
    fn same_pass(&self, other: &Self) -> bool {
        let plain = |cell: &Self| Self { seed: 0, ..cell.unplaced() };
        plain(self) == plain(other)
    }

    /// Without what says only how it came into the gallery.
    fn unplaced(&self) -> Self {
        let none = String::new;
        Self { order: 0, base: none(), replaced: none(), weighted: none(), without: none(), ..self.clone() }
    }

    /// Whether this cell is `whole` with something left out of its prompt.
    pub(super) fn is_part_of(&self, whole: &Self) -> bool {
        let plain = |cell: &Self| Self { prompt: String::new(), without: String::new(), order: 0, ..cell.clone() };
        !self.without.is_empty() && whole.without.is_empty() && plain(self) == plain(whole)
    }
}

/// One of several machines that make a gallery together: `I/N`, I from 1 to N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (index, count) = text.split_once('/')?;
            let (index, count) = (index.trim().parse::<usize>().ok()?, count.trim().parse::<usize>().ok()?);
            (1 <= index && index <= count).then_some(Self { index: index - 1, count })
        };
        parse().ok_or_else(|| {
            Error::argument(SHARD, format!("{} is no shard; write I/N with I from 1 to N", crate::in_quotes(text)))
        })
    }
}

/// The cells of a gallery in order, and the passes that make them.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All cells, whoever makes them.
    pub cells: Vec<Cell>,
    /// Positions in `cells` that one pass through the network makes together; all of one model
    /// before the next.
    pub passes: Vec<Vec<usize>>,
    /// As [`LoadOptions::ignore_memory`], for all checkpoints.
    pub ignore_memory: bool,
    /// What is expected of every image that has the words; it decides no image.
    pub expect: Option<Expectations>,
}

impl Plan {
    /// Multiplies `axes`: models with each set of LoRAs, then prompts with their replacements, then
    /// settings, then seeds. `batch` seeds at most go through the network in one pass. Passes do
    /// not depend on what was made already. So an image never depends on where an earlier try was
    /// interrupted.
    ///
    /// # Errors
    /// [`Error::Argument`] when there is nothing to make or far too much, a replaced word stands in
    /// no prompt, or two cells are equal. Also when a prompt has none of the concepts that are
    /// named.
    pub fn new(axes: &Axes, batch: usize) -> Result<Self> {
        if axes.lines.is_empty() {
            return Err(Error::argument(
                PROMPTS,
                format!("no prompt is given; name a file of prompts or use {PROMPT}"),
            ));
        }
        let replaced = axes.replacements.iter().map(|replacement| (REPLACE, &replacement.word));
        let weighted = axes.weights.iter().map(|weights| (WEIGHT, &weights.word));
        for (argument, word) in replaced.chain(weighted) {
            if !axes.lines.iter().any(|line| replace_word(&line.prompt, word, str::to_owned).is_some()) {
                return Err(Error::argument(argument, format!("{} stands in no prompt", crate::in_quotes(word))));
            }
        }
        let none = [Vec::new()];
        let loras = if axes.loras.is_empty() { &none[..] } else { &axes.loras };
        let checkpoints = axes.models.iter().flat_map(|model| loras.iter().map(move |loras| (model, loras)));
        let settings = product(&axes.sampling)?;
        let (mut cells, mut names) = (Vec::new(), HashSet::new());
        for (model, loras) in checkpoints {
            let mut changes = axes.changes.clone();
            changes.loras.extend(loras.iter().cloned());
            let of_checkpoint = Cell {
                model: model.clone(),
                changes,
                dtype: axes.load.dtype_named_unless_usual(),
                device: axes.load.device_named_unless_usual(),
                probes: axes.probes.clone(),
                text_queries: axes.text_queries,
                trace_negative: axes.trace_negative,
                keep_steps: axes.keep_steps,
                ..Cell::default()
            };
            for line in &axes.lines {
                let variants = variants(&line.prompt, &axes.replacements, &axes.weights);
                // How a prompt is read is the same in all settings: it is one switch.
                let read =
                    settings.first().map_or(line.sampling.syntax(), |asked| line.sampling.clone().or(asked).syntax());
                for variant in variants.into_iter().flat_map(|variant| parts(variant, axes.without, read)) {
                    let Variant { prompt, replaced, weighted, without } = variant;
                    let base = line.prompt.clone();
                    let concepts = concepts_in(&prompt, axes.concepts.as_deref())?;
                    let of_prompt =
                        Cell { prompt, base, replaced, weighted, without, concepts, ..of_checkpoint.clone() };
                    for asked in &settings {
                        let asked = line.sampling.clone().or(asked);
                        let of_settings = of_prompt.sampled(asked, axes.init.as_ref())?;
                        for &seed in line.seeds.as_ref().unwrap_or(&axes.seeds) {
                            let cell = Cell { seed, order: cells.len(), ..of_settings.clone() };
                            // The same prompt twice in a list is one cell.
                            if names.insert(cell.name()) {
                                cells.push(cell);
                            }
                            if cells.len() > MOST_CELLS {
                                return Err(too_many());
                            }
                        }
                    }
                }
            }
        }
        if cells.is_empty() {
            return Err(Error::argument(SEEDS, "no seed is given; write 0..8 or 1,5,9"));
        }
        let nowhere =
            |concept: &&String| !cells.iter().flat_map(|cell| &cell.concepts).any(|own| own.contains(concept));
        if let Some(concept) = axes.concepts.iter().flatten().find(nowhere) {
            let way_out = format!("ask about words that none has with {PROBE}");
            let reason = format!("{} stands in no prompt; {way_out}", crate::in_quotes(concept));
            return Err(Error::argument(CONCEPTS, reason));
        }
        let mut passes: Vec<Vec<usize>> = Vec::new();
        for (index, cell) in cells.iter().enumerate() {
            match passes.last_mut() {
                Some(pass) if pass.len() < batch.max(1) && cells[pass[0]].same_pass(cell) => pass.push(index),
                _ => passes.push(vec![index]),
            }
        }
        Ok(Self { cells, passes, ignore_memory: axes.load.ignore_memory, expect: None })
    }

    /// Opens the checkpoint that makes `cell` with `open`, and says how it is loaded: memory
    /// planned for the largest of the images that it makes.
    ///
    /// # Errors
    /// As [`Cell::choice`], and those of `open`.
    pub fn open(
        &self,
        cell: &Cell,
        open: &dyn Fn(&CheckpointChoice) -> Result<Checkpoint>,
    ) -> Result<(Checkpoint, LoadOptions)> {
        let choice = cell.choice()?;
        let checkpoint = open(&choice)?;
        let own = checkpoint.defaults.size;
        let made = || self.cells.iter().filter(|other| other.same_checkpoint(cell));
        let sizes = made().map(|other| other.sampling.size.unwrap_or(own));
        let size = sizes.max_by_key(|[height, width]| height.saturating_mul(*width));
        let read = |cell: &Cell| texts_of_run(&cell.prompt, cell.concepts.as_deref(), &cell.probes);
        let texts = made().flat_map(|other| read(other).into_iter().chain(other.sampling.negative.clone()));
        let mut texts: Vec<String> = texts.collect();
        texts.sort();
        texts.dedup();
        Ok((checkpoint, LoadOptions { size, ignore_memory: self.ignore_memory, texts, ..choice.load }))
    }

    /// The passes that `shard` makes: every N-th, so that all shards have a part of every
    /// checkpoint and prompt.
    pub fn passes_of(&self, shard: Shard) -> impl Iterator<Item = &Vec<usize>> {
        self.passes.iter().enumerate().filter(move |(at, _)| at % shard.count == shard.index).map(|(_, pass)| pass)
    }
}

/// Those of the concepts `named` that `prompt` has. None named stands for its own words, `None` for
/// no concepts.
fn concepts_in(prompt: &str, named: Option<&[String]>) -> Result<Option<Vec<String>>> {
    let Some(named) = named else { return Ok(None) };
    let own: Vec<String> =
        named.iter().filter(|word| replace_word(prompt, word, str::to_owned).is_some()).cloned().collect();
    if own.is_empty() && !named.is_empty() {
        let reason = format!(
            "{} has none of {}; name one of its words too, or none for each prompt's own",
            crate::in_quotes(prompt),
            named.join(", ")
        );
        return Err(Error::argument(CONCEPTS, reason));
    }
    Ok(Some(own))
}

/// Every combination of one of each list, the last list varying first.
fn product(lists: &[Vec<Sampling>]) -> Result<Vec<Sampling>> {
    let mut all = vec![Sampling::default()];
    for list in lists.iter().filter(|list| !list.is_empty()) {
        if all.len().saturating_mul(list.len()) > MOST_CELLS {
            return Err(too_many());
        }
        all = all.iter().flat_map(|known| list.iter().map(|more| known.clone().or(more))).collect();
    }
    Ok(all)
}

fn too_many() -> Error {
    Error::argument(SEEDS, format!("the axes multiply to more than {MOST_CELLS} cells; make them shorter"))
}

/// A prompt of the list with some of its words replaced, and some given a weight.
struct Variant {
    prompt: String,
    /// What was replaced, and by what.
    replaced: String,
    /// Which words have which weight.
    weighted: String,
    /// What is left out.
    without: String,
}

/// `prompt` as it is, then with every combination of replacements of words that it has, and of
/// weights of words that are left.
fn variants(prompt: &str, replacements: &[Replacement], weights: &[WordWeights]) -> Vec<Variant> {
    let join = |before: &str, more: &str| format!("{before} {more}").trim_start().to_owned();
    let none = String::new;
    let mut all = vec![Variant { prompt: prompt.to_owned(), replaced: none(), weighted: none(), without: none() }];
    for Replacement { word, by } in replacements {
        all = with_each(all, by, |Variant { prompt, replaced, weighted, .. }, new| {
            let made = replace_word(prompt, word, |_| new.clone())?;
            let replaced = join(replaced, &format!("{word}={new}"));
            Some(Variant { prompt: made, replaced, weighted: weighted.clone(), without: none() })
        });
    }
    for WordWeights { word, weights } in weights {
        let changing: Vec<String> = weights.iter().filter(|&&weight| weight != 1.0).map(f32::to_string).collect();
        all = with_each(all, &changing, |Variant { prompt, replaced, weighted, .. }, weight| {
            let made = replace_word(prompt, word, |found| format!("({found}:{weight})"))?;
            let weighted = join(weighted, &format!("{word} {weight}"));
            Some(Variant { prompt: made, replaced: replaced.clone(), weighted, without: none() })
        });
    }
    all
}

/// `variant` as it is, then without each of its words or tags that could be drawn, by the name of
/// what is left out. Of a prompt of one word nothing would be left.
fn parts(variant: Variant, by: Option<By>, syntax: Syntax) -> Vec<Variant> {
    let Some(by) = by else { return vec![variant] };
    let syntax = Syntax { emphasis: syntax.emphasis || !variant.weighted.is_empty(), ..syntax };
    let prompt = &variant.prompt;
    let ranges = match by {
        By::Word => word_ranges(prompt, syntax),
        By::Tag => tags(prompt),
    };
    let told: Vec<_> = ranges.into_iter().filter(|range| role(&prompt[range.clone()]) != Role::Filler).collect();
    let mut parts = Vec::new();
    for (at, range) in told.iter().enumerate() {
        let text = prompt[range.clone()].to_owned();
        let same = |other: &&Range<usize>| normalized(&prompt[(*other).clone()]) == normalized(&text);
        let occurrence = 1 + told[..at].iter().filter(same).count();
        let without = WordInfo::label_of(&text, occurrence);
        let left = match by {
            By::Word => without_word(prompt, range.clone()),
            By::Tag => without_tags(prompt, std::slice::from_ref(range)),
        };
        if !left.trim().is_empty() {
            let (replaced, weighted) = (variant.replaced.clone(), variant.weighted.clone());
            parts.push(Variant { prompt: left, replaced, weighted, without });
        }
    }
    std::iter::once(variant).chain(parts).collect()
}

/// Each of `all`, followed by what `make` makes of it with each of `values`.
fn with_each(
    all: Vec<Variant>,
    values: &[String],
    make: impl Fn(&Variant, &String) -> Option<Variant>,
) -> Vec<Variant> {
    let mut next = Vec::new();
    for variant in all {
        let made: Vec<Variant> = values.iter().filter_map(|value| make(&variant, value)).collect();
        next.push(variant);
        next.extend(made);
    }
    next
}

/// `text` with every whole word or phrase that is `word`, in any spelling, replaced by what `by`
/// makes of it. `None` where there is none.
fn replace_word(text: &str, word: &str, by: impl Fn(&str) -> String) -> Option<String> {
    let word = normalized(word);
    let (first, last) = (word.chars().next()?, word.chars().next_back()?);
    // A mark belongs to the letter before it: "cafe" is no word of "cafe\u{301}".
    let goes_on = |c: char| is_combining_mark(c) || c.is_alphanumeric();
    let (mut out, mut at, mut found) = (String::new(), 0, false);
    while let Some(c) = text[at..].chars().next() {
        let inside = goes_on(first) && text[..at].chars().next_back().is_some_and(goes_on);
        let end = if inside || c.is_whitespace() { None } else { end_of(&text[at..], &word) };
        let whole = |end: &usize| {
            let next = text[at + end..].chars().next();
            !next.is_some_and(|next| is_combining_mark(next) || (goes_on(last) && goes_on(next)))
        };
        match end.filter(whole) {
            Some(end) => {
                out.push_str(&by(&text[at..at + end]));
                (at, found) = (at + end, true);
            }
            None => {
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
    found.then_some(out)
}

/// The longest beginning of `text`, in bytes, that is `word` (as [`normalized`] gives it) in some
/// spelling, without white space after it.
fn end_of(text: &str, word: &str) -> Option<usize> {
    let length = word.chars().count();
    let mut found = None;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        let here = normalized(&text[..end]);
        if here.chars().count() > length {
            break;
        }
        if here == word && !c.is_whitespace() {
            found = Some(end);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::seeds::{listed_seeds, parse_seeds};
    use super::*;

    fn axes(prompts: &[&str], seeds: &str) -> Axes {
        let lines = prompts.iter().map(|prompt| Line { prompt: prompt.to_string(), ..Line::default() }).collect();
        Axes { lines, seeds: parse_seeds(seeds).unwrap(), models: vec!["embedded".into()], ..Axes::default() }
    }

    fn steps(list: &[usize]) -> Vec<Sampling> {
        list.iter().map(|&steps| Sampling { steps: Some(steps), ..Sampling::default() }).collect()
    }

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

    #[test]
    fn every_setting_is_an_axis_and_lines_come_first() {
        let mut axes = axes(&["a frog", "a cat"], "0..2");
        let guidance = |scale| Sampling { guidance: Some(scale), ..Sampling::default() };
        axes.sampling = vec![steps(&[5, 10]), vec![guidance(1.0), guidance(3.0)], Vec::new()];
        axes.lines[1].sampling.steps = Some(7);
        let plan = Plan::new(&axes, 4).unwrap();
        let told = |cell: &Cell| (cell.sampling.steps.unwrap(), cell.sampling.guidance.unwrap(), cell.seed);
        let frogs: Vec<_> = plan.cells[..8].iter().map(told).collect();
        assert_eq!(frogs[..4], [(5, 1.0, 0), (5, 1.0, 1), (5, 3.0, 0), (5, 3.0, 1)]);
        // The cat has steps of its own, so that two of its four combinations are one.
        assert_eq!(
            plan.cells[8..].iter().map(told).collect::<Vec<_>>(),
            [(7, 1.0, 0), (7, 1.0, 1), (7, 3.0, 0), (7, 3.0, 1)]
        );
        axes.sampling.push(vec![Sampling { strength: Some(0.5), ..Sampling::default() }]);
        assert!(Plan::new(&axes, 1).unwrap_err().to_string().contains("`init`"));
    }

    #[test]
    fn memory_is_planned_for_the_largest_image_whoever_chose_its_size() {
        let open = |choice: &CheckpointChoice| choice.open(None);
        let own = open(&CheckpointChoice::default()).unwrap().defaults.size;
        for (asked, planned) in [([64, 64], own), ([1024, 2048], [1024, 2048])] {
            let mut axes = axes(&["a frog", "a cat"], "0");
            axes.lines[0].sampling.size = Some(asked);
            axes.load.ignore_memory = true;
            let plan = Plan::new(&axes, 1).unwrap();
            let (_, load) = plan.open(&plan.cells[0], &open).unwrap();
            assert_eq!((load.size, load.ignore_memory), (Some(planned), true));
        }
    }

    #[test]
    fn seeds_are_numbers_and_ranges() {
        assert_eq!(parse_seeds("0..3, 7,10..12").unwrap(), [0, 1, 2, 7, 10, 11]);
        assert_eq!(parse_seeds("0-2,7, 10-11").unwrap(), [0, 1, 2, 7, 10, 11], "A-B has both ends");
        assert_eq!(parse_seeds("5,0,0..3,5,1").unwrap(), [5, 0, 1, 2]);
        assert_eq!(listed_seeds("0,0,1").unwrap(), [0, 0, 1]);
        for wrong in ["", "x", "3..1", "1..", "-1", "0..99999999999"] {
            assert!(parse_seeds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn whole_words_are_replaced_whatever_their_case() {
        let replaced = |text: &str, word: &str, by: &str| replace_word(text, word, |_| by.to_owned());
        assert_eq!(replaced("An Apple, pineapple and apple", "apple", "pear").unwrap(), "An pear, pineapple and pear");
        assert_eq!(replaced("pineapple apples", "apple", "pear"), None);
        assert_eq!(replaced("हरा मेंढक", "हरा", "लाल").unwrap(), "लाल मेंढक");
        // Whatever the form, whole letters: an accent is no end of a word.
        assert_eq!(replaced("a cafe\u{301}, here", "caf\u{e9}", "bar").unwrap(), "a bar, here");
        assert_eq!(replaced("a CAF\u{c9}", "cafe\u{301}", "bar").unwrap(), "a bar");
        assert_eq!(replaced("a cafe\u{301}", "cafe", "bar"), None);
        assert_eq!(replaced("\u{1109}\u{1161}\u{1100}\u{116a}", "\u{c0ac}\u{acfc}", "apple").unwrap(), "apple");
        assert_eq!(replaced("\u{1109}\u{1161}\u{1100}\u{116a}\u{11ab}", "\u{c0ac}\u{acfc}", "apple"), None);
        assert_eq!(replaced("a \u{2764}\u{fe0f} b", "\u{2764}", "x").unwrap(), "a x b");
        assert_eq!(replaced("a red  apple b", "red apple", "pear").unwrap(), "a pear b");
        let all = variants("a red apple", &["red=green".parse().unwrap(), "apple=pear,car".parse().unwrap()], &[]);
        let prompts: Vec<&str> = all.iter().map(|v| v.prompt.as_str()).collect();
        assert_eq!(prompts, ["a red apple", "a red pear", "a red car", "a green apple", "a green pear", "a green car"]);
        assert_eq!(all[5].replaced, "red=green apple=car");
        let all = variants("a Red apple", &[], &["red=1,0.5,1.50".parse().unwrap()]);
        let all: Vec<_> = all.iter().map(|v| (v.prompt.as_str(), v.weighted.as_str())).collect();
        assert_eq!(all, [("a Red apple", ""), ("a (Red:0.5) apple", "red 0.5"), ("a (Red:1.5) apple", "red 1.5")]);
        assert!("apple=".parse::<Replacement>().is_err() && "=x".parse::<Replacement>().is_err());
    }

    #[test]
    fn the_product_has_every_cell_once() {
        let mut axes = axes(&["a frog", "a frog", "an apple"], "0..3");
        axes.sampling = vec![steps(&[5, 10])];
        let plan = Plan::new(&axes, 2).unwrap();
        assert_eq!(plan.cells.len(), 2 * 2 * 3);
        assert_eq!(plan.cells.iter().map(|c| c.order).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        // Three seeds in passes of two: 2 + 1 for each prompt and number of steps.
        assert_eq!(plan.passes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn loras_are_an_axis_and_lines_say_how_they_are_read() {
        let mut axes = axes(&["a frog", "(a frog:1.2)"], "0..2");
        axes.lines[1].sampling.emphasis = Some(true);
        axes.changes.variant = Some("fp16".into());
        axes.loras = ["none", "a/style.safetensors:0.5+b.safetensors"].map(|text| parse_loras(text).unwrap()).into();
        let plan = Plan::new(&axes, 4).unwrap();
        let told: Vec<_> = plan.cells.iter().map(|cell| (cell.lora_label(), cell.syntax_label(), cell.seed)).collect();
        let both = || "style:0.5 + b:1".to_string();
        let expected = [(String::new(), ""), (String::new(), "emphasis"), (both(), ""), (both(), "emphasis")];
        let expected =
            expected.into_iter().flat_map(|(lora, syntax)| [0, 1].map(|seed| (lora.clone(), syntax.to_string(), seed)));
        assert_eq!(told, expected.collect::<Vec<_>>());
        assert_eq!(plan.passes, [[0, 1], [2, 3], [4, 5], [6, 7]]);
        assert_eq!(plan.cells[0].checkpoint_label(), "embedded (fp16)");
        assert_eq!(plan.cells[4].choice().unwrap().changes.loras.len(), 2);
        assert!(parse_loras("").is_err() && parse_loras("a.safetensors:NaN").is_err());
        // Without any, a cell is written as it was before there were any, and keeps its name.
        let plain =
            Plan::new(&Axes { loras: Vec::new(), changes: Changes::default(), ..axes }, 1).unwrap().cells.remove(0);
        let fields = serde_json::to_value(&plain).unwrap();
        let names: Vec<&str> = fields.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "prompt",
                "base",
                "replaced",
                "negative",
                "model",
                "steps",
                "guidance",
                "size",
                "scheduler",
                "seed",
                "order"
            ]
        );
    }

    #[test]
    fn each_word_or_tag_is_left_out_once() {
        let mut axes = axes(&["a red apple, on the beach"], "0..2");
        axes.without = Some(By::Word);
        let told = |plan: &Plan| -> Vec<(String, String)> {
            plan.cells.iter().filter(|cell| cell.seed == 0).map(|c| (c.prompt.clone(), c.without.clone())).collect()
        };
        let own = |list: &[(&str, &str)]| list.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect::<Vec<_>>();
        let whole = ("a red apple, on the beach", "");
        let plan = Plan::new(&axes, 2).unwrap();
        let words =
            [("a apple, on the beach", "red"), ("a red, on the beach", "apple"), ("a red apple, on the", "beach")];
        assert_eq!(told(&plan), own(&[&[whole][..], &words].concat()));
        let cells = &plan.cells;
        assert!(cells[2].is_part_of(&cells[0]) && !cells[2].is_part_of(&cells[1]) && !cells[0].is_part_of(&cells[0]));
        axes.without = Some(By::Tag);
        let tags = [("on the beach", "a red apple"), ("a red apple", "on the beach")];
        assert_eq!(told(&Plan::new(&axes, 2).unwrap()), own(&[&[whole][..], &tags].concat()));
        // A cell's name is that of the image, however its prompt came about.
        axes.lines[0].prompt = "a red apple".into();
        axes.without = None;
        let alone = Plan::new(&axes, 1).unwrap();
        axes.lines[0].prompt = whole.0.into();
        axes.without = Some(By::Tag);
        assert!(Plan::new(&axes, 1).unwrap().cells.iter().any(|cell| cell.name() == alone.cells[0].name()));
    }

    #[test]
    fn shards_share_out_every_pass_once() {
        let plan = Plan::new(&axes(&["a", "b", "c"], "0..5"), 2).unwrap();
        let mut all: Vec<usize> = (1..=4)
            .flat_map(|i| plan.passes_of(format!("{i}/4").parse().unwrap()).flatten().copied().collect::<Vec<_>>())
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..15).collect::<Vec<_>>());
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_tell_cells_apart_and_do_not_depend_on_the_order() {
        let plan = Plan::new(&axes(&["../a frog", "x"], "7"), 1).unwrap();
        let name = plan.cells[0].name();
        assert!(name.starts_with("a-frog-7-"), "{name}");
        assert_eq!(Cell { order: 99, ..plan.cells[0].clone() }.name(), name);
        for asked in [steps(&[3]).remove(0), Sampling { long: Some(true), ..Sampling::default() }] {
            assert_ne!(Cell { sampling: asked, ..plan.cells[0].clone() }.name(), name);
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(Plan::new(&axes(&[], "0"), 1).unwrap_err().to_string().contains("no prompt"));
        let mut wrong = axes(&["a frog"], "0");
        wrong.replacements = vec!["apple=pear".parse().unwrap()];
        assert!(Plan::new(&wrong, 1).unwrap_err().to_string().contains("stands in no prompt"));
        let mut weighted = axes(&["a frog (green)"], "0");
        weighted.weights = vec!["frog=1.5".parse().unwrap()];
        assert!(Plan::new(&weighted, 1).unwrap_err().to_string().contains("`emphasis`"));
        weighted.lines[0].prompt = "a frog".into();
        let plan = Plan::new(&weighted, 1).unwrap();
        let told = |cell: &Cell| (cell.prompt.clone(), cell.sampling.syntax().emphasis);
        assert_eq!(
            plan.cells.iter().map(told).collect::<Vec<_>>(),
            [("a frog".into(), false), ("a (frog:1.5)".into(), true)]
        );
    }
}
