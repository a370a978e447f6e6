//! The DNS server of one environment: two sockets, one zone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::model::EnvironmentName;
use domain::zone::Zones;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug};

use super::reply::{Transport, Verdict, decide, failure, truncated};
use super::socket::Sockets;
use super::upstream::{self, Upstreams};
use crate::tasks::Tasks;

/// Questions that wait for a name server at the same time. More are dropped: their clients ask again.
const MAX_FORWARDS: usize = 256;

/// TCP connections at the same time. More are closed at once.
const MAX_CONNECTIONS: usize = 64;

/// Longest query; EDNS options included, real ones are a tenth of it.
const MAX_QUERY: usize = 4096;

/// How long a TCP connection may be silent, and how long a client may take to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a socket failed, so that a lasting failure (no memory, no descriptors) does not take the CPU.
const PAUSE: Duration = Duration::from_millis(500);

/// What the answers of one environment are made of.
#[derive(Debug, Clone)]
pub(super) struct Server {
    environment: EnvironmentName,
    zones: watch::Receiver<Arc<Zones>>,
    upstreams: Arc<Upstreams>,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: Tasks,
}

impl Server {
    pub(super) fn new(
        environment: EnvironmentName,
        zones: watch::Receiver<Arc<Zones>>,
        upstreams: Arc<Upstreams>,
        tasks: Tasks,
    ) -> Self {
        Self {
            environment,
            zones,
            upstreams,
            forwards: Arc::new(Semaphore::new(MAX_FORWARDS)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks,
        }
    }

    /// Serves until `stop`.
    pub(super) async fn run(self, sockets: Sockets, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => (),
            () = self.serve_udp(Arc::new(sockets.udp)) => (),
            () = self.serve_tcp(&sockets.tcp, &stop) => (),
        }
    }

    async fn serve_udp(&self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; MAX_QUERY];
        loop {
            let (length, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    debug!(%error, "receiving failed");
                    time::sleep(PAUSE).await;
                    continue;
                }
            };
            match self.decide(&buffer[..length], Transport::Udp) {
                Verdict::Ignore => (),
                // A reply that cannot be sent now is a lost packet, which its client knows how to live with.
                Verdict::Reply(reply) => drop(socket.try_send_to(&reply, peer)),
                Verdict::Forward(query) => {
                    let Ok(permit) = Arc::clone(&self.forwards).try_acquire_owned() else {
                        continue;
                    };
                    let (this, socket) = (self.clone(), Arc::clone(&socket));
                    let message = buffer[..length].to_vec();
                    self.tasks.spawn_short(Span::current(), async move {
                        let _permit = permit;
                        let answer = this.ask(&message, Transport::Udp).await;
                        let reply = match answer {
                            None => failure(&query, &message),
                            Some(answer) if query.udp_limit() < answer.len() => {
                                truncated(&query, &message)
                            }
                            Some(answer) => answer,
                        };
                        let _ = socket.send_to(&reply, peer).await;
                    });
                }
            }
        }
    }

    async fn serve_tcp(&self, listener: &TcpListener, stop: &CancellationToken) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "accepting failed");
                    time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else { continue };
            let (this, stop) = (self.clone(), stop.clone());
            self.tasks.spawn_short(Span::current(), async move {
                let _permit = permit;
                tokio::select! {
                    () = stop.cancelled() => (),
                    ended = this.converse(stream) => debug!(%peer, ?ended, "connection ended"),
                }
            });
        }
    }

    /// Answers the questions of one connection, one after another, until the client has no more.
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let message =
                time::timeout(PATIENCE, upstream::receive(&mut stream, MAX_QUERY)).await??;
            let reply = match self.decide(&message, Transport::Tcp) {
                Verdict::Ignore => return Ok(()),
                Verdict::Reply(reply) => reply,
                Verdict::Forward(query) => {
                    let Ok(_permit) = self.forwards.try_acquire() else { return Ok(()) };
                    let answer = self.ask(&message, Transport::Tcp).await;
                    answer.unwrap_or_else(|| failure(&query, &message))
                }
            };
            time::timeout(PATIENCE, upstream::send(&mut stream, &reply)).await??;
        }
    }

    fn decide(&self, message: &[u8], transport: Transport) -> Verdict {
        match self.zones.borrow().get(&self.environment) {
            Some(zone) => decide(zone, message, transport),
            None => Verdict::Ignore,
        }
    }

    async fn ask(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let gateways: Vec<Ipv4Addr> =
            self.zones.borrow().values().map(|zone| zone.gateway).collect();
        let servers: Vec<SocketAddr> = self.upstreams.servers(&gateways);
        upstream::ask(&servers, message, transport).await
    }
}
