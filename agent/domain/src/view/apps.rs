//! Statuses of apps and jobs, in ACA's words.

use super::Scene;
use super::network::traffic;
use crate::document::Finding;
use crate::model::WallTime;
use crate::plan::{Doing, ReplicaView};
use crate::reason::Reason;
use crate::replica::{ContainerState, Trouble};
use crate::state::{AppRecord, JobRecord, RevisionRecord, Wanted};
use crate::status::{
    AppStatus, HealthState, JobStatus, Phase, ProvisioningState, ReplicaRunningState,
    ReplicaStatus, RevisionStatus, RunningState, RunningStatus, Source,
};

/// Inactive revisions that a status tells of, the newest. More are kept, and would make a status of 100 KiB of them.
const INACTIVE_TOLD: usize = 10;

/// The status of an app, as of now.
pub fn app_status(record: &AppRecord, scene: Scene<'_>) -> AppStatus {
    let mut inactive = 0;
    let told = record.revisions.iter().rev().filter(|revision| {
        inactive += usize::from(!revision.active);
        let runs = !scene.fleet.replicas(&revision.name).is_empty();
        revision.active || runs || inactive <= INACTIVE_TOLD
    });
    let revisions: Vec<RevisionStatus> =
        told.map(|revision| revision_status(record, revision, scene)).collect();
    let document = record.document();
    let ingress = document.and_then(|document| document.configuration.ingress.as_ref());
    let suffix = document.map(|document| scene.world.settings.suffix(&document.environment));
    let fqdn = ingress.and(suffix).map(|suffix| format!("{}.{suffix}", record.name));
    let held = scene.lan_names.get(&record.name);
    let ready = record.revisions.iter().rev().find(|revision| revision.was_ready);
    AppStatus {
        app: record.name.to_string(),
        generation: record.generation,
        digest: record.accepted.as_ref().map(|accepted| accepted.digest),
        source: record.source,
        running_status: running_status(record, &revisions),
        fqdn: fqdn.unwrap_or_default(),
        lan_name: held.map(|name| format!("{name}.local")).unwrap_or_default(),
        latest_revision: record.latest().map(|revision| revision.name.clone()),
        latest_ready_revision: ready.map(|revision| revision.name.clone()),
        revisions,
        warnings: warnings(record),
        error: None,
        scale_target: record.scale.to_string(),
        updated: WallTime::default(),
    }
}

/// What of the document is not acted on, and what was remarked of the newest revision's images.
fn warnings(record: &AppRecord) -> Vec<Finding> {
    let mut warnings =
        record.accepted.as_ref().map(|accepted| accepted.warnings.clone()).unwrap_or_default();
    let Some(latest) = record.latest() else { return warnings };
    let template = &latest.template;
    let kinds =
        [("initContainers", &template.init_containers), ("containers", &template.containers)];
    for (key, containers) in kinds {
        for (n, container) in containers.iter().enumerate() {
            let remark =
                latest.images.get(&container.image).and_then(|image| image.warning.clone());
            warnings.extend(remark.map(|message| Finding {
                path: format!("properties.template.{key}[{n}].image"),
                reason: Reason::RegistryUnreachable,
                message,
                position: None,
            }));
        }
    }
    warnings
}

fn running_status(record: &AppRecord, revisions: &[RevisionStatus]) -> RunningStatus {
    if record.stopped || record.removed {
        return RunningStatus::Stopped;
    }
    if record.wanted_replicas() == Wanted::PinnedToZero {
        return RunningStatus::Ready;
    }
    let serving = traffic(record);
    let serves = revisions
        .iter()
        .any(|revision| Some(&revision.name) == serving && 0 < revision.ready_replicas);
    let settled = record.latest().is_some_and(|latest| latest.phase == Phase::Committed);
    if serves && settled { RunningStatus::Running } else { RunningStatus::Progressing }
}

fn revision_status(
    record: &AppRecord,
    revision: &RevisionRecord,
    scene: Scene<'_>,
) -> RevisionStatus {
    let views = scene.fleet.replicas(&revision.name);
    let mut replicas: Vec<ReplicaStatus> =
        views.iter().map(|view| replica_status(revision, view, scene)).collect();
    replicas.reverse();
    let ready = scene.fleet.ready(&revision.name);
    let there = u32::try_from(views.len()).unwrap_or(u32::MAX);
    let trouble = revision_trouble(record, revision, &replicas, scene);
    RevisionStatus {
        name: revision.name.clone(),
        phase: revision.phase,
        active: revision.active,
        traffic_weight: if traffic(record) == Some(&revision.name) { 100 } else { 0 },
        labels: Vec::new(),
        replicas: there,
        ready_replicas: ready,
        provisioning_state: provisioning_state(revision, there),
        running_state: running_state(record, revision, &replicas, ready),
        health_state: health_state(views, ready, there),
        reason: trouble.as_ref().map(|trouble| trouble.reason),
        details: trouble.map(|trouble| trouble.details).unwrap_or_default(),
        image: image(revision),
        replica_list: replicas,
    }
}

fn provisioning_state(revision: &RevisionRecord, there: u32) -> ProvisioningState {
    match (revision.active, revision.phase) {
        (false, _) if 0 < there => ProvisioningState::Deprovisioning,
        (false, _) => ProvisioningState::Deprovisioned,
        (true, Phase::Fetching | Phase::Staged | Phase::Starting) => {
            ProvisioningState::Provisioning
        }
        (true, Phase::Probation | Phase::Committed) => ProvisioningState::Provisioned,
        (true, Phase::RolledBack) => ProvisioningState::Failed,
    }
}

