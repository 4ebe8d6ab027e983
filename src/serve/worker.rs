//! The thread that owns the checkpoint: it does one job after another, and tells the pages of every
//! step.

use super::changes::changes;
use super::live::{Live, Watching};
use super::request::{Job, RunRequest};
use super::shared::{Shared, no_run, said};
use super::side::{Side, SideChoice, own_maps, picture_url};
use crate::argument::{RUN, TEXT_QUERIES};
use crate::checkpoint::Checkpoint;
use crate::evidence::{Ask, Evidence, Explanation, Redraw, Reweight, check_checkpoint, options_of};
use crate::figures::gigabytes;
use crate::files::Target;
use crate::heatmap::{Aggregate, QuerySource};
use crate::maker::{Maker, RunEvent, adapter_warnings, warnings};
use crate::pipeline::{Event, LoadOptions, MemoryPlan, Options, Pipeline, RecordOptions, concepts_asked, free_memory};
use crate::render::Display;
use crate::run::{self, Run, RunKind};
use crate::trace::{By, WordInfo};
use crate::why::plan::BUDGET;
use crate::why::{Question, Subject};
use crate::{Error, Result, pipeline, report};
use image::RgbImage;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Seeds that a run is repeated with.
const SEEDS: u64 = 4;

/// The share of a run's time that estimates may take which are shown and not kept.
const SHOWN: f64 = 0.15;

/// How often a test's progress is told, at most.
const TOLD: Duration = Duration::from_millis(100);

/// The checkpoint and what it needs to know.
pub(super) struct Worker {
    pub pipeline: Pipeline,
    pub checkpoint: Checkpoint,
    pub load: LoadOptions,
    pub shared: Arc<Shared>,
}

