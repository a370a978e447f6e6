//! Probes: what is asked of a replica, how often, and what follows from the answers.

mod checkup;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

pub use self::checkup::Checkup;
use crate::model::ReplicaName;

/// All replicas that are to be probed.
pub type ProbePlan = BTreeMap<ReplicaName, ProbeTarget>;

/// One replica's probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Where it is.
    pub address: Ipv4Addr,
    /// Its probes.
    pub probes: Vec<Probe>,
    /// Rises with every (re)start of one of its containers: what was learned before does not count.
    pub epoch: u64,
    /// It was adopted from an earlier run of the agent: it counts as started and ready until a probe says otherwise.
    pub adopted: bool,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The container whose health it tells.
    pub container: String,
    /// What its answer decides.
    pub kind: ProbeKind,
    /// What is asked.
    pub ask: Ask,
    /// Wait after the container's start.
    pub initial_delay: Duration,
    /// Between two tries.
    pub period: Duration,
    /// After this long without an answer a try has failed.
    pub timeout: Duration,
    /// Successes in a row that make it good.
    pub success_threshold: u32,
    /// Failures in a row that make it bad.
    pub failure_threshold: u32,
    /// From SIGTERM to SIGKILL where its failure has the container started again; the template's if it gives none.
    pub grace: Option<Duration>,
    /// One of Skerry's defaults, tried at once and in quick steps (5 ms doubling to the period) until it first succeeds.
    pub eager: bool,
}

/// What a probe's answer decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// The others wait for it.
    Startup,
    /// Whether the replica gets traffic.
    Readiness,
    /// Whether the container is started again.
    Liveness,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A TCP connection opens.
    Tcp {
        /// In place of the replica's address: asked from within the replica's network, under its rules.
        host: Option<String>,
        /// To which port.
        port: u16,
    },
    /// `GET` answers with 200 to 399.
    Http {
        /// In place of the replica's address: asked from within the replica's network, under its rules.
        host: Option<String>,
        /// On which port.
        port: u16,
        /// Path and query.
        path: String,
        /// Over TLS; the certificate is not checked (as the kubelet does it).
        https: bool,
        /// Extra headers.
        headers: Vec<(String, String)>,
    },
    /// A command in the container ends with 0.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

impl Ask {
    /// The port of the replica itself that is asked, if that is what is asked.
    fn own_port(&self) -> Option<u16> {
        match self {
            Self::Tcp { host: None, port } | Self::Http { host: None, port, .. } => Some(*port),
            Self::Tcp { host: Some(_), .. }
            | Self::Http { host: Some(_), .. }
            | Self::Exec { .. } => None,
        }
    }
}

/// What a try got, when it got an answer at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What was wanted.
    Good,
    /// Something else, or nothing in time.
    Bad {
        /// What, for people: `status 503`.
        got: String,
        /// The connection was refused: nothing listens there.
        refused: bool,
    },
    /// The question could not be put, through no fault of the app: it is put again later, and counts for nothing.
    Unasked,
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// Which probe.
    pub kind: ProbeKind,
    /// Of which container.
    pub container: String,
    /// The probe and what it got, for people.
    pub text: String,
    /// The replica refused the connection: nothing listens on the port.
    pub refused: bool,
    /// The port of the replica that was asked; none for a command, and where the document names another host.
    pub port: Option<u16>,
}

/// What the probes say of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// The epoch of the target that this belongs to.
    pub epoch: u64,
    /// Every startup probe succeeded.
    pub started: bool,
    /// Every readiness probe is good.
    pub ready: bool,
    /// The latest failure.
    pub failure: Option<ProbeFailure>,
    /// Containers whose startup or liveness probe is bad: to be started again.
    pub unhealthy: Vec<String>,
    /// The grace that the bad probe of such a container gives, where it gives one.
    pub graces: BTreeMap<String, Duration>,
}

/// What the probes say of every replica.
pub type HealthReport = BTreeMap<ReplicaName, Health>;
