//! The way of a revision: from its images to the traffic, or back (DESIGN 8).
//!
//! ```text
//!   Fetching ─images─▶ Staged ─gate─▶ Starting ─ready, gate─▶ Probation ─time─▶ Committed ─▶ retired
//!                                        └──── deadline, crash loop ────┴──▶ RolledBack
//! ```
//!
//! A look at the fleet allows changes; each is stored before anything follows from it. Where there is nothing to fall
//! back to nothing is rolled back: a first revision that fails is tried on, and says why.

pub(crate) mod diagnosis;
mod gate;
mod keep;
mod standby;
mod trial;

use std::collections::BTreeMap;

use crate::document::{RevisionsMode, UpdateStrategy};
use crate::model::{AppName, Moment, RevisionName};
use crate::plan::{Fleet, Memory, Plan, World};
use crate::reason::Reason;
use crate::replica::{ResolvedImage, Trouble};
use crate::secrets;
use crate::state::{AppRecord, Entered, RevisionRecord, Standby, Wanted};
use crate::status::Phase;

use self::trial::Verdict;
pub(crate) use self::trial::{is_crash_looping, is_late};

/// Refused templates that are remembered for an app (DESIGN 8), the oldest go first.
const REFUSED_KEPT: usize = 32;

/// A change of an app's record, to be durable before anything follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The record from now on.
    pub record: Box<AppRecord>,
    /// What is told of it.
    pub told: Vec<Told>,
}

/// What is told of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The app.
    pub app: AppName,
    /// The revision.
    pub revision: RevisionName,
    /// What happened.
    pub reason: Reason,
    /// The details, for people.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Change {
    Enter(Phase),
    Fail(Trouble),
    Retire,
    Label(String),
    /// The one that stands by for it gives its replica up.
    GiveUp,
}

/// The step that the fleet allows an app, if any.
pub(crate) fn advance(
    record: &AppRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) -> Option<Step> {
    if record.removed || record.accepted.is_none() {
        return None;
    }
    let mut changes = Vec::new();
    for revision in record.revisions.iter().filter(|revision| revision.active) {
        if let Some(change) = next(record, revision, fleet, world, memory, plan) {
            changes.push((revision.name.clone(), change));
        }
    }
    if changes.is_empty() {
        changes = keep::surplus(record, fleet);
    }
    (!changes.is_empty()).then(|| apply(record, changes, world))
}

/// What a revision comes to next.
fn next(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) -> Option<Change> {
    match revision.phase {
        Phase::Fetching if !revision.images.is_empty() && !revision.refetch => {
            Some(Change::Enter(Phase::Staged))
        }
        Phase::Fetching | Phase::Committed | Phase::RolledBack => None,
        Phase::Staged => {
            if record.wanted_of(revision) == Wanted::None || world.runtime.is_some() {
                return None;
            }
            gate::may_start(record, revision, fleet, world, memory, plan)
                .then_some(Change::Enter(Phase::Starting))
        }
        Phase::Starting | Phase::Probation => {
            match trial::judge(record, revision, fleet, world, memory) {
                Verdict::Failed(trouble) => Some(Change::Fail(trouble)),
                Verdict::Ready if revision.phase == Phase::Starting => {
                    gate::may_switch(record, revision, fleet, world, memory, plan)
                        .then(|| Change::Enter(after_start(record, revision)))
                }
                Verdict::Ready => Some(Change::Enter(Phase::Committed)),
                Verdict::Open { until } => {
                    plan.wake_by(until);
                    standby::gives_up(record, revision, fleet, world).then_some(Change::GiveUp)
                }
            }
        }
    }
}

/// A revision's images are local and unpacked. Where nobody serves there is nothing to wait for, and its replicas may
/// start.
pub fn staged(
    record: &mut AppRecord,
    name: &RevisionName,
    images: BTreeMap<String, ResolvedImage>,
    boot: &str,
    now: Moment,
) {
    let alone = record.serving().is_none_or(|serving| serving.name == *name);
    let Some(revision) = record.revisions.iter_mut().find(|known| known.name == *name) else {
        return;
    };
    revision.images = images;
    revision.refetch = false;
    if revision.phase == Phase::Fetching {
        revision.phase = if alone { Phase::Starting } else { Phase::Staged };
        revision.entered = Some(Entered { boot: boot.to_owned(), at: now });
    }
}

/// On trial where there is something to go back to.
fn after_start(record: &AppRecord, revision: &RevisionRecord) -> Phase {
    let probation = record.document().map_or(0, |document| document.skerry.probation_secs);
    let single = record.mode() == RevisionsMode::Single;
    if single && 0 < probation && record.fallback_of(&revision.name).is_some() {
        Phase::Probation
    } else {
        Phase::Committed
    }
}

/// How many replicas a revision may have now, on its way.
pub fn allowed(record: &AppRecord, revision: &RevisionRecord) -> u32 {
    let wanted = record.wanted_of(revision).count();
    match revision.phase {
        Phase::Fetching | Phase::Staged | Phase::RolledBack => 0,
        Phase::Starting => target(record, revision),
        Phase::Probation => wanted,
        Phase::Committed if record.mode() != RevisionsMode::Single => wanted,
        Phase::Committed => {
            let newer = record.revisions.iter().rev().take_while(|one| one.name != revision.name);
            let mut under_way = newer.filter(|one| one.active);
            let most = under_way.clone().map(|one| match one.phase {
                Phase::Starting | Phase::Probation if stops_first(record, one) => 0,
                Phase::Probation => standby::most(one),
                Phase::Fetching
                | Phase::Staged
                | Phase::Starting
                | Phase::Committed
                | Phase::RolledBack => u32::MAX,
            });
            let most = most.min().unwrap_or(u32::MAX);
            // While two follow one another the one on trial counts; it is gone as soon as the newest has the traffic.
            under_way.next().map_or(wanted, |_| wanted.min(most))
        }
    }
}

