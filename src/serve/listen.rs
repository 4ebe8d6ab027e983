//! A page that listens: the state as it is, then every event, as server-sent events.

use super::events::ServerEvent;
use super::shared::Shared;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// The events from now on, after the state as it is. `None` where too many pages listen already.
pub(super) fn listen(shared: Arc<Shared>) -> Option<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>> {
    // Listening comes first, so that nothing falls between the state and the events.
    let receiver = shared.events.subscribe()?;
    let listener = Listener { receiver, shared, behind: true };
    Some(Sse::new(unfold(listener, next)).keep_alive(KeepAlive::default()))
}

struct Listener {
    receiver: Receiver<ServerEvent>,
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
