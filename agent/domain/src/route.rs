//! Routing: which host name leads to which app, revision and replica.
//!
//! The table is made by the planner and read by the ingress; a lookup takes no lock and changes nothing.

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
}

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
