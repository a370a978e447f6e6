//! Where a sample is taken: URLs of pages and of brokers. Holding one proves that it can be dialled.

use std::fmt::{self, Write as _};

/// The URL of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Speak TLS.
    pub tls: bool,
    /// A name, or an IPv4 address.
    pub host: String,
    /// 80 or 443 where not given.
    pub port: u16,
    /// Path and query; begins with a slash.
    pub path: String,
}

impl HttpUrl {
    /// Reads `http://HOST[:PORT][/PATH]` and `https://…`. One with a user in it is none, for it would be shown.
    pub fn parse(text: &str) -> Option<Self> {
        let (tls, rest) = scheme(text, "http", "https")?;
        let rest = rest.split('#').next()?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = host_and_port(authority, Some(if tls { 443 } else { 80 }))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        // What is left in a request's first line must not break it.
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then_some(Self { tls, host, port, path })
    }

    /// The page of this name below this one.
    #[must_use]
    pub fn below(mut self, name: &str) -> Self {
        let kept = self.path.find('?').unwrap_or(self.path.len());
        let query = self.path.split_off(kept);
        self.path = format!("{}/{name}{query}", self.path.trim_end_matches('/'));
        self
    }

    /// The same page with one more parameter.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        escape(&mut self.path, name);
        self.path.push('=');
        escape(&mut self.path, value);
        self
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

/// The URL of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttUrl {
    /// Speak TLS.
    pub tls: bool,
    /// A name, or an IPv4 address.
    pub host: String,
    /// 1883 or 8883 where not given.
    pub port: u16,
}

impl MqttUrl {
    /// Reads `mqtt://HOST[:PORT]` and `mqtts://…`; `tcp` and `ssl` are other names for the two.
    pub fn parse(text: &str) -> Option<Self> {
        let (tls, rest) = scheme(text, "mqtt", "mqtts").or_else(|| scheme(text, "tcp", "ssl"))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = host_and_port(authority, Some(if tls { 8883 } else { 1883 }))?;
        Some(Self { tls, host, port })
    }
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// What follows the scheme, and whether it is the secure one.
fn scheme<'a>(text: &'a str, plain: &str, secure: &str) -> Option<(bool, &'a str)> {
    let (scheme, rest) = text.trim().split_once("://")?;
    let tls = scheme.eq_ignore_ascii_case(secure);
    (tls || scheme.eq_ignore_ascii_case(plain)).then_some((tls, rest))
}

/// Host and port of `HOST:PORT`; `usual` where the port is not given.
pub(super) fn host_and_port(text: &str, usual: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
        None => (text, None),
    };
    let letter = |c: char| c.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&c);
    let plain = !host.is_empty() && host.len() <= 253 && host.chars().all(letter);
    plain.then_some((host.to_owned(), port.or(usual)?))
}

/// Per cent and two digits for all that may mean something in a query.
fn escape(to: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            to.push(byte.into());
        } else {
            write!(to, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
}
