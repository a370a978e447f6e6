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
        exposed_port: status.exposed_port.into(),
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
        wanted_replicas: status.wanted_replicas,
        scaled_by: status.scaled_by.clone(),
        standby: status.standby.to_owned(),
        standby_memory_bytes: status.standby_memory_bytes,
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use domain::model::WallTime;
    use domain::reason::Reason;
    use domain::status::{
        HealthState, Phase, ProvisioningState, ReplicaRunningState, RunningState, RunningStatus,
        Source,
    };
    use domain::view::refused_status;
    use expect_test::expect;
    use serde_json::Value;

    use super::*;

    fn json(status: &AppStatus) -> Value {
        serde_json::to_value(app(status)).unwrap()
    }

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    fn found() -> Finding {
        Finding {
            path: "name".to_owned(),
            reason: Reason::MissingValue,
            message: "no name".to_owned(),
            position: None,
        }
    }

    fn revision(name: &str, replica_list: Vec<ReplicaStatus>) -> RevisionStatus {
        RevisionStatus {
            name: name.parse().unwrap(),
            phase: Phase::Committed,
            active: true,
            traffic_weight: 100,
            labels: vec!["blue".to_owned()],
            replicas: 1,
            ready_replicas: 1,
            wanted_replicas: 1,
            scaled_by: String::new(),
            standby: "",
            standby_memory_bytes: 0,
            provisioning_state: ProvisioningState::Provisioned,
            running_state: RunningState::RunningAtMaxScale,
            health_state: HealthState::Healthy,
            reason: None,
            details: String::new(),
            image: String::new(),
            replica_list,
        }
    }

    fn replica(name: &str, address: Option<Ipv4Addr>) -> ReplicaStatus {
        ReplicaStatus {
            name: name.parse().unwrap(),
            running_state: ReplicaRunningState::Unknown,
            ready: false,
            address,
            restart_count: 0,
            reason: None,
            details: String::new(),
        }
    }

    #[test]
    fn a_status_of_nothing_has_every_field() {
        let status = refused_status("hello", Source::Mqtt, found());
        expect![[r#"
            {
              "app": "hello",
              "digest": "",
              "error": {
                "message": "no name",
                "path": "name",
                "reason": "MissingValue"
              },
              "exposedPort": 0,
              "fqdn": "",
              "generation": "0",
              "lanName": "",
              "latestReadyRevisionName": "",
              "latestRevisionName": "",
              "revisions": [],
              "runningStatus": "Stopped",
              "scaleTarget": "",
              "source": "mqtt",
              "updatedTime": "1970-01-01T00:00:00Z",
              "warnings": []
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&json(&status)).unwrap());
        let whole = AppStatus { error: None, updated: WallTime::default(), ..status };
        let none = serde_json::json!({"path": "", "reason": "", "message": ""});
        assert_eq!(json(&whole)["error"], none);
    }

    #[test]
    fn a_full_status_has_the_same_fields_and_all_of_those_below_in_the_order_given() {
        let newer = replica("hello--0000002-abcde", Some(Ipv4Addr::new(10, 213, 0, 5)));
        let older = replica("hello--0000002-fghij", None);
        let status = AppStatus {
            generation: u64::MAX,
            running_status: RunningStatus::Running,
            revisions: vec![
                revision("hello--0000002", vec![newer, older]),
                revision("hello--0000001", Vec::new()),
            ],
            warnings: vec![found()],
            ..refused_status("hello", Source::Mqtt, found())
        };
        let json = json(&status);
        assert_eq!(keys(&json), keys(&self::json(&refused_status("x", Source::File, found()))));
        assert_eq!(json["generation"], "18446744073709551615");
        expect![[r#"
            {
              "active": true,
              "details": "",
              "healthState": "Healthy",
              "image": "",
              "labels": [
                "blue"
              ],
              "name": "hello--0000002",
              "phase": "Committed",
              "provisioningState": "Provisioned",
              "readyReplicas": 1,
              "reason": "",
              "replicaList": [
                {
                  "address": "10.213.0.5",
                  "details": "",
                  "name": "hello--0000002-abcde",
                  "ready": false,
                  "reason": "",
                  "restartCount": 0,
                  "runningState": "Unknown"
                },
                {
                  "address": "",
                  "details": "",
                  "name": "hello--0000002-fghij",
                  "ready": false,
                  "reason": "",
                  "restartCount": 0,
                  "runningState": "Unknown"
                }
              ],
              "replicas": 1,
              "runningState": "RunningAtMaxScale",
              "scaledBy": "",
              "standby": "",
              "standbyMemoryBytes": "0",
              "trafficWeight": 100,
              "wantedReplicas": 1
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&json["revisions"][0]).unwrap());
        let names: Vec<&Value> = json["revisions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|revision| &revision["name"])
            .collect();
        assert_eq!(names, ["hello--0000002", "hello--0000001"]);
        // One without replicas has every field too.
        assert_eq!(keys(&json["revisions"][0]), keys(&json["revisions"][1]));
        assert_eq!(json["revisions"][1]["replicaList"], serde_json::json!([]));
    }
}
