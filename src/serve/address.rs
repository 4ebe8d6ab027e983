//! Where the server listens: the address that a browser opens, its token, and the names that are
//! the server's own.

use crate::{Error, Result};
use std::net::{IpAddr, SocketAddr};

/// Bytes of a token: too many to be guessed.
const TOKEN_BYTES: usize = 16;

/// An address with a token, which every request has to name.
#[derive(Debug, Clone)]
pub(super) struct Address {
    socket: SocketAddr,
    token: String,
}

impl Address {
    /// `socket` with a token drawn from the system's randomness.
    ///
    /// # Errors
    /// [`Error::Io`] where the system has no randomness to give.
    pub fn new(socket: SocketAddr) -> Result<Self> {
        let mut bytes = [0u8; TOKEN_BYTES];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::io("the system's randomness")(std::io::Error::other(error.to_string())))?;
        Ok(Self { socket, token: crate::text::hex(&bytes) })
    }

    /// What a browser opens: `http://127.0.0.1:PORT/TOKEN/`. An address of all interfaces is opened
    /// on this machine.
    pub fn url(&self) -> String {
        let host = match self.socket.ip() {
            ip if ip.is_unspecified() => SocketAddr::new(loopback_like(ip), self.socket.port()),
            _ => self.socket,
        };
        format!("http://{host}/{}/", self.token)
    }

    /// Whether no other machine reaches it.
    pub fn is_local(&self) -> bool {
        self.socket.ip().is_loopback()
    }

    /// Whether `token` is the token. It takes the same time for every wrong one of the same length.
    pub fn has_token(&self, token: &str) -> bool {
        let (own, given) = (self.token.as_bytes(), token.as_bytes());
        own.len() == given.len() && own.iter().zip(given).fold(0, |found, (a, b)| found | (a ^ b)) == 0
    }

    /// Whether `host`, a request's `Host`, is a name of this server.
    ///
    /// A page of another site can make a name of its own lead to 127.0.0.1 (DNS rebinding), but not
    /// change that name. So names are refused, but for `localhost`, and addresses that the server
    /// does not listen on. The port is not looked at: a tunnel may have another at the browser's
    /// end.
    pub fn is_own_host(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((name, port)) if is_port(port) => name,
                _ => return false,
            },
            None => match host.split_once(':') {
                Some((name, port)) if port.parse::<u16>().is_ok() => name,
                Some(_) => return false,
                None => host,
            },
        };
        let own = self.socket.ip();
        if name.eq_ignore_ascii_case("localhost") {
            return own.is_loopback() || own.is_unspecified();
        }
        match name.parse::<IpAddr>() {
            Ok(ip) => ip == own || own.is_unspecified() || own.is_loopback() && ip.is_loopback(),
            Err(_) => false,
        }
    }
}

/// Nothing, or `:PORT`.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

fn loopback_like(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(socket: &str) -> Address {
        Address::new(socket.parse().unwrap()).unwrap()
    }

    #[test]
    fn names_of_other_sites_are_not_the_servers() {
        let local = at("127.0.0.1:8123");
        for own in ["127.0.0.1:8123", "localhost:8123", "LOCALHOST", "127.0.0.1", "localhost:9000", "[::1]:8123"] {
            assert!(local.is_own_host(own), "{own}");
        }
        for other in [
            "evil.example:8123",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8123",
            "10.0.0.3:8123",
            "",
            "127.0.0.1:8123:1",
            "127.0.0.1:x",
            "[::1",
            "[::1]x",
            "localhost@evil.example",
            "2130706433",
        ] {
            assert!(!local.is_own_host(other), "{other}");
        }
        let open = at("0.0.0.0:80");
        assert!(open.is_own_host("192.168.1.7") && open.is_own_host("localhost") && !open.is_own_host("evil.example"));
        let one = at("192.168.1.7:80");
        assert!(one.is_own_host("192.168.1.7:80") && !one.is_own_host("localhost") && !one.is_own_host("127.0.0.1"));
    }

    #[test]
    fn tokens_are_long_and_each_is_another() {
        let (a, b) = (at("127.0.0.1:1"), at("127.0.0.1:1"));
        assert_ne!(a.token, b.token);
        assert!(a.has_token(&a.token.clone()) && !a.has_token(&b.token) && !a.has_token("") && a.token.len() == 32);
        assert!(!a.has_token(&a.token[..31]) && a.url().ends_with(&format!("/{}/", a.token)));
        assert!(a.is_local() && !at("0.0.0.0:1").is_local());
        assert!(
            at("0.0.0.0:81").url().starts_with("http://127.0.0.1:81/") && at("[::1]:8").url().contains("//[::1]:8/")
        );
    }
}