impl Worker {
    /// Does jobs for ever.
    pub fn work(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let (number, job) = shared.queue.next();
            shared.events.tell("queue", &shared.queue.state());
            let done = catch_unwind(AssertUnwindSafe(|| self.job(number, &job)));
            shared.queue.finish();
            match done.unwrap_or_else(|_| Err(Error::bug("a job ended in a panic"))) {
                Ok(()) => shared.events.tell("done", &json!({"job": number})),
                Err(Error::Interrupted) => shared.events.tell("stopped", &json!({"job": number})),
                Err(error) => shared.events.tell("failed", &json!({"job": number, "error": said(&error)})),
            }
            shared.events.tell("queue", &shared.queue.state());
        }
    }

    fn job(&mut self, number: u64, job: &Job) -> Result<()> {
        match job {
            Job::Run(asked) => self.run(number, asked),
            Job::Seeds { run } => self.seeds(number, run),
            Job::Without { run, word } => {
                let word = self.word(run, word)?;
                self.test(number, run, Ask { words: Some(vec![word]), redraw: Redraw::Always, ..Ask::default() })
            }
            Job::Times { run, word } => {
                let found = self.word(run, word)?;
                let reweight = Reweight { word: found.clone(), weights: TIMES.to_vec() };
                let ask = Ask { words: Some(vec![found]), reweight: vec![reweight], ..Ask::default() };
                self.test(number, run, ask)
            }
            Job::Why { run, word } => self.why(number, run, word),
            Job::Explain { run } => self.test(number, run, Ask::default()),
        }
    }

    /// Makes the run that is asked for.
    fn run(&self, number: u64, asked: &RunRequest) -> Result<()> {
        let options = asked.options(&self.pipeline)?;
        self.make(number, &asked.prompt, &options, &MadeLike::default())
    }

    /// Makes the runs of the next seeds of a run, of the same words and with the same maps.
    fn seeds(&self, number: u64, name: &str) -> Result<()> {
        let run = self.open(name)?;
        check_checkpoint(&run.record, &self.pipeline)?;
        let reason = match run.record.kind {
            RunKind::Record => Some("another program drew and recorded this run"),
            RunKind::Trace => Some("this is a look at a picture that was there, which no seed drew"),
            RunKind::Generate => None,
        };
        if let Some(reason) = reason {
            let way_out = "ask for the seeds of a run that was made here";
            return Err(Error::argument(RUN, format!("{reason}; {way_out}")));
        }
        let about = run.trace()?.about;
        let probes = about.probes.iter().map(|probe| probe.text.clone()).collect();
        let concepts = concepts_asked(&about.concepts);
        let options = Options { probes, concepts, ..options_of(&self.pipeline, &run)? };
        let like = MadeLike::of(&run);
        for seed in (1..=SEEDS).filter_map(|further| options.seeds[0].checked_add(further)) {
            let options = Options { seeds: vec![seed], ..options.clone() };
            self.make(number, &run.record.prompt, &options, &like)?;
        }
        Ok(())
    }

    /// Makes an ordinary run folder, as `generate` does.
    fn make(&self, number: u64, text: &str, options: &Options, like: &MadeLike) -> Result<()> {
        let (pipeline, shared) = (&self.pipeline, &*self.shared);
        let MadeLike { by, aggregate, display, .. } = like;
        pipeline.check(options)?;
        self.check_memory(options)?;
        let prompt = pipeline.prompt(text, options)?;
        let mut warned = warnings(pipeline, &prompt, &options.negative, &options.probes)?;
        warned.extend(adapter_warnings(pipeline, &[text, &options.negative], options.syntax)?);
        let sites = pipeline.sites(options.height, options.width);
        // What is not of the places' attention is seen when the run is there.
        let usual = Aggregate::default();
        let forming = if aggregate.is_of_places() { aggregate } else { &usual };
        let live = Live::new(&prompt, *by, &sites, pipeline.latent_grid(options), forming)?;
        let text_queries = aggregate.queries == QuerySource::Text;
        let maker = Maker {
            by: *by,
            pipeline,
            prompt: &prompt,
            keep: RecordOptions { text_queries, ..RecordOptions::for_maps(aggregate) },
            keep_steps: run::kept_by_default(options.height, options.width, options.steps),
            aggregate: aggregate.clone(),
            display: display.clone(),
            words: None,
            expect: None,
            regions: None,
            warnings: warned.clone(),
            loading: None,
        };
        let seed = options.seeds[0];
        let target = Target::generated(shared.history.folder().join(run::run_name(text, seed)), false);
        // Read before the steps, so that nothing is waited for after them.
        let base = shared.base().and_then(|name| Some((shared.side(&name, &SideChoice::default()).ok()?, name)));
        let compared = base.as_ref().map(|(_, name)| name);
        let told = json!({
            "job": number, "prompt": text, "seed": seed.to_string(), "base": compared, "warnings": warned,
        });
        shared.events.tell("begun", &told);

        let live = RefCell::new(live);
        let mut shown = Shown { pipeline, spent: Duration::ZERO, since: Instant::now(), picture: None };
        let mut made = None;
        let mut failed = None;
        let mut tell = |progress: RunEvent| -> Result<()> {
            match progress {
                RunEvent::Estimate(_, image) => shown.picture = Some(picture_url(image)?),
                RunEvent::Event(Event::Stepped { step, denoised, .. }) if shared.events.has_listeners() => {
                    let picture = shown.picture_of(denoised)?;
                    let maps = live.borrow().json();
                    let told = json!({
                        "job": number, "step": step.index + 1, "of": step.count, "image": picture, "maps": maps,
                    });
                    shared.events.tell("step", &told);
                }
                RunEvent::Traced(traced) => {
                    let (trace, whole) = (traced.trace.clone().by(*by), SideChoice::default());
                    let side = Arc::new(Side::of(&trace, &traced.generation.image, aggregate, &whole)?);
                    let compared = base.as_ref().map(|(a, name)| json!({"a": name, "changes": changes(a, &side)}));
                    shared
                        .events
                        .tell("made", &json!({"job": number, "side": side.json(None, true)?, "compared": compared}));
                    made = Some(side);
                }
                RunEvent::Event(_) => {}
            }
            if shared.queue.is_stopped() { Err(Error::Interrupted) } else { Ok(()) }
        };
        let command = pipeline.command(text, options) + &like.options(!options.concepts.is_empty());
        let result =
            maker.make(options, &target, command, &mut Watching(&live), &mut |progress| match tell(progress) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            });
        let (folder, _) = failed.map_or(result, Err)?;
        let name = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        if let Some(side) = made {
            shared.keep(&name, side);
        }
        shared.events.tell("saved", &json!({"job": number, "run": name, "history": shared.history.list()}));
        Ok(())
    }

    /// Tests words of a run, which its folder keeps, and draws its page again. It tests as the
    /// run's evidence did, so that what that found stays.
    fn test(&mut self, number: u64, name: &str, ask: Ask) -> Result<()> {
        let run = self.open(name)?;
        let mut ask = Ask { aggregate: own_maps(&run.record), ..ask };
        if let Some((known, _)) = Evidence::of_run(&run)? {
            ask = ask.like(&known);
        }
        let explanation = Explanation::new(run, ask)?;
        // What was found may have taken hours.
        if let Some(replaced) = explanation.replaces() {
            let reason = format!(
                "the test would replace those of {replaced}; `attnmap explain {}` does that",
                run::quoted(&explanation.run().folder.display().to_string())
            );
            return Err(Error::argument(RUN, reason));
        }
        let folder = explanation.run().folder.clone();
        if explanation.known()?.is_none() {
            report::check_room(&folder)?;
            let cost = explanation.cost(&self.pipeline);
            let mut steps = Steps::new(&self.shared, number, cost.steps + cost.calls);
            explanation.make(&mut self.pipeline, &mut || steps.add(1))?;
            report::write(&folder)?;
        }
        self.shared.events.tell("tested", &json!({"job": number, "run": name}));
        Ok(())
    }

    /// Asks why the thing of a word lies where it does; what is found is kept in the run's folder.
    fn why(&self, number: u64, name: &str, word: &str) -> Result<()> {
        let question = Question::new(self.open(name)?, &Subject::Word(word.to_owned()), BUDGET, BATCH)?;
        if question.known()?.is_none() {
            let folder = &question.run().folder;
            report::check_room(folder)?;
            let known = pipeline::CheckpointChoice::of_run(&question.run().record)?;
            let mut plain = |changes| {
                let choice = pipeline::CheckpointChoice { changes, ..known.clone() };
                Pipeline::load(&choice.open(None)?, &choice.load)
            };
            let mut steps = Steps::new(&self.shared, number, BUDGET * question.calls());
            question.make(&self.pipeline, &mut plain, false, &mut |images| steps.add(images))?;
            report::write(folder)?;
        }
        self.shared.events.tell("tested", &json!({"job": number, "run": name}));
        Ok(())
    }

    fn open(&self, name: &str) -> Result<Run> {
        let entry = self.shared.history.entry(name).ok_or_else(|| no_run(name))?;
        Run::open(&entry.folder)
    }

    /// The word of a run that is meant by its label.
    fn word(&self, name: &str, word: &str) -> Result<WordInfo> {
        let prompt = self.open(name)?.trace()?.about.prompt;
        let mut found = prompt.words.iter().filter(|known| known.label() == word).cloned();
        found.next().ok_or_else(|| Error::input("word", format!("the run has no word {}", crate::in_quotes(word))))
    }

    /// Refuses an image that needs more memory than there is.
    fn check_memory(&self, options: &Options) -> Result<()> {
        let own = self.pipeline.default_options();
        if options.height * options.width <= own.height * own.width || self.load.ignore_memory {
            return Ok(());
        }
        let load = LoadOptions { size: Some([options.height, options.width]), ..self.load.clone() };
        let plan = MemoryPlan::new(&self.checkpoint, &load)?;
        // The weights are there already.
        let needed = plan.peak().saturating_sub(plan.weights());
        match free_memory() {
            Some(free) if needed > free => {
                let reason = format!("it needs {} of memory, and {} are free", gigabytes(needed), gigabytes(free));
                Err(Error::input("size", reason))
            }
            _ => Ok(()),
        }
    }
}

