//! Why a thing of a run lies where it does: the word that is meant, the cost, and the experiments
//! in turn.

use super::bench::{Bench, Drawn, From};
use super::edits::{Edit, edits};
use super::habit;
use super::noise::{Mirror, fresh, fresh_seeds, mirrored, mirrorings};
use super::pictures::{PictureSubject, keep, outlined, strips};
use super::pixels::{changed_share_within, moved_share, region_of};
use super::plan::{Task, edits_within, next};
use super::record::{Answer, FILE, FORMAT_VERSION, Findings, Kept, Pixels};
use super::spot::{SeedSpot, Spot};
use super::thresholds::CauseThresholds;
use super::time::{ForkResult, NOISES};
use super::verdict::answer;
use super::words::Effect;
use crate::argument::{Argument, INIT, RUN, WORD};
use crate::checkpoint::Changes;
use crate::evidence::{Cut, Row, changed_share, check_checkpoint, check_image, check_replay, options_of};
use crate::facts::lexicon::{Role, names_a_thing, role, sets_the_scene};
use crate::facts::region::{Place, rank};
use crate::files::{check_own, write_json};
use crate::heatmap::{Aggregate, THRESHOLD};
use crate::pipeline::{Event, Pipeline};
use crate::run::{Run, RunKind};
use crate::trace::{AttentionKind, Half, Trace, Unobserved, WordInfo, only};
use crate::{Error, Result, in_quotes};
use candle_core::Tensor;
use std::ops::ControlFlow;

/// Which thing is asked about.
#[derive(Debug, Clone)]
pub enum Subject {
    /// The thing of a word or phrase of the prompt.
    Word(String),
    /// Whatever lies at a place; the argument that gave it.
    Place(Place, Argument),
    /// The thing that the maps are surest of.
    Any,
}

/// A thing of a run that is asked about.
#[derive(Debug)]
pub struct Question {
    run: Run,
    word: WordInfo,
    aggregate: Aggregate,
    own: Drawn,
    budget: usize,
    batch: usize,
    /// Steps of the run, in calls of the network.
    calls: usize,
}

impl Question {
    /// Reads what is needed of `run` and finds the word. The experiments may cost `budget` runs; at
    /// most `batch` images go through the network at once. What the words of the prompt are is the
    /// run's `record.by`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a run that cannot be drawn again or has joint attention. The same
    /// for a word that the prompt does not have, or a place with nothing at it. [`Error::Trace`]
    /// when the run is damaged.
    pub fn new(run: Run, subject: &Subject, budget: usize, batch: usize) -> Result<Self> {
        refuse(&run)?;
        check_own(&run.folder.join(FILE), RUN)?;
        let (trace, image) = run.read()?;
        // Of a version that knows other aggregates: the default. What is asked is asked of the
        // prompt.
        let own = run.record.how().unwrap_or_default();
        let aggregate = Aggregate { half: Half::Conditional, ..own };
        let word = word_of(&trace, &aggregate, subject)?;
        let (spot, map) = Spot::of(&trace, &aggregate, &word)?;
        let calls = run.record.timesteps.len();
        Ok(Self { run, word, aggregate, own: Drawn { image, spot, map }, budget, batch, calls })
    }

