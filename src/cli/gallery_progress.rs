//! What `attnmap gallery` says while it makes cells.

use super::print::{self, Terminal};
use super::prompt::{unread_syntax, warnings};
use attnmap::gallery::{Cell, GalleryEvent, LiveIndex};
use attnmap::pipeline::Pipeline;
use attnmap::prompt::Prompt;
use indicatif::{HumanDuration, ProgressBar};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many cells of this command's part there are, and how many are done.
#[derive(Default)]
pub(super) struct Done {
    done: AtomicUsize,
    all: AtomicUsize,
}

impl Done {
    /// Cells that a page is made of in a moment.
    const FEW: usize = 500;

    /// What is said when the command is interrupted; the page is brought up to date before.
    pub(super) fn last_words(&self, folder: &Path, planned: usize) -> String {
        let (done, all) = (self.done.load(Ordering::Relaxed), self.all.load(Ordering::Relaxed));
        if done > 0 && done <= Self::FEW {
            LiveIndex::new(folder, Some(planned)).write().ok();
        }
        match all {
            0 => "interrupted; the same command begins again".to_owned(),
            _ => format!("interrupted: {done} of {all} are done; the same command goes on"),
        }
    }
}

/// Progress on stderr: a bar where that is a terminal, and now and then a line where it is a log.
pub(super) struct GalleryProgress<'a> {
    pub(super) bar: ProgressBar,
    pub(super) done: Arc<Done>,
    /// Warnings that were given, each once.
    known: &'a RefCell<BTreeSet<String>>,
    /// Prompts with negative prompt and checkpoint that were looked at.
    read: HashSet<[String; 4]>,
    log: bool,
    began: Instant,
    said: Instant,
    made: u32,
}

impl<'a> GalleryProgress<'a> {
    /// How often a log is told.
    const EVERY: Duration = Duration::from_secs(60);

    pub(super) fn new(terminal: &Terminal, known: &'a RefCell<BTreeSet<String>>) -> Self {
        let now = Instant::now();
        let log = !terminal.quiet && !std::io::stderr().is_terminal();
        let (bar, done) = (terminal.bar(0, "cells"), Arc::default());
        Self { bar, done, known, read: HashSet::new(), log, began: now, said: now, made: 0 }
    }

    pub(super) fn tell(&mut self, event: &GalleryEvent) {
        match event {
            GalleryEvent::Planned { cells, finished } => {
                self.bar.set_length(*cells as u64);
                self.bar.set_position(*finished as u64);
                self.done.all.store(*cells, Ordering::Relaxed);
                self.done.done.store(*finished, Ordering::Relaxed);
                self.bar.reset_eta();
            }
            GalleryEvent::Loaded(_) => {}
            GalleryEvent::Loading(cell) => self.bar.set_message(print::printable(&cell.checkpoint_label())),
            GalleryEvent::Stepped => self.bar.tick(),
            GalleryEvent::Read { cell, pipeline, prompt } => self.warn(cell, pipeline, prompt),
            GalleryEvent::Made(_) => {
                self.done.done.fetch_add(1, Ordering::Relaxed);
                self.one_more();
            }
            GalleryEvent::Failed(cell, error) => {
                let prompt = print::printable(&cell.prompt);
                self.bar.suspend(|| print::warn(format!("{prompt}, seed {}: {error}", cell.seed)));
                self.one_more();
            }
        }
    }

    /// What `generate` says of a prompt too, once per prompt.
    fn warn(&mut self, cell: &Cell, pipeline: &Pipeline, prompt: &Prompt) {
        let negative = cell.sampling.negative.as_deref().unwrap_or_default();
        let of = [&prompt.text, negative, pipeline.digest(), &cell.syntax_label()].map(str::to_owned);
        if !self.read.insert(of) {
            return;
        }
        let mut all = warnings(pipeline, prompt, negative, &[]).unwrap_or_default();
        all.extend(pipeline.warnings().iter().cloned());
        // The plan's prompts were looked at for these together, with one example each.
        let of_syntax = unread_syntax([prompt.text.as_str(), negative], prompt.syntax, true);
        for warning in all.into_iter().filter(|warning| !of_syntax.contains(warning)) {
            if self.known.borrow_mut().insert(warning.clone()) {
                self.bar.suspend(|| print::warn(&warning));
            }
        }
    }

    fn one_more(&mut self) {
        self.bar.inc(1);
        self.made += 1;
        if self.log && self.said.elapsed() >= Self::EVERY {
            self.said = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let left = self.began.elapsed() / self.made * all.saturating_sub(done) as u32;
            print::note(format!("{done} of {all} cells, {} left", HumanDuration(left)));
        }
    }
}
