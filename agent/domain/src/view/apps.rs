//! Statuses of apps and jobs, in ACA's words.

use super::Scene;
use super::network::split;
use crate::document::Finding;
use crate::model::WallTime;
use crate::plan::{Doing, ReplicaView};
use crate::ports;
use crate::probe::Health;
use crate::reason::Reason;
use crate::replica::Trouble;
use crate::rollout;
use crate::rollout::diagnosis::{self, is_failure, stated};
use crate::state::{AppRecord, JobRecord, RevisionRecord, Wanted};
use crate::status::{
    AppStatus, HealthState, JobStatus, Phase, ProvisioningState, ReplicaRunningState,
    ReplicaStatus, RevisionStatus, RunningState, RunningStatus, Source,
};
use crate::traffic::Split;

/// Inactive revisions that a status tells of, the newest. More are kept, and would make a status of 100 KiB of them.
const INACTIVE_TOLD: usize = 10;

/// The status of an app, as of now.
pub fn app_status(record: &AppRecord, scene: Scene<'_>) -> AppStatus {
    let mut inactive = 0;
    let split = split(record, scene);
    let told = record.revisions.iter().rev().filter(|revision| {
        inactive += usize::from(!revision.active);
        let runs = !scene.fleet.replicas(&revision.name).is_empty();
        revision.active || runs || inactive <= INACTIVE_TOLD
    });
    let revisions: Vec<RevisionStatus> =
        told.map(|revision| revision_status(record, revision, &split, scene)).collect();
    let document = record.in_force();
    let ingress = document.and_then(|document| document.configuration.ingress.as_ref());
    let suffix = document.map(|document| scene.world.settings.suffix(&document.environment));
    let fqdn = ingress.and(suffix).map(|suffix| format!("{}.{suffix}", record.name));
    let held = scene.lan_names.get(&record.name);
    let ready = record.revisions.iter().rev().find(|revision| revision.has_served());
    AppStatus {
        app: record.name.to_string(),
        generation: record.generation,
        digest: record.accepted.as_ref().map(|accepted| accepted.digest),
        source: record.source,
        running_status: running_status(record, &split, &revisions),
        fqdn: fqdn.unwrap_or_default(),
        lan_name: held.map(|name| format!("{name}.local")).unwrap_or_default(),
        exposed_port: ingress.and_then(ports::own).map_or(0, |port| port.exposed),
        latest_revision: record.latest().map(|revision| revision.name.clone()),
        latest_ready_revision: ready.map(|revision| revision.name.clone()),
        revisions,
        warnings: warnings(record, &split, scene),
        error: None,
        scale_target: record.scale.to_string(),
        updated: WallTime::default(),
    }
}

/// What of the document is not acted on, and what was remarked of the newest revision's images.
fn warnings(record: &AppRecord, split: &Split, scene: Scene<'_>) -> Vec<Finding> {
    let mut warnings =
        record.accepted.as_ref().map(|accepted| accepted.warnings.clone()).unwrap_or_default();
    warnings.extend(split.idle.iter().map(|number| Finding {
        path: format!("properties.configuration.ingress.traffic[{number}]"),
        reason: Reason::TrafficUnready,
        message: Reason::TrafficUnready.sentence().to_owned(),
        position: None,
    }));
    warnings.extend(scene.ports.conflicts(record));
    warnings.extend(scene.ports.closed(record, scene.listeners));
    let Some(latest) = record.latest() else { return warnings };
    let template = &latest.template;
    let kinds =
        [("initContainers", &template.init_containers), ("containers", &template.containers)];
    for (key, containers) in kinds {
        for (n, container) in containers.iter().enumerate() {
            let remark =
                latest.images.get(&container.image).and_then(|image| image.warning.clone());
            warnings.extend(remark.map(|remark| Finding {
                path: format!("properties.template.{key}[{n}].image"),
                reason: remark.reason,
                message: remark.details,
                position: None,
            }));
        }
    }
    warnings
}

