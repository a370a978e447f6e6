//! Which revisions stay: by the mode of the app, and how many of the inactive ones.

use super::Change;
use crate::document::RevisionsMode;
use crate::model::RevisionName;
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

/// Inactive revisions that are kept where the document does not say (features 3: 100, the oldest go first).
const INACTIVE_KEPT: u32 = 100;

/// The label of the first revision in Labels mode, where nobody named one (features 9).
const FIRST_LABEL: &str = "label-1";

/// What goes, and what gets a label, now that no revision moves.
pub(super) fn surplus(record: &AppRecord) -> Vec<(RevisionName, Change)> {
    match record.mode() {
        RevisionsMode::Single => {
            let active = record.revisions.iter().filter(|revision| revision.active);
            let goes = active.filter(|revision| !stays_alone(record, revision));
            goes.map(|revision| (revision.name.clone(), Change::Retire)).collect()
        }
        RevisionsMode::Multiple => Vec::new(),
        RevisionsMode::Labels => labelled(record),
    }
}

/// In Single mode there are the newest, the one on trial, and the last one that was committed before it.
fn stays_alone(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let newest = |phase: Phase| {
        let mut all = record.revisions.iter().rev();
        all.find(|one| one.active && one.phase == phase).map(|one| &one.name)
    };
    let latest = record.revisions.iter().rev().find(|one| one.active).map(|one| &one.name);
    let committed = newest(Phase::Committed);
    let on_trial = newest(Phase::Probation).filter(|trial| {
        // One on trial that is older than what is committed lost its turn.
        let at = |name: &RevisionName| record.revisions.iter().position(|one| one.name == *name);
        committed.is_none_or(|committed| at(committed) < at(trial))
    });
    [latest, committed, on_trial].contains(&Some(&revision.name))
}

/// In Labels mode a revision lives while a label names it, or while it is on its way to one.
fn labelled(record: &AppRecord) -> Vec<(RevisionName, Change)> {
    let named = |revision: &RevisionRecord| {
        record.labels.values().any(|name| *name == revision.name)
            || super::super::traffic::entries(record).iter().any(|entry| {
                entry.label.is_some() && entry.revision.as_ref() == Some(&revision.name)
            })
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
}
