//! Bridges, namespaces, addresses and the nftables table.
//!
//! ```text
//!   settle ─▶ bridge     one per environment, marked ours by its alias
//!          ─▶ rules ─▶ nft   one table, replaced as a whole, and only when it has to be
//!   attach ─▶ namespace  a mounted namespace per replica, a pair of interfaces into it
//!   open   ─▶ lookout    one of the environment's own, for what is asked on behalf of its apps
//!   observe ◀─ board     links, addresses, routes, mounted namespaces
//! ```
//!
//! Nothing is remembered that the kernel knows: bridges are found by their alias, namespaces by their mount, and that
//! Skerry turned forwarding on by a mark in the table. Nothing here runs on a thread of the runtime, and no interface,
//! table or setting of others is ever changed, but for `net.ipv4.ip_forward`.

mod apart;
mod board;
mod bridge;
mod error;
mod lookout;
mod namespace;
mod nft;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::model::{EnvironmentName, ReplicaName};
use domain::reason::Reason;
use domain::replica::{Place, Trouble};
use domain::route::{EnvironmentRoutes, RouteTable};
use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::sync::watch::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::apart::{apart, connected};
use self::board::{Board, gateway};
use self::error::NetlinkError;
use self::rules::{Gate, Rules};
use crate::config::{Config, HostPort};
use crate::network::{Lookout, Network, NetworkError, ObservedNetwork, Redirects, Vantage};
use crate::report::Chain;

/// The kernel's switch for forwarding, of the network namespace that the thread is in.
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The board's network, by netlink and `nft`.
#[derive(Debug, Clone)]
pub struct Netlink {
    pool: Ipv4Net,
    netns: PathBuf,
    allow_host: Vec<HostPort>,
    ingress: BTreeSet<u16>,
    redirects: watch::Receiver<Arc<Redirects>>,
    routes: watch::Receiver<Arc<RouteTable>>,
    /// Locked for the whole of a `settle`, on its own thread: two at once would undo each other's work.
    settled: Arc<Mutex<Settled>>,
    /// What a killed agent left half removed is gone: done with the first look, before anything is attached.
    swept: Arc<AtomicBool>,
}

/// Chains of others in this network that drop what is forwarded from our bridges. The error is in words.
pub fn blockers() -> Result<Vec<String>, String> {
    nft::chains()
        .and_then(|chains| nft::blockers(&chains))
        .map_err(|error| Chain(&error).to_string())
}

/// Every table in this network, as text. The error is in words.
pub fn ruleset() -> Result<String, String> {
    nft::ruleset().map_err(|error| Chain(&error).to_string())
}

/// What was last made to stand.
#[derive(Debug, Default)]
struct Settled {
    environments: Option<BTreeMap<EnvironmentName, Ipv4Net>>,
    applied: Option<Applied>,
    /// Whether Skerry turned forwarding on; not known until the table was looked at.
    forwarding_is_ours: Option<bool>,
}

#[derive(Debug)]
struct Applied {
    text: String,
    generation: Option<u32>,
    troubles: Vec<Trouble>,
}

impl Netlink {
    /// The network of `config`. `ingress` are the TCP ports that gateways offer beside DNS; `redirects` are those that
    /// are served elsewhere, and `routes` tells of the ports of apps; both are followed by [`Self::follow`].
    pub fn new(
        config: &Config,
        ingress: impl IntoIterator<Item = u16>,
        redirects: watch::Receiver<Arc<Redirects>>,
        routes: watch::Receiver<Arc<RouteTable>>,
    ) -> Self {
        Self {
            pool: config.network.pool,
            netns: config.state.run_dir.join("netns"),
            allow_host: config.network.allow_host.clone(),
            ingress: ingress.into_iter().collect(),
            redirects,
            routes,
            settled: Arc::default(),
            swept: Arc::default(),
        }
    }

