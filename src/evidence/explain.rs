//! A whole explanation of a run: made again exactly, its words cut, judged and drawn without, and
//! all of it kept in its folder.

use super::causal::{self, Change, Cut, Row};
use super::causal_pictures;
use super::figure::JSON;
use super::merge::remove_replaced;
use super::record::{Evidence, FORMAT_VERSION, ShapleyOfWords, TENSORS};
use super::redrawn::{self, Counterfactual, Dead, Picture, Reweight, Reweighted};
use super::replay::{is_look, options_of, remade, shown};
use super::sanity::{self, Looked};
use super::shapley::{self, shapley};
use super::verdict::{Mattered, Thresholds, judge};
use crate::argument::{COUNTERFACTUAL, RUN, SHAPLEY, WEIGHT, WORDS};
use crate::facts::lexicon::{Role, role};
use crate::files::Turn;
use crate::heatmap::{self, Aggregate, Heatmaps};
use crate::pipeline::{Options, Pipeline};
use crate::prompt::Prompt;
use crate::run::{RECORD, Run, RunKind, check_names};
use crate::trace::{WordInfo, tags, without_tags};
use crate::{Error, Result};
use candle_core::Tensor;
use image::RgbImage;
use std::fmt;
use std::ops::{ControlFlow, Range};

/// What is asked about a run.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The attention maps that are judged.
    pub aggregate: Aggregate,
    /// The words to test, single words of the prompt; all that could be drawn when `None`.
    pub words: Option<Vec<WordInfo>>,
    /// How a word is taken out.
    pub cut: Cut,
    /// At how many steps of the run predictions are compared, 1 or more; spread by
    /// [`causal::spread_steps`].
    pub at: usize,
    /// Most rows of a batch, 2 or more.
    pub batch: usize,
    /// Share the effect among the words by Shapley values, trying at most so many sets of them.
    pub shapley: Option<usize>,
    /// Draw the weights of cross-attention anew, block by block, and see the maps fall apart.
    pub sanity: bool,
    /// Whether to generate the same seed without each word.
    pub redraw: Redraw,
    /// Generate the same seed with the words' values scaled.
    pub reweight: Vec<Reweight>,
}

impl Ask {
    /// This one, cutting as `known` did at the same steps and judging the same maps, so that what
    /// that found stays.
    #[must_use]
    pub fn like(self, known: &Evidence) -> Self {
        let aggregate = known.how.how().unwrap_or(self.aggregate);
        Self { cut: known.cut, at: known.steps.len(), aggregate, ..self }
    }
}

impl Default for Ask {
    /// Eight steps, batches of eight rows, words substituted, nothing beside.
    fn default() -> Self {
        Self {
            aggregate: Aggregate::default(),
            words: None,
            cut: Cut::default(),
            at: 8,
            batch: 8,
            shapley: None,
            sanity: false,
            redraw: Redraw::default(),
            reweight: Vec::new(),
        }
    }
}

/// Whether the same seed is generated without each word: what tells how much of the image the word
/// is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redraw {
    /// Never; whether a word mattered is told from the prediction alone.
    Never,
    /// Where it takes no more than a minute at the run's own speed.
    #[default]
    Cheap,
    /// Always.
    Always,
}

/// Seconds that images without a word may take without being asked for.
const CHEAP: f64 = 60.0;

/// What an explanation takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Steps of whole runs: this one again, and every image that is generated with something
    /// changed.
    pub steps: usize,
    /// Single calls of the denoiser.
    pub calls: usize,
    /// Rows of each call, at most.
    pub rows: usize,
    /// An estimate in seconds from how long the run's own steps took; absent where `run.json` does
    /// not say.
    pub seconds: Option<f64>,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.seconds {
            Some(seconds) if seconds < 90.0 => write!(f, "about {seconds:.0} s"),
            Some(seconds) => write!(f, "about {:.0} min", seconds / 60.0),
            None => {
                write!(f, "{} steps of runs and {} UNet calls of up to {} rows", self.steps, self.calls, self.rows)
            }
        }
    }
}

/// A run that is being explained.
#[derive(Debug)]
pub struct Explanation {
    run: Run,
    ask: Ask,
    maps: Heatmaps,
    /// Positions of the tested words in `maps`.
    tested: Vec<usize>,
    image: RgbImage,
}

