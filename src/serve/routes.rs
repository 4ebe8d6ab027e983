//! Which address answers what. Every one begins with the token; runs are named as the history names
//! them.

use super::check::Typed;
use super::guard::{MOST_BYTES, guard};
use super::history::HistoryEntry;
use super::listen::listen;
use super::request::Job;
use super::shared::{Shared, no_run, said};
use super::side::SideChoice;
use super::{changes, page, tested};
use crate::{Error, Result, files, report};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

type SharedState = State<Arc<Shared>>;

/// All that the server answers.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/{token}/", get(the_page))
        .route("/{token}/events", get(events))
        .route("/{token}/check", post(check))
        .route("/{token}/jobs", post(add))
        .route("/{token}/stop", post(stop))
        .route("/{token}/pin", post(pin))
        .route("/{token}/side", post(side))
        .route("/{token}/changes", post(differences))
        .route("/{token}/runs/{run}/thumb", get(thumb))
        .route("/{token}/runs/{run}/report", get(report_of))
        .route("/{token}/runs/{run}/tests", get(tests))
        .route("/{token}/runs/{run}/figures/{index}", get(figure))
        .route("/{token}/runs/{run}/image", get(image))
        .route("/{token}/compare/{a}/{b}", get(compare))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing here\n") })
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// An error as an answer: what was asked for is wrong, or it is not there.
fn refused(error: &Error) -> Response {
    let status = match error {
        Error::Input { what, .. } if what == "run" || what == "figure" => StatusCode::NOT_FOUND,
        Error::Argument { .. } | Error::Input { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, json(&json!({"error": said(error)}))).into_response()
}

fn json(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn html(page: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

fn picture(kind: &'static str, bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, kind)], bytes).into_response()
}

/// Does `work`, which reads files, apart from the thread that answers.
async fn apart(work: impl FnOnce() -> Result<Response> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.unwrap_or_else(|error| refused(&error)),
        Err(_) => refused(&Error::bug("an answer ended in a panic")),
    }
}

/// The body as JSON of a kind.
fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::input("body", error.to_string()))
}

fn entry(shared: &Shared, name: &str) -> Result<Arc<HistoryEntry>> {
    shared.history.entry(name).ok_or_else(|| no_run(name))
}

async fn the_page(State(shared): SharedState) -> Response {
    html(page::page(&shared.about))
}

async fn events(State(shared): SharedState) -> Response {
    match listen(shared) {
        Some(events) => events.into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response(),
    }
}

async fn check(State(shared): SharedState, bytes: Bytes) -> Response {
    apart(move || {
        let typed: Typed = body(&bytes)?;
        Ok(json(&shared.reader.check(&typed)?))
    })
    .await
}

async fn add(State(shared): SharedState, bytes: Bytes) -> Response {
    let job = match body::<Job>(&bytes).and_then(|job| job.check().map(|()| job)) {
        Ok(job) => job,
        Err(error) => return refused(&error),
    };
    match shared.queue.add(job) {
        Some(number) => {
            shared.events.tell("queue", &shared.queue.state());
            json(&json!({"job": number}))
        }
        None => {
            let told = json!({"error": "the queue is full; wait for a job to end, or stop one"});
            (StatusCode::TOO_MANY_REQUESTS, json(&told)).into_response()
        }
    }
}

/// The number of a job.
#[derive(Deserialize)]
struct JobNumber {
    job: u64,
}

async fn stop(State(shared): SharedState, bytes: Bytes) -> Response {
    match body::<JobNumber>(&bytes) {
        Ok(JobNumber { job }) => {
            let stopped = shared.queue.stop(job);
            shared.events.tell("queue", &shared.queue.state());
            json(&json!({"stopped": stopped}))
        }
        Err(error) => refused(&error),
    }
}

/// The run to pin; none frees the pin.
#[derive(Deserialize)]
struct Pin {
    run: Option<String>,
}

async fn pin(State(shared): SharedState, bytes: Bytes) -> Response {
    apart(move || {
        let Pin { run } = body(&bytes)?;
        let name = run.clone().unwrap_or_default();
        if shared.pin(run) { Ok(json(&json!({}))) } else { Err(no_run(&name)) }
    })
    .await
}

/// A run, and which of its maps.
#[derive(Deserialize)]
struct OfRun {
    run: String,
    #[serde(flatten)]
    choice: SideChoice,
    #[serde(default)]
    image: bool,
}

async fn side(State(shared): SharedState, bytes: Bytes) -> Response {
    apart(move || {
        let OfRun { run, choice, image } = body(&bytes)?;
        Ok(json(&shared.side(&run, &choice)?.json(Some(&run), image)?))
    })
    .await
}

/// Two runs.
#[derive(Deserialize)]
struct Two {
    a: String,
    b: String,
    /// The sentences too, which take longer.
    #[serde(default)]
    sentences: bool,
}

async fn differences(State(shared): SharedState, bytes: Bytes) -> Response {
    apart(move || {
        let Two { a, b, sentences } = body(&bytes)?;
        let whole = SideChoice::default();
        let mut told = changes::changes(&*shared.side(&a, &whole)?, &*shared.side(&b, &whole)?);
        if sentences {
            let [a, b] = [&a, &b].map(|name| entry(&shared, name).and_then(|entry| report::from_run(&entry.folder)));
            told["sentences"] = json!(report::differences(&a?, &b?, None));
        }
        Ok(json(&told))
    })
    .await
}

async fn thumb(State(shared): SharedState, Path((_, run)): Path<(String, String)>) -> Response {
    apart(move || {
        let bytes = shared.history.thumb(&run).ok_or_else(|| no_run(&run))?;
        Ok(picture("image/jpeg", bytes.to_vec()))
    })
    .await
}

async fn image(State(shared): SharedState, Path((_, run)): Path<(String, String)>) -> Response {
    apart(move || {
        let path = entry(&shared, &run)?.folder.join("image.png");
        let bytes = files::read(&path).map_err(Error::io(&path))?;
        // What another program put there is not sent on as a picture.
        match image::guess_format(&bytes) {
            Ok(image::ImageFormat::Png) => Ok(picture("image/png", bytes)),
            _ => Err(no_run(&run)),
        }
    })
    .await
}

/// The page of a run, made anew: a file of this name may hold the script of another.
async fn report_of(State(shared): SharedState, Path((_, run)): Path<(String, String)>) -> Response {
    apart(move || {
        let data = report::from_run(&entry(&shared, &run)?.folder)?;
        // Pages beside the run's are not served: a link to one would lead nowhere.
        Ok(html(report::page(&report::ReportData { sweep: None, cell: None, ..data })))
    })
    .await
}

async fn tests(State(shared): SharedState, Path((_, run)): Path<(String, String)>) -> Response {
    apart(move || Ok(json(&tested::tests(&*entry(&shared, &run)?)?))).await
}

async fn figure(State(shared): SharedState, Path((_, run, index)): Path<(String, String, usize)>) -> Response {
    apart(move || Ok(picture("image/png", tested::figure(&*entry(&shared, &run)?, index)?))).await
}

async fn compare(State(shared): SharedState, Path((_, a, b)): Path<(String, String, String)>) -> Response {
    apart(move || {
        let data = |name: &str| report::from_run(&entry(&shared, name)?.folder);
        Ok(html(report::compare_page(&data(&a)?, &data(&b)?, [None, None])?))
    })
    .await
}
