//! Scaling: how many replicas a revision shall have, out of its rules, what was sampled for them, and the time.
//!
//! ```text
//!   ingress ──▶ Demand ───┐
//!   samplers ─▶ Readings ─┼─▶ scaler ─▶ how many replicas
//!   state ────▶ rules ────┘      │
//!                 └──▶ SamplePlan, what the samplers ask
//! ```
//!
//! ACA's semantics (features 7): requests are counted over windows of 15 s, other rules are polled, the most demanding
//! rule wins, steps up are bounded, steps down and the way to zero take their time.

mod exposition;
mod fit;
mod location;
mod rules;
mod scaler;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{AppName, EnvironmentName, ReplicaName, RevisionName};
use crate::replica::Trouble;

pub use self::exposition::{answer, sum};
pub use self::fit::{Claim, Lack, Processors, Room, Share, is_more, one_more, share};
pub use self::location::Location;
pub use self::rules::{
    Asks, Cron, Crons, Sight, asks, crons, has_source, is_known, needs_a_replica, zones,
};
pub use self::scaler::{Decision, Metric, STABILISATION, Scaler, Terms};
pub use self::source::{
    ApiKey, Credentials, ExternalScaler, HttpUrl, KeyPlace, MetricsApi, MqttMode, MqttSource,
    MqttUrl, Pages, Polled, Prometheus, Push, Unreadable, read,
};

/// Requests are counted in windows of this length (features 7).
pub const WINDOW: Duration = Duration::from_secs(15);

/// What the ingress saw of the requests for each revision. One that nobody asks for is not listed.
pub type Demand = BTreeMap<RevisionName, Asked>;

/// The requests for one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Begun in the last whole window.
    pub begun: u64,
    /// Open at its replicas when that window ended, web sockets among them.
    pub open: u64,
    /// Waiting for a replica now.
    pub waiting: u64,
}

/// What is to be sampled, by revision and rule.
pub type SamplePlan = BTreeMap<SampleKey, Sample>;

/// What came of it. A rule that has not been sampled yet is not listed.
pub type Readings = BTreeMap<SampleKey, Reading>;

/// A rule of a revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampleKey {
    /// The revision.
    pub revision: RevisionName,
    /// The rule's name, unique in its template.
    pub rule: String,
}

/// One thing to be sampled again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// For which app.
    pub app: AppName,
    /// From whose network it is asked, under that network's rules.
    pub environment: EnvironmentName,
    /// Between two samples.
    pub every: Duration,
    /// What.
    pub source: Source,
    /// What each replica is to have of it; more than 0. A scaler of somebody else's brings its own.
    pub target: f64,
    /// At most this is nothing to wake for. A scaler of somebody else's says itself what is.
    pub activation: f64,
}

/// Where a number comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// What these replicas use, in per cent of their limits, added up.
    Usage(Resource, Vec<ReplicaName>),
    /// Messages of a broker.
    Mqtt(MqttSource),
    /// A number in a JSON document.
    MetricsApi(MetricsApi),
    /// A metric, from a page of its own or from a Prometheus server.
    Prometheus(Prometheus),
    /// A program that speaks KEDA's protocol for external scalers.
    External(ExternalScaler),
}

/// What a replica uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Processor time since the sample before.
    Cpu,
    /// Memory less what the kernel can drop at once.
    Memory,
}

/// What one sample came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// A number, of which each replica is to have `target`. Above `activation` it wakes an app that is at zero.
    Value {
        /// The number.
        value: f64,
        /// For each replica; more than 0.
        target: f64,
        /// At most this is nothing to wake for.
        activation: f64,
    },
    /// It could not be sampled: the number of replicas stays as it is.
    Failed(Trouble),
}