fn running_status(
    record: &AppRecord,
    split: &Split,
    revisions: &[RevisionStatus],
) -> RunningStatus {
    if record.stopped || record.removed {
        return RunningStatus::Stopped;
    }
    let none_active = !record.revisions.iter().any(|revision| revision.active);
    if none_active || record.wanted_replicas() == Wanted::PinnedToZero {
        return RunningStatus::Ready;
    }
    // What is at zero serves too: a request wakes it.
    let serves = |revision: &RevisionStatus| {
        0 < revision.ready_replicas || revision.running_state == RunningState::ScaledToZero
    };
    let serves =
        revisions.iter().any(|revision| 0 < split.weight_of(&revision.name) && serves(revision));
    // One on trial serves; one that was rolled back leaves the app as it was.
    let under_way = record.revisions.iter().any(RevisionRecord::is_candidate);
    if serves && !under_way { RunningStatus::Running } else { RunningStatus::Progressing }
}

fn revision_status(
    record: &AppRecord,
    revision: &RevisionRecord,
    split: &Split,
    scene: Scene<'_>,
) -> RevisionStatus {
    let views = scene.fleet.replicas(&revision.name);
    let mut replicas: Vec<ReplicaStatus> =
        views.iter().map(|view| replica_status(revision, view, scene)).collect();
    replicas.reverse();
    let ready = scene.fleet.ready(&revision.name);
    let there = u32::try_from(views.len()).unwrap_or(u32::MAX);
    // Those that drain and stop count no more, and keep their revision from being gone.
    let left = there.saturating_add(leaving(revision, scene));
    let trouble = revision_trouble(record, revision, &replicas, scene);
    let names = split.labels.iter().filter(|(_, name)| **name == revision.name);
    let standby = scene.fleet.spares(&revision.name).first();
    RevisionStatus {
        name: revision.name.clone(),
        phase: revision.phase,
        active: revision.active,
        traffic_weight: split.weight_of(&revision.name),
        labels: names.map(|(label, _)| label.clone()).collect(),
        replicas: there,
        ready_replicas: ready,
        wanted_replicas: wanted(record, revision, scene),
        scaled_by: scene.memory.scaled_by(&revision.name).to_owned(),
        standby: standby.map_or("", |spare| spare.tier.word()),
        standby_memory_bytes: standby.map_or(0, |spare| scene.memory.held_by(&spare.view.name)),
        provisioning_state: provisioning_state(record, revision, left, scene),
        running_state: running_state(record, revision, &replicas, (ready, left), scene),
        health_state: health_state(views, ready, there),
        reason: trouble.as_ref().map(|trouble| trouble.reason),
        details: trouble.map(|trouble| trouble.details).unwrap_or_default(),
        image: image(revision),
        replica_list: replicas,
    }
}

/// As many as its rules ask for, whether the board has room for them or not.
fn wanted(record: &AppRecord, revision: &RevisionRecord, scene: Scene<'_>) -> u32 {
    let held = scene.memory.wants(&revision.name);
    held.unwrap_or_else(|| record.wanted_of(revision).count())
}

/// Replicas of a revision that are being stopped.
fn leaving(revision: &RevisionRecord, scene: Scene<'_>) -> u32 {
    let stops = |name| matches!(scene.world.doing.get(name), Some(Doing::Stopping));
    let seen = scene.world.observed.iter();
    let left = seen.filter(|(name, seen)| seen.revision == revision.name && stops(*name)).count();
    u32::try_from(left).unwrap_or(u32::MAX)
}

fn provisioning_state(
    record: &AppRecord,
    revision: &RevisionRecord,
    there: u32,
    scene: Scene<'_>,
) -> ProvisioningState {
    // A first revision that fails is tried on, as there is nothing to go back to; it is reported as what it is.
    let failing = || {
        rollout::is_late(record, revision, scene.world, scene.memory)
            || rollout::is_crash_looping(revision, scene.fleet, scene.memory)
    };
    match (revision.active, revision.phase) {
        (_, Phase::RolledBack) => ProvisioningState::Failed,
        (false, _) if 0 < there => ProvisioningState::Deprovisioning,
        (false, _) => ProvisioningState::Deprovisioned,
        (true, Phase::Starting) if failing() => ProvisioningState::Failed,
        (true, Phase::Fetching | Phase::Staged | Phase::Starting) => {
            ProvisioningState::Provisioning
        }
        (true, Phase::Probation | Phase::Committed) => ProvisioningState::Provisioned,
    }
}