    /// Brings the rules up to date whenever a listener finds its port taken, and when apps have other ports, until
    /// `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let (mut redirects, mut routes) = (self.redirects.clone(), self.routes.clone());
        let mut known = Ports::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = redirects.changed() => if changed.is_err() {
                    return stop.cancelled().await;
                },
                // Routes change with every replica that comes or goes, ports hardly ever.
                changed = await_other_ports(&mut routes, &mut known) => if changed.is_err() {
                    return stop.cancelled().await;
                },
            }
            let this = self.clone();
            if let Err(error) = apart(move || this.settle_again()).await {
                warn!(error = %Chain(&error), "rules do not follow the listeners; tried again with the next round");
            }
        }
    }

    fn settle_again(&self) -> Result<(), NetlinkError> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(environments) = settled.environments.clone() else { return Ok(()) };
        self.settle_rules(&mut settled, &environments).map(drop)
    }

    /// On a thread of its own.
    fn settle_now(
        &self,
        environments: &BTreeMap<EnvironmentName, Ipv4Net>,
    ) -> Result<Vec<Trouble>, NetlinkError> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let (standing, mut troubles) = connected(async |handle| {
            let board = Board::read(&handle).await?;
            bridge::remove_others(&handle, &board, environments).await?;
            let (mut standing, mut troubles) = (BTreeMap::new(), Vec::new());
            for (environment, subnet) in environments {
                // One environment's trouble is not another's.
                match bridge::stand_up(&handle, &board, environment, *subnet).await {
                    Ok(()) => {
                        standing.insert(environment.clone(), *subnet);
                    }
                    Err(error) => troubles.push(error.trouble()),
                }
            }
            Ok((standing, troubles))
        })?;
        settled.environments = Some(standing.clone());
        troubles.extend(self.settle_rules(&mut settled, &standing)?);
        lookout::close_others(&self.netns, environments)?;
        Ok(troubles)
    }

    fn settle_rules(
        &self,
        settled: &mut Settled,
        environments: &BTreeMap<EnvironmentName, Ipv4Net>,
    ) -> Result<Vec<Trouble>, NetlinkError> {
        if environments.is_empty() && settled.applied.is_none() {
            return remove_leftovers(settled);
        }
        let mut chains = None;
        if settled.forwarding_is_ours.is_none() {
            let found = nft::chains()?;
            settled.forwarding_is_ours = Some(nft::forwarding_is_ours(&found));
            chains = Some(found);
        }
        let (forwarding, clearing) = (forwards()?, environments.is_empty());
        if !forwarding && !clearing {
            settled.forwarding_is_ours = Some(true);
        }
        let ours = settled.forwarding_is_ours == Some(true);
        let text = self.rules(environments, ours).render();
        let generation = nft::generation();
        let same_text = settled.applied.as_ref().is_some_and(|applied| applied.text == text);
        if let Some(applied) = &settled.applied
            && same_text
            && (forwarding || clearing)
            && generation.is_some()
            && applied.generation == generation
        {
            return Ok(applied.troubles.clone());
        }
        let chains = chains.map_or_else(nft::chains, Ok)?;
        if !same_text || nft::stands(&chains) == clearing {
            nft::apply(&text)?;
            info!(environments = environments.len(), "rules applied");
        }
        // The rules first: forwarding is never on without them.
        if ours && forwarding == clearing {
            let value = if clearing { "0" } else { "1" };
            fs::write(IP_FORWARD, value)
                .map_err(NetlinkError::doing("turn forwarding on or off"))?;
            settled.forwarding_is_ours = Some(!clearing);
        }
        let troubles: Vec<Trouble> =
            nft::blockers(&chains)?.iter().map(|chain| blocked(chain)).collect();
        let generation = nft::generation();
        settled.applied = Some(Applied { text, generation, troubles: troubles.clone() });
        Ok(troubles)
    }

    fn rules(&self, environments: &BTreeMap<EnvironmentName, Ipv4Net>, ours: bool) -> Rules {
        let redirects = Arc::clone(&self.redirects.borrow());
        let mut ports = ports(&self.routes.borrow());
        let gates = environments.iter().map(|(environment, subnet)| Gate {
            bridge: environment.bridge(),
            subnet: *subnet,
            gateway: gateway(*subnet).addr(),
            redirects: redirects
                .iter()
                .filter(|((of, _), _)| of == environment)
                .map(|((_, port), to)| (*port, *to))
                .collect(),
            ports: ports.remove(environment).unwrap_or_default(),
        });
        Rules {
            gates: gates.collect(),
            ingress: self.ingress.clone(),
            allow_host: self.allow_host.clone(),
            forwarding_is_ours: ours,
        }
    }
}

