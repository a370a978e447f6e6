//! Outcomes: what came of deeds, and what the loop learns from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::model::{EnvironmentName, ReplicaName, RevisionName};
use domain::plan::Doing;
use domain::reason::Reason;
use domain::replica::{ContainerState, ObservedReplica, ReplicaOrder, ResolvedImage, Trouble};
use domain::rollout;
use domain::state::Changes;
use ipnet::Ipv4Net;
use tracing::{debug, info, warn};

use super::{Outcome, RESYNC, RETRY, Reconciler};
use crate::network::{Network, NetworkError, ObservedNetwork};
use crate::runtime::{Runtime, RuntimeError};
use crate::store::Store;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Takes in an outcome, and those that came with it.
    pub(super) async fn absorb_all(&mut self, outcome: Outcome) {
        self.absorb(outcome).await;
        while let Ok(outcome) = self.outcomes.1.try_recv() {
            self.absorb(outcome).await;
        }
    }

    async fn absorb(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Looked { begun, replicas, network, held } => {
                if replicas.is_ok() {
                    self.memory.holds(held);
                }
                self.looked(begun, replicas, network);
            }
            Outcome::Settled(result) => self.settled(result),
            Outcome::Fetched(revision, result) => self.fetched(revision, result).await,
            Outcome::Started(replica, result) => self.started(&replica, result),
            Outcome::Prepared(replica, tier, result) => self.prepared(&replica, tier, result),
            Outcome::Frozen(replica, result) => self.frozen(&replica, result),
            Outcome::CalledBack(replica, result) => self.called_back(&replica, result),
            Outcome::Restarted(replica, container, result) => {
                self.restarted(&replica, &container, result);
            }
            Outcome::Stopped(replica, result) => self.stopped(&replica, result),
            Outcome::Surveyed(app, result) => {
                self.surveying.remove(&app);
                let survey = result.map_err(|error| error.trouble());
                self.memory.surveyed(app, survey, self.clock.now());
            }
            Outcome::Cleared(result) => self.images_cleared(result),
            Outcome::Listens(replica, listeners) => self.listens(replica, listeners),
            Outcome::GivenUp => (),
        }
    }

    fn looked(
        &mut self,
        begun: u64,
        replicas: Result<BTreeMap<ReplicaName, ObservedReplica>, RuntimeError>,
        network: Result<ObservedNetwork, NetworkError>,
    ) {
        let now = self.clock.now();
        self.sight.looking = false;
        self.sight.next = now.after(RESYNC);
        match (replicas, network) {
            (Ok(replicas), Ok(network)) => {
                if self.sight.trouble.take().is_some() {
                    info!("containerd answers");
                }
                self.see(begun, replicas, network);
            }
            (Err(error), Ok(network)) => {
                self.adopt_networks(network.environments);
                self.cannot_look(error.trouble());
            }
            (Err(error), Err(_)) => self.cannot_look(error.trouble()),
            (Ok(_), Err(error)) => self.cannot_look(error.0),
        }
        if self.sight.stale {
            self.look();
        }
    }

    fn cannot_look(&mut self, trouble: Trouble) {
        if self.sight.trouble.as_ref() != Some(&trouble) {
            warn!(reason = %trouble.reason, details = trouble.details, "cannot look");
        }
        self.sight.next = self.clock.now().after(RETRY);
        self.sight.trouble = Some(trouble);
    }

    /// Takes a look over, except where a deed ended after it began: there the loop knows better.
    fn see(
        &mut self,
        begun: u64,
        mut replicas: BTreeMap<ReplicaName, ObservedReplica>,
        mut network: ObservedNetwork,
    ) {
        self.sight.ended.retain(|_, ended| begun < *ended);
        for name in self.sight.ended.keys() {
            match self.sight.replicas.get(name) {
                Some(known) => drop(replicas.insert(name.clone(), known.clone())),
                None => drop(replicas.remove(name)),
            }
            if self.sight.namespaces.contains(name) {
                network.namespaces.insert(name.clone());
            } else {
                network.namespaces.remove(name);
            }
        }
        self.sight.replicas = replicas;
        self.sight.namespaces = network.namespaces;
        self.adopt_networks(network.environments);
    }

    /// Bridges of an earlier run keep their subnets, and their apps serve before the rules are looked over. One that
    /// went away behind our back is made anew.
    fn adopt_networks(&mut self, seen: BTreeMap<EnvironmentName, Ipv4Net>) {
        self.nets.seen = true;
        let stands = |(name, subnet): (&EnvironmentName, &Ipv4Net)| seen.get(name) == Some(subnet);
        if self.nets.settled.is_none() {
            self.nets.subnets = seen;
        } else if !self.nets.settling && !self.nets.subnets.iter().all(stands) {
            warn!("a bridge is gone or changed; the networks are made anew");
            self.nets.settled = None;
        }
    }

    fn settled(
        &mut self,
        result: Result<(BTreeMap<EnvironmentName, Ipv4Net>, Vec<Trouble>), NetworkError>,
    ) {
        self.nets.settling = false;
        match result {
            Ok((subnets, remarks)) => {
                self.nets.settled = Some(subnets.keys().cloned().collect());
                self.nets.subnets = subnets;
                self.nets.remarks = remarks;
                self.nets.trouble = None;
            }
            Err(NetworkError(trouble)) => {
                warn!(reason = %trouble.reason, details = trouble.details, "networks do not stand");
                self.nets.retry_at = self.clock.now().after(RETRY);
                self.nets.trouble = Some(trouble);
            }
        }
    }

    async fn fetched(
        &mut self,
        revision: RevisionName,
        result: Result<Vec<ResolvedImage>, RuntimeError>,
    ) {
        self.fetching.remove(&revision);
        debug!(%revision, "fetched");
        let now = self.clock.now();
        let images = match result {
            Ok(images) => images,
            Err(error) => {
                warn!(%revision, %error, "images are missing");
                let trouble = error.trouble();
                let app = self.app_of(&revision);
                let first = self.memory.trouble(&revision) != Some(&trouble);
                if first {
                    let message = trouble.details.clone();
                    self.emit(trouble.reason, app.as_ref(), Some(&revision), None, message);
                }
                self.note_pulls();
                if let Some(record) = app.and_then(|app| self.state.apps.get(&app))
                    && let Some(found) = record.revision(&revision)
                {
                    self.memory.fetch_went_on(&revision, found.template.images());
                }
                if trouble.reason == Reason::ImageNoSpace {
                    self.make_room(now);
                }
                self.memory.fetch_failed(revision, trouble, now);
                return;
            }
        };
        self.memory.fetched(&revision);
        let Some(app) = self.app_of(&revision) else { return };
        let Some(mut record) = self.state.apps.get(&app).cloned() else { return };
        let Some(found) = record.revision(&revision) else { return };
        let images: BTreeMap<String, ResolvedImage> =
            images.into_iter().map(|image| (image.reference.clone(), image)).collect();
        let template = Arc::clone(&found.template);
        let mut wanted = template.init_containers.iter().chain(&template.containers);
        if let Some(missing) = wanted.find(|container| !images.contains_key(&container.image)) {
            // They were fetched for a removed revision of the same name.
            let details = format!("{} was not fetched yet", missing.image);
            let trouble = Trouble { reason: Reason::PullingImage, details };
            self.memory.fetch_failed(revision, trouble, now);
            return;
        }
        rollout::staged(&mut record, &revision, images, &self.settings.boot, now);
        let changes = Changes { apps: vec![record], ..Changes::default() };
        if let Err(error) = self.commit(changes).await {
            self.memory.fetch_failed(revision, error.0, now);
        }
    }

    fn app_of(&self, revision: &RevisionName) -> Option<domain::model::AppName> {
        let mut apps = self.state.apps.values();
        let owner = apps.find(|app| app.revisions.iter().any(|known| known.name == *revision));
        owner.map(|app| app.name.clone())
    }

    pub(super) fn started(&mut self, replica: &ReplicaName, result: Result<(), Trouble>) {
        self.give_up.remove(replica);
        let order = match self.doing.get(replica) {
            Some(Doing::Starting(order)) => Arc::clone(order),
            Some(Doing::Stopping) => return self.started_too_late(replica),
            Some(Doing::Restarting(_) | Doing::Preparing(_) | Doing::Freezing) | None => return,
        };
        self.doing.remove(replica);
        let now = self.clock.now();
        self.end(replica);
        match result {
            Ok(()) => {
                let states = order.template.containers.iter().map(|container| {
                    (container.name.clone(), ContainerState::Running { since: now })
                });
                let seen = observed(&order, states.collect());
                let before = self.sight.replicas.get(replica);
                if before.is_some_and(stands_frozen) {
                    self.memory.thawed(replica);
                }
                self.sight.replicas.insert(replica.clone(), seen);
                self.sight.namespaces.insert(replica.clone());
                self.memory.started(&order.revision);
                let message = format!("at {}", order.place.address);
                self.emit(
                    Reason::ReplicaStarted,
                    Some(&order.app),
                    Some(&order.revision),
                    Some(replica),
                    message,
                );
            }
            Err(trouble) => {
                warn!(%replica, reason = %trouble.reason, details = trouble.details, "start failed");
                self.sight.replicas.remove(replica);
                self.sight.namespaces.remove(replica);
                if matches!(trouble.reason, Reason::ImageNotFound | Reason::ImageCorrupt) {
                    self.forget_images(&order.revision);
                }
                let message = trouble.details.clone();
                self.emit(
                    trouble.reason,
                    Some(&order.app),
                    Some(&order.revision),
                    Some(replica),
                    message,
                );
                self.memory.start_failed(order.revision.clone(), trouble, now);
            }
        }
        // A container may have ended already, and its event may have come before this outcome.
        self.look();
    }

    /// It was given up in the moment in which it ended: the next plan finds it and stops it.
    pub(super) fn started_too_late(&mut self, replica: &ReplicaName) {
        self.doing.remove(replica);
        self.end(replica);
        self.sight.ended.remove(replica);
        self.look();
    }

    /// Somebody removed the images behind our back: they are fetched again.
    fn forget_images(&mut self, revision: &RevisionName) {
        for app in self.state.apps.values_mut() {
            for known in app.revisions.iter_mut().filter(|known| known.name == *revision) {
                known.refetch = true;
            }
        }
    }

    fn restarted(
        &mut self,
        replica: &ReplicaName,
        container: &str,
        result: Result<(), RuntimeError>,
    ) {
        let Some(Doing::Restarting(order)) = self.doing.remove(replica) else { return };
        let now = self.clock.now();
        self.end(replica);
        let trouble = result.err().map(|error| error.trouble());
        // A look may have fallen into the moment in which its only record was made anew.
        let known = self.sight.replicas.entry(replica.clone()).or_insert_with(|| half_made(&order));
        if trouble.is_none() {
            known.containers.insert(container.to_owned(), ContainerState::Running { since: now });
        }
        let reason = trouble.as_ref().map_or(Reason::ContainerExited, |trouble| trouble.reason);
        let message = trouble.as_ref().map_or_else(
            || format!("container {container} was started again"),
            |trouble| trouble.details.clone(),
        );
        self.emit(reason, Some(&order.app), Some(&order.revision), Some(replica), message);
        self.memory.restarted(replica, container, trouble, now);
        self.look();
    }

    fn stopped(&mut self, replica: &ReplicaName, result: Result<(), Trouble>) {
        self.doing.remove(replica);
        self.end(replica);
        match result {
            Ok(()) => {
                let known = self.sight.replicas.remove(replica);
                self.sight.namespaces.remove(replica);
                let app = known.as_ref().map(|known| &known.app);
                let revision = known.as_ref().map(|known| &known.revision);
                self.emit(Reason::ReplicaStopped, app, revision, Some(replica), String::new());
            }
            Err(trouble) => {
                warn!(%replica, reason = %trouble.reason, details = trouble.details, "stop failed");
                self.sight.ended.remove(replica);
            }
        }
        self.look();
    }

    /// A deed ended: looks that began before know less than the loop.
    pub(super) fn end(&mut self, replica: &ReplicaName) {
        self.sight.sequence += 1;
        self.sight.ended.insert(replica.clone(), self.sight.sequence);
    }
}

/// It was paused while it was ready.
fn stands_frozen(seen: &ObservedReplica) -> bool {
    seen.containers.values().any(|state| matches!(state, ContainerState::Frozen { .. }))
}

/// A replica whose start is not over, as a look would find it.
pub(super) fn half_made(order: &ReplicaOrder) -> ObservedReplica {
    let containers = order.template.containers.iter();
    observed(order, containers.map(|one| (one.name.clone(), ContainerState::Created)).collect())
}

pub(super) fn observed(
    order: &ReplicaOrder,
    containers: BTreeMap<String, ContainerState>,
) -> ObservedReplica {
    ObservedReplica {
        app: order.app.clone(),
        revision: order.revision.clone(),
        environment: order.environment.clone(),
        boot: order.boot.clone(),
        template_digest: order.template_digest,
        grace: order.template.grace(),
        address: order.place.address,
        containers,
    }
}