/// What a run is made like, beside the options of its image.
#[derive(Debug, Default)]
struct MadeLike {
    by: By,
    aggregate: Aggregate,
    display: Display,
    /// The mask of the picture that it sets out from.
    mask: Option<PathBuf>,
}

impl MadeLike {
    /// Like `run`.
    fn of(run: &Run) -> Self {
        let record = &run.record;
        Self {
            by: record.by,
            aggregate: own_maps(record),
            display: record.display.clone(),
            // Where the user has it is not known; the run keeps it beside the picture.
            mask: record.settings.masked.then(|| run.folder.join("mask.png")),
        }
    }

    /// As options of a command line, with a space before each. `concepts` says whether the run
    /// keeps concepts.
    fn options(&self, concepts: bool) -> String {
        let mask = run::mask_option(self.mask.as_deref());
        let text_queries = match self.aggregate.queries {
            QuerySource::Text => format!(" {}", TEXT_QUERIES.option()),
            QuerySource::Image => String::new(),
        };
        let maps = run::map_options(&self.aggregate, &self.display, concepts);
        mask + &run::by_option(self.by) + &text_queries + &maps
    }
}

/// How far a test is, told to the pages now and then.
struct Steps {
    shared: Arc<Shared>,
    job: u64,
    all: usize,
    done: usize,
    told: Instant,
}

