//! Connections to a host that a probe names: made from within the replica's network, so that its rules hold for them
//! and its loopback is the app's.
//!
//! A socket belongs to the network that it was made in, whoever uses it. So a thread of its own enters the replica's
//! network, makes two sockets there and ends; the rest is as with any other socket.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;

use domain::ipam;
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use super::names;

/// Every environment has a subnet of this size, with its name server at the first address.
const SUBNET_BITS: u8 = 24;

/// The port of the name server.
const DNS_PORT: u16 = 53;

/// A host of the document's choice, as one replica reaches it.
#[derive(Debug, Clone)]
pub(super) struct Elsewhere {
    /// The replica's network.
    pub(super) netns: PathBuf,
    /// The replica's address.
    pub(super) replica: Ipv4Addr,
    /// A name, or an address.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
}

/// What is in the way of a connection.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// The replica's network cannot be entered: it is about to go, or the board is out of something.
    Ours(io::Error),
    /// The host has no address, or cannot be reached.
    Theirs(io::Error),
}

impl Elsewhere {
    /// A connection, and to where.
    pub(super) async fn connect(&self) -> Result<(TcpStream, SocketAddr), Obstacle> {
        let sockets = sockets(self.netns.clone()).await.map_err(Obstacle::Ours)?;
        let address = match self.host.parse() {
            Ok(address) => address,
            Err(_) if self.host.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST,
            Err(_) => self.resolve(sockets.udp).await?,
        };
        let address = SocketAddr::from((address, self.port));
        let stream = sockets.tcp.connect(address).await.map_err(Obstacle::Theirs)?;
        Ok((stream, address))
    }

    async fn resolve(&self, socket: std::net::UdpSocket) -> Result<Ipv4Addr, Obstacle> {
        let subnet = Ipv4Net::new(self.replica, SUBNET_BITS)
            .map_err(|error| Obstacle::Ours(io::Error::other(error)))?;
        let socket = UdpSocket::from_std(socket).map_err(Obstacle::Ours)?;
        let server = (IpAddr::from(ipam::gateway(subnet)), DNS_PORT);
        socket.connect(server).await.map_err(Obstacle::Ours)?;
        names::resolve(&socket, &self.host).await.map_err(Obstacle::Theirs)
    }
}

struct Sockets {
    tcp: TcpSocket,
    udp: std::net::UdpSocket,
}

async fn sockets(netns: PathBuf) -> io::Result<Sockets> {
    let (done, made) = oneshot::channel();
    // What a thread enters it never leaves, so it is none of the runtime's.
    thread::Builder::new().name("probe".to_owned()).spawn(move || {
        // The try may be over by now: then nobody is there to be told.
        let _ = done.send(make(&netns));
    })?;
    made.await.map_err(|_| io::Error::other("the thread panicked"))?
}

/// The network is found in the mounts of process 1, where it was mounted: the agent's own may be others.
fn make(netns: &Path) -> io::Result<Sockets> {
    let of_init = Path::new("/proc/1/root").join(netns.strip_prefix("/").unwrap_or(netns));
    let file = File::open(of_init).or_else(|_| File::open(netns))?;
    setns(file, CloneFlags::CLONE_NEWNET)?;
    let udp = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    udp.set_nonblocking(true)?;
    Ok(Sockets { tcp: TcpSocket::new_v4()?, udp })
}
