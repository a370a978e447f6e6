//! The listeners: which there should be, which there are, and what stands in the way of the rest.
//!
//! One listener at a wildcard address covers the gateways too: a connection's own address tells which side it comes
//! from. Where that one cannot be had because a stranger holds the port at one address, the gateways still can: apps
//! go on finding each other while the LAN waits.
//!
//! Where there is a service manager, it keeps what listens while one agent ends and the next begins: who comes meanwhile
//! waits in the socket. What the next one does not want any more is closed there too.
//!
//! TCP ports come and go with documents, and each has a listener for every side that it is reached from: a wildcard
//! address and a gateway share a port, as both let the kernel give a connection to the narrower of the two.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use domain::model::{AppName, RevisionName};
use domain::ports;
use domain::reason::Reason;
use domain::replica::Trouble;
use domain::route::{RouteTable, Service, Side};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::fleet::Shared;
use super::upstream::SWEEP;
use super::{Troubles, connection, holder, tcp};
use crate::manager::ServiceManager;

/// The name of the listener for the LAN.
const LAN: &str = "ingress/lan";

/// Connections that the kernel holds for us to accept.
const BACKLOG: u32 = 1024;

/// A port that could not be had is tried again after this long, doubling to the longest. The first tries are for a
/// gateway whose bridge is just being made, the last for a program that holds a port.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// From the first table to the last of those who should serve. One probe of each is a matter of milliseconds.
const GATE_WAIT: Duration = Duration::from_secs(2);

/// After an accept that failed for want of something (descriptors, memory), which takes a moment to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Listeners {
    shared: Arc<Shared>,
    troubles: Troubles,
    bound: watch::Sender<BTreeMap<String, SocketAddr>>,
    open: BTreeMap<String, Listener>,
    failing: BTreeMap<String, Trouble>,
    retry: Duration,
    /// When to try again what failed.
    retry_at: Option<Instant>,
    /// No accepting before then.
    pause_until: Option<Instant>,
    /// Where accepting goes on, so that a flood at one listener does not starve the others.
    turn: usize,
    /// When to look after idle links.
    sweep_at: Option<Instant>,
    /// Who keeps the sockets between two runs.
    manager: ServiceManager,
    /// Who waits in the sockets of the run before is not let in yet.
    gate: Gate,
}

/// Who came while no agent was there is let in when it is known who serves: what was served a second ago would be
/// turned away by an agent that has not looked around yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// There was no run before, or everybody is let in.
    Open,
    /// No table is published yet.
    Blind,
    /// Some who should serve have not been found ready, and get this long.
    Until(Instant),
}

struct Listener {
    /// The address that was asked for.
    wanted: SocketAddr,
    door: Door,
    socket: TcpListener,
}

/// What is spoken to those who come in by a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Http,
    Tcp,
}

/// A TCP port that is to be listened on.
struct Exposed {
    address: SocketAddr,
    app: AppName,
}

/// A connection that was let in.
struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    door: Door,
}