    /// The word.
    pub fn word(&self) -> String {
        self.word.label()
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The answer that the run's folder has, if it is to this question, found with as many runs or
    /// more.
    ///
    /// # Errors
    /// As [`Kept::read`].
    pub fn known(&self) -> Result<Option<Answer>> {
        let kept = self.kept()?.and_then(|kept| kept.answer);
        let there = |file: &String| self.run.folder.join(file).is_file();
        let enough =
            |answer: &Answer| answer.thresholds == CauseThresholds::default() && answer.findings.budget >= self.budget;
        Ok(kept.filter(|answer| enough(answer) && answer.figures.iter().all(|figure| there(&figure.file))))
    }

    /// How many runs earlier sessions have made of this question.
    ///
    /// # Errors
    /// As [`Kept::read`].
    pub fn made(&self) -> Result<f64> {
        Ok(self.kept()?.map_or(0.0, |kept| kept.findings.runs))
    }

    /// Steps of the run, in calls of the network.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Seconds that the whole budget takes at the run's own speed, where `run.json` says it.
    pub fn seconds(&self) -> Option<f64> {
        let timings = &self.run.record.timings;
        let run = timings.get("steps")? + timings.get("decode").copied().unwrap_or(0.0);
        Some(run * self.budget as f64)
    }

    /// What is kept of this question: of the same thing at the same place, with the same maps and
    /// the same words. The budget may have been another.
    fn kept(&self) -> Result<Option<Kept>> {
        let kept = Kept::read(&self.run.folder, &self.word())?;
        Ok(kept.filter(|Kept { findings, .. }| {
            let own = SeedSpot { seed: self.run.record.settings.seed, spot: self.own.spot };
            findings.by == self.run.record.by
                && findings.how.is_same(&(&self.aggregate).into())
                && findings.seeds.first() == Some(&own)
        }))
    }

    /// Answers with the checkpoint that made the run. After each batch what was found is kept in
    /// the run's folder: what is interrupted goes on from there, unless `anew`. `plain` loads the
    /// checkpoint without LoRAs; it is called where the run has some. `progress` is told of every
    /// call of the network with the number of images in it.
    ///
    /// # Errors
    /// [`Error::Argument`] when `pipeline` is another checkpoint; [`Error::Trace`] when the run
    /// cannot be made again exactly; [`Error::Interrupted`] when `progress` breaks; those of
    /// `plain`.
    pub fn make(
        &self,
        pipeline: &Pipeline,
        plain: &mut dyn FnMut(Changes) -> Result<Pipeline>,
        anew: bool,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let (folder, record) = (&self.run.folder, &self.run.record);
        check_checkpoint(record, pipeline)?;
        let options = options_of(pipeline, &self.run)?;
        check_replay(&self.run, pipeline, &options)?;
        let prompt = pipeline.prompt(&record.prompt, &options)?;
        let calls_per_step = pipeline.calls_per_step(&options)?;
        let bench = Bench {
            pipeline,
            options,
            prompt,
            aggregate: self.aggregate.clone(),
            thing: self.word.clone(),
            by: record.by,
            batch: self.batch,
        };
        let edits = edits(pipeline, &bench.prompt, &bench.options, &self.word, record.by)?;
        // An answer of fewer runs stays until there is one of more. Another version may have had
        // other edits.
        let same = |(effect, edit): (&Effect, &Edit)| {
            (&effect.of, effect.change, &effect.becomes) == (&edit.of, edit.change, &edit.becomes)
        };
        let fits = |found: &[Effect]| found.len() <= edits.len() && found.iter().zip(&edits).all(same);
        let kept = self.kept()?.filter(|kept| !anew && fits(&kept.findings.effects));
        let earlier = kept.as_ref().and_then(|kept| kept.answer.clone());
        let mut findings = match kept {
            Some(kept) => kept.findings,
            None => self.begin(pipeline.changes(), calls_per_step)?,
        };
        findings.budget = self.budget;
        let mut session = Session { question: self, bench: &bench, edits: &edits, plain, calls_per_step, progress };
        let estimates = session.again()?;
        let limits = CauseThresholds::default();
        loop {
            take_up(&mut findings, &edits, &limits);
            let Some(task) = next(&findings, &limits) else { break };
            let cost = task.cost(&findings);
            session.carry_out(&task, &mut findings, &estimates, &limits)?;
            findings.runs += cost;
            self.keep(&findings, earlier.as_ref())?;
        }
        let mut answer = answer(&findings, &limits);
        answer.figures = strips(folder, &self.word(), &findings.pictures)?;
        self.keep(&findings, Some(&answer))?;
        write_json(&folder.join(FILE), &answer)?;
        Ok(answer)
    }

    /// Makes `answer`, which was [known](Self::known), the newest in the run's folder.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn put_first(&self, answer: &Answer) -> Result<()> {
        write_json(&self.run.folder.join(FILE), answer)
    }

