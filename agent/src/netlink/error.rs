//! How the network fails, and the reason that a status gives for it.

use std::io;

use domain::reason::Reason;
use domain::replica::Trouble;
use ipnet::Ipv4Net;

use crate::network::NetworkError;
use crate::report::Chain;

/// One operation that failed, and on what.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetlinkError {
    #[error("an interface {0} is there that Skerry did not make")]
    NameTaken(String),
    #[error("there is no bridge {0}")]
    NoBridge(String),
    #[error("all of {0} overlaps networks that the board is in")]
    PoolInUse(Ipv4Net),
    #[error("cannot {action}")]
    System {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error("the program nft is not installed; install the package nftables")]
    NoNft,
    #[error("nft refused: {0}")]
    Nft(String),
    #[error("the network's work did not end within {0} s")]
    Late(u64),
}

impl NetlinkError {
    /// What could not be done, for a failure of the system.
    pub(super) fn doing<E: Into<Cause>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        |cause| Self::System { action, source: cause.into().0 }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NameTaken(_) => Reason::BridgeNameTaken,
            Self::PoolInUse(_) => Reason::AddressPoolInUse,
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Reason::NotRoot
            }
            Self::System { .. }
            | Self::NoBridge(_)
            | Self::NoNft
            | Self::Nft(_)
            | Self::Late(_) => Reason::NetworkFailed,
        }
    }

    /// For the status.
    pub(super) fn trouble(&self) -> Trouble {
        Trouble { reason: self.reason(), details: Chain(self).to_string() }
    }
}

impl From<NetlinkError> for NetworkError {
    fn from(error: NetlinkError) -> Self {
        Self(error.trouble())
    }
}

/// Errors of the kernel, however they come.
#[derive(Debug)]
pub(super) struct Cause(io::Error);

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<nix::errno::Errno> for Cause {
    fn from(error: nix::errno::Errno) -> Self {
        Self(error.into())
    }
}

impl From<rtnetlink::Error> for Cause {
    fn from(error: rtnetlink::Error) -> Self {
        if let rtnetlink::Error::NetlinkError(answer) = &error {
            return Self(answer.to_io());
        }
        Self(io::Error::other(error.to_string()))
    }
}
