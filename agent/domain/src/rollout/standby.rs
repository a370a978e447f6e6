//! The stand-by: the replica that the fall-back keeps while a newer revision is on trial, and when it gives it up.
//!
//! ```text
//!   Probation, 1 stands by ──memory is low, the one on trial serves──▶ Probation, none stands by
//! ```
//!
//! There is no way back within one trial: a replica that came and went with the pressure would cause it. Whoever is on
//! trial alone and fails gives the traffic back all the same, and the fall-back starts then.

use crate::document::RevisionsMode;
use crate::plan::{Fleet, World};
use crate::state::{AppRecord, RevisionRecord, Standby};
use crate::status::Phase;

/// The most replicas that may stand by for a revision on trial.
pub(super) fn most(trial: &RevisionRecord) -> u32 {
    match trial.standby {
        Standby::Kept => 1,
        Standby::GivenUp => 0,
    }
}

/// Whether the one that stands by for a revision gives its replica up now: memory is low, and the one on trial serves.
pub(super) fn gives_up(
    record: &AppRecord,
    trial: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
) -> bool {
    // What cannot be seen may have ended.
    let serves = world.runtime.is_none() && 0 < fleet.ready(&trial.name);
    world.memory_low && serves && on_trial(record, trial) && stands_by(record, trial)
}

fn on_trial(record: &AppRecord, revision: &RevisionRecord) -> bool {
    revision.phase == Phase::Probation && record.mode() == RevisionsMode::Single
}

/// An older one that was committed has a replica to give.
fn stands_by(record: &AppRecord, trial: &RevisionRecord) -> bool {
    let mut older = record.revisions.iter().take_while(|one| one.name != trial.name);
    older.any(|one| one.active && one.phase == Phase::Committed && 0 < super::allowed(record, one))
}