    fn keep(&self, findings: &Findings, answer: Option<&Answer>) -> Result<()> {
        let kept = Kept {
            attnmap: env!("CARGO_PKG_VERSION").into(),
            format_version: FORMAT_VERSION,
            findings: findings.clone(),
            answer: answer.cloned(),
        };
        kept.write(&self.run.folder)
    }

    /// What is known before any experiment: the run itself.
    fn begin(&self, changes: &Changes, calls_per_step: usize) -> Result<Findings> {
        let record = &self.run.record;
        let file_name = |path: &std::path::Path| {
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
        };
        let mut pictures = Vec::new();
        let own = outlined(&self.own.image, &self.own.map, record.latent)?;
        keep(&self.run.folder, &self.word(), PictureSubject::Run, &own, "the run".into(), &mut pictures)?;
        Ok(Findings {
            word: self.word(),
            by: record.by,
            budget: self.budget,
            how: (&self.aggregate).into(),
            steps: self.calls.div_ceil(calls_per_step),
            // The run made again.
            runs: 1.0,
            seeds: vec![SeedSpot { seed: record.settings.seed, spot: self.own.spot }],
            loras: changes.loras.iter().map(|lora| file_name(&lora.file)).collect(),
            pictures,
            ..Findings::default()
        })
    }
}

/// Adds the edits that the budget has room for, and names the others.
fn take_up(findings: &mut Findings, edits: &[Edit], limits: &CauseThresholds) {
    // Of a thing that was not drawn none is made.
    if findings.seeds.first().is_none_or(|own| own.spot.place().is_none()) {
        return;
    }
    let within = edits_within(findings, edits.len(), limits).max(findings.effects.len());
    let effect = |edit: &Edit| Effect {
        of: edit.of.clone(),
        change: edit.change,
        becomes: edit.becomes.clone(),
        spots: Vec::new(),
        pixels: None,
    };
    let (tested, others) = edits.split_at(within.min(edits.len()));
    findings.effects.extend(tested.iter().skip(findings.effects.len()).map(effect).collect::<Vec<_>>());
    findings.untested = others.iter().map(|edit| edit.change.in_words(&edit.of, edit.becomes.as_deref())).collect();
}

/// The experiments of one session.
struct Session<'a> {
    question: &'a Question,
    bench: &'a Bench<'a>,
    edits: &'a [Edit],
    plain: &'a mut dyn FnMut(Changes) -> Result<Pipeline>,
    calls_per_step: usize,
    progress: &'a mut dyn FnMut(usize) -> ControlFlow<()>,
}

