//! What the connection is made with: the configuration, checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::broker::{Access, Broker};
use crate::config::Config;

/// The client library takes no shorter keep-alive.
const SHORTEST_KEEP_ALIVE: u16 = 5;

/// What the connection is made with.
#[derive(Debug, Clone)]
pub struct MqttSettings {
    /// The broker, and how the agent shows who it is.
    pub access: Access,
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
            access: Access {
                broker,
                ca: file(&mqtt.ca),
                identity: file(&mqtt.cert).zip(file(&mqtt.key)),
                username: mqtt.username.clone(),
                password_file: file(&mqtt.password_file),
            },
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

#[cfg(test)]
mod tests {
    use super::*;

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
