//! Which revisions stay: by the mode of the app, and how many of the inactive ones.

use super::Change;
use crate::document::RevisionsMode;
use crate::model::RevisionName;
use crate::plan::Fleet;
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

/// Inactive revisions that are kept where the document does not say (features 3: 100, the oldest go first).
const INACTIVE_KEPT: u32 = 100;

/// The label of the first revision in Labels mode, where nobody named one (features 9).
const FIRST_LABEL: &str = "label-1";

/// What goes, and what gets a label, now that no revision moves.
pub(super) fn surplus(record: &AppRecord, fleet: &Fleet<'_>) -> Vec<(RevisionName, Change)> {
    match record.mode() {
        RevisionsMode::Single => {
            let stay = alone(record, fleet);
            let active = record.revisions.iter().filter(|revision| revision.active);
            let goes = active.filter(|revision| !stay.contains(&Some(&revision.name)));
            goes.map(|revision| (revision.name.clone(), Change::Retire)).collect()
        }
        RevisionsMode::Multiple => Vec::new(),
        RevisionsMode::Labels => labelled(record),
    }
}

/// In Single mode there are the newest, the one on trial, the last one that was committed before it, and one that
/// serves in its place while it cannot.
fn alone<'a>(record: &'a AppRecord, fleet: &Fleet<'_>) -> [Option<&'a RevisionName>; 4] {
    let newest = |holds: &dyn Fn(&RevisionRecord) -> bool| {
        let mut all = record.revisions.iter().rev();
        all.find(|one| one.active && holds(one)).map(|one| &one.name)
    };
    let committed = |one: &RevisionRecord| one.phase == Phase::Committed;
    let latest = newest(&|_| true);
    let serves = newest(&|one| committed(one) && 0 < fleet.ready(&one.name));
    let committed = newest(&committed);
    let on_trial = newest(&|one| one.phase == Phase::Probation).filter(|trial| {
        // One on trial that is older than what is committed lost its turn.
        let at = |name: &RevisionName| record.revisions.iter().position(|one| one.name == *name);
        committed.is_none_or(|committed| at(committed) < at(trial))
    });
    [latest, committed, serves, on_trial]
}

/// In Labels mode a revision lives while a label names it, or while it is on its way to one.
fn labelled(record: &AppRecord) -> Vec<(RevisionName, Change)> {
    let named = |revision: &RevisionRecord| {
        record.labels.values().chain(record.moving.values()).any(|name| *name == revision.name)
    };
    let active = || record.revisions.iter().filter(|revision| revision.active);
    if !active().any(named)
        && let Some(serving) = crate::traffic::latest_ready(record)
    {
        let label = Change::Label(target_label(record));
        return vec![(serving.name.clone(), label)];
    }
    let latest = active().next_back().map(|revision| &revision.name);
    let goes = active().filter(|revision| {
        let on_its_way = revision.is_candidate() && latest == Some(&revision.name);
        !named(revision) && !on_its_way
    });
    goes.map(|revision| (revision.name.clone(), Change::Retire)).collect()
}

/// The label that the next revision gets: the document's target, else the one there is, else ACA's first.
pub(super) fn target_label(record: &AppRecord) -> String {
    let asked = record.document().and_then(|document| document.configuration.target_label.clone());
    let known = || record.labels.keys().next().cloned();
    asked.or_else(known).unwrap_or_else(|| FIRST_LABEL.to_owned())
}

/// Forgets the oldest inactive revisions past the number that the document allows.
pub(super) fn prune(record: &mut AppRecord) {
    let allowed =
        record.document().and_then(|document| document.configuration.max_inactive_revisions);
    let allowed = allowed.unwrap_or(INACTIVE_KEPT) as usize;
    let inactive = record.revisions.iter().filter(|revision| !revision.active).count();
    let mut surplus = inactive.saturating_sub(allowed);
    let latest = record.latest().map(|latest| latest.name.clone());
    record.revisions.retain(|revision| {
        // The newest says what was asked for last, though it failed.
        let goes = !revision.active && 0 < surplus && latest.as_ref() != Some(&revision.name);
        surplus -= usize::from(goes);
        !goes
    });
    let known: Vec<RevisionName> = record.revisions.iter().map(|one| one.name.clone()).collect();
    record.labels.retain(|_, name| known.contains(name));
    record.moving.retain(|_, name| known.contains(name));
}