impl Session<'_> {
    /// Makes the run again and returns its estimate of the image after each call.
    fn again(&mut self) -> Result<Vec<Tensor>> {
        let (bench, question) = (self.bench, self.question);
        let mut estimates = Vec::new();
        let mut done =
            bench.pipeline.generate(&bench.prompt, &bench.options, &mut Unobserved, &mut |event| match event {
                Event::Stepped { denoised, .. } => {
                    estimates.push(denoised.clone());
                    (self.progress)(1)
                }
                _ => ControlFlow::Continue(()),
            })?;
        let otherwise = "make it again with the command in its run.json, and ask about that run";
        check_image(&question.run, &done.images.swap_remove(0).image, &question.own.image, otherwise)?;
        Ok(estimates)
    }

    fn carry_out(
        &mut self,
        task: &Task,
        findings: &mut Findings,
        estimates: &[Tensor],
        limits: &CauseThresholds,
    ) -> Result<()> {
        let (bench, own) = (self.bench, &self.question.own);
        let grid = self.question.run.record.latent;
        match task {
            Task::Fresh(seeds) => {
                let drawn = fresh(bench, &bench.prompt, seeds, self.progress)?;
                for (&seed, drawn) in seeds.iter().zip(&drawn) {
                    findings.seeds.push(SeedSpot { seed, spot: drawn.spot });
                    self.keep(findings, "noise", drawn, format!("seed {seed}"))?;
                }
            }
            Task::Pixels => {
                let row = Row::cut(bench.pipeline, &bench.prompt, &[&bench.thing], Cut::Substitute)?;
                let drawn = bench.draw(row.prompt(), &[bench.seed()], From::Seed, self.progress)?;
                let region = region_of(&own.map, grid, &own.image);
                findings.pixels = Some(Pixels {
                    inside: changed_share_within(&own.image, &drawn[0].image, &[region]),
                    image: changed_share(&own.image, &drawn[0].image),
                });
                let shown = Drawn { map: own.map.clone(), ..drawn[0].clone() };
                self.keep(findings, "words", &shown, format!("without “{}”", findings.word))?;
            }
            Task::Mirrors => {
                let hows = mirrorings(&own.spot);
                let drawn = mirrored(bench, &own.spot, &hows, self.progress)?;
                for (&how, drawn) in hows.iter().zip(&drawn) {
                    let follows = own.spot.place().zip(drawn.spot.place());
                    let follows = follows.and_then(|(before, after)| how.follows(before, after));
                    let pixels = moved_share(own, drawn, grid, limits.near);
                    findings.mirrors.push(Mirror { how, spot: drawn.spot, follows, pixels });
                    self.keep(findings, "mirrored", drawn, how.in_words().to_owned())?;
                }
            }
            Task::Edit(at, seeds) => {
                let edit = &self.edits[*at];
                let drawn = fresh(bench, &edit.prompt, seeds, self.progress)?;
                for (&seed, drawn) in seeds.iter().zip(&drawn) {
                    findings.effects[*at].spots.push(SeedSpot { seed, spot: drawn.spot });
                    if seed == bench.seed() {
                        findings.effects[*at].pixels = moved_share(own, drawn, grid, limits.near);
                        let caption = edit.change.in_words(&edit.of, edit.becomes.as_deref());
                        self.keep(findings, "words", drawn, caption)?;
                    }
                }
            }
            Task::WithoutLoras(seeds) => {
                let changes = Changes { loras: Vec::new(), ..bench.pipeline.changes().clone() };
                let plain = (self.plain)(changes)?;
                let drawn = habit::without_loras(bench, &plain, seeds, self.progress)?;
                findings.without_loras =
                    seeds.iter().zip(&drawn).map(|(&seed, drawn)| SeedSpot { seed, spot: drawn.spot }).collect();
                for (seed, drawn) in seeds.iter().zip(&drawn).take(2) {
                    self.keep(findings, "loras", drawn, format!("without, seed {seed}"))?;
                }
            }
            Task::Fork(step) => {
                let call = step * self.calls_per_step;
                let seeds = fresh_seeds(bench.seed(), NOISES);
                let estimate = call.checked_sub(1).and_then(|before| estimates.get(before));
                let estimate = estimate.ok_or_else(|| Error::bug("a run is forked at a call that it does not have"))?;
                let drawn = bench.draw(&bench.prompt, &seeds, From::Estimate(estimate, call), self.progress)?;
                let spots = drawn.iter().map(|drawn| drawn.spot).collect();
                findings.forks.push(ForkResult { step: *step, spots });
                self.keep(findings, "steps", &drawn[0], format!("after step {step}"))?;
            }
        }
        Ok(())
    }

    /// Keeps a picture of an experiment for its strip.
    fn keep(&self, findings: &mut Findings, strip: &'static str, drawn: &Drawn, caption: String) -> Result<()> {
        let run = &self.question.run;
        let picture = outlined(&drawn.image, &drawn.map, run.record.latent)?;
        keep(&run.folder, &findings.word, PictureSubject::Strip(strip), &picture, caption, &mut findings.pictures)
    }
}

