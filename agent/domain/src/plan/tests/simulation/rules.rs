//! What must hold whatever happens, looked at in every round.

use std::collections::{BTreeMap, BTreeSet};

use super::board::Time;
use super::run::{Checked, Run, Violation, broken};
use crate::document::{RevisionsMode, UpdateStrategy};
use crate::model::{AppName, ReplicaName, RevisionName};
use crate::plan::{Action, Doing, Fleet};
use crate::replica::{ContainerState, ObservedReplica};
use crate::route::RouteTable;
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

/// A sleep of this length is long enough to look what would be planned in it.
const SLEEP: Time = 1_000;

/// How many replicas a revision is asked to have, told from the documents alone.
pub(super) fn asked(record: &AppRecord, revision: &RevisionRecord) -> u32 {
    if record.removed || record.stopped || !revision.active {
        return 0;
    }
    let scale = &revision.template.scale;
    let most = record.scale.max_replicas.unwrap_or(scale.max_replicas).max(1);
    let least = record.scale.min_replicas.unwrap_or(scale.min_replicas).min(most);
    record.scale.replicas.unwrap_or(least.max(1))
}

/// Its newest template was tried and given up.
pub(super) fn was_rolled_back(record: &AppRecord) -> bool {
    record.latest().is_some_and(|latest| latest.phase == Phase::RolledBack)
}

pub(super) fn is_single(record: &AppRecord) -> bool {
    let document = record.document();
    document.is_some_and(|document| {
        document.configuration.active_revisions_mode == RevisionsMode::Single
    })
}

/// The one before it has to go first: the document wants it so, or a device does.
fn is_recreated(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let document = record.document_of(revision);
    let devices = &revision.template.extras.devices;
    let shared = record.revisions.iter().any(|other| {
        let theirs = &other.template.extras.devices;
        other.active
            && other.name != revision.name
            && theirs.iter().any(|one| devices.iter().any(|own| own.host_path == one.host_path))
    });
    shared || document.is_some_and(|one| one.skerry.update_strategy == UpdateStrategy::Recreate)
}

/// How many replicas a revision must keep while others are on their way.
pub(super) fn kept(record: &AppRecord, revision: &RevisionRecord) -> u32 {
    let asked = asked(record, revision);
    if !is_single(record) || revision.phase != Phase::Committed {
        return asked;
    }
    let newer = record.revisions.iter().rev().take_while(|one| one.name != revision.name);
    let least = newer.filter(|one| one.active).map(|one| match one.phase {
        Phase::Starting | Phase::Probation if is_recreated(record, one) => 0,
        Phase::Probation => 1,
        Phase::Fetching
        | Phase::Staged
        | Phase::Starting
        | Phase::Committed
        | Phase::RolledBack => asked,
    });
    least.min().unwrap_or(asked).min(asked)
}

fn is_arrow(from: Phase, to: Phase) -> bool {
    use Phase::{Committed, Fetching, Probation, RolledBack, Staged, Starting};
    match (from, to) {
        (Fetching, Staged | RolledBack)
        | (Staged, Starting | RolledBack)
        | (Starting, Probation | Committed | RolledBack)
        | (Probation, Committed | RolledBack) => true,
        (from, to) => from == to,
    }
}

impl Run {
    /// Between two events nothing is learned: what is to be done in between must have been asked for.
    pub(super) fn check_sleep(&mut self, next: Time) -> Checked {
        let agent = &self.agent;
        let idle = agent.up && agent.sight.looked && agent.sight.trouble.is_none();
        if next < self.now + SLEEP || !idle || self.now < self.troubles.disk {
            return Ok(());
        }
        if !self.dice.once_in(4) {
            return Ok(());
        }
        let plan = self.plan_at(next - 1);
        if plan.steps.is_empty() && plan.actions.is_empty() {
            return Ok(());
        }
        let details = format!("until {next}: {:?} {:?}", plan.steps, plan.actions);
        broken("sleeps while there is something to do", details)
    }

    /// A step keeps what serves, and goes along an arrow.
    pub(super) fn check_step(&self, after: &AppRecord) -> Checked {
        let Some(before) = self.agent.state.apps.get(&after.name) else { return Ok(()) };
        let labels = before.mode() == RevisionsMode::Labels;
        if before.serving().is_some() && after.serving().is_none() && !after.removed && !labels {
            return broken("loses the revision that serves", after.name.to_string());
        }
        for new in &after.revisions {
            let Some(old) = before.revisions.iter().find(|old| old.name == new.name) else {
                return broken("a step makes a revision", new.name.to_string());
            };
            if old.digest != new.digest {
                return broken("a revision changes", new.name.to_string());
            }
            if !is_arrow(old.phase, new.phase) {
                let details = format!("{}: {:?} to {:?}", new.name, old.phase, new.phase);
                return broken("not an arrow", details);
            }
            if old.phase != Phase::RolledBack && new.phase == Phase::RolledBack {
                self.check_failure(before, new)?;
            }
            if old.was_ready && !new.was_ready {
                return broken("was ready and never was", new.name.to_string());
            }
            if !old.was_ready && new.was_ready {
                self.check_proof(after, new)?;
            }
        }
        Ok(())
    }

