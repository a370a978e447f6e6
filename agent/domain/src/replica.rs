//! Replicas: what one is to be made of, and what was seen of it.

mod pull;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::document::Template;
use crate::model::{AppName, Digest, EnvironmentName, Moment, ReplicaName, RevisionName};
use crate::reason::Reason;

pub use self::pull::{PullProgress, PullStage, Pulls};
pub use crate::storage::{MountFlag, StorageOptions, StoragePlace, StorageSource};

/// A text that is never shown: its `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A registry's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// `host` or `host:port`.
    pub server: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// Ask for the images of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchOrder {
    /// For whom, for logs and progress.
    pub revision: RevisionName,
    /// Image references as the template gives them, without repetition.
    pub images: Vec<String>,
    /// Credentials that the app's configuration gives.
    pub logins: Vec<RegistryLogin>,
}

/// An image that is local, complete and unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference as the template gives it.
    pub reference: String,
    /// The name that containerd knows it by.
    pub name: String,
    /// The digest of its manifest, or of the index that holds it: what every replica of the revision runs.
    pub digest: Digest,
    /// Why the local copy was taken although a registry was to be asked; a warning of the status.
    pub warning: Option<Trouble>,
}

/// All that is needed to make one replica.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaOrder {
    /// Its name.
    pub replica: ReplicaName,
    /// Its revision.
    pub revision: RevisionName,
    /// Its app.
    pub app: AppName,
    /// Its environment.
    pub environment: EnvironmentName,
    /// What runs in it: `init_containers`, `containers`, `volumes`.
    pub template: Arc<Template>,
    /// The digest of the template in its canonical form; kept with the containers, so that they can be adopted.
    pub template_digest: Digest,
    /// The images, by the reference in the template.
    pub images: BTreeMap<String, ResolvedImage>,
    /// ACA's built-in variables, set before the container's own.
    pub variables: Vec<(String, String)>,
    /// The values that `secretRef` names.
    pub secrets: BTreeMap<String, Secret>,
    /// The storages that its volumes show, by the name in the template.
    pub storages: BTreeMap<String, StoragePlace>,
    /// Where it is on the network.
    pub place: Place,
    /// The search list for `/etc/resolv.conf`.
    pub dns_search: String,
    /// Which boot of the board this is, so that records of an earlier one are told apart.
    pub boot: String,
}

/// Where a replica is on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The environment's bridge.
    pub bridge: String,
    /// The environment's subnet.
    pub subnet: Ipv4Net,
    /// Bridge address: gateway, DNS server and ingress.
    pub gateway: Ipv4Addr,
    /// The replica's address.
    pub address: Ipv4Addr,
    /// The path of its network namespace.
    pub netns: std::path::PathBuf,
}

/// What was seen of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// A record without a process: none was made yet, or it is gone without a trace.
    Created,
    /// Its process is made and waits to be started: nothing of the image has run yet. It stands by.
    Armed,
    /// Its process runs.
    Running {
        /// When it was first seen running, or started by us.
        since: Moment,
    },
    /// Its process was started and is paused in the freezer: it makes no progress and answers nobody. It stands by.
    Frozen {
        /// When it was first seen frozen.
        since: Moment,
    },
    /// Its process ended. Started again once its back-off is over.
    Exited {
        /// Exit code; 128 + signal where a signal ended it.
        code: u32,
        /// The kernel killed it for memory.
        oom: bool,
        /// When it ended, or was first seen to have ended.
        at: Moment,
        /// The last line it wrote; empty where it wrote none.
        words: String,
    },
}

impl ContainerState {
    /// Its process waits to be started, or to go on.
    pub fn stands_by(&self) -> bool {
        matches!(self, Self::Armed | Self::Frozen { .. })
    }
}

/// What was seen of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedReplica {
    /// Its app.
    pub app: AppName,
    /// Its revision.
    pub revision: RevisionName,
    /// Its environment.
    pub environment: EnvironmentName,
    /// The boot that made it.
    pub boot: String,
    /// The digest of the template it was made of.
    pub template_digest: Digest,
    /// From SIGTERM to SIGKILL, where its template says: its revision may be gone before it is.
    pub grace: Option<Duration>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its containers, by name; init containers are not listed once they have succeeded and gone.
    pub containers: BTreeMap<String, ContainerState>,
}

/// What a command in a container came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// Its exit code; 128 + signal where a signal ended it.
    pub code: u32,
    /// What it wrote to either stream, up to a bound.
    pub output: String,
}

/// Characters of an app's own words that are shown.
const WORDS_MAX_CHARS: usize = 200;

/// The last line of `text` that says something, as much of it as a status can hold, without colours and the like.
pub fn last_words(text: &str) -> String {
    let lines = text.lines().rev().map(plain);
    lines.into_iter().find(|line| !line.is_empty()).unwrap_or_default()
}

fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line.trim().chars();
    while let Some(char) = rest.next() {
        match char {
            // `ESC [ 31 m`: all up to the letter belongs together.
            '\u{1b}' if rest.as_str().starts_with('[') => {
                let _ = rest.by_ref().skip(1).find(|end| ('@'..='~').contains(end));
            }
            '\t' => plain.push(' '),
            char if char.is_control() => (),
            char => plain.push(char),
        }
    }
    let plain = plain.trim();
    let cut: String = plain.chars().take(WORDS_MAX_CHARS).collect();
    if cut.len() < plain.len() { cut + "…" } else { cut }
}

/// A TCP port on which something in a replica listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// On the replica's loopback alone, where nobody outside of it can reach it.
    pub loopback: bool,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, loopback } = self;
        if *loopback { write!(f, "127.0.0.1:{port} only") } else { write!(f, "{port}") }
    }
}

/// What must be known of a board before a second copy of an app is started on it, or takes over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Bytes that new processes may take without pushing others out (`MemAvailable`).
    pub available: u64,
    /// Bytes of memory the board has.
    pub total: u64,
    /// What each of the replicas that were asked for really uses: memory less what the kernel can drop at once.
    pub working_sets: BTreeMap<ReplicaName, u64>,
    /// The first of them that keeps `/run/skerry/lock` in one of its containers.
    pub locked_by: Option<ReplicaName>,
    /// What the board's processors did so far.
    pub processors: ProcessorTime,
}

/// What the processors of a board did since it came up, all of them together, in whatever unit the kernel counts. Nothing
/// at all where it does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessorTime {
    /// The time in which they had work, but for what gives way to all other work.
    pub busy: u64,
    /// All of it.
    pub all: u64,
}

/// Why something could not be done, told apart by what follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// The reason for the status.
    pub reason: Reason,
    /// The details, for people.
    pub details: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_plain_and_short() {
        assert_eq!(last_words(""), "");
        assert_eq!(last_words(" \n\t\n"), "");
        assert_eq!(last_words("one\ntwo\r\n \n"), "two");
        assert_eq!(last_words("\u{1b}[1;31mpanic:\u{1b}[0m a\tb\u{7}\u{1b}[0m"), "panic: a b");
        let long = last_words(&"é".repeat(300));
        assert_eq!(long, "é".repeat(200) + "…");
        assert_eq!(last_words("\u{1b}["), "");
    }
}
