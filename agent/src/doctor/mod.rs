//! `skerry doctor`: whether this board can do what the agent needs, and what a person types where it cannot.
//!
//! Each check is a function from a [`Board`] to a [`Verdict`], so that a test plants its fault in a folder and sees it
//! found. Checks read, connect and listen to answers; none changes anything, and none needs the agent. They run beside
//! each other, with one deadline for all: one that hangs costs its own line.

mod agent;
mod asked;
mod board;
mod broker;
mod bundle;
mod certificate;
mod kernel;
mod login;
mod memory;
mod network;
mod options;
mod services;
mod storage;
#[cfg(test)]
mod tests;
mod time;
mod upstream;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task;
use tokio::time::{Instant, timeout_at};

pub use self::asked::{Asked, Nft, Silence};
pub use self::board::Board;
pub use self::bundle::{Bundle, Piece, pack};
pub use self::time::Timekeepers;
pub use crate::space::Space;

/// What all checks together may take. A broker far away answers within it.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Topic {
    /// The kernel and the machine.
    Kernel,
    /// Cgroups and memory.
    Memory,
    /// Disks and what is kept on them.
    Storage,
    /// Addresses, names, ports.
    Network,
    /// The container runtime.
    Containerd,
    /// The broker, and the way to it.
    ControlPlane,
    /// The agent itself, and the clock it goes by.
    Agent,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::Memory => "memory",
            Self::Storage => "storage",
            Self::Network => "network",
            Self::Containerd => "containerd",
            Self::ControlPlane => "control plane",
            Self::Agent => "agent",
        })
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Apps run, and something is missing or will go wrong.
    Warn,
    /// Something that documents ask for cannot work.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// What a check says of a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    level: Level,
    found: String,
    fix: String,
}

impl Verdict {
    fn ok(found: impl Into<String>) -> Self {
        Self { level: Level::Ok, found: found.into(), fix: String::new() }
    }

    fn warn(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warn, found: found.into(), fix: fix.into() }
    }

    fn fail(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Fail, found: found.into(), fix: fix.into() }
    }
}

/// One thing that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    name: &'static str,
    topic: Topic,
    look: fn(&Board) -> Verdict,
}

impl Check {
    const fn new(name: &'static str, topic: Topic, look: fn(&Board) -> Verdict) -> Self {
        Self { name, topic, look }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        self.name
    }
}

/// What a check found. Every field is always there, so that programs need not ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name, which stays as it is.
    pub check: &'static str,
    /// What it is about.
    pub topic: Topic,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub found: String,
    /// What a person types or changes; empty where all is well.
    pub fix: String,
}

/// Every check there is, by topic.
pub fn checks() -> impl Iterator<Item = Check> {
    let all = [
        kernel::CHECKS,
        memory::CHECKS,
        storage::CHECKS,
        network::CHECKS,
        upstream::CHECKS,
        services::CHECKS,
        broker::CHECKS,
        login::CHECKS,
        agent::CHECKS,
        time::CHECKS,
    ];
    all.into_iter().flatten().copied()
}

/// A file that cannot be read: by you, or by anybody.
fn unread(path: &str, error: &io::Error, fix: impl Into<String>) -> Verdict {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Verdict::warn(format!("{path} is not for you"), "run it as root");
    }
    Verdict::fail(format!("{path} cannot be read: {error}"), fix)
}

/// Makes all these checks at once; the findings come in their order.
pub async fn examine(board: &Arc<Board>, checks: Vec<Check>) -> Vec<Finding> {
    within(board, checks, DEADLINE).await
}

async fn within(board: &Arc<Board>, checks: Vec<Check>, patience: Duration) -> Vec<Finding> {
    let deadline = Instant::now() + patience;
    let look = |check: Check| {
        let board = Arc::clone(board);
        (check, task::spawn_blocking(move || (check.look)(&board)))
    };
    let looking: Vec<_> = checks.into_iter().map(look).collect();
    let mut findings = Vec::new();
    for (check, look) in looking {
        let verdict = match timeout_at(deadline, look).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(panic)) => Verdict::warn(format!("the check broke: {panic}"), REPORT),
            Err(_) => Verdict::fail(
                format!("no answer within {} seconds", patience.as_secs()),
                what_hangs(check),
            ),
        };
        let Verdict { level, found, fix } = verdict;
        findings.push(Finding { check: check.name, topic: check.topic, level, found, fix });
    }
    findings
}

/// What a check that broke asks for.
const REPORT: &str = "report it with the output of: skerry doctor -o json";

/// Where to look when a check gives no answer: at what it asks.
fn what_hangs(check: Check) -> &'static str {
    match check.topic {
        Topic::Kernel | Topic::Memory => "see what the kernel waits for: dmesg | tail",
        Topic::Storage => {
            "see which disk or mount does not answer: dmesg | tail, and cat /proc/mounts"
        }
        Topic::Network => {
            "see which name server is silent: cat /etc/resolv.conf, and getent hosts example.org"
        }
        Topic::Containerd => "systemctl restart containerd; apps go on meanwhile",
        Topic::ControlPlane => {
            "see whether the broker's name is found and its files are plain files: getent hosts HOST, and ls -l /etc/skerry"
        }
        Topic::Agent => "systemctl restart skerry; apps go on meanwhile",
    }
}