impl Listeners {
    pub(super) fn new(
        shared: Arc<Shared>,
        troubles: Troubles,
        bound: watch::Sender<BTreeMap<String, SocketAddr>>,
        manager: ServiceManager,
    ) -> Self {
        Self {
            shared,
            troubles,
            bound,
            open: BTreeMap::new(),
            failing: BTreeMap::new(),
            retry: RETRY_FIRST,
            retry_at: None,
            pause_until: None,
            turn: 0,
            sweep_at: None,
            manager,
            gate: Gate::Open,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut routes = self.shared.routes();
        let mut published = true;
        self.gate = if self.manager.has("ingress/") { Gate::Blind } else { Gate::Open };
        self.settle().await;
        // The LAN's address is known now: at another one, where it was before, nobody is to wait.
        self.manager.forget_rest(&kept_name(LAN, None));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = routes.changed(), if published => {
                    // Without the loop the last table holds.
                    published = changed.is_ok();
                    self.retry = RETRY_FIRST;
                    self.settle().await;
                    self.look_at_gate();
                }
                () = until(self.gate.until()) => self.gate = Gate::Open,
                () = until(self.retry_at) => self.settle().await,
                () = until(self.pause_until), if self.pause_until.is_some() => self.pause_until = None,
                () = self.shared.sweep.notified(), if self.sweep_at.is_none() => {
                    self.sweep_at = Some(Instant::now() + SWEEP);
                }
                () = until(self.sweep_at) => self.sweep(),
                accepted = accept(&self.open, self.turn), if self.lets_in() => {
                    self.accepted(accepted);
                }
            }
        }
    }

    fn lets_in(&self) -> bool {
        self.gate == Gate::Open && self.pause_until.is_none()
    }

    /// After a table was published.
    fn look_at_gate(&mut self) {
        let whole = is_whole(&self.shared.fleet().table);
        match self.gate {
            Gate::Blind if !whole => self.gate = Gate::Until(Instant::now() + GATE_WAIT),
            Gate::Blind | Gate::Until(_) if whole => self.gate = Gate::Open,
            Gate::Open | Gate::Blind | Gate::Until(_) => (),
        }
    }

    fn accepted(&mut self, accepted: io::Result<Arrival>) {
        self.turn = self.turn.wrapping_add(1);
        match accepted {
            Ok(Arrival { stream, peer, door: Door::Http }) => {
                connection::serve(&self.shared, stream, peer);
            }
            Ok(Arrival { stream, peer, door: Door::Tcp }) => tcp::serve(&self.shared, stream, peer),
            // The client went away before it was let in.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => (),
            Err(error) => {
                warn!(%error, "cannot accept connections; pausing");
                self.pause_until = Some(Instant::now() + ACCEPT_PAUSE);
            }
        }
    }

    fn sweep(&mut self) {
        let fleet = self.shared.fleet();
        let left = fleet.upstreams.values().filter(|upstream| upstream.sweep()).count();
        self.sweep_at = (left != 0).then(|| Instant::now() + SWEEP);
    }

    /// Opens what should be open and is not, closes what should not, and tells of what cannot be.
    async fn settle(&mut self) {
        let before = self.failing.clone();
        let (gateways, ports) = (self.gateways(), self.ports());
        let lan = self.shared.settings.http;
        let covers = lan.ip().is_unspecified() && lan.port() == self.shared.settings.gateway_port;
        if covers && !self.open.contains_key(LAN) && !others_hold(lan.port(), &gateways) {
            // Only our own listeners stand in the way, if any: they give way to the one that covers them.
            self.close_unless(|_, listener| listener.door == Door::Tcp);
        }
        let known = |name: &str| gateways.contains_key(name) || ports.contains_key(name);
        self.failing.retain(|name, _| name == LAN || known(name));
        self.close_unless(|name, listener| {
            let exposed = ports.get(name).map(|exposed| exposed.address);
            let wanted = exposed.or_else(|| gateways.get(name).copied());
            wanted.map_or(name == LAN, |address| listener.wanted == address)
        });
        self.try_open(LAN, lan, None).await;
        if covers && self.open.contains_key(LAN) {
            self.failing.retain(|name, _| ports.contains_key(name));
        } else {
            for (name, address) in &gateways {
                self.try_open(name, *address, None).await;
            }
        }
        for (name, Exposed { address, app }) in &ports {
            self.try_open(name, *address, Some(app)).await;
        }
        self.tell(&before);
        self.retry_at = (!self.failing.is_empty()).then(|| Instant::now() + self.retry);
        self.retry =
            if self.failing.is_empty() { RETRY_FIRST } else { RETRY_LAST.min(self.retry * 2) };
    }

    /// Closes listeners, here and with the manager.
    fn close_unless(&mut self, stays: impl Fn(&str, &Listener) -> bool) {
        let manager = &self.manager;
        self.open.retain(|name, listener| {
            let stays = stays(name, listener);
            if !stays {
                manager.forget(&kept_name(name, Some(listener.wanted)));
            }
            stays
        });
    }

    fn gateways(&self) -> BTreeMap<String, SocketAddr> {
        let port = self.shared.settings.gateway_port;
        let fleet = self.shared.fleet();
        let named = |(name, routes): (&_, &domain::route::EnvironmentRoutes)| {
            (format!("ingress/{name}"), SocketAddr::from((routes.gateway, port)))
        };
        fleet.table.environments.iter().map(named).collect()
    }

    /// The TCP ports of apps, by the names of their listeners.
    fn ports(&self) -> BTreeMap<String, Exposed> {
        let table = Arc::clone(&self.shared.fleet().table);
        let lan = self.shared.settings.http.ip();
        let on_lan = table.ports.iter().map(|port| (Side::Lan, lan, port));
        let inside = table.environments.iter().flat_map(|(name, routes)| {
            let gateway = IpAddr::V4(routes.gateway);
            routes.ports.iter().map(move |port| (Side::Environment(name.clone()), gateway, port))
        });
        let exposed = |(side, ip, (port, service)): (Side, IpAddr, (&u16, &Arc<Service>))| {
            let address = SocketAddr::new(ip, *port);
            (ports::listener(&side, *port), Exposed { address, app: service.app.clone() })
        };
        on_lan.chain(inside).map(exposed).collect()
    }

    /// Opens a listener: for this app, or for HTTP.
    async fn try_open(&mut self, name: &str, address: SocketAddr, app: Option<&AppName>) {
        if self.open.contains_key(name) {
            return;
        }
        let door = if app.is_some() { Door::Tcp } else { Door::Http };
        match self.socket(name, address, door) {
            Ok(socket) => {
                info!(listener = name, local.addr = %address, "listening");
                self.failing.remove(name);
                self.open.insert(name.to_owned(), Listener { wanted: address, door, socket });
            }
            Err(error) => {
                debug!(listener = name, local.addr = %address, %error, "cannot listen");
                if self.failing.get(name).is_none_or(|known| known.reason != reason(&error)) {
                    let trouble = trouble(address, app, &error).await;
                    self.failing.insert(name.to_owned(), trouble);
                }
            }
        }
    }

    /// The socket that was kept since the run before, or a new one, which is to be kept.
    fn socket(&self, name: &str, address: SocketAddr, door: Door) -> io::Result<TcpListener> {
        let name = kept_name(name, Some(address));
        if let Some(socket) = self.manager.take(&name) {
            match adopt(socket) {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    warn!(name, %error, "a socket that was kept does not serve");
                    self.manager.forget(&name);
                }
            }
        }
        let socket = bind(address, door)?;
        self.manager.keep(&name, &socket);
        Ok(socket)
    }

    /// Publishes addresses and troubles where they changed.
    fn tell(&self, before: &BTreeMap<String, Trouble>) {
        let bound: BTreeMap<_, _> = self
            .open
            .iter()
            .filter_map(|(name, listener)| Some((name.clone(), listener.socket.local_addr().ok()?)))
            .collect();
        self.bound.send_if_modified(|known| {
            let changed = *known != bound;
            *known = bound;
            changed
        });
        if *before == self.failing {
            return;
        }
        for (name, trouble) in &self.failing {
            if before.get(name) != Some(trouble) {
                warn!(listener = name, reason = trouble.reason.word(), details = trouble.details);
            }
        }
        self.troubles.send_modify(|all| {
            let all = Arc::make_mut(all);
            all.retain(|name, _| !name.starts_with("ingress/"));
            all.extend(self.failing.clone());
        });
    }
}