    /// A revision that takes over has as many ready replicas as it is asked to have, and they really are.
    fn check_proof(&self, record: &AppRecord, revision: &RevisionRecord) -> Checked {
        let proved = self.proved.iter().filter(|name| is_of(name, &revision.name)).count();
        let ready = self.board.replicas.iter().filter(|(name, real)| {
            is_of(name, &revision.name) && real.is_ready(self.now) && !self.proved.contains(*name)
        });
        let (wanted, proved) = (asked(record, revision), proved + ready.count());
        let alone = !revision.template.extras.devices.is_empty();
        let wanted = if alone { 1 } else { wanted.max(1) };
        if proved < wanted as usize {
            let details = format!("{}: {proved} of {wanted} ever were", revision.name);
            return broken("takes over without being ready", details);
        }
        Ok(())
    }

    /// Nothing is rolled back that has as many ready replicas as it is asked to have.
    fn check_failure(&self, record: &AppRecord, revision: &RevisionRecord) -> Checked {
        let ready = self.board.replicas.iter().filter(|(name, real)| {
            is_of(name, &revision.name) && real.is_ready(self.now) && self.proved.contains(*name)
        });
        let known = record.revision(&revision.name).map_or(0, |known| asked(record, known));
        // One that became ready a moment ago may come too late.
        let settled = ready
            .filter(|(_, real)| real.ready_at + 5_000 < self.now && real.condemned_at > self.now);
        let count = settled.count();
        if 0 < known && known as usize <= count {
            return broken(
                "rolls back what is ready",
                format!("{}: {count} of {known}", revision.name),
            );
        }
        Ok(())
    }

    /// Nothing that runs as it should is touched, and no more is started than asked for.
    pub(super) fn check_actions(&self, actions: &[Action]) -> Checked {
        if actions.is_empty() {
            return Ok(());
        }
        let fleet = self.fleet();
        let stops: BTreeSet<&ReplicaName> = actions
            .iter()
            .filter_map(|action| if let Action::Stop(name, _) = action { Some(name) } else { None })
            .collect();
        self.check_once(actions)?;
        for action in actions {
            match action {
                Action::Fetch(_) | Action::Survey(..) => (),
                Action::Start(order) => {
                    let record = self.agent.state.apps.get(&order.app);
                    let Some(record) = record else {
                        return broken("starts what nobody asked for", order.replica.to_string());
                    };
                    self.check_bound(record, actions, &stops)?;
                    let revision = record.revision(&order.revision);
                    if is_single(record) && revision.is_some_and(|one| is_recreated(record, one)) {
                        self.check_alone(record, &order.replica, &order.revision)?;
                    }
                }
                Action::Restart(order, container, _) => {
                    self.check_restart(&fleet, &order.replica, container)?;
                }
                Action::Stop(name, _) => self.check_stop(&fleet, name, &stops)?,
            }
        }
        Ok(())
    }

    /// What is being done is not ordered again, nor two things at once of one replica.
    fn check_once(&self, actions: &[Action]) -> Checked {
        let agent = &self.agent;
        let mut replicas = BTreeSet::new();
        for action in actions {
            let (name, twice) = match action {
                Action::Fetch(order) => {
                    if agent.fetching.contains(&order.revision) {
                        return broken("ordered twice", order.revision.to_string());
                    }
                    continue;
                }
                Action::Survey(app, _) => {
                    if agent.surveying.contains(app) {
                        return broken("ordered twice", app.to_string());
                    }
                    continue;
                }
                Action::Start(order) => {
                    let known = agent.sight.replicas.contains_key(&order.replica);
                    (&order.replica, known || agent.doing.contains_key(&order.replica))
                }
                Action::Restart(order, ..) => {
                    (&order.replica, agent.doing.contains_key(&order.replica))
                }
                Action::Stop(name, _) => {
                    let doing = agent.doing.get(name);
                    (name, matches!(doing, Some(Doing::Stopping | Doing::Restarting(_))))
                }
            };
            if twice || !replicas.insert(name) {
                return broken("ordered twice", name.to_string());
            }
        }
        Ok(())
    }

