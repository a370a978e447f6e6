//! The DNS server of each environment.
//!
//! ```text
//!   zones ─▶ serve ─┬▶ Server of default   10.213.0.1:53 ─▶ names ─▶ reply
//!                   └▶ Server of lab       10.213.1.1:53      └ not ours ─▶ upstream
//! ```
//!
//! It answers the names of its own environment out of the zone, and passes every other question on, byte for byte. It
//! keeps nothing, wakes up for nothing but a packet or a new zone, and goes on while everything else hangs.

mod names;
mod question;
mod reply;
mod server;
mod socket;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::model::EnvironmentName;
use domain::reason::Reason;
use domain::replica::Trouble;
use domain::zone::Zones;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use self::server::Server;
use self::socket::Sockets;
use self::upstream::Upstreams;
use crate::config::Config;
use crate::manager::ServiceManager;
use crate::network::Redirects;
use crate::tasks::Tasks;

/// The port that containers ask at.
const PORT: u16 = 53;

/// How long to wait before a server that could not be bound is tried again, beside every change of the zones.
const RETRY: Duration = Duration::from_secs(10);

/// Where the servers tell of themselves.
#[derive(Debug, Clone)]
pub struct Tells {
    /// Gateways whose port 53 is served at another port.
    pub redirects: watch::Sender<Arc<Redirects>>,
    /// Servers that could not be bound, as `dns/<environment>`.
    pub listeners: watch::Sender<Arc<BTreeMap<String, Trouble>>>,
    /// Who keeps their sockets between two runs of the agent.
    pub manager: ServiceManager,
}

/// Serves every zone there is, as gateways come and go, until the agent stops.
pub fn serve(tasks: &Tasks, config: &Config, zones: watch::Receiver<Arc<Zones>>, tells: Tells) {
    let fixed = config.network.upstream_dns.iter().map(|ip| SocketAddr::new(*ip, PORT)).collect();
    let upstreams = Upstreams::new(fixed, PathBuf::from("/etc/resolv.conf"));
    serve_at(PORT, tasks, upstreams, zones, tells);
}

fn serve_at(
    port: u16,
    tasks: &Tasks,
    upstreams: Upstreams,
    zones: watch::Receiver<Arc<Zones>>,
    tells: Tells,
) {
    let servers = Servers {
        port,
        upstreams: Arc::new(upstreams),
        zones,
        tells,
        tasks: tasks.clone(),
        standing: BTreeMap::new(),
        running: FuturesUnordered::new(),
    };
    tasks.spawn(info_span!("dns"), |stop| servers.run(stop));
}

/// The servers that run, within one task: a panic in one of them ends the agent, as it should.
struct Servers {
    port: u16,
    upstreams: Arc<Upstreams>,
    zones: watch::Receiver<Arc<Zones>>,
    tells: Tells,
    tasks: Tasks,
    standing: BTreeMap<EnvironmentName, (Ipv4Addr, CancellationToken)>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Servers {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let zones = Arc::clone(&self.zones.borrow_and_update());
            self.end_others(&zones);
            let whole = self.begin_missing(&zones);
            let again = async {
                if whole {
                    std::future::pending::<()>().await;
                }
                time::sleep(RETRY).await;
            };
            let mut again = std::pin::pin!(again);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return self.end_all().await,
                    // Before the zones: what has to end lets go of its sockets before others are bound.
                    Some(()) = self.running.next() => (),
                    changed = self.zones.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return self.end_all().await,
                    },
                    () = &mut again => break,
                }
            }
        }
    }

    /// Ends the servers of gateways that are gone.
    fn end_others(&mut self, zones: &Zones) {
        let gone = |environment: &EnvironmentName, gateway: &Ipv4Addr| {
            zones.get(environment).is_none_or(|zone| zone.gateway != *gateway)
        };
        self.standing.retain(|environment, (gateway, stop)| {
            if gone(environment, gateway) {
                stop.cancel();
                socket::forget(*gateway, &self.tells.manager);
                self.tells.lead(environment, self.port, self.port);
                return false;
            }
            true
        });
        self.tells.forget_others(zones);
    }

    /// Begins the servers that are missing; says whether all stand.
    fn begin_missing(&mut self, zones: &Zones) -> bool {
        let mut whole = true;
        for (environment, zone) in zones {
            if self.standing.contains_key(environment) {
                continue;
            }
            match Sockets::bind(zone.gateway, self.port, &self.tells.manager) {
                Ok(sockets) => {
                    info!(%environment, gateway = %zone.gateway, port = sockets.port, "dns listens");
                    self.tells.lead(environment, self.port, sockets.port);
                    self.tells.trouble(environment, None);
                    self.begin(environment, zone.gateway, sockets);
                }
                Err(error) => {
                    whole = false;
                    warn!(%environment, gateway = %zone.gateway, %error, "dns cannot listen");
                    let details = format!("DNS of {environment} at {}: {error}", zone.gateway);
                    let trouble = Trouble { reason: Reason::PortTaken, details };
                    self.tells.trouble(environment, Some(trouble));
                }
            }
        }
        whole
    }

    fn begin(&mut self, environment: &EnvironmentName, gateway: Ipv4Addr, sockets: Sockets) {
        let stop = CancellationToken::new();
        let span = info_span!("zone", %environment);
        let server = Server::new(
            environment.clone(),
            self.zones.clone(),
            Arc::clone(&self.upstreams),
            self.tasks.clone(),
        );
        self.running.push(Box::pin(server.run(sockets, stop.clone()).instrument(span)));
        self.standing.insert(environment.clone(), (gateway, stop));
    }

    async fn end_all(mut self) {
        for (_, stop) in self.standing.values() {
            stop.cancel();
        }
        while let Some(()) = self.running.next().await {}
    }
}

impl Tells {
    /// Says that `port` of the environment's gateway is served at `to`.
    fn lead(&self, environment: &EnvironmentName, port: u16, to: u16) {
        let key = (environment.clone(), port);
        self.redirects.send_if_modified(|redirects| {
            let wanted = (port != to).then_some(to);
            if redirects.get(&key).copied() == wanted {
                return false;
            }
            let redirects = Arc::make_mut(redirects);
            match wanted {
                Some(to) => redirects.insert(key, to),
                None => redirects.remove(&key),
            };
            true
        });
    }

    fn trouble(&self, environment: &EnvironmentName, trouble: Option<Trouble>) {
        let key = format!("dns/{environment}");
        self.listeners.send_if_modified(|listeners| {
            if listeners.get(&key) == trouble.as_ref() {
                return false;
            }
            let listeners = Arc::make_mut(listeners);
            match trouble {
                Some(trouble) => listeners.insert(key, trouble),
                None => listeners.remove(&key),
            };
            true
        });
    }

    /// Takes back what was said of environments that are gone.
    fn forget_others(&self, zones: &Zones) {
        let gone = |key: &String| {
            let environment = key.strip_prefix("dns/");
            environment.is_some_and(|name| !zones.keys().any(|zone| zone.as_str() == name))
        };
        self.listeners.send_if_modified(|listeners| {
            if !listeners.keys().any(gone) {
                return false;
            }
            Arc::make_mut(listeners).retain(|key, _| !gone(key));
            true
        });
    }
}