impl Gate {
    /// When it opens by itself; none where it does not.
    fn until(self) -> Option<Instant> {
        match self {
            Self::Until(at) => Some(at),
            Self::Open | Self::Blind => None,
        }
    }
}

/// Whether each app that has traffic has somebody to serve it, or to be woken.
fn is_whole(table: &RouteTable) -> bool {
    let apps = table.environments.values().flat_map(|routes| routes.apps.values());
    let mut waited_for = apps.filter(|app| app.unready == Reason::NoReadyReplica);
    waited_for.all(|app| {
        let found = |name: &RevisionName| {
            app.asleep.contains_key(name)
                || app.revisions.get(name).is_some_and(|all| !all.is_empty())
        };
        app.split.is_empty() || app.split.iter().any(|share| found(&share.revision))
    })
}

/// The next connection at any listener.
async fn accept(open: &BTreeMap<String, Listener>, turn: usize) -> io::Result<Arrival> {
    poll_fn(|cx| poll_accept(open, turn, cx)).await
}

fn poll_accept(
    open: &BTreeMap<String, Listener>,
    turn: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Arrival>> {
    let first = if open.is_empty() { 0 } else { turn % open.len() };
    for listener in open.values().cycle().skip(first).take(open.len()) {
        if let Poll::Ready(accepted) = listener.socket.poll_accept(cx) {
            let door = listener.door;
            return Poll::Ready(accepted.map(|(stream, peer)| Arrival { stream, peer, door }));
        }
    }
    Poll::Pending
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => pending().await,
    }
}

/// What a listener's socket is kept as: one at another address is another one.
fn kept_name(listener: &str, address: Option<SocketAddr>) -> String {
    address.map_or_else(|| format!("{listener}@"), |address| format!("{listener}@{address}"))
}

fn adopt(socket: OwnedFd) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn bind(address: SocketAddr, door: Door) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of the run before to be forgotten.
    socket.set_reuseaddr(true)?;
    if door == Door::Tcp {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether somebody beside our own gateways listens on the port.
fn others_hold(port: u16, gateways: &BTreeMap<String, SocketAddr>) -> bool {
    holder::listening().iter().filter(|socket| socket.port == port).any(|socket| {
        let ours = socket.address.map(|address| SocketAddr::from((address, port)));
        ours.is_none_or(|address| !gateways.values().any(|gateway| *gateway == address))
    })
}

fn reason(error: &io::Error) -> Reason {
    if error.kind() == io::ErrorKind::AddrInUse { Reason::PortTaken } else { Reason::NetworkFailed }
}

async fn trouble(address: SocketAddr, app: Option<&AppName>, error: &io::Error) -> Trouble {
    let reason = reason(error);
    let whose = app.map(|app| format!(", which app {app} exposes,")).unwrap_or_default();
    let details = if reason == Reason::PortTaken {
        // /proc may be large; a thread that may block reads it.
        let holder = tokio::task::spawn_blocking(move || holder::name(address)).await;
        let holder = holder.ok().flatten().unwrap_or_else(|| "another program".to_owned());
        format!("{address}{whose} is held by {holder}")
    } else {
        format!("cannot listen on {address}{whose}: {error}")
    };
    Trouble { reason, details }
}