    fn check_bound(
        &self,
        record: &AppRecord,
        actions: &[Action],
        stops: &BTreeSet<&ReplicaName>,
    ) -> Checked {
        let mut asks: Vec<u32> =
            record.revisions.iter().map(|revision| asked(record, revision)).collect();
        if is_single(record) {
            // The newest, and one that it takes over from.
            let latest = asks.pop().unwrap_or(0);
            let before = asks.into_iter().max().unwrap_or(0);
            // A new one comes with as many as the one before it has. That may be on trial still, and the one before
            // that keeps a replica until this is over.
            let on_trial = record.revisions.iter().any(|one| one.phase == Phase::Probation);
            asks = vec![latest.max(before), before, u32::from(on_trial)];
        }
        let allowed: u32 = asks.into_iter().sum();
        let stopping = |name: &ReplicaName| {
            stops.contains(name) || matches!(self.agent.doing.get(name), Some(Doing::Stopping))
        };
        let seen = self.agent.sight.replicas.iter().filter(|(name, seen)| {
            // Those from before a restart go when their successors are there.
            let revision = record.revision(&seen.revision);
            let outdated = revision.is_some_and(|one| one.is_earlier_mark(seen.template_digest));
            let counts = seen.app == record.name && self.is_of_this_boot(name, seen);
            counts && !outdated && !stopping(name)
        });
        let starting = self.agent.doing.iter().filter(|(name, doing)| match doing {
            Doing::Starting(order) | Doing::Restarting(order) => {
                let unseen = !self.agent.sight.replicas.contains_key(*name);
                order.app == record.name && unseen && !stopping(name)
            }
            Doing::Stopping => false,
        });
        let starts = actions
            .iter()
            .filter(|action| matches!(action, Action::Start(order) if order.app == record.name));
        let count = seen.count() + starting.count() + starts.count();
        if (allowed as usize) < count {
            let details = format!("{count} of {} where {allowed} are allowed", record.name);
            return broken("more than asked plus the surge", details);
        }
        Ok(())
    }

    /// A replica of an app that is recreated starts when those of its other revisions are gone.
    fn check_alone(
        &self,
        record: &AppRecord,
        name: &ReplicaName,
        revision: &RevisionName,
    ) -> Checked {
        let other = self.board.replicas.iter().find(|(one, real)| {
            *one != name
                && real.lives()
                && real.seen.app == record.name
                && real.seen.revision != *revision
        });
        match other {
            Some((other, _)) => {
                broken("two revisions where one is to be recreated", format!("{name} and {other}"))
            }
            None => Ok(()),
        }
    }

    fn is_of_this_boot(&self, name: &ReplicaName, seen: &ObservedReplica) -> bool {
        let agent = &self.agent;
        let stands = agent.sight.namespaces.contains(name) || agent.doing.contains_key(name);
        seen.boot == agent.settings.boot && stands
    }

    fn check_restart(&self, fleet: &Fleet<'_>, name: &ReplicaName, container: &str) -> Checked {
        let seen = self.agent.sight.replicas.get(name);
        let state = seen.and_then(|seen| seen.containers.get(container));
        if !matches!(state, Some(ContainerState::Running { .. })) {
            return Ok(());
        }
        let views = seen.map(|seen| fleet.replicas(&seen.revision)).unwrap_or_default();
        let view = views.iter().find(|view| view.name == *name);
        let health = view.and_then(|view| view.health);
        if health.is_some_and(|health| health.unhealthy.iter().any(|one| one == container)) {
            return Ok(());
        }
        broken("restarts what runs", format!("{container} of {name}"))
    }

    fn check_stop(
        &self,
        fleet: &Fleet<'_>,
        name: &ReplicaName,
        stops: &BTreeSet<&ReplicaName>,
    ) -> Checked {
        let agent = &self.agent;
        let Some(seen) = agent.sight.replicas.get(name) else { return Ok(()) };
        if !self.is_of_this_boot(name, seen) {
            return Ok(());
        }
        let Some(record) = agent.state.apps.get(&seen.app) else { return Ok(()) };
        let Some(revision) = record.revision(&seen.revision) else { return Ok(()) };
        let home = record.document_of(revision).map(|document| &document.environment);
        let moved = home != Some(&seen.environment);
        let current = revision.mark() == seen.template_digest;
        if !current && !revision.is_earlier_mark(seen.template_digest) {
            return Ok(());
        }
        let running = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
        let wanted = kept(record, revision) as usize;
        if moved || wanted == 0 || !seen.containers.values().all(running) {
            return Ok(());
        }
        let views = fleet.replicas(&revision.name);
        let kept = || views.iter().filter(|view| !stops.contains(&view.name) && !view.outdated);
        let ready = views.iter().any(|view| view.name == *name && view.ready);
        if !current
            && !is_recreated(record, revision)
            && kept().filter(|one| one.ready).count() < wanted
        {
            return broken("stops one from before a restart too early", name.to_string());
        }
        if !current && revision.refetch && !revision.images.is_empty() {
            return broken("stops before its successor can start", name.to_string());
        }
        if current && kept().count() < wanted {
            return broken("stops what runs as it should", name.to_string());
        }
        if current && ready && kept().any(|view| !view.ready) {
            return broken("stops a ready one and keeps one that is not", name.to_string());
        }
        Ok(())
    }

