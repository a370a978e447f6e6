//! The ingress: HTTP and TCP from the LAN and from inside the environments to the replicas.
//!
//! ```text
//!   0.0.0.0:80 ─┐            ┌─ connection ─┐  host, side          ┌─ idle links ─▶ replica
//!   <gateway>:80┴─▶ listener ┴─ connection ─┴─▶ table ─▶ upstream ─┴─ new link  ─▶ replica
//!   0.0.0.0:<port> ─┐            ┌─ tcp ─┐  port, side                  └─ pipe ──▶ replica
//!   <gateway>:<port>┴─▶ listener ┴─ tcp ─┴─▶ table ─▶ upstream ─────────────┘
//! ```
//!
//! It holds receiving halves only: while the loop hangs, it goes on serving by the last table. It never sends to a
//! replica that the table of the moment does not list, never sends a streamed body twice, and never wakes up without
//! a reason: its only timers run while something is open, waits, or was just asked.

mod connection;
mod demand;
mod errand;
mod fleet;
mod headers;
mod holder;
mod leave;
mod link;
mod listener;
mod proxy;
mod reply;
mod tcp;
#[cfg(test)]
mod tests;
mod upstream;
mod waiting;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::replica::Trouble;
use domain::route::RouteTable;
use domain::scale::{Demand, WINDOW};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug_span;

use self::fleet::Shared;
use self::leave::Leave;
use self::listener::Listeners;
use crate::drain::Drain;
use crate::manager::ServiceManager;
use crate::tasks::Tasks;

/// Troubles of listeners, by the listener's name; other adapters write to it too.
pub type Troubles = watch::Sender<Arc<BTreeMap<String, Trouble>>>;

/// What the ingress runs with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where requests from the LAN come in. A wildcard address on the gateways' port covers the gateways too.
    pub http: SocketAddr,
    /// The port on each environment's gateway.
    pub gateway_port: u16,
    /// For a client to send a request's head, and to send the first one; an idle connection is closed after it too.
    pub head_timeout: Duration,
    /// From the request's head to the response's head, also where the revision has to be woken in between.
    pub response_timeout: Duration,
    /// For a link to a replica to open. A replica is one bridge away: one that takes longer has lost the packet.
    pub connect_timeout: Duration,
    /// Open connections; what comes beyond is closed at once.
    pub connections_max: usize,
    /// Requests that wait for the first replica of one app; what comes beyond is refused.
    pub waiting_max: usize,
    /// Bytes of the heads of those requests.
    pub waiting_bytes_max: usize,
    /// Requests are counted, and told, in windows of this length.
    pub window: Duration,
}

impl Settings {
    /// The settings of the device, with requests from the LAN coming in at `http`.
    pub fn new(http: SocketAddr) -> Self {
        Self {
            http,
            gateway_port: 80,
            head_timeout: Duration::from_secs(30),
            // What ACA's ingress waits.
            response_timeout: Duration::from_mins(4),
            connect_timeout: Duration::from_secs(5),
            // 64 KiB of head each is the most they can hold: 256 MiB, which only an attack comes near.
            connections_max: 4096,
            // A woken replica is to be met by a queue that it can serve within seconds.
            waiting_max: 256,
            // 8 KiB for each of them; the largest head takes 64 KiB.
            waiting_bytes_max: 2 << 20,
            window: WINDOW,
        }
    }
}

/// The ingress, not yet listening.
#[derive(Debug)]
pub struct Ingress {
    shared: Arc<Shared>,
    troubles: Troubles,
    bound: watch::Sender<BTreeMap<String, SocketAddr>>,
    manager: ServiceManager,
}

impl Ingress {
    /// An ingress that follows `routes`, tells in `demand` who is asked for, and in `troubles` of ports that it cannot
    /// have. Its listeners are kept by `manager` when it ends.
    pub fn new(
        settings: Settings,
        routes: watch::Receiver<Arc<RouteTable>>,
        demand: watch::Sender<Arc<Demand>>,
        troubles: Troubles,
        manager: ServiceManager,
        tasks: Tasks,
    ) -> Self {
        let shared = Arc::new(Shared::new(settings, routes, demand, tasks));
        Self { shared, troubles, bound: watch::Sender::default(), manager }
    }

    /// Tells when a replica has nothing open any more.
    pub fn drain(&self) -> Arc<dyn Drain> {
        Arc::new(Leave(Arc::clone(&self.shared)))
    }

    /// Where it listens, by the listener's name: `ingress/lan`, `ingress/<environment>`.
    pub fn bound(&self) -> watch::Receiver<BTreeMap<String, SocketAddr>> {
        self.bound.subscribe()
    }

    /// Listens and serves until `stop`. Open requests go on, as tasks that the shutdown waits for.
    pub async fn run(self, stop: CancellationToken) {
        let (shared, tasks) = (&self.shared, &self.shared.tasks);
        tasks.spawn(debug_span!("waiting"), |stop| waiting::run(Arc::clone(shared), stop));
        tasks.spawn(debug_span!("demand"), |stop| demand::run(Arc::clone(shared), stop));
        Listeners::new(self.shared, self.troubles, self.bound, self.manager).run(stop).await;
    }
}
