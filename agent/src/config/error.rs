//! Why there is no configuration.

use std::io;
use std::path::{Path, PathBuf};

use crate::report::Hint;

/// Why there is no [`Config`](super::Config).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or a value has the wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key that does not exist.
    #[error("{}:{line}: unknown key {key:?}", path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The key.
        key: String,
        /// The nearest that exists.
        nearest: Option<String>,
    },
    /// The id cannot be part of a topic and a host name.
    #[error("device.id {0:?} is not a host name label of 1 to 64 characters")]
    DeviceId(String),
    /// Not a URL of a broker.
    #[error("mqtt.url {0:?} is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")]
    MqttUrl(String),
    /// One without the other.
    #[error("mqtt.cert and mqtt.key belong together, and only one is given")]
    HalfClientCertificate,
    /// No `/24` fits.
    #[error("network.pool {0} has no room for a /24")]
    SmallPool(ipnet::Ipv4Net),
    /// None would fetch nothing, and many would only slow each other.
    #[error("images.max_concurrent_layers {0} is not between 1 and 16")]
    ConcurrentLayers(usize),
    /// Room-making would never begin, or never end.
    #[error(
        "images.gc_high_percent {high} and images.gc_low_percent {low} are not from 1 to 99 with the low one below the high one"
    )]
    CollectPercents {
        /// Where it begins.
        high: u8,
        /// Where it ends.
        low: u8,
    },
    /// It would fit nothing, or other images than it seems to.
    #[error(
        "images.trust {0:?} is neither \"*\" nor a registry with a path, such as \"registry.example/team\""
    )]
    TrustPrefix(String),
    /// It says neither, or both.
    #[error("images.trust {0:?} needs either keys or unsigned = true")]
    TrustKeys(String),
    /// It would depend on where the agent is started.
    #[error("{} is not an absolute path", .0.display())]
    RelativePath(PathBuf),
}

impl ConfigError {
    /// Tells an unknown key from other errors of the parser.
    pub(super) fn parse(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
        let message = error.message();
        let mut quoted = message.split('`').skip(1).step_by(2);
        let path = path.to_owned();
        match (message.starts_with("unknown field"), quoted.next()) {
            (true, Some(key)) => {
                let nearest = quoted
                    .map(|known| (strsim::damerau_levenshtein(key, known), known))
                    .min()
                    .map(|(_, known)| known.to_owned());
                Self::UnknownKey { path, line, key: key.to_owned(), nearest }
            }
            (true, None) | (false, _) => Self::Parse { path, line, message: message.to_owned() },
        }
    }
}

impl Hint for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => {
                Some("check the path that --config names, and its rights".to_owned())
            }
            Self::Parse { .. } => None,
            Self::UnknownKey { nearest, .. } => {
                nearest.as_ref().map(|known| format!("did you mean {known:?}?"))
            }
            Self::DeviceId(_) => Some("use a-z, 0-9 and dashes".to_owned()),
            Self::MqttUrl(_) => Some("write mqtts://broker.example:8883".to_owned()),
            Self::HalfClientCertificate => Some("give both, or neither".to_owned()),
            Self::SmallPool(_) => Some("use a /16 such as 10.213.0.0/16".to_owned()),
            Self::RelativePath(_) => Some("write it from / on".to_owned()),
            Self::CollectPercents { .. } => Some("the defaults are 85 and 75".to_owned()),
            Self::ConcurrentLayers(_) => Some("the default is 2".to_owned()),
            Self::TrustPrefix(_) | Self::TrustKeys(_) => {
                Some("docs/guide/images.md shows how entries of [images.trust] look".to_owned())
            }
        }
    }
}
