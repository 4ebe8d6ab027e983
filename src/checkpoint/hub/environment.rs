//! The environment variables that Python's huggingface_hub reads, read as it reads them.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;

/// The server where nothing else is said.
const HUB: &str = "https://huggingface.co";

/// The value of a variable that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether a switch is on, by the values that huggingface_hub's `constants.py` takes for true.
fn is_on(value: &OsStr) -> bool {
    let upper = value.to_string_lossy().to_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&upper.as_str())
}

/// The variable that forbids the network, if one does.
pub(super) fn offline() -> Option<&'static str> {
    // The first that is set decides, whatever it says.
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
        .into_iter()
        .find_map(|name| variable(name).map(|value| (name, value)))
        .and_then(|(name, value)| is_on(&value).then_some(name))
}

/// The folder of everything that huggingface_hub keeps.
fn home() -> PathBuf {
    variable("HF_HOME").map(|path| expand(&path)).unwrap_or_else(|| {
        let cache = variable("XDG_CACHE_HOME").unwrap_or_else(|| "~/.cache".into());
        expand(&cache).join("huggingface")
    })
}

/// The folder of the hub's cache.
pub(super) fn cache_folder() -> PathBuf {
    ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]
        .into_iter()
        .find_map(variable)
        .map_or_else(|| home().join("hub"), |path| expand(&path))
}

/// The server's address, without a slash at its end. `given` comes before the environment.
///
/// # Errors
/// What is wrong with an address that is none, and where it was given.
pub(super) fn endpoint(given: Option<&str>) -> Result<String, String> {
    let (source, text) = match given {
        Some(text) => ("the endpoint", text.to_owned()),
        None => match env::var_os("HF_ENDPOINT") {
            Some(text) => ("HF_ENDPOINT", text.to_string_lossy().into_owned()),
            None => return Ok(HUB.into()),
        },
    };
    let text = text.trim().trim_end_matches('/');
    if text.is_empty() {
        return Ok(HUB.into());
    }
    let host = text.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(&&*scheme.to_lowercase()));
    let host = host.map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let odd = |character: char| character.is_whitespace() || character.is_control() || !character.is_ascii();
    if host.is_none_or(str::is_empty) || text.contains(odd) || text.contains(['?', '#']) {
        return Err(format!("{source} is not a URL (`{text}`); unset it, or set it to e.g. {HUB}"));
    }
    Ok(text.to_owned())
}

/// Scheme, name and password where it has them, and host with its port of `url`.
pub(super) fn parts(url: &str) -> Option<(&str, Option<&str>, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    let (secret, host) = host.rsplit_once('@').map_or((None, host), |(secret, host)| (Some(secret), host));
    Some((scheme, secret, host))
}

/// The proxy through which `url` is asked, as Python's `requests` takes it from the environment. It
/// is that of the address's scheme, else that of all, unless the host is among those without.
pub(super) fn proxy(url: &str) -> Option<String> {
    let (scheme, _, host) = parts(url)?;
    let host = host.to_lowercase();
    let either = |name: &str| variable(&name.to_lowercase()).or_else(|| variable(&name.to_uppercase()));
    let text = |value: OsString| value.to_string_lossy().trim().to_owned();
    if either("no_proxy").is_some_and(|list| is_among(&host, &text(list))) {
        return None;
    }
    either(&format!("{scheme}_proxy")).or_else(|| either("all_proxy")).map(text)
}

/// Whether `host`, with its port where it has one, is named by the comma-separated `list`: itself,
/// a domain that it belongs to, or all.
fn is_among(host: &str, list: &str) -> bool {
    let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let bare = bare.map_or(host, |(bare, _)| bare);
    list.to_lowercase().split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        let of_domain =
            |host: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        entry == "*" || !domain.is_empty() && (of_domain(host) || of_domain(bare))
    })
}

