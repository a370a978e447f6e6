//! What is reported: the state of each app, in ACA's words.

use std::net::Ipv4Addr;

use crate::document::Finding;
use crate::model::{AppName, Digest, EnvironmentName, ReplicaName, RevisionName, WallTime};
use crate::reason::Reason;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_meta])* #[doc = concat!("`", $word, "`")] $variant,)* }
        impl $name {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word that stands in a status.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// An app's `runningStatus`.
    RunningStatus { Progressing = "Progressing", Running = "Running", Stopped = "Stopped", Suspended = "Suspended", Ready = "Ready", }
}
words! {
    /// A revision's `provisioningState`.
    ProvisioningState { Provisioning = "Provisioning", Provisioned = "Provisioned", Failed = "Failed", Deprovisioning = "Deprovisioning", Deprovisioned = "Deprovisioned", }
}
words! {
    /// A revision's `runningState`.
    RunningState {
        Running = "Running", RunningAtMaxScale = "RunningAtMaxScale", Processing = "Processing", Activating = "Activating",
        ActivationFailed = "ActivationFailed", ScaledToZero = "ScaledToZero", Degraded = "Degraded", Failed = "Failed",
        Stopped = "Stopped", Deprovisioning = "Deprovisioning", Unknown = "Unknown",
    }
}
words! {
    /// A revision's `healthState`.
    HealthState { Healthy = "Healthy", Unhealthy = "Unhealthy", None = "None", }
}
words! {
    /// A replica's `runningState`.
    ReplicaRunningState { Running = "Running", NotRunning = "NotRunning", Unknown = "Unknown", }
}
words! {
    /// How far a revision has come.
    Phase {
        /// Its images are being made local.
        Fetching = "Fetching",
        /// Its images are local and unpacked; its replicas may start.
        Staged = "Staged",
        /// Its replicas start beside those of the revision that serves.
        Starting = "Starting",
        /// It has the traffic, on trial.
        Probation = "Probation",
        /// It has the traffic for good.
        Committed = "Committed",
        /// It failed; its template is refused until forced.
        RolledBack = "RolledBack",
    }
}
words! {
    /// Who set an app.
    Source { Mqtt = "mqtt", File = "file", Local = "local", }
}

/// The state of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppStatus {
    /// The name it was sent under.
    pub app: String,
    /// Its `skerry.generation`; 0 if never given.
    pub generation: u64,
    /// The digest of the document in force.
    pub digest: Option<Digest>,
    /// Who set it.
    pub source: Source,
    /// ACA's state of the app.
    pub running_status: RunningStatus,
    /// `<app>.<suffix>`; empty without ingress.
    pub fqdn: String,
    /// The name held on the LAN, `.local` included; empty if none.
    pub lan_name: String,
    /// The TCP port that is its own; 0 for HTTP.
    pub exposed_port: u16,
    /// The newest revision.
    pub latest_revision: Option<RevisionName>,
    /// The newest revision that was ready.
    pub latest_ready_revision: Option<RevisionName>,
    /// Newest first.
    pub revisions: Vec<RevisionStatus>,
    /// What was found in the document in force and is not acted on.
    pub warnings: Vec<Finding>,
    /// Why the latest document was refused, or why the app is not as asked for.
    pub error: Option<Finding>,
    /// A scale target that is in force, for people: `replicas=2`; empty if none.
    pub scale_target: String,
    /// When it last changed.
    pub updated: WallTime,
}

/// The state of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionStatus {
    /// Its name.
    pub name: RevisionName,
    /// How far it has come.
    pub phase: Phase,
    /// It may have replicas.
    pub active: bool,
    /// Its share of the traffic, per cent.
    pub traffic_weight: u32,
    /// Labels that name it.
    pub labels: Vec<String>,
    /// Replicas there are.
    pub replicas: u32,
    /// Those of them that are ready.
    pub ready_replicas: u32,
    /// As many as it is scaled to.
    pub wanted_replicas: u32,
    /// The scale rule that asks for more than the least; empty if none.
    pub scaled_by: String,
    /// How far from serving what stands by for it is: `prepared`, `created`, `frozen`; empty if nothing does.
    pub standby: &'static str,
    /// What that holds of the board's memory, in bytes; 0 if nothing, or nobody has looked yet.
    pub standby_memory_bytes: u64,
    /// ACA's state.
    pub provisioning_state: ProvisioningState,
    /// ACA's state.
    pub running_state: RunningState,
    /// ACA's state.
    pub health_state: HealthState,
    /// Why it is not as asked for.
    pub reason: Option<Reason>,
    /// The details, for people.
    pub details: String,
    /// The first container's image with the digest it was resolved to.
    pub image: String,
    /// Newest first.
    pub replica_list: Vec<ReplicaStatus>,
}

