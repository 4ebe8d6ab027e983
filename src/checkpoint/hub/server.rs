//! Requests to the hub's server: where they go, what they carry, and how far a redirect is
//! followed.

use super::environment;
use super::failure::{RequestFailure, ServerAnswer};
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// Waits before a request that failed in passing is made again.
const WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// A server of the hub's kind.
pub(super) struct HubServer {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What the server says of a file without sending it.
pub(super) struct Head {
    /// The name of its content.
    pub(super) etag: String,
    /// Its length in bytes, where the server says.
    pub(super) length: Option<u64>,
}

impl HubServer {
    /// `endpoint` has no slash at its end.
    pub(super) fn new(endpoint: String, token: Option<String>) -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("attnmap/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .http_status_as_error(false)
            // That of the environment is chosen for each address.
            .proxy(None)
            // Followed here, where the token can be kept from other hosts.
            .max_redirects(0);
        Self { agent: config.build().into(), endpoint, token }
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `message` without the name and password that the endpoint may have.
    pub(super) fn without_secrets(&self, message: &str) -> String {
        match environment::parts(&self.endpoint) {
            Some((scheme, Some(secret), _)) => {
                message.replace(&format!("{scheme}://{secret}@"), &format!("{scheme}://"))
            }
            _ => message.to_owned(),
        }
    }

    /// What the server says of the file at `url`.
    pub(super) fn head(&self, url: &str) -> Result<Head, RequestFailure> {
        persistently(|| {
            // The hub answers for a large file with its name and length, and with a redirect to
            // another host that knows neither.
            let response = self.follow(Method::HEAD, url, None, false)?;
            let headers = response.headers();
            let number = |name: &str| text(headers, name).and_then(|text| text.trim().parse().ok());
            let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag")).unwrap_or_default();
            let etag = etag.trim().trim_start_matches("W/").trim_matches('"');
            // It becomes the name of a file.
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if etag.is_empty() || etag.starts_with('.') || !etag.bytes().all(plain) {
                return Err(RequestFailure::Nonsense(format!("no usable ETag for {url}")));
            }
            let own = || number("content-length").filter(|_| !response.status().is_redirection());
            Ok(Head { etag: etag.to_owned(), length: number("x-linked-size").or_else(own) })
        })
    }

    /// The body of the file at `url`, from byte `start` on where the server can, and whether it
    /// could.
    pub(super) fn get(&self, url: &str, start: u64) -> Result<(Response<Body>, bool), RequestFailure> {
        let response = self.follow(Method::GET, url, (start > 0).then_some(start), true)?;
        let range = text(response.headers(), "content-range").unwrap_or_default();
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        if resumed && !range.trim().starts_with(&format!("bytes {start}-")) {
            return Err(RequestFailure::Nonsense(format!("bytes `{range}` where those from {start} were asked for")));
        }
        Ok((response, resumed))
    }

    /// The body at `url`, of at most `limit` bytes.
    pub(super) fn read(&self, url: &str, limit: u64) -> Result<Vec<u8>, RequestFailure> {
        persistently(|| {
            let (response, _) = self.get(url, 0)?;
            Ok(response.into_body().into_with_config().limit(limit).read_to_vec()?)
        })
    }

    /// Answers a request, following redirects: all, or those that stay on the same host.
    fn follow(
        &self,
        method: Method,
        url: &str,
        start: Option<u64>,
        anywhere: bool,
    ) -> Result<Response<Body>, RequestFailure> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let response = self.send(method.clone(), &url, start)?;
            let status = response.status();
            let location = text(response.headers(), "location").filter(|_| status.is_redirection());
            let next = match location {
                Some(location) => join(&url, location.trim())
                    .ok_or_else(|| RequestFailure::Nonsense(format!("a redirect to `{location}`")))?,
                None if status.is_success() => return Ok(response),
                None => return Err(RequestFailure::Status(ServerAnswer::new(status, response.headers()))),
            };
            if !anywhere && origin(&next) != origin(&url) {
                return Ok(response);
            }
            url = next;
        }
        Err(RequestFailure::Nonsense("one redirect after another".into()))
    }

    /// One request. The token goes to the server that it was given for and to no other.
    fn send(&self, method: Method, url: &str, start: Option<u64>) -> Result<Response<Body>, RequestFailure> {
        let mut request = Request::builder().method(method).uri(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(start) = start {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let request = request.body(()).map_err(ureq::Error::from)?;
        let proxy = environment::proxy(url).and_then(|address| Proxy::new(&address).ok());
        Ok(self.agent.run(self.agent.configure_request(request).proxy(proxy).build())?)
    }
}

/// Asks again where a failure may be gone in a moment.
pub(super) fn persistently<T>(mut ask: impl FnMut() -> Result<T, RequestFailure>) -> Result<T, RequestFailure> {
    for wait in WAITS {
        match ask() {
            Err(failure) if failure.may_pass() => std::thread::sleep(wait),
            answer => return answer,
        }
    }
    ask()
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Scheme, host and port of `url`, in small letters.
fn origin(url: &str) -> Option<String> {
    let (scheme, _, host) = environment::parts(url)?;
    Some(format!("{scheme}://{host}").to_lowercase())
}

/// The address that `location` means in an answer from `url`.
fn join(url: &str, location: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    if let Some(host) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{host}"));
    }
    let host = rest.split(['/', '?', '#']).next()?;
    location.starts_with('/').then(|| format!("{scheme}://{host}{location}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_message() {
        let server = HubServer::new("http://user:secret@127.0.0.1:1/mirror".into(), None);
        let told = server.without_secrets("http://user:secret@127.0.0.1:1/mirror/owner cannot be reached");
        assert_eq!(told, "http://127.0.0.1:1/mirror/owner cannot be reached");
        let plain = HubServer::new("https://hub.example".into(), None);
        assert_eq!(plain.without_secrets("https://hub.example/a@b"), "https://hub.example/a@b");
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let url = "https://hub.example:8443/owner/name/resolve/main/a?b=c";
        for (location, expected) in [
            ("https://cdn.example/x", Some("https://cdn.example/x")),
            ("//cdn.example/x?y", Some("https://cdn.example/x?y")),
            ("/api/x", Some("https://hub.example:8443/api/x")),
            ("x", None),
            ("ftp://cdn.example/x", None),
            ("", None),
        ] {
            assert_eq!(join(url, location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn another_scheme_host_or_port_is_another_origin() {
        let own = origin("https://hub.example/a/b");
        for same in ["https://hub.example", "HTTPS://Hub.Example/c?d", "https://me:secret@hub.example/a"] {
            assert_eq!(origin(same), own, "{same}");
        }
        for other in [
            "http://hub.example",
            "https://hub.example:444/",
            "https://hub.example.org",
            "https://hub.example@cdn.example/a",
        ] {
            assert_ne!(origin(other), own, "{other}");
        }
    }
}
