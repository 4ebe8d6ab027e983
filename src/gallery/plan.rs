//! Which cells a gallery has, in which order, and who makes them.

use super::prompts::Line;
use crate::checkpoint::{Changes, Checkpoint, Lora};
use crate::facts::expect::Expectations;
use crate::pipeline::{Choice, InitFiles, LoadOptions, device_named, dtype_named};
use crate::prompt::Syntax;
use crate::scheduler::Spacing;
use crate::trace::{By, normalized};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;
use unicode_normalization::char::is_combining_mark;

/// Cells of a gallery, at most: a mistyped range should not fill a disk.
const MOST_CELLS: usize = 1_000_000;

/// What is multiplied.
#[derive(Debug, Clone, Default)]
pub struct Axes {
    /// The prompts, each with settings of its own where it has some.
    pub lines: Vec<Line>,
    /// The seeds for lines that name none.
    pub seeds: Vec<u64>,
    /// Words to replace; every prompt is kept as it is too.
    pub replacements: Vec<Replacement>,
    /// Numbers of steps for lines that name none; empty for the checkpoint's own.
    pub steps: Vec<usize>,
    /// Checkpoints as the user names them.
    pub models: Vec<String>,
    /// What is chosen of all of them; its LoRAs go with each of `loras`.
    pub changes: Changes,
    /// LoRAs that are merged into each checkpoint, one set after the other; the empty set is the checkpoint without any, and is what an
    /// empty list stands for.
    pub loras: Vec<Vec<Lora>>,
    /// How all checkpoints are loaded.
    pub load: LoadOptions,
    /// For lines that name none.
    pub negative: String,
    /// How prompts are read whose lines do not say it.
    pub syntax: Syntax,
    /// For lines that name none; `None` for the checkpoint's own.
    pub guidance: Option<f64>,
    /// Width and height for lines that name none; `None` for the checkpoint's own.
    pub size: Option<(usize, usize)>,
    /// Sampler for lines that name none; `None` for the checkpoint's own.
    pub scheduler: Option<String>,
    /// How all runs' timesteps are spread; `None` for the checkpoint's own.
    pub spacing: Option<Spacing>,
    /// SDXL: width and height that all images are said to have had; `None` for their own.
    pub original_size: Option<(usize, usize)>,
    /// SDXL: left and top of the crop that all images are said to be; `None` for 0, 0.
    pub crop: Option<(usize, usize)>,
    /// The picture that all runs set out from; noise alone where there is none.
    pub init: Option<InitFiles>,
    /// Words and phrases that all runs are asked about beside their prompts.
    pub probes: Vec<String>,
    /// Whether all runs record the unconditional half too.
    pub trace_negative: bool,
    /// All runs keep the estimate of the image at every so many steps; `None` for none.
    pub keep_steps: Option<u32>,
}

/// LoRAs as an axis takes them: `none`, or `FILE[:WEIGHT]` as often as wanted with `+` between them.
///
/// # Errors
/// [`Error::Option`] on `--lora`.
pub fn parse_loras(text: &str) -> Result<Vec<Lora>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let lora = |part: &str| part.trim().parse::<Lora>().map_err(|reason| Error::option("--lora", reason));
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
            Error::option("--replace", format!("{} is no replacement; write apple=pear,lemon", crate::in_quotes(text)))
        };
        let (word, by) = text.split_once('=').ok_or_else(wrong)?;
        let by: Vec<String> = by.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_string).collect();
        let word = word.trim().to_string();
        if word.is_empty() || by.is_empty() { Err(wrong()) } else { Ok(Self { word, by }) }
    }
}

/// One image to be made. Everything that decides its bytes is here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The prompt, replacements made.
    pub prompt: String,
    /// The prompt as it stood in the list.
    pub base: String,
    /// What was replaced, e.g. `apple=pear`; empty where nothing was.
    pub replaced: String,
    /// The negative prompt.
    pub negative: String,
    /// How both are read.
    #[serde(default, skip_serializing_if = "Syntax::is_plain")]
    pub syntax: Syntax,
    /// The checkpoint as the user names it.
    pub model: String,
    /// What is chosen and changed of it.
    #[serde(default, skip_serializing_if = "Changes::is_plain")]
    pub changes: Changes,
    /// Number type of the networks; `None` for f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Where they run; `None` for the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Steps; `None` for the checkpoint's own.
    pub steps: Option<usize>,
    /// Guidance; `None` for the checkpoint's own.
    pub guidance: Option<f64>,
    /// Width and height; `None` for the checkpoint's own.
    pub size: Option<(usize, usize)>,
    /// Sampler; `None` for the checkpoint's own.
    pub scheduler: Option<String>,
    /// How the timesteps are spread; `None` for the checkpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacing: Option<String>,
    /// SDXL: width and height that the image is said to have had; `None` for its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_size: Option<(usize, usize)>,
    /// SDXL: left and top of the crop that the image is said to be; `None` for 0, 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<(usize, usize)>,
    /// The picture that the run sets out from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitFiles>,
    /// Words and phrases that it is asked about beside its prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<String>,
    /// Whether the unconditional half is recorded too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trace_negative: bool,
    /// Every how many steps the estimate of the image is kept; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_steps: Option<u32>,
    /// The picture that is looked at, where none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look: Option<Look>,
    /// Seed of the noise.
    pub seed: u64,
    /// Place in the gallery.
    pub order: usize,
}