/// The state of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its name.
    pub name: ReplicaName,
    /// ACA's state.
    pub running_state: ReplicaRunningState,
    /// It gets traffic.
    pub ready: bool,
    /// Where it is.
    pub address: Option<Ipv4Addr>,
    /// How often its containers were started again.
    pub restart_count: u32,
    /// Why it is not running or not ready.
    pub reason: Option<Reason>,
    /// The details, for people.
    pub details: String,
}

/// The state of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// The name it was sent under.
    pub job: String,
    /// Its `skerry.generation`; 0 if never given.
    pub generation: u64,
    /// The digest of the document in force.
    pub digest: Option<Digest>,
    /// Who set it.
    pub source: Source,
    /// What was found in the document in force and is not acted on.
    pub warnings: Vec<Finding>,
    /// Why it does not run.
    pub error: Option<Finding>,
    /// When it last changed.
    pub updated: WallTime,
}

/// The state of one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentStatus {
    /// The name it was sent under.
    pub environment: String,
    /// Its `skerry.generation`; 0 if never given.
    pub generation: u64,
    /// The digest of the document in force.
    pub digest: Option<Digest>,
    /// Who set it; none where it has apps and no document.
    pub source: Option<Source>,
    /// Its storages, in the order of the document.
    pub storages: Vec<StorageStatus>,
    /// Apps in it.
    pub apps: u32,
    /// What was found in the document in force and is not acted on.
    pub warnings: Vec<Finding>,
    /// Why the latest document was refused.
    pub error: Option<Finding>,
    /// When it last changed.
    pub updated: WallTime,
}

/// The state of one storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageStatus {
    /// Its name.
    pub name: String,
    /// Why no replica gets it.
    pub reason: Option<Reason>,
    /// The details, for people: what is wrong, else where it is.
    pub details: String,
}

/// Every app, job and environment by the name it was sent under.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statuses {
    /// The apps; also those whose first document was refused.
    pub apps: std::collections::BTreeMap<String, AppStatus>,
    /// The jobs.
    pub jobs: std::collections::BTreeMap<String, JobStatus>,
    /// The environments, those too that have apps and no document.
    pub environments: std::collections::BTreeMap<String, EnvironmentStatus>,
    /// Environments whose document was taken back.
    pub removed_environments: std::collections::BTreeSet<EnvironmentName>,
    /// Apps and jobs that were removed: their last status is published once more, then the topic is cleared.
    pub removed: std::collections::BTreeSet<AppName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs match on these words: they are those of ACA's live API, which knows more than its schema.
    #[test]
    fn states_have_the_words_of_the_live_api() {
        fn words<T: Copy>(all: &[T], word: impl Fn(T) -> &'static str) -> String {
            all.iter().map(|state| word(*state)).collect::<Vec<_>>().join(" ")
        }
        let app = words(RunningStatus::ALL, RunningStatus::word);
        assert_eq!(app, "Progressing Running Stopped Suspended Ready");
        let provisioning = words(ProvisioningState::ALL, ProvisioningState::word);
        assert_eq!(provisioning, "Provisioning Provisioned Failed Deprovisioning Deprovisioned");
        assert_eq!(
            words(RunningState::ALL, RunningState::word),
            "Running RunningAtMaxScale Processing Activating ActivationFailed ScaledToZero Degraded \
             Failed Stopped Deprovisioning Unknown"
        );
        assert_eq!(words(HealthState::ALL, HealthState::word), "Healthy Unhealthy None");
        let replica = words(ReplicaRunningState::ALL, ReplicaRunningState::word);
        assert_eq!(replica, "Running NotRunning Unknown");
        let phase = words(Phase::ALL, Phase::word);
        assert_eq!(phase, "Fetching Staged Starting Probation Committed RolledBack");
        assert_eq!(words(Source::ALL, Source::word), "mqtt file local");
    }
}