impl Steps {
    fn new(shared: &Arc<Shared>, job: u64, all: usize) -> Self {
        Self { shared: Arc::clone(shared), job, all, done: 0, told: Instant::now() }
    }

    /// `more` are done; breaks where the job is to end.
    fn add(&mut self, more: usize) -> ControlFlow<()> {
        self.done += more;
        if self.told.elapsed() >= TOLD {
            self.told = Instant::now();
            self.shared.events.tell("step", &json!({"job": self.job, "step": self.done.min(self.all), "of": self.all}));
        }
        if self.shared.queue.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Images that go through the network at once when it is asked why, at most.
const BATCH: usize = 4;

/// Images of a word times 0 to 2.
const TIMES: [f32; 5] = [0.0, 0.5, 1.0, 1.5, 2.0];

/// The estimates of an image that are shown while it forms: those that the run keeps, and others
/// while they cost little.
struct Shown<'a> {
    pipeline: &'a Pipeline,
    /// Time that was spent on estimates that are not kept.
    spent: Duration,
    since: Instant,
    /// An estimate that the run keeps, of the step that ends now.
    picture: Option<String>,
}

impl Shown<'_> {
    /// The picture of the step that ends with the estimate `denoised`, if there is one: always of
    /// the first step.
    fn picture_of(&mut self, denoised: &candle_core::Tensor) -> Result<Option<String>> {
        if let Some(kept) = self.picture.take() {
            return Ok(Some(kept));
        }
        if self.spent.as_secs_f64() > SHOWN * self.since.elapsed().as_secs_f64() {
            return Ok(None);
        }
        let begun = Instant::now();
        let image: RgbImage = self.pipeline.decode(denoised)?;
        self.spent += begun.elapsed();
        picture_url(&image).map(Some)
    }
}

/// What a page is told of the checkpoint.
pub(super) fn about(pipeline: &Pipeline) -> Value {
    let own = pipeline.default_options();
    // Whether brackets may be weights, and long prompts go into chunks.
    let syntax = !pipeline.family().flows();
    json!({
        "checkpoint": pipeline.id(), "digest": pipeline.digest(), "steps": own.steps, "guidance": own.guidance_scale,
        "width": own.width, "height": own.height, "factor": pipeline.size_factor(),
        "syntax": syntax,
        "scheduler": pipeline.sampler_kind(&own).map(|kind| kind.name()).unwrap_or_default(),
        "samplers": crate::scheduler::SchedulerKind::ALL.map(crate::scheduler::SchedulerKind::name),
    })
}
