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
        /// To which port.
        port: u16,
    },
    /// `GET` answers with 200 to 399.
    Http {
        /// On which port.
        port: u16,
        /// Path and query.
        path: String,
        /// Over TLS; the certificate is not checked (as the kubelet does it).
        https: bool,
        /// Extra headers.
        headers: Vec<(String, String)>,
    },
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
    /// The latest failure: the probe and what it got.
    pub failure: Option<String>,
    /// Containers whose startup or liveness probe is bad: to be started again.
    pub unhealthy: Vec<String>,
}

/// What the probes say of every replica.
pub type HealthReport = BTreeMap<ReplicaName, Health>;
