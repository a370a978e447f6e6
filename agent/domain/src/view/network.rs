//! Routes, zones, announcements.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::Arc;

use super::Scene;
use crate::document::{AppDocument, Ingress};
use crate::ipam;
use crate::model::{AppName, EnvironmentName, RevisionName};
use crate::ports::{self, Port};
use crate::reason::Reason;
use crate::rollout::diagnosis;
use crate::route::{Backend, EnvironmentRoutes, Ports, RouteTable, Service, Side, Sleep};
use crate::state::{AppRecord, RevisionRecord, Wanted};
use crate::traffic::{self, Split};
use crate::zone::{AnnouncedApp, Announcements, Zone, ZoneEntry, Zones};

/// What the ingress does.
pub fn routes(scene: Scene<'_>) -> RouteTable {
    let mut environments: BTreeMap<EnvironmentName, EnvironmentRoutes> = BTreeMap::new();
    for (environment, subnet) in scene.world.subnets {
        environments.insert(
            environment.clone(),
            EnvironmentRoutes {
                gateway: ipam::gateway(*subnet),
                suffix: scene.world.settings.suffix(environment),
                apps: BTreeMap::new(),
                ports: BTreeMap::new(),
            },
        );
    }
    let mut lan = Ports::new();
    for (record, document, ingress) in with_ingress(scene) {
        let Some(routes) = environments.get_mut(&document.environment) else { continue };
        let whole = Arc::new(service(scene, record, ingress));
        for port in ports::of(ingress) {
            for side in port.sides(&document.environment) {
                if !scene.ports.has(&record.name, &side, port.exposed) {
                    continue;
                }
                let behind = match port.additional {
                    None => Arc::clone(&whole),
                    Some(_) => Arc::new(behind(port, &whole, record)),
                };
                match side {
                    Side::Lan => lan.insert(port.exposed, behind),
                    Side::Environment(_) => routes.ports.insert(port.exposed, behind),
                };
            }
        }
        routes.apps.insert(record.name.clone(), whole);
    }
    RouteTable { environments, ports: lan }
}

/// The same app behind one of its additional ports.
fn behind(port: Port, service: &Service, record: &AppRecord) -> Service {
    let mut behind = service.clone();
    for (name, backends) in &mut behind.revisions {
        // A document that moves image and targetPort together breaks neither revision.
        let own = record.revision(name).and_then(|revision| record.document_of(revision));
        let own = own.and_then(|document| document.configuration.ingress.as_ref());
        let own = own.map_or(Vec::new(), ports::of).into_iter();
        let same = |one: &Port| one.additional.is_some() && one.exposed == port.exposed;
        let target = own.into_iter().find(same).unwrap_or(port).target;
        for backend in backends {
            backend.address.set_port(target);
        }
    }
    behind
}

/// Apps that are reached, by the document in force: that of the revision that serves.
fn with_ingress(scene: Scene<'_>) -> impl Iterator<Item = (&AppRecord, &AppDocument, &Ingress)> {
    scene.state.apps.values().filter(|record| !record.removed).filter_map(|record| {
        let document = record.in_force()?;
        Some((record, document, document.configuration.ingress.as_ref()?))
    })
}

fn service(scene: Scene<'_>, record: &AppRecord, ingress: &Ingress) -> Service {
    let backends = |revision: &RevisionRecord| -> Vec<Backend> {
        // A document that moves image and targetPort together breaks neither revision.
        let own = record.document_of(revision);
        let own = own.and_then(|document| document.configuration.ingress.as_ref());
        let port = own.unwrap_or(ingress).target_port;
        let replicas = scene.fleet.replicas(&revision.name).iter();
        let ready = replicas.filter(|replica| replica.ready);
        let backend = |replica: &crate::plan::ReplicaView<'_>| Backend {
            replica: replica.name.clone(),
            address: SocketAddrV4::new(replica.address, port),
        };
        ready.map(backend).collect()
    };
    let split = split(record, scene);
    let active = || record.revisions.iter().filter(|revision| revision.active);
    Service {
        app: record.name.clone(),
        external: ingress.external,
        transport: ingress.transport,
        lan_name: scene.lan_names.get(&record.name).cloned().unwrap_or_default().to_lowercase(),
        domains: ingress.custom_domains.iter().map(|domain| domain.name.to_lowercase()).collect(),
        split: split.shares,
        revisions: active().map(|revision| (revision.name.clone(), backends(revision))).collect(),
        asleep: active()
            .filter_map(|revision| Some((revision.name.clone(), sleep(record, revision, scene)?)))
            .collect(),
        labels: split.labels,
        unready: unready(record),
    }
}

