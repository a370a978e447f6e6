//! The way to a broker: where it is, how the agent shows who it is, and a connection that only listens.
//!
//! The control plane (`mqtt`) keeps a connection of its own, by the client library; here is what it shares with the
//! samplers of scale rules.

mod credentials;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use self::credentials::{AccessError, Credentials};
pub use self::subscription::{
    Listening, Message, RetainedMessages, Subscription, SubscriptionError,
};

/// A way to the broker, and how the agent shows there who it is.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where the broker is.
    pub broker: Broker,
    /// PEM file with the authorities; the system's where there is none.
    pub ca: Option<PathBuf>,
    /// PEM files with the client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// User name; empty is none.
    pub username: String,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
}

impl Access {
    /// A connection from the board itself, before anything is said. Waits as long as the kernel does: a deadline is the
    /// caller's.
    pub async fn connect(&self, credentials: &Credentials) -> io::Result<Box<dyn Stream>> {
        let Broker { host, port, .. } = &self.broker;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        let Some(tls) = &credentials.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        Ok(Box::new(secured))
    }
}

/// Bytes to and from a broker.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl fmt::Debug for dyn Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Speak TLS.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// 1883 or 8883 where not given.
    pub port: u16,
}

impl Broker {
    /// Reads `mqtt://HOST[:PORT]` and `mqtts://…`.
    pub fn parse(url: &str) -> Option<Self> {
        let (tls, rest) = match url.split_once("://")? {
            ("mqtt", rest) => (false, rest),
            ("mqtts", rest) => (true, rest),
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None => {
                if tls {
                    8883
                } else {
                    1883
                }
            }
        };
        let odd =
            |c: char| c.is_whitespace() || c.is_control() || ['/', '@', '?', '#'].contains(&c);
        (!host.is_empty() && !host.contains(odd)).then(|| Self { tls, host: host.to_owned(), port })
    }

    /// Whatever passes can be read beyond this board.
    pub fn is_exposed(&self) -> bool {
        let local = self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        !self.tls && !local
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            return write!(f, "{scheme}://[{}]:{}", self.host, self.port);
        }
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<&str>) {
        assert_eq!(
            Broker::parse(url).map(|broker| broker.to_string()).as_deref(),
            expected,
            "{url}"
        );
    }

    #[test]
    fn urls_of_brokers_are_understood() {
        check("mqtt://broker", Some("mqtt://broker:1883"));
        check("mqtts://broker.example.com/", Some("mqtts://broker.example.com:8883"));
        check("mqtt://10.0.0.1:1884", Some("mqtt://10.0.0.1:1884"));
        check("mqtt://[::1]:1884", Some("mqtt://[::1]:1884"));
        check("mqtts://[fe80::1]", Some("mqtts://[fe80::1]:8883"));
    }

    #[test]
    fn what_is_no_url_of_a_broker_is_refused() {
        for url in [
            "",
            "broker",
            "http://broker",
            "mqtt://",
            "mqtt://b:0",
            "mqtt://b:x",
            "mqtt://u:p@b",
            "mqtt://[::1",
        ] {
            check(url, None);
        }
        check("mqtt://b/path", None);
    }

    #[test]
    fn only_plain_mqtt_beyond_loopback_is_exposed() {
        let exposed = |url| Broker::parse(url).unwrap().is_exposed();
        assert!(exposed("mqtt://10.0.0.1") && exposed("mqtt://broker"));
        assert!(
            !exposed("mqtt://127.0.0.1")
                && !exposed("mqtt://localhost")
                && !exposed("mqtt://[::1]")
        );
        assert!(!exposed("mqtts://broker"));
    }
}
