//! What is told to the pages that are open.

use serde_json::Value;
use std::sync::Arc;
use tokio::sync::broadcast::{Receiver, Sender, channel};

/// Events that a slow page may be behind. A page that is further behind is given the whole state
/// again.
const BEHIND: usize = 64;

/// Pages that listen at once, at most.
const PAGES: usize = 32;

/// One event: its name and its JSON.
#[derive(Debug, Clone)]
pub(super) struct ServerEvent {
    pub name: &'static str,
    pub data: Arc<str>,
}

/// Where events come from.
#[derive(Debug)]
pub(super) struct Events(Sender<ServerEvent>);

impl Default for Events {
    fn default() -> Self {
        Self(channel(BEHIND).0)
    }
}

impl Events {
    /// Tells all pages; nobody need listen.
    pub fn tell(&self, name: &'static str, data: &Value) {
        self.0.send(ServerEvent { name, data: data.to_string().into() }).ok();
    }

    /// Whether anybody listens, so that pictures for nobody are not made.
    pub fn has_listeners(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// The events from now on; `None` where too many pages listen already.
    pub fn subscribe(&self) -> Option<Receiver<ServerEvent>> {
        (self.0.receiver_count() < PAGES).then(|| self.0.subscribe())
    }
}