    /// Requests go to replicas that are ready, and to a revision that has proved itself where there is one.
    pub(super) fn check_routes(&self, fleet: &Fleet<'_>, routes: &RouteTable) -> Checked {
        for service in routes.environments.values().flat_map(|routes| routes.apps.values()) {
            for backend in service.revisions.values().flatten() {
                let name = &backend.replica;
                let seen = self.agent.sight.replicas.get(name);
                let running =
                    |state: &ContainerState| matches!(state, ContainerState::Running { .. });
                let runs = seen.is_some_and(|seen| seen.containers.values().all(running));
                let well = self.agent.health.get(name).is_some_and(|health| health.ready);
                if !runs || !well || self.agent.doing.contains_key(name) {
                    return broken("traffic to a replica that is not ready", name.to_string());
                }
            }
            let Some(record) = self.agent.state.apps.get(&service.app) else {
                return broken("traffic to an app that there is not", service.app.to_string());
            };
            let proved = |name: &RevisionName| {
                record.revisions.iter().any(|one| one.name == *name && one.was_ready && one.active)
            };
            let other = record
                .revisions
                .iter()
                .find(|one| one.active && one.was_ready && 0 < fleet.ready(&one.name));
            let unproved =
                service.split.iter().find(|share| 0 < share.weight && !proved(&share.revision));
            if let (Some(share), Some(other)) = (unproved, other) {
                let details = format!("{} while {} serves", share.revision, other.name);
                return broken("traffic to a revision that was never ready", details);
            }
        }
        Ok(())
    }

    /// Who serves is not taken out of service while nobody else can: not one request is lost to a decision.
    pub(super) fn check_service(
        &self,
        routes: &RouteTable,
    ) -> Result<BTreeMap<AppName, BTreeSet<ReplicaName>>, Violation> {
        let mut served = BTreeMap::new();
        for service in routes.environments.values().flat_map(|routes| routes.apps.values()) {
            let shares = service.split.iter().filter(|share| 0 < share.weight);
            let backends = shares.filter_map(|share| service.revisions.get(&share.revision));
            let names: BTreeSet<ReplicaName> =
                backends.flatten().map(|backend| backend.replica.clone()).collect();
            let before = self.agent.served.get(&service.app);
            let well = |name: &&ReplicaName| {
                let real = self.board.replicas.get(*name);
                let well = real.is_some_and(|real| real.is_ready(self.now));
                well && self.agent.sight.namespaces.contains(*name)
            };
            if names.is_empty()
                && let Some(lost) = before.into_iter().flatten().find(well)
                && let Some(record) = self.agent.state.apps.get(&service.app)
                && is_single(record)
                && !record.revisions.iter().any(|one| one.active && is_recreated(record, one))
                && self.is_to_serve(record, lost)
            {
                let details = format!("{lost} served {} and could still", service.app);
                broken("nobody serves where somebody could", details)?;
            }
            served.insert(service.app.clone(), names);
        }
        Ok(served)
    }

    /// The app is to run, and the replica is where it is to run.
    fn is_to_serve(&self, record: &AppRecord, name: &ReplicaName) -> bool {
        let wanted = 0 < record.wanted_replicas().count();
        let home = record.in_force().map(|document| &document.environment);
        let seen = self.board.replicas.get(name).map(|real| &real.seen);
        let health = self.agent.health.get(name);
        wanted
            && health.is_some_and(|health| health.ready && health.unhealthy.is_empty())
            && seen.map(|seen| &seen.environment) == home
    }

    /// A process that starts holds its things alone.
    pub(super) fn check_run(&self, name: &ReplicaName) -> Checked {
        let Some(real) = self.board.replicas.get(name) else { return Ok(()) };
        for device in &real.devices {
            if let Some(other) = self.board.holders(device, name).next() {
                let details = format!("{name} and {other} hold {device}");
                return broken("two replicas with one device", details);
            }
        }
        let twin = self.board.replicas.iter().find(|(other, twin)| {
            *other != name && twin.lives() && twin.seen.address == real.seen.address
        });
        if let Some((other, _)) = twin {
            let details = format!("{name} and {other} at {}", real.seen.address);
            return broken("two replicas with one address", details);
        }
        Ok(())
    }
}

/// A replica's name begins with its revision's.
fn is_of(name: &ReplicaName, revision: &RevisionName) -> bool {
    let rest = name.as_str().strip_prefix(revision.as_str());
    rest.is_some_and(|rest| rest.starts_with('-') && rest.len() == 6)
}
