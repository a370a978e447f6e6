//! Publishing: what follows from state and sight, sent where it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::model::EnvironmentName;
use domain::plan::{Fleet, World};
use domain::ports::Holders;
use domain::replica::Trouble;
use domain::state::AppRecord;
use domain::status::{AppStatus, EnvironmentStatus, JobStatus, Statuses};
use domain::view::{self, Scene};
use tokio::sync::watch;

use super::{Reconciler, Refused};
use crate::inbox::Kind;
use crate::network::Network;
use crate::published::DeviceState;
use crate::runtime::Runtime;
use crate::store::Store;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Sends what changed.
    pub(super) fn publish(&mut self) {
        let health = self.reports.health.borrow().clone();
        let lan_names = self.reports.lan_names.borrow().clone();
        let demand = self.reports.demand.borrow().clone();
        let readings = self.reports.readings.borrow().clone();
        let world = World {
            now: self.clock.now(),
            wall: self.clock.wall(),
            zones: &self.almanac.zones,
            observed: &self.sight.replicas,
            namespaces: &self.sight.namespaces,
            health: &health,
            demand: &demand,
            readings: &readings,
            environments: &self.state.environments,
            doing: &self.doing,
            fetching: &self.fetching,
            surveying: &self.surveying,
            subnets: &self.nets.subnets,
            runtime: self.sight.trouble.as_ref(),
            network: self.nets.trouble.as_ref(),
            memory_low: *self.reports.pressure.borrow(),
            settings: &self.settings,
        };
        let fleet = Fleet::of(&self.state, world, &self.memory);
        let listeners = self.reports.listeners.borrow().clone();
        let ports = Holders::of(&self.state, &self.settings.own_ports);
        let scene = Scene {
            state: &self.state,
            fleet: &fleet,
            world,
            memory: &self.memory,
            lan_names: &lan_names,
            ports: &ports,
            listeners: &listeners,
        };
        // Routes first: a replica that is about to stop must not get another request.
        let routes = view::routes(scene);
        if self.rounds == 1 {
            // The first is told even where it says nothing: who waits for it has a table to go by.
            self.publisher.routes.send_replace(Arc::new(routes));
        } else {
            send(&self.publisher.routes, routes);
        }
        send(&self.publisher.probes, view::probes(&self.state, &fleet));
        send(&self.publisher.samples, view::samples(scene));
        send(&self.publisher.zones, view::zones(scene));
        send(&self.publisher.announcements, view::announcements(scene));
        let statuses = self.statuses(scene);
        send(&self.publisher.statuses, statuses);
        send(&self.publisher.device, self.device());
    }

    /// Sends the events, once they are stored.
    pub(super) fn publish_events(&self) {
        send(&self.publisher.outbox, self.outbox.clone());
        send(&self.publisher.recent, self.recent.iter().cloned().collect());
    }

    fn statuses(&self, scene: Scene<'_>) -> Statuses {
        let before = self.publisher.statuses.borrow().clone();
        let now = self.clock.wall();
        let mut statuses = Statuses::default();
        for (name, record) in &self.state.apps {
            let refused = self.refusals.contains_key(&(Kind::App, name.to_string()));
            if record.removed && !refused && !self.has_replicas(record) {
                statuses.removed.insert(name.clone());
            } else if record.accepted.is_some() || record.removed {
                let status = view::app_status(record, scene);
                statuses.apps.insert(name.to_string(), status);
            }
        }
        for (name, record) in &self.state.jobs {
            if !record.removed {
                statuses.jobs.insert(name.to_string(), view::job_status(record));
            } else if !self.state.apps.contains_key(name) {
                statuses.removed.insert(name.clone());
            }
        }
        statuses.environments = view::environments(&self.state, &self.settings.allowances);
        let removed = view::removed_environments(&self.state);
        let told = |name: &EnvironmentName| {
            self.refusals.contains_key(&(Kind::Environment, name.to_string()))
        };
        statuses.removed_environments = removed.filter(|name| !told(name)).cloned().collect();
        for ((kind, name), refused) in &self.refusals {
            let Refused { source, finding } = refused;
            match kind {
                Kind::App => {
                    let status = statuses.apps.entry(name.clone());
                    let status = status
                        .or_insert_with(|| view::refused_status(name, *source, finding.clone()));
                    status.error = Some(finding.clone());
                }
                Kind::Job => {
                    let status = statuses.jobs.entry(name.clone());
                    let status =
                        status.or_insert_with(|| view::refused_job(name, *source, finding.clone()));
                    status.error = Some(finding.clone());
                }
                Kind::Environment => {
                    let status = statuses.environments.entry(name.clone());
                    let refused = || view::refused_environment(name, *source, finding.clone());
                    let status = status.or_insert_with(refused);
                    // One that had apps alone belongs to whoever spoke of it first.
                    status.source = status.source.or(Some(*source));
                    status.error = Some(finding.clone());
                }
            }
        }
        stamp(&mut statuses.apps, &before.apps, |status: &mut AppStatus| &mut status.updated, now);
        stamp(
            &mut statuses.environments,
            &before.environments,
            |status: &mut EnvironmentStatus| &mut status.updated,
            now,
        );
        stamp(&mut statuses.jobs, &before.jobs, |status: &mut JobStatus| &mut status.updated, now);
        statuses
    }

    fn has_replicas(&self, record: &AppRecord) -> bool {
        self.sight.replicas.values().any(|replica| replica.app == record.name)
    }

    fn device(&self) -> DeviceState {
        let listeners = self.reports.listeners.borrow();
        let own = [&self.sight.trouble, &self.nets.trouble, &self.storage_trouble];
        let lost = self.lost_values();
        let own = own.into_iter().flatten().chain(&self.nets.remarks).chain(&lost);
        let troubles: BTreeSet<&Trouble> = own.chain(listeners.values()).collect();
        let apps = self.state.apps.values().filter_map(|app| {
            Some((app.name.clone(), app.generation, app.accepted.as_ref()?.digest))
        });
        DeviceState {
            rounds: self.rounds.min(1),
            troubles: troubles.into_iter().cloned().collect(),
            apps: apps.collect(),
        }
    }
}

/// Sends a level if it is another one.
fn send<T: PartialEq>(to: &watch::Sender<Arc<T>>, level: T) {
    to.send_if_modified(|known| {
        let changed = **known != level;
        if changed {
            *known = Arc::new(level);
        }
        changed
    });
}

/// What is the same as before keeps its date; what changed gets this one.
fn stamp<T: PartialEq + Clone>(
    now: &mut BTreeMap<String, T>,
    before: &BTreeMap<String, T>,
    updated: impl Fn(&mut T) -> &mut domain::model::WallTime,
    date: domain::model::WallTime,
) {
    for (name, status) in now {
        let mut known = before.get(name).cloned();
        let known_date = known.as_mut().map(|known| *updated(known));
        *updated(status) = known_date.unwrap_or(date);
        if known.as_ref() != Some(status) {
            *updated(status) = date;
        }
    }
}
