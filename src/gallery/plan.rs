//! Which cells a gallery has, in which order, and who makes them.

use super::cell::Cell;
use super::prompts::Line;
use super::seeds::MOST_CELLS;
use super::variants::{Replacement, Variant, parts, replace_word, variants};
use crate::argument::{CONCEPTS, LORA, PROBE, PROMPT, PROMPTS, REPLACE, SEEDS, SHARD, WEIGHT};
use crate::checkpoint::{Changes, Checkpoint, Lora};
use crate::facts::expect::Expectations;
use crate::maker::texts_of_run;
use crate::pipeline::{CheckpointChoice, InitFiles, LoadOptions};
use crate::prompt::WordWeights;
use crate::run::Sampling;
use crate::trace::{By, normalized};
use crate::{Error, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::str::FromStr;

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

impl Axes {
    /// What the cells of each checkpoint have in common: checkpoints in order, with each set of
    /// LoRAs.
    fn of_checkpoints(&self) -> Vec<Cell> {
        let none = [Vec::new()];
        let loras = if self.loras.is_empty() { &none[..] } else { &self.loras };
        let of_checkpoint = |(model, loras): (&String, &Vec<Lora>)| {
            let mut changes = self.changes.clone();
            changes.loras.extend(loras.iter().cloned());
            Cell {
                model: model.clone(),
                changes,
                dtype: self.load.dtype_named_unless_usual(),
                device: self.load.device_named_unless_usual(),
                probes: self.probes.clone(),
                text_queries: self.text_queries,
                trace_negative: self.trace_negative,
                keep_steps: self.keep_steps,
                ..Cell::default()
            }
        };
        self.models.iter().flat_map(|model| loras.iter().map(move |loras| (model, loras))).map(of_checkpoint).collect()
    }

    /// What the cells of each prompt of `line` have in common, given what those of the checkpoint
    /// have. `settings` are all combinations.
    fn of_prompts(&self, line: &Line, of_checkpoint: &Cell, settings: &[Sampling]) -> Result<Vec<Cell>> {
        // How a prompt is read is the same in all settings: it is one switch.
        let read = settings.first().map_or(line.sampling.syntax(), |asked| line.sampling.clone().or(asked).syntax());
        let variants = variants(&line.prompt, &self.replacements, &self.weights);
        let of_prompt = |Variant { prompt, replaced, weighted, without }| {
            let (base, named) = (line.prompt.clone(), self.concepts.as_deref());
            // Of a part without the concept that was named, what is left of its words.
            let concepts = match without.is_empty() {
                true => concepts_in(&prompt, named)?,
                false => concepts_in(&prompt, named).or_else(|_| concepts_in(&prompt, named.map(|_| &[][..])))?,
            };
            Ok(Cell { prompt, base, replaced, weighted, without, concepts, ..of_checkpoint.clone() })
        };
        variants.into_iter().flat_map(|variant| parts(variant, self.without, read)).map(of_prompt).collect()
    }

    /// Every cell once, in order.
    fn cells(&self) -> Result<Vec<Cell>> {
        let settings = product(&self.sampling)?;
        let (mut cells, mut names) = (Vec::<Cell>::new(), HashMap::new());
        for of_checkpoint in self.of_checkpoints() {
            for line in &self.lines {
                for of_prompt in self.of_prompts(line, &of_checkpoint, &settings)? {
                    for asked in &settings {
                        let of_settings = of_prompt.sampled(line.sampling.clone().or(asked), self.init.as_ref())?;
                        for &seed in line.seeds.as_ref().unwrap_or(&self.seeds) {
                            let cell = Cell { seed, order: cells.len(), ..of_settings.clone() };
                            // The same prompt twice in a list is one cell.
                            match names.entry(cell.name()) {
                                Entry::Vacant(entry) => {
                                    entry.insert(cells.len());
                                    cells.push(cell);
                                }
                                Entry::Occupied(known) if self.without.is_some() => {
                                    cells[*known.get()].came_also_as(&cell);
                                }
                                Entry::Occupied(_) => {}
                            }
                            if cells.len() > MOST_CELLS {
                                return Err(too_many());
                            }
                        }
                    }
                }
            }
        }
        Ok(cells)
    }
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
        check_words(axes)?;
        let cells = axes.cells()?;
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

/// Whether there is a prompt, and every word that is replaced or weighted stands in one. A word is
/// weighted once.
fn check_words(axes: &Axes) -> Result<()> {
    if axes.lines.is_empty() {
        return Err(Error::argument(PROMPTS, format!("no prompt is given; name a file of prompts or use {PROMPT}")));
    }
    let replaced = axes.replacements.iter().map(|replacement| (REPLACE, &replacement.word));
    let weighted = axes.weights.iter().map(|weights| (WEIGHT, &weights.word));
    for (argument, word) in replaced.chain(weighted) {
        if !axes.lines.iter().any(|line| replace_word(&line.prompt, word, str::to_owned).is_some()) {
            return Err(Error::argument(argument, format!("{} stands in no prompt", crate::in_quotes(word))));
        }
    }
    // Brackets in brackets multiply, and a cell is told by the weights that are given.
    for (at, weights) in axes.weights.iter().enumerate() {
        let same = |other: &WordWeights| normalized(&other.word) == normalized(&weights.word);
        if axes.weights[..at].iter().any(same) {
            let word = crate::in_quotes(&weights.word);
            return Err(Error::argument(WEIGHT, format!("{word} is given twice; give all weights of a word at once")));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::super::cell::Origin;
    use super::super::seeds::parse_seeds;
    use super::*;
    use std::collections::HashSet;

    fn axes(prompts: &[&str], seeds: &str) -> Axes {
        let lines = prompts.iter().map(|prompt| Line { prompt: prompt.to_string(), ..Line::default() }).collect();
        Axes { lines, seeds: parse_seeds(seeds).unwrap(), models: vec!["embedded".into()], ..Axes::default() }
    }

    fn steps(list: &[usize]) -> Vec<Sampling> {
        list.iter().map(|&steps| Sampling { steps: Some(steps), ..Sampling::default() }).collect()
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
        let is_part = |part: usize, whole: usize| cells[part].is_part_of(&cells[part].origins()[0], &cells[whole]);
        assert!(is_part(2, 0) && !is_part(2, 1) && !is_part(0, 0));
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

    /// One image may be two prompts without a word, or a prompt of its own. Each way is told.
    #[test]
    fn an_image_that_comes_about_twice_is_made_once_and_told_twice() {
        let left_out = |prompts: &[&str], by: By| -> Vec<(String, String)> {
            let mut axes = axes(prompts, "0");
            axes.without = Some(by);
            let cells = Plan::new(&axes, 1).unwrap().cells;
            let names: HashSet<String> = cells.iter().map(Cell::name).collect();
            assert_eq!(names.len(), cells.len());
            let told = |cell: &Cell| -> Vec<(String, String)> {
                let parts = cell.origins().into_iter().filter(|origin| !origin.without.is_empty());
                let whole = |origin: &Origin| cells.iter().find(|whole| cell.is_part_of(origin, whole));
                parts.map(|origin| (whole(&origin).unwrap().prompt.clone(), origin.without)).collect()
            };
            let mut all: Vec<_> = cells.iter().flat_map(told).collect();
            all.sort();
            all
        };
        let own = |list: &[(&str, &str)]| list.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect::<Vec<_>>();
        let whole = "a frog, a frog, a heart";
        let parts = own(&[(whole, "a frog"), (whole, "a frog#2"), (whole, "a heart")]);
        assert_eq!(left_out(&[whole], By::Tag), parts);
        let parts = own(&[("a frog", "frog"), ("a red frog", "frog"), ("a red frog", "red")]);
        assert_eq!(left_out(&["a red frog", "a frog"], By::Word), parts);
        assert_eq!(left_out(&["a frog", "a red frog"], By::Word), parts);
    }

    #[test]
    fn a_part_without_the_named_concept_has_those_of_its_own_words() {
        let mut axes = axes(&["a red apple, a frog"], "0");
        (axes.without, axes.concepts) = (Some(By::Tag), Some(vec!["apple".into()]));
        let cells = Plan::new(&axes, 1).unwrap().cells;
        let concepts: Vec<_> = cells.iter().map(|cell| cell.concepts.clone().unwrap()).collect();
        assert_eq!(concepts, [vec!["apple".to_owned()], vec![], vec!["apple".to_owned()]]);
        assert!(cells[1..].iter().all(|part| part.is_part_of(&part.origins()[0], &cells[0])));
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
