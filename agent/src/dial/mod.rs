//! Connections to hosts that a document names: made from within the network of the replica or the environment on whose
//! behalf they are asked, so that its rules hold for them and the loopback is not the board's.
//!
//! A socket belongs to the network that it was made in, whoever uses it. So a thread of its own enters that network,
//! makes two sockets there and ends; the rest is as with any other socket.

mod names;
pub mod tls;

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

use crate::network::Vantage;

/// Every environment has a subnet of this size, with its name server at the first address.
const SUBNET_BITS: u8 = 24;

/// The port of the name server.
const DNS_PORT: u16 = 53;

/// A host of the document's choice, as it is reached from one place.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// From where.
    pub from: Vantage,
    /// A name, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// What is in the way of a connection.
#[derive(Debug)]
pub enum Obstacle {
    /// The network cannot be entered: it is about to go, or the board is out of something.
    Ours(io::Error),
    /// The host has no address, or cannot be reached.
    Theirs(io::Error),
}

impl Elsewhere {
    /// A connection, and to where. Waits as long as the kernel does: a deadline is the caller's.
    pub async fn connect(&self) -> Result<(TcpStream, SocketAddr), Obstacle> {
        let sockets = sockets(self.from.netns.clone()).await.map_err(Obstacle::Ours)?;
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
        let subnet = Ipv4Net::new(self.from.address, SUBNET_BITS)
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
    thread::Builder::new().name("dial".to_owned()).spawn(move || {
        // The attempt may be over by now: then nobody is there to be told.
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
