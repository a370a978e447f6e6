//! The trial of a revision: whether it is ready, failed, or may take its time.

use std::time::Duration;

use super::diagnosis;
use crate::model::Moment;
use crate::plan::{Fleet, Memory, World};
use crate::replica::Trouble;
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

/// Starts of one container after its first: with the next failure it crash-loops (DESIGN 8).
pub(super) const CRASH_LOOP: u32 = 3;

/// So long a revision must be known to this run of the agent before it is late: a look and a probe take their time.
const ACQUAINTED: Duration = Duration::from_secs(10);

/// What is to be said of a revision that starts, or is on trial.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It may go on to its next phase.
    Ready,
    /// It goes back.
    Failed(Trouble),
    /// Look again, at this moment at the latest.
    Open {
        /// When there is something to be said, if nothing happens before.
        until: Option<Moment>,
    },
}

/// Judges a revision that starts, or is on trial. Where there is nothing to fall back to none fails.
pub(super) fn judge(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &Memory,
) -> Verdict {
    let asked = super::needed(record, revision);
    let ready = fleet.ready(&revision.name);
    let entered = entered(revision, world, memory);
    // What is not asked for cannot fail, and what cannot be seen is not judged.
    if asked == 0 || world.runtime.is_some() {
        return Verdict::Open { until: None };
    }
    if revision.phase == Phase::Starting && asked <= ready {
        return Verdict::Ready;
    }
    let secs = |of: fn(&crate::document::SkerryBlock) -> u32| {
        let block = record.document_of(revision).map(|document| &document.skerry);
        Duration::from_secs(block.map_or(0, of).into())
    };
    // An agent that just started has not seen yet what is ready all the same, and what is asked for anew has its time.
    let changed = memory.changed(&revision.name).unwrap_or_default();
    let last_ready = memory.last_ready(&revision.name);
    let starts = revision.phase == Phase::Starting;
    // One that was ready and waits for its turn has its time from when it last was.
    let begun = entered.max(changed).max(last_ready.filter(|_| starts).unwrap_or_default());
    let first_seen = memory.first_seen(&revision.name).unwrap_or(world.now);
    let deadline = begun.after(secs(|block| block.ready_deadline_secs));
    let deadline = deadline.max(first_seen.after(ACQUAINTED));
    // What was probed before it moved to another port says nothing of it.
    let probed = memory.moved(&revision.name).map_or(Moment::default(), |at| at.after(ACQUAINTED));
    let may_fail = record.fallback_of(&revision.name).is_some();
    if may_fail {
        if let Some(trouble) = diagnosis::crash_loop(revision, fleet, memory, CRASH_LOOP) {
            return Verdict::Failed(trouble);
        }
        let lost = !starts && last_ready.is_some() && probed <= world.now;
        // One of several that stays unready holds the trial open: no longer than it may take to become ready.
        let since = last_ready.filter(|_| !starts).unwrap_or_default();
        let waited = deadline.max(since.after(secs(|block| block.ready_deadline_secs)));
        let late = ready < asked && waited <= world.now;
        if ready == 0 && lost {
            return Verdict::Failed(diagnosis::lost(record, revision, fleet, world, memory));
        }
        if late {
            return Verdict::Failed(diagnosis::late(record, revision, fleet, world, memory));
        }
    }
    if revision.phase == Phase::Probation {
        let over = entered.max(changed).after(secs(|block| block.probation_secs));
        if over <= world.now && asked <= ready {
            return Verdict::Ready;
        }
        let next = [over, deadline, probed].into_iter().filter(|at| world.now < *at).min();
        return Verdict::Open { until: next };
    }
    Verdict::Open { until: Some(deadline).filter(|at| may_fail && world.now < *at) }
}

/// When it came to its phase; after a reboot the clock starts anew.
fn entered(revision: &RevisionRecord, world: World<'_>, memory: &Memory) -> Moment {
    match &revision.entered {
        Some(entered) if entered.boot == world.settings.boot => entered.at,
        Some(_) | None => memory.first_seen(&revision.name).unwrap_or(world.now),
    }
}

/// Whether the deadline of a revision has passed, for what is reported of one that is tried on.
pub(crate) fn is_late(
    record: &AppRecord,
    revision: &RevisionRecord,
    world: World<'_>,
    memory: &Memory,
) -> bool {
    let block = record.document_of(revision).map(|document| &document.skerry);
    let deadline = Duration::from_secs(block.map_or(0, |block| block.ready_deadline_secs).into());
    revision.phase == Phase::Starting
        && entered(revision, world, memory).after(deadline) <= world.now
}

/// Whether a revision crash-loops, for what is reported of one that is tried on.
pub(crate) fn is_crash_looping(
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    memory: &Memory,
) -> bool {
    diagnosis::crash_loop(revision, fleet, memory, CRASH_LOOP).is_some()
}
