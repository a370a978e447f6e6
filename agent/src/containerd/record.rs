//! A container's record in containerd ↔ our words: its id, its labels, and the facts in its extension.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use containerd_client::services::v1::Container;
use domain::model::{AppName, Digest, EnvironmentName, ReplicaName, RevisionName};
use domain::replica::ReplicaOrder;
use prost_types::Any;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "skerry.io/";

/// The key of the facts; labels would not hold them (4096 bytes for all).
const EXTENSION: &str = "skerry.io/replica";

/// The label by which a replica's containers are found.
pub(super) const REPLICA: &str = "skerry.io/replica";

/// One container's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) environment: EnvironmentName,
    pub(super) app: AppName,
    pub(super) revision: RevisionName,
    pub(super) replica: ReplicaName,
    pub(super) container: String,
    pub(super) boot: String,
    pub(super) facts: Facts,
}

/// What adoption needs beside the names. Its text is on disk: fields may come, none may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    pub(super) template_digest: String,
    pub(super) address: Ipv4Addr,
    pub(super) role: Role,
    /// The signal that asks it to stop, as a number.
    pub(super) stop_signal: u32,
    /// Seconds from that signal to the end; earlier releases did not say.
    #[serde(default)]
    pub(super) grace_secs: Option<u32>,
}

/// What a container is in its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Role {
    /// Runs to its end before the others.
    Init,
    /// Runs as long as the replica.
    Main,
}

/// The id of a container: short, and the same for the same names.
pub(super) fn container_id(replica: &ReplicaName, container: &str) -> String {
    let digest = Digest::of(format!("{replica}/{container}").as_bytes()).hex();
    format!("sk-{}", &digest[..24])
}

/// Whether an id is one that [`container_id`] gives.
pub(super) fn is_ours(id: &str) -> bool {
    id.strip_prefix("sk-")
        .is_some_and(|rest| rest.len() == 24 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Labels and extension for a container of `order`.
pub(super) fn describe(
    order: &ReplicaOrder,
    container: &str,
    role: Role,
    stop_signal: u32,
) -> (BTreeMap<String, String>, BTreeMap<String, Any>) {
    let labels = [
        ("environment", order.environment.as_str()),
        ("app", order.app.as_str()),
        ("revision", order.revision.as_str()),
        ("replica", order.replica.as_str()),
        ("container", container),
        ("boot", &order.boot),
    ];
    let labels = labels.map(|(key, value)| (format!("{PREFIX}{key}"), value.to_owned()));
    let facts = Facts {
        template_digest: order.template_digest.to_string(),
        address: order.place.address,
        role,
        stop_signal,
        grace_secs: order.template.termination_grace_period_secs,
    };
    let value = serde_json::to_vec(&facts).expect("facts are plain fields");
    let facts = Any { type_url: EXTENSION.to_owned(), value };
    (labels.into(), BTreeMap::from([(EXTENSION.to_owned(), facts)]))
}

impl Record {
    /// The record, if it is one of ours; whatever else lives in the namespace is left alone.
    pub(super) fn of(container: &Container) -> Option<Self> {
        let label = |key: &str| container.labels.get(&format!("{PREFIX}{key}"));
        let facts = container.extensions.get(EXTENSION)?;
        Some(Self {
            id: container.id.clone(),
            environment: label("environment")?.parse().ok()?,
            app: label("app")?.parse().ok()?,
            revision: label("revision")?.parse().ok()?,
            replica: label("replica")?.parse().ok()?,
            container: label("container")?.clone(),
            boot: label("boot")?.clone(),
            facts: serde_json::from_slice(&facts.value).ok()?,
        })
    }
}