fn running_state(
    record: &AppRecord,
    revision: &RevisionRecord,
    replicas: &[ReplicaStatus],
    ready: u32,
) -> RunningState {
    let there = u32::try_from(replicas.len()).unwrap_or(u32::MAX);
    let wanted = record.wanted_of(revision);
    if !revision.active {
        return if 0 < there { RunningState::Deprovisioning } else { RunningState::Stopped };
    }
    let failing = replicas.iter().any(|replica| replica.reason.is_some_and(is_failure));
    match wanted {
        Wanted::None if 0 < there => RunningState::Deprovisioning,
        Wanted::None => RunningState::Stopped,
        Wanted::PinnedToZero => RunningState::ScaledToZero,
        Wanted::Some(_) if failing && ready == 0 && !revision.was_ready => {
            RunningState::ActivationFailed
        }
        Wanted::Some(_) if failing && ready == 0 => RunningState::Failed,
        Wanted::Some(_) if failing => RunningState::Degraded,
        Wanted::Some(_) if ready == 0 => RunningState::Activating,
        Wanted::Some(wanted) if ready != wanted || there != wanted => RunningState::Processing,
        Wanted::Some(wanted) if record.max_replicas(revision) <= wanted => {
            RunningState::RunningAtMaxScale
        }
        Wanted::Some(_) => RunningState::Running,
    }
}

fn health_state(views: &[ReplicaView<'_>], ready: u32, there: u32) -> HealthState {
    let failing = views.iter().any(|view| {
        view.health.is_some_and(|health| (health.started || view.adopted) && !health.ready)
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

/// Whether a reason means that something failed, rather than that it takes its time.
fn is_failure(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::ContainerStarting
            | Reason::PortClosed
            | Reason::WaitingForProbe
            | Reason::PullingImage
            | Reason::ContainerdUnavailable
    )
}

/// Why a revision is not as asked for: what keeps all of it, else what keeps its replicas.
fn revision_trouble(
    record: &AppRecord,
    revision: &RevisionRecord,
    replicas: &[ReplicaStatus],
    scene: Scene<'_>,
) -> Option<Trouble> {
    if !revision.active {
        return None;
    }
    let wanted = match record.wanted_of(revision) {
        Wanted::None => return record.stopped.then(|| stated(Reason::AppStopped)),
        Wanted::PinnedToZero => return Some(stated(Reason::PinnedToZero)),
        Wanted::Some(wanted) => wanted,
    };
    if wanted <= scene.fleet.ready(&revision.name) {
        return None;
    }
    if let Some(trouble) = scene.memory.trouble(&revision.name) {
        return Some(trouble.clone());
    }
    if let Some(trouble) = scene.world.runtime {
        return Some(trouble.clone());
    }
    if revision.images.is_empty() {
        return Some(stated(Reason::PullingImage));
    }
    let reason_of = |replica: &ReplicaStatus| {
        Some(Trouble { reason: replica.reason?, details: replica.details.clone() })
    };
    let mut troubles: Vec<Trouble> = replicas.iter().filter_map(reason_of).collect();
    troubles.sort_by_key(|trouble| !is_failure(trouble.reason));
    troubles.into_iter().next().or_else(|| Some(stated(Reason::ContainerStarting)))
}

fn stated(reason: Reason) -> Trouble {
    Trouble { reason, details: reason.sentence().to_owned() }
}

fn replica_status(
    revision: &RevisionRecord,
    view: &ReplicaView<'_>,
    scene: Scene<'_>,
) -> ReplicaStatus {
    let runs = view.is_running(revision);
    let trouble = if view.ready { None } else { replica_trouble(revision, view, scene) };
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

fn replica_trouble(
    revision: &RevisionRecord,
    view: &ReplicaView<'_>,
    scene: Scene<'_>,
) -> Option<Trouble> {
    if let Some(Doing::Stopping) = view.doing {
        return None;
    }
    let observed = view.observed.map(|observed| &observed.containers);
    for container in &revision.template.containers {
        let name = container.name.as_str();
        if let Some(trouble) = scene.memory.restart_trouble(&view.name, name) {
            return Some(trouble.clone());
        }
        let state = observed.and_then(|containers| containers.get(name));
        if let Some(ContainerState::Exited { code, oom, .. }) = state {
            let failures = scene.memory.exits(&view.name, name);
            return Some(exit_trouble(name, *code, *oom, failures));
        }
    }
    if view.doing.is_some() || view.observed.is_none() {
        return Some(stated(Reason::ContainerStarting));
    }
    let failure = view.health.and_then(|health| health.failure.as_ref());
    let waiting = Reason::WaitingForProbe.sentence();
    let details = failure.map_or(waiting, |failure| &failure.text).to_owned();
    let reason = match view.health {
        _ if failure.is_some_and(|failure| failure.refused) => Reason::PortClosed,
        Some(health) if !health.unhealthy.is_empty() => Reason::ProbeFailed,
        Some(health)
            if health.failure.is_some()
                && health.started
                && (view.adopted || revision.was_ready) =>
        {
            Reason::ProbeFailed
        }
        Some(_) | None => Reason::WaitingForProbe,
    };
    Some(Trouble { reason, details })
}

fn exit_trouble(name: &str, code: u32, oom: bool, failures: u32) -> Trouble {
    let reason = match (oom, failures) {
        (true, _) => Reason::OOMKilled,
        (false, 0..=1) => Reason::ContainerExited,
        (false, _) => Reason::CrashLoopBackOff,
    };
    // Exits, not the seconds that are left: a status that counts down would be published every second.
    let again = if failures < 2 { String::new() } else { format!(", {failures} times in a row") };
    Trouble { reason, details: format!("container {name} ended with exit code {code}{again}") }
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
