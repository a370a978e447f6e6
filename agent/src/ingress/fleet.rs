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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use domain::model::{ReplicaName, RevisionName};
use domain::route::RouteTable;
use domain::scale::Demand;
use tokio::sync::{Notify, Semaphore, watch};

use super::Settings;
use super::demand::Ledger;
use super::upstream::Upstream;
use super::waiting::WaitingRoom;
use crate::tasks::Tasks;

/// What all connections share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) tasks: Tasks,
    /// One permit for each open connection.
    pub(super) room: Arc<Semaphore>,
    /// Rung when a link comes to lie idle and nobody is there to sweep.
    pub(super) sweep: Notify,
    /// Requests for revisions that are asleep.
    pub(super) waiting: WaitingRoom,
    /// What was asked of each revision.
    pub(super) ledger: Ledger,
    routes: watch::Receiver<Arc<RouteTable>>,
    fleet: RwLock<Arc<Fleet>>,
    requests: AtomicU32,
    /// TCP connections that were not served.
    turned_away: AtomicU64,
}

/// A table, the upstreams of its replicas, and those that left while something was open.
#[derive(Default)]
pub(super) struct Fleet {
    pub(super) table: Arc<RouteTable>,
    pub(super) upstreams: BTreeMap<ReplicaName, Arc<Upstream>>,
    pub(super) leaving: Vec<(ReplicaName, Arc<Upstream>)>,
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        routes: watch::Receiver<Arc<RouteTable>>,
        demand: watch::Sender<Arc<Demand>>,
        tasks: Tasks,
    ) -> Self {
        let shared = Self {
            room: Arc::new(Semaphore::new(settings.connections_max)),
            settings,
            tasks,
            sweep: Notify::new(),
            waiting: WaitingRoom::default(),
            ledger: Ledger::new(demand),
            routes,
            fleet: RwLock::default(),
            requests: AtomicU32::new(0),
            turned_away: AtomicU64::new(0),
        };
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
            *fleet = Arc::new(fleet.successor(&table, &self.ledger));
        }
        Arc::clone(&fleet)
    }

    pub(super) fn routes(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.routes.clone()
    }

    /// Counts a TCP connection that is not served; tells how many there were.
    pub(super) fn turn_away(&self) -> u64 {
        self.turned_away.fetch_add(1, Ordering::Relaxed) + 1
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
    /// Requests that are open, by revision; also at replicas that are on their way out.
    pub(super) fn open(&self) -> BTreeMap<&RevisionName, u64> {
        let mut open = BTreeMap::new();
        let leaving = self.leaving.iter().map(|(_, upstream)| upstream);
        for upstream in self.upstreams.values().chain(leaving) {
            let count = u64::try_from(upstream.open()).unwrap_or(u64::MAX);
            *open.entry(&upstream.tally.revision).or_default() += count;
        }
        open
    }

    fn successor(&self, table: &Arc<RouteTable>, ledger: &Ledger) -> Self {
        let services = table.environments.values().flat_map(|routes| routes.apps.values());
        let mut upstreams = BTreeMap::new();
        for (revision, backends) in services.flat_map(|service| &service.revisions) {
            for backend in backends {
                let known = self.upstreams.get(&backend.replica);
                let upstream = match known.filter(|known| known.address == backend.address) {
                    Some(known) => Arc::clone(known),
                    None => Arc::new(Upstream::new(backend.address, ledger.tally(revision))),
                };
                upstreams.insert(backend.replica.clone(), upstream);
            }
        }
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