impl Network for Netlink {
    async fn observe(&self) -> Result<ObservedNetwork, NetworkError> {
        let (directory, swept) = (self.netns.clone(), Arc::clone(&self.swept));
        let observed = apart(move || {
            if !swept.load(Ordering::Relaxed) {
                namespace::remove_bare(&directory)?;
                swept.store(true, Ordering::Relaxed);
            }
            let board = connected(async |handle| Board::read(&handle).await)?;
            Ok(ObservedNetwork {
                environments: board.environments(),
                addresses: board.lan_addresses(),
                namespaces: namespace::mounted(&directory)?,
            })
        });
        Ok(observed.await?)
    }

    async fn settle(
        &self,
        environments: &BTreeMap<EnvironmentName, Ipv4Net>,
    ) -> Result<Vec<Trouble>, NetworkError> {
        let (this, environments) = (self.clone(), environments.clone());
        Ok(apart(move || this.settle_now(&environments)).await?)
    }

    async fn free_subnets(&self) -> Result<Vec<Ipv4Net>, NetworkError> {
        let pool = self.pool;
        let board = apart(|| connected(async |handle| Board::read(&handle).await)).await?;
        Ok(board.free_subnets(pool)?)
    }

    async fn attach(&self, replica: &ReplicaName, place: &Place) -> Result<(), NetworkError> {
        let (replica, place) = (replica.clone(), place.clone());
        Ok(apart(move || namespace::attach(&replica, &place)).await?)
    }

    async fn detach(&self, replica: &ReplicaName) -> Result<(), NetworkError> {
        let (replica, netns) = (replica.clone(), self.netns(replica));
        Ok(apart(move || namespace::detach(&replica, &netns)).await?)
    }

    fn netns(&self, replica: &ReplicaName) -> PathBuf {
        self.netns.join(replica.as_str())
    }
}

impl Lookout for Netlink {
    async fn open(&self, environment: &EnvironmentName) -> Result<Vantage, NetworkError> {
        let (this, environment) = (self.clone(), environment.clone());
        let opening = apart(move || {
            let _settled = this.settled.lock().unwrap_or_else(PoisonError::into_inner);
            lookout::open(&this.netns, &environment)
        });
        Ok(opening.await?)
    }

    async fn close(&self, environment: &EnvironmentName) -> Result<(), NetworkError> {
        let (this, environment) = (self.clone(), environment.clone());
        let closing = apart(move || {
            let _settled = this.settled.lock().unwrap_or_else(PoisonError::into_inner);
            lookout::close(&this.netns, &environment)
        });
        Ok(closing.await?)
    }
}

/// The TCP ports of apps, by environment.
type Ports = BTreeMap<EnvironmentName, BTreeSet<u16>>;

fn ports(table: &RouteTable) -> Ports {
    let ports = |(name, routes): (&EnvironmentName, &EnvironmentRoutes)| {
        (name.clone(), routes.ports.keys().copied().collect())
    };
    table.environments.iter().map(ports).collect()
}

/// Comes back when the table has other ports than those that are known, which it then knows.
async fn await_other_ports(
    routes: &mut watch::Receiver<Arc<RouteTable>>,
    known: &mut Ports,
) -> Result<(), RecvError> {
    let other = routes.wait_for(|table| ports(table) != *known).await?;
    *known = ports(&other);
    Ok(())
}

/// Takes away what an earlier agent left, where this one has had no environment yet. A board without `nft` cannot have
/// such rules, and needs none until there is an environment.
fn remove_leftovers(settled: &mut Settled) -> Result<Vec<Trouble>, NetlinkError> {
    let chains = match nft::chains() {
        Err(NetlinkError::NoNft) => return Ok(Vec::new()),
        chains => chains?,
    };
    let text = Rules::default().render();
    if nft::stands(&chains) {
        nft::apply(&text)?;
        if nft::forwarding_is_ours(&chains) {
            fs::write(IP_FORWARD, "0").map_err(NetlinkError::doing("turn forwarding off"))?;
        }
    }
    let generation = nft::generation();
    settled.forwarding_is_ours = Some(false);
    settled.applied = Some(Applied { text, generation, troubles: Vec::new() });
    Ok(Vec::new())
}

fn forwards() -> Result<bool, NetlinkError> {
    let value = fs::read_to_string(IP_FORWARD)
        .map_err(NetlinkError::doing(format!("read {IP_FORWARD}")))?;
    Ok(value.trim() != "0")
}

fn blocked(chain: &str) -> Trouble {
    let details =
        format!("the chain {chain} drops what it does not accept, and has no rule for sk-*");
    Trouble { reason: Reason::ForwardBlocked, details }
}
