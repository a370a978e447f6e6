//! The table of the moment, and beside it what the ingress itself knows of each replica in it.
//!
//! Made anew when the table changes; replicas that stay keep their links and counts, those that go lose their idle
//! links at once and finish what is open.
//!
//! A request that looked at an older table may still go for a replica that has just left. So it reserves first and
//! then asks whether the replica has left, while whoever waits for the replica marks it first and then counts: one of
//! the two sees the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use domain::model::ReplicaName;
use domain::route::{Backend, RouteTable};
use tokio::sync::{Notify, Semaphore, watch};

use super::Settings;
use super::upstream::Upstream;
use crate::tasks::Tasks;

/// What all connections share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) tasks: Tasks,
    /// One permit for each open connection.
    pub(super) room: Arc<Semaphore>,
    /// Rung when a link comes to lie idle and nobody is there to sweep.
    pub(super) sweep: Notify,
    routes: watch::Receiver<Arc<RouteTable>>,
    fleet: RwLock<Arc<Fleet>>,
    requests: AtomicU32,
}

/// A table, the upstreams of its replicas, and those that left while something was open.
#[derive(Default)]
pub(super) struct Fleet {
    pub(super) table: Arc<RouteTable>,
    pub(super) upstreams: BTreeMap<ReplicaName, Arc<Upstream>>,
    pub(super) leaving: Vec<(ReplicaName, Arc<Upstream>)>,
}

/// How busy a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests that are open now, web sockets among them.
    pub open: usize,
    /// Requests that were ever begun.
    pub begun: u64,
}

/// Reads how busy each replica is.
#[derive(Debug, Clone)]
pub struct LoadGauge(pub(super) Arc<Shared>);

impl LoadGauge {
    /// Every replica in the table.
    pub fn read(&self) -> BTreeMap<ReplicaName, Load> {
        let fleet = self.0.fleet();
        fleet.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.load())).collect()
    }
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        routes: watch::Receiver<Arc<RouteTable>>,
        tasks: Tasks,
    ) -> Self {
        let room = Arc::new(Semaphore::new(settings.connections_max));
        let (sweep, fleet, requests) = (Notify::new(), RwLock::default(), AtomicU32::new(0));
        let shared = Self { settings, tasks, room, sweep, routes, fleet, requests };
        drop(shared.fleet());
        shared
    }

    /// The fleet of the table that is published at this moment.
    pub(super) fn fleet(&self) -> Arc<Fleet> {
        let table = self.routes.borrow();
        {
            let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&fleet.table, &table) {
                return Arc::clone(&fleet);
            }
        }
        let mut fleet = self.fleet.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&fleet.table, &table) {
            *fleet = Arc::new(fleet.successor(&table));
        }
        Arc::clone(&fleet)
    }

    pub(super) fn routes(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.routes.clone()
    }

    /// A number of its own for each request.
    pub(super) fn number(&self) -> u32 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Fleet {
    fn successor(&self, table: &Arc<RouteTable>) -> Self {
        let services = table.environments.values().flat_map(|routes| routes.apps.values());
        let backends = services.flat_map(|service| service.revisions.values().flatten());
        let upstream = |backend: &Backend| {
            let known = self.upstreams.get(&backend.replica);
            let known = known.filter(|known| known.address == backend.address);
            let upstream =
                known.map_or_else(|| Arc::new(Upstream::new(backend.address)), Arc::clone);
            (backend.replica.clone(), upstream)
        };
        let upstreams: BTreeMap<_, _> = backends.map(upstream).collect();
        let stays = |name: &ReplicaName, old: &Arc<Upstream>| {
            upstreams.get(name).is_some_and(|new| Arc::ptr_eq(new, old))
        };
        let mut leaving = self.leaving.clone();
        for (name, old) in &self.upstreams {
            if !stays(name, old) {
                old.retire();
                leaving.push((name.clone(), Arc::clone(old)));
            }
        }
        leaving.retain(|(_, old)| old.open() != 0);
        Self { table: Arc::clone(table), upstreams, leaving }
    }
}
