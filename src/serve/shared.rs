//! What the threads of a server share.

use super::address::Address;
use super::caches::Latest;
use super::check::PromptReader;
use super::events::Events;
use super::history::History;
use super::queue::Queue;
use super::side::{Side, SideChoice, own_maps};
use crate::run::Run;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs that are kept in memory with their maps: two are compared, with a few choices of layers and
/// steps.
const SIDES: usize = 8;

/// Everything but the checkpoint, which its own thread has.
#[derive(Debug)]
pub(super) struct Shared {
    pub address: Address,
    pub events: Events,
    pub queue: Queue,
    pub history: History,
    pub reader: PromptReader,
    /// What the page is told of the checkpoint.
    pub about: Value,
    /// The run that new ones are compared with; the one before them where there is none.
    pinned: Mutex<Option<String>>,
    /// By name, by when it was drawn, and by choice.
    sides: Latest<(String, u64, SideChoice), Arc<Side>>,
}

impl Shared {
    pub fn new(address: Address, queue: Queue, history: History, reader: PromptReader, about: Value) -> Self {
        let (events, pinned, sides) = (Events::default(), Mutex::default(), Latest::new(SIDES));
        Self { address, events, queue, history, reader, about, pinned, sides }
    }

    /// The name of the pinned run.
    pub fn pinned(&self) -> Option<String> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Pins the run `name`, or none, and tells the pages. Whether there is such a run.
    pub fn pin(&self, name: Option<String>) -> bool {
        let known = name.as_ref().is_none_or(|name| self.history.entry(name).is_some());
        if known {
            self.pinned.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&name);
            self.events.tell("pinned", &json!({"run": name}));
        }
        known
    }

    /// The run that a new one is compared with: the pinned one, else the newest.
    pub fn base(&self) -> Option<String> {
        let pinned = self.pinned().filter(|name| self.history.entry(name).is_some());
        pinned.or_else(|| self.history.newest())
    }

    /// The run `name` with the maps of a choice.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is no such run; those of [`Run::read`] and [`Side::of`].
    pub fn side(&self, name: &str, choice: &SideChoice) -> Result<Arc<Side>> {
        let entry = self.history.entry(name).ok_or_else(|| no_run(name))?;
        let key = (entry.name.clone(), entry.drawn, choice.clone());
        if let Some(known) = self.sides.get(&key) {
            return Ok(known);
        }
        let run = Run::open(&entry.folder)?;
        let (trace, image) = run.read()?;
        let side = Arc::new(Side::of(&trace, &image, &own_maps(&run.record), choice)?);
        self.sides.put(key, Arc::clone(&side));
        Ok(side)
    }

    /// Keeps the side of a run that was just made.
    pub fn keep(&self, name: &str, side: Arc<Side>) {
        if let Some(entry) = self.history.entry(name) {
            self.sides.put((entry.name.clone(), entry.drawn, SideChoice::default()), side);
        }
    }

    /// All that a page shows beside the pictures.
    pub fn state(&self) -> Value {
        let mut state = self.queue.state();
        state["pinned"] = json!(self.pinned());
        state["history"] = self.history.list();
        state
    }
}

/// An error as a page says it: it has fields and no options, of whatever program serves it.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::Argument { argument, reason } => format!("{}: {reason}", argument.name().replace('_', " ")),
        other => other.to_string(),
    }
}

/// That there is no run of this name.
pub(super) fn no_run(name: &str) -> Error {
    Error::input("run", format!("there is no run {} in the folder", crate::in_quotes(name)))
}
