//! One replica as the ingress knows it: its address, its open requests, its idle links.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV4};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{self, Instant};
use tracing::debug_span;

use super::connection::{ByTasks, tend};
use super::demand::Tally;
use super::fleet::Shared;
use super::link::{Link, Upload};

/// Idle links kept for one replica. Of more clients at once each request beyond would make a link and throw it away;
/// each lies here for seconds only.
const IDLE_MAX: usize = 256;

/// Idle links are swept in these steps, and lie for two of them at most: less than the 5 s after which Node.js, the
/// quickest of the common servers, closes them itself.
pub(super) const SWEEP: Duration = Duration::from_secs(2);

/// What may be on its way to us unread, for one stream and for all of them.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// A replica.
pub(super) struct Upstream {
    pub(super) address: SocketAddrV4,
    /// What its revision's replicas were ever asked.
    pub(super) tally: Arc<Tally>,
    open: AtomicUsize,
    /// Out of the table, for ever: one that comes back is another.
    retired: AtomicBool,
    /// Rung when nothing is open any more, once it is retired.
    finished: Notify,
    links: Mutex<Shelf>,
    /// The one HTTP/2 connection; the lock is held while it opens, so that there is one.
    wide: tokio::sync::Mutex<Option<http2::SendRequest<Upload>>>,
    /// The HTTP/2 connection was used since the last sweep.
    wide_used: AtomicBool,
}

#[derive(Default)]
struct Shelf {
    /// Used since the last sweep.
    fresh: Vec<Link>,
    /// Not used since then.
    stale: Vec<Link>,
}

/// One open request of a replica, counted until it is dropped.
pub(super) struct Busy(Arc<Upstream>);

/// How a link is come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// An idle one where there is one.
    Any,
    /// A new one: an idle one has just failed, and its siblings are as old.
    New,
}

/// A request that was not answered.
pub(super) enum Lost {
    /// The replica cannot be reached; nothing was sent.
    Unreachable(Box<Request<Upload>>),
    /// A used link had been closed; the request may be sent again.
    Stale(Box<Request<Upload>>),
    /// It may have been acted upon.
    Broken,
    /// No answer in time.
    Late,
}

/// Where the answer's body comes from.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// What must be driven for the body to come; none for HTTP/2, which drives itself.
    pub(super) link: Option<Link>,
}

impl Upstream {
    pub(super) fn new(address: SocketAddrV4, tally: Arc<Tally>) -> Self {
        Self {
            address,
            tally,
            open: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            finished: Notify::new(),
            links: Mutex::default(),
            wide: tokio::sync::Mutex::default(),
            wide_used: AtomicBool::new(false),
        }
    }

