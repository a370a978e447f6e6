//! What is asked of an app and its revisions, told from the documents alone: the planner is measured by it, so it must not
//! be asked.

use crate::document::{RevisionsMode, UpdateStrategy};
use crate::state::{AppRecord, RevisionRecord, Standby};
use crate::status::Phase;

/// How many replicas a revision is asked to have, told from the documents and from what its rules came to: whether that
/// is right is looked at elsewhere.
pub(super) fn asked(record: &AppRecord, revision: &RevisionRecord) -> u32 {
    if record.removed || record.stopped || !revision.active {
        return 0;
    }
    let (least, _) = bounds(record, revision);
    record.scale.replicas.or(revision.scaled).unwrap_or(least.max(1))
}

/// The least and the most replicas that rules may ask for.
pub(super) fn bounds(record: &AppRecord, revision: &RevisionRecord) -> (u32, u32) {
    let scale = &revision.template.scale;
    let most = record.scale.max_replicas.unwrap_or(scale.max_replicas).max(1);
    (record.scale.min_replicas.unwrap_or(scale.min_replicas).min(most), most)
}

/// Its newest template was tried and given up.
pub(super) fn was_rolled_back(record: &AppRecord) -> bool {
    record.latest().is_some_and(|latest| latest.phase == Phase::RolledBack)
}

pub(super) fn is_single(record: &AppRecord) -> bool {
    let document = record.document();
    document.is_some_and(|document| {
        document.configuration.active_revisions_mode == RevisionsMode::Single
    })
}

/// Another one is to take over from it.
pub(super) fn is_followed(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let mut newer = record.revisions.iter().rev().take_while(|one| one.name != revision.name);
    is_single(record) && newer.any(|one| one.active)
}

/// The one before it has to go first: the document wants it so, or a device does.
pub(super) fn is_recreated(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let document = record.document_of(revision);
    let devices = &revision.template.extras.devices;
    let shared = record.revisions.iter().any(|other| {
        let theirs = &other.template.extras.devices;
        other.active
            && other.name != revision.name
            && theirs.iter().any(|one| devices.iter().any(|own| own.host_path == one.host_path))
    });
    shared || document.is_some_and(|one| one.skerry.update_strategy == UpdateStrategy::Recreate)
}

/// It gave its replica up for a newer one that is on trial.
pub(super) fn gave_up(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let mut newer = record.revisions.iter().rev().take_while(|one| one.name != revision.name);
    let alone = newer
        .any(|one| one.active && one.phase == Phase::Probation && one.standby == Standby::GivenUp);
    alone && is_single(record) && revision.phase == Phase::Committed
}

/// How many replicas a revision must keep while others are on their way.
pub(super) fn kept(record: &AppRecord, revision: &RevisionRecord) -> u32 {
    let asked = asked(record, revision);
    if !is_single(record) || revision.phase != Phase::Committed {
        return asked;
    }
    let newer = record.revisions.iter().rev().take_while(|one| one.name != revision.name);
    let least = newer.filter(|one| one.active).map(|one| match one.phase {
        Phase::Starting | Phase::Probation if is_recreated(record, one) => 0,
        Phase::Probation => u32::from(one.standby == Standby::Kept),
        Phase::Fetching
        | Phase::Staged
        | Phase::Starting
        | Phase::Committed
        | Phase::RolledBack => asked,
    });
    least.min().unwrap_or(asked).min(asked)
}
