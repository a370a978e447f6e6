//! Routing: which host name leads to which app, revision and replica.
//!
//! The table is made by the planner and read by the ingress; a lookup takes no lock and changes nothing. Chance and
//! load are arguments, so that a split is exact under test.
//!
//! ```text
//!   host ─▶ find ─▶ service and aim ─▶ pick(ticket, busy, turn) ─▶ one ready replica
//! ```

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use crate::model::{AppName, EnvironmentName, ReplicaName, RevisionName};
use crate::reason::Reason;

/// All there is to know for the ingress.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteTable {
    /// Apps with ingress, by environment.
    pub environments: BTreeMap<EnvironmentName, EnvironmentRoutes>,
    /// TCP ports on the LAN.
    pub ports: Ports,
}

/// The routes of one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentRoutes {
    /// The gateway's address: requests that arrive there come from inside this environment.
    pub gateway: Ipv4Addr,
    /// `{environment}.{device}.internal`, or what `[network] dns_suffix` makes of it. Lower case.
    pub suffix: String,
    /// The apps.
    pub apps: BTreeMap<AppName, Arc<Service>>,
    /// TCP ports on the gateway.
    pub ports: Ports,
}

/// TCP ports and where they lead: to an app, whose backends have the port behind this one.
pub type Ports = BTreeMap<u16, Arc<Service>>;

/// An app as the ingress sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub app: AppName,
    /// Reached from the LAN too.
    pub external: bool,
    /// What is spoken to the replicas.
    pub transport: Transport,
    /// The name held on the LAN, without `.local`, lower case; empty if none.
    pub lan_name: String,
    /// Custom domains, lower case.
    pub domains: Vec<String>,
    /// The traffic: weights that add up to 100, or nothing while no revision has ever been ready.
    pub split: Vec<Share>,
    /// Every active revision's ready replicas.
    pub revisions: BTreeMap<RevisionName, Vec<Backend>>,
    /// Revisions that are at zero, or on their way back from there.
    pub asleep: BTreeMap<RevisionName, Sleep>,
    /// Labels, and the revisions they name.
    pub labels: BTreeMap<String, RevisionName>,
    /// Why there is nobody to serve, where there is nobody.
    pub unready: Reason,
}

/// One revision's share of the traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The revision.
    pub revision: RevisionName,
    /// Per cent.
    pub weight: u32,
}

/// How a revision without a replica is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sleep {
    /// A request wakes it, and waits until it is ready.
    Wakes,
    /// It was woken and does not come, for this reason. It is tried again.
    Fails(Reason),
}

/// Who is to serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picked<'a> {
    /// This replica.
    Ready(&'a Backend),
    /// Whoever comes first of this revision: it is asleep.
    Asleep(&'a RevisionName),
}

/// A replica that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its name, for logs and for counting its open requests.
    pub replica: ReplicaName,
    /// Address and target port.
    pub address: SocketAddrV4,
}

/// What is spoken to the replicas (ACA `ingress.transport`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// What the client speaks.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, as gRPC needs it.
    Http2,
    /// Not HTTP: handled by ports of its own.
    Tcp,
}

/// From where a request comes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// From outside: external apps only.
    Lan,
    /// From inside this environment: all of its apps, and no other's.
    Environment(EnvironmentName),
}

/// What a host name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// The app.
    pub service: &'a Arc<Service>,
    /// Which of its revisions.
    pub aim: Aim<'a>,
}

/// Which revisions of an app a host name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim<'a> {
    /// Whichever the split picks.
    Split,
    /// This one, whatever its weight.
    Revision(&'a RevisionName),
}

/// A number below 100 that decides between revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u32);

impl Ticket {
    /// The ticket of the `n`th request.
    ///
    /// Steps of the golden ratio: of any run of requests each share gets its part to within a request or two, also
    /// when the requests of several apps are numbered together.
    pub fn nth(n: u32) -> Self {
        let turn = u64::from(n.wrapping_mul(0x9E37_79B9));
        Self(u32::try_from((turn * 100) >> 32).unwrap_or(0))
    }

    /// `number`, where it is below 100.
    pub fn new(number: u32) -> Option<Self> {
        (number < 100).then_some(Self(number))
    }
}

impl RouteTable {
    /// The app that `host` (as the request gives it: any case, perhaps with a port) leads to.
    ///
    /// What may not be reached from `side` is not told apart from what does not exist. From the LAN, where two
    /// environments have an app of one name, the short name leads to the first environment in order of names.
    pub fn find(&self, host: &str, side: &Side) -> Result<Found<'_>, Reason> {
        let host = bare(host);
        let found = match side {
            Side::Environment(name) => self.environments.get(name).and_then(|env| env.find(&host)),
            Side::Lan => {
                let external = |found: &Found<'_>| found.service.external;
                self.environments.values().find_map(|env| env.find(&host).filter(external))
            }
        };
        found.ok_or(Reason::UnknownHost)
    }

    /// The app that a TCP port leads to.
    pub fn find_port(&self, port: u16, side: &Side) -> Result<Found<'_>, Reason> {
        let ports = match side {
            Side::Environment(name) => self.environments.get(name).map(|env| &env.ports),
            Side::Lan => Some(&self.ports),
        };
        let service = ports.and_then(|ports| ports.get(&port));
        service.map(Found::split).ok_or(Reason::UnknownPort)
    }
}

