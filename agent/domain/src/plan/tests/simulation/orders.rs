//! What must hold of the orders of every round.

use std::collections::BTreeSet;

use super::run::{Checked, Run, broken};
use super::wants::{asked, gave_up, is_recreated, is_single, kept};
use crate::model::{ReplicaName, RevisionName};
use crate::plan::{Action, Doing, Fleet};
use crate::replica::{ContainerState, ObservedReplica, ReplicaOrder};
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

impl Run {
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
                Action::Prepare(order, tier) => self.check_prepare(&fleet, order, *tier, &stops)?,
                Action::Freeze(name, _) => self.check_freeze(&fleet, name)?,
                Action::Start(order) | Action::Wake(order, _) => {
                    if let Action::Wake(_, tier) = action {
                        self.check_wake(&fleet, order, *tier)?;
                    }
                    let record = self.agent.state.apps.get(&order.app);
                    let Some(record) = record else {
                        return broken("starts what nobody asked for", order.replica.to_string());
                    };
                    self.check_bound(record, &fleet, actions, &stops)?;
                    check_order(record, order)?;
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
                Action::Freeze(name, _) => (name, agent.doing.contains_key(name)),
                Action::Start(order) | Action::Prepare(order, _) => {
                    let known = agent.sight.replicas.contains_key(&order.replica);
                    (&order.replica, known || agent.doing.contains_key(&order.replica))
                }
                Action::Wake(order, _) => {
                    let doing = agent.doing.get(&order.replica);
                    // One that is being frozen is called back.
                    (&order.replica, doing.is_some_and(|one| !matches!(one, Doing::Freezing)))
                }
                Action::Restart(order, ..) => {
                    (&order.replica, agent.doing.contains_key(&order.replica))
                }
                Action::Stop(name, _) => {
                    let doing = agent.doing.get(name);
                    (
                        name,
                        matches!(
                            doing,
                            Some(Doing::Stopping | Doing::Restarting(_) | Doing::Freezing)
                        ),
                    )
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
        fleet: &Fleet<'_>,
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
            let becomes = self.agent.doing.get(*name);
            let becomes = matches!(becomes, Some(Doing::Preparing(_) | Doing::Freezing));
            let spares = fleet.spares(&seen.revision).iter();
            let idle = becomes || spares.into_iter().any(|spare| spare.view.name == **name);
            counts && !outdated && !stopping(name) && !idle
        });
        let starting = self.agent.doing.iter().filter(|(name, doing)| match doing {
            Doing::Starting(order) | Doing::Restarting(order) => {
                let unseen = !self.agent.sight.replicas.contains_key(*name);
                order.app == record.name && unseen && !stopping(name)
            }
            Doing::Stopping | Doing::Preparing(_) | Doing::Freezing => false,
        });
        let starts = actions
            .iter()
            .filter(|action| matches!(action, Action::Start(order) | Action::Wake(order, _) if order.app == record.name));
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
            && revision.template.extras.devices.is_empty()
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
        if current && ready && kept().any(|view| !view.ready && view.doing.is_none()) {
            return broken("stops a ready one and keeps one that is not", name.to_string());
        }
        Ok(())
    }
}

/// What starts may start, and has all it needs.
pub(super) fn check_order(record: &AppRecord, order: &ReplicaOrder) -> Checked {
    let revision = record.revision(&order.revision);
    let may_run = revision.is_some_and(|one| {
        one.active && matches!(one.phase, Phase::Starting | Phase::Probation | Phase::Committed)
    });
    if !may_run || revision.map(RevisionRecord::mark) != Some(order.template_digest) {
        return broken("starts what may not run", order.replica.to_string());
    }
    if revision.is_some_and(|one| gave_up(record, one)) {
        return broken("starts what was given up for a trial", order.replica.to_string());
    }
    let mut containers = order.template.containers.iter();
    if !containers.all(|container| order.images.contains_key(&container.image)) {
        return broken("starts without its images", order.replica.to_string());
    }
    let home = revision.and_then(|one| record.document_of(one)).map(|one| &one.environment);
    if home != Some(&order.environment) {
        return broken("starts in another environment", order.replica.to_string());
    }
    Ok(())
}
