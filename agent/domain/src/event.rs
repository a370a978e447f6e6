//! Events: what happened on the device, numbered, kept until the control plane has them.

use crate::model::{AppName, ReplicaName, RevisionName, WallTime};
use crate::reason::Reason;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Rises by one with each event of this device.
    pub id: u64,
    /// When, by the board's wall clock.
    pub time: WallTime,
    /// Whose it is, if an app's.
    pub app: Option<AppName>,
    /// The revision, if it concerns one.
    pub revision: Option<RevisionName>,
    /// The replica, if it concerns one.
    pub replica: Option<ReplicaName>,
    /// What happened.
    pub reason: Reason,
    /// The details, for people.
    pub message: String,
}
