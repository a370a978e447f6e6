//! Diagnosis: why a replica, or a revision, is not what it should be, out of what was seen of it.

use crate::plan::{Doing, Fleet, Memory, ReplicaView, World};
use crate::probe::ProbeFailure;
use crate::reason::Reason;
use crate::replica::{ContainerState, Listener, Trouble};
use crate::state::{AppRecord, RevisionRecord};

/// A reason in its own words.
pub(crate) fn stated(reason: Reason) -> Trouble {
    Trouble { reason, details: reason.sentence().to_owned() }
}

/// Why a replica is not ready.
pub(crate) fn of_replica(
    revision: &RevisionRecord,
    view: &ReplicaView<'_>,
    memory: &Memory,
) -> Option<Trouble> {
    // One that is about to be started again may answer its readiness probe all the same.
    let condemned = view.health.is_some_and(|health| !health.unhealthy.is_empty());
    if (view.ready && !condemned) || matches!(view.doing, Some(Doing::Stopping)) {
        return None;
    }
    let starts = matches!(view.doing, Some(Doing::Starting(_)));
    // What is seen of a start half way says nothing: its outcome does.
    let observed = view.observed.filter(|_| !starts).map(|observed| &observed.containers);
    for container in &revision.template.containers {
        let name = container.name.as_str();
        if let Some(trouble) = memory.restart_trouble(&view.name, name) {
            return Some(trouble.clone());
        }
        let state = observed.and_then(|containers| containers.get(name));
        if let Some(ContainerState::Exited { code, oom, words, .. }) = state {
            let failures = memory.exits(&view.name, name);
            return Some(exit(name, *code, *oom, failures, words));
        }
    }
    if view.doing.is_some() || view.observed.is_none() {
        return Some(stated(Reason::ContainerStarting));
    }
    let failure = view.health.and_then(|health| health.failure.as_ref());
    let waiting = Reason::WaitingForProbe.sentence();
    let mut details = failure.map_or(waiting, |failure| &failure.text).to_owned();
    if let Some(elsewhere) = failure.and_then(|failure| elsewhere(failure, view, memory)) {
        details.push_str(&elsewhere);
    }
    let reason = match view.health {
        _ if failure.is_some_and(|failure| failure.refused) => Reason::PortClosed,
        Some(health) if !health.unhealthy.is_empty() => Reason::ProbeFailed,
        Some(health)
            if health.failure.is_some()
                && health.started
                && (view.is_adopted() || revision.was_ready) =>
        {
            Reason::ProbeFailed
        }
        Some(_) | None => Reason::WaitingForProbe,
    };
    Some(Trouble { reason, details })
}

/// Where the replica listens, if not on the port that was found closed.
fn elsewhere(failure: &ProbeFailure, view: &ReplicaView<'_>, memory: &Memory) -> Option<String> {
    let listeners = memory.listeners(&view.name);
    let asked = |listener: &Listener| Some(listener.port) == failure.port && !listener.loopback;
    if !failure.refused || listeners.is_empty() || listeners.iter().any(asked) {
        return None;
    }
    let ports: Vec<String> = listeners.iter().map(ToString::to_string).collect();
    Some(format!("; it listens on {}", ports.join(", ")))
}

/// How a container ended.
fn exit(name: &str, code: u32, oom: bool, failures: u32, words: &str) -> Trouble {
    let reason = match (oom, failures) {
        (true, _) => Reason::OOMKilled,
        (false, 0..=1) => Reason::ContainerExited,
        (false, _) => Reason::CrashLoopBackOff,
    };
    // Exits, not the seconds that are left: a status that counts down would be published every second.
    let again = if failures < 2 { String::new() } else { format!(", {failures} times in a row") };
    let words = if words.is_empty() { String::new() } else { format!("; its last line: {words}") };
    Trouble {
        reason,
        details: format!("container {name} ended with exit code {code}{again}{words}"),
    }
}

/// Whether a reason means that something failed, rather than that it takes its time.
pub(crate) fn is_failure(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::ContainerStarting
            | Reason::PortClosed
            | Reason::WaitingForProbe
            | Reason::PullingImage
            | Reason::ContainerdUnavailable
            | Reason::WaitingForStop
            | Reason::WaitingForWindow
            | Reason::TimeZoneUnknown
            | Reason::LockedByApp
    )
}

/// The weightiest of what its replicas suffer from.
fn worst(revision: &RevisionRecord, fleet: &Fleet<'_>, memory: &Memory) -> Option<Trouble> {
    let views = fleet.replicas(&revision.name).iter();
    let troubles = views.filter_map(|view| of_replica(revision, view, memory));
    troubles.min_by_key(|trouble| !is_failure(trouble.reason))
}

/// Why a revision crash-loops, if one of its containers was started so many times again and is down once more, or if
/// its replicas failed to start as often.
pub(super) fn crash_loop(
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    memory: &Memory,
    restarts: u32,
) -> Option<Trouble> {
    if let Some(trouble) = memory.start_loop(&revision.name, restarts) {
        return Some(trouble.clone());
    }
    fleet.replicas(&revision.name).iter().find_map(|view| {
        let mut down = view.down_containers(revision);
        let name = down.find(|name| restarts <= memory.restarts_of(&view.name, name))?;
        let trouble = of_replica(revision, view, memory)?;
        let exited = trouble.reason == Reason::ContainerExited;
        let reason = if exited { Reason::CrashLoopBackOff } else { trouble.reason };
        let times = memory.restarts_of(&view.name, name);
        let details = format!("{}; it was started again {times} times", trouble.details);
        Some(Trouble { reason, details })
    })
}

/// Why a revision is not ready although its time is over.
pub(super) fn late(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &Memory,
) -> Trouble {
    let block = record.document_of(revision).map(|document| &document.skerry);
    let deadline = block.map_or(0, |block| block.ready_deadline_secs);
    let (ready, asked) = (fleet.ready(&revision.name), super::allowed(record, revision));
    let line = format!(
        "Deployment Progress Deadline Exceeded. {ready}/{asked} replicas ready after {deadline} s."
    );
    let known = memory.trouble(&revision.name).or(world.network).cloned();
    match known.or_else(|| worst(revision, fleet, memory)) {
        Some(cause) => {
            let waits = [Reason::WaitingForProbe, Reason::ContainerStarting];
            let reason =
                if waits.contains(&cause.reason) { Reason::DeadlineExceeded } else { cause.reason };
            Trouble { reason, details: format!("{line} {}", cause.details) }
        }
        None => Trouble { reason: Reason::DeadlineExceeded, details: line },
    }
}

/// Why a revision on trial has no ready replica any more.
pub(super) fn lost(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &Memory,
) -> Trouble {
    let known = worst(revision, fleet, memory).or_else(|| memory.trouble(&revision.name).cloned());
    let cause = known.or_else(|| world.network.cloned());
    let asked = super::allowed(record, revision);
    match cause {
        Some(cause) => {
            let details = format!("0/{asked} replicas ready in its probation. {}", cause.details);
            Trouble { reason: cause.reason, details }
        }
        None => Trouble {
            reason: Reason::NoReadyReplica,
            details: format!("0/{asked} replicas ready in its probation."),
        },
    }
}
