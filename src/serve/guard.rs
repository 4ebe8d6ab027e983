//! What is refused before anything is looked at: foreign names and pages, wrong tokens, bodies that
//! are no JSON.

use super::shared::Shared;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The most bytes of a body: far more than a prompt.
pub(super) const MOST_BYTES: usize = 64 * 1024;

/// Headers of every answer: nothing is kept, sniffed, framed by others or told to them.
const HEADERS: [(&str, &str); 6] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// Answers what is refused, and hands on the rest.
pub(super) async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&shared, &request) {
        Some((status, reason)) => (status, reason).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Why `request` is refused; `None` where it is not.
fn refusal(shared: &Shared, request: &Request) -> Option<(StatusCode, &'static str)> {
    let (headers, uri, address) = (request.headers(), request.uri(), &shared.address);
    let Some(host) = header(headers, HOST) else {
        return Some((StatusCode::BAD_REQUEST, "a request without one Host\n"));
    };
    let named = uri.authority().is_none_or(|authority| address.is_own_host(authority.as_str()));
    if !named || !address.is_own_host(host) {
        return Some((StatusCode::FORBIDDEN, "this name is not the server's; open the address that attnmap printed\n"));
    }
    if !is_same_site(headers, host) {
        return Some((StatusCode::FORBIDDEN, "a page of another site may ask for nothing here\n"));
    }
    if !has_token(uri, |token| address.has_token(token)) {
        return Some((StatusCode::FORBIDDEN, "open the address that attnmap printed, with its token\n"));
    }
    if request.method() == Method::POST && header(headers, CONTENT_TYPE) != Some("application/json") {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json\n"));
    }
    None
}

/// The value of a header that is there once.
fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Whether a browser sends the request for this server's own page, or for what was typed as an
/// address.
fn is_same_site(headers: &HeaderMap, host: &str) -> bool {
    let origin = match headers.contains_key(ORIGIN) {
        true => header(headers, ORIGIN).and_then(|origin| origin.strip_prefix("http://")) == Some(host),
        false => true,
    };
    let fetched = HeaderName::from_static("sec-fetch-site");
    let site = match headers.contains_key(&fetched) {
        true => header(headers, fetched).is_some_and(|site| ["same-origin", "none"].contains(&site)),
        false => true,
    };
    origin && site
}

/// Whether the first part of the path is the token.
fn has_token(uri: &Uri, is_token: impl Fn(&str) -> bool) -> bool {
    let path = uri.path().strip_prefix('/').unwrap_or_default();
    is_token(path.split('/').next().unwrap_or_default())
}