/// A look at a picture that is there already, as a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
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
    /// The name of its folder: prompt and seed to be read by people, and a digest of everything else.
    pub fn name(&self) -> String {
        let identity = Self { order: 0, base: String::new(), replaced: String::new(), ..self.clone() };
        let text = serde_json::to_string(&identity).expect("plain data has a JSON form");
        let digest = Sha256::digest(text.as_bytes());
        let hex: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{hex}", crate::run::run_name(&self.prompt, self.seed))
    }

    /// The checkpoint that makes it.
    ///
    /// # Errors
    /// [`Error::Option`] for a name that is none.
    pub fn choice(&self) -> Result<Choice> {
        let dtype = self.dtype.as_deref().map(dtype_named).transpose()?;
        let device = self.device.as_deref().map(device_named).transpose()?;
        let own = LoadOptions::default();
        let size = self.size.map(|(width, height)| [height, width]);
        let load = LoadOptions { dtype: dtype.unwrap_or(own.dtype), device: device.unwrap_or(own.device), size, ..own };
        Ok(Choice { source: self.model.parse()?, changes: self.changes.clone(), load })
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
        self.syntax.switches().collect::<Vec<_>>().join(", ")
    }

    /// Whether one pass can make this cell and `other` together: all but the seed is equal.
    fn same_pass(&self, other: &Self) -> bool {
        let plain =
            |cell: &Self| Self { seed: 0, order: 0, base: String::new(), replaced: String::new(), ..cell.clone() };
        plain(self) == plain(other)
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
            Error::option("--shard", format!("{} is no shard; write I/N with I from 1 to N", crate::in_quotes(text)))
        })
    }
}

/// The cells of a gallery in order, and the passes that make them.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All cells, whoever makes them.
    pub cells: Vec<Cell>,
    /// Positions in `cells` that one pass through the network makes together; all of one model before the next.
    pub passes: Vec<Vec<usize>>,
    /// As [`LoadOptions::ignore_memory`], for all checkpoints.
    pub ignore_memory: bool,
    /// What is expected of every image that has the words; it decides no image.
    pub expect: Option<Expectations>,
}

