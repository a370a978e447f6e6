//! Why the agent cannot run.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::api::SocketError;
use crate::config::ConfigError;
use crate::keys::KeyError;
use crate::mqtt::InvalidSettings;
use crate::report::Hint;
use crate::runtime::RuntimeError;
use crate::store::StoreError;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error("the configuration is wrong")]
    Config(#[source] ConfigError),
    #[error("the configuration is wrong")]
    Broker(#[source] InvalidSettings),
    #[error("the agent does not run as root")]
    NotRoot,
    #[error("cannot use {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another agent holds {}", .0.display())]
    SecondAgent(PathBuf),
    #[error("the device's keys cannot be had")]
    Keys(#[source] KeyError),
    #[error("the state store cannot be opened")]
    Store(#[source] StoreError),
    #[error("the state store cannot be opened: it is damaged beyond telling")]
    StorePanicked,
    #[error("the socket of the local API cannot be had")]
    Socket(#[source] SocketError),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot find the agent's own binary")]
    OwnBinary(#[source] io::Error),
    #[error("containers cannot be stopped")]
    Drain(#[source] RuntimeError),
    #[error("{0} replicas could not be stopped")]
    DrainLeft(usize),
    #[error("a part of the agent ended by itself")]
    TaskEnded,
}

impl From<ConfigError> for AgentError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<InvalidSettings> for AgentError {
    fn from(error: InvalidSettings) -> Self {
        Self::Broker(error)
    }
}

impl From<KeyError> for AgentError {
    fn from(error: KeyError) -> Self {
        Self::Keys(error)
    }
}

impl From<StoreError> for AgentError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SocketError> for AgentError {
    fn from(error: SocketError) -> Self {
        Self::Socket(error)
    }
}

impl AgentError {
    /// 78 where only a person can mend it (`EX_CONFIG`: the unit does not try again), 77 for lack of rights, else 1.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Broker(_) | Self::Keys(KeyError::NoKey(_)) => {
                ExitCode::from(78)
            }
            Self::NotRoot => ExitCode::from(77),
            Self::Folder { .. }
            | Self::SecondAgent(_)
            | Self::Keys(_)
            | Self::Store(_)
            | Self::StorePanicked
            | Self::Socket(_)
            | Self::Runtime(_)
            | Self::OwnBinary(_)
            | Self::Drain(_)
            | Self::DrainLeft(_)
            | Self::TaskEnded => ExitCode::FAILURE,
        }
    }
}

impl Hint for AgentError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Socket(error) => error.hint(),
            Self::NotRoot => Some("start it with systemctl start skerry, or with sudo".to_owned()),
            Self::SecondAgent(_) => Some("stop it first: systemctl stop skerry".to_owned()),
            Self::Keys(KeyError::NoKey(_)) => {
                Some("make one: head -c 32 /dev/urandom, given as a credential".to_owned())
            }
            Self::Folder { .. } | Self::Keys(_) | Self::Store(_) => {
                Some("check the rights and the free space of that disk".to_owned())
            }
            Self::Drain(_) => Some("is containerd running? systemctl status containerd".to_owned()),
            Self::DrainLeft(_) => Some("run it again; the journal names them".to_owned()),
            Self::Broker(_)
            | Self::StorePanicked
            | Self::Runtime(_)
            | Self::OwnBinary(_)
            | Self::TaskEnded => None,
        }
    }
}
