//! What must hold of steps, of the traffic and of what runs, looked at in every round.

use std::collections::{BTreeMap, BTreeSet};

use super::board::Time;
use super::run::{Checked, Run, Violation, broken};
use super::wants::{asked, is_recreated, is_single};
use crate::document::RevisionsMode;
use crate::model::{AppName, ReplicaName, RevisionName};
use crate::plan::{Doing, Fleet};
use crate::replica::ContainerState;
use crate::route::RouteTable;
use crate::state::{AppRecord, RevisionRecord, Standby};
use crate::status::Phase;

/// A sleep of this length is long enough to look what would be planned in it.
const SLEEP: Time = 1_000;

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
            if old.standby == Standby::Kept && new.standby == Standby::GivenUp {
                self.check_given_up(new)?;
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

    /// Nobody gives up standing by but under pressure, and for a revision that serves.
    fn check_given_up(&self, trial: &RevisionRecord) -> Checked {
        let mut health = self.agent.health.iter();
        let serves = health.any(|(name, health)| is_of(name, &trial.name) && health.ready);
        let pressed = self.now < self.troubles.pressure;
        if serves && pressed && trial.phase == Phase::Probation {
            return Ok(());
        }
        let details = format!("{} serves {serves}, memory is low {pressed}", trial.name);
        broken("gives the stand-by up in vain", details)
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
            let stops = matches!(self.agent.doing.get(*name), Some(Doing::Stopping));
            let ready = real.is_ready(self.now) && self.proved.contains(*name);
            is_of(name, &revision.name) && ready && !stops
        });
        // It has to come with as many as the one before it has.
        let all = record.revisions.iter().map(|known| asked(record, known));
        let known = all.max().unwrap_or(0);
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

    /// Requests go to replicas that are ready, and to a revision that has proved itself where there is one.
    pub(super) fn check_routes(&self, fleet: &Fleet<'_>, routes: &RouteTable) -> Checked {
        for service in routes.environments.values().flat_map(|routes| routes.apps.values()) {
            for backend in service.revisions.values().flatten() {
                let name = &backend.replica;
                let seen = self.agent.sight.replicas.get(name);
                let running =
                    |state: &ContainerState| matches!(state, ContainerState::Running { .. });
                let runs = seen.is_some_and(|seen| seen.containers.values().all(running));
                // What was ready when it was frozen is so when it is thawed, until a probe finds otherwise.
                let thawed = self.agent.memory.is_thawed(name);
                let health = self.agent.health.get(name);
                let well = health.map_or(thawed, |health| health.ready);
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
                && !record.revisions.iter().any(|one| one.active && makes_way(record, one))
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
        let seen = self.board.replicas.get(name).map(|real| &real.seen);
        // One that failed or was removed serves no more, though some of its replicas could.
        let failed = seen.and_then(|seen| record.revision(&seen.revision));
        let failed = failed.is_none_or(|one| one.phase == Phase::RolledBack);
        let wanted = 0 < record.wanted_replicas().count() && !failed;
        let home = record.in_force().map(|document| &document.environment);
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
            *other != name && twin.is_there() && twin.seen.address == real.seen.address
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

/// Its replicas stop before others come: it was asked for, or a restarted one holds a device.
fn makes_way(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let holds = 0 < revision.restarts && !revision.template.extras.devices.is_empty();
    holds || is_recreated(record, revision)
}
