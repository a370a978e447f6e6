//! What others see: statuses for people and control planes, routes, zones and announcements for the network, probes
//! for the prober, samples for scale rules. Each is derived from state and fleet alone, so that it cannot disagree with them.

mod apps;
mod environments;
mod network;
mod samples;
mod uses;

use std::collections::BTreeMap;

use crate::document::effective_probes;
use crate::plan::{Doing, Fleet, Memory, Origin, World};
use crate::probe::{ProbePlan, ProbeTarget};
use crate::state::{AppRecord, RevisionRecord, State};

pub use self::apps::{app_status, job_status, refused_job, refused_status};
pub use self::environments::{environments, refused_environment, removed_environments};
pub use self::network::{announcements, routes, zones};
pub use self::samples::samples;
pub use self::uses::{ImageUse, image_uses};

/// What is to be probed: every replica whose containers run. One whose pause is being called off may be paused still.
pub fn probes(state: &State, fleet: &Fleet<'_>) -> ProbePlan {
    let mut plan = BTreeMap::new();
    for record in state.apps.values() {
        for revision in &record.revisions {
            for replica in fleet.replicas(&revision.name) {
                let starts = matches!(replica.doing, Some(Doing::Starting(_)));
                let condemned = replica.health.is_some_and(|health| !health.unhealthy.is_empty());
                if !starts && (replica.is_running(revision) || condemned) {
                    let target = ProbeTarget {
                        address: replica.address,
                        probes: replica_probes(record, revision),
                        epoch: u64::from(replica.restart_count),
                        // One that was never ready was not ready either when the agent went away.
                        // One that was paused while it was ready still is.
                        adopted: replica.origin == Origin::Freezer
                            || replica.origin == Origin::Earlier
                                && replica.restart_count == 0
                                && revision.was_ready,
                    };
                    plan.insert(replica.name.clone(), target);
                }
            }
        }
    }
    plan
}

fn replica_probes(record: &AppRecord, revision: &RevisionRecord) -> Vec<crate::probe::Probe> {
    let document = record.document_of(revision);
    let ingress = document.and_then(|document| document.configuration.ingress.as_ref());
    let port = ingress.map(|ingress| ingress.target_port).filter(|port| *port != 0);
    let main = revision.template.containers.first().map(|container| container.name.as_str());
    let containers = revision.template.containers.iter();
    containers
        .flat_map(|container| {
            let commands = revision.template.extras.exec_probes.get(&container.name);
            let port = port.filter(|_| main == Some(container.name.as_str()));
            effective_probes(container, commands, port)
        })
        .collect()
}

/// Everything that is seen, at once.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// What is desired, and how far it has come.
    pub state: &'a State,
    /// What runs.
    pub fleet: &'a Fleet<'a>,
    /// The world it runs in.
    pub world: World<'a>,
    /// What went wrong.
    pub memory: &'a Memory,
    /// Names held on the LAN.
    pub lan_names: &'a crate::zone::LanNames,
    /// Who has which TCP port.
    pub ports: &'a crate::ports::Holders,
    /// What keeps listeners from their ports, by their names.
    pub listeners: &'a BTreeMap<String, crate::replica::Trouble>,
}
