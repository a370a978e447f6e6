//! What the loop needs of the board's network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use domain::model::{EnvironmentName, ReplicaName};
use domain::replica::{Place, Trouble};
use ipnet::Ipv4Net;

/// Ports of gateways that are served at another port of the board, because a program of its own holds them.
///
/// The listeners write it, the rules read it: what arrives at the first port is led to the second.
pub type Redirects = BTreeMap<(EnvironmentName, u16), u16>;

/// The board's network, in the words of the domain.
pub trait Network: Clone + Send + Sync + 'static {
    /// The bridges and namespaces there are.
    fn observe(&self) -> impl Future<Output = Result<ObservedNetwork, NetworkError>> + Send;

    /// Makes the bridges and rules of exactly these environments stand; others' are removed.
    ///
    /// Returns what stands in the way without stopping anything, such as `ForwardBlocked`.
    fn settle(
        &self,
        environments: &BTreeMap<EnvironmentName, Ipv4Net>,
    ) -> impl Future<Output = Result<Vec<Trouble>, NetworkError>> + Send;

    /// The subnets that environments may take: `/24`s of the pool that overlap nothing the board is in, in order.
    fn free_subnets(&self) -> impl Future<Output = Result<Vec<Ipv4Net>, NetworkError>> + Send;

    /// Makes a replica's namespace and its interface, address and routes. Doing it twice is doing it once.
    fn attach(
        &self,
        replica: &ReplicaName,
        place: &Place,
    ) -> impl Future<Output = Result<(), NetworkError>> + Send;

    /// Removes a replica's namespace and interface, if they are there.
    fn detach(
        &self,
        replica: &ReplicaName,
    ) -> impl Future<Output = Result<(), NetworkError>> + Send;

    /// Where the namespace of a replica stands, or will.
    fn netns(&self, replica: &ReplicaName) -> PathBuf;
}

/// Places in the networks of environments from which the agent asks on behalf of their apps. Apart from [`Network`], as
/// the samplers need nothing else of it.
pub trait Lookout: Clone + Send + Sync + 'static {
    /// Makes the environment's place stand. Doing it twice is doing it once.
    fn open(
        &self,
        environment: &EnvironmentName,
    ) -> impl Future<Output = Result<Vantage, NetworkError>> + Send;

    /// Removes it, if it is there.
    fn close(
        &self,
        environment: &EnvironmentName,
    ) -> impl Future<Output = Result<(), NetworkError>> + Send;
}

/// From where something is asked: a network namespace, under the rules of its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vantage {
    /// The path of the namespace.
    pub netns: PathBuf,
    /// Its address; the name server is at the first address of the same subnet.
    pub address: Ipv4Addr,
}

/// What was seen of the board's network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObservedNetwork {
    /// Our bridges, by the environment they were made for (its name is the interface's alias), and their subnets.
    pub environments: BTreeMap<EnvironmentName, Ipv4Net>,
    /// File names under `netns/` that are mounted namespaces: names of replicas.
    pub namespaces: BTreeSet<ReplicaName>,
    /// Addresses of the board itself, for the fqdn on the LAN.
    pub addresses: Vec<Ipv4Addr>,
}

/// How the network fails.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.reason, .0.details)]
pub struct NetworkError(pub Trouble);