/// The access token, if there is one. `given` comes before the environment, and the environment
/// before the file of a login.
///
/// # Errors
/// What is wrong with a token that can be none, and where it stands. The token itself is not shown.
pub(super) fn token(given: Option<&str>) -> Result<Option<String>, String> {
    let clean = |text: String| text.replace(['\r', '\n'], "").trim().to_owned();
    let found = match given {
        Some(text) => Some(("the access token".to_owned(), clean(text.to_owned()))),
        None if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_on(&value)) => None,
        None => ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), clean(variable(name)?.to_string_lossy().into_owned()))))
            .find(|(_, token)| !token.is_empty())
            .or_else(|| {
                let path = token_file();
                // A file that cannot be read is no obstacle: most repositories need no token.
                let text = fs::read(&path).ok()?;
                Some((path.display().to_string(), clean(String::from_utf8_lossy(&text).into_owned())))
            }),
    };
    match found {
        Some((_, token)) if token.is_empty() => Ok(None),
        // What a header can hold, and what no token lacks.
        Some((_, token)) if token.bytes().all(|byte| byte.is_ascii_graphic()) && !token.contains(['"', '\'']) => {
            Ok(Some(token))
        }
        Some((source, _)) => Err(format!(
            "{source} holds a space, a quotation mark or a character that no access token has; copy the token \
            again from {HUB}/settings/tokens"
        )),
        None => Ok(None),
    }
}

/// The file that `hf auth login` writes.
fn token_file() -> PathBuf {
    variable("HF_TOKEN_PATH").map_or_else(|| home().join("token"), |path| expand(&path))
}

/// `path` with `~`, `~user`, `$NAME` and `${NAME}` replaced as Python's
/// `os.path.expandvars(os.path.expanduser(path))` does.
///
/// What names no user or variable stays as it is.
fn expand(path: &OsStr) -> PathBuf {
    // What is no text is taken as it is.
    path.to_str().map_or_else(|| path.into(), |text| expand_in(text, &|name| env::var_os(name), &user_folder))
}

/// See [`expand`]; `variable` gives a variable's value and `user` a user's folder, of the present
/// user for "".
fn expand_in(
    path: &str,
    variable: &dyn Fn(&str) -> Option<OsString>,
    user: &dyn Fn(&str) -> Option<OsString>,
) -> PathBuf {
    let parted = path.strip_prefix('~').and_then(|after| {
        let (name, below) = after.split_at(after.find('/').unwrap_or(after.len()));
        let folder = user(name)?;
        // A slash at its end would be doubled.
        let folder = folder.to_str().map_or(folder.clone(), |text| text.trim_end_matches('/').into());
        Some((folder, below))
    });
    match parted {
        Some((folder, "")) if folder.is_empty() => "/".into(),
        // As in Python, variables in the name of a user's folder are replaced too.
        Some((folder, below)) => expand_variables(&[&folder, OsStr::new(below)], variable),
        None => expand_variables(&[OsStr::new(path)], variable),
    }
}

/// `$NAME` and `${NAME}` in the `pieces` of a path, one after another.
fn expand_variables(pieces: &[&OsStr], variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let mut expanded = OsString::new();
    for piece in pieces {
        let Some(mut rest) = piece.to_str() else {
            expanded.push(piece);
            continue;
        };
        while let Some(at) = rest.find('$') {
            expanded.push(&rest[..at]);
            let after = &rest[at + 1..];
            let (name, length) = match after.strip_prefix('{') {
                Some(inner) => inner.find('}').map_or(("", 0), |end| (&inner[..end], end + 2)),
                None => {
                    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
                    let end = after.find(|character| !is_name(character)).unwrap_or(after.len());
                    (&after[..end], end)
                }
            };
            match variable(name).filter(|_| !name.is_empty()) {
                Some(value) => expanded.push(value),
                None => expanded.push(&rest[at..at + 1 + length]),
            }
            rest = &after[length..];
        }
        expanded.push(rest);
    }
    expanded.into()
}

/// The folder of the user `name`, of the present user for "".
fn user_folder(name: &str) -> Option<OsString> {
    if name.is_empty() {
        return env::var_os("HOME").or_else(|| env::home_dir().map(OsString::from));
    }
    folder_of(name)
}