/// How many of them must be ready: of those that hold a device there can be one.
pub(crate) fn needed(record: &AppRecord, revision: &RevisionRecord) -> u32 {
    let alone = !revision.template.extras.devices.is_empty();
    allowed(record, revision).min(if alone { 1 } else { u32::MAX })
}

/// As many as the one before it has, within its own bounds (features 3, "Ready").
fn target(record: &AppRecord, revision: &RevisionRecord) -> u32 {
    let wanted = record.wanted_of(revision).count();
    // More than one could never become ready.
    let alone = !revision.template.extras.devices.is_empty();
    if wanted == 0 || alone || record.mode() != RevisionsMode::Single {
        return wanted;
    }
    let before = record.serving().filter(|serving| serving.name != revision.name);
    let before = before.map_or(0, |serving| record.wanted_of(serving).count());
    wanted.max(before.min(record.max_replicas(revision)))
}

/// The one before it has to stop first: it was asked for, or both need a device for themselves alone.
pub(crate) fn stops_first(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let asked = record
        .document_of(revision)
        .is_some_and(|document| document.skerry.update_strategy == UpdateStrategy::Recreate);
    let single = record.mode() == RevisionsMode::Single;
    let devices = &revision.template.extras.devices;
    let shares = |other: &RevisionRecord| {
        let theirs = &other.template.extras.devices;
        theirs.iter().any(|one| devices.iter().any(|own| own.host_path == one.host_path))
    };
    let contended = || {
        let others = record.revisions.iter().filter(|one| one.active && one.name != revision.name);
        !devices.is_empty() && others.into_iter().any(shares)
    };
    single && (asked || contended())
}

fn apply(record: &AppRecord, changes: Vec<(RevisionName, Change)>, world: World<'_>) -> Step {
    let mut next = record.clone();
    let mut told = Vec::new();
    for (name, change) in changes {
        let (reason, message) = apply_one(&mut next, &name, change, world);
        told.push(Told { app: record.name.clone(), revision: name, reason, message });
    }
    keep::prune(&mut next);
    Step { record: Box::new(next), told }
}

fn apply_one(
    record: &mut AppRecord,
    name: &RevisionName,
    change: Change,
    world: World<'_>,
) -> (Reason, String) {
    let entered = Some(Entered { boot: world.settings.boot.clone(), at: world.now });
    let back = record.fallback_of(name).map(|fallback| fallback.name.clone());
    let labels_mode = record.mode() == RevisionsMode::Labels;
    let target = keep::target_label(record);
    let Some(revision) = record.revisions.iter_mut().find(|known| known.name == *name) else {
        return (Reason::UnknownRevision, String::new());
    };
    match change {
        Change::Enter(phase) => {
            revision.phase = phase;
            revision.entered = entered;
            revision.standby = Standby::Kept;
            match phase {
                Phase::Probation => {
                    revision.was_ready = true;
                    (Reason::RevisionOnTrial, String::new())
                }
                Phase::Committed => {
                    let first = !revision.was_ready;
                    revision.was_ready = true;
                    let digest = revision.digest;
                    record.refused.retain(|refused| *refused != digest);
                    // Its document is in force for all from now on.
                    let newest = record.latest();
                    if newest.is_some_and(|newest| newest.name == *name && newest.held.is_none()) {
                        record.revisions.iter_mut().for_each(|one| one.held = None);
                        secrets::forget_unlisted(record);
                    }
                    let all = std::mem::take(&mut record.moving);
                    let (own, others): (BTreeMap<_, _>, _) =
                        all.into_iter().partition(|(_, to)| to == name);
                    record.moving = others;
                    if labels_mode && first && own.is_empty() {
                        record.labels.insert(target, name.clone());
                    }
                    record.labels.extend(own);
                    let reason =
                        if first { Reason::RevisionReady } else { Reason::RevisionCommitted };
                    (reason, String::new())
                }
                Phase::Fetching | Phase::Staged | Phase::Starting | Phase::RolledBack => {
                    (Reason::RevisionStarting, String::new())
                }
            }
        }
        Change::Fail(trouble) => {
            let digest = revision.digest;
            revision.phase = Phase::RolledBack;
            revision.active = false;
            revision.entered = entered;
            revision.standby = Standby::Kept;
            let back = back.map(|back| format!("; back to {back}")).unwrap_or_default();
            let message = format!("{}: {}{back}", trouble.reason, trouble.details);
            revision.failure = Some(trouble);
            record.refused.retain(|refused| *refused != digest);
            record.refused.push(digest);
            let surplus = record.refused.len().saturating_sub(REFUSED_KEPT);
            record.refused.drain(..surplus);
            record.moving.retain(|_, to| to != name);
            (Reason::RevisionRolledBack, message)
        }
        Change::Retire => {
            revision.active = false;
            (Reason::RevisionRetired, String::new())
        }
        Change::Label(label) => {
            record.labels.insert(label.clone(), name.clone());
            (Reason::TrafficChanged, format!("label {label}"))
        }
        Change::GiveUp => {
            revision.standby = Standby::GivenUp;
            let stood_by = back.map(|back| format!("{back} stood by")).unwrap_or_default();
            (Reason::StandbyGivenUp, stood_by)
        }
    }
}