/// Whether a request wakes a revision, or waits for one that is being woken.
fn sleep(record: &AppRecord, revision: &RevisionRecord, scene: Scene<'_>) -> Option<Sleep> {
    if !revision.has_served() {
        return None;
    }
    match record.wanted_of(revision) {
        Wanted::Asleep => return Some(Sleep::Wakes),
        Wanted::Some(_) if scene.memory.wakes(&revision.name) => (),
        Wanted::None | Wanted::PinnedToZero | Wanted::Some(_) => return None,
    }
    let replicas = scene.fleet.replicas(&revision.name).iter();
    let troubles = replicas
        .filter_map(|replica| diagnosis::of_replica(revision, replica, scene.memory))
        .map(|trouble| trouble.reason);
    let failing = troubles.into_iter().find(|reason| diagnosis::is_failure(*reason));
    // It comes as soon as another one has gone.
    let passes = [Reason::WaitingForStop, Reason::DeviceBusy];
    let kept = scene.memory.trouble(&revision.name).or(scene.world.runtime);
    let kept = kept.map(|trouble| trouble.reason).filter(|reason| !passes.contains(reason));
    let reason = kept.or(failing);
    Some(reason.map_or(Sleep::Wakes, Sleep::Fails))
}

/// Somebody can serve the requests for a revision, or can be woken.
fn serves(record: &AppRecord, name: &RevisionName, scene: Scene<'_>) -> bool {
    let asleep = || {
        let revision = record.revision(name)?;
        sleep(record, revision, scene)
    };
    0 < scene.fleet.ready(name) || asleep() == Some(Sleep::Wakes)
}

/// How an app's requests are divided now.
pub(super) fn split(record: &AppRecord, scene: Scene<'_>) -> Split {
    traffic::split(record, |revision| serves(record, revision, scene))
}

fn unready(record: &AppRecord) -> Reason {
    if record.stopped {
        return Reason::AppStopped;
    }
    match record.wanted_replicas() {
        Wanted::PinnedToZero => Reason::PinnedToZero,
        Wanted::None | Wanted::Asleep | Wanted::Some(_) => Reason::NoReadyReplica,
    }
}

/// What the DNS servers answer.
pub fn zones(scene: Scene<'_>) -> Zones {
    let mut zones: Zones = BTreeMap::new();
    for (environment, subnet) in scene.world.subnets {
        let zone = Zone {
            gateway: ipam::gateway(*subnet),
            suffix: scene.world.settings.suffix(environment),
            host: scene.world.settings.host_allowed,
            apps: BTreeMap::new(),
        };
        zones.insert(environment.clone(), zone);
    }
    for (record, document, ingress) in with_ingress(scene) {
        let Some(zone) = zones.get_mut(&document.environment) else { continue };
        let split = split(record, scene);
        let shares = split.shares.iter();
        let replicas = shares.flat_map(|share| scene.fleet.replicas(&share.revision));
        let ready = replicas.filter(|replica| replica.ready);
        let entry = ZoneEntry {
            port: ingress.target_port,
            replicas: ready.map(|replica| replica.address).collect(),
        };
        zone.apps.insert(record.name.clone(), entry);
    }
    zones
}

/// What is announced on the LAN: external apps that somebody can serve.
pub fn announcements(scene: Scene<'_>) -> Announcements {
    let mut apps: BTreeMap<AppName, AnnouncedApp> = BTreeMap::new();
    for (record, _, ingress) in with_ingress(scene) {
        let split = split(record, scene);
        let port = ports::own(ingress).map(|port| port.exposed);
        // What another app has is not announced.
        let reached = port.is_none_or(|port| scene.ports.has(&record.name, &Side::Lan, port));
        if ingress.external
            && reached
            && let Some(revision) = split.main().filter(|main| serves(record, main, scene))
        {
            let revision = revision.clone();
            apps.insert(record.name.clone(), AnnouncedApp { revision, port });
        }
    }
    Announcements { apps }
}
