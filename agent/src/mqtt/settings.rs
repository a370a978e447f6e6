//! What the connection is made with: the configuration, checked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;

/// The client library takes no shorter keep-alive.
const SHORTEST_KEEP_ALIVE: u16 = 5;

/// What the connection is made with.
#[derive(Debug, Clone)]
pub struct MqttSettings {
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
    /// `{topic_prefix}/{device}`.
    pub root: String,
    /// The device id, which is the client id too.
    pub device: String,
    /// Free words about the board.
    pub tags: BTreeMap<String, String>,
    /// The keep-alive.
    pub keep_alive: Duration,
    /// For the status.
    pub agent_version: String,
    /// For the status.
    pub architecture: String,
    /// For the status.
    pub boot_id: String,
    /// For the status: what values of secrets may be sealed with.
    pub public_key: String,
    /// What becomes of a session that the broker still has.
    pub session: Session,
}

/// What becomes of a session that the broker still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// It is taken up.
    Resumed,
    /// It is discarded, once: the store was rebuilt, and what was acknowledged may be lost.
    Fresh,
}

/// The settings do not name a broker, or topics, that could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// Not a URL of a broker.
    #[error("mqtt.url {0:?} is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")]
    Url(String),
    /// It cannot stand in a topic.
    #[error("mqtt.topic_prefix {0:?} is empty or contains one of + # and NUL")]
    Prefix(String),
}

impl MqttSettings {
    /// The settings that `config` asks for; `None` where it names no broker.
    pub fn new(
        config: &Config,
        agent_version: &str,
        boot_id: &str,
        public_key: &str,
        session: Session,
    ) -> Result<Option<Self>, InvalidSettings> {
        let mqtt = &config.mqtt;
        if mqtt.url.is_empty() {
            return Ok(None);
        }
        let broker = Broker::parse(&mqtt.url).ok_or(InvalidSettings::Url(mqtt.url.clone()))?;
        let prefix = mqtt.topic_prefix.trim_end_matches('/');
        if prefix.is_empty() || prefix.contains(['+', '#', '\0']) {
            return Err(InvalidSettings::Prefix(mqtt.topic_prefix.clone()));
        }
        let file = |path: &String| (!path.is_empty()).then(|| PathBuf::from(path));
        Ok(Some(Self {
            broker,
            ca: file(&mqtt.ca),
            identity: file(&mqtt.cert).zip(file(&mqtt.key)),
            username: mqtt.username.clone(),
            password_file: file(&mqtt.password_file),
            root: format!("{prefix}/{}", config.device.id),
            device: config.device.id.clone(),
            tags: config.device.tags.clone(),
            keep_alive: Duration::from_secs(
                mqtt.keep_alive_seconds.max(SHORTEST_KEEP_ALIVE).into(),
            ),
            agent_version: agent_version.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            boot_id: boot_id.to_owned(),
            public_key: public_key.to_owned(),
            session,
        }))
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
    fn parse(url: &str) -> Option<Self> {
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
    pub(super) fn is_exposed(&self) -> bool {
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

    #[test]
    fn a_prefix_with_a_wildcard_is_refused_and_no_url_is_no_control_plane() {
        let mut config = Config::default();
        assert!(
            MqttSettings::new(&config, "1", "boot", "key", Session::Resumed).unwrap().is_none()
        );
        config.mqtt.url = "mqtt://broker".to_owned();
        config.mqtt.topic_prefix = "a/+".to_owned();
        let refused = MqttSettings::new(&config, "1", "boot", "key", Session::Resumed).unwrap_err();
        assert_eq!(refused, InvalidSettings::Prefix("a/+".to_owned()));
    }
}
