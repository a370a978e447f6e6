//! `skerry doctor`: whether this board can do what the agent needs, and what a person types where it cannot.
//!
//! Each check is a function from a [`Board`] to a [`Verdict`], so that a test plants its fault in a folder and sees it
//! found. Checks read, connect and listen to answers; none changes anything, and none needs the agent. They run beside
//! each other, each with a deadline: one that hangs costs its own line.

mod agent;
mod board;
mod broker;
mod certificate;
mod kernel;
mod memory;
mod network;
mod services;
mod storage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task;
use tokio::time::timeout;

pub use self::board::Board;
pub use crate::space::Space;

/// What a check may take. A broker far away answers within it.
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
        services::CHECKS,
        broker::CHECKS,
        agent::CHECKS,
    ];
    all.into_iter().flatten().copied()
}

/// Looks at everything, at once; the findings come in the order of the checks.
pub async fn examine(board: &Arc<Board>) -> Vec<Finding> {
    let look = |check: Check| {
        let board = Arc::clone(board);
        (check, task::spawn_blocking(move || (check.look)(&board)))
    };
    let looking: Vec<_> = checks().map(look).collect();
    let mut findings = Vec::new();
    for (check, look) in looking {
        let verdict = match timeout(DEADLINE, look).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(panic)) => Verdict::warn(format!("the check broke: {panic}"), REPORT),
            Err(_) => Verdict::fail("no answer within 10 seconds", "look at the disk: dmesg"),
        };
        let Verdict { level, found, fix } = verdict;
        findings.push(Finding { check: check.name, topic: check.topic, level, found, fix });
    }
    findings
}

/// What a check that broke asks for.
const REPORT: &str = "report it with the output of: skerry doctor -o json";
