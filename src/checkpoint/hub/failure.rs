//! What can go wrong between this machine and the server, before it is put in words for the user.

use crate::one_line;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{HeaderMap, StatusCode};

/// Why a request or a download did not succeed.
#[derive(Debug)]
pub(super) enum RequestFailure {
    /// The server could not be reached at all; the cause.
    Unreachable(String),
    /// An answer ended before it was whole; the cause.
    Interrupted(String),
    /// The server answers with an error.
    Status(ServerAnswer),
    /// The server's answer makes no sense; what it says.
    Nonsense(String),
    /// What arrived is not what the server promised; what is wrong.
    Damaged(String),
    /// The cache could not be written.
    Cache(PathBuf, io::Error),
    /// Another program holds this lock and makes no progress.
    Locked(PathBuf),
}

/// An error that the server answered with.
#[derive(Debug)]
pub(super) struct ServerAnswer {
    pub(super) status: StatusCode,
    /// The hub's name of the error (`X-Error-Code`), "" for other servers.
    pub(super) code: String,
    /// The hub's sentence on it (`X-Error-Message`).
    pub(super) message: Option<String>,
    /// How long the server asks to wait.
    pub(super) wait: Option<Duration>,
}

impl ServerAnswer {
    pub(super) fn new(status: StatusCode, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let wait = text("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Self { status, code: text("x-error-code").unwrap_or_default(), message: text("x-error-message"), wait }
    }
}

impl RequestFailure {
    /// For `map_err` where the cache is written.
    pub(super) fn cache(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Cache(path, error)
    }

    /// Whether the server could not be reached, or is out of order: what is in the cache is then as
    /// good as it was.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status(answer) => answer.status.is_server_error(),
            _ => false,
        }
    }

    /// Whether asking again soon may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Interrupted(_) => true,
            Self::Status(answer) => [502, 503, 504].contains(&answer.status.as_u16()),
            _ => false,
        }
    }
}

impl From<ureq::Error> for RequestFailure {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Io(error) => error.into(),
            ureq::Error::Protocol(error) => Self::Interrupted(one_line(&error.to_string())),
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => Self::Nonsense(one_line(&error.to_string())),
            error => Self::Unreachable(one_line(&error.to_string())),
        }
    }
}

impl From<io::Error> for RequestFailure {
    /// Of reading from the server.
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let cause = one_line(&root_cause(&error));
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Interrupted(cause),
            _ => Self::Unreachable(cause),
        }
    }
}

/// The innermost cause, which says most in fewest words.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
