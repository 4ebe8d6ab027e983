//! What is told to the pages that are open, as server-sent events.

use super::shared::Shared;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender, channel};

/// Events that a slow page may be behind. A page that is further behind is given the whole state
/// again.
const BEHIND: usize = 64;

/// Pages that listen at once, at most.
const PAGES: usize = 32;

/// One event: its name and its JSON.
#[derive(Debug, Clone)]
struct Told {
    name: &'static str,
    data: Arc<str>,
}

/// Where events come from.
#[derive(Debug)]
pub(super) struct Events(Sender<Told>);

impl Default for Events {
    fn default() -> Self {
        Self(channel(BEHIND).0)
    }
}

impl Events {
    /// Tells all pages; nobody need listen.
    pub fn tell(&self, name: &'static str, data: &Value) {
        self.0.send(Told { name, data: data.to_string().into() }).ok();
    }

    /// Whether anybody listens, so that pictures for nobody are not made.
    pub fn has_listeners(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

/// The events from now on, after the state as it is. `None` where too many pages listen already.
pub(super) fn listen(shared: Arc<Shared>) -> Option<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>> {
    if shared.events.0.receiver_count() >= PAGES {
        return None;
    }
    // Listening comes first, so that nothing falls between the state and the events.
    let receiver = shared.events.0.subscribe();
    let listener = Listener { receiver, shared, behind: true };
    Some(Sse::new(unfold(listener, next)).keep_alive(KeepAlive::default()))
}

struct Listener {
    receiver: Receiver<Told>,
    shared: Arc<Shared>,
    /// Whether the page has to be given the whole state.
    behind: bool,
}

async fn next(mut listener: Listener) -> Option<(Result<Event, Infallible>, Listener)> {
    let event = |name: &str, data: &str| Ok(Event::default().event(name).data(data));
    if std::mem::take(&mut listener.behind) {
        let shared = Arc::clone(&listener.shared);
        let state = tokio::task::spawn_blocking(move || shared.state().to_string()).await.ok()?;
        return Some((event("state", &state), listener));
    }
    match listener.receiver.recv().await {
        Ok(told) => Some((event(told.name, &told.data), listener)),
        Err(RecvError::Lagged(_)) => {
            listener.behind = true;
            Some((event("behind", "{}"), listener))
        }
        Err(RecvError::Closed) => None,
    }
}