impl Explanation {
    /// Reads what is needed of `run` and checks what is asked.
    ///
    /// # Errors
    /// [`Error::Argument`] for words that cannot be tested and other things that cannot be had;
    /// [`Error::Trace`] when the run is damaged.
    pub fn new(run: Run, ask: Ask) -> Result<Self> {
        run.check_can_draw("a test of its words")?;
        let trace = run.trace()?;
        let maps = heatmap::aggregate(&trace, &ask.aggregate, &trace.about.prompt.words)?;
        let tested = tested(&ask, &maps)?;
        let redrawn = [(COUNTERFACTUAL, ask.redraw == Redraw::Always), (WEIGHT, !ask.reweight.is_empty())];
        if let Some((argument, _)) = redrawn.into_iter().find(|(_, asked)| *asked && is_look(&run)) {
            let reason =
                "the run is a look at a picture that was there; leave it out, or make a run with `attnmap generate`";
            return Err(Error::argument(argument, reason));
        }
        // Their pictures would have the same names.
        let words: Vec<&WordInfo> = ask.reweight.iter().map(|asked| &asked.word).collect();
        if let Some((_, word)) = words
            .iter()
            .enumerate()
            .find(|(place, word)| words[..*place].iter().any(|other| other.tokens == word.tokens))
        {
            let reason = format!("{} is given twice; give one weight or range for each word", word.label());
            return Err(Error::argument(WEIGHT, reason));
        }
        let image = run.image()?;
        Ok(Self { run, ask, maps, tested, image })
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The tested words.
    fn words(&self) -> Vec<WordInfo> {
        self.tested.iter().map(|&word| self.maps.chosen[word].clone()).collect()
    }

    /// Whether the image is generated without each word, and how many seconds that takes at the
    /// run's own speed, where that is known.
    pub fn redraws(&self) -> (bool, Option<f64>) {
        let seconds = self.run.record.timings.get("steps").map(|seconds| seconds * self.tested.len() as f64);
        // How long another program took says nothing of how long it takes here.
        let cheap = seconds.map_or(self.run.record.kind != RunKind::Record, |seconds| seconds <= CHEAP);
        let redraws = match self.ask.redraw {
            Redraw::Never => false,
            Redraw::Cheap => cheap && !is_look(&self.run),
            Redraw::Always => true,
        };
        (redraws, seconds)
    }

    /// Whether the image without all dead tags is generated: what it takes is one run, however many
    /// tags there are.
    fn finds_dead(&self) -> bool {
        let own = self.run.record.kind != RunKind::Record && self.can_redraw();
        let one = self.ask.redraw == Redraw::Cheap && own;
        !self.run.record.by.is_word() && (one || self.redraws().0)
    }

    /// Whether there is a seed to draw again: a traced picture has none.
    pub fn can_redraw(&self) -> bool {
        !is_look(&self.run)
    }

    /// What another explanation found that this one replaces: its words, and how they had been
    /// tested. `None` where nothing goes.
    ///
    /// Damaged evidence has nothing to tell of.
    pub fn replaces(&self) -> Option<String> {
        let known = self.in_folder().map(|(known, _)| known);
        known.filter(|known| !self.same_test(known)).map(|known| {
            let words: Vec<&str> = known.words.iter().map(|word| word.word.as_str()).collect();
            let cut = known.cut.name();
            let steps = match known.steps.len() {
                1 => "1 step".to_owned(),
                count => format!("{count} steps"),
            };
            format!("{} (cut: {cut}, {steps}, maps: {})", words.join(", "), known.how.aggregate)
        })
    }

    /// Whether all pictures can be written: none of the user's files has the name of one.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the file that is in the way.
    pub fn check_room(&self) -> Result<()> {
        let mut files = Vec::new();
        for (&place, word) in self.tested.iter().zip(self.words()) {
            files.push(causal_pictures::file(place, &word.label()));
            if self.redraws().0 {
                files.extend(redrawn::files_without(place, &word.label()));
            }
        }
        files.extend(
            self.ask.reweight.iter().flat_map(|asked| redrawn::files_scaled(&asked.word.label(), &asked.weights)),
        );
        check_names(&self.run.folder, &[JSON, TENSORS])?;
        redrawn::check_room(&self.run.folder, &files)
    }

    /// The tested steps, from 0.
    fn steps(&self) -> Vec<usize> {
        causal::spread_steps(self.ask.at, self.run.record.timesteps.len())
    }

    /// The evidence that the run's folder holds, if it answers all that is asked.
    ///
    /// # Errors
    /// As [`Evidence::read`].
    pub fn known(&self) -> Result<Option<Evidence>> {
        let known = Evidence::read(&self.run.folder, self.maps.grid)?.map(|(known, _)| known);
        let there = |file: &str| self.run.folder.join(file).is_file();
        let (redraws, _) = self.redraws();
        let labels: Vec<String> = self.words().iter().map(WordInfo::label).collect();
        Ok(known.filter(|known| {
            let checked = |dead: &Dead| dead.tags.is_empty() || dead.changed.is_some() || !self.finds_dead();
            let shared = || known.shapley.as_ref().is_some_and(|shapley| shapley.words == labels);
            self.same_test(known)
                && labels.iter().all(|word| known.words.iter().any(|found| found.word == *word))
                && (self.ask.shapley.is_none() || shared())
                && (known.by.is_word() || known.dead.as_ref().is_some_and(checked))
                && (known.sanity.is_some() || !self.ask.sanity)
                && (!redraws || labels.iter().all(|word| known.counterfactuals.iter().any(|found| found.word == *word)))
                && self.ask.reweight.iter().all(|asked| known.reweighted.iter().any(|found| found.answers(asked)))
                && known.files().iter().all(|file| there(file))
        }))
    }

    /// Whether `known` cut its words in the same way at the same steps and judged the same maps by
    /// the same thresholds. Then what it found of other words stands beside what this one finds.
    fn same_test(&self, known: &Evidence) -> bool {
        known.cut == self.ask.cut
            && known.by == self.run.record.by
            && known.how.is_same(&(&self.ask.aggregate).into())
            && known.thresholds == Thresholds::default()
            && known.steps == self.steps()
    }

    /// What it will take with `pipeline`.
    pub fn cost(&self, pipeline: &Pipeline) -> Cost {
        let (at, words, batch) = (self.steps().len(), self.tested.len(), self.ask.batch);
        let record = &self.run.record;
        let test = causal::calls(words, at, batch);
        let sets = self.ask.shapley.map_or(0, |budget| budget.min(1 << words));
        let sanity = if self.ask.sanity { (sanity::blocks(&record.sites).len() + 1) * (test + 1) } else { 0 };
        let calls = test + causal::calls(sets, at, batch) + sanity;
        let redrawn = if self.redraws().0 { words } else { 0 };
        // The image without all tags that change nothing.
        let redrawn = redrawn + usize::from(self.finds_dead());
        let redrawn = redrawn + self.ask.reweight.iter().map(|asked| asked.weights.len()).sum::<usize>();
        let steps = if is_look(&self.run) { 0 } else { record.timesteps.len() * (1 + redrawn) };
        // Options that cannot be had are [`make`](Self::make)'s to refuse.
        let guided = options_of(pipeline, &self.run).is_ok_and(|options| pipeline.guided(&options));
        let guided = if guided { 2.0 } else { 1.0 };
        let seconds = record.timings.get("steps").map(|seconds| {
            let row = seconds / record.timesteps.len().max(1) as f64 / guided;
            row * (steps as f64 * guided + calls as f64 * batch as f64)
        });
        Cost { steps, calls, rows: batch, seconds }
    }

    /// Makes the explanation with the checkpoint that made the run, and writes it into the run's
    /// folder. What earlier explanations found beyond what is asked now is kept where they tested
    /// the same. `progress` is told of every unit of [`Cost::steps`] and [`Cost::calls`].
    ///
    /// # Errors
    /// [`Error::Argument`] when `pipeline` is another checkpoint; [`Error::Trace`] when the run
    /// cannot be made again exactly; [`Error::Interrupted`] when `progress` breaks, and then
    /// nothing is written.
    pub fn make(&self, pipeline: &mut Pipeline, progress: &mut dyn FnMut() -> ControlFlow<()>) -> Result<Evidence> {
        let (record, ask) = (&self.run.record, &self.ask);
        let (prompt, options) = remade(&self.run, pipeline)?;
        let words = self.words();
        let cut = |word: &WordInfo| Row::cut(pipeline, &prompt, &[word], ask.cut);
        let rows = words.iter().map(cut).collect::<Result<Vec<_>>>()?;
        let shown = shown(&self.run, &self.image, pipeline, &prompt, &options, progress)?;
        let at = self.steps();
        let steps: Vec<(&Tensor, f64)> = at.iter().map(|&step| (&shown[step].0, shown[step].1)).collect();
        let whole = Row::whole(&prompt);
        let changes = causal::changes(pipeline, &options, &whole, &rows, &steps, ask.batch, progress)?;
        let judged = self.tested.iter().zip(&changes).map(|(&word, change)| {
            judge(&self.maps, word, next_drawn(&self.maps, word), &change.map, change.effect, &self.image)
        });
        let judged = judged.collect();
        let shapley = match ask.shapley {
            Some(budget) => Some(self.share(pipeline, &options, &prompt, budget, &steps, progress)?),
            None => None,
        };
        let redrawn = self.redraw(pipeline, &prompt, &options, &rows, progress)?;
        let sanity = match ask.sanity {
            true => {
                let looked = Looked {
                    options: &options,
                    prompt: &prompt,
                    words: &words,
                    rows: &rows,
                    steps: &steps,
                    aggregate: &ask.aggregate,
                    batch: ask.batch,
                };
                Some(sanity::cascade(pipeline, &looked, progress)?)
            }
            false => None,
        };
        let mut evidence = Evidence {
            format_version: FORMAT_VERSION,
            cut: ask.cut,
            by: record.by,
            steps: at,
            how: (&ask.aggregate).into(),
            thresholds: Thresholds::default(),
            words: judged,
            shapley,
            sanity,
            counterfactuals: redrawn.counterfactuals,
            reweighted: redrawn.reweighted,
            dead: None,
            notes: Vec::new(),
            figures: Vec::new(),
        };
        let mut causal: Vec<Vec<f32>> = changes.into_iter().map(|change| change.map).collect();
        let order: Vec<String> = self.maps.chosen.iter().map(WordInfo::label).collect();
        let dead = self.draw_dead((&evidence, &causal), &order, pipeline, &options, progress)?;
        // Of several processes none takes away what another has found.
        let _turn = Turn::wait(&self.run.folder.join(RECORD));
        let known = self.in_folder();
        let before: Vec<String> = known.iter().flat_map(|(known, _)| known.files()).collect();
        let known = known.filter(|(known, _)| self.same_test(known));
        let dead_before = known.as_ref().and_then(|(known, _)| known.dead.clone());
        if let Some((known, maps)) = known {
            evidence.keep(known, (&mut causal, maps), &order);
        }
        evidence.answer();
        let mut pictures = redrawn.pictures;
        if !record.by.is_word() {
            let mut found = self.dead(&evidence);
            let (drawn, picture) = dead.unzip();
            // The image without the same tags, drawn now or before.
            let same = |other: &Dead| other.prompt == found.prompt && other.tags == found.tags;
            if let Some(drawn) = drawn.filter(same) {
                found = Dead { tested: found.tested, ..drawn };
                pictures.extend(picture);
            } else if let Some(before) = dead_before.filter(same) {
                found = Dead { tested: found.tested, ..before };
            }
            evidence.dead = Some(found);
        }
        evidence.describe();
        let (display, grid) = (&record.display, self.maps.grid);
        pictures.extend(causal_pictures::draw(&mut evidence, &causal, grid, &self.image, display, &order)?);
        redrawn::write(&self.run.folder, &pictures)?;
        evidence.write(&self.run.folder, &causal, self.maps.grid)?;
        remove_replaced(&self.run.folder, &before, &evidence.files());
        Ok(evidence)
    }

    /// The images of the same seed without each word, whose `rows` these are, and with words'
    /// values scaled.
    fn redraw(
        &self,
        pipeline: &Pipeline,
        prompt: &Prompt,
        options: &Options,
        rows: &[Row],
        progress: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Redrawn> {
        let mut made = Redrawn::default();
        if self.redraws().0 {
            let placed: Vec<(usize, WordInfo)> = self.tested.iter().copied().zip(self.words()).collect();
            let cut = self.ask.cut;
            let without = redrawn::without(pipeline, prompt, options, &placed, rows, cut, &self.image, progress)?;
            for (found, pictures) in without {
                made.counterfactuals.push(found);
                made.pictures.extend(pictures);
            }
        }
        for asked in &self.ask.reweight {
            let (found, pictures) = redrawn::reweighted(pipeline, prompt, options, asked, &self.image, progress)?;
            made.reweighted.push(found);
            made.pictures.extend(pictures);
        }
        Ok(made)
    }

    /// What the run's folder has by now of any test, with causal maps. Damaged evidence is none.
    fn in_folder(&self) -> Option<(Evidence, Vec<Vec<f32>>)> {
        Evidence::read(&self.run.folder, self.maps.grid).ok().flatten()
    }

    /// The tags that `evidence` found without effect; no image without them.
    fn dead(&self, evidence: &Evidence) -> Dead {
        let is_dead =
            |name: &str| evidence.words.iter().any(|word| word.word == name && word.mattered == Mattered::NotAtAll);
        let dead: Vec<&WordInfo> = self.maps.chosen.iter().filter(|word| is_dead(&word.label())).collect();
        let text = &self.run.record.prompt;
        let within = |range: &Range<usize>| dead.iter().any(|word| word.start < range.end && range.start < word.end);
        let gone: Vec<Range<usize>> = tags(text).into_iter().filter(within).collect();
        Dead {
            tags: dead.iter().map(|word| word.label()).collect(),
            tested: evidence.words.len(),
            prompt: without_tags(text, &gone),
            changed: None,
            strip: None,
        }
    }

    /// The image without all dead tags of `evidence` and of what the folder has by now, where
    /// images are drawn and there are such tags.
    fn draw_dead(
        &self,
        (evidence, causal): (&Evidence, &[Vec<f32>]),
        order: &[String],
        pipeline: &Pipeline,
        options: &Options,
        progress: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<(Dead, Picture)>> {
        if !self.finds_dead() {
            return Ok(None);
        }
        let (mut all, mut causal) = (evidence.clone(), causal.to_vec());
        if let Some((known, maps)) = self.in_folder().filter(|(known, _)| self.same_test(known)) {
            all.keep(known, (&mut causal, maps), order);
        }
        all.answer();
        let found = self.dead(&all);
        if found.tags.is_empty() {
            return Ok(None);
        }
        let prompt = pipeline.prompt(&found.prompt, options)?;
        redrawn::without_dead(pipeline, &prompt, options, found, &self.image, progress).map(Some)
    }

    /// What each word owes of the effect of cutting all of them.
    fn share(
        &self,
        pipeline: &Pipeline,
        options: &Options,
        prompt: &Prompt,
        budget: usize,
        steps: &[(&Tensor, f64)],
        progress: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<ShapleyOfWords> {
        let (whole, words) = (Row::whole(prompt), self.words());
        // The worth of a set: how much of the effect of cutting all words it takes back by being
        // there.
        let mut effect_of_none = None;
        let mut value = |sets: &[u32]| -> Result<Vec<f64>> {
            let cut = |set: &u32| {
                let out = words.iter().enumerate().filter(|(place, _)| set >> place & 1 == 0);
                let out: Vec<&WordInfo> = out.map(|(_, word)| word).collect();
                Row::cut(pipeline, prompt, &out, self.ask.cut)
            };
            let rows = sets.iter().map(cut).collect::<Result<Vec<_>>>()?;
            let changes = causal::changes(pipeline, options, &whole, &rows, steps, self.ask.batch, progress)?;
            if effect_of_none.is_none() {
                effect_of_none = sets.iter().zip(&changes).find(|(set, _)| **set == 0).map(|(_, change)| change.effect);
            }
            let none = effect_of_none.unwrap_or(0.0);
            Ok(changes.iter().map(|change: &Change| none - change.effect).collect())
        };
        let found = shapley(words.len(), budget, 0, &mut value)?;
        Ok(ShapleyOfWords { words: words.iter().map(WordInfo::label).collect(), found })
    }
}

/// What images of the same seed with something changed show.
#[derive(Default)]
struct Redrawn {
    counterfactuals: Vec<Counterfactual>,
    reweighted: Vec<Reweighted>,
    pictures: Vec<Picture>,
}

/// The words to test, by position in the maps: those that are asked for, or all that could be
/// drawn.
fn tested(ask: &Ask, maps: &Heatmaps) -> Result<Vec<usize>> {
    let found: Vec<usize> = match &ask.words {
        None => drawn(maps),
        Some(words) => {
            let place = |word: &WordInfo| {
                let found = maps.chosen.iter().position(|chosen| chosen.tokens == word.tokens);
                let reason =
                    || format!("{} is no single word; explain tests words one by one", crate::in_quotes(&word.text));
                found.ok_or_else(|| Error::argument(WORDS, reason()))
            };
            let mut found = words.iter().map(place).collect::<Result<Vec<_>>>()?;
            found.sort_unstable();
            found
        }
    };
    if found.is_empty() {
        let reason = format!("the prompt has no word that could be drawn; name the words to test with {WORDS}");
        return Err(Error::argument(RUN, reason));
    }
    if ask.shapley.is_some() && found.len() > shapley::MOST {
        let reason = format!("{} words are too many; choose at most {} with {WORDS}", found.len(), shapley::MOST);
        return Err(Error::argument(SHAPLEY, reason));
    }
    Ok(found)
}

/// The words that could be drawn.
fn drawn(maps: &Heatmaps) -> Vec<usize> {
    (0..maps.chosen.len()).filter(|&word| role(&maps.chosen[word].text) != Role::Filler).collect()
}

/// The word that could be drawn and follows `word`, the first after the last: whose map `word`'s is
/// compared with. It does not depend on which words are tested together.
pub(super) fn next_drawn(maps: &Heatmaps, word: usize) -> Option<usize> {
    let others: Vec<usize> = drawn(maps).into_iter().filter(|&other| other != word).collect();
    others.iter().find(|&&other| other > word).or(others.first()).copied()
}