fn running_state(
    record: &AppRecord,
    revision: &RevisionRecord,
    replicas: &[ReplicaStatus],
    (ready, left): (u32, u32),
    scene: Scene<'_>,
) -> RunningState {
    let there = u32::try_from(replicas.len()).unwrap_or(u32::MAX);
    if revision.phase == Phase::RolledBack {
        return RunningState::Failed;
    }
    if !revision.active {
        return if 0 < left { RunningState::Deprovisioning } else { RunningState::Stopped };
    }
    // Before it was ever ready a closed port may open yet.
    let fails = |reason| is_failure(reason) || (reason == Reason::PortClosed && revision.was_ready);
    let failing = replicas.iter().any(|replica| replica.reason.is_some_and(fails));
    let allowed = rollout::allowed(record, revision);
    match record.wanted_of(revision) {
        Wanted::None if 0 < left => RunningState::Deprovisioning,
        Wanted::None => RunningState::Stopped,
        Wanted::PinnedToZero | Wanted::Asleep => RunningState::ScaledToZero,
        Wanted::Some(_) if failing && ready == 0 && !revision.was_ready => {
            RunningState::ActivationFailed
        }
        Wanted::Some(_) if failing && ready == 0 => RunningState::Failed,
        Wanted::Some(_) if failing => RunningState::Degraded,
        // It made room for the one that follows it.
        Wanted::Some(_) if allowed == 0 && revision.phase == Phase::Committed && there == 0 => {
            RunningState::ScaledToZero
        }
        Wanted::Some(_) if ready == 0 => RunningState::Activating,
        Wanted::Some(_) if ready != allowed || there != allowed => RunningState::Processing,
        Wanted::Some(_) if scene.memory.wants(&revision.name).is_some() => RunningState::Processing,
        Wanted::Some(_) if record.max_replicas(revision) <= allowed => {
            RunningState::RunningAtMaxScale
        }
        Wanted::Some(_) => RunningState::Running,
    }
}