impl Plan {
    /// Multiplies `axes`: models with each set of LoRAs, then prompts with their replacements, then steps, then seeds. `batch` seeds at most go
    /// through the network in one pass; passes do not depend on what was made already, so that an image never depends on
    /// where an earlier try was interrupted.
    ///
    /// # Errors
    /// [`Error::Option`] when there is nothing to make or far too much, a replaced word stands in no prompt, or two cells are equal.
    pub fn new(axes: &Axes, batch: usize) -> Result<Self> {
        if axes.lines.is_empty() {
            return Err(Error::option("PROMPTS", "no prompt is given; name a file of prompts or use --prompt"));
        }
        for replacement in &axes.replacements {
            if !axes.lines.iter().any(|line| replace_word(&line.prompt, &replacement.word, "").is_some()) {
                return Err(Error::option(
                    "--replace",
                    format!("{} stands in no prompt", crate::in_quotes(&replacement.word)),
                ));
            }
        }
        let mut cells = Vec::new();
        let mut names = std::collections::HashMap::new();
        let none = [Vec::new()];
        let loras = if axes.loras.is_empty() { &none[..] } else { &axes.loras };
        let checkpoints = axes.models.iter().flat_map(|model| loras.iter().map(move |loras| (model, loras)));
        for (model, loras) in checkpoints {
            let mut changes = axes.changes.clone();
            changes.loras.extend(loras.iter().cloned());
            for line in &axes.lines {
                for (prompt, replaced) in variants(&line.prompt, &axes.replacements) {
                    let own = line.steps.map(Some).into_iter().collect::<Vec<_>>();
                    let all = axes.steps.iter().copied().map(Some).collect::<Vec<_>>();
                    let steps = [own, all, vec![None]].into_iter().find(|list| !list.is_empty()).unwrap_or_default();
                    for steps in steps {
                        for &seed in line.seeds.as_ref().unwrap_or(&axes.seeds) {
                            let cell = Cell {
                                prompt: prompt.clone(),
                                base: line.prompt.clone(),
                                replaced: replaced.clone(),
                                negative: line.negative.clone().unwrap_or_else(|| axes.negative.clone()),
                                syntax: Syntax {
                                    emphasis: line.emphasis.unwrap_or(axes.syntax.emphasis),
                                    long: line.long.unwrap_or(axes.syntax.long),
                                },
                                model: model.clone(),
                                changes: changes.clone(),
                                dtype: axes.load.dtype_named_unless_usual(),
                                device: axes.load.device_named_unless_usual(),
                                steps,
                                guidance: line.guidance.or(axes.guidance),
                                size: line.size.or(axes.size),
                                scheduler: line.scheduler.clone().or_else(|| axes.scheduler.clone()),
                                spacing: axes.spacing.map(|spacing| spacing.name().to_owned()),
                                original_size: axes.original_size,
                                crop: axes.crop,
                                init: axes.init.clone(),
                                probes: axes.probes.clone(),
                                trace_negative: axes.trace_negative,
                                keep_steps: axes.keep_steps,
                                look: None,
                                seed,
                                order: cells.len(),
                            };
                            // The same prompt twice in a list is one cell.
                            if names.insert(cell.name(), ()).is_none() {
                                cells.push(cell);
                            }
                            if cells.len() > MOST_CELLS {
                                let reason =
                                    format!("the axes multiply to more than {MOST_CELLS} cells; make them shorter");
                                return Err(Error::option("--seeds", reason));
                            }
                        }
                    }
                }
            }
        }
        if cells.is_empty() {
            return Err(Error::option("--seeds", "no seed is given; write 0..8 or 1,5,9"));
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

    /// Opens the checkpoint that makes `cell` with `open`, and says how it is loaded: memory planned for the largest of the images that it makes.
    ///
    /// # Errors
    /// As [`Cell::choice`], and those of `open`.
    pub fn open(&self, cell: &Cell, open: &dyn Fn(&Choice) -> Result<Checkpoint>) -> Result<(Checkpoint, LoadOptions)> {
        let choice = cell.choice()?;
        let checkpoint = open(&choice)?;
        let own = checkpoint.defaults.size;
        let made = self.cells.iter().filter(|other| other.same_checkpoint(cell));
        let sizes = made.map(|other| other.size.map_or(own, |(width, height)| [height, width]));
        let size = sizes.max_by_key(|[height, width]| height.saturating_mul(*width));
        Ok((checkpoint, LoadOptions { size, ignore_memory: self.ignore_memory, ..choice.load }))
    }

    /// The passes that `shard` makes: every N-th, so that all shards have a part of every checkpoint and prompt.
    pub fn passes_of(&self, shard: Shard) -> impl Iterator<Item = &Vec<usize>> {
        self.passes.iter().enumerate().filter(move |(at, _)| at % shard.count == shard.index).map(|(_, pass)| pass)
    }
}

/// `prompt` as it is, then with every combination of replacements of words that it has, each with its name.
fn variants(prompt: &str, replacements: &[Replacement]) -> Vec<(String, String)> {
    let mut all = vec![(prompt.to_string(), String::new())];
    for Replacement { word, by } in replacements {
        let mut next = Vec::new();
        for (prompt, name) in all {
            let made: Vec<_> = by.iter().filter_map(|new| Some((replace_word(&prompt, word, new)?, new))).collect();
            next.push((prompt, name.clone()));
            next.extend(
                made.into_iter().map(|(prompt, new)| (prompt, format!("{name} {word}={new}").trim_start().to_string())),
            );
        }
        all = next;
    }
    all
}

/// `text` with every whole word (or phrase) that is `word` in another spelling or the same replaced; `None` where there is none.
fn replace_word(text: &str, word: &str, by: &str) -> Option<String> {
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
                out.push_str(by);
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

/// The longest beginning of `text`, in bytes, that is `word` (as [`normalized`] gives it) in some spelling, without white space after it.
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

/// Seeds as written, separated by commas: numbers, ranges whose end is left out, like `0..8`, and ranges with both ends, like `0-7`.
///
/// A seed that is given twice counts once.
///
/// # Errors
/// [`Error::Option`] on `--seeds`.
pub fn parse_seeds(text: &str) -> Result<Vec<u64>> {
    let mut seen = HashSet::new();
    Ok(listed_seeds(text)?.into_iter().filter(|seed| seen.insert(*seed)).collect())
}

/// As [`parse_seeds`], with each seed as often as it is given.
///
/// # Errors
/// As [`parse_seeds`].
pub fn listed_seeds(text: &str) -> Result<Vec<u64>> {
    let wrong = |part: &str| {
        Error::option(
            "--seeds",
            format!("{} is no seed; write 0..8 (without 8), 0-7 (with both) or 1,5,9", crate::in_quotes(part)),
        )
    };
    let mut seeds = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong(part));
        let range = match (part.split_once(".."), part.split_once('-')) {
            (Some((from, to)), _) => Some((number(from)?, number(to)?)),
            (None, Some((from, to))) => Some((number(from)?, number(to)?.checked_add(1).ok_or_else(|| wrong(part))?)),
            (None, None) => None,
        };
        match range {
            Some((from, to)) => {
                if from >= to || to - from > MOST_CELLS as u64 {
                    return Err(wrong(part));
                }
                seeds.extend(from..to);
            }
            None => seeds.push(number(part)?),
        }
    }
    if seeds.is_empty() { Err(wrong(text)) } else { Ok(seeds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(prompts: &[&str], seeds: &str) -> Axes {
        let lines = prompts.iter().map(|prompt| Line { prompt: prompt.to_string(), ..Line::default() }).collect();
        Axes { lines, seeds: parse_seeds(seeds).unwrap(), models: vec!["embedded".into()], ..Axes::default() }
    }

    #[test]
    fn memory_is_planned_for_the_largest_image_whoever_chose_its_size() {
        let open = |choice: &Choice| choice.open(None);
        let own = open(&Choice::default()).unwrap().defaults.size;
        for (asked, planned) in [((64, 64), own), ((2048, 1024), [1024, 2048])] {
            let mut axes = axes(&["a frog", "a cat"], "0");
            axes.lines[0].size = Some(asked);
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
        assert_eq!(
            replace_word("An Apple, pineapple and apple", "apple", "pear").unwrap(),
            "An pear, pineapple and pear"
        );
        assert_eq!(replace_word("pineapple apples", "apple", "pear"), None);
        assert_eq!(replace_word("हरा मेंढक", "हरा", "लाल").unwrap(), "लाल मेंढक");
        // Whatever the form, whole letters: an accent is no end of a word.
        assert_eq!(replace_word("a cafe\u{301}, here", "caf\u{e9}", "bar").unwrap(), "a bar, here");
        assert_eq!(replace_word("a CAF\u{c9}", "cafe\u{301}", "bar").unwrap(), "a bar");
        assert_eq!(replace_word("a cafe\u{301}", "cafe", "bar"), None);
        assert_eq!(replace_word("\u{1109}\u{1161}\u{1100}\u{116a}", "\u{c0ac}\u{acfc}", "apple").unwrap(), "apple");
        assert_eq!(replace_word("\u{1109}\u{1161}\u{1100}\u{116a}\u{11ab}", "\u{c0ac}\u{acfc}", "apple"), None);
        assert_eq!(replace_word("a \u{2764}\u{fe0f} b", "\u{2764}", "x").unwrap(), "a x b");
        assert_eq!(replace_word("a red  apple b", "red apple", "pear").unwrap(), "a pear b");
        let all = variants("a red apple", &["red=green".parse().unwrap(), "apple=pear,car".parse().unwrap()]);
        let prompts: Vec<&str> = all.iter().map(|v| v.0.as_str()).collect();
        assert_eq!(prompts, ["a red apple", "a red pear", "a red car", "a green apple", "a green pear", "a green car"]);
        assert_eq!(all[5].1, "red=green apple=car");
        assert!("apple=".parse::<Replacement>().is_err() && "=x".parse::<Replacement>().is_err());
    }

    #[test]
    fn the_product_has_every_cell_once() {
        let mut axes = axes(&["a frog", "a frog", "an apple"], "0..3");
        axes.steps = vec![5, 10];
        let plan = Plan::new(&axes, 2).unwrap();
        assert_eq!(plan.cells.len(), 2 * 2 * 3);
        assert_eq!(plan.cells.iter().map(|c| c.order).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        // Three seeds in passes of two: 2 + 1 for each prompt and number of steps.
        assert_eq!(plan.passes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn loras_are_an_axis_and_lines_say_how_they_are_read() {
        let mut axes = axes(&["a frog", "(a frog:1.2)"], "0..2");
        axes.lines[1].emphasis = Some(true);
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
        assert_ne!(Cell { steps: Some(3), ..plan.cells[0].clone() }.name(), name);
        let syntax = Syntax { long: true, emphasis: false };
        assert_ne!(Cell { syntax, ..plan.cells[0].clone() }.name(), name);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(Plan::new(&axes(&[], "0"), 1).unwrap_err().to_string().contains("no prompt"));
        let mut wrong = axes(&["a frog"], "0");
        wrong.replacements = vec!["apple=pear".parse().unwrap()];
        assert!(Plan::new(&wrong, 1).unwrap_err().to_string().contains("stands in no prompt"));
    }
}
