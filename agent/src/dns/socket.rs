//! The two sockets of a gateway's DNS server.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use tokio::net::{TcpListener, UdpSocket};

use crate::manager::ServiceManager;

/// How often another port is tried, where one that is free for UDP is not for TCP.
const TRIES: usize = 16;

/// A server's sockets, both at the same port.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    /// Where they are: as asked for, or another port where that one is taken.
    pub(super) port: u16,
}

impl Sockets {
    /// Binds to `port` of the gateway, or to a free port if another program has it, usually on all addresses.
    ///
    /// The gateway's address need not be there yet, and may go and come back.
    /// Those that `manager` has kept since the run before are taken as they are, and it keeps those that are new.
    pub(super) fn bind(gateway: Ipv4Addr, port: u16, manager: &ServiceManager) -> io::Result<Self> {
        if let Some(kept) = Self::kept(gateway, manager) {
            return Ok(kept);
        }
        forget(gateway, manager);
        let sockets = Self::bind_new(gateway, port)?;
        let [udp, tcp] = names(gateway);
        manager.keep(&udp, &sockets.udp);
        manager.keep(&tcp, &sockets.tcp);
        Ok(sockets)
    }

    /// Both sockets of the run before, unless one is missing or they are of different ports.
    fn kept(gateway: Ipv4Addr, manager: &ServiceManager) -> Option<Self> {
        let [udp, tcp] = names(gateway).map(|name| manager.take(&name));
        let (udp, tcp) = (std::net::UdpSocket::from(udp?), std::net::TcpListener::from(tcp?));
        udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)).ok()?;
        let (udp, tcp) = (UdpSocket::from_std(udp).ok()?, TcpListener::from_std(tcp).ok()?);
        let port = udp.local_addr().ok()?.port();
        (tcp.local_addr().ok()?.port() == port).then_some(Self { udp, tcp, port })
    }

    fn bind_new(gateway: Ipv4Addr, port: u16) -> io::Result<Self> {
        let mut taken = match Self::at(gateway, port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
            bound => return bound,
        };
        for _ in 0..TRIES {
            match Self::at(gateway, 0) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
                bound => return bound,
            }
        }
        Err(taken)
    }

    fn at(gateway: Ipv4Addr, port: u16) -> io::Result<Self> {
        let udp = bound(SocketAddrV4::new(gateway, port), SockType::Datagram)?;
        let udp = UdpSocket::from_std(udp.into())?;
        let port = udp.local_addr()?.port();
        let tcp = bound(SocketAddrV4::new(gateway, port), SockType::Stream)?;
        listen(&tcp, Backlog::new(64)?)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        Ok(Self { udp, tcp, port })
    }
}

/// Has the manager keep the sockets of a gateway no longer.
pub(super) fn forget(gateway: Ipv4Addr, manager: &ServiceManager) {
    for name in names(gateway) {
        manager.forget(&name);
    }
}

/// What they are kept as.
fn names(gateway: Ipv4Addr) -> [String; 2] {
    ["udp", "tcp"].map(|kind| format!("dns/{kind}@{gateway}"))
}

fn bound(address: SocketAddrV4, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        // Connections of the agent before this one may still be waiting to end.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(socket)
}
