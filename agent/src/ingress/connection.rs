//! One client's connection.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::route::Side;
use hyper::header::HeaderValue;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;
use tokio::time;
use tracing::{debug, debug_span};

use super::fleet::Shared;
use super::proxy;
use crate::tasks::Tasks;

/// The most that the head of a request may take; longer ones are answered 431.
const HEAD_MAX: usize = 64 << 10;
const HEAD_MAX_WIDE: u32 = 64 << 10;

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// What may be on its way to us unread on an HTTP/2 connection, for one stream and for all.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The kernel asks a silent peer whether it is still there after this long …
const SILENCE_SECS: u32 = 60;
/// … and gives up on one that acknowledges nothing for this long.
const DEAF: Duration = Duration::from_mins(5);

/// Where the agent stops, one that was let in and has not asked yet has half a second for it.
const FIRST_LOOKS: u32 = 50;
const FIRST_PACE: Duration = Duration::from_millis(10);

/// What holds for every request of a connection.
pub(super) struct Visit {
    pub(super) shared: Arc<Shared>,
    pub(super) side: Side,
    /// The client's address, as `X-Forwarded-For` has it.
    pub(super) peer: HeaderValue,
    arrived: AtomicBool,
}

impl Visit {
    fn new(shared: Arc<Shared>, stream: &TcpStream, peer: IpAddr) -> Self {
        let side = stream.local_addr().map_or(Side::Lan, |local| side_of(&shared, local));
        let peer = HeaderValue::from_str(&peer.to_canonical().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { shared, side, peer, arrived: AtomicBool::new(false) }
    }

    /// A request has come.
    pub(super) fn arrived(&self) {
        if !self.arrived.load(Ordering::Relaxed) {
            self.arrived.store(true, Ordering::Relaxed);
        }
    }
}

/// The side that a connection to this address of ours comes from.
pub(super) fn side_of(shared: &Shared, local: SocketAddr) -> Side {
    let local = local.ip().to_canonical();
    let fleet = shared.fleet();
    let gateway = fleet.table.environments.iter().find(|(_, routes)| local == routes.gateway);
    gateway.map_or(Side::Lan, |(name, _)| Side::Environment(name.clone()))
}

/// Serves a connection as a task of its own, if there is room for it.
pub(super) fn serve(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let Ok(permit) = Arc::clone(&shared.room).try_acquire_owned() else {
        debug!(peer.addr = %peer, "too many connections");
        return;
    };
    let visit = Arc::new(Visit::new(Arc::clone(shared), &stream, peer.ip()));
    shared.tasks.spawn_short(debug_span!("connection", peer.addr = %peer), async move {
        let _permit = permit;
        tend(&stream);
        run(visit, stream).await;
    });
}

async fn run(visit: Arc<Visit>, stream: TcpStream) {
    let settings = &visit.shared.settings;
    let builder = builder(&visit.shared.tasks, settings.head_timeout);
    let service = service_fn(|request| proxy::answer(Arc::clone(&visit), request));
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let stop = visit.shared.tasks.stop_signal();
    let mut stopped = pin!(stop.cancelled());
    let mut patience = pin!(time::sleep(settings.head_timeout));
    let (mut stopping, mut waiting) = (false, true);
    // Where the agent stops before the first request is here: when to look for it again, and how often still.
    let mut looks = FIRST_LOOKS;
    let mut look = pin!(time::sleep(Duration::ZERO));
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "the connection ended badly");
                }
                return;
            }
            () = stopped.as_mut(), if !stopping => {
                stopping = true;
                look.as_mut().reset(time::Instant::now());
            }
            // hyper breaks off a connection that it has not read from yet. Who was let in a moment ago is about to ask.
            () = look.as_mut(), if stopping && 0 < looks => {
                looks -= 1;
                if looks == 0 || visit.arrived.load(Ordering::Relaxed) {
                    looks = 0;
                    connection.as_mut().graceful_shutdown();
                } else {
                    look.as_mut().reset(time::Instant::now() + FIRST_PACE);
                }
            }
            // hyper's own timeout begins when it knows which HTTP is spoken; this one covers the time before, and an
            // HTTP/2 connection that asks nothing.
            () = patience.as_mut(), if waiting => {
                waiting = false;
                if !visit.arrived.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }
}

fn builder(tasks: &Tasks, head_timeout: Duration) -> auto::Builder<ByTasks> {
    let mut builder = auto::Builder::new(ByTasks(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_MAX_WIDE);
    builder
}

/// Sends at once what is written, and lets the kernel notice a peer that is gone without a word: no timer of ours.
pub(super) fn tend(stream: &TcpStream) {
    let deaf = u32::try_from(DEAF.as_millis()).unwrap_or(u32::MAX);
    let tended = stream
        .set_nodelay(true)
        .and_then(|()| Ok(setsockopt(stream, sockopt::KeepAlive, &true)?))
        .and_then(|()| Ok(setsockopt(stream, sockopt::TcpKeepIdle, &SILENCE_SECS)?))
        .and_then(|()| Ok(setsockopt(stream, sockopt::TcpUserTimeout, &deaf)?));
    if let Err(error) = tended {
        debug!(%error, "a socket would not take its options");
    }
}

/// Runs hyper's tasks as ours, so that shutdown waits for them.
#[derive(Clone)]
pub(super) struct ByTasks(pub(super) Tasks);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for ByTasks {
    fn execute(&self, task: F) {
        self.0.spawn_short(debug_span!("stream"), async move {
            drop(task.await);
        });
    }
}