impl EnvironmentRoutes {
    fn find(&self, host: &str) -> Option<Found<'_>> {
        let found = match host.split_once('.') {
            None => self.apps.get(host).map(Found::split),
            Some(("", _)) => None,
            Some((name, "local")) => self.app_where(|app| app.lan_name == name),
            Some((label, rest)) => {
                let inside = rest.strip_prefix("internal.").is_some_and(|rest| rest == self.suffix);
                (inside || rest == self.suffix).then(|| self.labelled(label)).flatten()
            }
        };
        let found = found.or_else(|| self.app_where(|app| app.domains.iter().any(|d| d == host)));
        found.filter(|found| found.service.transport != Transport::Tcp)
    }

    /// `<app>`, `<app>--<revision suffix>` or `<app>---<label>`. An app's name holds no two dashes, so the first two
    /// end it.
    fn labelled(&self, label: &str) -> Option<Found<'_>> {
        let Some((app, rest)) = label.split_once("--") else {
            return self.apps.get(label).map(Found::split);
        };
        let service = self.apps.get(app)?;
        let revision = match rest.strip_prefix('-') {
            Some(name) => service.labels.get(name)?,
            None => service.revisions.get_key_value(label)?.0,
        };
        Some(Found { service, aim: Aim::Revision(revision) })
    }

    fn app_where(&self, holds: impl Fn(&Service) -> bool) -> Option<Found<'_>> {
        self.apps.values().find(|app| holds(app)).map(Found::split)
    }
}

impl<'a> Found<'a> {
    fn split(service: &'a Arc<Service>) -> Self {
        Self { service, aim: Aim::Split }
    }

    /// The replica that serves: of the revision that `ticket` falls on, one with the fewest open requests.
    ///
    /// `busy` tells how many a replica has open, or nothing where it is not to be picked. Of equals `turn` decides,
    /// so that a rising number goes round. Revisions with nobody to pick leave their share to the others, but for those
    /// that are asleep: a request that falls on one is to wake it.
    pub fn pick(
        &self,
        ticket: Ticket,
        busy: impl Fn(&Backend) -> Option<usize>,
        turn: usize,
    ) -> Result<Picked<'a>, Reason> {
        let service = self.service;
        match self.aim {
            Aim::Revision(revision) => match service.picked(revision, &busy, turn) {
                Some(picked) => Ok(picked),
                None => Err(service.failure_of(revision)),
            },
            Aim::Split => match service.drawn(ticket, &busy) {
                Some(revision) => service.picked(revision, &busy, turn).ok_or(service.unready),
                None => Err(service.failure()),
            },
        }
    }
}

impl Service {
    /// The revision that a ticket falls on, of those that can serve or be woken.
    fn drawn(
        &self,
        ticket: Ticket,
        busy: &impl Fn(&Backend) -> Option<usize>,
    ) -> Option<&RevisionName> {
        let wakes = |name: &RevisionName| matches!(self.asleep.get(name), Some(Sleep::Wakes));
        let serves = |share: &&Share| {
            let replicas = self.revisions.get(&share.revision);
            let ready = replicas.is_some_and(|all| all.iter().any(|one| busy(one).is_some()));
            0 < share.weight && (ready || wakes(&share.revision))
        };
        let shares = || self.split.iter().filter(serves);
        let whole: u64 = shares().map(|share| u64::from(share.weight)).sum();
        let point = u64::from(ticket.0) * whole / 100;
        let mut passed = 0;
        let share = shares().find(|share| {
            passed += u64::from(share.weight);
            point < passed
        })?;
        Some(&share.revision)
    }

    fn picked<'a>(
        &'a self,
        revision: &'a RevisionName,
        busy: &impl Fn(&Backend) -> Option<usize>,
        turn: usize,
    ) -> Option<Picked<'a>> {
        let ready = self.least_busy(revision, busy, turn).map(Picked::Ready);
        ready.or_else(|| match self.asleep.get(revision)? {
            Sleep::Wakes => Some(Picked::Asleep(revision)),
            Sleep::Fails(_) => None,
        })
    }

    /// Why nobody serves, where a revision with a share was woken in vain.
    fn failure(&self) -> Reason {
        let mut named = self.split.iter().filter(|share| 0 < share.weight);
        let failing = named.find_map(|share| self.failing(&share.revision));
        failing.unwrap_or(self.unready)
    }

    fn failure_of(&self, revision: &RevisionName) -> Reason {
        self.failing(revision).unwrap_or(self.unready)
    }

    fn failing(&self, revision: &RevisionName) -> Option<Reason> {
        match self.asleep.get(revision)? {
            Sleep::Wakes => None,
            Sleep::Fails(reason) => Some(*reason),
        }
    }

    fn least_busy(
        &self,
        revision: &RevisionName,
        busy: &impl Fn(&Backend) -> Option<usize>,
        turn: usize,
    ) -> Option<&Backend> {
        let replicas = self.revisions.get(revision)?;
        let least = replicas.iter().filter_map(busy).min()?;
        // The counts move while we look: whoever had the least a moment ago may have more now.
        let idlest = || replicas.iter().filter(|one| busy(one).is_some_and(|open| open <= least));
        let equals = idlest().count();
        match equals {
            0 => replicas.iter().find(|one| busy(one).is_some()),
            _ => idlest()
                .nth(turn % equals)
                .or_else(|| replicas.iter().find(|one| busy(one).is_some())),
        }
    }
}

/// A host name without port and final dot, in lower case. Borrowed where nothing is to be changed but the ends.
fn bare(host: &str) -> Cow<'_, str> {
    let host = match host.rsplit_once(':') {
        // What ends in `]` before the colon, or holds no other colon, ends in a port.
        Some((name, _)) if name.ends_with(']') || !name.contains(':') => name,
        Some(_) | None => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(host.to_ascii_lowercase());
    }
    Cow::Borrowed(host)
}