/// Refuses runs that cannot be drawn again, and those of joint attention. Whether a thing was drawn
/// is told by a bound that was set on cross-attention. What a drawn thing reaches in joint
/// attention is not known.
fn refuse(run: &Run) -> Result<()> {
    let folder = run.folder.display();
    let record = &run.record;
    let joint = record.sites.iter().any(|site| site.kind == AttentionKind::Joint);
    let reason = match record.kind {
        RunKind::Trace => {
            "is a look at a picture that was there; make a run with `attnmap generate` and ask about that".to_owned()
        }
        _ if joint => {
            "has joint attention, whose maps do not tell whether a thing was drawn; ask about a run of Stable \
             Diffusion 1, 2 or XL, or test its words with `attnmap explain RUN`"
                .to_owned()
        }
        RunKind::Generate if record.settings.sampling.strength.is_some() => {
            format!(
                "set out from a picture, which decides where things lie; ask about a run from noise, made with \
                 `attnmap generate` without {INIT}"
            )
        }
        RunKind::Generate => return Ok(()),
        RunKind::Record => return run.check_can_draw("why"),
    };
    Err(Error::argument(RUN, format!("{folder} {reason}")))
}

/// The word that is meant.
fn word_of(trace: &Trace, how: &Aggregate, subject: &Subject) -> Result<WordInfo> {
    let prompt = &trace.about.prompt;
    match subject {
        Subject::Word(name) => {
            let found = prompt.select(name).map_err(|error| error.named(WORD))?;
            let refuse = |reason: String| Err(Error::argument(WORD, reason));
            let first = &found[0];
            let parts = prompt.words.iter().filter(|other| other.start >= first.start && other.end <= first.end);
            let parts: Vec<&str> = parts.map(|part| part.text.as_str()).collect();
            let drawn: Vec<&&str> = parts.iter().filter(|part| role(part) != Role::Filler).collect();
            if prompt.is_special(first) || drawn.is_empty() {
                return refuse(format!("{} draws nothing that could lie somewhere; name a thing", in_quotes(name)));
            }
            if drawn.iter().all(|part| sets_the_scene(part)) {
                let reason = "is the whole scene and lies in no place of it; name a thing";
                return refuse(format!("{} {reason}", in_quotes(name)));
            }
            if !drawn.iter().any(|part| names_a_thing(part)) {
                let reason = "describes a thing and lies in no place of its own; name the thing";
                return refuse(format!("{} {reason}", in_quotes(name)));
            }
            only(name, found).map_err(|reason| Error::argument(WORD, reason))
        }
        Subject::Place(place, argument) => {
            let words: Vec<WordInfo> = prompt.words.iter().filter(|word| names_a_thing(&word.text)).cloned().collect();
            if place.on(trace.about.latent).is_none() {
                let (width, height) = (trace.about.image.width, trace.about.image.height);
                return Err(Error::argument(
                    *argument,
                    format!("it is empty or lies outside: the image has {width}x{height} pixels"),
                ));
            }
            let parts = rank(trace, how, &words, place, THRESHOLD, &|_| None)?;
            let best = parts.iter().filter(|part| !part.special && !part.probe && part.lift > 1.0);
            let best = best.max_by(|a, b| a.share.total_cmp(&b.share)).map(|part| part.word.clone());
            let found = words.into_iter().find(|word| Some(word.label()) == best);
            let reason =
                format!("no thing of the prompt is looked for there more than elsewhere; name one with {WORD}");
            found.ok_or_else(|| Error::argument(*argument, reason))
        }
        Subject::Any => {
            let mut surest: Option<(f32, WordInfo)> = None;
            for word in prompt.words.iter().filter(|word| names_a_thing(&word.text)) {
                let maps = crate::heatmap::aggregate(trace, how, std::slice::from_ref(word))?;
                let contrast = crate::facts::contrast(&maps, word).unwrap_or(0.0);
                if surest.as_ref().is_none_or(|(most, _)| contrast > *most) {
                    surest = Some((contrast, word.clone()));
                }
            }
            let reason = format!("the prompt has no word for a thing; name one of its words with {WORD}");
            surest.map(|(_, word)| word).ok_or_else(|| Error::argument(RUN, reason))
        }
    }
}