    /// Requests that are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The replica is gone from the table: nothing begins and nothing is kept for it any more.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        let mut links = self.links();
        let idle = (mem::take(&mut links.fresh), mem::take(&mut links.stale));
        drop(links);
        drop(idle);
        if let Ok(mut wide) = self.wide.try_lock() {
            *wide = None;
        }
    }

    /// Comes back when nothing is open. Of one that is retired: of others nobody tells.
    pub(super) async fn finished(&self) {
        // Rings between the count and the wait are heard too.
        let finished = self.finished.notified();
        if self.open() != 0 {
            finished.await;
        }
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// Closes what was not used since the last sweep; tells whether something is left to sweep.
    pub(super) fn sweep(&self) -> bool {
        let mut links = self.links();
        let fresh = mem::take(&mut links.fresh);
        let old = mem::replace(&mut links.stale, fresh);
        let mut left = !links.stale.is_empty();
        drop(links);
        drop(old);
        if let Ok(mut wide) = self.wide.try_lock()
            && wide.is_some()
        {
            if !self.wide_used.swap(false, Ordering::Relaxed) && self.open() == 0 {
                *wide = None;
            }
            left |= wide.is_some();
        }
        left
    }

    /// Sends a request over HTTP/1.1 and waits `until` then for the head of the answer. `again` tells that a request
    /// without a body may be sent twice.
    pub(super) async fn send(
        &self,
        shared: &Shared,
        request: Request<Upload>,
        choice: Choice,
        again: bool,
        until: Instant,
    ) -> Result<Answer, Lost> {
        let idle = if choice == Choice::Any { self.take(again) } else { None };
        let used = idle.is_some();
        let mut link = match idle {
            Some(link) => link,
            None => match self.connect(shared, self.address).await {
                Ok(stream) => Link::open(stream).await.map_err(|_| Lost::Broken)?,
                Err(_) => return Err(Lost::Unreachable(Box::new(request))),
            },
        };
        let streams = !request.body().is_end_stream();
        let spare = (used && again).then(|| copy(&request));
        let sent = link.sender.try_send_request(request);
        let (mut sent, mut patience) = (pin!(sent), pin!(time::sleep_until(until)));
        let answer = poll_fn(|cx| {
            link.drive(cx);
            match sent.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => patience.as_mut().poll(cx).map(|()| None),
            }
        });
        match answer.await {
            Some(Ok(response)) => {
                if streams {
                    // The rest of the request must go on while the client does not read the answer.
                    link.set_free(&shared.tasks);
                }
                Ok(Answer { response, link: Some(link) })
            }
            Some(Err(error)) => Err(lost(error, used, spare)),
            None => Err(Lost::Late),
        }
    }

    /// The same over HTTP/2.
    pub(super) async fn send_wide(
        &self,
        shared: &Shared,
        request: Request<Upload>,
        choice: Choice,
        again: bool,
        until: Instant,
    ) -> Result<Answer, Lost> {
        let Ok((mut sender, used)) = self.widen(shared, choice).await else {
            return Err(Lost::Unreachable(Box::new(request)));
        };
        self.wide_used.store(true, Ordering::Relaxed);
        let spare = (used && again).then(|| copy(&request));
        let sent = sender.try_send_request(request);
        match time::timeout_at(until, sent).await {
            Ok(Ok(response)) => Ok(Answer { response, link: None }),
            Ok(Err(error)) => Err(lost(error, used, spare)),
            Err(_) => Err(Lost::Late),
        }
    }

    /// Keeps a link whose answer has ended for the next request.
    pub(super) fn put_back(&self, link: Link, shared: &Shared) {
        if link.sender.is_closed() {
            return;
        }
        let mut links = self.links();
        if self.is_retired() || IDLE_MAX <= links.fresh.len() + links.stale.len() {
            drop(links);
            drop(link);
            return;
        }
        let first = links.fresh.is_empty() && links.stale.is_empty();
        links.fresh.push(link);
        drop(links);
        if first {
            shared.sweep.notify_one();
        }
    }

    /// An idle link. For a request that is not sent `again`, one that the replica has not closed by now.
    pub(super) fn take(&self, again: bool) -> Option<Link> {
        let mut links = self.links();
        let Shelf { fresh, stale } = &mut *links;
        for side in [fresh, stale] {
            // The one used last is the likeliest to be still open. One that is not ready has not been told yet that
            // its answer has ended.
            while let Some(at) = side.iter().rposition(|link| link.sender.is_ready()) {
                let link = side.swap_remove(at);
                if again || link.is_quiet() {
                    return Some(link);
                }
            }
        }
        None
    }

    /// Opens a connection to the replica, at the port that is asked for.
    pub(super) async fn connect(
        &self,
        shared: &Shared,
        address: SocketAddrV4,
    ) -> io::Result<TcpStream> {
        let opening = TcpStream::connect(SocketAddr::V4(address));
        let stream = time::timeout(shared.settings.connect_timeout, opening).await??;
        tend(&stream);
        Ok(stream)
    }

    async fn widen(
        &self,
        shared: &Shared,
        choice: Choice,
    ) -> io::Result<(http2::SendRequest<Upload>, bool)> {
        let mut wide = self.wide.lock().await;
        if let Some(sender) = &*wide
            && choice == Choice::Any
            && !sender.is_closed()
        {
            return Ok((sender.clone(), true));
        }
        let stream = self.connect(shared, self.address).await?;
        let mut builder = http2::Builder::new(ByTasks(shared.tasks.clone()));
        builder.timer(TokioTimer::new());
        builder.initial_stream_window_size(STREAM_WINDOW);
        builder.initial_connection_window_size(CONNECTION_WINDOW);
        let opening = builder.handshake(TokioIo::new(stream));
        let (sender, driver) = opening.await.map_err(io::Error::other)?;
        shared.tasks.spawn_short(debug_span!("link"), async move {
            drop(driver.await);
        });
        if !self.is_retired() {
            *wide = Some(sender.clone());
            shared.sweep.notify_one();
        }
        Ok((sender, false))
    }

    fn links(&self) -> MutexGuard<'_, Shelf> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Busy {
    /// Counts a request in, unless the replica has left: see `fleet` for the order of the two.
    pub(super) fn reserve(upstream: &Arc<Upstream>) -> Option<Self> {
        upstream.open.fetch_add(1, Ordering::SeqCst);
        let busy = Self(Arc::clone(upstream));
        if upstream.is_retired() {
            return None;
        }
        upstream.tally.count();
        Some(busy)
    }

    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_retired() {
            self.0.finished.notify_waiters();
        }
    }
}

/// What is left of a request that met an error.
fn lost(
    mut error: TrySendError<Request<Upload>>,
    used: bool,
    spare: Option<Request<Upload>>,
) -> Lost {
    match error.take_message() {
        // hyper gives a request back only where it has not begun to send it.
        Some(request) if used => Lost::Stale(Box::new(request)),
        Some(request) => Lost::Unreachable(Box::new(request)),
        None if error.error().is_parse() => Lost::Broken,
        None => spare.map_or(Lost::Broken, |request| Lost::Stale(Box::new(request))),
    }
}

/// The same request once more; only for those without a body.
fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
