//! The domain's words in the shapes of `proto`: what stands on MQTT and in the answers of the local API.

use domain::document::Finding;
use domain::event::Event;
use domain::replica::Trouble;
use domain::status::{
    AppStatus, EnvironmentStatus, JobStatus, ReplicaStatus, RevisionStatus, StorageStatus,
};
use skerry_proto::v1;

use crate::clock::rfc3339;

/// An app's status.
pub fn app(status: &AppStatus) -> v1::AppStatus {
    v1::AppStatus {
        app: status.app.clone(),
        generation: status.generation,
        digest: text(status.digest.as_ref()),
        source: status.source.word().to_owned(),
        running_status: status.running_status.word().to_owned(),
        fqdn: status.fqdn.clone(),
        lan_name: status.lan_name.clone(),
        latest_revision_name: text(status.latest_revision.as_ref()),
        latest_ready_revision_name: text(status.latest_ready_revision.as_ref()),
        revisions: status.revisions.iter().map(revision).collect(),
        warnings: status.warnings.iter().map(finding).collect(),
        error: Some(status.error.as_ref().map(finding).unwrap_or_default()),
        scale_target: status.scale_target.clone(),
        updated_time: rfc3339(status.updated),
    }
}

fn revision(status: &RevisionStatus) -> v1::RevisionStatus {
    v1::RevisionStatus {
        name: status.name.to_string(),
        phase: status.phase.word().to_owned(),
        active: status.active,
        traffic_weight: status.traffic_weight,
        labels: status.labels.clone(),
        replicas: status.replicas,
        ready_replicas: status.ready_replicas,
        provisioning_state: status.provisioning_state.word().to_owned(),
        running_state: status.running_state.word().to_owned(),
        health_state: status.health_state.word().to_owned(),
        reason: text(status.reason.as_ref()),
        details: status.details.clone(),
        image: status.image.clone(),
        replica_list: status.replica_list.iter().map(replica).collect(),
    }
}

fn replica(status: &ReplicaStatus) -> v1::ReplicaStatus {
    v1::ReplicaStatus {
        name: status.name.to_string(),
        running_state: status.running_state.word().to_owned(),
        ready: status.ready,
        address: text(status.address.as_ref()),
        restart_count: status.restart_count,
        reason: text(status.reason.as_ref()),
        details: status.details.clone(),
    }
}

/// A job's status.
pub fn job(status: &JobStatus) -> v1::JobStatus {
    v1::JobStatus {
        job: status.job.clone(),
        generation: status.generation,
        digest: text(status.digest.as_ref()),
        source: status.source.word().to_owned(),
        warnings: status.warnings.iter().map(finding).collect(),
        error: Some(status.error.as_ref().map(finding).unwrap_or_default()),
        updated_time: rfc3339(status.updated),
    }
}

/// An environment's status.
pub fn environment(status: &EnvironmentStatus) -> v1::EnvironmentStatus {
    let storage = |storage: &StorageStatus| v1::StorageStatus {
        name: storage.name.clone(),
        reason: text(storage.reason.as_ref()),
        details: storage.details.clone(),
    };
    v1::EnvironmentStatus {
        environment: status.environment.clone(),
        generation: status.generation,
        digest: text(status.digest.as_ref()),
        source: status.source.map(|source| source.word().to_owned()).unwrap_or_default(),
        storages: status.storages.iter().map(storage).collect(),
        apps: status.apps,
        warnings: status.warnings.iter().map(finding).collect(),
        error: Some(status.error.as_ref().map(finding).unwrap_or_default()),
        updated_time: rfc3339(status.updated),
    }
}

/// A finding; where there is a position, the message says it.
pub fn finding(finding: &Finding) -> v1::Finding {
    v1::Finding {
        path: finding.path.clone(),
        reason: finding.reason.to_string(),
        message: finding.message.clone(),
    }
}

/// A trouble of the device as a whole.
pub fn trouble(trouble: &Trouble) -> v1::Finding {
    v1::Finding {
        path: String::new(),
        reason: trouble.reason.to_string(),
        message: trouble.details.clone(),
    }
}

/// An event.
pub fn event(event: &Event) -> v1::Event {
    v1::Event {
        id: event.id,
        time: rfc3339(event.time),
        app: text(event.app.as_ref()),
        revision: text(event.revision.as_ref()),
        replica: text(event.replica.as_ref()),
        reason: event.reason.to_string(),
        message: event.message.clone(),
    }
}

/// What there is, or an empty text: every field is always present.
fn text<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}