fn health_state(views: &[ReplicaView<'_>], ready: u32, there: u32) -> HealthState {
    let failing = views.iter().any(|view| {
        let failed = |health: &Health| health.failure.is_some() && !health.ready;
        view.health.is_some_and(|health| (health.started || view.is_adopted()) && failed(health))
    });
    if there == 0 || (ready == 0 && !failing) {
        HealthState::None
    } else if failing {
        HealthState::Unhealthy
    } else {
        HealthState::Healthy
    }
}

/// The first image, with the digest it stands for.
fn image(revision: &RevisionRecord) -> String {
    let Some(container) = revision.template.containers.first() else { return String::new() };
    match revision.images.get(&container.image) {
        Some(resolved) if container.image.contains('@') => resolved.reference.clone(),
        Some(resolved) => format!("{}@{}", container.image, resolved.digest),
        None => container.image.clone(),
    }
}

/// Why a revision is not as asked for: what keeps all of it, else what keeps its replicas.
fn revision_trouble(
    record: &AppRecord,
    revision: &RevisionRecord,
    replicas: &[ReplicaStatus],
    scene: Scene<'_>,
) -> Option<Trouble> {
    if revision.phase == Phase::RolledBack {
        return revision.failure.clone().or_else(|| Some(stated(Reason::RevisionRolledBack)));
    }
    if !revision.active {
        return None;
    }
    match record.wanted_of(revision) {
        Wanted::None => return record.stopped.then(|| stated(Reason::AppStopped)),
        Wanted::PinnedToZero => return Some(stated(Reason::PinnedToZero)),
        Wanted::Asleep => return scene.memory.scale_trouble(&revision.name).cloned(),
        Wanted::Some(_) => (),
    }
    let allowed = rollout::allowed(record, revision);
    let waits = revision.is_candidate() && scene.memory.trouble(&revision.name).is_some();
    let renews = scene.fleet.replicas(&revision.name).iter().any(|view| view.outdated);
    if revision.phase != Phase::Staged
        && revision.phase != Phase::Fetching
        && allowed <= scene.fleet.ready(&revision.name)
        && !waits
        && !renews
    {
        return scene.memory.scale_trouble(&revision.name).cloned();
    }
    // What failed before is no news any more where it goes on.
    if scene.world.fetching.contains(&revision.name)
        && let Some((reference, pull)) = scene.memory.pull_of(revision.template.images())
    {
        let details = format!("{reference}: {pull}");
        return Some(Trouble { reason: Reason::PullingImage, details });
    }
    if let Some(trouble) = scene.memory.trouble(&revision.name) {
        return Some(trouble.clone());
    }
    if let Some(trouble) = scene.world.runtime {
        return Some(trouble.clone());
    }
    if revision.images.is_empty() || revision.refetch {
        return Some(stated(Reason::PullingImage));
    }
    let reason_of = |replica: &ReplicaStatus| {
        Some(Trouble { reason: replica.reason?, details: replica.details.clone() })
    };
    let mut troubles: Vec<Trouble> = replicas.iter().filter_map(reason_of).collect();
    troubles.sort_by_key(|trouble| !is_failure(trouble.reason));
    troubles.into_iter().next().or_else(|| Some(stated(Reason::ContainerStarting)))
}

fn replica_status(
    revision: &RevisionRecord,
    view: &ReplicaView<'_>,
    scene: Scene<'_>,
) -> ReplicaStatus {
    let runs = view.is_running(revision);
    let trouble = diagnosis::of_replica(revision, view, scene.memory);
    ReplicaStatus {
        name: view.name.clone(),
        running_state: match view.observed {
            Some(_) if runs => ReplicaRunningState::Running,
            Some(_) => ReplicaRunningState::NotRunning,
            None => ReplicaRunningState::Unknown,
        },
        ready: view.ready,
        address: Some(view.address),
        restart_count: view.restart_count,
        reason: trouble.as_ref().map(|trouble| trouble.reason),
        details: trouble.map(|trouble| trouble.details).unwrap_or_default(),
    }
}

/// The status of a name whose first document was refused: there is nothing else to tell of it.
pub fn refused_status(name: &str, source: Source, finding: Finding) -> AppStatus {
    AppStatus {
        app: name.to_owned(),
        generation: 0,
        digest: None,
        source,
        running_status: RunningStatus::Stopped,
        fqdn: String::new(),
        lan_name: String::new(),
        exposed_port: 0,
        latest_revision: None,
        latest_ready_revision: None,
        revisions: Vec::new(),
        warnings: Vec::new(),
        error: Some(finding),
        scale_target: String::new(),
        updated: WallTime::default(),
    }
}

/// The status of a job whose first document was refused.
pub fn refused_job(name: &str, source: Source, finding: Finding) -> JobStatus {
    JobStatus {
        job: name.to_owned(),
        generation: 0,
        digest: None,
        source,
        warnings: Vec::new(),
        error: Some(finding),
        updated: WallTime::default(),
    }
}

/// The status of a job: known, checked, stored, and not run yet.
pub fn job_status(record: &JobRecord) -> JobStatus {
    let not_yet = Finding {
        path: String::new(),
        reason: Reason::NotYetSupported,
        message: "the job is stored and not run: this release runs apps".to_owned(),
        position: None,
    };
    JobStatus {
        job: record.name.to_string(),
        generation: record.generation,
        digest: record.accepted.as_ref().map(|accepted| accepted.digest),
        source: record.source,
        warnings: record
            .accepted
            .as_ref()
            .map(|accepted| accepted.warnings.clone())
            .unwrap_or_default(),
        error: Some(not_yet),
        updated: WallTime::default(),
    }
}