#[cfg(unix)]
fn folder_of(user: &str) -> Option<OsString> {
    use std::ffi::{CStr, CString};
    use std::mem::MaybeUninit;
    use std::os::unix::ffi::OsStrExt;

    let name = CString::new(user).ok()?;
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut texts: Vec<libc::c_char> = vec![0; 1 << 16];
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to memory that outlives the call, and the length is that of `texts`.
    let status =
        unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), texts.as_mut_ptr(), texts.len(), &mut found) };
    if status != 0 || found.is_null() {
        return None;
    }
    // SAFETY: where a user was found, `found` points at `entry`, whose texts end with 0 and lie in
    // `texts`.
    let folder = unsafe { CStr::from_ptr((*found).pw_dir) };
    Some(OsStr::from_bytes(folder.to_bytes()).to_owned())
}

#[cfg(not(unix))]
fn folder_of(_user: &str) -> Option<OsString> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Python's answers, from `tests/fixtures/make_paths.py`.
    #[test]
    fn paths_are_expanded_as_python_does() {
        let text = include_str!("../../../tests/fixtures/paths.json");
        let cases: Value = serde_json::from_str(text).unwrap();
        let entry = |kind: &str, name: &str| cases[kind][name].as_str().map(OsString::from);
        for (path, expected) in cases["paths"].as_object().unwrap() {
            let got = expand_in(path, &|name| entry("variables", name), &|name| entry("users", name));
            assert_eq!(got.to_str(), expected.as_str(), "{path}");
        }
        let root = |_: &str| Some(OsString::from("/"));
        for (path, expected) in [("~", "/"), ("~/a", "/a")] {
            assert_eq!(expand_in(path, &|_| None, &root), PathBuf::from(expected));
        }
    }

    #[test]
    #[cfg(unix)]
    fn users_are_found_by_name() {
        assert_eq!(folder_of("root"), Some("/root".into()));
        assert_eq!(folder_of("no such user"), None);
    }

    #[test]
    fn hosts_without_a_proxy_are_told_as_they_are_written() {
        for (host, list, expected) in [
            ("127.0.0.1:8000", "localhost, 127.0.0.1", true),
            ("127.0.0.1:8000", "127.0.0.1:8000", true),
            ("127.0.0.1:8000", "127.0.0.1:9000", false),
            ("cdn.hub.example", "hub.example", true),
            ("cdn.hub.example", ".hub.example", true),
            ("cdn.hub.example", "*.Hub.example", true),
            ("othub.example", "hub.example", false),
            ("hub.example", "*", true),
            ("hub.example", " ,", false),
        ] {
            assert_eq!(is_among(host, list), expected, "{host}: {list}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_without_a_slash_at_its_end() {
        for (text, expected) in [
            (" https://hub.example/ \n", "https://hub.example"),
            ("http://127.0.0.1:8000//", "http://127.0.0.1:8000"),
            ("HTTPS://hub.example/mirror/", "HTTPS://hub.example/mirror"),
            ("", HUB),
            (" / ", HUB),
        ] {
            assert_eq!(endpoint(Some(text)).as_deref(), Ok(expected), "{text}");
        }
        for text in ["nowhere", "ftp://hub.example", "https://", "https:///a", "https://hub example", "https://h/?a=b"]
        {
            let problem = endpoint(Some(text)).unwrap_err();
            assert!(problem.starts_with("the endpoint is not a URL"), "{problem}");
        }
    }

    #[test]
    fn tokens_are_stripped_and_odd_ones_refused_without_being_shown() {
        for text in ["hf_abc", "hf_abc\n", " hf_abc", "\thf_abc\r\n", "hf_\nabc"] {
            assert_eq!(token(Some(text)), Ok(Some("hf_abc".into())), "{text:?}");
        }
        for text in ["", " \r\n"] {
            assert_eq!(token(Some(text)), Ok(None));
        }
        for text in ["hf_a bc", "hf_\u{e4}", "hf_\0", "\u{201c}hf_abc\u{201d}", "\"hf_abc\"", "'hf_abc'"] {
            let problem = token(Some(text)).unwrap_err();
            assert!(problem.starts_with("the access token holds") && !problem.contains("hf_"), "{problem}");
        }
    }
}
